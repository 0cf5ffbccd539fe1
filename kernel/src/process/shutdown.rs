//! The end that is asked for from outside the machine: every process gets SIGTERM, no further command begins, and the machine
//! ends when all processes have.
//!
//! Lock order: `ASKED` → the table of processes.

use super::signals::{SIGTERM, SigInfo};
use super::{Process, all};
use crate::log;
use platform::sync::Mutex;
use vfs::wait::wait_on;

static ASKED: Mutex<bool> = Mutex::new(false);

/// Asks all programs to end.
pub fn begin() {
    log!(Info, "asked to end");
    let mut asked = ASKED.lock();
    *asked = true;
    for process in all() {
        process.signal(SigInfo::kernel(SIGTERM));
    }
}

/// Has `birth` make the process of a command, unless the end was asked for: each process gets one signal, or never begins.
pub fn unless_asked<T>(birth: impl FnOnce() -> T) -> Option<T> {
    let asked = ASKED.lock();
    (!*asked).then(birth)
}

/// Whether the end was asked for.
pub fn is_asked() -> bool {
    *ASKED.lock()
}

/// Waits for the processes that a command has left behind, which were asked to end as it was.
pub fn wait_for_all() {
    for process in all() {
        let ended = |process: &Process| process.ending();
        // The init thread takes no signals: only the end wakes it.
        while wait_on(&[process.ended()], None, || ended(&process)).is_err() {}
    }
}
