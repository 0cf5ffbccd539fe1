//! Files in memory: `/tmp`, `/dev`, and the root when booting from an initrd.
//!
//! # Invariants
//! - Pages that were never written do not exist and read as zeros.
//! - `used` counts whole pages, so a full file system answers `ENOSPC` before the machine runs out of memory.
//! - Lock order: `rename_lock`, then one node's state at a time (never two at once).

use crate::errno::{Errno, Result};
use crate::inode::{FileSystem, Inode};
use crate::types::{
    Allocate, DirEntry, FileType, New, PERMISSIONS, RenameFlags, SetAttr, Stat, StatFs, Sync, Timespec,
};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::ops::Bound;
use core::sync::atomic::{AtomicU64, Ordering};
use platform::clock::Clock;
use platform::sync::Mutex;

const PAGE: u64 = 4096;
const MAX_SIZE: u64 = i64::MAX as u64;

/// A file system in memory.
pub struct Tmpfs {
    shared: Arc<Shared>,
    root: Arc<Node>,
}

struct Shared {
    type_name: &'static str,
    dev: u64,
    clock: Arc<dyn Clock>,
    next_ino: AtomicU64,
    used: AtomicU64,
    limit: u64,
    rename_lock: Mutex<()>,
}

struct Node {
    shared: Arc<Shared>,
    me: Weak<Node>,
    ino: u64,
    kind: FileType,
    rdev: u64,
    target: Vec<u8>,
    state: Mutex<State>,
}

struct State {
    mode: u32,
    uid: u32,
    gid: u32,
    nlink: u64,
    size: u64,
    atime: Timespec,
    mtime: Timespec,
    ctime: Timespec,
    btime: Timespec,
    pages: BTreeMap<u64, Box<[u8]>>,
    // Name → (node, cookie); cookies only grow, so reading a changing directory is stable.
    entries: BTreeMap<Vec<u8>, (Arc<Node>, u64)>,
    by_cookie: BTreeMap<u64, Vec<u8>>,
    next_cookie: u64,
    removed: bool,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Tmpfs {
    /// An empty file system with number `dev` that holds at most `limit` bytes of content.
    #[must_use]
    pub fn new(type_name: &'static str, dev: u64, limit: u64, clock: Arc<dyn Clock>) -> Arc<Self> {
        let shared = Arc::new(Shared {
            type_name,
            dev,
            clock,
            next_ino: AtomicU64::new(1),
            used: AtomicU64::new(0),
            limit,
            rename_lock: Mutex::new(()),
        });
        let root = shared.node(&New::new(FileType::Directory, 0o755));
        Arc::new(Tmpfs { shared, root })
    }
}

impl FileSystem for Tmpfs {
    fn root(&self) -> Arc<dyn Inode> {
        Arc::clone(&self.root) as Arc<dyn Inode>
    }
    fn type_name(&self) -> &'static str {
        self.shared.type_name
    }
    fn source(&self) -> String {
        self.shared.type_name.into()
    }
    fn statfs(&self) -> Result<StatFs> {
        self.root.statfs()
    }
}

impl Shared {
    fn node(self: &Arc<Self>, new: &New) -> Arc<Node> {
        let now = self.clock.now();
        Arc::new_cyclic(|me| Node {
            shared: Arc::clone(self),
            me: Weak::clone(me),
            ino: self.next_ino.fetch_add(1, Ordering::Relaxed),
            kind: new.kind,
            rdev: new.rdev,
            target: new.target.clone(),
            state: Mutex::new(State {
                mode: new.mode & PERMISSIONS & !if new.kind == FileType::Symlink { 0 } else { new.umask },
                uid: new.uid,
                gid: new.gid,
                nlink: if new.kind == FileType::Directory { 2 } else { 1 },
                size: new.target.len() as u64,
                atime: now,
                mtime: now,
                ctime: now,
                btime: now,
                pages: BTreeMap::new(),
                entries: BTreeMap::new(),
                by_cookie: BTreeMap::new(),
                next_cookie: 1,
                removed: false,
                xattrs: BTreeMap::new(),
            }),
        })
    }

    fn reserve(&self, bytes: u64) -> Result<()> {
        let used = self.used.fetch_add(bytes, Ordering::Relaxed);
        if used + bytes > self.limit {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            return Err(Errno::ENOSPC);
        }
        Ok(())
    }
}

impl State {
    fn insert(&mut self, name: &[u8], node: Arc<Node>) {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        if node.kind == FileType::Directory {
            self.nlink += 1;
        }
        if let Some((_, old)) = self.entries.insert(name.to_vec(), (node, cookie)) {
            self.by_cookie.remove(&old);
        }
        self.by_cookie.insert(cookie, name.to_vec());
    }

    fn take(&mut self, name: &[u8]) -> Option<Arc<Node>> {
        let (node, cookie) = self.entries.remove(name)?;
        self.by_cookie.remove(&cookie);
        if node.kind == FileType::Directory {
            self.nlink -= 1;
        }
        Some(node)
    }

    fn touch(&mut self, now: Timespec) {
        self.mtime = now;
        self.ctime = now;
    }

    /// Drops the pages of `first..` and clears the rest of the page that `size` lies in.
    fn cut(&mut self, size: u64, shared: &Shared) {
        let gone = self.pages.split_off(&size.div_ceil(PAGE));
        shared.used.fetch_sub(gone.len() as u64 * PAGE, Ordering::Relaxed);
        if let Some(page) = self.pages.get_mut(&(size / PAGE)) {
            page[(size % PAGE) as usize..].fill(0);
        }
    }

    fn write(&mut self, mut offset: u64, mut data: &[u8], shared: &Shared) -> Result<()> {
        let end = offset.checked_add(data.len() as u64).filter(|e| *e <= MAX_SIZE).ok_or(Errno::EFBIG)?;
        while !data.is_empty() {
            let start = (offset % PAGE) as usize;
            let n = data.len().min(PAGE as usize - start);
            let page = match self.pages.entry(offset / PAGE) {
                alloc::collections::btree_map::Entry::Occupied(e) => e.into_mut(),
                alloc::collections::btree_map::Entry::Vacant(e) => {
                    shared.reserve(PAGE)?;
                    e.insert(alloc::vec![0; PAGE as usize].into_boxed_slice())
                }
            };
            page[start..start + n].copy_from_slice(&data[..n]);
            data = &data[n..];
            offset += n as u64;
            self.size = self.size.max(offset);
        }
        debug_assert!(self.size >= end.min(offset));
        Ok(())
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> usize {
        let len = (self.size.saturating_sub(offset)).min(buf.len() as u64) as usize;
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let start = (at % PAGE) as usize;
            let n = (len - done).min(PAGE as usize - start);
            match self.pages.get(&(at / PAGE)) {
                Some(page) => buf[done..done + n].copy_from_slice(&page[start..start + n]),
                None => buf[done..done + n].fill(0),
            }
            done += n;
        }
        len
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let pages = self.state.get_mut().pages.len() as u64;
        self.shared.used.fetch_sub(pages * PAGE, Ordering::Relaxed);
    }
}

fn same_fs<'a>(inode: &'a Arc<dyn Inode>, shared: &Arc<Shared>) -> Result<&'a Node> {
    let any: &dyn Any = &**inode;
    any.downcast_ref::<Node>().filter(|n| Arc::ptr_eq(&n.shared, shared)).ok_or(Errno::EXDEV)
}

impl Node {
    fn directory(&self) -> Result<()> {
        if self.kind == FileType::Directory { Ok(()) } else { Err(Errno::ENOTDIR) }
    }

    fn arc(&self) -> Arc<Node> {
        self.me.upgrade().expect("a node that is in use is alive")
    }

    fn find(&self, name: &[u8]) -> Option<Arc<Node>> {
        self.state.lock().entries.get(name).map(|(node, _)| Arc::clone(node))
    }

    fn is_inside(&self, dir: &Node) -> bool {
        // Walks down from `self`: tmpfs keeps no parents, and renaming directories is rare.
        let children: Vec<_> = self.state.lock().entries.values().map(|(n, _)| Arc::clone(n)).collect();
        core::ptr::eq(self, dir) || children.iter().any(|n| n.kind == FileType::Directory && n.is_inside(dir))
    }

    fn dropped_name(&self) {
        let mut state = self.state.lock();
        state.nlink = state.nlink.saturating_sub(if self.kind == FileType::Directory { 2 } else { 1 });
        state.ctime = self.shared.clock.now();
        state.removed = state.nlink == 0;
    }

    fn empty_or_file(&self) -> bool {
        self.kind != FileType::Directory || self.state.lock().entries.is_empty()
    }

    fn remove_entry(&self, name: &[u8], directory: bool) -> Result<()> {
        self.directory()?;
        let _guard = self.shared.rename_lock.lock();
        let node = self.find(name).ok_or(Errno::ENOENT)?;
        match (directory, node.kind == FileType::Directory) {
            (true, false) => return Err(Errno::ENOTDIR),
            (false, true) => return Err(Errno::EISDIR),
            _ if !node.empty_or_file() => return Err(Errno::ENOTEMPTY),
            _ => {}
        }
        let mut state = self.state.lock();
        state.take(name);
        state.touch(self.shared.clock.now());
        drop(state);
        node.dropped_name();
        Ok(())
    }

    fn replace(&self, source: &Arc<Node>, to: &Node, to_name: &[u8], flags: RenameFlags) -> Result<bool> {
        let Some(old) = to.find(to_name) else { return Ok(false) };
        if flags.contains(RenameFlags::NOREPLACE) {
            return Err(Errno::EEXIST);
        }
        if Arc::ptr_eq(&old, source) {
            return Ok(true);
        }
        match (source.kind == FileType::Directory, old.kind == FileType::Directory) {
            (true, false) => return Err(Errno::ENOTDIR),
            (false, true) => return Err(Errno::EISDIR),
            _ if !old.empty_or_file() => return Err(Errno::ENOTEMPTY),
            _ => {}
        }
        to.state.lock().take(to_name);
        old.dropped_name();
        Ok(false)
    }
}

impl Inode for Node {
    fn fs_id(&self) -> u64 {
        self.shared.dev
    }
    fn ino(&self) -> u64 {
        self.ino
    }
    fn file_type(&self) -> FileType {
        self.kind
    }
    fn stat(&self) -> Result<Stat> {
        let s = self.state.lock();
        Ok(Stat {
            dev: self.shared.dev,
            ino: self.ino,
            mode: s.mode | self.kind.mode_bits(),
            nlink: s.nlink,
            uid: s.uid,
            gid: s.gid,
            rdev: self.rdev,
            size: s.size,
            blksize: PAGE as u32,
            blocks: s.pages.len() as u64 * (PAGE / 512),
            atime: s.atime,
            mtime: s.mtime,
            ctime: s.ctime,
            btime: s.btime,
        })
    }
    fn statfs(&self) -> Result<StatFs> {
        let used = self.shared.used.load(Ordering::Relaxed) / PAGE;
        let blocks = self.shared.limit / PAGE;
        Ok(StatFs {
            magic: 0x0102_1994,
            block_size: PAGE,
            blocks,
            free: blocks.saturating_sub(used),
            files: blocks,
            files_free: blocks.saturating_sub(self.shared.next_ino.load(Ordering::Relaxed)),
            fsid: self.shared.dev,
            name_max: 255,
        })
    }

    fn set_attr(&self, change: &SetAttr) -> Result<()> {
        let now = self.shared.clock.now();
        let mut s = self.state.lock();
        if let Some(size) = change.size {
            match self.kind {
                FileType::Regular if size > MAX_SIZE => return Err(Errno::EFBIG),
                FileType::Regular => {}
                FileType::Directory => return Err(Errno::EISDIR),
                _ => return Err(Errno::EINVAL),
            }
            if size < s.size {
                s.cut(size, &self.shared);
            }
            s.size = size;
            s.mtime = now;
        }
        s.mode = change.mode.map_or(s.mode, |m| m & PERMISSIONS);
        s.uid = change.uid.unwrap_or(s.uid);
        s.gid = change.gid.unwrap_or(s.gid);
        s.atime = change.atime.unwrap_or(s.atime);
        s.mtime = change.mtime.unwrap_or(s.mtime);
        s.ctime = now;
        Ok(())
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        self.directory()?;
        self.find(name).map(|n| n as Arc<dyn Inode>).ok_or(Errno::ENOENT)
    }

    fn create(&self, name: &[u8], new: &New) -> Result<Arc<dyn Inode>> {
        self.directory()?;
        let mut state = self.state.lock();
        if state.removed {
            return Err(Errno::ENOENT);
        }
        if state.entries.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        let node = self.shared.node(new);
        state.insert(name, Arc::clone(&node));
        state.touch(self.shared.clock.now());
        Ok(node)
    }

    fn create_unnamed(&self, new: &New) -> Result<Arc<dyn Inode>> {
        self.directory()?;
        let node = self.shared.node(new);
        node.state.lock().nlink = 0;
        Ok(node)
    }

    fn link(&self, name: &[u8], target: &Arc<dyn Inode>) -> Result<()> {
        self.directory()?;
        let node = same_fs(target, &self.shared)?.arc();
        if node.kind == FileType::Directory {
            return Err(Errno::EPERM);
        }
        let now = self.shared.clock.now();
        let mut state = self.state.lock();
        if state.entries.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        state.insert(name, Arc::clone(&node));
        state.touch(now);
        drop(state);
        let mut target = node.state.lock();
        target.nlink += 1;
        target.removed = false;
        target.ctime = now;
        Ok(())
    }

    fn unlink(&self, name: &[u8]) -> Result<()> {
        self.remove_entry(name, false)
    }

    fn rmdir(&self, name: &[u8]) -> Result<()> {
        self.remove_entry(name, true)
    }

    fn rename(&self, name: &[u8], to: &Arc<dyn Inode>, to_name: &[u8], flags: RenameFlags) -> Result<()> {
        self.directory()?;
        if flags.contains(RenameFlags::WHITEOUT) {
            return Err(Errno::EINVAL);
        }
        let to = same_fs(to, &self.shared)?;
        to.directory()?;
        let _guard = self.shared.rename_lock.lock();
        let source = self.find(name).ok_or(Errno::ENOENT)?;
        if source.kind == FileType::Directory && source.is_inside(to) {
            return Err(Errno::EINVAL);
        }
        let now = self.shared.clock.now();
        if flags.contains(RenameFlags::EXCHANGE) {
            let other = to.find(to_name).ok_or(Errno::ENOENT)?;
            self.state.lock().take(name);
            to.state.lock().take(to_name);
            self.state.lock().insert(name, other);
        } else {
            if self.replace(&source, to, to_name, flags)? {
                return Ok(());
            }
            self.state.lock().take(name);
        }
        self.state.lock().touch(now);
        source.state.lock().ctime = now;
        let mut target = to.state.lock();
        target.insert(to_name, source);
        target.touch(now);
        Ok(())
    }

    fn read_dir(&self, cookie: u64, sink: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<()> {
        self.directory()?;
        let mut from = cookie;
        loop {
            let (name, ino, kind, next) = {
                let state = self.state.lock();
                let next = state.by_cookie.range((Bound::Excluded(from), Bound::Unbounded)).next();
                let Some((cookie, name)) = next else { return Ok(()) };
                let Some((node, _)) = state.entries.get(name) else { return Err(Errno::EIO) };
                (name.clone(), node.ino, node.kind, *cookie)
            };
            from = next;
            if !sink(DirEntry { name: &name, ino, kind, next }) {
                return Ok(());
            }
        }
    }

    fn readlink(&self) -> Result<Vec<u8>> {
        if self.kind == FileType::Symlink { Ok(self.target.clone()) } else { Err(Errno::EINVAL) }
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        if self.kind == FileType::Directory {
            return Err(Errno::EISDIR);
        }
        Ok(self.state.lock().read(offset, buf))
    }

    fn write_at(&self, offset: u64, data: &[u8], _sync: Sync) -> Result<()> {
        let mut state = self.state.lock();
        state.touch(self.shared.clock.now());
        state.write(offset, data, &self.shared)
    }

    fn append(&self, data: &[u8], _sync: Sync) -> Result<u64> {
        let mut state = self.state.lock();
        state.touch(self.shared.clock.now());
        let offset = state.size;
        state.write(offset, data, &self.shared)?;
        Ok(offset)
    }

    fn allocate(&self, what: Allocate, offset: u64, len: u64) -> Result<()> {
        let end = offset.checked_add(len).filter(|e| *e <= MAX_SIZE).ok_or(Errno::EFBIG)?;
        let mut state = self.state.lock();
        let keep_size = match what {
            Allocate::Reserve { keep_size } => keep_size,
            Allocate::PunchHole | Allocate::Zero { .. } => {
                zero_range(&mut state, offset, end, &self.shared);
                !matches!(what, Allocate::Zero { keep_size: false })
            }
        };
        if !keep_size {
            state.size = state.size.max(end);
        }
        state.touch(self.shared.clock.now());
        Ok(())
    }

    fn seek(&self, offset: u64, hole: bool) -> Result<u64> {
        let state = self.state.lock();
        if offset >= state.size {
            return Err(Errno::ENXIO);
        }
        let mut page = offset / PAGE;
        if hole {
            while state.pages.contains_key(&page) {
                page += 1;
            }
            return Ok((page * PAGE).max(offset).min(state.size));
        }
        let (next, _) = state.pages.range(page..).next().ok_or(Errno::ENXIO)?;
        let at = (next * PAGE).max(offset);
        if at < state.size { Ok(at) } else { Err(Errno::ENXIO) }
    }

    fn get_xattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        self.state.lock().xattrs.get(name).cloned().ok_or(Errno::ENODATA)
    }
    fn set_xattr(&self, name: &[u8], value: &[u8], must: Option<bool>) -> Result<()> {
        let mut state = self.state.lock();
        match (must, state.xattrs.contains_key(name)) {
            (Some(true), false) => return Err(Errno::ENODATA),
            (Some(false), true) => return Err(Errno::EEXIST),
            _ => {}
        }
        state.xattrs.insert(name.to_vec(), value.to_vec());
        Ok(())
    }
    fn list_xattr(&self) -> Result<Vec<Vec<u8>>> {
        Ok(self.state.lock().xattrs.keys().cloned().collect())
    }
    fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        self.state.lock().xattrs.remove(name).map(|_| ()).ok_or(Errno::ENODATA)
    }
}

fn zero_range(state: &mut State, offset: u64, end: u64, shared: &Shared) {
    let touched: Vec<u64> = state.pages.range(offset / PAGE..end.div_ceil(PAGE)).map(|(k, _)| *k).collect();
    for page in touched {
        let (start, stop) = (page * PAGE, (page + 1) * PAGE);
        if offset <= start && stop <= end {
            state.pages.remove(&page);
            shared.used.fetch_sub(PAGE, Ordering::Relaxed);
        } else if let Some(bytes) = state.pages.get_mut(&page) {
            bytes[(offset.max(start) - start) as usize..(end.min(stop) - start) as usize].fill(0);
        }
    }
}

#[cfg(test)]
#[path = "tmpfs_tests.rs"]
mod tests;
