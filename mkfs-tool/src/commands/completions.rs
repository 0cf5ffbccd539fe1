//! `tarn completions`.

use crate::cli::{Cli, Completions};
use anyhow::Result;
use clap::CommandFactory;
use std::io::Write;
use std::process::ExitCode;

/// Prints the script for one shell.
pub(crate) fn run(options: &Completions) -> Result<ExitCode> {
    // Into memory first: clap panics when its output is closed early.
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut Cli::command(), "tarn", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}
