//! Reading, writing, and making durable.

use super::scratch::Scratch;
use super::{Call, SysResult, signal, user};
use crate::process::{self, Task};
use alloc::sync::Arc;
use vfs::Errno;
use vfs::file::{File, Whence};
use vfs::types::{Allocate, DirEntry};

/// Where a transfer happens: at the file's position or at an offset.
#[derive(Clone, Copy)]
pub(super) enum At {
    /// At the position.
    Position,
    /// Here.
    Offset(u64),
}

fn offset(value: u64) -> Result<At, Errno> {
    if (value as i64) < 0 { Err(Errno::EINVAL) } else { Ok(At::Offset(value)) }
}

fn read_piece(file: &File, at: At, done: usize, buf: &mut [u8]) -> Result<usize, Errno> {
    match at {
        At::Position => file.read(buf),
        At::Offset(offset) => file.read_at(offset + done as u64, buf),
    }
}

/// Whether the process is ending: then a long transfer has nobody who waits for it.
fn is_ending() -> bool {
    process::try_current().is_some_and(|task| task.process.is_exiting())
}

/// Fills the caller's buffers; stops at the first short piece.
pub(super) fn read_to(file: &File, at: At, buffers: &[(u64, usize)]) -> SysResult {
    let total: usize = buffers.iter().map(|b| b.1).sum();
    let mut scratch = Scratch::for_transfer(total);
    let mut done = 0;
    for &(address, len) in buffers {
        let mut filled = 0;
        let len = len.min(user::MAX_RW.saturating_sub(done));
        while filled < len {
            let want = (len - filled).min(scratch.len());
            let n = match read_piece(file, at, done, &mut scratch[..want]) {
                Ok(n) => n,
                Err(_) if done > 0 => return Ok(done as u64),
                Err(error) => return Err(error),
            };
            user::write(address + filled as u64, &scratch[..n])?;
            filled += n;
            done += n;
            // A pipe or terminal gives what it has; waiting for more would be wrong. Memory devices fill the buffer.
            let waits = || file.stream().is_some_and(|s| s.waiters().is_some());
            if n < want || waits() || is_ending() {
                return Ok(done as u64);
            }
        }
    }
    if total == 0 {
        read_piece(file, at, 0, &mut [])?;
    }
    Ok(done as u64)
}

fn write_piece(file: &File, at: At, done: usize, data: &[u8]) -> Result<usize, Errno> {
    match at {
        At::Position => file.write(data),
        At::Offset(offset) => file.write_at(offset + done as u64, data),
    }
}

/// Writes the caller's buffers. Small ones are gathered first, so that `writev` is one write and stays whole.
pub(super) fn write_from(task: &Task, file: &File, at: At, buffers: &[(u64, usize)]) -> SysResult {
    let total: usize = buffers.iter().map(|b| b.1).sum::<usize>().min(user::MAX_RW);
    let mut scratch = Scratch::for_transfer(total);
    let mut gathered = 0;
    let mut done = 0;
    let flush = |gathered: &[u8], done: &mut usize| -> Result<bool, Errno> {
        match write_piece(file, at, *done, gathered) {
            Ok(n) => {
                *done += n;
                Ok(n == gathered.len())
            }
            Err(_) if *done > 0 => Ok(false),
            Err(error) => Err(signal::broken_pipe(task, error)),
        }
    };
    for &(address, len) in buffers {
        let mut taken = 0;
        while taken < len && done + gathered < total {
            let n = (len - taken).min(scratch.len() - gathered).min(total - done - gathered);
            if let Err(error) = user::read(address + taken as u64, &mut scratch[gathered..gathered + n]) {
                if done == 0 && gathered == 0 {
                    return Err(error);
                }
                flush(&scratch[..gathered], &mut done)?;
                return Ok(done as u64);
            }
            taken += n;
            gathered += n;
            if gathered == user::CHUNK {
                gathered = 0;
                if !flush(&scratch, &mut done)? || is_ending() {
                    return Ok(done as u64);
                }
            }
        }
    }
    if gathered > 0 || total == 0 {
        flush(&scratch[..gathered], &mut done)?;
    }
    Ok(done as u64)
}

fn file(call: &Call<'_>) -> Result<Arc<File>, Errno> {
    call.process().fds.get(call.int(0))
}

pub(super) fn length(value: u64) -> usize {
    (value as usize).min(user::MAX_RW)
}

pub(super) fn read(call: &mut Call<'_>) -> SysResult {
    read_to(&*file(call)?, At::Position, &[(call.arg(1), length(call.arg(2)))])
}

pub(super) fn write(call: &mut Call<'_>) -> SysResult {
    write_from(call.task, &*file(call)?, At::Position, &[(call.arg(1), length(call.arg(2)))])
}

pub(super) fn pread64(call: &mut Call<'_>) -> SysResult {
    read_to(&*file(call)?, offset(call.arg(3))?, &[(call.arg(1), length(call.arg(2)))])
}

pub(super) fn pwrite64(call: &mut Call<'_>) -> SysResult {
    write_from(call.task, &*file(call)?, offset(call.arg(3))?, &[(call.arg(1), length(call.arg(2)))])
}

pub(super) fn readv(call: &mut Call<'_>) -> SysResult {
    read_to(&*file(call)?, At::Position, &user::read_iovecs(call.arg(1), call.arg(2))?)
}

pub(super) fn writev(call: &mut Call<'_>) -> SysResult {
    write_from(call.task, &*file(call)?, At::Position, &user::read_iovecs(call.arg(1), call.arg(2))?)
}

pub(super) fn preadv(call: &mut Call<'_>) -> SysResult {
    read_to(&*file(call)?, offset(call.arg(3))?, &user::read_iovecs(call.arg(1), call.arg(2))?)
}

pub(super) fn pwritev(call: &mut Call<'_>) -> SysResult {
    write_from(call.task, &*file(call)?, offset(call.arg(3))?, &user::read_iovecs(call.arg(1), call.arg(2))?)
}

pub(super) fn optional_offset(value: u64) -> Result<At, Errno> {
    if value == u64::MAX { Ok(At::Position) } else { offset(value) }
}

/// `RWF_DSYNC | RWF_SYNC`.
pub(super) const RWF_DURABLE: u64 = 2 | 4;
/// `RWF_HIPRI | RWF_NOWAIT`: hints.
pub(super) const RWF_HINTS: u64 = 1 | 8;

pub(super) fn preadv2(call: &mut Call<'_>) -> SysResult {
    if call.arg(5) & !(RWF_DURABLE | RWF_HINTS) != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    read_to(&*file(call)?, optional_offset(call.arg(3))?, &user::read_iovecs(call.arg(1), call.arg(2))?)
}

pub(super) fn pwritev2(call: &mut Call<'_>) -> SysResult {
    if call.arg(5) & !(RWF_DURABLE | RWF_HINTS) != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let file = file(call)?;
    let buffers = user::read_iovecs(call.arg(1), call.arg(2))?;
    let n = write_from(call.task, &file, optional_offset(call.arg(3))?, &buffers)?;
    if call.arg(5) & RWF_DURABLE != 0 {
        file.fsync()?;
    }
    Ok(n)
}

pub(super) fn lseek(call: &mut Call<'_>) -> SysResult {
    let whence = match call.arg(2) {
        0 => Whence::Set,
        1 => Whence::Current,
        2 => Whence::End,
        3 => Whence::Data,
        4 => Whence::Hole,
        _ => return Err(Errno::EINVAL),
    };
    file(call)?.seek(call.arg(1) as i64, whence)
}

pub(super) fn fsync(call: &mut Call<'_>) -> SysResult {
    file(call)?.fsync().map(|()| 0)
}

/// `sync_file_range` only starts writing on Linux; here it is as durable as `fsync`.
pub(super) fn sync_file_range(call: &mut Call<'_>) -> SysResult {
    let file = file(call)?;
    if call.arg(3) == 0 { Ok(0) } else { file.fsync().map(|()| 0) }
}

pub(super) fn sync(_call: &mut Call<'_>) -> SysResult {
    if let Err(error) = crate::process::vfs().tree.sync() {
        crate::log!(Error, "sync: {error}");
    }
    Ok(0)
}

pub(super) fn syncfs(call: &mut Call<'_>) -> SysResult {
    file(call)?;
    crate::process::vfs().tree.sync().map(|()| 0)
}

pub(super) fn fallocate(call: &mut Call<'_>) -> SysResult {
    allocate(&*file(call)?, call.arg(1), call.arg(2), call.arg(3))
}

/// `fallocate` by its numbers.
pub(super) fn allocate(file: &File, mode: u64, start: u64, len: u64) -> SysResult {
    if !file.flags().writable() {
        return Err(Errno::EBADF);
    }
    if (start as i64) < 0 || (len as i64) <= 0 {
        return Err(Errno::EINVAL);
    }
    let what = match mode {
        0 => Allocate::Reserve { keep_size: false },
        1 => Allocate::Reserve { keep_size: true },
        3 => Allocate::PunchHole,
        0x10 => Allocate::Zero { keep_size: false },
        0x11 => Allocate::Zero { keep_size: true },
        _ => return Err(Errno::EOPNOTSUPP),
    };
    file.allocate(what, start, len).map(|()| 0)
}

/// Most bytes of directory entries that one call gives.
const ENTRIES_MAX: usize = 64 << 10;

/// The forms of a directory's entry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dirent {
    /// `struct linux_dirent`: the kind is the record's last byte.
    Old,
    /// `struct linux_dirent64`: the kind stands before the name.
    Long,
}

impl Dirent {
    /// Writes an entry at the start of `out`, which is zero; its length, or `None` if there is no room.
    fn put(self, e: &DirEntry<'_>, out: &mut [u8]) -> Option<usize> {
        let start = if self == Dirent::Old { 18 } else { 19 };
        // A zero ends the name; the old form's kind comes behind it.
        let len = (e.name.len() + 20).next_multiple_of(8);
        let record = out.get_mut(..len)?;
        record[..8].copy_from_slice(&e.ino.to_le_bytes());
        record[8..16].copy_from_slice(&e.next.to_le_bytes());
        record[16..18].copy_from_slice(&(len as u16).to_le_bytes());
        record[start..start + e.name.len()].copy_from_slice(e.name);
        record[if self == Dirent::Old { len - 1 } else { 18 }] = e.kind as u8;
        Some(len)
    }
}

/// Collects directory entries until the caller's buffer is full.
fn entries(call: &Call<'_>, form: Dirent) -> SysResult {
    let file = file(call)?;
    let mut out = alloc::vec![0; length(call.arg(2)).min(ENTRIES_MAX)];
    let start = file.position();
    let (mut end, mut too_small) = (0, false);
    let read = file.read_dir(|entry| match form.put(entry, &mut out[end..]) {
        Some(len) => {
            end += len;
            true
        }
        None => {
            too_small = end == 0;
            false
        }
    });
    if end == 0 {
        // What was read before an error is given; the next call meets it again.
        read?;
    }
    if too_small {
        return Err(Errno::EINVAL);
    }
    if let Err(error) = user::write(call.arg(1), &out[..end]) {
        // Nothing was given: the next call begins where this one did.
        file.seek(start as i64, Whence::Set)?;
        return Err(error);
    }
    Ok(end as u64)
}

pub(super) fn getdents64(call: &mut Call<'_>) -> SysResult {
    entries(call, Dirent::Long)
}

pub(super) fn getdents(call: &mut Call<'_>) -> SysResult {
    entries(call, Dirent::Old)
}
