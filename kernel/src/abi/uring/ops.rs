//! The operations of `io_uring`: what each submission becomes.

use super::ring::Ring;
use super::sqe::Sqe;
use crate::abi::io::{RWF_DURABLE, RWF_HINTS, length, optional_offset};
use crate::abi::transfer::{Transfer, Who, Work, answer};
use crate::abi::user;
use crate::process::workers::{Outcome, Watch};
use crate::process::{self, Task};
use crate::time;
use alloc::boxed::Box;
use alloc::sync::Arc;
use vfs::Errno;
use vfs::file::File;

const NOP: u8 = 0;
const READV: u8 = 1;
const WRITEV: u8 = 2;
const FSYNC: u8 = 3;
const READ_FIXED: u8 = 4;
const WRITE_FIXED: u8 = 5;
const POLL_ADD: u8 = 6;
const POLL_REMOVE: u8 = 7;
const SYNC_FILE_RANGE: u8 = 8;
const TIMEOUT: u8 = 11;
const TIMEOUT_REMOVE: u8 = 12;
const ASYNC_CANCEL: u8 = 14;
const FALLOCATE: u8 = 17;
const CLOSE: u8 = 19;
const READ: u8 = 22;
const WRITE: u8 = 23;
const FADVISE: u8 = 24;

/// All that we have, for `IORING_REGISTER_PROBE`.
pub const SUPPORTED: [u8; 17] = [
    NOP,
    READV,
    WRITEV,
    FSYNC,
    READ_FIXED,
    WRITE_FIXED,
    POLL_ADD,
    POLL_REMOVE,
    SYNC_FILE_RANGE,
    TIMEOUT,
    TIMEOUT_REMOVE,
    ASYNC_CANCEL,
    FALLOCATE,
    CLOSE,
    READ,
    WRITE,
    FADVISE,
];

/// `IOSQE_FIXED_FILE`, `IOSQE_ASYNC`. Links, drains and chosen buffers are refused.
const FIXED_FILE: u8 = 1;
const ASYNC: u8 = 1 << 4;
/// `IORING_TIMEOUT_ABS`, `IORING_TIMEOUT_REALTIME`, `IORING_TIMEOUT_BOOTTIME`, `IORING_TIMEOUT_ETIME_SUCCESS`.
const ABSOLUTE: u32 = 1;
const REALTIME: u32 = 1 << 3;
const TIMEOUT_FLAGS: u32 = ABSOLUTE | REALTIME | 1 << 2 | 1 << 5;

fn file(ring: &Ring, sqe: &Sqe, task: &Task) -> Result<Arc<File>, Errno> {
    if sqe.flags & FIXED_FILE == 0 {
        return task.process.fds.get(sqe.fd);
    }
    let registered = ring.registered.lock();
    usize::try_from(sqe.fd).ok().and_then(|i| registered.files.get(i)?.clone()).ok_or(Errno::EBADF)
}

/// The part of a registered buffer that a submission names.
fn fixed_buffer(ring: &Ring, sqe: &Sqe) -> Result<(u64, usize), Errno> {
    let registered = ring.registered.lock();
    let &(start, len) = registered.buffers.get(usize::from(sqe.buffer)).ok_or(Errno::EFAULT)?;
    let end = sqe.address.checked_add(u64::from(sqe.len)).ok_or(Errno::EFAULT)?;
    if sqe.address < start || end > start + len as u64 {
        return Err(Errno::EFAULT);
    }
    Ok((sqe.address, sqe.len as usize))
}

/// What a submission asks of a file, if that is all it is.
fn work(ring: &Ring, sqe: &Sqe) -> Result<Option<Work>, Errno> {
    let flags = u64::from(sqe.op_flags);
    let durable = flags & RWF_DURABLE != 0;
    let transfer = matches!(sqe.opcode, READ | READV | READ_FIXED | WRITE | WRITEV | WRITE_FIXED);
    if transfer && flags & !(RWF_DURABLE | RWF_HINTS) != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let single = || alloc::vec![(sqe.address, length(u64::from(sqe.len)))];
    let place = || optional_offset(sqe.offset);
    Ok(Some(match sqe.opcode {
        READ => Work::Read(place()?, single()),
        WRITE => Work::Write(place()?, single(), durable),
        READV => Work::Read(place()?, user::read_iovecs(sqe.address, u64::from(sqe.len))?),
        WRITEV => Work::Write(place()?, user::read_iovecs(sqe.address, u64::from(sqe.len))?, durable),
        READ_FIXED => Work::Read(place()?, alloc::vec![fixed_buffer(ring, sqe)?]),
        WRITE_FIXED => Work::Write(place()?, alloc::vec![fixed_buffer(ring, sqe)?], durable),
        FSYNC if sqe.op_flags & !1 == 0 => Work::Sync,
        FSYNC => return Err(Errno::EINVAL),
        SYNC_FILE_RANGE => Work::Sync,
        // The length is where other operations have an address, the mode where they have a length.
        FALLOCATE => Work::Allocate(u64::from(sqe.len), sqe.offset, sqe.address),
        _ => return Ok(None),
    }))
}

/// Carries out a submission, or has it carried out. `alone`: the caller would only wait for it, so the file may be
/// waited for here.
pub fn start(ring: &Arc<Ring>, sqe: &Sqe, task: &'static Task, alone: bool) {
    let data = sqe.user_data;
    match try_start(ring, sqe, task, alone) {
        Ok(Some(result)) => ring.complete(data, result as i64),
        Ok(None) => {}
        Err(error) => ring.complete(data, answer(Err(error))),
    }
}

/// `Some`: it is done, with this result. `None`: it will be.
fn try_start(ring: &Arc<Ring>, sqe: &Sqe, task: &'static Task, alone: bool) -> Result<Option<u64>, Errno> {
    if sqe.flags & !(FIXED_FILE | ASYNC) != 0 {
        return Err(Errno::EINVAL);
    }
    let process = &task.process;
    if let Some(work) = work(ring, sqe)? {
        let transfer = Transfer { file: file(ring, sqe, task)?, work };
        if alone && transfer.file.stream().is_none() {
            return transfer.run(task).map(Some);
        }
        let (target, data) = (Arc::clone(ring), sqe.user_data);
        let who = Who { process, owner: ring.number, name: data };
        transfer.start(who, move |result| target.complete(data, answer(result)));
        return Ok(None);
    }
    match sqe.opcode {
        NOP => Ok(Some(0)),
        FADVISE => file(ring, sqe, task).map(|_| Some(0)),
        POLL_ADD => poll(ring, sqe, task).map(|()| None),
        TIMEOUT => timeout(ring, sqe, task).map(|()| None),
        POLL_REMOVE | TIMEOUT_REMOVE | ASYNC_CANCEL => {
            // Only the plain forms: by the tag in the address, nothing to update.
            if sqe.op_flags != 0 || sqe.len != 0 {
                return Err(Errno::EINVAL);
            }
            match process.workers.cancel(ring.number, Some(sqe.address)) {
                0 => Err(Errno::ENOENT),
                _ => Ok(Some(0)),
            }
        }
        CLOSE => {
            let file = process.fds.remove(sqe.fd)?;
            process::closed(process, &file);
            Ok(Some(0))
        }
        _ => Err(Errno::EINVAL),
    }
}

fn poll(ring: &Arc<Ring>, sqe: &Sqe, task: &Task) -> Result<(), Errno> {
    if sqe.len != 0 {
        // Polling again and again, or changing what is polled.
        return Err(Errno::EINVAL);
    }
    let file = file(ring, sqe, task)?;
    let data = sqe.user_data;
    let Some(stream) = file.stream().cloned() else {
        let ready = file.ready().0 & sqe.op_flags;
        ring.complete(data, i64::from(ready));
        return Ok(());
    };
    let target = Arc::clone(ring);
    let done = move |outcome| {
        // The file stays open until then.
        let _keep = &file;
        target.complete(
            data,
            match outcome {
                Outcome::Ready(events) => i64::from(events),
                _ => answer(Err(Errno::ECANCELED)),
            },
        );
    };
    let events = sqe.op_flags & 0xffff;
    let watch = Watch {
        owner: ring.number,
        name: data,
        stream: Some(stream),
        events,
        deadline: None,
        done: Box::new(done),
    };
    task.process.workers.watch(&task.process, watch).map_err(|_| Errno::EAGAIN)
}

fn timeout(ring: &Arc<Ring>, sqe: &Sqe, task: &Task) -> Result<(), Errno> {
    // One that also ends after so many completions is not offered.
    if sqe.len != 1 || sqe.offset != 0 || sqe.op_flags & !TIMEOUT_FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    let value = user::duration(user::read_timespec(sqe.address)?)?;
    let now = time::monotonic_ns();
    let deadline = match sqe.op_flags {
        f if f & ABSOLUTE == 0 => now.saturating_add(value),
        f if f & REALTIME != 0 => now.saturating_add(value.saturating_sub(user::duration(time::now())?)),
        _ => value,
    };
    let (target, data) = (Arc::clone(ring), sqe.user_data);
    let done = move |outcome| {
        let error = if outcome == Outcome::TimedOut { Errno::ETIME } else { Errno::ECANCELED };
        target.complete(data, answer(Err(error)));
    };
    let watch = Watch {
        owner: ring.number,
        name: data,
        stream: None,
        events: 0,
        deadline: Some(deadline),
        done: Box::new(done),
    };
    task.process.workers.watch(&task.process, watch).map_err(|_| Errno::EAGAIN)
}
