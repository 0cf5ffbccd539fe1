//! The serial port COM1, 115200 8N1, by polling; its input by interrupts.

use super::Output;
use crate::arch::ioapic::Trigger;
use crate::arch::irq;
use crate::arch::port::{inb, outb};
use crate::sched::{self, Thread};
use crate::sync::IrqLock;
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};
use spin::Once;

const PORT: u16 = 0x3f8;
const GSI: u32 = 4;
/// Bytes that the transmit FIFO takes at once.
const FIFO: usize = 16;

/// So often is the lock asked for by who cannot wait for it: longer than any chunk takes.
const LOCK_TRIES: u32 = 10_000;

/// Held for one chunk of the FIFO, or for all that is written at once.
static OUTPUT: IrqLock<()> = IrqLock::new(());
static DRIVER: Once<Arc<Thread>> = Once::new();

/// A byte that came before the port was set up, which empties its FIFO; `u32::MAX`: none.
static EARLY: AtomicU32 = AtomicU32::new(u32::MAX);

/// The port.
pub(super) struct Serial;

/// Sets up the port.
pub(super) fn init() {
    if inb(PORT + 5) & 1 != 0 {
        EARLY.store(u32::from(inb(PORT)), Ordering::Relaxed);
    }
    for (register, value) in [(1, 0), (3, 0x80), (0, 1), (1, 0), (3, 3), (2, 0xc7), (4, 0x0b)] {
        outb(PORT + register, value);
    }
}

/// Waits for room in the transmit FIFO, looking `tries` times.
fn ready(tries: u32) -> bool {
    (0..tries).any(|_| {
        let empty = inb(PORT + 5) & 0x20 != 0;
        if !empty {
            core::hint::spin_loop();
        }
        empty
    })
}

/// Fills the (empty) FIFO. One string instruction: a hypervisor takes it as one exit.
fn fill(chunk: &[u8]) {
    // SAFETY: writes `chunk` to the serial port.
    unsafe {
        core::arch::asm!("rep outsb", in("dx") PORT, inout("rsi") chunk.as_ptr() => _, inout("rcx") chunk.len() => _,
            options(nostack, preserves_flags, readonly));
    }
}

impl Output for Serial {
    fn write(&self, bytes: &[u8]) {
        for chunk in bytes.chunks(FIFO) {
            loop {
                let output = OUTPUT.lock();
                if ready(50) {
                    fill(chunk);
                    break;
                }
                drop(output);
                sched::sleep(500_000);
            }
        }
    }

    /// With a reader that stalls, bytes are lost in the end.
    fn write_at_once(&self, bytes: &[u8]) {
        let _output = (0..LOCK_TRIES).find_map(|_| OUTPUT.try_lock());
        for chunk in bytes.chunks(FIFO) {
            ready(1_000_000);
            fill(chunk);
        }
    }
}

/// Starts taking input. Threads and interrupts are up.
pub(super) fn start_input() {
    let driver = sched::spawn_urgent("console", Box::new(drive));
    DRIVER.call_once(|| driver);
    let connected = irq::connect_gsi(GSI, Trigger::Edge, || {
        // Reading the identification acknowledges; the thread empties the FIFO and lets the next interrupt come.
        if inb(PORT + 2) & 1 == 0 {
            outb(PORT + 1, 0);
            if let Some(driver) = DRIVER.get() {
                driver.unpark();
            }
        }
    });
    if connected {
        outb(PORT + 1, 1);
    }
}

fn drive() {
    if let Ok(byte) = u8::try_from(EARLY.load(Ordering::Relaxed)) {
        super::arrived(&[byte]);
    }
    loop {
        let mut bytes = [0; 64];
        let mut n = 0;
        while n < bytes.len() && inb(PORT + 5) & 1 != 0 {
            bytes[n] = inb(PORT);
            n += 1;
        }
        if n > 0 {
            super::arrived(&bytes[..n]);
        }
        outb(PORT + 1, 1);
        // A byte that came before the interrupt was allowed again raises none (edge): look once more.
        if inb(PORT + 5) & 1 == 0 {
            sched::park();
        }
    }
}
