//! `tarn zfs diff`: what differs between a snapshot and a later state, by path.
//!
//! Both states are walked and compared by object number and generation, so that a renamed file is known as such.

use super::select::dataset;
use crate::cli::zfs::Diff;
use crate::commands::open::OpenPool;
use crate::output::show_name;
use anyhow::{Context, Result, bail, ensure};
use std::collections::{BTreeMap, HashMap};
use std::io::{BufWriter, Write};
use std::process::ExitCode;
use std::sync::Arc;
use zfs::dsl::Dataset;
use zfs::zpl::{Attr, FileKind, Filesystem, MountOptions};

/// A file in one state: its attributes and all its paths, sorted.
struct File {
    attr: Attr,
    paths: Vec<Vec<u8>>,
}

/// One line of the output.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Change {
    path: Vec<u8>,
    /// `+`, `-`, `M` or `R`.
    what: char,
    to: Option<Vec<u8>>,
    /// Change of the number of links.
    links: i64,
    kind: char,
}

/// Prints what differs.
pub(super) fn run(opened: &OpenPool, options: &Diff) -> Result<ExitCode> {
    let from = dataset(opened, &options.from)?;
    ensure!(from.is_snapshot(), "{}: the first is a snapshot, DATASET@NAME", options.from);
    let head = options.from.split('@').next().unwrap_or_default();
    let to = match &options.to {
        // `zfs diff fs@a @b` is allowed.
        Some(to) if to.starts_with('@') => dataset(opened, &format!("{head}{to}"))?,
        Some(to) => dataset(opened, to)?,
        None => dataset(opened, head)?,
    };
    if to.is_snapshot() && to.creation_txg() < from.creation_txg() {
        bail!("{}: is older than {}", to.name(), from.name());
    }
    let (before, after) = (walk(opened, &from)?, walk(opened, &to)?);
    let changes = compare(&before, &after);
    let mut out = BufWriter::new(std::io::stdout().lock());
    if options.count {
        let count = |what: char| changes.iter().filter(|c| c.what == what).count();
        let (added, removed) = (count('+'), count('-'));
        writeln!(out, "{added} added, {removed} removed, {} modified, {} renamed", count('M'), count('R'))?;
    } else {
        for change in &changes {
            line(change, options, &mut out)?;
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn line(change: &Change, options: &Diff, out: &mut dyn Write) -> Result<()> {
    write!(out, "{}\t", change.what)?;
    if options.classify {
        write!(out, "{}\t", change.kind)?;
    }
    write!(out, "{}", show_name(&change.path))?;
    if let Some(to) = &change.to {
        write!(out, "{}{}", if options.script { "\t" } else { " -> " }, show_name(to))?;
    }
    if change.links != 0 {
        write!(out, "\t({:+})", change.links)?;
    }
    Ok(writeln!(out)?)
}

/// All files of a dataset by object number.
fn walk(opened: &OpenPool, dataset: &Arc<Dataset>) -> Result<HashMap<u64, File>> {
    let name = dataset.name();
    let options = MountOptions { read_only: true, no_atime: true };
    let mounted = Filesystem::mount(&opened.pool, Arc::clone(dataset), options);
    let fs = mounted.with_context(|| name.clone())?;
    let mut files = HashMap::new();
    let root = fs.root();
    files.insert(root, File { attr: fs.getattr(root)?, paths: vec![b"/".to_vec()] });
    let mut pending = vec![(root, Vec::new())];
    while let Some((directory, path)) = pending.pop() {
        let mut cookie = 0;
        loop {
            let batch = fs.readdir(directory, cookie, 1024).with_context(|| name.clone())?;
            let Some(last) = batch.last() else { break };
            ensure!(last.cookie != cookie, "{name}: a directory that never ends");
            cookie = last.cookie;
            for entry in batch {
                let full = [path.as_slice(), b"/", &entry.name].concat();
                if let Some(known) = files.get_mut(&entry.object) {
                    // A second name. A directory has none, or the image is damaged and the walk would never end.
                    ensure!(known.attr.kind() != FileKind::Directory, "{name}: a directory with two names");
                    known.paths.push(full);
                    continue;
                }
                let attr = fs.getattr(entry.object).with_context(|| show_name(&full))?;
                if attr.kind() == FileKind::Directory {
                    pending.push((entry.object, full.clone()));
                }
                files.insert(entry.object, File { attr, paths: vec![full] });
            }
        }
    }
    files.values_mut().for_each(|file| file.paths.sort());
    Ok(files)
}

fn compare(before: &HashMap<u64, File>, after: &HashMap<u64, File>) -> Vec<Change> {
    let mut changes: BTreeMap<Vec<u8>, Vec<Change>> = BTreeMap::new();
    let mut add = |change: Change| changes.entry(change.path.clone()).or_default().push(change);
    let single = |path: &[u8], what, attr: &Attr| Change {
        path: path.to_vec(),
        what,
        to: None,
        links: 0,
        kind: classify(attr.kind()),
    };
    for (object, old) in before {
        match after.get(object) {
            Some(new) if same_file(&old.attr, &new.attr) => {
                let kept = old.paths.iter().find(|path| new.paths.contains(path));
                let links = new.paths.len() as i64 - old.paths.len() as i64;
                match (kept, old.paths.first(), new.paths.first()) {
                    (None, Some(from), Some(to)) => {
                        add(Change { to: Some(to.clone()), links, ..single(from, 'R', &new.attr) });
                    }
                    (Some(path), ..) if links != 0 || modified(&old.attr, &new.attr) => {
                        add(Change { links, ..single(path, 'M', &new.attr) });
                    }
                    _ => {}
                }
            }
            _ => old.paths.iter().for_each(|path| add(single(path, '-', &old.attr))),
        }
    }
    for (object, new) in after {
        if !before.get(object).is_some_and(|old| same_file(&old.attr, &new.attr)) {
            new.paths.iter().for_each(|path| add(single(path, '+', &new.attr)));
        }
    }
    changes
        .into_values()
        .flat_map(|mut list| {
            list.sort();
            list
        })
        .collect()
}

/// An object number may have been used again for another file.
fn same_file(old: &Attr, new: &Attr) -> bool {
    old.generation == new.generation && old.kind() == new.kind()
}

/// Reading a file is no change, nor is where its blocks are.
fn modified(old: &Attr, new: &Attr) -> bool {
    let key = |a: &Attr| (a.mode, a.uid, a.gid, a.size, a.rdev, a.flags, a.project);
    let times = |a: &Attr| (a.mtime.sec, a.mtime.nsec, a.ctime.sec, a.ctime.nsec);
    key(old) != key(new) || times(old) != times(new)
}

/// The letter of `zfs diff -F`.
fn classify(kind: FileKind) -> char {
    match kind {
        FileKind::Regular => 'F',
        FileKind::Directory => '/',
        FileKind::Symlink => '@',
        FileKind::Fifo => '|',
        FileKind::Socket => '=',
        FileKind::CharDevice => 'C',
        FileKind::BlockDevice => 'B',
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zfs::zpl::Timespec;

    fn file(object: u64, generation: u64, mtime: i64, paths: &[&str]) -> (u64, File) {
        let time = Timespec { sec: mtime, nsec: 0 };
        let attr = Attr {
            object,
            generation,
            mode: 0o100_644,
            uid: 0,
            gid: 0,
            size: 1,
            nlink: paths.len() as u64,
            rdev: 0,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            blocks: 1,
            block_size: 512,
            flags: 0,
            project: 0,
        };
        (object, File { attr, paths: paths.iter().map(|p| p.as_bytes().to_vec()).collect() })
    }

    #[test]
    fn changes_are_told_apart() {
        let before: HashMap<_, _> = [
            file(1, 1, 1, &["/same"]),
            file(2, 1, 1, &["/changed"]),
            file(3, 1, 1, &["/gone"]),
            file(4, 1, 1, &["/old"]),
            file(5, 1, 1, &["/reused"]),
            file(6, 1, 1, &["/linked"]),
        ]
        .into();
        let after: HashMap<_, _> = [
            file(1, 1, 1, &["/same"]),
            file(2, 1, 2, &["/changed"]),
            file(4, 1, 1, &["/renamed"]),
            file(5, 9, 1, &["/reused"]),
            file(6, 1, 1, &["/linked", "/linked2"]),
            file(7, 1, 1, &["/new"]),
        ]
        .into();
        let shown: Vec<String> = compare(&before, &after)
            .iter()
            .map(|c| {
                let to = c.to.as_ref().map_or(String::new(), |t| format!(" {}", String::from_utf8_lossy(t)));
                format!(
                    "{}{}{to}{}",
                    c.what,
                    String::from_utf8_lossy(&c.path),
                    if c.links != 0 { " links" } else { "" }
                )
            })
            .collect();
        let want =
            ["M/changed", "-/gone", "M/linked links", "+/new", "R/old /renamed", "+/reused", "-/reused"];
        assert_eq!(shown, want);
    }
}
