//! More threads than there is memory for: the one too many is refused, the others live on, and later ones find room again.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::Builder;

/// A machine that this check is made for has not enough memory for so many.
const TOO_MANY: usize = 20_000;
const LATER: usize = 50;
const STACK: usize = 64 << 10;

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
