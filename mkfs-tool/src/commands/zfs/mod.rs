//! `tarn zfs`.

mod change;
mod diff;
mod list;
mod select;
mod snapshots;

use super::open::OpenPool;
use crate::cli::zfs::{Verb, Zfs};
use anyhow::Result;
use std::process::ExitCode;

/// Does one verb. Those that write log their command line in the pool's history, as `zfs` does.
pub(crate) fn run(options: &Zfs) -> Result<ExitCode> {
    let disks = &options.disks.disks;
    match &options.verb {
        Verb::List(list) => return list::list(&OpenPool::read(disks)?, list),
        Verb::Get(get) => return list::get(&OpenPool::read(disks)?, get),
        Verb::Diff(diff) => return diff::run(&OpenPool::read(disks)?, diff),
        Verb::Destroy(destroy) if destroy.dry_run => {
            return snapshots::destroy(&OpenPool::read(disks)?, destroy).map(|_| ExitCode::SUCCESS);
        }
        _ => {}
    }
    let opened = OpenPool::write(disks, options.disks.force_import)?;
    let line = match &options.verb {
        Verb::Set(set) => change::set(&opened, set)?,
        Verb::Inherit(inherit) => change::inherit(&opened, inherit)?,
        Verb::Create(create) => change::create(&opened, create)?,
        Verb::Rename(rename) => change::rename(&opened, rename)?,
        Verb::Clone(clone) => snapshots::clone(&opened, clone)?,
        Verb::Snapshot(snapshot) => snapshots::snapshot(&opened, snapshot)?,
        Verb::Rollback(rollback) => snapshots::rollback(&opened, rollback)?,
        Verb::Destroy(destroy) => snapshots::destroy(&opened, destroy)?,
        Verb::List(_) | Verb::Get(_) | Verb::Diff(_) => String::new(),
    };
    opened.pool.log_history(&line)?;
    opened.close()?;
    Ok(ExitCode::SUCCESS)
}
