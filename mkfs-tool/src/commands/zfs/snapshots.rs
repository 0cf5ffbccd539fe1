//! `tarn zfs snapshot`, `rollback`, `clone` and `destroy`. Each returns its line for the pool's history.

use super::select::dataset;
use crate::cli::zfs::{Clone, Destroy, Rollback, Snapshot};
use crate::commands::open::OpenPool;
use anyhow::{Context, Result, bail, ensure};
use std::sync::Arc;
use zfs::Error;
use zfs::dsl::{Dataset, Kind};
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

/// A dataset and all below it.
fn with_descendants(dataset: Arc<Dataset>) -> Result<Vec<Arc<Dataset>>> {
    let mut all = vec![dataset];
    let mut next = 0;
    while let Some(dataset) = all.get(next) {
        let mut children = dataset.children()?;
        all.append(&mut children);
        next += 1;
    }
    Ok(all)
}

/// `zfs snapshot`: all of them in one transaction group, or none.
pub(super) fn snapshot(opened: &OpenPool, options: &Snapshot) -> Result<String> {
    for name in &options.snapshots {
        let (fs, _) =
            name.split_once('@').with_context(|| format!("{name}: a snapshot's name is DATASET@NAME"))?;
        let head = dataset(opened, fs)?;
        let heads = if options.recursive { with_descendants(head)? } else { vec![head] };
        heads.into_iter().try_for_each(|head| replay(opened, head))?;
    }
    let dsl = opened.pool.dsl();
    if options.recursive {
        for name in &options.snapshots {
            let (fs, snap) = name.split_once('@').unwrap_or((name, ""));
            dsl.create_snapshots_recursive(fs, snap)
                .with_context(|| format!("cannot create snapshot {name}"))?;
        }
    } else {
        let names: Vec<&str> = options.snapshots.iter().map(String::as_str).collect();
        dsl.create_snapshots(&names)
            .with_context(|| format!("cannot create snapshot {}", names.join(", ")))?;
    }
    let flag = if options.recursive { "-r " } else { "" };
    Ok(format!("zfs snapshot {flag}{}", options.snapshots.join(" ")))
}

/// `zfs rollback`.
pub(super) fn rollback(opened: &OpenPool, options: &Rollback) -> Result<String> {
    let name = &options.snapshot;
    let (fs, snap) =
        name.split_once('@').with_context(|| format!("{name}: a snapshot's name is DATASET@NAME"))?;
    let head = dataset(opened, fs)?;
    dataset(opened, name)?;
    let newer: Vec<String> =
        head.snapshots()?.iter().map(|s| s.name()).skip_while(|n| n != name).skip(1).collect();
    if !newer.is_empty() && !options.destroy_newer {
        bail!("{name}: there are newer snapshots ({}): use -r to destroy them", newer.join(", "));
    }
    replay(opened, head)?;
    let done = opened.pool.dsl().rollback(fs, snap, options.destroy_newer);
    done.with_context(|| format!("cannot roll back to {name}"))?;
    let flag = if options.destroy_newer { "-r " } else { "" };
    Ok(format!("zfs rollback {flag}{name}"))
}

/// `zfs clone`.
pub(super) fn clone(opened: &OpenPool, options: &Clone) -> Result<String> {
    dataset(opened, &options.snapshot)?;
    let properties: Vec<(&str, &str)> =
        options.properties.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let done = opened.pool.dsl().clone_snapshot(&options.snapshot, &options.dataset, &properties);
    done.with_context(|| format!("cannot clone {} as {}", options.snapshot, options.dataset))?;
    let words: String = options.properties.iter().map(|(k, v)| format!("-o {k}={v} ")).collect();
    Ok(format!("zfs clone {words}{} {}", options.snapshot, options.dataset))
}

/// `zfs destroy`.
pub(super) fn destroy(opened: &OpenPool, options: &Destroy) -> Result<String> {
    let names = match options.dataset.split_once('@') {
        Some((fs, list)) => snapshots_of(opened, fs, list, options.recursive)?,
        None => {
            dataset(opened, &options.dataset)?;
            ensure!(!options.defer, "-d is for snapshots");
            vec![options.dataset.clone()]
        }
    };
    for name in &names {
        if options.verbose || options.dry_run {
            println!("{} {name}", if options.dry_run { "would destroy" } else { "will destroy" });
        }
        if options.dry_run {
            continue;
        }
        match opened.pool.dsl().destroy(name, options.recursive, options.defer) {
            Err(Error::NotEmpty | Error::Exists) => {
                bail!("{name}: has snapshots or children: use -r to destroy them too")
            }
            Err(Error::Busy) => {
                bail!("{name}: is in use: a clone, a hold, or a mounted file system depends on it")
            }
            done => done.with_context(|| format!("cannot destroy {name}"))?,
        }
    }
    let flags: String =
        [(options.recursive, "-r "), (options.defer, "-d ")].iter().filter(|f| f.0).map(|f| f.1).collect();
    Ok(format!("zfs destroy {flags}{}", options.dataset))
}

/// `a`, `a,b`, `a%c` (from a to c), `%c`, `a%`: the snapshots that are meant.
fn snapshots_of(opened: &OpenPool, fs: &str, list: &str, recursive: bool) -> Result<Vec<String>> {
    let head = dataset(opened, fs)?;
    let existing: Vec<String> = head.snapshots()?.iter().map(|s| s.name()).collect();
    let shorts: Vec<&str> = existing.iter().filter_map(|name| name.split_once('@').map(|(_, s)| s)).collect();
    let mut names = Vec::new();
    for part in list.split(',') {
        for short in
            range(&shorts, part).with_context(|| format!("{fs}@{part}: no such snapshot")).or_else(|e| {
                // With -r the snapshot may be on descendants only.
                if recursive && !part.contains('%') { Ok(vec![part]) } else { Err(e) }
            })?
        {
            names.push(format!("{fs}@{short}"));
        }
    }
    Ok(names)
}

/// The names that one part of the list means; None if an end of it does not exist.
fn range<'a>(names: &[&'a str], part: &'a str) -> Option<Vec<&'a str>> {
    let position = |name: &str| names.iter().position(|n| *n == name);
    let (first, last) = match part.split_once('%') {
        None => position(part).map(|i| (i, i))?,
        Some((from, to)) => {
            let last = names.len().checked_sub(1)?;
            let first = if from.is_empty() { 0 } else { position(from)? };
            (first, if to.is_empty() { last } else { position(to)? })
        }
    };
    names.get(first..=last).map(<[&str]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_snapshots() {
        let names = ["a", "b", "c", "d"];
        assert_eq!(range(&names, "b"), Some(vec!["b"]));
        assert_eq!(range(&names, "b%c"), Some(vec!["b", "c"]));
        assert_eq!(range(&names, "%b"), Some(vec!["a", "b"]));
        assert_eq!(range(&names, "c%"), Some(vec!["c", "d"]));
        assert_eq!(range(&names, "%"), Some(names.to_vec()));
        assert_eq!(range(&names, "x"), None);
        assert_eq!(range(&names, "c%a"), None);
        assert_eq!(range(&[], "%"), None);
    }
}
