//! `signalfd`: signals that are read from a descriptor.
//!
//! What is read are the signals of the reading thread and of its process; the program has blocked them, or they would be
//! taken in the ordinary way.

use super::fd::open_stream;
use super::{Call, SysResult, user};
use crate::process::signals::{self, SigInfo};
use crate::process::{self, Process, Task};
use alloc::sync::Arc;
use core::any::Any;
use core::sync::atomic::{AtomicU64, Ordering};
use vfs::Errno;
use vfs::inode::{Ready, Stream};
use vfs::types::OpenFlags;
use vfs::wait::{Waiters, wait_on};

/// `sizeof(struct signalfd_siginfo)`.
const ENTRY: usize = 128;

struct SignalFd {
    wanted: AtomicU64,
    /// Whose signals come. Closing the descriptor, at the latest at the process's end, lets go of it.
    process: Arc<Process>,
}

impl SignalFd {
    fn take(&self, task: &Task) -> Option<SigInfo> {
        let wanted = self.wanted.load(Ordering::Relaxed);
        let own = task.pending.lock().take(wanted);
        own.or_else(|| task.process.pending.lock().take(wanted))
    }
}

fn encode(info: &SigInfo) -> [u8; ENTRY] {
    let mut out = [0; ENTRY];
    let mut put = |at: usize, value: u32| out[at..at + 4].copy_from_slice(&value.to_le_bytes());
    put(0, u32::from(info.signal));
    put(8, info.code as u32);
    put(12, info.pid);
    put(16, info.second);
    put(24, info.pid);
    put(32, info.second);
    put(44, info.value as u32);
    out[48..56].copy_from_slice(&info.value.to_le_bytes());
    out
}

impl Stream for SignalFd {
    fn read(&self, buf: &mut [u8], nonblock: bool) -> vfs::Result<usize> {
        if buf.len() < ENTRY {
            return Err(Errno::EINVAL);
        }
        let task = process::try_current().ok_or(Errno::EINVAL)?;
        let first = if nonblock {
            self.take(task).ok_or(Errno::EAGAIN)?
        } else {
            wait_on(&[&task.process.signalled], None, || self.take(task))?
        };
        let (entries, _) = buf.as_chunks_mut::<ENTRY>();
        let mut done = 0;
        let mut next = Some(first);
        for entry in entries {
            let Some(info) = next.take().or_else(|| self.take(task)) else { break };
            *entry = encode(&info);
            done += ENTRY;
        }
        Ok(done)
    }

    fn ready(&self) -> Ready {
        let own = process::try_current().map_or(0, |task| task.pending.lock().set());
        let all = self.process.pending.lock().set();
        let any = (own | all) & self.wanted.load(Ordering::Relaxed) != 0;
        Ready(if any { Ready::IN } else { 0 })
    }

    fn waiters(&self) -> Option<&Waiters> {
        Some(&self.process.signalled)
    }
}

fn make(call: &Call<'_>, flags: u32) -> SysResult {
    if call.arg(2) != 8 {
        return Err(Errno::EINVAL);
    }
    let wanted = user::read_u64(call.arg(1))? & !signals::UNSTOPPABLE;
    if call.int(0) != -1 {
        let file = call.process().fds.get(call.int(0))?;
        let any: Arc<dyn Any + Send + Sync> = Arc::clone(file.stream().ok_or(Errno::EINVAL)?) as _;
        let old = any.downcast::<SignalFd>().map_err(|_| Errno::EINVAL)?;
        old.wanted.store(wanted, Ordering::Relaxed);
        call.process().signalled.wake();
        return Ok(call.arg(0));
    }
    let flags = OpenFlags::from_bits_retain(flags);
    if !(OpenFlags::CLOEXEC | OpenFlags::NONBLOCK).contains(flags) {
        return Err(Errno::EINVAL);
    }
    let stream = SignalFd { wanted: AtomicU64::new(wanted), process: Arc::clone(&call.task.process) };
    open_stream(call, Arc::new(stream), "signalfd", flags).map(|fd| fd as u64)
}

pub(super) fn signalfd(call: &mut Call<'_>) -> SysResult {
    make(call, 0)
}

pub(super) fn signalfd4(call: &mut Call<'_>) -> SysResult {
    make(call, call.arg(3) as u32)
}
