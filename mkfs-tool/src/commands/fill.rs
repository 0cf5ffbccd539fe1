//! Puts a tree into a file system.

use super::progress::Bar;
use super::view::make_device;
use crate::source::pipeline::Pipeline;
use crate::source::{Entry, Kind, Meta, Tree};
use anyhow::{Context, Result, bail};
use platform::Env;
use platform::clock::Timespec;
use std::sync::Arc;
use zfs::Error;
use zfs::zpl::{Durability, FileKind, Filesystem, New, SetAttr, Times, XattrMode};

/// How a tree is put in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct How {
    /// What the progress bar says.
    pub(crate) verb: &'static str,
    /// No progress bar.
    pub(crate) quiet: bool,
    /// Owners, times and attributes of the source; else all belongs to root and is as old as the copy.
    pub(crate) preserve: bool,
    /// All belongs to root, whatever else is preserved.
    pub(crate) all_root: bool,
    /// What there is may be there already.
    pub(crate) into: Into,
}

/// Where a tree is put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Into {
    /// A new file system, whose root becomes the tree's root.
    New,
    /// This directory. Directories that exist are gone into; other files that exist are replaced, or are an error.
    Directory {
        /// Its object.
        object: u64,
        /// Replace files that exist.
        replace: bool,
    },
}

/// Creates every entry in the tree's order, so that object numbers and allocations depend on the tree alone. Returns the bytes
/// of data that were written; holes are none.
pub(crate) fn fill(fs: &Filesystem, tree: &Arc<Tree>, how: How, env: &Env) -> Result<u64> {
    let total = tree.totals().allocated;
    let bar = Bar::bytes_of(how.verb, total, how.quiet);
    let pipeline = Pipeline::start(Arc::clone(tree), platform::thread::cpus().clamp(2, 8))?;
    let objects = vec![0; tree.entries.len()];
    let now = env.clock.now();
    let mut filler = Filler { fs, tree, how, now, objects, pipeline, bar, done: 0, total, written: 0 };
    filler.all()?;
    filler.bar.finish();
    Ok(filler.written)
}

struct Filler<'a> {
    fs: &'a Filesystem,
    tree: &'a Tree,
    how: How,
    /// Change and creation time of everything: this is when the files of the image were made.
    now: Timespec,
    /// Object numbers by entry.
    objects: Vec<u64>,
    pipeline: Pipeline,
    bar: Bar,
    /// What the source has allocated for the files that are done, and for all files, in bytes.
    done: u64,
    total: u64,
    /// Bytes of data written.
    written: u64,
}

impl Filler<'_> {
    fn all(&mut self) -> Result<()> {
        self.objects[0] = match self.how.into {
            Into::New => self.fs.root(),
            Into::Directory { object, .. } => object,
        };
        for (index, entry) in self.tree.entries.iter().enumerate().skip(1) {
            self.entry(index, entry).with_context(|| self.tree.path(index))?;
        }
        // Directories last: making their entries changed their times.
        for (index, entry) in self.tree.entries.iter().enumerate() {
            let given = index == 0 && self.how.into != Into::New;
            if entry.kind == Kind::Directory && !given {
                self.directory_times(index, entry).with_context(|| self.tree.path(index))?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, index: usize, entry: &Entry) -> Result<()> {
        let folder = self.objects[entry.parent];
        if let Into::Directory { replace, .. } = self.how.into
            && let Some(object) = self.make_room(folder, entry, replace)?
        {
            self.objects[index] = object;
            return self.attributes(object, &entry.meta);
        }
        if let Kind::HardLink(target) = entry.kind {
            let object = self.objects[target];
            self.fs.link(folder, &entry.name, object)?;
            // A link changes the file's change time, which must not depend on the clock's next look.
            self.fs.setattr(object, &SetAttr { ctime: Some(self.now), ..SetAttr::default() })?;
            return Ok(());
        }
        let object = self.fs.create(folder, &entry.name, &self.described(entry))?;
        self.objects[index] = object;
        self.attributes(object, &entry.meta)?;
        if let Kind::File { size, allocated, .. } = entry.kind
            && size > 0
        {
            self.content(index, object, size, allocated.min(size))?;
            self.times(object, &entry.meta)?;
        } else if !entry.meta.xattrs.is_empty() && entry.kind != Kind::Directory {
            self.times(object, &entry.meta)?;
        }
        Ok(())
    }

    /// Deals with what has the name already: the directory to go into, or nothing any more.
    fn make_room(&self, folder: u64, entry: &Entry, replace: bool) -> Result<Option<u64>> {
        let object = match self.fs.lookup(folder, &entry.name) {
            Ok(object) => object,
            Err(Error::NotFound) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let is_directory = self.fs.getattr(object)?.kind() == FileKind::Directory;
        match (is_directory, entry.kind == Kind::Directory) {
            (true, true) => return Ok(Some(object)),
            (true, false) => bail!("exists and is a directory"),
            (false, true) => bail!("exists and is no directory"),
            (false, false) if !replace => bail!("exists already: use --force to replace it"),
            (false, false) => self.fs.unlink(folder, &entry.name)?,
        }
        Ok(None)
    }

    fn described(&self, entry: &Entry) -> New {
        let (kind, rdev, target) = match &entry.kind {
            Kind::Directory => (FileKind::Directory, 0, Vec::new()),
            Kind::File { .. } | Kind::HardLink(_) => (FileKind::Regular, 0, Vec::new()),
            Kind::Symlink(target) => (FileKind::Symlink, 0, target.clone()),
            Kind::CharDevice(major, minor) => (FileKind::CharDevice, make_device(*major, *minor), Vec::new()),
            Kind::BlockDevice(major, minor) => {
                (FileKind::BlockDevice, make_device(*major, *minor), Vec::new())
            }
            Kind::Fifo => (FileKind::Fifo, 0, Vec::new()),
        };
        let (uid, gid) = self.owner(&entry.meta);
        New {
            umask: None,
            kind,
            mode: self.mode(&entry.meta),
            uid,
            gid,
            rdev,
            target,
            times: Some(self.all_times(&entry.meta)),
        }
    }

    fn owner(&self, meta: &Meta) -> (u32, u32) {
        if self.how.all_root || !self.how.preserve { (0, 0) } else { (meta.uid, meta.gid) }
    }

    /// Another user's set-uid file must not become root's.
    fn mode(&self, meta: &Meta) -> u32 {
        if self.how.preserve { meta.mode } else { meta.mode & 0o777 }
    }

    /// The access time is the modification time: reading the source changes the former, and images must be reproducible.
    fn all_times(&self, meta: &Meta) -> Times {
        if !self.how.preserve {
            return Times { atime: self.now, mtime: self.now, ctime: self.now, crtime: self.now };
        }
        let mtime = Timespec { sec: meta.mtime.sec, nsec: meta.mtime.nsec };
        Times { atime: mtime, mtime, ctime: self.now, crtime: self.now }
    }

    fn attributes(&self, object: u64, meta: &Meta) -> Result<()> {
        for (name, value) in meta.xattrs.iter().filter(|_| self.how.preserve) {
            self.fs
                .set_xattr(object, name, value, XattrMode::Any)
                .with_context(|| format!("extended attribute {}", crate::output::show_name(name)))?;
        }
        Ok(())
    }

    /// `allocated` is what the file counts in the progress: with holes it is far less than `size`.
    fn content(&mut self, index: usize, object: u64, size: u64, allocated: u64) -> Result<()> {
        let (mut end, mut data_len) = (0, 0_u64);
        loop {
            let Some(piece) = self.pipeline.take() else { bail!("the readers ended early") };
            let piece = piece?;
            if piece.entry != index {
                bail!("the readers are at another file");
            }
            for (offset, data) in &piece.data {
                self.fs.write(object, *offset, data, Durability::Later)?;
                end = offset + data.len() as u64;
                data_len += data.len() as u64;
            }
            // A source that compresses has allocated less than we read.
            self.bar.set(self.done + data_len.min(allocated), self.total);
            if piece.last {
                break;
            }
        }
        if end < size {
            // It ends in a hole.
            self.fs.truncate(object, size)?;
        }
        self.done += allocated;
        self.written += data_len;
        self.bar.set(self.done, self.total);
        Ok(())
    }

    /// Writing changed the times.
    fn times(&self, object: u64, meta: &Meta) -> Result<()> {
        let times = self.all_times(meta);
        let set = SetAttr {
            atime: Some(times.atime),
            mtime: Some(times.mtime),
            ctime: Some(times.ctime),
            ..SetAttr::default()
        };
        self.fs.setattr(object, &set)?;
        Ok(())
    }

    fn directory_times(&self, index: usize, entry: &Entry) -> Result<()> {
        let object = self.objects[index];
        let mut set = SetAttr::default();
        if index == 0 {
            // The root was made before its metadata was known.
            let (uid, gid) = self.owner(&entry.meta);
            set = SetAttr { mode: Some(self.mode(&entry.meta)), uid: Some(uid), gid: Some(gid), ..set };
            self.attributes(object, &entry.meta)?;
        }
        let times = self.all_times(&entry.meta);
        (set.atime, set.mtime, set.ctime) = (Some(times.atime), Some(times.mtime), Some(times.ctime));
        self.fs.setattr(object, &set)?;
        Ok(())
    }
}
