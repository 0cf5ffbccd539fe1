//! `guest-checks VERB…`: checks of the kernel that need a program of their own. Each verb prints one line and ends with
//! status 0, or says what is wrong and ends with status 1.

mod asynchronous;
mod clones;
mod crowd;
mod events;
mod futexes;
mod hostile;
mod hunger;
mod large;
mod leaks;
mod mapping;
mod memory;
mod names;
mod programs;
mod signals;
mod sockets;
mod splices;
mod threads;
mod transfers;
mod vectors;

use std::process::ExitCode;

type Check = fn() -> Result<String, String>;

const CHECKS: &[(&str, Check)] = &[
    ("vectors", vectors::run),
    ("mapping", mapping::run),
    ("events", events::run),
    ("names", names::run),
    ("asynchronous", asynchronous::run),
    ("futexes", futexes::run),
    ("memory", memory::run),
    ("signals", signals::run),
    ("threads", threads::run),
    ("transfers", transfers::run),
    ("splices", splices::run),
    ("clones", clones::run),
    ("exec", programs::exec),
    ("joined", programs::joined),
    ("wild", hostile::wild),
    ("fuzz", hostile::fuzz),
    ("hunger", hunger::run),
    ("large", large::run),
    ("leaks", leaks::run),
    ("crowd", crowd::run),
    ("crowd-gone", crowd::gone),
    ("sockets", sockets::run),
    ("serve", sockets::serve),
];

fn main() -> ExitCode {
    let mut status = ExitCode::SUCCESS;
    for verb in std::env::args().skip(1) {
        let Some((_, check)) = CHECKS.iter().find(|(name, _)| *name == verb) else {
            eprintln!("guest-checks: no check is called {verb}");
            return ExitCode::from(2);
        };
        match check() {
            Ok(said) => println!("{verb}: ok, {said}"),
            Err(wrong) => {
                println!("{verb}: WRONG: {wrong}");
                status = ExitCode::FAILURE;
            }
        }
    }
    status
}
