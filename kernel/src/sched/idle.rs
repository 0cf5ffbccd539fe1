//! What a processor does when there is nothing to do: it sleeps until an interrupt comes, after it has looked out for work for a moment
//! where that pays.
//!
//! To put a processor to sleep and to wake it costs a hypervisor tens of microseconds, which a request over the network waits for at
//! every step. So where sleep was short lately, the processor looks first (Linux's `haltpoll`), and another one that has a thread for it
//! need not interrupt it. Only the last processor to become idle does so: the host's others have our devices to emulate. Where sleep is
//! long, as on a machine that does nothing, nobody looks.

use super::{run_queue, timers};
use crate::arch::{self, cpu};
use crate::time;
use core::sync::atomic::{AtomicU64, Ordering};

/// A processor looks no longer than that.
const LONGEST_NS: u64 = 200_000;
/// Where it begins.
const FIRST_NS: u64 = 25_000;
/// Looks between two readings of the clock.
const LOOKS: u32 = 64;

/// Processors that sleep or look, one bit each.
static IDLE: AtomicU64 = AtomicU64::new(0);
/// Those that look.
static LOOKING: AtomicU64 = AtomicU64::new(0);

/// Processors that have nothing to do, one bit each.
pub(super) fn processors() -> u64 {
    IDLE.load(Ordering::SeqCst)
}

/// Whether a processor sleeps, so that it must be interrupted to see what was put into its queue.
pub(super) fn sleeps(index: usize) -> bool {
    IDLE.load(Ordering::SeqCst) & 1 << index != 0 && !looks(index)
}

/// Whether a processor sees by itself what is put into its queue.
pub(super) fn looks(index: usize) -> bool {
    LOOKING.load(Ordering::SeqCst) & 1 << index != 0
}

/// How long a processor looks, from how long it had nothing to do.
fn next_limit(limit: u64, idle_ns: u64) -> u64 {
    if idle_ns <= limit {
        limit
    } else if idle_ns <= LONGEST_NS {
        (limit * 2).clamp(FIRST_NS, LONGEST_NS)
    } else {
        limit / 2
    }
}

/// Its idle thread ends up here.
pub fn idle_loop() -> ! {
    arch::interrupts_off();
    let me = cpu::this();
    let bit = 1 << me.index;
    let mut limit = 0;
    loop {
        run_queue::switch(true);
        let all_idle = (IDLE.fetch_or(bit, Ordering::SeqCst) | bit).count_ones() as usize == cpu::count();
        if run_queue::is_empty() {
            if let Some(deadline) = timers::next() {
                run_queue::arm_timer(deadline);
            }
            let start = time::monotonic_ns();
            let interrupts = me.interrupts.load(Ordering::Relaxed);
            if limit >= FIRST_NS && all_idle {
                LOOKING.fetch_or(bit, Ordering::SeqCst);
                arch::interrupts_on();
                look_until(start + limit, interrupts);
                arch::interrupts_off();
                LOOKING.fetch_and(!bit, Ordering::SeqCst);
            }
            // Who has put a thread there while we looked has not interrupted us.
            if run_queue::is_empty() && me.interrupts.load(Ordering::Relaxed) == interrupts {
                // SAFETY: `sti` takes effect after `hlt` has begun, so no interrupt is lost between them.
                unsafe { core::arch::asm!("sti", "hlt", "cli", options(nostack)) };
            }
            limit = next_limit(limit, time::monotonic_ns() - start);
        }
        IDLE.fetch_and(!bit, Ordering::SeqCst);
    }
}

/// Looks out for a thread or an interrupt.
fn look_until(deadline: u64, interrupts: u64) {
    let (me, emulated) = (cpu::this(), arch::is_emulated());
    while time::monotonic_ns() < deadline {
        for _ in 0..LOOKS {
            if !run_queue::is_empty() || me.interrupts.load(Ordering::Relaxed) != interrupts {
                return;
            }
            // An emulator leaves its translated code for each such hint.
            if !emulated {
                core::hint::spin_loop();
            }
        }
    }
}
