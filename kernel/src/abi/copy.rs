//! Copying and sharing between descriptors: `sendfile`, `copy_file_range`, `FICLONE`.

use super::io::length;
use super::scratch::Scratch;
use super::{Call, SysResult, signal, user};
use alloc::sync::Arc;
use vfs::Errno;
use vfs::file::{File, Whence};
use vfs::types::{FileType, OpenFlags};

/// `FICLONE`: the argument is the source's descriptor.
pub(super) const FICLONE: u32 = 0x4004_9409;
/// `FICLONERANGE`: the argument points to a `struct file_clone_range`.
pub(super) const FICLONERANGE: u32 = 0x4020_940d;

/// `ioctl(FICLONE)` and `ioctl(FICLONERANGE)` on the file that is to share the blocks of another (`ioctl_ficlonerange(2)`).
pub(super) fn clone_file(call: &Call<'_>, file: &Arc<File>, request: u32, argument: u64) -> SysResult {
    let (source, from, len, at) = if request == FICLONE {
        (argument as i32, 0, 0, 0)
    } else {
        let word = |i: u64| user::read_u64(argument.wrapping_add(i * 8));
        (word(0)? as i32, word(1)?, word(2)?, word(3)?)
    };
    let source = call.process().fds.get(source)?;
    if [from, len, at].iter().any(|offset| (*offset as i64) < 0) {
        return Err(Errno::EINVAL);
    }
    // A length of 0 is up to the end.
    let done = file.clone_range(at, &source, from, if len == 0 { u64::MAX } else { len })?;
    if len != 0 && done != len { Err(Errno::EINVAL) } else { Ok(0) }
}

/// Shares blocks instead of copying them, where that can be; how many bytes. `None`: they must be copied.
fn share(from: &File, at: u64, to: &File, to_at: u64, len: u64) -> Result<Option<u64>, Errno> {
    let block = u64::from(from.inode().stat()?.blksize).max(1);
    // As much as was asked for, which may end with the file; else whole blocks of it.
    for len in [len, len - len % block] {
        match to.clone_range(to_at, from, at, len) {
            Ok(done) => return Ok(Some(done)),
            Err(Errno::EINVAL) => {}
            Err(Errno::EOPNOTSUPP | Errno::EXDEV | Errno::EBUSY) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Copies between files inside the kernel. `from`: an offset that is advanced, or the file's position.
fn copy(
    call: &Call<'_>,
    from: &File,
    mut at: Option<u64>,
    to: &File,
    to_at: Option<u64>,
    len: u64,
) -> SysResult {
    let mut scratch = Scratch::for_transfer(length(len));
    let mut done = 0u64;
    // Two gigabytes take their time: a signal ends it early, as on Linux.
    while done < len && (done == 0 || !call.task.interrupted()) {
        let want = scratch.len().min((len - done) as usize);
        let n = match at {
            Some(offset) => from.read_at(offset, &mut scratch[..want])?,
            None => from.read(&mut scratch[..want])?,
        };
        if n == 0 {
            break;
        }
        let written = match to_at {
            Some(offset) => to.write_at(offset + done, &scratch[..n]),
            None => to.write(&scratch[..n]),
        };
        let written = match written {
            Ok(written) => written,
            Err(_) if done > 0 => break,
            Err(error) => return Err(signal::broken_pipe(call.task, error)),
        };
        done += written as u64;
        at = at.map(|offset| offset + written as u64);
        if written < n {
            break;
        }
    }
    Ok(done)
}

pub(super) fn sendfile(call: &mut Call<'_>) -> SysResult {
    let fds = &call.process().fds;
    let (to, from) = (fds.get(call.int(0))?, fds.get(call.int(1))?);
    let at = match call.arg(2) {
        // The position moves by what was written, which may be less than was read.
        0 if from.stream().is_none() => Some(from.position()),
        0 => None,
        pointer => Some(user::read_u64(pointer)?),
    };
    let n = copy(call, &from, at, &to, None, length(call.arg(3)) as u64)?;
    match (at, call.arg(2)) {
        (None, _) => {}
        (Some(at), 0) => drop(from.seek((at + n) as i64, Whence::Set)?),
        (Some(at), pointer) => user::write_u64(pointer, at + n)?,
    }
    Ok(n)
}

pub(super) fn copy_file_range(call: &mut Call<'_>) -> SysResult {
    let fds = &call.process().fds;
    let (from, to) = (fds.get(call.int(0))?, fds.get(call.int(2))?);
    if call.arg(5) != 0 {
        return Err(Errno::EINVAL);
    }
    // Programs try sockets and pipes here first, and go on to `sendfile` when this refuses them.
    for file in [&from, &to] {
        match file.inode().file_type() {
            FileType::Regular => {}
            FileType::Directory => return Err(Errno::EISDIR),
            _ => return Err(Errno::EINVAL),
        }
    }
    let read = |pointer: u64| if pointer == 0 { Ok(None) } else { user::read_u64(pointer).map(Some) };
    let (from_at, to_at) = (read(call.arg(1))?, read(call.arg(3))?);
    if to.flags().contains(OpenFlags::APPEND) {
        return Err(Errno::EBADF);
    }
    // The position moves by what was written, which may be less than was read.
    let at = from_at.unwrap_or_else(|| from.position());
    let len = length(call.arg(4)) as u64;
    let shared_at = to_at.unwrap_or_else(|| to.position());
    let n = match share(&from, at, &to, shared_at, len)? {
        Some(n) => {
            if to_at.is_none() {
                to.seek((shared_at + n) as i64, Whence::Set)?;
            }
            n
        }
        None => copy(call, &from, Some(at), &to, to_at, len)?,
    };
    if from_at.is_none() {
        from.seek((at + n) as i64, Whence::Set)?;
    }
    for (pointer, at) in [(call.arg(1), from_at), (call.arg(3), to_at)] {
        if let Some(at) = at {
            user::write_u64(pointer, at + n)?;
        }
    }
    Ok(n)
}
