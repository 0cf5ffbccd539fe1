//! The tree of mounted file systems, and the walk from a path to a file.
//!
//! A [`Place`] is a file together with the way that led to it, so that `..` and `getcwd` need no parent pointers in
//! the file systems and cross mounts correctly. Places are made by walking and are not shared.
//!
//! Lock order: the mount table alone; no lock is held while a file system is called.

use crate::errno::{Errno, Result};
use crate::inode::{FileSystem, Inode};
use crate::types::{FileType, NAME_MAX, PATH_MAX};
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
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
    /// Its absolute path, as it was walked.
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
        if path.is_empty() { b"/".to_vec() } else { path }
    }

    /// A file that is not in the tree (a pipe, an unnamed file), to be shown as `name`.
    #[must_use]
    pub fn detached(inode: Arc<dyn Inode>, name: &[u8]) -> Arc<Self> {
        Arc::new(Place { inode, parent: None, name: name.to_vec() })
    }

    fn up(self: &Arc<Self>) -> Arc<Place> {
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
    root: Arc<Place>,
}

enum Step {
    Name(Vec<u8>),
    Up,
}

impl Tree {
    /// A tree whose root is the root of `fs`.
    #[must_use]
    pub fn new(fs: Arc<dyn FileSystem>) -> Self {
        let root = fs.root();
        let place = Arc::new(Place { inode: Arc::clone(&root), parent: None, name: Vec::new() });
        let mount = Arc::new(Mount { fs, path: b"/".to_vec(), over: None, root });
        Tree { mounts: RwLock::new(alloc::vec![mount]), root: place }
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
        self.mounts.write().push(Arc::new(Mount { fs, path: place.path(), over, root }));
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
        if inode.file_type() != FileType::Directory {
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
        let (start, mut steps, slash) = self.split(base, path)?;
        let place = self.walk(start, &mut steps, follow || slash, 0)?;
        if slash && place.inode.file_type() != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        Ok(place)
    }

    /// The directory that `path`'s last name is to be looked for in, without looking for it.
    /// [`Errno::EEXIST`] if the path has no last name (`/`, `.`, `a/..`).
    pub fn resolve_last(&self, base: &Arc<Place>, path: &[u8]) -> Result<Last> {
        let (start, mut steps, slash) = self.split(base, path)?;
        match steps.pop_back() {
            Some(Step::Name(name)) => {
                let dir = self.walk(start, &mut steps, true, 0)?;
                if dir.inode.file_type() != FileType::Directory {
                    return Err(Errno::ENOTDIR);
                }
                Ok(Last { dir, name, slash })
            }
            _ => Err(Errno::EEXIST),
        }
    }

    /// The file that `last` names, following a link at the end if `follow`.
    pub fn finish(&self, last: &Last, follow: bool) -> Result<Arc<Place>> {
        let mut steps = VecDeque::from([Step::Name(last.name.clone())]);
        self.walk(Arc::clone(&last.dir), &mut steps, follow, 0)
    }

    /// Where a link at `last`, if it is one, leads: the last name of its target, for creating through a dangling link.
    pub fn through_link(&self, last: &Last) -> Result<Last> {
        let target = self.child(&last.dir, &last.name)?.inode.readlink()?;
        self.resolve_last(&last.dir, &target)
    }

    fn split(&self, base: &Arc<Place>, path: &[u8]) -> Result<(Arc<Place>, VecDeque<Step>, bool)> {
        if path.is_empty() {
            return Err(Errno::ENOENT);
        }
        if path.len() >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let start = if path[0] == b'/' { self.root() } else { Arc::clone(base) };
        let mut steps = VecDeque::new();
        push_steps(&mut steps, path)?;
        let tail = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
        Ok((start, steps, tail.is_empty() || tail == b"."))
    }

    fn walk(
        &self,
        start: Arc<Place>,
        steps: &mut VecDeque<Step>,
        follow: bool,
        mut links: usize,
    ) -> Result<Arc<Place>> {
        let mut at = start;
        while let Some(step) = steps.pop_front() {
            let name = match step {
                Step::Up => {
                    at = at.up();
                    continue;
                }
                Step::Name(name) => name,
            };
            let next = self.child(&at, &name)?;
            let is_link = next.inode.file_type() == FileType::Symlink;
            if !is_link || steps.is_empty() && !follow {
                at = next;
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(Errno::ELOOP);
            }
            let target = next.inode.readlink()?;
            if target.is_empty() {
                return Err(Errno::ENOENT);
            }
            if target[0] == b'/' {
                at = self.root();
            }
            let mut ahead = VecDeque::new();
            push_steps(&mut ahead, &target)?;
            ahead.append(steps);
            *steps = ahead;
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

fn push_steps(steps: &mut VecDeque<Step>, path: &[u8]) -> Result<()> {
    for name in path.split(|b| *b == b'/') {
        match name {
            b"" | b"." => {}
            b".." => steps.push_back(Step::Up),
            _ if name.len() > NAME_MAX => return Err(Errno::ENAMETOOLONG),
            _ => steps.push_back(Step::Name(name.to_vec())),
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "path_tests.rs"]
mod tests;
