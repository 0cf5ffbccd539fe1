//! The long campaigns behind `cargo xtask sim|soak|fuzz|world`, one verb each.

extern crate alloc;

mod fuzz;
mod programs;
mod world;

use anyhow::{Context, Result, bail};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tests::layout::Layout;
use tests::sim::{Failure, Plan, Run, shrink};
use tests::soak::{ROUND, Soak};

/// Power cuts of one run, and its operations.
const CUTS_PER_RUN: usize = 200;
const OPERATIONS: u64 = 150;
/// Runs that may be spent on making a failing case smaller.
const SHRINK_ATTEMPTS: usize = 80;

/// `--name value` pairs.
struct Options(Vec<(String, String)>);

impl Options {
    fn parse(args: &[String]) -> Result<Options> {
        let mut options = Vec::new();
        for pair in args.chunks(2) {
            match pair {
                [name, value] if name.starts_with("--") => options.push((name.clone(), value.clone())),
                [name, ..] => bail!("{name}: options are --NAME VALUE"),
                [] => {}
            }
        }
        Ok(Options(options))
    }

    fn text(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(n, _)| n == name)?;
        Some(self.0.remove(at).1)
    }

    fn number(&mut self, name: &str) -> Result<Option<u64>> {
        self.text(name).map(|v| v.parse().with_context(|| format!("{name} {v}"))).transpose()
    }

    fn seed(&mut self) -> Result<u64> {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |d| d.as_secs());
        Ok(self.number("--seed")?.unwrap_or_else(now))
    }

    fn layouts(&mut self) -> Result<Vec<Layout>> {
        match self.text("--layout") {
            Some(name) => Ok(vec![Layout::parse(&name)?]),
            None => Layout::available(),
        }
    }

    fn end(self) -> Result<()> {
        match self.0.first() {
            Some((name, _)) => bail!("unknown option {name}"),
            None => Ok(()),
        }
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match args.split_first() {
        Some((verb, rest)) => match verb.as_str() {
            "sim" => Options::parse(rest).and_then(sim),
            "soak" => Options::parse(rest).and_then(soak),
            "world" => Options::parse(rest).and_then(world::run),
            "fuzz" => Options::parse(rest).and_then(fuzz::run),
            "fuzz-child" => Options::parse(rest).and_then(fuzz::child),
            other => Err(anyhow::anyhow!("unknown campaign {other}")),
        },
        None => Err(anyhow::anyhow!("which campaign?")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("campaign: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Power cuts over all layouts.
fn sim(mut options: Options) -> Result<()> {
    let seed = options.seed()?;
    let cuts = options.number("--cuts")?.unwrap_or(10_000) as usize;
    let per_run = options.number("--cuts-per-run")?.map_or(CUTS_PER_RUN, |n| n as usize);
    let operations = options.number("--operations")?.unwrap_or(OPERATIONS);
    let failures_max = options.number("--failures")?.unwrap_or(1) as usize;
    let attempts = options.number("--shrink")?.map_or(SHRINK_ATTEMPTS, |n| n as usize);
    let layouts = options.layouts()?;
    options.end()?;
    println!("seed {seed}");
    quiet_panics();
    let start = Instant::now();
    let (mut done, mut moments, mut failures, mut said) = (0, 0, 0, Duration::ZERO);
    for run_number in 0.. {
        if done >= cuts {
            break;
        }
        let layout = layouts[run_number % layouts.len()];
        let plan = Plan::new(seed.wrapping_add(run_number as u64), layout, operations);
        let outcome = match Run::record(&plan) {
            Ok(run) => {
                moments += run.moments();
                run.check(per_run.min(cuts - done), plan.seed)
            }
            Err(error) => Err(Box::new(Failure::of_run(&plan, error))),
        };
        match outcome {
            Ok(checked) => done += checked,
            Err(failure) => {
                println!("BROKEN: {failure}");
                if attempts > 0 {
                    println!("made smaller: {}", shrink(*failure, attempts));
                }
                failures += 1;
                if failures >= failures_max {
                    break;
                }
            }
        }
        if start.elapsed() - said > Duration::from_secs(10) {
            said = start.elapsed();
            println!("{done} cuts in {} runs, {:.0} s", run_number + 1, said.as_secs_f64());
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("{done} cuts of {moments} recorded moments, {} layouts, {seconds:.0} s", layouts.len());
    if failures > 0 { bail!("{failures} runs broke a promise") } else { Ok(()) }
}

/// Random operations, layout after layout, until the time is over.
fn soak(mut options: Options) -> Result<()> {
    let seed = options.seed()?;
    let minutes = options.number("--minutes")?.unwrap_or(10);
    let layouts = options.layouts()?;
    options.end()?;
    println!("seed {seed}");
    let mut pools = layouts.iter().map(|l| Soak::new(*l, seed)).collect::<Result<Vec<_>>>()?;
    let start = Instant::now();
    let mut operations = 0;
    while start.elapsed() < Duration::from_secs(minutes * 60) {
        for pool in &mut pools {
            pool.round(ROUND)?;
            operations += ROUND;
        }
        println!("{operations} operations, {:.0} s", start.elapsed().as_secs_f64());
    }
    Ok(())
}

/// A panic of the engine is reported with its seed; the place where it happened is said on one line.
fn quiet_panics() {
    std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
}
