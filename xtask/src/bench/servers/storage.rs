//! Loads that come from inside the guest: SQLite's commits, fio's reads and writes.

use super::super::figures::{Comparison, Side};
use super::{MEMORY, Servers, image};
use crate::machine::run;
use crate::workloads::fio::{DEPTHS, PROGRAM, figures as fio_figures};
use anyhow::{Context, Result, ensure};
use std::fmt::Write;
use std::process::Command;

const COMMITS: u32 = 1000;
const JOURNALS: [&str; 2] = ["delete", "wal"];
/// Bytes of each file that fio reads, each block once, before it writes to it.
const FILE: u64 = 32 << 20;
/// fio's processes, as threads.
const JOBS: u64 = 4;
/// Bytes that each of them writes where each write waits for the disk.
const DURABLE: u64 = 2 << 20;
/// Where the raw device is in Linux.
const DEVICE: &str = "/dev/vdb";

/// SQL of both journals: files of `/etc`, and what is in them. Each row is a transaction.
pub(super) fn statements() -> impl Iterator<Item = (String, String)> {
    JOURNALS.into_iter().map(|journal| {
        let mut text = format!("PRAGMA journal_mode={journal};\nPRAGMA synchronous=FULL;\nCREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT);\n");
        const NOW: &str = "SELECT 'moment', CAST((julianday('now')-2440587.5)*86400000.0 AS INTEGER);\n";
        text.push_str(NOW);
        for n in 0..COMMITS {
            let _ = writeln!(text, "INSERT INTO t VALUES({n},'row {n} of a table with rows of usual length');");
        }
        text.push_str(NOW);
        text.push_str("SELECT 'rows', count(*) FROM t;\n");
        (format!("{journal}.sql"), text)
    })
}

/// Commits one after another, each durable before the next.
pub(super) fn sqlite(servers: &Servers, side: Side, figures: &mut Comparison) -> Result<()> {
    for journal in JOURNALS {
        let copy = servers.copy(image::FIO_RECORD)?;
        let read = format!(".read /etc/{journal}.sql");
        let command = ["/usr/bin/sqlite3", &format!("/data/{journal}.db"), &read];
        let said = servers.machine(side, &copy, MEMORY, &command).run()?;
        ensure!(said.contains(&format!("rows|{COMMITS}")), "sqlite3 said:\n{said}");
        let moments: Vec<f64> =
            said.lines().filter_map(|line| line.trim().strip_prefix("moment|")?.parse().ok()).collect();
        let [begin, end] = moments[..] else { anyhow::bail!("sqlite3 said:\n{said}") };
        let name = format!("sqlite: commits, synchronous=FULL, journal_mode={journal}");
        figures.note(side, &name, f64::from(COMMITS) * 1000.0 / (end - begin).max(1.0), "1/s");
    }
    Ok(())
}

/// A job of fio: what it does, and how fio is told of it.
struct Job {
    name: String,
    /// The table's words for it.
    what: String,
    /// The file that it uses.
    file: String,
    options: String,
}

/// The jobs in their order: each file is read, block for block from the disk, before it is written.
fn all_jobs() -> Vec<Job> {
    let mut jobs = Vec::new();
    let mut add = |name: String, what: String, file: &str, options: String| {
        jobs.push(Job { name, what, file: file.to_owned(), options });
    };
    let one = "ioengine=psync\n".to_owned();
    add(
        "read-1".into(),
        "fio: random reads, 8 KiB, psync, 1 thread".into(),
        "psync",
        format!("{one}rw=randread\n"),
    );
    add(
        "write-1".into(),
        "fio: random writes, 8 KiB, psync, 1 thread".into(),
        "psync",
        format!("{one}rw=randwrite\n"),
    );
    add(
        "durable-1".into(),
        "fio: random O_SYNC writes, 8 KiB, psync, 1 thread".into(),
        "psync",
        format!("{one}rw=randwrite\nsync=1\nio_size={DURABLE}\n"),
    );
    for depth in DEPTHS {
        let file = format!("depth-{depth}");
        let many = format!(
            "ioengine=io_uring\nbs=4k\niodepth={depth}\nnumjobs={JOBS}\ngroup_reporting\nsize={size}\noffset_increment={size}\n",
            size = FILE / JOBS
        );
        let what = format!("4 KiB, io_uring, {JOBS} threads, depth {depth}");
        add(
            format!("read-{JOBS}x{depth}"),
            format!("fio: random reads, {what}"),
            &file,
            format!("{many}rw=randread\n"),
        );
        add(
            format!("durable-{JOBS}x{depth}"),
            format!("fio: random O_SYNC writes, {what}"),
            &file,
            format!("{many}rw=randwrite\nsync=1\nio_size={DURABLE}\n"),
        );
    }
    jobs
}

/// The files that fio uses, and their sizes in bytes.
pub(super) fn files() -> Vec<(String, u64)> {
    let mut files: Vec<String> = all_jobs().into_iter().map(|job| job.file).collect();
    files.dedup();
    files.into_iter().map(|file| (file, FILE)).collect()
}

/// fio's own files in `/etc`: one for the file system, one for the raw device.
pub(super) fn jobs() -> [(&'static str, String); 2] {
    let global = "[global]\nthread\nbs=8k\nstonewall\ninvalidate=0\nrandseed=1\n";
    let write = |place: &dyn Fn(&Job) -> String| {
        let mut text = global.to_owned();
        for job in all_jobs() {
            let size = if job.options.contains("\nsize=") { String::new() } else { format!("size={FILE}\n") };
            let _ = write!(text, "[{}]\n{}{size}{}", job.name, place(&job), job.options);
        }
        text
    };
    [
        ("files.fio", write(&|job| format!("filename=/data/fio/{}\n", job.file))),
        ("raw.fio", write(&|_| format!("filename={DEVICE}\ndirect=1\n"))),
    ]
}

fn command(file: &str) -> [&str; 4] {
    [PROGRAM, "--output-format=terse", "--terse-version=3", file]
}

fn note(said: &str, side: Side, after: &str, figures: &mut Comparison) -> Result<()> {
    let found = fio_figures(said)?;
    for Job { name, what, .. } in all_jobs() {
        let (reads, writes) = found.get(&name).with_context(|| format!("{name} is missing:\n{said}"))?;
        let rate = if name.starts_with("read") { reads } else { writes };
        figures.note(side, &format!("{what}{after}"), *rate, "1/s");
    }
    Ok(())
}

/// fio on files of 8 KiB records.
pub(super) fn fio(servers: &Servers, side: Side, figures: &mut Comparison) -> Result<()> {
    let copy = servers.copy(image::FIO_RECORD)?;
    let said = servers.machine(side, &copy, MEMORY, &command("/etc/files.fio")).run()?;
    note(&said, side, "", figures)
}

/// The same on a device of Linux.
pub(super) fn raw(servers: &Servers, figures: &mut Comparison) -> Result<()> {
    let disk = servers.bench.folder.join("raw.img");
    run(Command::new("dd")
        .args(["if=/dev/urandom", "bs=1M", "count=32", "status=none"])
        .arg(format!("of={}", disk.display())))?;
    let copy = servers.copy(image::FIO_RECORD)?;
    let machine = servers.machine(Side::Linux, &copy, MEMORY, &command("/etc/raw.fio")).disk(&disk);
    note(&machine.run()?, Side::Linux, ", raw device", figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_depth_has_a_file_that_is_read_before_it_is_written() {
        assert_eq!(files().len(), 1 + DEPTHS.len());
        assert_eq!(
            files().iter().map(|(name, _)| name).collect::<std::collections::BTreeSet<_>>().len(),
            files().len()
        );
        let [(_, text), (_, raw)] = jobs();
        assert_eq!(text.matches("ioengine=").count(), 3 + 2 * DEPTHS.len());
        assert!(text.find("[read-4x16]") < text.find("[durable-4x16]"), "{text}");
        assert!(raw.contains("direct=1") && !text.contains("direct=1"));
    }

    #[test]
    fn every_row_is_a_transaction_between_two_moments() {
        for (name, text) in statements() {
            assert_eq!(text.matches("INSERT").count() as u32, COMMITS, "{name}");
            assert_eq!(text.matches("'moment'").count(), 2);
        }
    }
}
