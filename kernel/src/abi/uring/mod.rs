//! `io_uring`: the three calls.
//!
//! The engine's file calls sleep, so requests for files are carried out by the process's workers
//! ([`crate::process::workers`]), and those for streams wait in the workers' watch. A thread that
//! submits one request and waits for it, or waits while requests are queued, does the work itself. Offered: the operations
//! in [`ops::SUPPORTED`]; every flag that is not known is refused with `EINVAL`, as Linux does for those that it does not know.

mod ops;
mod ring;
mod sqe;

use super::fd::open_stream;
use super::poll::timespec_deadline;
use super::{Call, SysResult, signal, user};
use crate::mm::file_pages::Pages;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use ring::{Registered, Ring, RingFile};
use vfs::Errno;
use vfs::events::EventFd;
use vfs::inode::Stream;
use vfs::types::OpenFlags;
use vfs::wait::wait_on;

/// `IORING_SETUP_*`.
const CQSIZE: u32 = 1 << 3;
const CLAMP: u32 = 1 << 4;
/// `SUBMIT_ALL`, `COOP_TASKRUN`, `SINGLE_ISSUER`: promises and wishes that hold or change nothing here.
const WISHES: u32 = 1 << 7 | 1 << 8 | 1 << 12;
/// `IORING_FEAT_SINGLE_MMAP | NODROP | SUBMIT_STABLE | RW_CUR_POS | EXT_ARG`.
const FEATURES: u32 = 1 | 2 | 4 | 8 | 1 << 8;
const SQ_MAX: u32 = 32_768;
const CQ_MAX: u32 = 2 * SQ_MAX;
/// `sizeof(struct io_uring_params)`.
const PARAMS: usize = 120;
/// Most files or buffers that can be registered.
const REGISTERED_MAX: u64 = 1024;

/// `IORING_ENTER_*`.
const GETEVENTS: u32 = 1;
const EXT_ARG: u32 = 8;

fn put(out: &mut [u8], at: usize, value: u32) {
    out[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

pub(super) fn io_uring_setup(call: &mut Call<'_>) -> SysResult {
    let mut entries = call.arg(0) as u32;
    let mut params = user::read_bytes(call.arg(1), PARAMS)?;
    let word = |at: usize| u32::from_le_bytes([params[at], params[at + 1], params[at + 2], params[at + 3]]);
    let (mut cq_entries, flags) = (word(4), word(8));
    if flags & !(CQSIZE | CLAMP | WISHES) != 0 || (28..40).any(|at| params[at] != 0) || entries == 0 {
        return Err(Errno::EINVAL);
    }
    let clamp = |n: u32, max: u32| match n {
        n if n <= max => Ok(n),
        _ if flags & CLAMP != 0 => Ok(max),
        _ => Err(Errno::EINVAL),
    };
    entries = clamp(entries, SQ_MAX)?.next_power_of_two();
    cq_entries =
        if flags & CQSIZE == 0 { 2 * entries } else { clamp(cq_entries, CQ_MAX)?.next_power_of_two() };
    if cq_entries < entries {
        return Err(Errno::EINVAL);
    }
    let ring = Ring::new(&call.task.process, entries, cq_entries)?;
    params[40..].fill(0);
    let fields = [
        (0, entries),
        (4, cq_entries),
        (20, FEATURES),
        (40, ring::SQ_HEAD),
        (44, ring::SQ_TAIL),
        (48, ring::SQ_MASK),
        (52, ring::SQ_ENTRIES),
        (56, ring::SQ_FLAGS),
        (60, ring::SQ_DROPPED),
        (64, ring::array_offset(cq_entries)),
        (80, ring::CQ_HEAD),
        (84, ring::CQ_TAIL),
        (88, ring::CQ_MASK),
        (92, ring::CQ_ENTRIES),
        (96, ring::CQ_OVERFLOW),
        (100, ring::CQES),
        (104, ring::CQ_FLAGS),
    ];
    fields.iter().for_each(|(at, value)| put(&mut params, *at, *value));
    user::write(call.arg(1), &params)?;
    open_stream(call, Arc::new(RingFile(ring)), "io_uring", OpenFlags::CLOEXEC).map(|fd| fd as u64)
}

fn ring_file(stream: &Arc<dyn Stream>) -> Option<Arc<RingFile>> {
    let any: Arc<dyn Any + Send + Sync> = Arc::clone(stream) as _;
    any.downcast().ok()
}

fn ring(call: &Call<'_>) -> Result<Arc<Ring>, Errno> {
    let file = call.process().fds.get(call.int(0))?;
    let ring = file.stream().and_then(ring_file).ok_or(Errno::EOPNOTSUPP)?;
    Ok(Arc::clone(&ring.0))
}

/// The memory that `mmap` of a ring's descriptor shows at `offset`; none if it is no ring.
pub(super) fn shared_memory(stream: &Arc<dyn Stream>, offset: u64) -> Option<Result<Arc<Pages>, Errno>> {
    let ring = ring_file(stream)?;
    let (rings, entries) = &ring.0.objects;
    Some(match offset {
        ring::OFF_SQ_RING | ring::OFF_CQ_RING => Ok(Arc::clone(rings)),
        ring::OFF_SQES => Ok(Arc::clone(entries)),
        _ => Err(Errno::EINVAL),
    })
}

/// How long to wait, and with which signals blocked.
fn waiting(call: &Call<'_>, flags: u32) -> Result<Option<u64>, Errno> {
    let (at, size) = (call.arg(4), call.arg(5));
    if flags & EXT_ARG == 0 {
        signal::use_mask(call.task, at, size)?;
        return Ok(None);
    }
    if size != 24 {
        return Err(Errno::EINVAL);
    }
    let words = user::read_words::<3>(at)?;
    // The size is a 32-bit number, with nothing behind it.
    signal::use_mask(call.task, words[0], words[1] & u64::from(u32::MAX))?;
    timespec_deadline(words[2])
}

pub(super) fn io_uring_enter(call: &mut Call<'_>) -> SysResult {
    let (to_submit, min, flags) = (call.arg(1) as u32, call.arg(2) as u32, call.arg(3) as u32);
    if flags & !(GETEVENTS | EXT_ARG) != 0 {
        return Err(Errno::EINVAL);
    }
    let ring = ring(call)?;
    let mut submitted = 0;
    {
        let _turn = ring.submit.lock();
        let alone = to_submit == 1 && min > 0 && flags & GETEVENTS != 0 && ring.completed() == 0;
        while submitted < to_submit
            && let Some(sqe) = ring.next()
        {
            submitted += 1;
            ops::start(&ring, &sqe, call.task, alone);
        }
    }
    ring.flush();
    if flags & GETEVENTS == 0 {
        return Ok(u64::from(submitted));
    }
    let deadline = match waiting(call, flags) {
        Ok(deadline) => deadline,
        Err(_) if submitted > 0 => return Ok(u64::from(submitted)),
        Err(error) => return Err(error),
    };
    let enough = || (ring.completed() >= min || ring.overflown()).then_some(());
    while enough().is_none()
        && let Some(job) = call.process().workers.take()
    {
        job();
    }
    let result = wait_on(&[&ring.waiters], deadline, enough);
    ring.flush();
    match result {
        Ok(()) => Ok(u64::from(submitted)),
        Err(_) if submitted > 0 => Ok(u64::from(submitted)),
        Err(Errno::ETIMEDOUT) => Err(Errno::ETIME),
        Err(error) => Err(error),
    }
}

pub(super) fn io_uring_register(call: &mut Call<'_>) -> SysResult {
    let ring = ring(call)?;
    let (at, count) = (call.arg(2), call.arg(3) & 0xffff_ffff);
    if count > REGISTERED_MAX {
        return Err(Errno::EINVAL);
    }
    let busy = |taken: bool| if taken { Err(Errno::EBUSY) } else { Ok(()) };
    let had = |taken: bool| if taken { Ok(0) } else { Err(Errno::ENXIO) };
    match call.arg(1) {
        // BUFFERS
        0 => {
            let buffers = user::read_iovecs(at, count)?;
            let mut registered = ring.registered.lock();
            busy(!registered.buffers.is_empty())?;
            registered.buffers = buffers;
            Ok(0)
        }
        1 => had(!core::mem::take(&mut ring.registered.lock().buffers).is_empty()),
        // FILES
        2 => {
            let bytes = user::read_bytes(at, count as usize * 4)?;
            let fds = bytes.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b));
            let open = |fd| if fd == -1 { Ok(None) } else { call.process().fds.get(fd).map(Some) };
            let files = fds.map(open).collect::<Result<Vec<_>, _>>()?;
            let mut registered = ring.registered.lock();
            busy(!registered.files.is_empty())?;
            registered.files = files;
            Ok(0)
        }
        3 => {
            let files = core::mem::take(&mut ring.registered.lock().files);
            had(!files.is_empty())
        }
        // EVENTFD
        4 => {
            let file = call.process().fds.get(user::read_u32(at)? as i32)?;
            let any: Arc<dyn Any + Send + Sync> = Arc::clone(file.stream().ok_or(Errno::EINVAL)?) as _;
            let counter = any.downcast::<EventFd>().map_err(|_| Errno::EINVAL)?;
            let Registered { eventfd, .. } = &mut *ring.registered.lock();
            busy(eventfd.is_some())?;
            *eventfd = Some(counter);
            Ok(0)
        }
        5 => had(ring.registered.lock().eventfd.take().is_some()),
        // PROBE
        8 => {
            let last = ops::SUPPORTED.iter().copied().max().unwrap_or(0);
            let shown = count.min(u64::from(last) + 1);
            let mut out = alloc::vec![0; 16 + shown as usize * 8];
            (out[0], out[1]) = (last, shown as u8);
            for (op, entry) in out[16..].chunks_exact_mut(8).enumerate() {
                entry[0] = op as u8;
                entry[2] = u8::from(ops::SUPPORTED.contains(&(op as u8)));
            }
            user::write(at, &out)?;
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}
