//! Which datasets a verb is about.

use crate::commands::open::OpenPool;
use anyhow::{Context, Result, bail};
use std::sync::Arc;
use zfs::Error;
use zfs::dsl::{Bookmark, Dataset, Kind};

/// Something that has a name and properties.
pub(super) enum Item {
    /// File system, volume or snapshot.
    Dataset(Arc<Dataset>),
    /// Bookmark.
    Bookmark(Bookmark),
}

/// Types of things, as `-t` names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Types {
    pub(super) filesystems: bool,
    pub(super) volumes: bool,
    pub(super) snapshots: bool,
    pub(super) bookmarks: bool,
}

impl Types {
    /// What is meant if nothing is said.
    pub(super) const DATASETS: Types =
        Types { filesystems: true, volumes: true, snapshots: false, bookmarks: false };

    /// Reads `-t`.
    pub(super) fn parse(words: &[String]) -> Result<Option<Self>> {
        let mut types = Types { filesystems: false, volumes: false, snapshots: false, bookmarks: false };
        for word in words {
            match word.as_str() {
                "filesystem" | "filesystems" | "fs" => types.filesystems = true,
                "volume" | "volumes" | "vol" => types.volumes = true,
                "snapshot" | "snapshots" | "snap" => types.snapshots = true,
                "bookmark" | "bookmarks" => types.bookmarks = true,
                "all" => types = Types { filesystems: true, volumes: true, snapshots: true, bookmarks: true },
                other => bail!("-t {other}: the types are filesystem, volume, snapshot, bookmark and all"),
            }
        }
        Ok((!words.is_empty()).then_some(types))
    }

    fn has(self, kind: Kind) -> bool {
        match kind {
            Kind::Filesystem => self.filesystems,
            Kind::Volume => self.volumes,
            Kind::Snapshot => self.snapshots,
        }
    }
}

/// One dataset by its full name.
pub(super) fn dataset(opened: &OpenPool, name: &str) -> Result<Arc<Dataset>> {
    match opened.pool.dsl().lookup(name) {
        Err(Error::NotFound) => bail!("{name}: no such dataset on {}", opened.name()),
        Err(Error::Invalid(why)) => bail!("{name}: {why}"),
        other => other.with_context(|| name.to_owned()),
    }
}

/// A dataset and all below it.
pub(super) fn with_descendants(dataset: Arc<Dataset>) -> Result<Vec<Arc<Dataset>>> {
    let mut all = vec![dataset];
    let mut next = 0;
    while let Some(dataset) = all.get(next) {
        let mut children = dataset.children()?;
        all.append(&mut children);
        next += 1;
    }
    Ok(all)
}

/// The snapshots of a dataset and of all below it whose name ends like `name`'s after the `@`, by full name.
pub(super) fn same_named(head: &Arc<Dataset>, name: &str) -> Result<Vec<String>> {
    let short = name.split_once('@').map_or("", |(_, short)| short);
    let mut found = Vec::new();
    for dataset in with_descendants(Arc::clone(head))? {
        let full = format!("{}@{short}", dataset.name());
        if dataset.snapshots()?.iter().any(|snapshot| snapshot.name() == full) {
            found.push(full);
        }
    }
    Ok(found)
}

/// All items of the given types: those named, or all. `depth` is how far below the named ones to go.
pub(super) fn select(
    opened: &OpenPool,
    names: &[String],
    types: Option<Types>,
    depth: usize,
) -> Result<Vec<Item>> {
    let mut items = Vec::new();
    if names.is_empty() {
        let types = types.unwrap_or(Types::DATASETS);
        walk(&opened.pool.dsl().root()?, types, usize::MAX, &mut items)?;
        return Ok(items);
    }
    for name in names {
        if name.contains('#') {
            let found = opened.pool.dsl().lookup_bookmark(name);
            items.push(Item::Bookmark(found.with_context(|| format!("{name}: on {}", opened.name()))?));
            continue;
        }
        let named = dataset(opened, name.trim_end_matches('/'))?;
        if named.is_snapshot() {
            items.push(Item::Dataset(named));
        } else {
            // `list -t snapshot FS` means the snapshots of FS.
            let own = types.is_some_and(|t| t.snapshots || t.bookmarks);
            walk(
                &named,
                types.unwrap_or(Types::DATASETS),
                if own { depth.max(1) } else { depth },
                &mut items,
            )?;
        }
    }
    Ok(items)
}

/// A dataset, its snapshots and bookmarks (which count as one level below it), and its children.
fn walk(root: &Arc<Dataset>, types: Types, depth: usize, items: &mut Vec<Item>) -> Result<()> {
    // A stack, because the depth is the pool's choice.
    let mut pending = vec![(Arc::clone(root), depth)];
    while let Some((dataset, depth)) = pending.pop() {
        let name = dataset.name();
        let kind = dataset.kind().with_context(|| name.clone())?;
        if types.has(kind) {
            items.push(Item::Dataset(Arc::clone(&dataset)));
        }
        if depth == 0 {
            continue;
        }
        if types.snapshots {
            items.extend(dataset.snapshots().with_context(|| name.clone())?.into_iter().map(Item::Dataset));
        }
        if types.bookmarks {
            items.extend(dataset.bookmarks().with_context(|| name.clone())?.into_iter().map(Item::Bookmark));
        }
        let below = depth.saturating_sub(1);
        let children = dataset.children().with_context(|| name)?;
        pending.extend(children.into_iter().rev().map(|child| (child, below)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_read() {
        let parse = |words: &[&str]| Types::parse(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>());
        assert_eq!(parse(&[]).unwrap(), None);
        assert_eq!(parse(&["fs", "volume"]).unwrap(), Some(Types::DATASETS));
        assert!(parse(&["all"]).unwrap().unwrap().bookmarks);
        assert!(parse(&["file"]).is_err());
        assert!(!Types::DATASETS.has(Kind::Snapshot));
    }
}
