//! `cargo xtask sim|soak|fuzz|world`: the long campaigns, which the binary `campaign` of the package `tests` runs.

use crate::machine::{cargo, run};
use anyhow::Result;

/// Starts one with the options that were given: see `campaign`'s own usage.
pub(crate) fn campaign(verb: &str, rest: &[String]) -> Result<()> {
    let mut command = cargo();
    command.args(["run", "--quiet", "--package", "tests", "--bin", "campaign", "--", verb]);
    run(command.args(rest))
}
