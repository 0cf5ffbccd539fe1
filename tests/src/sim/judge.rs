//! What must be on the disks after a power cut.
//!
//! The state of a pool after a cut is made of what was promised and of parts of what was being done. Names in a file system are
//! those of one moment since its last promise. The content of a file may be newer than the names, or older, but never older than
//! its own last promise; where a write was under way, each byte is one that stood there at some moment in between.

use super::fixed_env;
use crate::model::{Model, Node, Rng, read_all};
use crate::tool::Zdb;
use crate::world::{Promise, State, mount, names, names_of};
use anyhow::{Context, Result, bail, ensure};
use platform::block::BlockDevice;
use platform::sim::Image;
use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use zfs::spa::{ImportOptions, Pool};

/// The moment an operation was done.
#[derive(Debug, Clone)]
pub struct Mark {
    /// The record's length then.
    pub at: usize,
    /// What it promised.
    pub promise: Promise,
    /// What the pool held.
    pub state: State,
    /// What was done.
    pub story: String,
}

/// The kind bits of a mode (`S_IFMT`).
const KIND: u32 = 0o170_000;

pub(super) fn import(devices: Vec<Arc<dyn BlockDevice>>) -> Result<Arc<Pool>> {
    Ok(Pool::import(devices, fixed_env(), ImportOptions { force: true, ..ImportOptions::default() })?)
}

/// No checksum error, no leak, no space used twice.
pub(super) fn verify(pool: &Arc<Pool>, whole: bool) -> Result<()> {
    let report = pool.verify(&mut |_| ())?;
    let harm = (report.damaged.len(), report.leaked, report.unallocated, report.doubly_allocated);
    ensure!(harm == (0, 0, 0, 0) && report.problems.is_empty(), "verify: {report:?}");
    ensure!(!whole || report.is_clean(), "verify: {report:?}");
    Ok(())
}

/// OpenZFS's own opinion of the disks of an exported pool.
pub fn zdb(images: &[Image], pool: &str, zdb: Zdb) -> Result<()> {
    let folder = tempfile::tempdir()?;
    for (i, image) in images.iter().enumerate() {
        let file = std::fs::File::create(folder.path().join(format!("disk{i}.img")))?;
        file.set_len(image.size())?;
        for (offset, data) in image.written() {
            file.write_all_at(data, offset)?;
        }
    }
    zdb.check(folder.path(), pool).map(|_| ())
}

/// What was promised and what was under way at one cut.
pub(super) struct Judge<'a> {
    marks: &'a [Mark],
    /// The last mark at which everything was promised.
    low: usize,
    /// The mark of the operation that was under way.
    high: usize,
}

impl<'a> Judge<'a> {
    pub(super) fn new(marks: &'a [Mark], cut: usize) -> Self {
        let done = marks.partition_point(|m| m.at <= cut);
        let low = marks[..done].iter().rposition(|m| m.promise == Promise::Pool).unwrap_or(0);
        Judge { marks, low, high: done.min(marks.len() - 1) }
    }

    /// The last mark that promised all names of a file system, and the last that promised all of its files.
    fn promised(&self, dataset: &str) -> (usize, usize) {
        let (mut names, mut files) = (self.low, self.low);
        // The operation at `high` is not done unless its mark is the last.
        for i in self.low..self.done() {
            match &self.marks[i].promise {
                Promise::File { dataset: d, .. } if d == dataset => names = i,
                Promise::Dataset(d) if d == dataset => (names, files) = (i, i),
                _ => {}
            }
        }
        (names, files)
    }

    fn done(&self) -> usize {
        self.high.max(1)
    }

    /// The last mark that promised one file's content.
    fn promised_file(&self, dataset: &str, identity: u64, files: usize) -> usize {
        let promises = |i: &usize| matches!(&self.marks[*i].promise, Promise::File { dataset: d, identity: f } if d == dataset && *f == identity);
        (files..self.done()).rev().find(promises).unwrap_or(files)
    }

    /// Everything in the pool is as it may be.
    pub(super) fn check(&self, pool: &Arc<Pool>, whole: bool, rng: &mut Rng) -> Result<()> {
        let found = names(pool)?;
        let possible: Vec<usize> =
            (self.low..=self.high).filter(|i| names_of(&self.marks[*i].state) == found).collect();
        let Some(state) = possible.first().map(|i| &self.marks[*i].state) else {
            bail!("datasets: found {found:?}, wanted {:?}", names_of(&self.marks[self.low].state));
        };
        for (name, dataset) in state {
            let fs = mount(pool, name, false).with_context(|| format!("mount {name}"))?;
            let files = read_all(&fs).with_context(|| name.clone())?;
            self.check_files(name, &files, &possible).with_context(|| name.clone())?;
            fs.unmount()?;
            for (snapshot, files) in &dataset.snapshots {
                if rng.below(3) == 0 {
                    let full = format!("{name}@{snapshot}");
                    let fs = mount(pool, &full, true)?;
                    crate::model::compare(&fs, files).with_context(|| full)?;
                }
            }
        }
        verify(pool, whole)
    }

    fn check_files(&self, dataset: &str, found: &Model, possible: &[usize]) -> Result<()> {
        let (names, files) = self.promised(dataset);
        let mut why = None;
        for i in possible.iter().filter(|i| **i >= names) {
            let Some(want) = self.marks[*i].state.get(dataset) else { continue };
            // Files may have exchanged their names from one state to the next: more than one can have the same names.
            let checked = same_names(&want.files, found)
                .with_context(|| format!("names, promised at mark {names} ({})", self.marks[names].story))
                .and_then(|()| self.check_contents(dataset, &want.files, found, files));
            match checked {
                Ok(()) => return Ok(()),
                Err(error) => why = why.or(Some(error)),
            }
        }
        Err(why.unwrap_or_else(|| anyhow::anyhow!("no state is possible")))
    }

    fn check_contents(&self, dataset: &str, want: &Model, found: &Model, files: usize) -> Result<()> {
        for (path, node) in want.files() {
            let from = self.promised_file(dataset, node.identity, files);
            let mut versions: Vec<Arc<Node>> = Vec::new();
            for mark in &self.marks[from..=self.high] {
                let Some(dataset) = mark.state.get(dataset) else { continue };
                let version = dataset.files.files().values().find(|n| n.identity == node.identity);
                if let Some(version) = version.filter(|v| versions.last().is_none_or(|last| last != *v)) {
                    versions.push(Arc::clone(version));
                }
            }
            may_be(&found.files()[path], &versions)
                .with_context(|| format!("{path}, promised at mark {from} ({})", self.marks[from].story))?;
        }
        Ok(())
    }
}

/// The same paths, of the same kinds, with the same hard links.
fn same_names(want: &Model, found: &Model) -> Result<()> {
    for path in found.files().keys() {
        ensure!(want.files().contains_key(path), "{path}: not wanted");
    }
    let mut objects = BTreeMap::new();
    for (path, node) in want.files() {
        let Some(other) = found.files().get(path) else { bail!("{path}: missing") };
        ensure!(node.mode & KIND == other.mode & KIND, "{path}: kind");
        let object = *objects.entry(node.identity).or_insert(other.identity);
        ensure!(object == other.identity, "{path}: hard link");
    }
    Ok(())
}

/// A file is as it was at some moment, or on its way from one to the next.
fn may_be(found: &Node, versions: &[Arc<Node>]) -> Result<()> {
    ensure!(!versions.is_empty(), "it did not exist since the last promise");
    let modes: Vec<String> = versions.iter().map(|v| format!("{:o}", v.mode)).collect();
    ensure!(versions.iter().any(|v| v.mode == found.mode), "mode {:o}, not {modes:?}", found.mode);
    let owners: Vec<u32> = versions.iter().map(|v| v.uid).collect();
    ensure!(owners.contains(&found.uid), "owner {}, not {owners:?}", found.uid);
    let keys = |n: &Node| n.xattrs.keys().cloned().collect::<Vec<_>>();
    let versions_keys: Vec<Vec<String>> = versions.iter().map(|v| keys(v)).collect();
    ensure!(
        versions_keys.contains(&keys(found)),
        "extended attributes {:?}, not {versions_keys:?}",
        keys(found)
    );
    for (name, value) in &found.xattrs {
        attribute(value, name, versions).with_context(|| format!("extended attribute {name}"))?;
    }
    let contents: Vec<&[u8]> = versions.iter().map(|v| &v.content[..]).collect();
    mixed(&found.content, &contents)
}

/// An attribute that is a file is made, sized and written one after the other (as in OpenZFS): while that is under way, it may be there with
/// only the beginning of its value.
fn attribute(found: &[u8], name: &str, versions: &[Arc<Node>]) -> Result<()> {
    let values: Vec<Option<&Vec<u8>>> = versions.iter().map(|v| v.xattrs.get(name)).collect();
    let under_way = values.windows(2).any(|pair| pair[0] != pair[1]);
    let mut values: Vec<&[u8]> = values.into_iter().flatten().map(|v| &v[..]).collect();
    if under_way {
        values.push(&[]);
    }
    mixed(found, &values)
}

/// One of the versions, or of each byte one that stood there.
fn mixed(found: &[u8], versions: &[&[u8]]) -> Result<()> {
    if versions.contains(&found) {
        return Ok(());
    }
    let sizes = (versions.iter().map(|v| v.len()).min(), versions.iter().map(|v| v.len()).max());
    let (Some(least), Some(most)) = sizes else { bail!("it did not exist since the last promise") };
    ensure!((least..=most).contains(&found.len()), "{} bytes: it had from {least} to {most}", found.len());
    for (i, byte) in found.iter().enumerate() {
        let stood = |v: &&[u8]| v.get(i).copied().unwrap_or(0) == *byte;
        ensure!(
            versions.iter().any(stood),
            "byte {i} of {} was never {byte:#x} in {} versions",
            found.len(),
            versions.len()
        );
    }
    Ok(())
}
