//! Puts a tree into a file system.

use crate::cli;
use crate::commands::progress::Bar;
use crate::commands::view::make_device;
use crate::source::pipeline::Pipeline;
use crate::source::{Entry, Kind, Meta, Tree};
use anyhow::{Context, Result, bail};
use platform::Env;
use platform::clock::Timespec;
use std::sync::Arc;
use zfs::zpl::{Durability, FileKind, Filesystem, New, SetAttr, Times, XattrMode};

/// Creates every entry in the tree's order, so that object numbers and allocations depend on the tree alone. Returns the bytes
/// of data that were written; holes are none.
pub(super) fn fill(fs: &Filesystem, tree: &Arc<Tree>, options: &cli::Create, env: &Env) -> Result<u64> {
    let total = tree.totals().allocated;
    let bar = Bar::bytes_of("building", total, options.quiet);
    let pipeline = Pipeline::start(Arc::clone(tree), platform::thread::cpus().clamp(2, 8))?;
    let objects = vec![0; tree.entries.len()];
    let now = env.clock.now();
    let mut filler = Filler { fs, tree, options, now, objects, pipeline, bar, done: 0, total, written: 0 };
    filler.all()?;
    filler.bar.finish();
    Ok(filler.written)
}

struct Filler<'a> {
    fs: &'a Filesystem,
    tree: &'a Tree,
    options: &'a cli::Create,
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
        self.objects[0] = self.fs.root();
        for (index, entry) in self.tree.entries.iter().enumerate().skip(1) {
            self.entry(index, entry).with_context(|| self.tree.path(index))?;
        }
        // Directories last: making their entries changed their times.
        for (index, entry) in self.tree.entries.iter().enumerate() {
            if entry.kind == Kind::Directory {
                self.directory_times(index, entry).with_context(|| self.tree.path(index))?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, index: usize, entry: &Entry) -> Result<()> {
        let folder = self.objects[entry.parent];
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
        New { kind, mode: entry.meta.mode, uid, gid, rdev, target, times: Some(self.all_times(&entry.meta)) }
    }

    fn owner(&self, meta: &Meta) -> (u32, u32) {
        if self.options.all_root { (0, 0) } else { (meta.uid, meta.gid) }
    }

    /// The access time is the modification time: reading the source changes the former, and images must be reproducible.
    fn all_times(&self, meta: &Meta) -> Times {
        let mtime = Timespec { sec: meta.mtime.sec, nsec: meta.mtime.nsec };
        Times { atime: mtime, mtime, ctime: self.now, crtime: self.now }
    }

    fn attributes(&self, object: u64, meta: &Meta) -> Result<()> {
        for (name, value) in &meta.xattrs {
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
            set = SetAttr { mode: Some(entry.meta.mode), uid: Some(uid), gid: Some(gid), ..set };
            self.attributes(object, &entry.meta)?;
        }
        let times = self.all_times(&entry.meta);
        (set.atime, set.mtime, set.ctime) = (Some(times.atime), Some(times.mtime), Some(times.ctime));
        self.fs.setattr(object, &set)?;
        Ok(())
    }
}
