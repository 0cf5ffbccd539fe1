//! Fuzzing in a child process, whose memory is limited and whose time is watched.
//!
//! The child writes the number of its input into a file before it reads it, so that its parent knows what killed it.

use super::Options;
use anyhow::{Context, Result, bail};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::os::unix::fs::FileExt;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tests::fuzz::{Fuzzer, Target};

/// What the child may have in address space, in bytes.
const MEMORY_MAX: u64 = 3 << 30;
/// An input that takes longer hangs.
const INPUT_MAX: Duration = Duration::from_secs(60);
/// How a child ends that found something: itself, and one whose input hangs.
const FOUND: i32 = 101;

/// `fuzz [--target T] [--minutes M] [--count N] [--seed S] [--from N]`
pub(super) fn run(mut options: Options) -> Result<()> {
    let seed = options.seed()?;
    let minutes = options.number("--minutes")?.unwrap_or(10);
    let count = options.number("--count")?.unwrap_or(u64::MAX);
    let from = options.number("--from")?.unwrap_or(0);
    let target = options.text("--target");
    options.end()?;
    let names: Vec<String> = match target {
        Some(name) => vec![find(&name)?.name.to_owned()],
        None => targets().map(|t| t.name.to_owned()).collect(),
    };
    let mut failed = Vec::new();
    for name in names {
        if let Err(error) = watch(&name, seed, from, count, minutes * 60) {
            println!("{error:#}");
            failed.push(name);
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("found something in: {}", failed.join(", ")) }
}

/// All targets: the engine's, then those of other programs.
fn targets() -> impl Iterator<Item = &'static Target> {
    tests::fuzz::TARGETS.iter().chain(&super::programs::TARGETS)
}

fn find(name: &str) -> Result<&'static Target> {
    let known = || targets().map(|t| t.name).collect::<Vec<_>>().join(", ");
    targets()
        .find(|t| t.name == name)
        .with_context(|| format!("no fuzz target {name}: there are {}", known()))
}

/// Starts a child for one target and waits for it.
fn watch(name: &str, seed: u64, from: u64, count: u64, seconds: u64) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let progress = folder.path().join("input");
    std::fs::write(&progress, from.to_le_bytes())?;
    let mut child = Command::new(std::env::current_exe()?);
    child.args(["fuzz-child", "--target", name]);
    for (option, value) in [("--seed", seed), ("--from", from), ("--count", count), ("--seconds", seconds)] {
        child.args([option, &value.to_string()]);
    }
    let start = Instant::now();
    let status = child.arg("--progress").arg(&progress).status()?;
    let at = u64::from_le_bytes(std::fs::read(&progress)?.try_into().unwrap_or_default());
    let inputs = at.saturating_sub(from);
    println!("{name}: {inputs} inputs in {:.0} s", start.elapsed().as_secs_f64());
    if status.success() {
        return Ok(());
    }
    bail!("{name}: {status}; repeat: cargo xtask fuzz --target {name} --seed {seed} --from {at} --count 1")
}

/// The child.
pub(super) fn child(mut options: Options) -> Result<()> {
    let name = options.text("--target").context("--target")?;
    let seed = options.seed()?;
    let from = options.number("--from")?.unwrap_or(0);
    let count = options.number("--count")?.unwrap_or(u64::MAX);
    let seconds = options.number("--seconds")?.unwrap_or(60);
    let progress = options.text("--progress").context("--progress")?;
    options.end()?;
    super::quiet_panics();
    let fuzzer = Fuzzer::new(find(&name)?, seed)?;
    // Only now: reading the corpus is no crime.
    setrlimit(Resource::As, Rlimit { current: Some(MEMORY_MAX), maximum: Some(MEMORY_MAX) })?;
    let progress = std::fs::OpenOptions::new().write(true).open(Path::new(&progress))?;
    let clock = Watch::start();
    let end = Instant::now() + Duration::from_secs(seconds);
    for n in (from..).take(usize::try_from(count).unwrap_or(usize::MAX)) {
        if Instant::now() >= end {
            break;
        }
        progress.write_all_at(&n.to_le_bytes(), 0)?;
        clock.input(n);
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| fuzzer.run(n)));
        match outcome {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                println!("{name}, input {n}: {error:#}");
                std::process::exit(FOUND);
            }
            Err(_) => std::process::exit(FOUND),
        }
    }
    Ok(())
}

/// A thread that ends the process when an input hangs.
struct Watch(std::sync::mpsc::Sender<u64>);

impl Watch {
    fn start() -> Watch {
        let (sender, inputs) = std::sync::mpsc::channel::<u64>();
        std::thread::spawn(move || {
            let mut last = 0;
            loop {
                match inputs.recv_timeout(INPUT_MAX) {
                    Ok(n) => last = inputs.try_iter().last().unwrap_or(n),
                    Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return,
                    Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                        println!("input {last} hangs");
                        std::process::exit(FOUND);
                    }
                }
            }
        });
        Watch(sender)
    }

    fn input(&self, n: u64) {
        // The watching thread ends only with the process.
        let _ = self.0.send(n);
    }
}
