//! Developer commands: `cargo xtask <verb>`.
//!
//! `demo` shows the project's whole job, `test` checks all of it; the longer campaigns have verbs of their own. Each
//! verb is one module; what they share (paths, running programs, installing packages) is in `machine` and `build`.

mod bench;
mod build;
mod check;
mod demo;
mod interop;
mod machine;
mod newer;
mod proof;
mod syscalls;
mod workloads;

use anyhow::{Result, bail};
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask <verb>

  demo                 build an image, boot SQLite on it, snapshot it, roll it back
  test                 formatting, lints, and all tests (unit, fixtures, zdb, QEMU)
  setup                install the programs that demo and test need (Debian, as root)
  kernel               build only the kernel, target/kernel/tarn.elf
  powercut --runs N    kill the machine N times while SQLite commits, and check every row
  sim --cuts N         power cuts on simulated disks, over all layouts
                       [--layout L] [--seed S] [--operations N] [--cuts-per-run N] [--failures N] [--shrink N]
  soak --minutes N     random operations against a model, export and import between [--layout L] [--seed S]
  fuzz [--target T]    damaged bytes for every parser, damaged pools [--minutes M each] [--seed S] [--from N] [--count N]
  syscalls [--minutes N] [--seed S]
                       system calls with random arguments in the guest
  world --dir DIR      a pool of random operations as image files, with a manifest [--layout L] [--seed S] [--operations N]
  interop [--images [--tree DIR]] [--layout LAYOUT]… [--rounds N] [--seed N]
                       real OpenZFS imports, hashes and scrubs what Tarn wrote, and takes
                       turns with Tarn in writing to pools of every layout (slow)
  workloads [NAME]… [--cuts N] [--seed S] [--thousands N] [--minutes N]
                       Debian's servers in the guest, loaded from here: redis, redis-powercut, memcached, nginx, python; fio;
                       soak: redis and mariadb for N minutes, what the kernels hold is watched
  bench [--host] [--boot] [--guest [--snapshots N]] [--servers [--only LOAD]] [--rounds N] [--tree DIR]
                       figures beside their peers, written to docs/benchmarks.md
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("xtask: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<()> {
    let Some((verb, rest)) = args.split_first() else {
        print!("{USAGE}");
        bail!("no verb given");
    };
    match verb.as_str() {
        "demo" => demo::run_demo(),
        "test" => check::run(rest),
        "workloads" => workloads::run_workloads(rest),
        "bench" => bench::run_bench(rest),
        "interop" => interop::run_interop(rest),
        "setup" => machine::install_all().map(|()| _ = newer::zdb()),
        "kernel" => build::kernel().map(|path| println!("{}", path.display())),
        "sim" | "soak" | "fuzz" | "world" => proof::campaign(verb, rest),
        "syscalls" => syscalls::run_syscalls(rest),
        "powercut" => check::powercut(rest),
        "help" | "--help" | "-h" => {
            print!("{USAGE}");
            Ok(())
        }
        other => bail!("unknown verb {other}; see cargo xtask help"),
    }
}
