//! `tarn zpool checkpoint`.

use super::change::Target;
use super::scrub::when;
use crate::cli::zpool::Checkpoint;
use crate::quantity::human;
use anyhow::{Context, Result, bail};
use std::process::ExitCode;
use zfs::Error;
use zfs::spa::{CheckpointStatus, Pool};

/// Makes the checkpoint, or gives it up.
pub(super) fn run(target: Target<'_>, options: &Checkpoint) -> Result<ExitCode> {
    target.change(options.pool.as_deref(), |opened| {
        let name = opened.pool.name();
        if options.discard {
            discard(&opened.pool).with_context(|| format!("{name}: cannot discard the checkpoint"))?;
            return Ok(Some(format!("zpool checkpoint -d {name}")));
        }
        match opened.pool.checkpoint() {
            Ok(()) => Ok(Some(format!("zpool checkpoint {name}"))),
            Err(Error::Exists) => bail!("{name}: has a checkpoint already; -d discards it"),
            Err(error) => Err(error).context(name),
        }
    })
}

/// Gives the checkpoint up, and waits until what it held is free.
fn discard(pool: &Pool) -> Result<()> {
    match pool.discard_checkpoint() {
        Ok(()) => {}
        Err(Error::NotFound) if pool.checkpoint_status().is_some() => {}
        Err(Error::NotFound) => bail!("the pool has none"),
        Err(error) => return Err(error.into()),
    }
    // Each txg frees what one more vdev held.
    while pool.checkpoint_status().is_some() {
        pool.sync()?;
    }
    Ok(())
}

/// What `zpool status` says of it.
pub(super) fn line(checkpoint: &CheckpointStatus) -> String {
    let space = human(checkpoint.space);
    if checkpoint.discarding {
        return format!("discarding, {space} remaining");
    }
    format!("created {}, consumes {space}", when(checkpoint.time))
}
