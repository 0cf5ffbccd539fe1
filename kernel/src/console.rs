//! The serial console: COM1, 115200 8N1.
//!
//! Output is written by polling, in one piece per call: a call's bytes are never mixed with another's. Input arrives
//! by interrupt; a driver thread moves it to the buffer that [`read`] takes from.

use crate::arch::ioapic::Trigger;
use crate::arch::port::{inb, outb};
use crate::arch::{self, irq};
use crate::sched::{self, Thread};
use crate::sync::IrqLock;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use platform::sync::{Condvar, Mutex};
use spin::Once;

const PORT: u16 = 0x3f8;
const GSI: u32 = 4;
/// Bytes that the transmit FIFO takes at once.
const FIFO: usize = 16;
const INPUT_LIMIT: usize = 1 << 16;

/// Held for one chunk of the FIFO.
static OUTPUT: IrqLock<()> = IrqLock::new(());
/// Held, by threads, for one whole call of [`write`].
static WRITER: Mutex<()> = Mutex::new(());
/// The last byte that was written: the kernel's own lines begin at the left margin.
static LAST: AtomicU8 = AtomicU8::new(b'\n');
static INPUT: Mutex<VecDeque<u8>> = Mutex::new(VecDeque::new());
static ARRIVED: Condvar = Condvar::new();
static DRIVER: Once<Arc<Thread>> = Once::new();
static HOOK: Once<fn()> = Once::new();

/// How much the kernel says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Only what went wrong.
    Error = 0,
    /// What is found and done.
    Info = 1,
    /// Details.
    Debug = 2,
}

static LEVEL: AtomicU8 = AtomicU8::new(Level::Error as u8);

/// Whether messages of `level` are printed.
pub fn shows(level: Level) -> bool {
    level as u8 <= LEVEL.load(Ordering::Relaxed)
}

/// Sets the level by the boot option `tarn.log`.
pub fn set_level(name: &str) {
    let level = match name {
        "debug" => Level::Debug,
        "info" => Level::Info,
        _ => Level::Error,
    };
    LEVEL.store(level as u8, Ordering::Relaxed);
}

/// Prints a line of the kernel's own, `tarn: …`, if its level is shown.
#[macro_export]
macro_rules! log {
    ($level:ident, $($argument:tt)*) => {
        if $crate::console::shows($crate::console::Level::$level) {
            $crate::console::line(format_args!($($argument)*));
        }
    };
}

/// Prints a line whatever the level.
#[macro_export]
macro_rules! println {
    ($($argument:tt)*) => { $crate::console::line(format_args!($($argument)*)) };
}

/// A byte that came before the port was set up, which empties its FIFO; `u32::MAX`: none.
static EARLY: AtomicU32 = AtomicU32::new(u32::MAX);

/// Sets up the port.
pub fn init() {
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
    if let Some(last) = chunk.last() {
        LAST.store(*last, Ordering::Relaxed);
    }
}

/// Writes whatever happens: with a reader that stalls, bytes are lost in the end.
fn put(bytes: &[u8]) {
    for chunk in bytes.chunks(FIFO) {
        ready(1_000_000);
        fill(chunk);
    }
}

/// Writes bytes as they are. Sleeps while the other side of the line takes nothing.
pub fn write(bytes: &[u8]) {
    if !sched::is_running() || !arch::interrupts_enabled() {
        let _output = OUTPUT.lock();
        return put(bytes);
    }
    let _whole = WRITER.lock();
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

struct Buffer {
    bytes: [u8; 512],
    len: usize,
}

impl Write for Buffer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            if self.len == self.bytes.len() {
                write(&self.bytes);
                self.len = 0;
            }
            self.bytes[self.len] = byte;
            self.len += 1;
        }
        Ok(())
    }
}

/// Prints `tarn: ` and a line, on a line of its own even if the application is in the middle of one: a record separator
/// marks the newline as ours, so that a runner can take both out.
pub fn line(text: fmt::Arguments<'_>) {
    let mut buffer = Buffer { bytes: [0; 512], len: 0 };
    let margin = if LAST.load(Ordering::Relaxed) == b'\n' { "" } else { "\x1e\n" };
    // Buffer never fails.
    let _ = writeln!(buffer, "{margin}tarn: {text}");
    write(&buffer.bytes[..buffer.len]);
}

/// Writes without the lock: for a panic, when its holder may be stopped.
pub struct Unlocked;

impl Write for Unlocked {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        put(text.as_bytes());
        Ok(())
    }
}

/// Starts taking input. Threads and interrupts are up.
pub fn start_input() {
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
        INPUT.lock().push_back(byte);
    }
    loop {
        let mut got = false;
        while inb(PORT + 5) & 1 != 0 {
            let byte = inb(PORT);
            let mut input = INPUT.lock();
            if input.len() < INPUT_LIMIT {
                input.push_back(byte);
            }
            got = true;
        }
        if got {
            ARRIVED.notify_all();
            if let Some(hook) = HOOK.get() {
                hook();
            }
        }
        outb(PORT + 1, 1);
        // A byte that came before the interrupt was allowed again raises none (edge): look once more.
        if inb(PORT + 5) & 1 == 0 {
            sched::park();
        }
    }
}

/// Reads at least one byte, sleeping until there is one. How many were read.
pub fn read(out: &mut [u8]) -> usize {
    if out.is_empty() {
        return 0;
    }
    let mut input = INPUT.lock();
    while input.is_empty() {
        input = ARRIVED.wait(input);
    }
    let n = out.len().min(input.len());
    for (slot, byte) in out.iter_mut().zip(input.drain(..n)) {
        *slot = byte;
    }
    n
}

/// Whether [`read`] would return at once.
pub fn readable() -> bool {
    !INPUT.lock().is_empty()
}

/// Calls `hook` (in a thread) whenever input has arrived. Once.
pub fn on_input(hook: fn()) {
    HOOK.call_once(|| hook);
}
