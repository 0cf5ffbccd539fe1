//! One module per verb.

mod completions;

use crate::cli::{Cli, Verb};
use crate::run;
use anyhow::{Result, bail};
use std::process::ExitCode;

/// Does what was asked.
pub(crate) fn run(cli: Cli) -> Result<ExitCode> {
    match cli.verb {
        Verb::Run(options) => run::run(&options),
        Verb::ExecWithParent(options) => run::exec_with_parent(&options),
        Verb::Completions(options) => completions::run(&options),
        _ => bail!("not there yet"),
    }
}
