//! The host tool: builds ZFS images from a directory or a tar, runs, inspects and manages them.
//!
//! It speaks the language of `zpool` and `zfs`; the disks of a pool are image files named with `--disk`.
//!
//! # Layout
//! - [`mod@cli`] – what can be asked (clap's definitions, nothing else).
//! - `commands`: one module per verb.
//! - [`mod@source`] – what an image is made from, as a sorted tree with parallel readers.
//! - [`mod@image`] – finding, locking and opening image files. **Nothing is opened for writing unless its verb writes.**
//! - [`mod@location`] – `IMG:DATASET@SNAP:/path`.
//! - [`mod@vdev_spec`] – the vdevs of a pool as people write them.
//! - [`mod@run`] – QEMU.
//!
//! # Errors
//! Every failure is one line, `tarn: what: why`, on standard error and a status other than 0. 1 is a failure, 2 is a command
//! line that makes no sense; `tarn run` ends with the status of the application.

pub mod cli;
mod commands;
pub mod image;
pub mod kernel;
pub mod location;
pub mod output;
pub mod quantity;
pub mod run;
pub mod source;
pub mod vdev_spec;

use anyhow::Error;
use clap::Parser;
use clap::error::ErrorKind;
use std::io::Write;
use std::process::ExitCode;

/// The whole program.
pub fn main() -> ExitCode {
    std::panic::set_hook(Box::new(report_bug));
    let args = match cli::Cli::try_parse() {
        Ok(args) => args,
        Err(e) => return usage(&e),
    };
    match commands::run(args) {
        Ok(status) => status,
        Err(e) => report(&e),
    }
}

/// Prints why the program failed, on one line.
fn report(error: &Error) -> ExitCode {
    if is_broken_pipe(error) {
        return ExitCode::SUCCESS;
    }
    say(&plain(&one_line(&format!("{error:#}"))));
    ExitCode::FAILURE
}

/// Whoever read our output has seen enough (`tarn ls … | head`).
fn is_broken_pipe(error: &Error) -> bool {
    let io = error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.into_iter().any(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}

/// What clap has to say: help goes out as it is, an error becomes one line with a hint.
fn usage(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let shown = error.print();
            let asked = error.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
            if asked && shown.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(2) }
        }
        _ => {
            let text = error.render().to_string();
            // The first paragraph says what is wrong; the usage that follows is what --help is for.
            let paragraph = text.split("\n\n").next().unwrap_or_default();
            let message = one_line(paragraph.trim_start_matches("error: "));
            say(&format!("{message} (see --help)"));
            ExitCode::from(2)
        }
    }
}

fn one_line(text: &str) -> String {
    text.split(['\n', '\r']).map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Without the numbers that the standard library puts behind a system error's words.
fn plain(message: &str) -> String {
    let mut parts = message.split(" (os error ");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push_str(part.split_once(')').map_or("", |(_, rest)| rest));
    }
    text
}

fn say(message: &str) {
    // Nothing can be done about a standard error that cannot be written.
    let _ = writeln!(std::io::stderr(), "tarn: {message}");
}

/// A panic is a bug of ours, never an answer to bad input: say so, on one line.
fn report_bug(info: &std::panic::PanicHookInfo<'_>) {
    let payload = info.payload();
    let message = payload
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    say(&format!("internal error (a bug in tarn, please report it): {} at {place}", one_line(&message)));
    if std::env::var_os("RUST_BACKTRACE").is_some() {
        let _ = writeln!(std::io::stderr(), "{}", std::backtrace::Backtrace::force_capture());
    }
    // A panic on a worker thread would otherwise leave the main thread waiting for it.
    std::process::exit(101);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn errors_are_one_line() {
        assert_eq!(one_line("a\n\n  b \r\nc"), "a b c");
    }

    #[test]
    fn system_errors_have_no_numbers() {
        assert_eq!(plain("x: No such file or directory (os error 2)"), "x: No such file or directory");
        assert_eq!(plain("a (os error 13): b (c)"), "a: b (c)");
        assert_eq!(plain("plain"), "plain");
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let e = Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).context("writing");
        assert!(is_broken_pipe(&e));
        assert!(!is_broken_pipe(&Error::msg("x")));
    }
}
