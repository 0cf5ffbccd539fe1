//! `futex`: sleeping on a word of memory.
//!
//! Lock order: buckets in their order, then what a page fault takes (the word is read with the bucket locked, so that no waker can
//! come between the look and the sleep). Nothing takes a bucket while it holds an address space's lock.
//!
//! A sleeper is in the bucket of its key, whoever looks with a bucket locked: it changes both under the locks of both.

use super::{Call, SysResult, user};
use crate::process::{self, Task};
use crate::time;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use platform::sync::{Mutex, MutexGuard};
use vfs::Errno;
use vfs::wait::{Waiters, wait_on};

type Key = (u64, u64);

struct Sleeper {
    key: Mutex<Key>,
    bits: u32,
    woken: AtomicBool,
    waiters: Waiters,
}

const BUCKETS: usize = 64;
static TABLE: [Mutex<Vec<Arc<Sleeper>>>; BUCKETS] = [const { Mutex::new(Vec::new()) }; BUCKETS];

/// How many threads sleep on words of memory.
pub fn sleepers() -> usize {
    TABLE.iter().map(|bucket| bucket.lock().len()).sum()
}

fn bucket(key: Key) -> usize {
    ((key.1 >> 2 ^ key.0 >> 12).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58) as usize % BUCKETS
}

const WAIT: u64 = 0;
const WAKE: u64 = 1;
const REQUEUE: u64 = 3;
const CMP_REQUEUE: u64 = 4;
const WAKE_OP: u64 = 5;
const WAIT_BITSET: u64 = 9;
const WAKE_BITSET: u64 = 10;
const CLOCK_REALTIME: u64 = 256;

fn key_of(call: &Call<'_>, address: u64) -> Key {
    call.process().space().futex_key(address)
}

pub(super) fn futex(call: &mut Call<'_>) -> SysResult {
    let (address, op) = (call.arg(0), call.arg(1));
    if address % 4 != 0 {
        return Err(Errno::EINVAL);
    }
    let count = call.arg(2) as u32;
    match op & 127 {
        WAIT => wait(call, address, u32::MAX, op, true),
        WAIT_BITSET => wait(call, address, call.arg(5) as u32, op, false),
        WAKE => Ok(wake(key_of(call, address), count, u32::MAX)),
        WAKE_BITSET => Ok(wake(key_of(call, address), count, call.arg(5) as u32)),
        REQUEUE => requeue(call, None),
        CMP_REQUEUE => requeue(call, Some(call.arg(5) as u32)),
        WAKE_OP => wake_op(call),
        _ => Err(Errno::ENOSYS),
    }
}

fn deadline(call: &Call<'_>, op: u64, relative: bool) -> Result<Option<u64>, Errno> {
    if call.arg(3) == 0 {
        return Ok(None);
    }
    let value = user::duration(user::read_timespec(call.arg(3))?)?;
    let now = time::monotonic_ns();
    Ok(Some(if relative {
        now.saturating_add(value)
    } else if op & CLOCK_REALTIME != 0 {
        now.saturating_add(value.saturating_sub(user::duration(time::now())?))
    } else {
        value
    }))
}

fn wait(call: &Call<'_>, address: u64, bits: u32, op: u64, relative: bool) -> SysResult {
    if bits == 0 {
        return Err(Errno::EINVAL);
    }
    let deadline = deadline(call, op, relative)?;
    let expected = call.arg(2) as u32;
    // Brings the page in before the bucket is locked.
    user::read_u32(address)?;
    let key = key_of(call, address);
    let sleeper = Arc::new(Sleeper {
        key: Mutex::new(key),
        bits,
        woken: AtomicBool::new(false),
        waiters: Waiters::new(),
    });
    {
        let mut sleepers = TABLE[bucket(key)].lock();
        if user::read_u32(address)? != expected {
            return Err(Errno::EAGAIN);
        }
        sleepers.push(Arc::clone(&sleeper));
    }
    let result =
        wait_on(&[&sleeper.waiters], deadline, || sleeper.woken.load(Ordering::SeqCst).then_some(()));
    match result {
        Ok(()) => Ok(0),
        Err(error) => {
            forget(&sleeper);
            // A wake-up that came together with the end of the wait must not be lost.
            if sleeper.woken.load(Ordering::SeqCst) { Ok(0) } else { Err(error) }
        }
    }
}

fn forget(sleeper: &Arc<Sleeper>) {
    loop {
        let key = *sleeper.key.lock();
        let mut sleepers = TABLE[bucket(key)].lock();
        if *sleeper.key.lock() == key {
            sleepers.retain(|s| !Arc::ptr_eq(s, sleeper));
            return;
        }
    }
}

/// Takes up to `count` sleepers on `key` out of its bucket.
fn take(sleepers: &mut Vec<Arc<Sleeper>>, key: Key, count: u32, bits: u32) -> Vec<Arc<Sleeper>> {
    let mut taken = Vec::new();
    sleepers.retain(|s| {
        let chosen = taken.len() < count as usize && s.bits & bits != 0 && *s.key.lock() == key;
        if chosen {
            taken.push(Arc::clone(s));
        }
        !chosen
    });
    taken
}

/// Says of sleepers that they are woken; their bucket is still locked.
fn mark(taken: Vec<Arc<Sleeper>>) -> Woken {
    taken.iter().for_each(|s| s.woken.store(true, Ordering::SeqCst));
    Woken(taken)
}

/// Sleepers that are to be woken when no bucket is locked any more.
#[must_use]
struct Woken(Vec<Arc<Sleeper>>);

impl Woken {
    fn wake(self) -> u64 {
        self.0.iter().for_each(|s| s.waiters.wake());
        self.0.len() as u64
    }
}

fn wake(key: Key, count: u32, bits: u32) -> u64 {
    let woken = mark(take(&mut TABLE[bucket(key)].lock(), key, count, bits));
    woken.wake()
}

/// Wakes whoever sleeps on a word of the calling process.
pub fn wake_address(address: u64, count: u32) {
    wake(process::current().process.space().futex_key(address), count, u32::MAX);
}

fn requeue(call: &Call<'_>, expected: Option<u32>) -> SysResult {
    let (address, count, limit, target) = (call.arg(0), call.arg(2) as u32, call.arg(3) as u32, call.arg(4));
    // Brings the page in before the buckets are locked.
    user::read_u32(address)?;
    let (from, to) = (key_of(call, address), key_of(call, target));
    let (mut first, mut second) = lock_both(bucket(from), bucket(to));
    if let Some(expected) = expected
        && user::read_u32(address)? != expected
    {
        return Err(Errno::EAGAIN);
    }
    let woken = mark(take(&mut first, from, count, u32::MAX));
    let moving = take(&mut first, from, limit, u32::MAX);
    moving.iter().for_each(|s| *s.key.lock() = to);
    let moved = moving.len() as u64;
    second.as_mut().unwrap_or(&mut first).extend(moving);
    drop((first, second));
    Ok(woken.wake() + moved)
}

type Locked = MutexGuard<'static, Vec<Arc<Sleeper>>>;

/// The two buckets, locked in their order; the second is `None` if it is the first.
fn lock_both(first: usize, second: usize) -> (Locked, Option<Locked>) {
    match first.cmp(&second) {
        core::cmp::Ordering::Equal => (TABLE[first].lock(), None),
        core::cmp::Ordering::Less => {
            let locked = TABLE[first].lock();
            (locked, Some(TABLE[second].lock()))
        }
        core::cmp::Ordering::Greater => {
            let other = TABLE[second].lock();
            (TABLE[first].lock(), Some(other))
        }
    }
}

/// `FUTEX_WAKE_OP`: changes the second word, wakes on the first, and on the second if its old value says so.
fn wake_op(call: &Call<'_>) -> SysResult {
    let (second, code) = (call.arg(4), call.arg(5) as u32);
    let (op, cmp) = (code >> 28 & 7, code >> 24 & 15);
    let (mut operand, compared) = ((code >> 12 & 0xfff) as i32, (code & 0xfff) as i32);
    operand = operand << 20 >> 20;
    let compared = compared << 20 >> 20;
    if code >> 31 != 0 {
        operand = 1i32.wrapping_shl(operand as u32);
    }
    if op > 4 || cmp > 5 {
        return Err(Errno::ENOSYS);
    }
    let key = key_of(call, second);
    let old = user::update_u32(second, |old| {
        let old = old as i32;
        let new = match op {
            0 => operand,
            1 => old.wrapping_add(operand),
            2 => old | operand,
            3 => old & !operand,
            _ => old ^ operand,
        };
        new as u32
    })? as i32;
    let mut woken = wake(key_of(call, call.arg(0)), call.arg(2) as u32, u32::MAX);
    let also = match cmp {
        0 => old == compared,
        1 => old != compared,
        2 => old < compared,
        3 => old <= compared,
        4 => old > compared,
        _ => old >= compared,
    };
    if also {
        woken += wake(key, call.arg(3) as u32, u32::MAX);
    }
    Ok(woken)
}

pub(super) fn set_robust_list(call: &mut Call<'_>) -> SysResult {
    if call.arg(1) != 24 {
        return Err(Errno::EINVAL);
    }
    call.task.robust_list.store(call.arg(0), Ordering::Relaxed);
    Ok(0)
}

pub(super) fn get_robust_list(call: &mut Call<'_>) -> SysResult {
    user::write_u64(call.arg(1), call.task.robust_list.load(Ordering::Relaxed))?;
    user::write_u64(call.arg(2), 24)?;
    Ok(0)
}

/// Marks the robust mutexes that an ending thread still holds, and wakes one waiter of each.
pub fn release_robust(task: &Task) {
    const OWNER_DIED: u32 = 0x4000_0000;
    const TID: u32 = 0x3fff_ffff;
    let head = task.robust_list.load(Ordering::Relaxed);
    if head == 0 {
        return;
    }
    let Ok(words) = user::read_words::<3>(head) else { return };
    let offset = words[1];
    let mut entry = words[0];
    // Bounded: a program may have made the list a circle.
    for _ in 0..2048 {
        if entry & !1 == head {
            break;
        }
        let word = (entry & !1).wrapping_add(offset);
        let Ok(value) = user::read_u32(word) else { break };
        // Only the owner changes the number; others may say meanwhile that they wait.
        if value & TID == task.tid && user::update_u32(word, |value| value & !TID | OWNER_DIED).is_ok() {
            wake_address(word, 1);
        }
        let Ok(next) = user::read_u64(entry & !1) else { break };
        entry = next;
    }
}
