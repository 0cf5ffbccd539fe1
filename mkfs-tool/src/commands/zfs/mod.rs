//! `tarn zfs`.

mod accounts;
mod change;
mod create;
mod destroy;
mod diff;
mod holds;
mod list;
mod load_key;
mod project;
mod request;
mod select;
mod snapshots;

use super::open::OpenPool;
use crate::cli::zfs::{Verb, Zfs};
use anyhow::Result;
use std::process::ExitCode;
use zfs::dmu::Accounted;

/// Does one verb. Those that write log their command line in the pool's history, as `zfs` does.
pub(crate) fn run(options: &Zfs) -> Result<ExitCode> {
    let disks = &options.disks.disks;
    match &options.verb {
        Verb::List(list) => return list::list(&OpenPool::read(disks)?, list),
        Verb::Get(get) => return list::get(&OpenPool::read(disks)?, get),
        Verb::Diff(diff) => return diff::run(&OpenPool::read(disks)?, diff),
        Verb::Holds(holds) => return holds::list(&OpenPool::read(disks)?, holds),
        Verb::Userspace(space) => return accounts::list(&OpenPool::read(disks)?, space, Accounted::User),
        Verb::Groupspace(space) => return accounts::list(&OpenPool::read(disks)?, space, Accounted::Group),
        Verb::Projectspace(space) => {
            return accounts::list(&OpenPool::read(disks)?, space, Accounted::Project);
        }
        Verb::Project(project) => {
            project::run(disks, options.disks.force_import, project)?;
            return Ok(ExitCode::SUCCESS);
        }
        Verb::LoadKey(key) => return load_key::load(&OpenPool::read(disks)?, key),
        Verb::UnloadKey(key) => return load_key::unload(key),
        Verb::Destroy(destroy) if destroy.dry_run => {
            return destroy::run(&OpenPool::read(disks)?, destroy).map(|_| ExitCode::SUCCESS);
        }
        Verb::Create(create) if create.dry_run => {
            return create::run(&OpenPool::read(disks)?, create).map(|_| ExitCode::SUCCESS);
        }
        _ => {}
    }
    let opened = OpenPool::write(disks, options.disks.force_import)?;
    let requests = match &options.verb {
        Verb::Set(set) => change::set(&opened, set).map(|()| Vec::new())?,
        Verb::Inherit(inherit) => change::inherit(&opened, inherit).map(|()| Vec::new())?,
        Verb::Create(create) => create::run(&opened, create)?,
        Verb::Rename(rename) => change::rename(&opened, rename).map(|()| Vec::new())?,
        Verb::Promote(promote) => change::promote(&opened, promote).map(|()| Vec::new())?,
        Verb::Clone(clone) => snapshots::clone(&opened, clone)?,
        Verb::Snapshot(snapshot) => snapshots::snapshot(&opened, snapshot)?,
        Verb::Bookmark(bookmark) => snapshots::bookmark(&opened, bookmark)?,
        Verb::Rollback(rollback) => snapshots::rollback(&opened, rollback)?,
        Verb::Destroy(destroy) => destroy::run(&opened, destroy)?,
        Verb::Hold(hold) => holds::hold(&opened, hold)?,
        Verb::Release(release) => holds::release(&opened, release)?,
        // Done above: they only look.
        Verb::List(_)
        | Verb::Get(_)
        | Verb::Diff(_)
        | Verb::Holds(_)
        | Verb::Userspace(_)
        | Verb::Groupspace(_)
        | Verb::Projectspace(_)
        | Verb::Project(_)
        | Verb::LoadKey(_)
        | Verb::UnloadKey(_) => Vec::new(),
    };
    opened.pool.log_requests(requests, &history_line(std::env::args()))?;
    opened.close()?;
    Ok(ExitCode::SUCCESS)
}

/// The command line as the pool's history keeps it: as it would be typed where the pool is imported.
fn history_line(arguments: impl Iterator<Item = String>) -> String {
    let mut words = Vec::new();
    let mut arguments = arguments.skip_while(|word| word != "zfs");
    while let Some(word) = arguments.next() {
        match word.as_str() {
            "--disk" | "--key" => drop(arguments.next()),
            "--force-import" => {}
            other if other.starts_with("--disk=") || other.starts_with("--key=") => {}
            _ => words.push(word),
        }
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::history_line;

    #[test]
    fn the_history_does_not_speak_of_images() {
        let line =
            "/usr/bin/tarn zfs --disk a.img snapshot --disk=b.img --key p=prompt -r p@s --force-import";
        assert_eq!(history_line(line.split(' ').map(str::to_owned)), "zfs snapshot -r p@s");
    }
}
