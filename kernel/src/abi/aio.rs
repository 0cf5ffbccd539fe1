//! Linux AIO: `io_setup`, `io_submit`, `io_getevents`.
//!
//! The requests are carried out by the process's workers ([`crate::process::workers`]). A context's number is the address of
//! a page that is mapped for it: libaio looks there for a ring that it could read without a call, and finds zeros, which
//! tell it to call.
//!
//! Lock order: a process's `aio` → (nothing); a context's `events` → the eventfd that its requests name.

use super::io::{At, RWF_DURABLE, RWF_HINTS, length};
use super::poll::timespec_deadline;
use super::transfer::{Transfer, Who, Work, answer};
use super::{Call, SysResult, signal, user};
use crate::mm::address_space::{Content, PAGE};
use crate::mm::vma::{Backing, Prot};
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicUsize, Ordering};
use platform::sync::Mutex;
use vfs::Errno;
use vfs::events::EventFd;
use vfs::inode::Stream;
use vfs::wait::{Waiters, wait_on};

/// `/proc/sys/fs/aio-max-nr` as Linux has it.
const REQUESTS_MAX: u64 = 65_536;
/// `sizeof(struct iocb)`, `sizeof(struct io_event)`.
const IOCB: usize = 64;
const EVENT: usize = 32;
/// `IOCB_FLAG_RESFD`, `IOCB_FLAG_IOPRIO`.
const RESFD: u32 = 1;
const IOPRIO: u32 = 2;

const PREAD: u16 = 0;
const PWRITE: u16 = 1;
const FSYNC: u16 = 2;
const FDSYNC: u16 = 3;
const NOOP: u16 = 6;
const PREADV: u16 = 7;
const PWRITEV: u16 = 8;

/// A request that is done: its tag, the address of its `iocb`, its result.
#[derive(Clone, Copy)]
struct Event {
    data: u64,
    object: u64,
    result: i64,
}

/// What `io_setup` makes.
pub struct Context {
    number: u64,
    limit: usize,
    /// Requests that were taken and whose event was not fetched yet.
    taken: AtomicUsize,
    events: Mutex<VecDeque<Event>>,
    waiters: Waiters,
}

impl Context {
    /// Makes `event` known. Who has fetched it finds it counted in the eventfd too, and who is told by the eventfd finds
    /// the event: the two are one step.
    fn finish(&self, event: Event, resfd: Option<Arc<EventFd>>) {
        {
            let mut events = self.events.lock();
            events.push_back(event);
            if let Some(counter) = resfd {
                // A full counter is readable all the same.
                let _ = counter.write(&1u64.to_ne_bytes(), true);
            }
        }
        self.waiters.wake();
    }
}

fn context(call: &Call<'_>, number: u64) -> Result<Arc<Context>, Errno> {
    call.process().aio.lock().get(&number).cloned().ok_or(Errno::EINVAL)
}

pub(super) fn io_setup(call: &mut Call<'_>) -> SysResult {
    let limit = u64::from(call.arg(0) as u32);
    if user::read_u64(call.arg(1))? != 0 || limit == 0 {
        return Err(Errno::EINVAL);
    }
    if limit > REQUESTS_MAX {
        return Err(Errno::EAGAIN);
    }
    let space = call.process().space();
    let rights = Prot(Prot::READ | Prot::WRITE);
    let content = Content::new(rights, Backing::Anonymous).named("/[aio] (deleted)");
    let number = space.map(0, PAGE, false, content)?;
    let context = Context {
        number,
        limit: limit as usize,
        taken: AtomicUsize::new(0),
        events: Mutex::new(VecDeque::new()),
        waiters: Waiters::new(),
    };
    call.process().aio.lock().insert(number, Arc::new(context));
    user::write_u64(call.arg(1), number)?;
    Ok(0)
}

pub(super) fn io_destroy(call: &mut Call<'_>) -> SysResult {
    let number = call.arg(0);
    let context = call.process().aio.lock().remove(&number).ok_or(Errno::EINVAL)?;
    call.process().workers.cancel(number, None);
    // All requests have ended when it returns: their memory may be reused.
    wait_on(&[&context.waiters], None, || {
        (context.events.lock().len() >= context.taken.load(Ordering::SeqCst)).then_some(())
    })?;
    call.process().space().unmap(number, PAGE)?;
    Ok(0)
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from(word(bytes, at)) | u64::from(word(bytes, at + 4)) << 32
}

/// Takes the request in the `struct iocb` at `at`.
fn submit(call: &Call<'_>, context: &Arc<Context>, at: u64) -> Result<(), Errno> {
    let iocb = user::read_bytes(at, IOCB)?;
    let (data, rw_flags, opcode) = (long(&iocb, 0), u64::from(word(&iocb, 12)), half(&iocb, 16));
    let (buffer, len, offset, flags) = (long(&iocb, 24), long(&iocb, 32), long(&iocb, 40), word(&iocb, 56));
    if flags & !(RESFD | IOPRIO) != 0 || long(&iocb, 48) != 0 {
        return Err(Errno::EINVAL);
    }
    if rw_flags & !(RWF_DURABLE | RWF_HINTS) != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let fds = &call.process().fds;
    let resfd = if flags & RESFD != 0 {
        let file = fds.get(word(&iocb, 60) as i32)?;
        let stream: Arc<dyn Any + Send + Sync> = Arc::clone(file.stream().ok_or(Errno::EINVAL)?) as _;
        Some(stream.downcast::<EventFd>().map_err(|_| Errno::EINVAL)?)
    } else {
        None
    };
    let place = || if (offset as i64) < 0 { Err(Errno::EINVAL) } else { Ok(At::Offset(offset)) };
    let durable = rw_flags & RWF_DURABLE != 0;
    let work = match opcode {
        PREAD => Some(Work::Read(place()?, alloc::vec![(buffer, length(len))])),
        PWRITE => Some(Work::Write(place()?, alloc::vec![(buffer, length(len))], durable)),
        PREADV => Some(Work::Read(place()?, user::read_iovecs(buffer, len)?)),
        PWRITEV => Some(Work::Write(place()?, user::read_iovecs(buffer, len)?, durable)),
        FSYNC | FDSYNC => Some(Work::Sync),
        NOOP => None,
        _ => return Err(Errno::EINVAL),
    };
    let file = fds.get(word(&iocb, 20) as i32)?;
    if context.taken.fetch_add(1, Ordering::SeqCst) >= context.limit {
        context.taken.fetch_sub(1, Ordering::SeqCst);
        return Err(Errno::EAGAIN);
    }
    let target = Arc::clone(context);
    let done = move |result| target.finish(Event { data, object: at, result: answer(result) }, resfd);
    match work {
        Some(work) => {
            let who = Who { process: &call.task.process, owner: context.number, name: at };
            Transfer { file, work }.start(who, done);
        }
        None => done(Ok(0)),
    }
    Ok(())
}

pub(super) fn io_submit(call: &mut Call<'_>) -> SysResult {
    let context = context(call, call.arg(0))?;
    let count = call.arg(1) as i64;
    if count < 0 {
        return Err(Errno::EINVAL);
    }
    for i in 0..count as u64 {
        let next = user::read_u64(call.arg(2) + i * 8).and_then(|at| submit(call, &context, at));
        match next {
            Ok(()) => {}
            Err(error) if i == 0 => return Err(error),
            Err(_) => return Ok(i),
        }
    }
    Ok(count as u64)
}

fn get_events(call: &Call<'_>) -> SysResult {
    let context = context(call, call.arg(0))?;
    let (min, max) = (call.arg(1) as i64, call.arg(2) as i64);
    if min < 0 || max < min {
        return Err(Errno::EINVAL);
    }
    let deadline = timespec_deadline(call.arg(4))?;
    let enough = || (context.events.lock().len() as i64 >= min).then_some(());
    // Rather than only wait, do what no worker has begun with.
    while enough().is_none()
        && let Some(job) = call.process().workers.take()
    {
        job();
    }
    match wait_on(&[&context.waiters], deadline, enough) {
        Ok(()) | Err(Errno::ETIMEDOUT) => {}
        Err(_) if !context.events.lock().is_empty() => {}
        Err(error) => return Err(error),
    }
    let mut out = Vec::new();
    let fetched = {
        let mut events = context.events.lock();
        let n = events.len().min(max as usize);
        for event in events.drain(..n) {
            let fields = [event.data, event.object, event.result as u64, 0];
            out.extend(fields.iter().flat_map(|w| w.to_le_bytes()));
        }
        n
    };
    context.taken.fetch_sub(fetched, Ordering::SeqCst);
    debug_assert_eq!(out.len(), fetched * EVENT, "an event has four words");
    user::write(call.arg(3), &out)?;
    Ok(fetched as u64)
}

pub(super) fn io_getevents(call: &mut Call<'_>) -> SysResult {
    get_events(call)
}

pub(super) fn io_pgetevents(call: &mut Call<'_>) -> SysResult {
    if call.arg(5) != 0 {
        let words = user::read_words::<2>(call.arg(5))?;
        signal::use_mask(call.task, words[0], words[1])?;
    }
    get_events(call)
}

pub(super) fn io_cancel(call: &mut Call<'_>) -> SysResult {
    let context = context(call, call.arg(0))?;
    // What waits for a stream can be called off; what a worker has begun with ends by itself.
    if call.process().workers.cancel(context.number, Some(call.arg(1))) == 0 {
        return Err(Errno::EAGAIN);
    }
    Err(Errno::EINPROGRESS)
}
