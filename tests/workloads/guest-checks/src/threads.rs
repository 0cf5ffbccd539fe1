//! Threads that come and go by the hundred, on stacks that others have left: each has thread-local variables of its own from its first
//! instruction on, also where it was preempted before that. The standard library ends the program if its own are not new.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const ROUNDS: u64 = 30;
const THREADS: u64 = 100;
const STACK: usize = 64 << 10;
const WORDS: usize = 64;

thread_local! {
    static OWN: Cell<[u64; WORDS]> = const { Cell::new([0; WORDS]) };
}

static WRONG: AtomicU64 = AtomicU64::new(0);

pub fn run() -> Result<String, String> {
    for round in 0..ROUNDS {
        for n in 0..THREADS {
            let body = move || {
                let mine = [round * THREADS + n + 1; WORDS];
                let before = OWN.replace(mine);
                // Some sleep, so that their end preempts whoever makes the next ones.
                if n % 3 == 0 {
                    std::thread::sleep(Duration::from_millis(2));
                }
                if before != [0; WORDS] || OWN.get() != mine {
                    WRONG.fetch_add(1, Ordering::Relaxed);
                }
            };
            // Nobody joins: a stack is used again as soon as its thread has ended.
            drop(std::thread::Builder::new().stack_size(STACK).spawn(body).map_err(|e| e.to_string())?);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    match WRONG.load(Ordering::Relaxed) {
        0 => Ok(format!("{} threads", ROUNDS * THREADS)),
        wrong => Err(format!("{wrong} threads saw another's variables")),
    }
}
