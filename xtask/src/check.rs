//! `cargo xtask test`: everything that must hold before a commit lands.

use crate::machine::{self, cargo, root, target};
use crate::{build, interop, newer};
use anyhow::{Result, bail};
use std::time::Instant;

/// Programs that run in guests, packages of their own below `tests/workloads`; the one that is little but SQLite's C is not looked at.
const GUEST_PROGRAMS: [&str; 3] = ["guest-bench", "guest-checks", "http-static"];

/// Announces a step, does it, and says how long it took.
fn step<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("\n== {name}");
    let start = Instant::now();
    let value = work()?;
    println!("== {name}: ok, {:.0} s", start.elapsed().as_secs_f64());
    Ok(value)
}

/// `cargo xtask test`.
pub(crate) fn run(rest: &[String]) -> Result<()> {
    if let Some(unknown) = rest.first() {
        bail!("test takes no argument, found {unknown}");
    }
    machine::install_all()?;
    let kernel_folder = root().join("kernel");
    let guest_programs = GUEST_PROGRAMS.map(|name| root().join("tests/workloads").join(name));
    step("format", || {
        machine::run(cargo().args(["fmt", "--all", "--check"]))?;
        let mut packages = guest_programs.iter().chain([&kernel_folder]);
        packages.try_for_each(|package| machine::run(cargo().current_dir(package).args(["fmt", "--check"])))
    })?;
    let kernel = step("build the kernel", build::kernel)?;
    step("lint", || {
        let mut clippy = cargo();
        clippy.args(["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]);
        machine::run(clippy.env("TARN_KERNEL", &kernel))?;
        let mut clippy = cargo();
        clippy.current_dir(&kernel_folder).args(["clippy", "--release", "--quiet"]);
        clippy.args(["--target", "x86_64-unknown-linux-gnu", "--target-dir"]).arg(target().join("kernel"));
        machine::run(clippy.args(["--", "-D", "warnings"]))?;
        guest_programs.iter().try_for_each(|package| {
            let mut clippy = cargo();
            clippy
                .current_dir(package)
                .args(["clippy", "--quiet", "--target-dir"])
                .arg(target().join("lint"));
            machine::run(clippy.args(["--", "-D", "warnings"]))
        })
    })?;
    step("no_std layers", no_std_layers)?;
    let tarn = step("build tarn", build::tarn)?;
    step("tests", || {
        let mut test = cargo();
        test.args(["test", "--workspace", "--quiet"]);
        newer::name_to(&mut test);
        machine::run(test.env("TARN_KERNEL", &kernel).env("TARN_BIN", &tarn))
    })?;
    step("turns with OpenZFS", interop::run_in_test)
}

/// The layers below the assemblers build without std.
fn no_std_layers() -> Result<()> {
    for package in ["platform", "zfs", "vfs", "net"] {
        machine::run(cargo().args([
            "check",
            "--quiet",
            "--lib",
            "--no-default-features",
            "--package",
            package,
        ]))?;
    }
    Ok(())
}

/// `cargo xtask powercut --runs N`.
pub(crate) fn powercut(rest: &[String]) -> Result<()> {
    let runs = match rest {
        [flag, runs] if flag == "--runs" => runs.parse::<u32>()?,
        [] => 100,
        _ => bail!("usage: cargo xtask powercut [--runs N]"),
    };
    machine::install_all()?;
    let tarn = build::tarn()?;
    let mut test = cargo();
    test.args(["test", "--package", "tests", "--test", "powercut", "--", "--nocapture"]);
    machine::run(test.env("TARN_BIN", tarn).env("TARN_POWERCUT_RUNS", runs.to_string()))
}
