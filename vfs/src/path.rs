//! The tree of mounted file systems, and the walk from a path to a file.
//!
//! A [`Place`] is a file together with the way that led to it, so that `..` and `getcwd` need no parent pointers in
//! the file systems and cross mounts correctly. Places are made by walking and are not shared.
//!
//! Lock order: the mount table alone; no lock is held while a file system is called.

use crate::errno::{Errno, Result};
use crate::inode::{FileSystem, Inode};
use crate::types::{FileType, NAME_MAX, PATH_MAX};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use platform::sync::RwLock;

/// How many symbolic links one walk follows.
const MAX_LINKS: usize = 40;

/// A mounted file system and where it is.
pub struct Mount {
    /// The file system.
    pub fs: Arc<dyn FileSystem>,
    /// Its path in the tree.
    pub path: Vec<u8>,
    over: Option<(u64, u64)>,
    root: Arc<dyn Inode>,
}

/// A file and the way to it.
pub struct Place {
    /// The file.
    pub inode: Arc<dyn Inode>,
    parent: Option<Arc<Place>>,
    name: Vec<u8>,
}

impl Place {
    /// Its absolute path, as it was walked; what it is shown as if it is not in the tree.
    #[must_use]
    pub fn path(&self) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = self;
        while let Some(parent) = &at.parent {
            names.push(at.name.as_slice());
            at = parent;
        }
        let mut path = Vec::new();
        for name in names.into_iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        match (path.is_empty(), self.name.is_empty()) {
            (false, _) => path,
            (true, true) => b"/".to_vec(),
            (true, false) => self.name.clone(),
        }
    }

    /// The directory it was found in, and its name there; `None` for the root and for what is not in the tree.
    #[must_use]
    pub fn entry(&self) -> Option<(&Arc<Place>, &[u8])> {
        self.parent.as_ref().map(|parent| (parent, self.name.as_slice()))
    }

    /// A file that is not in the tree (a pipe, an unnamed file), to be shown as `name`.
    #[must_use]
    pub fn detached(inode: Arc<dyn Inode>, name: &[u8]) -> Arc<Self> {
        Arc::new(Place { inode, parent: None, name: name.to_vec() })
    }

    /// The directory above; of the root itself.
    pub(crate) fn up(self: &Arc<Self>) -> Arc<Place> {
        self.parent.as_ref().map_or_else(|| Arc::clone(self), Arc::clone)
    }
}

/// The end of a walk that may create: the directory, the last name, and whether a `/` followed it.
pub struct Last {
    /// The directory.
    pub dir: Arc<Place>,
    /// The name in it.
    pub name: Vec<u8>,
    /// The path ended in `/`: only a directory will do.
    pub slash: bool,
}

/// The tree of files.
pub struct Tree {
    mounts: RwLock<Vec<Arc<Mount>>>,
    /// A bit for each directory that something is mounted over, by its number: most directories need no look at the mounts.
    covered: AtomicU64,
    root: Arc<Place>,
}

impl Tree {
    /// A tree whose root is the root of `fs`.
    #[must_use]
    pub fn new(fs: Arc<dyn FileSystem>) -> Self {
        let root = fs.root();
        let place = Arc::new(Place { inode: Arc::clone(&root), parent: None, name: Vec::new() });
        let mount = Arc::new(Mount { fs, path: b"/".to_vec(), over: None, root });
        Tree { mounts: RwLock::new(alloc::vec![mount]), covered: AtomicU64::new(0), root: place }
    }

    /// The root directory.
    #[must_use]
    pub fn root(&self) -> Arc<Place> {
        Arc::clone(&self.root)
    }

    /// All mounts, in the order in which they were made.
    #[must_use]
    pub fn mounts(&self) -> Vec<Arc<Mount>> {
        self.mounts.read().clone()
    }

    /// Mounts `fs` over the directory at `path`.
    pub fn mount(&self, path: &[u8], fs: Arc<dyn FileSystem>) -> Result<()> {
        let place = self.resolve(&self.root, path, true)?;
        if place.inode.file_type() != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        let over = Some((place.inode.fs_id(), place.inode.ino()));
        let root = fs.root();
        let mut mounts = self.mounts.write();
        mounts.push(Arc::new(Mount { fs, path: place.path(), over, root }));
        self.covered.fetch_or(bit_of(&*place.inode), Ordering::Release);
        drop(mounts);
        Ok(())
    }

    /// Makes all file systems durable; the first error, after trying all.
    pub fn sync(&self) -> Result<()> {
        self.mounts().iter().map(|m| m.fs.sync()).fold(Ok(()), Result::and)
    }

    /// Lets go of all file systems, last mounted first.
    pub fn unmount_all(&self) -> Result<()> {
        let mounts = core::mem::take(&mut *self.mounts.write());
        mounts.iter().rev().map(|m| m.fs.unmount()).fold(Ok(()), Result::and)
    }

    /// Steps onto the root of whatever is mounted over `inode`.
    fn cross(&self, mut inode: Arc<dyn Inode>) -> Arc<dyn Inode> {
        if inode.file_type() != FileType::Directory
            || self.covered.load(Ordering::Acquire) & bit_of(&*inode) == 0
        {
            return inode;
        }
        let mounts = self.mounts.read();
        loop {
            let key = Some((inode.fs_id(), inode.ino()));
            // The newest mount over a place hides older ones.
            match mounts.iter().rev().find(|m| m.over == key) {
                Some(mount) => inode = Arc::clone(&mount.root),
                None => return inode,
            }
        }
    }

    fn child(&self, dir: &Arc<Place>, name: &[u8]) -> Result<Arc<Place>> {
        let inode = self.cross(dir.inode.lookup(name)?);
        Ok(Arc::new(Place { inode, parent: Some(Arc::clone(dir)), name: name.to_vec() }))
    }

    /// The file at `path`, seen from `base`. A symbolic link at the end is followed if `follow`.
    pub fn resolve(&self, base: &Arc<Place>, path: &[u8], follow: bool) -> Result<Arc<Place>> {
        let start = self.start(base, path)?;
        let slash = ends_as_directory(path);
        let place = self.walk(start, path, follow || slash, &mut 0)?;
        if slash && place.inode.file_type() != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        Ok(place)
    }

    /// The directory that `path`'s last name is to be looked for in, without looking for it.
    /// [`Errno::EEXIST`] if the path has no last name (`/`, `.`, `a/..`).
    pub fn resolve_last(&self, base: &Arc<Place>, path: &[u8]) -> Result<Last> {
        let start = self.start(base, path)?;
        let (before, name) = split_last(path);
        if name.is_empty() || name == b".." {
            return Err(Errno::EEXIST);
        }
        let dir = self.walk(start, before, true, &mut 0)?;
        if dir.inode.file_type() != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        check_length(&dir, name)?;
        Ok(Last { dir, name: name.to_vec(), slash: ends_as_directory(path) })
    }

    /// The file that `last` names, following a link at the end if `follow`.
    pub fn finish(&self, last: &Last, follow: bool) -> Result<Arc<Place>> {
        self.walk(Arc::clone(&last.dir), &last.name, follow, &mut 0)
    }

    /// Where a link at `last`, if it is one, leads: the last name of its target, for creating through a dangling link.
    pub fn through_link(&self, last: &Last) -> Result<Last> {
        let target = self.child(&last.dir, &last.name)?.inode.readlink()?;
        self.resolve_last(&last.dir, &target)
    }

    /// Where the walk along `path` begins.
    fn start(&self, base: &Arc<Place>, path: &[u8]) -> Result<Arc<Place>> {
        match path {
            [] => Err(Errno::ENOENT),
            _ if path.len() >= PATH_MAX => Err(Errno::ENAMETOOLONG),
            [b'/', ..] => Ok(self.root()),
            _ => Ok(Arc::clone(base)),
        }
    }

    /// Walks the names of `path` from `at`. `links` counts the symbolic links that were followed: so deep it calls itself, too.
    fn walk(&self, mut at: Arc<Place>, path: &[u8], follow: bool, links: &mut usize) -> Result<Arc<Place>> {
        let mut names = path.split(|b| *b == b'/').filter(|name| !matches!(name, [] | [b'.'])).peekable();
        while let Some(name) = names.next() {
            if name == b".." {
                at = at.up();
                continue;
            }
            check_length(&at, name)?;
            let next = self.child(&at, name)?;
            let is_link = next.inode.file_type() == FileType::Symlink;
            if !is_link || names.peek().is_none() && !follow {
                at = next;
                continue;
            }
            *links += 1;
            if *links > MAX_LINKS {
                return Err(Errno::ELOOP);
            }
            let target = next.inode.readlink()?;
            at = self.walk(self.start(&at, &target)?, &target, true, links)?;
        }
        Ok(at)
    }

    /// The contents of `/proc/mounts`.
    #[must_use]
    pub fn describe_mounts(&self) -> String {
        let mut text = String::new();
        for m in self.mounts() {
            let path = String::from_utf8_lossy(&m.path).into_owned();
            let mode = if m.fs.read_only() { "ro" } else { "rw" };
            let line = alloc::format!("{} {path} {} {mode} 0 0\n", m.fs.source(), m.fs.type_name());
            text.push_str(&line);
        }
        text
    }
}

/// Whether a name is not too long for the directory that it is looked for in.
fn check_length(dir: &Place, name: &[u8]) -> Result<()> {
    // Most names are short for every file system.
    let fits = name.len() <= NAME_MAX || name.len() <= dir.inode.name_max();
    if fits { Ok(()) } else { Err(Errno::ENAMETOOLONG) }
}

/// The bit of a directory in [`Tree`]'s set of those that something may be mounted over.
fn bit_of(inode: &dyn Inode) -> u64 {
    1 << (inode.ino() % u64::from(u64::BITS))
}

/// Whether only a directory can be meant: the path ends in `/` or `.`.
fn ends_as_directory(path: &[u8]) -> bool {
    let tail = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
    tail.is_empty() || tail == b"."
}

/// The last name of a path, and what is before it. Empty if there is none.
fn split_last(path: &[u8]) -> (&[u8], &[u8]) {
    let mut rest = path;
    loop {
        rest = match rest {
            [before @ .., b'/'] => before,
            [b'.'] => &[],
            [before @ .., b'/', b'.'] => before,
            _ => break,
        };
    }
    let at = rest.iter().rposition(|b| *b == b'/').map_or(0, |i| i + 1);
    rest.split_at(at)
}

#[cfg(test)]
#[path = "path_tests.rs"]
mod tests;
