//! Many threads at once: more than there is memory for (the one too many is refused, the others live on, and later ones find room again), and
//! what the kernel had for them when they have gone.

use crate::leaks::counters;
use std::sync::{Arc, Barrier, Condvar, Mutex, PoisonError};
use std::thread::Builder;
use std::time::{Duration, Instant};

/// A machine that this check is made for has not enough memory for so many.
const TOO_MANY: usize = 20_000;
const LATER: usize = 50;
const STACK: usize = 64 << 10;
/// A crowd that there is memory for; what the kernel has for each of them at least, and keeps for others in the end, in KiB.
const MANY: usize = 80;
const EACH: u64 = 64;
const KEPT: u64 = 1 << 10;
/// How soon the rest must be there again.
const PATIENCE: Duration = Duration::from_secs(120);

/// The check.
pub fn run() -> Result<String, String> {
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let mut threads = Vec::new();
    let refusal = loop {
        let gate = Arc::clone(&gate);
        let wait = move || {
            let open = gate.0.lock().unwrap_or_else(PoisonError::into_inner);
            drop(gate.1.wait_while(open, |open| !*open));
        };
        match Builder::new().stack_size(STACK).spawn(wait) {
            Ok(thread) => threads.push(thread),
            Err(refusal) => break refusal,
        }
        if threads.len() > TOO_MANY {
            return Err(format!("{TOO_MANY} threads are there"));
        }
    };
    if refusal.raw_os_error() != Some(libc::EAGAIN) {
        return Err(format!("thread {} was refused by: {refusal}", threads.len()));
    }
    *gate.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
    gate.1.notify_all();
    let count = threads.len();
    let joined = threads.into_iter().try_for_each(|thread| thread.join());
    joined.map_err(|_| "a thread panicked".to_owned())?;
    for _ in 0..LATER {
        let thread =
            Builder::new().stack_size(STACK).spawn(|| ()).map_err(|e| format!("a later thread: {e}"))?;
        thread.join().map_err(|_| "a later thread panicked".to_owned())?;
    }
    if count < LATER { Err(format!("only {count} threads")) } else { Ok(format!("{count} threads")) }
}

fn stacks() -> Result<u64, String> {
    counters()?.remove("stacks").ok_or("no counter is called stacks".to_owned())
}

/// The check of what is left of a crowd that has gone.
pub fn gone() -> Result<String, String> {
    let before = stacks()?;
    let all_there = Arc::new(Barrier::new(MANY + 1));
    let mut threads = Vec::new();
    for _ in 0..MANY {
        let barrier = Arc::clone(&all_there);
        let wait = move || {
            barrier.wait();
            barrier.wait();
        };
        threads.push(Builder::new().stack_size(STACK).spawn(wait).map_err(|e| format!("a thread: {e}"))?);
    }
    all_there.wait();
    let crowd = stacks()?;
    all_there.wait();
    threads.into_iter().try_for_each(|thread| thread.join()).map_err(|_| "a thread panicked".to_owned())?;
    if crowd < before + MANY as u64 * EACH {
        return Err(format!("{before} KiB of stacks, and {crowd} KiB with {MANY} threads more"));
    }
    let start = Instant::now();
    loop {
        let now = stacks()?;
        if now <= before + KEPT {
            return Ok(format!("{before} KiB, {crowd} KiB, {now} KiB"));
        }
        if start.elapsed() > PATIENCE {
            return Err(format!("{now} KiB of stacks are still there of {crowd}, {before} were before"));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}
