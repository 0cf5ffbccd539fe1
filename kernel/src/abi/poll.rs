//! `poll` and `select`: waiting for several files at once.

use super::{Call, SysResult, signal, user};
use crate::time;
use alloc::sync::Arc;
use alloc::vec::Vec;
use vfs::Errno;
use vfs::file::File;
use vfs::inode::{Ready, Stream};
use vfs::poll::{wait_ready, with_watched};

const POLLNVAL: u32 = 0x20;

/// One file to watch: what is wanted, and what has happened.
struct Watch {
    file: Option<Arc<File>>,
    wanted: u32,
}

impl Watch {
    fn now(&self) -> u32 {
        match &self.file {
            Some(file) => file.ready().0 & (self.wanted | Ready::ERR | Ready::HUP),
            None => POLLNVAL,
        }
    }
}

/// Waits until something happens to one of `watches`, at most until `deadline`; what happened to each.
fn watch(watches: &[Watch], deadline: Option<u64>) -> Result<Vec<u32>, Errno> {
    let streams: Vec<_> = watches.iter().filter_map(|w| w.file.as_ref()?.stream().cloned()).collect();
    let streams = with_watched(&streams);
    let streams: Vec<&dyn Stream> = streams.iter().map(|s| &**s).collect();
    let look = || {
        let now: Vec<u32> = watches.iter().map(Watch::now).collect();
        now.iter().any(|n| *n != 0).then_some(now)
    };
    match wait_ready(&streams, deadline, look) {
        Err(Errno::ETIMEDOUT) => Ok(alloc::vec![0; watches.len()]),
        result => result,
    }
}

fn poll_files(call: &Call<'_>, deadline: Option<u64>) -> SysResult {
    let (at, count) = (call.arg(0), call.arg(1));
    if count > u64::from(call.process().fds.limit()) {
        return Err(Errno::EINVAL);
    }
    let bytes = user::read_bytes(at, count as usize * 8)?;
    let fd_of = |c: &[u8]| i32::from_le_bytes([c[0], c[1], c[2], c[3]]);
    let mut watches = Vec::new();
    let mut indexes = Vec::new();
    for (i, entry) in bytes.chunks_exact(8).enumerate() {
        if fd_of(entry) >= 0 {
            let file = call.process().fds.get(fd_of(entry)).ok();
            watches.push(Watch { file, wanted: u32::from(u16::from_le_bytes([entry[4], entry[5]])) });
            indexes.push(i);
        }
    }
    let happened = watch(&watches, deadline)?;
    let mut out = bytes;
    out.chunks_exact_mut(8).for_each(|c| c[6..8].fill(0));
    for (index, events) in indexes.iter().zip(&happened) {
        out[index * 8 + 6..index * 8 + 8].copy_from_slice(&(*events as u16).to_le_bytes());
    }
    user::write(at, &out)?;
    Ok(happened.iter().filter(|e| **e != 0).count() as u64)
}

pub(super) fn after(ns: u64) -> Option<u64> {
    Some(time::monotonic_ns().saturating_add(ns))
}

pub(super) fn poll(call: &mut Call<'_>) -> SysResult {
    let deadline = if call.int(2) < 0 { None } else { after(call.int(2) as u64 * 1_000_000) };
    poll_files(call, deadline)
}

pub(super) fn timespec_deadline(at: u64) -> Result<Option<u64>, Errno> {
    if at == 0 { Ok(None) } else { Ok(after(user::duration(user::read_timespec(at)?)?)) }
}

pub(super) fn ppoll(call: &mut Call<'_>) -> SysResult {
    let deadline = timespec_deadline(call.arg(2))?;
    signal::use_mask(call.task, call.arg(3), call.arg(4))?;
    poll_files(call, deadline)
}

/// The three sets of `select`, as (address, events that count, bits).
fn select_files(call: &Call<'_>, deadline: Option<u64>) -> SysResult {
    let count = call.arg(0) as usize;
    if count > call.process().fds.limit() as usize {
        return Err(Errno::EINVAL);
    }
    let bytes = count.div_ceil(64) * 8;
    let events = [Ready::IN | Ready::HUP | Ready::ERR, Ready::OUT | Ready::ERR, 2];
    let mut sets = Vec::new();
    for (i, events) in events.into_iter().enumerate() {
        let at = call.arg(i + 1);
        let bits = if at == 0 { alloc::vec![0; bytes] } else { user::read_bytes(at, bytes)? };
        sets.push((at, events, bits));
    }
    let mut watches = Vec::new();
    let mut fds = Vec::new();
    for fd in 0..count {
        let bit = |bits: &[u8]| bits[fd / 8] & 1 << (fd % 8) != 0;
        let wanted = sets.iter().filter(|s| bit(&s.2)).fold(0, |w, s| w | s.1);
        if wanted != 0 {
            watches.push(Watch { file: Some(call.process().fds.get(fd as i32)?), wanted });
            fds.push(fd);
        }
    }
    let happened = watch(&watches, deadline)?;
    let mut total = 0;
    for (at, events, bits) in &mut sets {
        let mut out = alloc::vec![0; bits.len()];
        for (fd, now) in fds.iter().zip(&happened) {
            let mask = 1 << (fd % 8);
            if bits[fd / 8] & mask != 0 && now & *events != 0 {
                out[fd / 8] |= mask;
                total += 1;
            }
        }
        if *at != 0 {
            user::write(*at, &out)?;
        }
    }
    Ok(total)
}

pub(super) fn select(call: &mut Call<'_>) -> SysResult {
    let deadline = match call.arg(4) {
        0 => None,
        at => {
            let words = user::read_words::<2>(at)?;
            after(words[0].saturating_mul(1_000_000_000).saturating_add(words[1].saturating_mul(1000)))
        }
    };
    select_files(call, deadline)
}

pub(super) fn pselect6(call: &mut Call<'_>) -> SysResult {
    let deadline = timespec_deadline(call.arg(4))?;
    if call.arg(5) != 0 {
        let words = user::read_words::<2>(call.arg(5))?;
        signal::use_mask(call.task, words[0], words[1])?;
    }
    select_files(call, deadline)
}
