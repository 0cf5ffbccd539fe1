import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;

/** H2 in the program's own process: rows merged by one statement each, and what a query then says. */
public class Records {
    static long ask(Connection connection, String sql) throws Exception {
        try (ResultSet result = connection.createStatement().executeQuery(sql)) {
            result.next();
            return result.getLong(1);
        }
    }

    public static void main(String[] args) throws Exception {
        try (Connection connection = DriverManager.getConnection("jdbc:h2:" + args[0], "sa", "")) {
            connection.createStatement().execute("create table if not exists t(n int primary key, v varchar)");
            long before = ask(connection, "select count(*) from t");
            var merge = connection.prepareStatement("merge into t values (?, ?)");
            for (int n = 0; n < 2000; n++) {
                merge.setInt(1, n);
                merge.setString(2, "value " + n);
                merge.executeUpdate();
            }
            long after = ask(connection, "select count(*) from t where v = 'value ' || n");
            System.out.println("before " + before + ", after " + after + ", sum " + ask(connection, "select sum(n) from t"));
        }
    }
}
