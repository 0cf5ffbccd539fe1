//! Debian's `fio` with all its ways to do I/O, each of which reads back and checks what it wrote: `psync`, `mmap`, `libaio` and `io_uring`,
//! these two with several requests at once.

use super::guest::Image;
use super::{Options, Row};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

/// Debian's.
pub(crate) const PROGRAM: &str = "/usr/bin/fio";
/// Nobody listens there.
const PORT: u16 = 9;
/// It has some sixty jobs' worth of work: most of a minute on two cores without virtualisation.
const PATIENCE: Duration = Duration::from_secs(600);
/// How many requests at a time.
pub(crate) const DEPTHS: [u32; 3] = [1, 4, 16];
/// Fields of the terse format, version 3, from 0: the job's name, its error, IOPS of reads and of writes.
const NAME: usize = 2;
const ERROR: usize = 4;
const READS: usize = 7;
const WRITES: usize = 48;

/// The engines, and whether they take several requests at once.
const ENGINES: [(&str, bool); 4] = [("psync", false), ("mmap", false), ("libaio", true), ("io_uring", true)];

/// The jobs: their names, and how fio is told of them.
fn jobs() -> (Vec<String>, String) {
    let mut names = Vec::new();
    let mut text = String::from(
        "[global]\ndirectory=/data\nthread\nbs=8k\nrw=randwrite\nverify=crc32c\nverify_fatal=1\nstonewall\n",
    );
    for (engine, many) in ENGINES {
        for depth in DEPTHS.into_iter().filter(|depth| many || *depth == 1) {
            for (kind, options) in [("buffered", "size=16M"), ("O_SYNC", "size=2M\nsync=1")] {
                // O_SYNC says nothing of what is written through a mapping.
                if engine == "mmap" && kind == "O_SYNC" {
                    continue;
                }
                let name = format!("{engine}-{depth}-{kind}");
                let _ = write!(text, "[{name}]\nioengine={engine}\niodepth={depth}\n{options}\n");
                names.push(name);
            }
        }
    }
    (names, text)
}

/// Reads and writes per second of each job.
pub(crate) fn figures(console: &str) -> Result<BTreeMap<String, (f64, f64)>> {
    let mut found = BTreeMap::new();
    for line in console.lines() {
        let fields: Vec<&str> = line.trim().split(';').collect();
        if fields.len() <= WRITES {
            continue;
        }
        ensure!(fields[ERROR] == "0", "{} failed with error {}", fields[NAME], fields[ERROR]);
        let number = |at: usize| fields[at].parse().with_context(|| format!("fio's line: {line}"));
        found.insert(fields[NAME].to_owned(), (number(READS)?, number(WRITES)?));
    }
    Ok(found)
}

/// Runs all jobs in one guest; every one must have verified what it wrote.
pub(super) fn run(_options: &Options) -> Result<Vec<Row>> {
    let (names, text) = jobs();
    let image = Image::new("fio", &[PROGRAM], |root| Ok(std::fs::write(root.join("etc/jobs.fio"), &text)?))?;
    let command = [PROGRAM, "--output-format=terse", "--terse-version=3", "/etc/jobs.fio"];
    let console = image.boot("768M", 2, PORT, &command)?.end_within(PATIENCE)?;
    let figures = figures(&console)?;
    let mut rows = Vec::new();
    for name in names {
        let (reads, writes) = figures.get(&name).with_context(|| format!("{name} is missing:\n{console}"))?;
        println!("{name}: {writes:.0} writes/s, {reads:.0} reads/s");
        rows.push(Row::new(name, format!("{writes:.0} w/s {reads:.0} r/s")));
    }
    image.zdb()?;
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_engine_has_its_jobs_and_their_lines_are_understood() {
        let (names, text) = jobs();
        assert_eq!(names.len(), 2 + 1 + 6 + 6);
        assert_eq!(text.matches("ioengine=").count(), names.len());
        let mut fields = vec!["0"; 60];
        (fields[NAME], fields[READS], fields[WRITES]) = ("libaio-4-O_SYNC", "12", "34");
        let line = fields.join(";");
        let found = figures(&format!("noise; of a console\n{line}\r\n")).unwrap();
        assert_eq!(found["libaio-4-O_SYNC"], (12.0, 34.0));
        fields[ERROR] = "84";
        assert!(figures(&fields.join(";")).is_err());
    }
}
