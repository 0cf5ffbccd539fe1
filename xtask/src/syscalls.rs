//! `cargo xtask syscalls`: system calls with random arguments, in guests one after another (`guest-checks fuzz`).
//!
//! A guest has failed if its kernel panics, if its program does not end in time (a call does not come back, or the kernel waits for ever),
//! or if `zdb` finds the pool damaged afterwards. That the program destroys itself is its own affair.

use crate::build;
use crate::machine::{self, install_all, run, target};
use anyhow::{Context, Result, bail, ensure};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use testkit::rootfs;

const PROGRAM: &str = "guest-checks";
const POOL: &str = "syscalls";
/// How long one guest fuzzes.
const ROUND: Duration = Duration::from_secs(30);
/// How long it may take beyond that: to boot, to wake what waits, to export its pool; on a busy machine.
const GRACE: Duration = Duration::from_secs(120);
/// The tool's status if the guest did not end in time.
const TIMED_OUT: i32 = 124;

/// The verb.
pub(crate) fn run_syscalls(rest: &[String]) -> Result<()> {
    const USAGE: &str = "usage: cargo xtask syscalls [--minutes N] [--seed N]";
    let (mut minutes, mut seed) = (1, std::time::UNIX_EPOCH.elapsed()?.as_secs());
    let mut words = rest.iter();
    while let Some(word) = words.next() {
        let number = words.next().and_then(|n| n.parse::<u64>().ok()).context(USAGE)?;
        match word.as_str() {
            "--minutes" => minutes = number,
            "--seed" => seed = number,
            _ => bail!(USAGE),
        }
    }
    install_all()?;
    let tarn = build::tarn()?;
    let folder = target().join("syscalls");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    let root = folder.join("root");
    for dir in ["data", "dev", "proc", "tmp", "usr/bin"] {
        std::fs::create_dir_all(root.join(dir))?;
    }
    std::fs::copy(rootfs::workload(PROGRAM)?, root.join("usr/bin").join(PROGRAM))?;
    let deadline = Instant::now() + Duration::from_secs(60 * minutes);
    let (mut guests, mut calls) = (0u64, 0);
    while Instant::now() < deadline {
        let seed = seed + guests;
        calls += one(&tarn, &folder, seed).with_context(|| format!("seed {seed}"))?;
        guests += 1;
        println!("{guests} guests, {calls} calls; next seed {}", seed + 1);
    }
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

/// One guest; how many calls it made, as far as it could say.
fn one(tarn: &Path, folder: &Path, seed: u64) -> Result<u64> {
    let disk = folder.join("disk");
    std::fs::create_dir_all(&disk)?;
    let image = disk.join("syscalls.img");
    let mut create = Command::new(tarn);
    create.arg("create").arg(&image).arg("--force").arg("--from").arg(folder.join("root"));
    run(create.args(["--size", "512M", "--pool", POOL, "-q"]).stdout(Stdio::null()))?;
    let mut boot = Command::new(tarn);
    boot.arg("run").arg(&image).args(["--memory", "256M", "--cpus", "2", "--verbose"]);
    boot.args(["--append", &format!("tarn.env=FUZZ_SEED={seed}")]);
    boot.args(["--append", &format!("tarn.env=FUZZ_MS={}", ROUND.as_millis())]);
    boot.args(["--timeout", &(ROUND + GRACE).as_secs().to_string()]);
    boot.args(["--", &format!("/usr/bin/{PROGRAM}"), "fuzz"]);
    let ended = boot.stdin(Stdio::null()).output()?;
    let said =
        format!("{}{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    let told: String =
        said.lines().filter(|l| !l.contains("not implemented")).map(|l| format!("{l}\n")).collect();
    ensure!(ended.status.code() != Some(TIMED_OUT), "the guest does not end:\n{told}");
    ensure!(!told.contains("kernel panic"), "the kernel panicked:\n{told}");
    ensure!(!told.contains("WRONG"), "a call does not come back:\n{told}");
    machine::zdb(&disk, POOL)?;
    let calls = told.lines().find_map(|l| l.strip_prefix("fuzz: ok, ")?.strip_suffix(" calls")?.parse().ok());
    if calls.is_none() {
        println!("seed {seed}: the program ended itself, status {:?}", ended.status.code());
    }
    Ok(calls.unwrap_or(0))
}
