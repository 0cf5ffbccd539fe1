import java.util.ArrayList;

/** What every Java program needs of its machine: threads, the collector, faults that become exceptions. */
public class Hello {
    static int length(String text) {
        return text.length();
    }

    public static void main(String[] args) throws Exception {
        System.out.println("hello: " + System.getProperty("java.version"));
        // Compiled code finds out by a fault at an address near 0 that it was given null.
        int caught = 0;
        for (int i = 0; i < 50_000; i++) {
            try {
                length(i % 100 == 99 ? null : "text");
            } catch (NullPointerException e) {
                caught++;
            }
        }
        if (caught != 500) {
            throw new IllegalStateException(caught + " exceptions");
        }
        long[] sums = new long[3];
        var threads = new ArrayList<Thread>();
        for (int t = 0; t < sums.length; t++) {
            int mine = t;
            threads.add(new Thread(() -> {
                // Much more garbage than there is memory.
                for (int i = 0; i < 1_000_000; i++) {
                    sums[mine] += new byte[500 + i % 2].length > 0 ? 1 : 0;
                }
            }));
        }
        for (Thread thread : threads) {
            thread.start();
        }
        for (Thread thread : threads) {
            thread.join();
        }
        System.out.println("collected " + (sums[0] + sums[1] + sums[2]));
    }
}
