//! What Tarn's engine asks of the machine below it: block devices, a clock, randomness, threads and locks.
//!
//! Everything above this crate (`zfs`, `vfs`, `net`) is written against these traits and runs unchanged on the
//! host (feature `std`), in the kernel, and in a seeded simulation.
//!
//! # Invariants
//! - Nothing here knows a file-system format or an errno.
//! - Time, randomness and I/O are arguments ([`Env`]); only the *scheduling* hooks ([`thread::install`]) are
//!   process-wide, because a lock cannot carry its scheduler with it.
#![cfg_attr(not(any(feature = "std", test)), no_std)]
extern crate alloc;

pub mod block;
pub mod clock;
#[cfg(any(feature = "std", test))]
pub mod host;
pub mod mem;
pub mod parallel;
pub mod random;
pub mod sim;
pub mod sync;
pub mod thread;

use alloc::sync::Arc;

/// The clock and the source of randomness that an engine is handed.
#[derive(Clone)]
pub struct Env {
    /// Wall and monotonic time.
    pub clock: Arc<dyn clock::Clock>,
    /// Randomness for guids, salts and hash seeds.
    pub random: Arc<dyn random::Random>,
}
