//! mariadbd with InnoDB at its defaults (io_uring, O_DIRECT): prepared in the guest, loaded by sysbench, checked by the
//! `mariadb` client, and cut off while it promises durability.

use super::cuts;
use super::guest::{Guest, Image, Numbers, probe};
use super::link::Link;
use super::{Options, Row};
use crate::machine::output;
use anyhow::{Context, Result, ensure};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

/// Where it listens.
pub(crate) const PORT: u16 = 3306;
const MEMORY: &str = "1G";
/// Where Debian keeps messages, character sets and the tables that every server has.
const SHARE: &str = "/usr/share/mysql";
/// The server with its data in `/data`.
pub(crate) const SERVER: &[&str] = &[
    "/usr/sbin/mariadbd",
    "--no-defaults",
    "--datadir=/data",
    "--user=root",
    "--skip-name-resolve",
    "--bind-address=0.0.0.0",
    "--socket=/run/mysqld.sock",
];

/// Fills an empty data directory by the statements on its standard input.
const BOOTSTRAP: &[&str] = &[
    "/usr/sbin/mariadbd",
    "--no-defaults",
    "--bootstrap",
    "--user=root",
    "--log-warnings=0",
    "--enforce-storage-engine=",
    "--max-allowed-packet=8M",
    "--net-buffer-length=16K",
];
/// Those statements, a file in the root folder.
const STATEMENTS: &str = "bootstrap.sql";

/// Adds to an image's root what the server reads beside its data, and what [`BOOTSTRAP`] does.
pub(crate) fn prepare(root: &Path) -> Result<()> {
    let share = Path::new(SHARE);
    for part in ["english", "charsets"] {
        let to = root.join(&SHARE[1..]).join(part);
        std::fs::create_dir_all(&to)?;
        for entry in std::fs::read_dir(share.join(part))? {
            let entry = entry?;
            std::fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    let mut sql = "create database mysql;\nuse mysql;\nset @auth_root_socket=null;\n".to_owned();
    for file in ["mysql_system_tables.sql", "mysql_performance_tables.sql", "mysql_system_tables_data.sql"] {
        sql += &std::fs::read_to_string(share.join(file)).with_context(|| file.to_owned())?;
    }
    sql +=
        "flush privileges;\ncreate user tarn@'%';\ngrant all on *.* to tarn@'%';\ncreate database sbtest;\n";
    Ok(std::fs::write(root.join(STATEMENTS), sql)?)
}

/// An image whose data directory `mariadbd --bootstrap` has filled in the guest.
pub(super) fn image(name: &str) -> Result<Image> {
    let image = Image::new(name, &["mariadbd", "/usr/bin/sh"], prepare)?;
    let command = format!("exec {} --datadir=/data < /{STATEMENTS}", BOOTSTRAP.join(" "));
    image.boot(MEMORY, 2, PORT, &["/usr/bin/sh", "-c", &command])?.end_within(Duration::from_secs(600))?;
    image.zdb()?;
    Ok(image)
}

/// Fills `data` with what a new server has and the tables of sysbench: by a server on this machine. `root` is [`prepare`]d.
pub(crate) fn fill(root: &Path, data: &Path) -> Result<()> {
    std::fs::create_dir_all(data)?;
    let datadir = format!("--datadir={}", data.display());
    let statements = std::fs::File::open(root.join(STATEMENTS))?;
    output(Command::new(BOOTSTRAP[0]).args(&BOOTSTRAP[1..]).arg(&datadir).stdin(statements))?;
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let log = data.with_extension("log");
    let mut server = Command::new(BOOTSTRAP[0]);
    server.args(["--no-defaults", "--user=root", "--skip-name-resolve", "--bind-address=127.0.0.1"]);
    server.args([
        datadir,
        format!("--port={}", address.port()),
        format!("--socket={}", data.with_extension("sock").display()),
    ]);
    let mut server = Guest::start(&mut server, address, log)?;
    server.wait_for(|address| sql(address, "select 6*7").ok())?;
    sysbench(address, "oltp_read_write", 2, "prepare")?;
    shut_down(server)
}

/// Whether it answers: it greets its clients.
pub(crate) fn answers(address: SocketAddr) -> Option<()> {
    let mut greeting = [0; 5];
    std::io::Read::read_exact(&mut probe(address).ok()?, &mut greeting).ok()
}

fn client(address: SocketAddr) -> Command {
    let mut client = Command::new("mariadb");
    client.args(["--no-defaults", "-u", "tarn", "--connect-timeout=5", "--batch", "--skip-column-names"]);
    client.args(["-h", &address.ip().to_string(), "-P", &address.port().to_string()]);
    client
}

/// What the server answers to `statements`, a line for each row.
pub(super) fn sql(address: SocketAddr, statements: &str) -> Result<String> {
    output(client(address).args(["-e", statements]))
}

fn boot(image: &Image) -> Result<(Guest, Duration)> {
    boot_with(image, &[])
}

/// Boots it with further options of `tarn run`, until it answers; how long that took.
pub(super) fn boot_with(image: &Image, options: &[&str]) -> Result<(Guest, Duration)> {
    let mut guest = image.boot_with(&[&["--memory", MEMORY], options].concat(), PORT, SERVER)?;
    let (_, took) =
        guest.wait_for(|address| (sql(address, "select 6*7").ok()?.trim() == "42").then_some(()))?;
    Ok((guest, took))
}

fn shut_down(guest: Guest) -> Result<()> {
    sql(guest.address, "shutdown")?;
    let said = guest.end_within(Duration::from_secs(120))?;
    ensure!(said.contains("Shutdown complete"), "the server did not end in order:\n{said}");
    Ok(())
}

/// `CHECK TABLE` of every table in `database` says that it is whole.
fn check_tables(address: SocketAddr, database: &str) -> Result<()> {
    let tables = sql(address, &format!("show tables in {database}"))?;
    for table in tables.lines() {
        let said = sql(address, &format!("check table {database}.{table} extended"))?;
        let last = said.lines().last().unwrap_or_default();
        ensure!(last.split('\t').collect::<Vec<_>>()[1..] == ["check", "status", "OK"], "{said}");
    }
    ensure!(!tables.is_empty(), "there are no tables in {database}");
    Ok(())
}

/// Rows of many lengths, and what a query of all of them must answer.
fn rows(seed: u64, count: u64) -> (String, String) {
    let mut numbers = Numbers(seed);
    let (mut insert, mut answer) = (String::from("insert into sbtest.checked values "), String::new());
    for n in 0..count {
        let len = (numbers.next() % 3000) as usize >> (numbers.next() % 8);
        let text: String = (0..len).map(|_| char::from(b'a' + (numbers.next() % 26) as u8)).collect();
        let comma = if n == 0 { "" } else { "," };
        let _ = write!(insert, "{comma}({n},'{text}')");
        let _ = writeln!(answer, "{n}\t{text}");
    }
    (insert, answer)
}

fn sysbench(address: SocketAddr, test: &str, threads: u32, verb: &str) -> Result<String> {
    let mut sysbench = Command::new("sysbench");
    sysbench.args([test, "--mysql-user=tarn", "--tables=2", "--table-size=5000"]);
    sysbench.arg(format!("--mysql-host={}", address.ip())).arg(format!("--mysql-port={}", address.port()));
    output(sysbench.args(["--time=10", &format!("--threads={threads}"), verb]))
}

/// The transactions per second that sysbench measures. It fails by itself when an answer is an error.
pub(crate) fn rate(address: SocketAddr, test: &str, threads: u32) -> Result<f64> {
    let text = sysbench(address, test, threads, "run")?;
    let rate = text.lines().find_map(|line| line.trim().strip_prefix("transactions:"));
    let rate = rate.and_then(|line| line.split(['(', ' ']).rev().find_map(|word| word.parse().ok()));
    rate.with_context(|| format!("sysbench said:\n{text}"))
}

fn measure(guest: &Guest, test: &str, threads: u32) -> Result<Row> {
    let rate = rate(guest.address, test, threads)?;
    println!("{test}, {threads} connections: {rate:.0}/s");
    Ok(Row::new(format!("sysbench {test}, {threads} connections"), format!("{rate:.0}/s")))
}

/// Bootstrap in the guest, contents checked, sysbench, a clean end, the same contents after a reboot.
pub(super) fn run(options: &Options) -> Result<Vec<Row>> {
    let image = image("mariadb")?;
    let (guest, took) = boot(&image)?;
    let mut table = vec![Row::new("first answer", format!("{} ms", took.as_millis()))];
    ensure!(guest.console().contains("Using io_uring"), "InnoDB does not use io_uring:\n{}", guest.console());
    let method = sql(guest.address, "select @@innodb_flush_method, @@innodb_use_native_aio")?;
    ensure!(method.trim() == "O_DIRECT\t1", "InnoDB writes by {method}");
    let (insert, answer) = rows(options.seed, 300);
    let all = "select * from sbtest.checked order by n";
    sql(guest.address, "create table sbtest.checked (n int primary key, v text)")?;
    sql(guest.address, &insert)?;
    ensure!(sql(guest.address, all)? == answer, "other rows than were inserted (seed {})", options.seed);
    sysbench(guest.address, "oltp_read_write", 2, "prepare")?;
    for &threads in Link::get().connections().iter().take(2) {
        table.push(measure(&guest, "oltp_point_select", threads)?);
        table.push(measure(&guest, "oltp_read_write", threads)?);
    }
    check_tables(guest.address, "sbtest")?;
    let sums = "checksum table sbtest.sbtest1, sbtest.sbtest2, sbtest.checked";
    let sum = sql(guest.address, sums)?;
    shut_down(guest)?;
    image.zdb()?;
    let (guest, _) = boot(&image)?;
    ensure!(sql(guest.address, all)? == answer, "other rows after a reboot (seed {})", options.seed);
    ensure!(sql(guest.address, sums)? == sum, "other checksums after a reboot");
    check_tables(guest.address, "sbtest")?;
    shut_down(guest)?;
    image.zdb()?;
    Ok(table)
}

/// A client that is given statements one after another.
pub(super) struct Session {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Session {
    /// Connects.
    pub(super) fn new(address: SocketAddr) -> Result<Self> {
        let mut client = client(address);
        client.args(["--unbuffered", "--quick", "sbtest"]);
        client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = client.spawn().context("mariadb")?;
        let input = child.stdin.take().context("the client's input")?;
        let output = BufReader::new(child.stdout.take().context("the client's output")?);
        Ok(Session { child, input, output })
    }

    /// Whether all of `statements` succeeded, of which the last one answers with the row `wanted`. The client ends at the first
    /// error.
    pub(super) fn done(&mut self, statements: &str, wanted: &str) -> bool {
        let mut line = String::new();
        writeln!(self.input, "{statements}").is_ok()
            && self.output.read_line(&mut line).is_ok()
            && line.trim_end() == wanted
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Transactions of one row in each of two tables, each after the answer to the one before, until the connection breaks.
fn write_until_cut(address: SocketAddr, worker: u64, from: u64, promised: &dyn Fn(u64)) -> Result<()> {
    let mut session = Session::new(address)?;
    for n in from.. {
        let transaction = format!(
            "begin; insert into one values ({worker},{n},'value-{worker}-{n}'); \
             insert into two values ({worker},{n},repeat('{n},',200)); commit; select {n};"
        );
        if !session.done(&transaction, &n.to_string()) {
            break;
        }
        promised(n + 1);
    }
    Ok(())
}

/// How many transactions of `worker` are there; every one must be whole, and none may be missing between others.
fn surviving(address: SocketAddr, worker: u64) -> Result<u64> {
    let said = sql(
        address,
        &format!(
            "select count(*), coalesce(max(n)+1,0), coalesce(sum(one.v=concat('value-{worker}-',n)),0), \
             coalesce(sum(two.v=repeat(concat(n,','),200)),0) from sbtest.one left join sbtest.two using (w,n) where w={worker}; \
             select count(*) from sbtest.two where w={worker}"
        ),
    )?;
    let numbers: Vec<u64> = said.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    ensure!(
        numbers.len() == 5 && numbers.iter().all(|n| *n == numbers[0]),
        "worker {worker}'s rows:\n{said}"
    );
    Ok(numbers[0])
}

/// The power is cut while four clients commit with `innodb_flush_log_at_trx_commit=1`: every acknowledged transaction is
/// there afterwards, none by half, and the tables are whole.
pub(super) fn power_cuts(options: &Options) -> Result<Vec<Row>> {
    cuts::Server {
        image: &image("mariadb-powercut")?,
        promises: "transactions",
        moment: (Duration::from_millis(500), Duration::from_secs(3)),
        boot: &|image| Ok(boot(image)?.0),
        prepare: &|guest| {
            let flush = sql(guest.address, "select @@innodb_flush_log_at_trx_commit")?;
            ensure!(flush.trim() == "1", "InnoDB flushes by {flush}");
            let table = "(w int, n int, v text, primary key (w,n)) engine=innodb";
            let create = format!("use sbtest; create table one {table}; create table two {table}");
            sql(guest.address, &create).map(drop)
        },
        write: &write_until_cut,
        surviving: &|guest, worker, _| surviving(guest.address, worker),
        check: &|guest| check_tables(guest.address, "sbtest"),
        end: &shut_down,
    }
    .cut(options)
}
