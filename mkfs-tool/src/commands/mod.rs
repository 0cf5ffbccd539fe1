//! One module per verb.

mod cat;
mod completions;
mod cp;
mod create;
mod extract;
mod fill;
mod inspect;
mod keys;
mod ls;
mod new_pool;
pub(crate) mod open;
mod progress;
mod stat;
mod tree;
mod view;
mod zfs;
mod zpool;

use crate::cli::{Cli, Verb};
use crate::run;
use anyhow::Result;
use std::process::ExitCode;

/// Does what was asked.
pub(crate) fn run(cli: Cli) -> Result<ExitCode> {
    keys::give(cli.keys);
    match cli.verb {
        Verb::Create(options) => create::run(&options),
        Verb::Run(options) => run::run(&options),
        Verb::Zpool(options) => zpool::run(&options),
        Verb::Zfs(options) => zfs::run(&options),
        Verb::Ls(options) => ls::run(&options),
        Verb::Cat(options) => cat::run(&options),
        Verb::Tree(options) => tree::run(&options),
        Verb::Stat(options) => stat::run(&options),
        Verb::Cp(options) => cp::run(&options),
        Verb::Inspect(options) => inspect::run(&options),
        Verb::Completions(options) => completions::run(&options),
        Verb::ExecWithParent(options) => run::exec_with_parent(&options),
    }
}
