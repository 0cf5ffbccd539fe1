//! `tarn zpool`.

mod add;
mod change;
mod checkpoint;
mod create;
mod devices;
mod history;
mod import;
mod properties;
mod scrub;
mod status;
mod trim;
mod vdevs;

pub(crate) use scrub::verify;

use super::open::OpenPool;
use crate::cli::zpool::{Verb, Zpool};
use anyhow::Result;
use change::Target;
use std::process::ExitCode;

/// Does one verb.
pub(crate) fn run(options: &Zpool) -> Result<ExitCode> {
    let disks = &options.disks.disks;
    let read = |name: &Option<String>| {
        let opened = OpenPool::read(disks)?;
        opened.expect_name(name.as_deref())?;
        Ok::<_, anyhow::Error>(opened)
    };
    let target = Target { disks, force: options.disks.force_import };
    match &options.verb {
        Verb::Create(create) => create::run(create, disks),
        Verb::Import(import) => import::run(import, disks),
        Verb::Export(export) => import::export(export, disks, options.disks.force_import),
        Verb::Labelclear(clear) => import::labelclear(clear),
        Verb::List(list) => properties::list(&read(&list.pool)?, list),
        Verb::Get(get) => properties::get(&read(&get.pool)?, get),
        Verb::Status(status) => status::run(&read(&status.pool)?, status),
        Verb::History(history) => history::run(&read(&history.pool)?, history),
        Verb::Scrub(scrub) if scrub.verify => {
            let opened = read(&scrub.pool)?;
            scrub::run(&opened, scrub)
        }
        Verb::Scrub(scrub) => {
            let opened = OpenPool::write(disks, options.disks.force_import)?;
            opened.expect_name(scrub.pool.as_deref())?;
            let status = scrub::run(&opened, scrub);
            opened.close()?;
            status
        }
        Verb::Set(set) => change::set(target, set),
        Verb::Upgrade(upgrade) => change::upgrade(target, upgrade),
        Verb::Checkpoint(checkpoint) => checkpoint::run(target, checkpoint),
        Verb::Reguid(reguid) => change::reguid(target, reguid),
        Verb::Clear(clear) => change::clear(target, clear),
        Verb::Add(add) => add::run(target, add),
        Verb::Remove(remove) => add::remove(target, remove),
        Verb::Trim(trim) => trim::run(target, trim),
        Verb::Resilver(resilver) => devices::resilver(target, resilver),
        Verb::Attach(attach) => devices::attach(target, attach),
        Verb::Detach(detach) => devices::detach(target, detach),
        Verb::Replace(replace) => devices::replace(target, replace),
        Verb::Offline(offline) => devices::offline(target, offline),
        Verb::Online(online) => devices::online(target, online),
    }
}
