//! The console: what the kernel and its programs print, and what is typed.
//!
//! It is the serial port until a driver brings another device ([`attach`]), as the boot option `tarn.console=virtio` asks. A call's
//! bytes are never mixed with another's.

mod serial;

use crate::arch;
use crate::boot;
use crate::sched;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU8, Ordering};
use platform::sync::{Condvar, Mutex};
use serial::Serial;
use spin::Once;

/// Bytes of input that wait for a reader; more are lost.
const INPUT_LIMIT: usize = 1 << 16;

/// Where output goes.
pub trait Output: Send + Sync {
    /// Writes all of it. By a thread, which sleeps while the other side takes nothing; one at a time.
    fn write(&self, bytes: &[u8]);
    /// Writes whatever state the machine is in: without sleeping, and though the holder of a lock may have been stopped.
    fn write_at_once(&self, bytes: &[u8]);
}

static ATTACHED: Once<Arc<dyn Output>> = Once::new();
/// Held, by threads, for one whole call of [`write`].
static WRITER: Mutex<()> = Mutex::new(());
/// The last byte that was written: the kernel's own lines begin at the left margin.
static LAST: AtomicU8 = AtomicU8::new(b'\n');
static INPUT: Mutex<VecDeque<u8>> = Mutex::new(VecDeque::new());
static ARRIVED: Condvar = Condvar::new();
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

/// Sets up the serial port.
pub fn init() {
    serial::init();
}

/// Starts taking input from the serial port. Threads and interrupts are up.
pub fn start_input() {
    serial::start_input();
}

/// Whether a virtio device is to be the console.
pub fn wants_virtio() -> bool {
    boot::info().cmdline().get("tarn.console") == Some("virtio")
}

/// Whether another device than the serial port is the console.
pub fn is_attached() -> bool {
    ATTACHED.is_completed()
}

/// Makes `output` the console. Once; later calls have no effect.
pub fn attach(output: Arc<dyn Output>) {
    ATTACHED.call_once(|| output);
}

fn output() -> &'static dyn Output {
    ATTACHED.get().map_or(&Serial, |output| &**output)
}

fn note_last(bytes: &[u8]) {
    if let Some(last) = bytes.last() {
        LAST.store(*last, Ordering::Relaxed);
    }
}

/// Writes bytes as they are. Sleeps while the other side takes nothing.
pub fn write(bytes: &[u8]) {
    if !sched::is_running() || !arch::interrupts_enabled() {
        output().write_at_once(bytes);
    } else {
        let _whole = WRITER.lock();
        output().write(bytes);
    }
    note_last(bytes);
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

/// Writes at once: for a panic.
pub struct Unlocked;

impl Write for Unlocked {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        output().write_at_once(text.as_bytes());
        note_last(text.as_bytes());
        Ok(())
    }
}

/// Takes what was typed. By a driver's thread.
pub fn arrived(bytes: &[u8]) {
    {
        let mut input = INPUT.lock();
        let room = INPUT_LIMIT.saturating_sub(input.len());
        input.extend(bytes.iter().take(room));
    }
    ARRIVED.notify_all();
    if let Some(hook) = HOOK.get() {
        hook();
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
