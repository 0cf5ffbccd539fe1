//! `cargo xtask workloads [NAME…]`: Debian's own, unmodified servers in the guest, loaded from this machine by their usual
//! clients. Every answer is checked: by the client where it does, else by a client of ours beside it.

mod cuts;
mod embedded;
mod etcd;
pub(crate) mod fio;
pub(crate) mod guest;
mod http;
mod java;
pub(crate) mod link;
pub(crate) mod mariadb;
pub(crate) mod memcached;
mod package;
pub(crate) mod redis;
mod soak;

use crate::machine;
use anyhow::{Result, bail, ensure};

/// One line of the table.
pub(crate) struct Row {
    what: String,
    value: String,
}

impl Row {
    fn new(what: impl Into<String>, value: impl Into<String>) -> Self {
        Row { what: what.into(), value: value.into() }
    }
}

/// Options of a run.
pub(crate) struct Options {
    /// Times that the power is cut.
    cuts: u32,
    /// Seed of the moments at which that happens.
    seed: u64,
    /// Operations per measurement, in thousands.
    thousands: u64,
    /// How long a soak lasts.
    minutes: u64,
}

/// A workload, the Debian packages it needs here, and a program by which they are known to be installed.
struct Workload {
    name: &'static str,
    packages: &'static [(&'static str, &'static str)],
    run: fn(&Options) -> Result<Vec<Row>>,
}

/// What the server and its load need of Debian: programs and their packages.
pub(crate) const REDIS: &[(&str, &str)] =
    &[("redis-server", "redis-server"), ("redis-benchmark", "redis-tools")];

/// The same.
pub(crate) const MARIADB: &[(&str, &str)] =
    &[("mariadbd", "mariadb-server-core"), ("mariadb", "mariadb-client"), ("sysbench", "sysbench")];

/// The same.
const ETCD: &[(&str, &str)] = &[("etcd", "etcd-server"), ("etcdctl", "etcd-client")];

const WORKLOADS: &[Workload] = &[
    Workload { name: "fio", packages: &[("fio", "fio")], run: fio::run },
    Workload { name: "redis", packages: REDIS, run: redis::run },
    Workload { name: "redis-powercut", packages: REDIS, run: redis::power_cuts },
    Workload { name: "mariadb", packages: MARIADB, run: mariadb::run },
    Workload { name: "mariadb-powercut", packages: MARIADB, run: mariadb::power_cuts },
    Workload { name: "soak", packages: soak::PACKAGES, run: soak::run },
    Workload { name: "etcd", packages: ETCD, run: etcd::run },
    Workload { name: "etcd-powercut", packages: ETCD, run: etcd::power_cuts },
    Workload {
        name: "lmdb",
        packages: &[("cc", "gcc"), ("/usr/include/lmdb.h", "liblmdb-dev")],
        run: embedded::lmdb,
    },
    Workload {
        name: "leveldb",
        packages: &[("cc", "gcc"), ("/usr/include/leveldb/c.h", "libleveldb-dev")],
        run: embedded::leveldb,
    },
    Workload { name: "rocksdb", packages: &[("db_bench", "rocksdb-tools")], run: embedded::rocksdb },
    Workload {
        name: "java",
        packages: &[("javac", "default-jdk-headless"), (java::H2, "libh2-java")],
        run: java::run_java,
    },
    Workload {
        name: "java-http",
        packages: &[
            ("javac", "default-jdk-headless"),
            (java::H2, "libh2-java"),
            ("curl", "curl"),
            ("wrk", "wrk"),
        ],
        run: http::java,
    },
    Workload {
        name: "ruby",
        packages: &[(http::RUBY, "ruby"), (http::WEBRICK, "ruby-webrick"), ("curl", "curl"), ("wrk", "wrk")],
        run: http::ruby,
    },
    Workload { name: "memcached", packages: &[("memcached", "memcached")], run: memcached::run },
    Workload {
        name: "nginx",
        packages: &[("nginx", "nginx-light"), ("curl", "curl"), ("wrk", "wrk")],
        run: http::nginx,
    },
    Workload { name: "rust-http", packages: &[("curl", "curl"), ("wrk", "wrk")], run: http::rust },
    Workload {
        name: "go-http",
        packages: &[("go", "golang-go"), ("curl", "curl"), ("wrk", "wrk")],
        run: http::go,
    },
    Workload { name: "python", packages: &[(http::PYTHON, "python3"), ("curl", "curl")], run: http::python },
];

/// The verb.
pub(crate) fn run_workloads(args: &[String]) -> Result<()> {
    let seed = std::time::UNIX_EPOCH.elapsed()?.as_nanos() as u64;
    let mut options = Options { cuts: 10, seed, thousands: 100, minutes: 1 };
    let mut names = Vec::new();
    let mut words = args.iter();
    while let Some(word) = words.next() {
        let mut number = || -> Result<u64> {
            match words.next().map(|n| n.parse()) {
                Some(Ok(n)) => Ok(n),
                _ => bail!("{word} needs a number"),
            }
        };
        match word.as_str() {
            "--cuts" => options.cuts = number()? as u32,
            "--seed" => options.seed = number()?,
            "--minutes" => options.minutes = number()?,
            "--thousands" => options.thousands = number()?.max(1),
            name if WORKLOADS.iter().any(|w| w.name == name) => names.push(name),
            other => {
                let names: Vec<_> = WORKLOADS.iter().map(|w| w.name).collect();
                bail!("no workload is called {other}: {}", names.join(", "))
            }
        }
    }
    let chosen: Vec<&Workload> =
        WORKLOADS.iter().filter(|w| names.is_empty() || names.contains(&w.name)).collect();
    let tarn = guest::build()?;
    for workload in &chosen {
        machine::install_for(workload.packages)?;
    }
    if let Some(status) = link::enter(&[("TARN_BIN", &tarn)])? {
        ensure!(status.success(), "workloads failed");
        return Ok(());
    }
    println!("seed {}", options.seed);
    let mut failed = Vec::new();
    let mut table = Vec::new();
    for workload in chosen {
        println!("== {}", workload.name);
        guest::use_tarn(&tarn);
        match (workload.run)(&options) {
            Ok(rows) => table.extend(rows.into_iter().map(|row| (workload.name, row))),
            Err(e) => {
                println!("{}: {e:#}", workload.name);
                failed.push(workload.name);
            }
        }
    }
    println!();
    for (name, row) in &table {
        println!("{name:16} {:44} {:>20}", row.what, row.value);
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}
