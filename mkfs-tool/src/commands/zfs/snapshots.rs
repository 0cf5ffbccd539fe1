//! `tarn zfs snapshot`, `rollback`, `clone` and `bookmark`.

use super::create::ancestors;
use super::request;
use super::select::{dataset, with_descendants};
use crate::cli::zfs::{Bookmark, Clone, Rollback, Snapshot};
use crate::commands::open::OpenPool;
use anyhow::{Context, Result, bail, ensure};
use std::sync::Arc;
use zfs::dsl::{Dataset, Kind};
use zfs::ondisk::nvlist::NvList;
use zfs::zpl::{Filesystem, MountOptions};

/// Replays the intent log that a killed guest left, so that what it had synced is in the file system.
fn replay(opened: &OpenPool, dataset: Arc<Dataset>) -> Result<()> {
    if dataset.kind()? != Kind::Filesystem {
        return Ok(());
    }
    // The head of the log's chain; zeros if there is none.
    let header = dataset.objset()?.zil_header();
    if header.iter().all(|b| *b == 0) {
        return Ok(());
    }
    let name = dataset.name();
    let mounted = Filesystem::mount(&opened.pool, dataset, MountOptions { read_only: false, no_atime: true });
    let fs = mounted.with_context(|| format!("{name}: replaying its intent log"))?;
    fs.unmount().with_context(|| name)
}

/// Pairs as the engine takes them.
fn pairs(properties: &[(String, String)]) -> Vec<(&str, &str)> {
    properties.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

/// `zfs snapshot`: all of them in one transaction group, or none.
pub(super) fn snapshot(opened: &OpenPool, options: &Snapshot) -> Result<Vec<NvList>> {
    let mut names: Vec<String> = Vec::new();
    for name in &options.snapshots {
        let (fs, snap) =
            name.split_once('@').with_context(|| format!("{name}: a snapshot's name is DATASET@NAME"))?;
        let head = dataset(opened, fs)?;
        let heads = if options.recursive { with_descendants(head)? } else { vec![head] };
        for head in heads {
            names.push(format!("{}@{snap}", head.name()));
            replay(opened, head)?;
        }
    }
    let properties = pairs(&options.properties);
    for (name, _) in &properties {
        ensure!(name.contains(':'), "-o {name}: snapshots take user properties only, as in a:b");
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let done = opened.pool.dsl().create_snapshots_with(&names, &properties);
    done.with_context(|| format!("cannot create snapshot {}", options.snapshots.join(", ")))?;
    let given = request::properties(&options.properties);
    Ok(vec![request::request(
        "snapshot",
        NvList::new().with("snaps", request::set(names)).with("props", given),
    )])
}

/// Clones of snapshots, with all that depends on them, go first (`zfs rollback -R`).
fn destroy_clones(opened: &OpenPool, newer: &[Arc<Dataset>]) -> Result<()> {
    for snapshot in newer {
        for clone in snapshot.clones()? {
            let clone = dataset(opened, &clone)?;
            super::destroy::in_order(opened, &super::destroy::dependents(opened, &[clone], true)?)?;
        }
    }
    Ok(())
}

/// `zfs rollback`.
pub(super) fn rollback(opened: &OpenPool, options: &Rollback) -> Result<Vec<NvList>> {
    let name = &options.snapshot;
    let (fs, snap) =
        name.split_once('@').with_context(|| format!("{name}: a snapshot's name is DATASET@NAME"))?;
    let head = dataset(opened, fs)?;
    let target = dataset(opened, name)?;
    let newer: Vec<Arc<Dataset>> =
        head.snapshots()?.into_iter().skip_while(|s| s.name() != *name).skip(1).collect();
    let marks = head.bookmarks()?.into_iter().filter(|mark| mark.creation_txg > target.creation_txg());
    let names: Vec<String> = newer.iter().map(|s| s.name()).chain(marks.map(|mark| mark.name)).collect();
    let destroy = options.destroy_newer || options.destroy_clones;
    if !names.is_empty() && !destroy {
        bail!(
            "{name}: there are newer snapshots or bookmarks ({}): use -r to destroy them",
            names.join(", ")
        );
    }
    if options.destroy_clones {
        destroy_clones(opened, &newer)?;
    } else {
        let clones = newer.iter().map(|s| s.clones()).collect::<Result<Vec<_>, _>>()?.concat();
        ensure!(
            clones.is_empty(),
            "{name}: newer snapshots have clones ({}): use -R to destroy them",
            clones.join(", ")
        );
    }
    replay(opened, head)?;
    let done = opened.pool.dsl().rollback(fs, snap, destroy);
    done.with_context(|| format!("cannot roll back to {name}"))?;
    let target = NvList::new().with("target", name.as_str());
    Ok(vec![request::request("rollback", target.clone()).with("out_nvl", target)])
}

/// `zfs clone`.
pub(super) fn clone(opened: &OpenPool, options: &Clone) -> Result<Vec<NvList>> {
    dataset(opened, &options.snapshot)?;
    if options.parents {
        if opened.pool.dsl().lookup(&options.dataset).is_ok() {
            return Ok(Vec::new());
        }
        ancestors(opened, &options.dataset)?;
    }
    let properties = pairs(&options.properties);
    let done = opened.pool.dsl().clone_snapshot(&options.snapshot, &options.dataset, &properties);
    done.with_context(|| format!("cannot clone {} as {}", options.snapshot, options.dataset))?;
    let input = NvList::new().with("origin", options.snapshot.as_str());
    Ok(vec![request::request("clone", input.with("props", request::properties(&options.properties)))])
}

/// `zfs bookmark`. Either name may be short: `@snap` and `#mark` are of the dataset that the other one names.
pub(super) fn bookmark(opened: &OpenPool, options: &Bookmark) -> Result<Vec<NvList>> {
    let of = |name: &str| name.split(['@', '#']).next().unwrap_or_default().to_owned();
    let (mut source, mut new) = (options.source.clone(), options.bookmark.clone());
    ensure!(source.contains(['@', '#']), "{source}: the source is a snapshot or a bookmark");
    ensure!(new.contains('#'), "{new}: a bookmark's name is DATASET#NAME");
    if new.starts_with('#') {
        new = of(&source) + &new;
    } else if source.starts_with(['@', '#']) {
        source = of(&new) + &source;
    }
    let done = opened.pool.dsl().create_bookmarks(&[(&new, &source)]);
    done.with_context(|| format!("cannot create bookmark {new} of {source}"))?;
    Ok(vec![request::request("bookmark", NvList::new().with(&new, source.as_str()))])
}
