//! What an image is made from: a tree of files with their metadata, sorted, and their content on demand.
//!
//! # Invariants
//! - [`Tree::entries`] holds the root first, and every directory before what it holds; siblings are sorted by their
//!   bytes. So one order of creation belongs to one tree, whatever order the source had: images are reproducible, and a
//!   directory and a tar of it give the same image.
//! - A hard link comes after the file it refers to, and refers to an entry that is no link itself.
//! - No name is empty, `.`, `..`, or holds `/` or a zero byte; none is longer than 255 bytes.

pub mod dir;
pub mod pipeline;
pub mod tar;

use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// Longest name of a file in bytes (`ZAP_MAXNAMELEN` less its terminator).
pub const NAME_MAX: usize = 255;

/// A point in time: seconds since 1970 and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord)]
pub struct Time {
    /// Seconds, negative before 1970.
    pub sec: i64,
    /// 0 to 999 999 999.
    pub nsec: u32,
}

/// What all kinds of files have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Meta {
    /// Permission bits with set-uid, set-gid and sticky: 0 to 0o7777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Access time.
    pub atime: Time,
    /// Modification time.
    pub mtime: Time,
    /// Extended attributes with their namespace (`user.x`), sorted by name.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Holds others.
    Directory,
    /// `size` bytes that a [`Content`] reads.
    File {
        /// Length in bytes.
        size: u64,
        /// Bytes that the source has allocated for it, for estimates.
        allocated: u64,
        /// What the source calls it: an index or an offset.
        token: u64,
    },
    /// Symbolic link to this target.
    Symlink(Vec<u8>),
    /// Another name of the entry with this index.
    HardLink(usize),
    /// Character device, major and minor number.
    CharDevice(u32, u32),
    /// Block device, major and minor number.
    BlockDevice(u32, u32),
    /// Named pipe.
    Fifo,
}

/// One name in the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Index of the directory that holds it; the root holds itself.
    pub parent: usize,
    /// Its name there; empty for the root.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Mode, owner, times, attributes. Unused for a hard link.
    pub meta: Meta,
}

/// A range of a file that may hold data; between ranges are holes.
pub type Extent = std::ops::Range<u64>;

/// Reads the content of files, from several threads.
pub trait Content: Send + Sync {
    /// Fills `buf` from `offset` of the file with that token. A file that is shorter than it was is an error.
    fn read_at(&self, token: u64, offset: u64, buf: &mut [u8]) -> Result<()>;

    /// The parts of `range` that may hold data, in order.
    fn extents(&self, token: u64, range: Extent) -> Result<Vec<Extent>>;

    /// How people know the file.
    fn name(&self, token: u64) -> String;
}

/// A whole source.
pub struct Tree {
    /// The root first.
    pub entries: Vec<Entry>,
    /// Reads files.
    pub content: Box<dyn Content>,
    /// What was left out, in words.
    pub notes: Vec<String>,
}

/// Sums over a tree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Entries of all kinds, the root included.
    pub entries: u64,
    /// Regular files (hard links not counted again).
    pub files: u64,
    /// Their lengths in bytes.
    pub bytes: u64,
    /// What their source has allocated for them, in bytes.
    pub allocated: u64,
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tree")
            .field("entries", &self.entries)
            .field("notes", &self.notes)
            .finish_non_exhaustive()
    }
}

impl Tree {
    /// Sums.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for entry in &self.entries {
            totals.entries += 1;
            if let Kind::File { size, allocated, .. } = entry.kind {
                totals.files += 1;
                totals.bytes = totals.bytes.saturating_add(size);
                totals.allocated = totals.allocated.saturating_add(allocated.min(size));
            }
        }
        totals
    }

    /// The path of an entry, for messages.
    #[must_use]
    pub fn path(&self, mut index: usize) -> String {
        let mut names = Vec::new();
        while index != 0 {
            names.push(crate::output::show_name(&self.entries[index].name));
            index = self.entries[index].parent;
        }
        names.reverse();
        format!("/{}", names.join("/"))
    }
}

/// Opens a directory or a tar.
pub fn open(path: &Path) -> Result<Tree> {
    let metadata = std::fs::metadata(path).with_context(|| path.display().to_string())?;
    if metadata.is_dir() {
        if path.join("oci-layout").is_file() && path.join("index.json").is_file() {
            bail!("{}: OCI image layouts are not supported yet", path.display());
        }
        return dir::open(path);
    }
    ensure!(metadata.is_file(), "{}: neither a directory nor a tar file", path.display());
    tar::open(path).with_context(|| path.display().to_string())
}

/// An empty root file system.
#[must_use]
pub fn empty() -> Tree {
    struct Nothing;
    impl Content for Nothing {
        fn read_at(&self, _token: u64, _offset: u64, _buf: &mut [u8]) -> Result<()> {
            bail!("an empty source has no files")
        }
        fn extents(&self, _token: u64, _range: Extent) -> Result<Vec<Extent>> {
            Ok(Vec::new())
        }
        fn name(&self, _token: u64) -> String {
            String::new()
        }
    }
    let meta = Meta { mode: 0o755, ..Meta::default() };
    let root = Entry { parent: 0, name: Vec::new(), kind: Kind::Directory, meta };
    Tree { entries: vec![root], content: Box::new(Nothing), notes: Vec::new() }
}

/// Checks one component of a path from a source.
pub(crate) fn check_name(name: &[u8]) -> Result<()> {
    ensure!(
        !name.is_empty() && name != b"." && name != b"..",
        "{:?} is no name",
        String::from_utf8_lossy(name)
    );
    ensure!(!name.iter().any(|b| matches!(b, b'/' | 0)), "a name holds a slash or a zero byte");
    if name.len() > NAME_MAX {
        bail!(
            "name of {} bytes; ZFS allows {NAME_MAX}: {}",
            name.len(),
            crate::output::show_name(&name[..32])
        );
    }
    Ok(())
}

/// What an unsorted source collects: by path, so that it comes out sorted.
#[derive(Debug, Default)]
pub(crate) struct Collector {
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    children: BTreeMap<Vec<u8>, usize>,
    /// None: a directory that was only implied by a path below it.
    content: Option<(Pending, Meta)>,
}

/// An entry's kind while links are still paths.
#[derive(Debug)]
pub(crate) enum Pending {
    /// Anything but a hard link.
    Kind(Kind),
    /// Hard link to the node with this number.
    Link(usize),
}

impl Collector {
    pub(crate) fn new() -> Self {
        Collector { nodes: vec![Node { children: BTreeMap::new(), content: None }] }
    }

    /// The node at a path, made if missing; directories on the way are implied.
    pub(crate) fn node<'a>(&mut self, path: impl IntoIterator<Item = &'a [u8]>) -> Result<usize> {
        let mut at = 0;
        for name in path {
            check_name(name)?;
            if let Some((Pending::Kind(kind), _)) = &self.nodes[at].content {
                ensure!(
                    matches!(kind, Kind::Directory),
                    "a file lies below something that is no directory: {}",
                    crate::output::show_name(name)
                );
            }
            at = match self.nodes[at].children.get(name) {
                Some(&child) => child,
                None => {
                    self.nodes.push(Node { children: BTreeMap::new(), content: None });
                    let child = self.nodes.len() - 1;
                    self.nodes[at].children.insert(name.to_vec(), child);
                    child
                }
            };
        }
        Ok(at)
    }

    /// The node at a path, if it is there.
    pub(crate) fn find<'a>(&self, path: impl IntoIterator<Item = &'a [u8]>) -> Option<usize> {
        path.into_iter().try_fold(0, |at, name| self.nodes[at].children.get(name).copied())
    }

    /// Says what a node is. The last word counts, as when a tar is extracted.
    pub(crate) fn set(&mut self, node: usize, pending: Pending, meta: Meta) -> Result<()> {
        if !matches!(pending, Pending::Kind(Kind::Directory)) {
            ensure!(
                self.nodes[node].children.is_empty(),
                "a directory with files in it is replaced by something else"
            );
            ensure!(node != 0, "the root must be a directory");
        }
        self.nodes[node].content = Some((pending, meta));
        Ok(())
    }

    /// The sorted entries. Directories that were only implied get `implied`.
    pub(crate) fn finish(mut self, implied: &Meta) -> Result<Vec<Entry>> {
        let mut entries: Vec<Entry> = Vec::with_capacity(self.nodes.len());
        let mut index_of = vec![usize::MAX; self.nodes.len()];
        let mut links: Vec<(usize, usize)> = Vec::new();
        // Depth first; a stack, because depth is the source's choice.
        let mut stack = vec![(0_usize, 0_usize, Vec::new())];
        while let Some((node, parent, name)) = stack.pop() {
            let index = entries.len();
            let content = self.nodes[node].content.take();
            let (pending, meta) =
                content.unwrap_or_else(|| (Pending::Kind(Kind::Directory), implied.clone()));
            let kind = match pending {
                Pending::Kind(kind) => kind,
                Pending::Link(target) => {
                    links.push((index, target));
                    Kind::HardLink(usize::MAX)
                }
            };
            index_of[node] = index;
            entries.push(Entry { parent, name, kind, meta });
            let children = std::mem::take(&mut self.nodes[node].children);
            stack.extend(children.into_iter().rev().map(|(name, child)| (child, index, name)));
        }
        for (index, target) in links {
            resolve(&mut entries, index, index_of[target])?;
        }
        Ok(entries)
    }
}

/// Makes the entry at `link` a hard link to what `target` is; of all names, the first in the order carries the content.
fn resolve(entries: &mut [Entry], link: usize, target: usize) -> Result<()> {
    let mut first = target;
    // A chain of links is as long as there are entries at most; a longer one goes in a circle.
    for _ in 0..entries.len() {
        match entries[first].kind {
            Kind::HardLink(next) if next != usize::MAX => first = next,
            _ => break,
        }
    }
    ensure!(
        !matches!(entries[first].kind, Kind::Directory | Kind::HardLink(_)),
        "a hard link refers to a directory or to another link that comes later"
    );
    if first < link {
        entries[link].kind = Kind::HardLink(first);
        return Ok(());
    }
    // The link is sorted before its target: they swap roles, and whoever referred to the target follows.
    entries[link].kind = std::mem::replace(&mut entries[first].kind, Kind::HardLink(link));
    entries[link].meta = std::mem::take(&mut entries[first].meta);
    for entry in entries.iter_mut() {
        if entry.kind == Kind::HardLink(first) {
            entry.kind = Kind::HardLink(link);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(size: u64) -> Pending {
        Pending::Kind(Kind::File { size, allocated: size, token: size })
    }

    fn path(text: &str) -> impl Iterator<Item = &[u8]> {
        text.split('/').map(str::as_bytes)
    }

    fn add(c: &mut Collector, at: &str, pending: Pending) -> Result<usize> {
        let node = c.node(path(at))?;
        c.set(node, pending, Meta::default())?;
        Ok(node)
    }

    #[test]
    fn entries_come_out_sorted_and_parents_first() {
        let mut c = Collector::new();
        for name in ["z", "b/y", "b/a", "a.b", "a/c"] {
            add(&mut c, name, file(1)).unwrap();
        }
        let entries = c.finish(&Meta { mode: 0o755, ..Meta::default() }).unwrap();
        let names: Vec<_> = entries.iter().map(|e| String::from_utf8_lossy(&e.name).into_owned()).collect();
        assert_eq!(names, ["", "a", "c", "a.b", "b", "a", "y", "z"]);
        assert!(entries.iter().enumerate().all(|(i, e)| e.parent < i || i == 0));
        assert_eq!(entries[1].meta.mode, 0o755);
    }

    #[test]
    fn the_first_name_of_a_file_carries_it() {
        let mut c = Collector::new();
        let target = add(&mut c, "m", file(9)).unwrap();
        for name in ["z", "a", "n", "A"] {
            add(&mut c, name, Pending::Link(target)).unwrap();
        }
        let entries = c.finish(&Meta::default()).unwrap();
        assert!(matches!(entries[1].kind, Kind::File { size: 9, .. }));
        assert!(entries[2..].iter().all(|e| e.kind == Kind::HardLink(1)), "{entries:?}");
    }

    #[test]
    fn links_to_directories_and_circles_are_refused() {
        let mut c = Collector::new();
        let dir = add(&mut c, "d", Pending::Kind(Kind::Directory)).unwrap();
        add(&mut c, "l", Pending::Link(dir)).unwrap();
        assert!(c.finish(&Meta::default()).is_err());
        let mut c = Collector::new();
        let (a, b) = (c.node(path("a")).unwrap(), c.node(path("b")).unwrap());
        c.set(a, Pending::Link(b), Meta::default()).unwrap();
        c.set(b, Pending::Link(a), Meta::default()).unwrap();
        assert!(c.finish(&Meta::default()).is_err());
    }

    #[test]
    fn names_are_checked() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"a\0b", &[b'x'; 256]] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        assert!(check_name(&[b'x'; 255]).is_ok());
    }

    #[test]
    fn a_file_is_no_directory() {
        let mut c = Collector::new();
        add(&mut c, "f", file(1)).unwrap();
        assert!(add(&mut c, "f/x", file(1)).is_err());
        let mut c = Collector::new();
        add(&mut c, "d/x", file(1)).unwrap();
        assert!(add(&mut c, "d", file(1)).is_err());
    }
}
