//! Stores that are part of their program: LMDB and LevelDB under small drivers of ours, which compare every record, and
//! RocksDB under its own benchmark. Each is filled by one boot and checked by the next.

use super::guest::Image;
use super::{Options, Row};
use crate::machine::{root, run};
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use testkit::rootfs;

const PATIENCE: Duration = Duration::from_secs(600);

/// Compiles a driver of `tests/workloads/embedded` to `/usr/bin`, beside the libraries it needs.
fn driver(name: &str, library: &str, to: &Path) -> Result<()> {
    let program = to.join("usr/bin").join(name);
    let source = root().join("tests/workloads/embedded").join(name).with_extension("c");
    run(Command::new("cc").args(["-O2", "-Wall", "-Werror", "-o"]).arg(&program).arg(source).arg(library))?;
    rootfs::libraries(&program, to)
}

/// Boots with `command`, which must end well; what it said, and how long that took.
fn boot(image: &Image, command: &[&str]) -> Result<(String, Duration)> {
    let start = Instant::now();
    let said = image.boot("512M", 2, 1, command)?.end_within(PATIENCE)?;
    image.zdb()?;
    Ok((said, start.elapsed()))
}

/// A driver fills its store, and finds it as it was after a reboot.
fn fill_and_check(image: &Image, program: &str, words: &[&str], what: &str) -> Result<Row> {
    let mut took = Duration::ZERO;
    for verb in ["fill", "check"] {
        let (said, time) = boot(image, &[&[program, verb], words].concat())?;
        ensure!(said.contains("ok: 13333 records"), "{program} {verb} {words:?} said:\n{said}");
        took += time;
    }
    Ok(Row::new(
        format!("{what}: filled, and checked after a reboot"),
        format!("{:.1} s", took.as_secs_f64()),
    ))
}

/// LMDB, writing its file by `pwrite` and by a shared mapping.
pub(super) fn lmdb(_options: &Options) -> Result<Vec<Row>> {
    let image = Image::new("lmdb", &[], |root| {
        std::fs::create_dir(root.join("data/written"))?;
        std::fs::create_dir(root.join("data/mapped"))?;
        driver("lmdb", "-llmdb", root)
    })?;
    Ok(vec![
        fill_and_check(&image, "/usr/bin/lmdb", &["/data/written"], "written")?,
        fill_and_check(&image, "/usr/bin/lmdb", &["/data/mapped", "writemap"], "mapped")?,
    ])
}

/// LevelDB.
pub(super) fn leveldb(_options: &Options) -> Result<Vec<Row>> {
    let image = Image::new("leveldb", &[], |root| driver("leveldb", "-lleveldb", root))?;
    Ok(vec![fill_and_check(&image, "/usr/bin/leveldb", &["/data/store"], "leveldb")?])
}

/// RocksDB's db_bench: all keys that it wrote are found, by the same boot and by the next one.
pub(super) fn rocksdb(_options: &Options) -> Result<Vec<Row>> {
    let image = Image::new("rocksdb", &["db_bench"], |_| Ok(()))?;
    let bench = |benchmarks: &str, more: &[&str]| {
        let benchmarks = format!("--benchmarks={benchmarks}");
        let fixed =
            ["/usr/bin/db_bench", "--db=/data/rocks", "--num=10000", "--stats_interval=1000000", &benchmarks];
        boot(&image, &[&fixed, more].concat())
    };
    let (synced, _) = bench("fillsync", &["--writes=200"])?;
    let (first, _) = bench("fillseq,overwrite,readrandom,readseq", &[])?;
    let (second, _) = bench("verifychecksum,readrandom,readseq", &["--use_existing_db=1"])?;
    for said in [&first, &second] {
        ensure!(said.contains("(10000 of 10000 found)"), "db_bench did not find what it wrote:\n{said}");
    }
    let text = [first, synced].concat();
    ["fillseq", "overwrite", "fillsync", "readrandom", "readseq"]
        .iter()
        .map(|name| {
            let line = text.lines().find(|line| line.contains(name) && line.contains("ops/sec"));
            let words = line.map(|line| line.split_whitespace().collect::<Vec<_>>()).unwrap_or_default();
            let at = words.iter().position(|word| *word == "ops/sec");
            let rate = at
                .and_then(|at| words.get(at.checked_sub(1)?))
                .with_context(|| format!("{name}:\n{text}"))?;
            Ok(Row::new(*name, format!("{rate}/s")))
        })
        .collect()
}
