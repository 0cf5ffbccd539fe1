//! `splice`, `tee`, `vmsplice`: bytes between a pipe and something else, without a buffer of the caller's.
//!
//! One call moves what one look at the pipe allows: what it holds, or has room for. What was taken out of a pipe and is
//! not accepted on the other side goes back to its front. Flags: only `SPLICE_F_NONBLOCK` means anything, and that for pipes;
//! the other side waits or not as it was opened.

use super::io::length;
use super::{Call, SysResult, signal, user};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use vfs::Errno;
use vfs::file::{File, Whence};
use vfs::inode::Stream;
use vfs::pipe::{PIPE_SIZE, PipeEnd};
use vfs::types::{FileType, OpenFlags};

/// `SPLICE_F_NONBLOCK`, and all flags there are.
const NONBLOCK: u64 = 2;
const FLAGS: u64 = 0xf;

fn flags(value: u64) -> Result<bool, Errno> {
    if value & !FLAGS == 0 { Ok(value & NONBLOCK != 0) } else { Err(Errno::EINVAL) }
}

/// A file's pipe, if it is one, and whether its calls wait.
struct Pipe<'a> {
    end: &'a PipeEnd,
    nonblock: bool,
}

impl<'a> Pipe<'a> {
    fn of(file: &'a File, nonblock: bool) -> Option<Self> {
        let any: &dyn Any = &**file.stream()?;
        let end = any.downcast_ref()?;
        Some(Pipe { end, nonblock: nonblock || file.flags().contains(OpenFlags::NONBLOCK) })
    }

    /// Takes the next bytes, `limit` at most.
    fn take(&self, limit: usize) -> Result<Vec<u8>, Errno> {
        let mut bytes = alloc::vec![0; limit.min(PIPE_SIZE)];
        let n = self.end.read(&mut bytes, self.nonblock)?;
        bytes.truncate(n);
        Ok(bytes)
    }

    fn room(&self, limit: usize) -> Result<usize, Errno> {
        Ok(self.end.room(self.nonblock)?.min(limit))
    }
}

/// A file's offset in the caller's memory, or none: its position.
fn offset(pointer: u64) -> Result<Option<u64>, Errno> {
    if pointer == 0 {
        return Ok(None);
    }
    let at = user::read_u64(pointer)?;
    if (at as i64) < 0 { Err(Errno::EINVAL) } else { Ok(Some(at)) }
}

/// Out of a pipe into a file or a stream.
fn from_pipe(pipe: &Pipe<'_>, to: &File, at: Option<u64>, len: usize) -> SysResult {
    if at.is_some() && to.stream().is_some() || to.flags().contains(OpenFlags::APPEND) {
        return Err(Errno::EINVAL);
    }
    let bytes = pipe.take(len)?;
    if bytes.is_empty() {
        return Ok(0);
    }
    let written = match at {
        Some(at) => to.write_at(at, &bytes),
        None => to.write(&bytes),
    };
    let accepted = *written.as_ref().unwrap_or(&0);
    if accepted < bytes.len() {
        pipe.end.put_back(&bytes[accepted..]);
    }
    written.map(|n| n as u64)
}

/// Out of a file or a stream into a pipe.
fn to_pipe(from: &File, at: Option<u64>, pipe: &Pipe<'_>, len: usize) -> SysResult {
    let is_stream = from.stream().is_some();
    if at.is_some() && is_stream || from.inode().file_type() == FileType::Directory {
        return Err(Errno::EINVAL);
    }
    let mut bytes = alloc::vec![0; pipe.room(len)?];
    let place = at.or_else(|| (!is_stream).then(|| from.position()));
    let n = match place {
        Some(place) => from.read_at(place, &mut bytes)?,
        None => from.read(&mut bytes)?,
    };
    pipe.end.add(&bytes[..n])?;
    if at.is_none()
        && let Some(place) = place
    {
        from.seek((place + n as u64) as i64, Whence::Set)?;
    }
    Ok(n as u64)
}

/// Out of one pipe into another.
fn between(from: &Pipe<'_>, to: &Pipe<'_>, len: usize) -> SysResult {
    if from.end.is_of_same_pipe(to.end) {
        return Err(Errno::EINVAL);
    }
    // Room first, so that nothing that was taken waits for it.
    let bytes = from.take(to.room(len)?)?;
    if let Err(error) = to.end.add(&bytes) {
        from.end.put_back(&bytes);
        return Err(error);
    }
    Ok(bytes.len() as u64)
}

/// The descriptors that a call reads from and writes to.
fn pair(call: &Call<'_>, to: usize) -> Result<(Arc<File>, Arc<File>), Errno> {
    let fds = &call.process().fds;
    let (from, to) = (fds.get(call.int(0))?, fds.get(call.int(to))?);
    let usable = |file: &File, right: bool| right && !file.flags().contains(OpenFlags::PATH);
    if usable(&from, from.flags().readable()) && usable(&to, to.flags().writable()) {
        Ok((from, to))
    } else {
        Err(Errno::EBADF)
    }
}

pub(super) fn splice(call: &mut Call<'_>) -> SysResult {
    let (len, nonblock) = (length(call.arg(4)), flags(call.arg(5))?);
    if len == 0 {
        return Ok(0);
    }
    let (from, to) = pair(call, 2)?;
    let (input, output) = (Pipe::of(&from, nonblock), Pipe::of(&to, nonblock));
    if input.is_some() && call.arg(1) != 0 || output.is_some() && call.arg(3) != 0 {
        return Err(Errno::ESPIPE);
    }
    let (from_at, to_at) = (offset(call.arg(1))?, offset(call.arg(3))?);
    let moved = match (&input, &output) {
        // The one that waits less decides for both.
        (Some(input), Some(output)) => {
            let nonblock = input.nonblock || output.nonblock;
            between(&Pipe { nonblock, ..*input }, &Pipe { nonblock, ..*output }, len)
        }
        (Some(pipe), None) => from_pipe(pipe, &to, to_at, len),
        (None, Some(pipe)) => to_pipe(&from, from_at, pipe, len),
        (None, None) => Err(Errno::EINVAL),
    };
    let n = moved.map_err(|error| signal::broken_pipe(call.task, error))?;
    for (pointer, at) in [(call.arg(1), from_at), (call.arg(3), to_at)] {
        if let Some(at) = at {
            user::write_u64(pointer, at + n)?;
        }
    }
    Ok(n)
}

pub(super) fn tee(call: &mut Call<'_>) -> SysResult {
    let (len, nonblock) = (length(call.arg(2)), flags(call.arg(3))?);
    if len == 0 {
        return Ok(0);
    }
    let (from, to) = pair(call, 1)?;
    let (Some(input), Some(output)) = (Pipe::of(&from, nonblock), Pipe::of(&to, nonblock)) else {
        return Err(Errno::EINVAL);
    };
    if input.end.is_of_same_pipe(output.end) {
        return Err(Errno::EINVAL);
    }
    let nonblock = input.nonblock || output.nonblock;
    let copied = input.end.peek(PIPE_SIZE, nonblock).and_then(|bytes| {
        if bytes.is_empty() {
            return Ok(0);
        }
        let n = output.end.room(nonblock)?.min(len).min(bytes.len());
        output.end.add(&bytes[..n])?;
        Ok(n as u64)
    });
    copied.map_err(|error| signal::broken_pipe(call.task, error))
}

/// Out of the caller's memory into a pipe: as much as there is room for.
fn gather(pipe: &Pipe<'_>, buffers: &[(u64, usize)], total: usize) -> SysResult {
    let room = pipe.room(total)?;
    let mut bytes = Vec::with_capacity(room);
    for &(address, len) in buffers {
        let start = bytes.len();
        let n = len.min(room - start);
        if n == 0 {
            continue;
        }
        bytes.resize(start + n, 0);
        if let Err(error) = user::read(address, &mut bytes[start..]) {
            bytes.truncate(start);
            if start == 0 {
                return Err(error);
            }
            break;
        }
    }
    pipe.end.add(&bytes)?;
    Ok(bytes.len() as u64)
}

/// Out of a pipe into the caller's memory.
fn scatter(pipe: &Pipe<'_>, buffers: &[(u64, usize)], total: usize) -> SysResult {
    let bytes = pipe.take(total)?;
    let mut done = 0;
    for &(address, len) in buffers {
        let n = len.min(bytes.len() - done);
        if let Err(error) = user::write(address, &bytes[done..done + n]) {
            pipe.end.put_back(&bytes[done..]);
            return if done > 0 { Ok(done as u64) } else { Err(error) };
        }
        done += n;
    }
    Ok(done as u64)
}

pub(super) fn vmsplice(call: &mut Call<'_>) -> SysResult {
    let nonblock = flags(call.arg(3))?;
    let file = call.process().fds.get(call.int(0))?;
    let pipe = Pipe::of(&file, nonblock).ok_or(Errno::EBADF)?;
    let buffers = user::read_iovecs(call.arg(1), call.arg(2))?;
    let total: usize = buffers.iter().map(|b| b.1).sum();
    match total {
        0 => Ok(0),
        _ if file.flags().writable() => {
            gather(&pipe, &buffers, total).map_err(|error| signal::broken_pipe(call.task, error))
        }
        _ => scatter(&pipe, &buffers, total),
    }
}
