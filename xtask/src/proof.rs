//! `cargo xtask sim|soak|fuzz|world`: the long campaigns, which the package `campaign` runs.

use crate::machine::{cargo, run};
use crate::newer;
use anyhow::Result;

/// Starts one with the options that were given: see `campaign`'s own usage.
pub(crate) fn campaign(verb: &str, rest: &[String]) -> Result<()> {
    let mut command = cargo();
    command.args(["run", "--quiet", "--profile", "campaign", "--package", "campaign", "--", verb]);
    if matches!(verb, "sim" | "soak") {
        newer::name_to(&mut command);
    }
    // The host tool's readers are fuzzed, too; they need no kernel inside.
    run(command.args(rest).env("TARN_KERNEL", ""))
}
