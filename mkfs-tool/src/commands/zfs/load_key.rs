//! `tarn zfs load-key`, `unload-key`.

use crate::cli::zfs::{LoadKey, UnloadKey};
use crate::commands::keys;
use crate::commands::open::OpenPool;
use anyhow::{Result, bail};
use std::process::ExitCode;

/// Tries the key. There is nothing that it could stay loaded in.
pub(super) fn load(opened: &OpenPool, options: &LoadKey) -> Result<ExitCode> {
    let dataset = &options.dataset;
    let material = keys::find(&opened.pool, dataset, options.location.as_deref())?;
    opened.pool.dsl().check_key(dataset, &material).map_err(|e| keys::explain(dataset, e))?;
    if !options.dry_run {
        eprintln!(
            "the key of {dataset} is right. No key stays loaded when tarn ends: give it to the verb that needs it, \
             as --key {dataset}=prompt or --key {dataset}=file:///PATH"
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// Nothing is loaded.
pub(super) fn unload(options: &UnloadKey) -> Result<ExitCode> {
    bail!("{}: key already unloaded: no key stays loaded when tarn ends", options.dataset)
}
