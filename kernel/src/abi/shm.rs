//! System V shared memory: segments of memory that are found by a number.
//!
//! A segment is an object of shared pages as `mmap(MAP_SHARED | MAP_ANONYMOUS)` makes them; it lives until it was
//! removed and nobody has it mapped.

use super::{Call, SysResult, user};
use crate::mm::address_space::{Content, PAGE};
use crate::mm::file_pages::Pages;
use crate::mm::vma::{Backing, Prot};
use crate::mm::{frame, phys};
use crate::time;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};
use platform::sync::Mutex;
use vfs::Errno;

const PRIVATE: u64 = 0;
const CREATE: u64 = 0o1000;
const EXCLUSIVE: u64 = 0o2000;
/// `SHM_RDONLY`, `SHM_RND`, `SHM_REMAP`, `SHM_EXEC`.
const READ_ONLY: u64 = 0o10_000;
const ROUND: u64 = 0o20_000;
const REMAP: u64 = 0o40_000;
const EXEC: u64 = 0o100_000;
/// `SHM_DEST`: removed, but still mapped.
const REMOVED: u32 = 0o1000;
/// Most segments, as on Linux.
const SEGMENTS_MAX: usize = 4096;

struct Segment {
    key: u64,
    size: u64,
    mode: u32,
    owner: (u32, u32),
    creator: u32,
    last: u32,
    /// Attached, detached, changed: seconds since 1970.
    times: [u64; 3],
    pages: Arc<Pages>,
    removed: bool,
}

impl Segment {
    /// How often it is mapped.
    fn attached(&self) -> u64 {
        Arc::strong_count(&self.pages) as u64 - 1
    }
}

static SEGMENTS: Mutex<BTreeMap<u32, Segment>> = Mutex::new(BTreeMap::new());
static NEXT: AtomicU32 = AtomicU32::new(0);

fn seconds() -> u64 {
    time::now().sec as u64
}

/// Forgets removed segments that nobody maps any more.
fn sweep(segments: &mut BTreeMap<u32, Segment>) {
    segments.retain(|_, segment| !segment.removed || segment.attached() > 0);
}

pub(super) fn shmget(call: &mut Call<'_>) -> SysResult {
    let (key, size, flags) = (call.arg(0) as u32 as u64, call.arg(1), call.arg(2));
    let mut segments = SEGMENTS.lock();
    sweep(&mut segments);
    let found = segments.iter().find(|(_, s)| key != PRIVATE && s.key == key && !s.removed);
    if let Some((id, segment)) = found {
        return match () {
            () if flags & (CREATE | EXCLUSIVE) == CREATE | EXCLUSIVE => Err(Errno::EEXIST),
            () if size > segment.size => Err(Errno::EINVAL),
            () => Ok(u64::from(*id)),
        };
    }
    if key != PRIVATE && flags & CREATE == 0 {
        return Err(Errno::ENOENT);
    }
    if size == 0 {
        return Err(Errno::EINVAL);
    }
    if size > frame::total() * phys::FRAME_SIZE {
        return Err(Errno::ENOMEM);
    }
    if segments.len() >= SEGMENTS_MAX {
        return Err(Errno::ENOSPC);
    }
    let id = NEXT.fetch_add(1, Ordering::Relaxed) & i32::MAX as u32;
    let credentials = call.process().credentials.lock();
    let segment = Segment {
        key,
        size,
        mode: flags as u32 & 0o777,
        owner: (credentials.uid[1], credentials.gid[1]),
        creator: call.process().pid,
        last: 0,
        times: [0, 0, seconds()],
        pages: Pages::new(None),
        removed: false,
    };
    segments.insert(id, segment);
    Ok(u64::from(id))
}

pub(super) fn shmat(call: &mut Call<'_>) -> SysResult {
    let (id, mut address, flags) = (call.arg(0) as u32, call.arg(1), call.arg(2));
    if flags & ROUND != 0 {
        address &= !(PAGE - 1);
    }
    if !address.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    let (pages, size) = {
        let mut segments = SEGMENTS.lock();
        let segment = segments.get_mut(&id).ok_or(Errno::EINVAL)?;
        segment.last = call.process().pid;
        segment.times[0] = seconds();
        (Arc::clone(&segment.pages), segment.size)
    };
    let space = call.process().space();
    let taken = address != 0 && !space.is_free(address, size.next_multiple_of(PAGE));
    if taken && flags & REMAP == 0 {
        return Err(Errno::EINVAL);
    }
    let prot = Prot::READ
        | if flags & READ_ONLY == 0 { Prot::WRITE } else { 0 }
        | if flags & EXEC != 0 { Prot::EXEC } else { 0 };
    let content = Content::new(Prot(prot), Backing::Shared(pages, 0, None)).named("/SYSV");
    space.map(address, size, address != 0, content)
}

pub(super) fn shmdt(call: &mut Call<'_>) -> SysResult {
    let space = call.process().space();
    let pages = space.shared_at(call.arg(0)).ok_or(Errno::EINVAL)?;
    let mut segments = SEGMENTS.lock();
    let segment = segments.values_mut().find(|s| s.pages.id == pages.id).ok_or(Errno::EINVAL)?;
    segment.last = call.process().pid;
    segment.times[1] = seconds();
    let size = segment.size;
    drop(segments);
    drop(pages);
    space.unmap(call.arg(0), size)?;
    sweep(&mut SEGMENTS.lock());
    Ok(0)
}

/// `struct shmid64_ds`.
fn describe(segment: &Segment) -> [u64; 14] {
    let mode = segment.mode | if segment.removed { REMOVED } else { 0 };
    let (uid, gid) = segment.owner;
    let pair = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
    [
        pair(segment.key as u32, uid),
        pair(gid, uid),
        pair(gid, mode),
        0,
        0,
        0,
        segment.size,
        segment.times[0],
        segment.times[1],
        segment.times[2],
        pair(segment.creator, segment.last),
        segment.attached(),
        0,
        0,
    ]
}

pub(super) fn shmctl(call: &mut Call<'_>) -> SysResult {
    const REMOVE: u64 = 0;
    const SET: u64 = 1;
    const STAT: u64 = 2;
    const LIMITS: u64 = 3;
    const LOCK: u64 = 11;
    const UNLOCK: u64 = 12;
    let (id, command, at) = (call.arg(0) as u32, call.arg(1) & 0xff, call.arg(2));
    let mut segments = SEGMENTS.lock();
    if command == LIMITS {
        let most = frame::total() * phys::FRAME_SIZE;
        drop(segments);
        let limits = [most, 1, SEGMENTS_MAX as u64, SEGMENTS_MAX as u64, most / PAGE, 0, 0, 0, 0];
        return user::write_words(at, &limits).map(|()| 0);
    }
    let segment = segments.get_mut(&id).ok_or(Errno::EINVAL)?;
    match command {
        REMOVE => {
            segment.removed = true;
            segment.key = PRIVATE;
            sweep(&mut segments);
            Ok(0)
        }
        STAT => {
            let words = describe(segment);
            drop(segments);
            user::write_words(at, &words).map(|()| 0)
        }
        SET => {
            drop(segments);
            let words = user::read_words::<3>(at)?;
            let mut segments = SEGMENTS.lock();
            let segment = segments.get_mut(&id).ok_or(Errno::EINVAL)?;
            segment.owner = ((words[0] >> 32) as u32, words[1] as u32);
            segment.mode = (words[2] >> 32) as u32 & 0o777;
            segment.times[2] = seconds();
            Ok(0)
        }
        // Pages are never swapped out.
        LOCK | UNLOCK => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}
