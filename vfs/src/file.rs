//! Open files and the table of descriptors.
//!
//! Lock order: a file's offset lock, then whatever its inode takes. The offset is held across a read or write, so
//! two threads that share a file position do not overlap; `pread` and `pwrite` take no lock here.

use crate::errno::{Errno, Result};
use crate::inode::{Inode, Ready, Stream};
use crate::inotify::{Events, notify_place};
use crate::mapped::Mapped;
use crate::path::Place;
use crate::types::{Allocate, DirEntry, FileType, OpenFlags, Sync};
use alloc::sync::Arc;
use alloc::vec::Vec;
use bitvec::slice::BitSlice;
use bitvec::vec::BitVec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use platform::sync::Mutex;

/// Bytes of a changed range that mappings are shown at once.
const SHOWN_AT_ONCE: u64 = 128 << 10;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// What an open file reads from.
enum Body {
    /// The inode itself.
    Inode,
    /// A stream (pipe, device).
    Stream(Arc<dyn Stream>),
    /// Content that was made at opening.
    Snapshot(Vec<u8>),
}

/// An open file description.
pub struct File {
    /// The file and the way to it.
    pub place: Arc<Place>,
    id: u64,
    body: Body,
    flags: AtomicU32,
    offset: Mutex<u64>,
}

/// `whence` of `lseek`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whence {
    /// From the start.
    Set,
    /// From the position.
    Current,
    /// From the end.
    End,
    /// The next data.
    Data,
    /// The next hole.
    Hole,
}

impl File {
    /// Opens `place` for what `flags` say; `stream` is what it leads to, if it is a pipe or a device.
    pub fn new(place: Arc<Place>, flags: OpenFlags, stream: Option<Arc<dyn Stream>>) -> Result<Arc<Self>> {
        let body = match stream {
            Some(stream) => Body::Stream(stream),
            None if flags.contains(OpenFlags::PATH) => Body::Inode,
            None => match place.inode.snapshot() {
                Some(content) => Body::Snapshot(content?),
                None => Body::Inode,
            },
        };
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let flags = AtomicU32::new(flags.bits());
        Ok(Arc::new(File { place, id, body, flags, offset: Mutex::new(0) }))
    }

    /// A number that no other open file has: the owner of its locks.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The inode.
    #[must_use]
    pub fn inode(&self) -> &Arc<dyn Inode> {
        &self.place.inode
    }

    /// The stream, if this is one.
    #[must_use]
    pub fn stream(&self) -> Option<&Arc<dyn Stream>> {
        match &self.body {
            Body::Stream(stream) => Some(stream),
            _ => None,
        }
    }

    /// Access mode and status flags.
    #[must_use]
    pub fn flags(&self) -> OpenFlags {
        OpenFlags::from_bits_retain(self.flags.load(Ordering::Relaxed))
    }

    /// `F_SETFL`.
    pub fn set_flags(&self, flags: OpenFlags) {
        let keep = self.flags() - OpenFlags::changeable();
        let new = keep | flags & OpenFlags::changeable();
        self.flags.store(new.bits(), Ordering::Relaxed);
    }

    fn readable(&self) -> Result<OpenFlags> {
        let flags = self.flags();
        if flags.readable() && !flags.contains(OpenFlags::PATH) { Ok(flags) } else { Err(Errno::EBADF) }
    }

    fn writable(&self) -> Result<OpenFlags> {
        let flags = self.flags();
        if flags.writable() && !flags.contains(OpenFlags::PATH) { Ok(flags) } else { Err(Errno::EBADF) }
    }

    /// Reads at the position and moves it.
    pub fn read(&self, buf: &mut [u8]) -> Result<usize> {
        let flags = self.readable()?;
        if let Body::Stream(stream) = &self.body {
            return stream.read(buf, flags.contains(OpenFlags::NONBLOCK));
        }
        let mut offset = self.offset.lock();
        let n = self.read_body(*offset, buf)?;
        *offset += n as u64;
        Ok(n)
    }

    /// Reads at `offset`.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.readable()?;
        self.read_body(offset, buf)
    }

    fn read_body(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        match &self.body {
            Body::Stream(_) => Err(Errno::ESPIPE),
            Body::Snapshot(content) => {
                let start = content.len().min(offset.min(usize::MAX as u64) as usize);
                let n = buf.len().min(content.len() - start);
                buf[..n].copy_from_slice(&content[start..start + n]);
                Ok(n)
            }
            Body::Inode if self.inode().file_type() == FileType::Directory => Err(Errno::EISDIR),
            Body::Inode => {
                if offset > i64::MAX as u64 {
                    return Err(Errno::EINVAL);
                }
                let n = self.inode().read_at(offset, buf)?;
                if let Some(mapped) = Mapped::find(&**self.inode()) {
                    mapped.overlay(offset, &mut buf[..n]);
                }
                Ok(n)
            }
        }
    }

    /// Writes at the position (or the end) and moves it.
    pub fn write(&self, data: &[u8]) -> Result<usize> {
        let flags = self.writable()?;
        if let Body::Stream(stream) = &self.body {
            return stream.write(data, flags.contains(OpenFlags::NONBLOCK));
        }
        let mut offset = self.offset.lock();
        if flags.contains(OpenFlags::APPEND) && matches!(self.body, Body::Inode) {
            let at = self.inode().append(data, durability(flags))?;
            self.show_to_mappings(at, data);
            *offset = at + data.len() as u64;
        } else {
            self.write_body(*offset, data, flags)?;
            *offset += data.len() as u64;
        }
        drop(offset);
        self.modified();
        Ok(data.len())
    }

    fn modified(&self) {
        if matches!(self.body, Body::Inode) {
            notify_place(&self.place, Events::MODIFY);
        }
    }

    /// Writes at `offset`.
    pub fn write_at(&self, offset: u64, data: &[u8]) -> Result<usize> {
        let flags = self.writable()?;
        self.write_body(offset, data, flags)?;
        self.modified();
        Ok(data.len())
    }

    fn write_body(&self, offset: u64, data: &[u8], flags: OpenFlags) -> Result<()> {
        match &self.body {
            Body::Stream(_) => Err(Errno::ESPIPE),
            Body::Snapshot(_) => self.inode().write_at(offset, data, durability(flags)),
            Body::Inode => {
                offset
                    .checked_add(data.len() as u64)
                    .filter(|e| *e <= i64::MAX as u64)
                    .ok_or(Errno::EFBIG)?;
                self.inode().write_at(offset, data, durability(flags))?;
                self.show_to_mappings(offset, data);
                Ok(())
            }
        }
    }

    /// Makes `len` bytes at `at` the same as those of `source` from `from` on, without copying them (`FICLONERANGE`); how many bytes: fewer
    /// where the source ends. See [`Inode::clone_blocks`].
    pub fn clone_range(&self, at: u64, source: &File, from: u64, len: u64) -> Result<u64> {
        let flags = self.writable()?;
        source.readable()?;
        if flags.contains(OpenFlags::APPEND) {
            return Err(Errno::EBADF);
        }
        for file in [self, source] {
            match (&file.body, file.inode().file_type()) {
                (Body::Inode, FileType::Regular) => {}
                (_, FileType::Directory) => return Err(Errno::EISDIR),
                _ => return Err(Errno::EINVAL),
            }
        }
        // What was stored through mappings is part of the source; it is not written back for a clone that cannot be.
        if let Some(mapped) = Mapped::find(&**source.inode()) {
            self.inode().may_clone_from(&**source.inode())?;
            mapped.write_back(from, from.saturating_add(len))?;
        }
        let done = self.inode().clone_blocks(at, &**source.inode(), from, len, durability(flags))?;
        self.show_again(at, done)?;
        if done > 0 {
            self.modified();
        }
        Ok(done)
    }

    /// Lets the file's mappings see a range that changed.
    fn show_again(&self, offset: u64, len: u64) -> Result<()> {
        let Some(mapped) = Mapped::find(&**self.inode()) else { return Ok(()) };
        let mut data = alloc::vec![0; len.min(SHOWN_AT_ONCE) as usize];
        let mut done = 0;
        while done < len {
            let part = (len - done).min(SHOWN_AT_ONCE) as usize;
            let n = self.inode().read_at(offset + done, &mut data[..part])?;
            if n == 0 {
                break;
            }
            mapped.written(offset + done, &data[..n]);
            done += n as u64;
        }
        Ok(())
    }

    fn show_to_mappings(&self, offset: u64, data: &[u8]) {
        if let Some(mapped) = Mapped::find(&**self.inode()) {
            mapped.written(offset, data);
        }
    }

    /// `lseek`: the new position.
    pub fn seek(&self, offset: i64, whence: Whence) -> Result<u64> {
        if matches!(self.body, Body::Stream(_)) || self.flags().contains(OpenFlags::PATH) {
            return Err(if self.flags().contains(OpenFlags::PATH) { Errno::EBADF } else { Errno::ESPIPE });
        }
        let mut position = self.offset.lock();
        let end = |file: &File| match &file.body {
            Body::Snapshot(content) => Ok(content.len() as u64),
            _ => file.inode().stat().map(|s| s.size),
        };
        let new = match whence {
            Whence::Set => u64::try_from(offset).ok(),
            Whence::Current => position.checked_add_signed(offset),
            Whence::End => end(self)?.checked_add_signed(offset),
            Whence::Data | Whence::Hole => {
                let from = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
                Some(self.inode().seek(from, whence == Whence::Hole)?)
            }
        };
        *position = new.filter(|n| *n <= i64::MAX as u64).ok_or(Errno::EINVAL)?;
        Ok(*position)
    }

    /// The position.
    #[must_use]
    pub fn position(&self) -> u64 {
        *self.offset.lock()
    }

    /// Reads directory entries from the position on, `.` and `..` first, until `sink` answers false; the position
    /// moves behind the last accepted one.
    pub fn read_dir(&self, mut sink: impl FnMut(&DirEntry<'_>) -> bool) -> Result<()> {
        self.readable()?;
        if self.inode().file_type() != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        let mut position = self.offset.lock();
        // The root of a file system is its own parent, wherever it is mounted.
        let here = self.inode().ino();
        let above = || Some(self.place.up()).filter(|up| up.inode.fs_id() == self.inode().fs_id());
        for (at, name) in [(0, &b"."[..]), (1, &b".."[..])] {
            if *position == at {
                let ino = if at == 0 { here } else { above().map_or(here, |up| up.inode.ino()) };
                let entry = DirEntry { name, ino, kind: FileType::Directory, next: at + 1 };
                if !sink(&entry) {
                    return Ok(());
                }
                *position = at + 1;
            }
        }
        // A file system's own cookies start at 0; ours make room for the two dots.
        self.inode().read_dir(*position - 2, &mut |mut entry| {
            entry.next = entry.next.saturating_add(2);
            let more = sink(&entry);
            if more {
                *position = entry.next;
            }
            more
        })
    }

    /// Makes the file durable, including what was written through mappings.
    pub fn fsync(&self) -> Result<()> {
        match &self.body {
            Body::Stream(_) => Err(Errno::EINVAL),
            Body::Snapshot(_) => Ok(()),
            Body::Inode => {
                if let Some(mapped) = Mapped::find(&**self.inode()) {
                    mapped.write_back(0, u64::MAX)?;
                }
                self.inode().fsync()
            }
        }
    }

    /// `fallocate`, seen by the file's mappings, too.
    pub fn allocate(&self, what: Allocate, offset: u64, len: u64) -> Result<()> {
        self.inode().allocate(what, offset, len)?;
        if !matches!(what, Allocate::Reserve { .. })
            && let Some(mapped) = Mapped::find(&**self.inode())
        {
            mapped.emptied(offset, len);
        }
        Ok(())
    }

    /// `ftruncate`.
    pub fn truncate(&self, size: u64) -> Result<()> {
        self.writable().map_err(|_| Errno::EINVAL)?;
        truncate(self.inode(), size)?;
        self.modified();
        Ok(())
    }

    /// What could be done without waiting.
    #[must_use]
    pub fn ready(&self) -> Ready {
        self.stream().map_or(Ready::FILE, |s| s.ready())
    }
}

impl Drop for File {
    fn drop(&mut self) {
        if matches!(self.body, Body::Inode) && !self.flags().contains(OpenFlags::PATH) {
            let events = if self.flags().writable() { Events::CLOSE_WRITE } else { Events::CLOSE_NOWRITE };
            notify_place(&self.place, events);
        }
    }
}

/// Sets a file's length, for its mappings too.
pub fn truncate(inode: &Arc<dyn Inode>, size: u64) -> Result<()> {
    inode.set_attr(&crate::types::SetAttr { size: Some(size), ..Default::default() })?;
    if let Some(mapped) = Mapped::find(&**inode) {
        mapped.truncated(size);
    }
    Ok(())
}

fn durability(flags: OpenFlags) -> Sync {
    if flags.contains(OpenFlags::DSYNC) { Sync::Yes } else { Sync::No }
}

#[derive(Clone)]
struct Slot {
    file: Arc<File>,
    cloexec: bool,
}

/// Descriptors by number, and which numbers are taken: a bit each, so that the lowest free one of thousands is found by words.
#[derive(Clone, Default)]
struct Slots {
    list: Vec<Option<Slot>>,
    taken: BitVec,
}

impl Slots {
    fn lowest_free(&self, from: usize) -> usize {
        let free = self.taken.get(from..).and_then(BitSlice::first_zero);
        free.map_or(from.max(self.list.len()), |at| from + at)
    }

    fn put(&mut self, index: usize, slot: Slot) -> Option<Slot> {
        if index >= self.list.len() {
            self.list.resize_with(index + 1, || None);
            self.taken.resize(index + 1, false);
        }
        self.taken.set(index, true);
        self.list[index].replace(slot)
    }

    fn take(&mut self, index: usize) -> Option<Slot> {
        let slot = self.list.get_mut(index)?.take();
        self.taken.set(index, false);
        slot
    }
}

/// A process's descriptors.
pub struct FdTable {
    slots: Mutex<Slots>,
    limit: AtomicU32,
}

impl FdTable {
    /// No descriptor; at most `limit` may be open.
    #[must_use]
    pub fn new(limit: u32) -> Self {
        FdTable { slots: Mutex::new(Slots::default()), limit: AtomicU32::new(limit) }
    }

    /// `RLIMIT_NOFILE`.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Changes `RLIMIT_NOFILE`.
    pub fn set_limit(&self, limit: u32) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// The open file of a descriptor.
    pub fn get(&self, fd: i32) -> Result<Arc<File>> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        let slots = self.slots.lock();
        slots.list.get(index).and_then(Option::as_ref).map(|s| Arc::clone(&s.file)).ok_or(Errno::EBADF)
    }

    /// The lowest free descriptor from `from` on now means `file`.
    pub fn add(&self, file: Arc<File>, cloexec: bool, from: i32) -> Result<i32> {
        let from = usize::try_from(from).map_err(|_| Errno::EINVAL)?;
        let limit = self.limit() as usize;
        if from >= limit {
            return Err(Errno::EINVAL);
        }
        let mut slots = self.slots.lock();
        let free = slots.lowest_free(from);
        if free >= limit {
            return Err(Errno::EMFILE);
        }
        slots.put(free, Slot { file, cloexec });
        Ok(free as i32)
    }

    /// Descriptor `fd` now means `file`; what it meant before.
    pub fn set(&self, fd: i32, file: Arc<File>, cloexec: bool) -> Result<Option<Arc<File>>> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        if index >= self.limit() as usize {
            return Err(Errno::EBADF);
        }
        let mut slots = self.slots.lock();
        Ok(slots.put(index, Slot { file, cloexec }).map(|s| s.file))
    }

    /// Frees a descriptor; what it meant.
    pub fn remove(&self, fd: i32) -> Result<Arc<File>> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        let mut slots = self.slots.lock();
        slots.take(index).map(|s| s.file).ok_or(Errno::EBADF)
    }

    /// Whether the descriptor closes on `execve`.
    pub fn cloexec(&self, fd: i32) -> Result<bool> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        self.slots.lock().list.get(index).and_then(Option::as_ref).map(|s| s.cloexec).ok_or(Errno::EBADF)
    }

    /// Sets whether the descriptor closes on `execve`.
    pub fn set_cloexec(&self, fd: i32, cloexec: bool) -> Result<()> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        let mut slots = self.slots.lock();
        slots.list.get_mut(index).and_then(Option::as_mut).ok_or(Errno::EBADF)?.cloexec = cloexec;
        Ok(())
    }

    /// All open descriptors.
    #[must_use]
    pub fn list(&self) -> Vec<(i32, Arc<File>)> {
        let slots = self.slots.lock();
        let open = slots.list.iter().enumerate();
        open.filter_map(|(i, s)| s.as_ref().map(|s| (i as i32, Arc::clone(&s.file)))).collect()
    }

    /// How many descriptors are open.
    #[must_use]
    pub fn count(&self) -> usize {
        self.slots.lock().taken.count_ones()
    }

    /// Removes every descriptor that closes on `execve` and returns their files.
    #[must_use]
    pub fn take_cloexec(&self) -> Vec<Arc<File>> {
        let mut slots = self.slots.lock();
        let closes = |s: &Option<Slot>| s.as_ref().is_some_and(|s| s.cloexec);
        let closing: Vec<usize> = (0..slots.list.len()).filter(|i| closes(&slots.list[*i])).collect();
        closing.into_iter().filter_map(|index| slots.take(index).map(|s| s.file)).collect()
    }

    /// Removes all descriptors and returns their files.
    #[must_use]
    pub fn take_all(&self) -> Vec<Arc<File>> {
        core::mem::take(&mut *self.slots.lock()).list.into_iter().flatten().map(|s| s.file).collect()
    }

    /// A copy whose descriptors share the open files (`fork`).
    #[must_use]
    pub fn duplicate(&self) -> Self {
        FdTable { slots: Mutex::new(self.slots.lock().clone()), limit: AtomicU32::new(self.limit()) }
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
