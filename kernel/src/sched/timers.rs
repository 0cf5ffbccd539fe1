//! Sleepers' alarms: one ordered map per processor, fed to its APIC timer.

use super::{Thread, run_queue};
use crate::arch::{IrqGuard, cpu};
use crate::sync::IrqLock;
use crate::time;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

type Alarms = BTreeMap<(u64, u64), Arc<Thread>>;

static ALARMS: [IrqLock<Alarms>; cpu::MAX_CPUS] = [const { IrqLock::new(BTreeMap::new()) }; cpu::MAX_CPUS];
static NEXT: AtomicU64 = AtomicU64::new(0);

/// An alarm that was set.
pub(super) struct Alarm {
    cpu: usize,
    key: (u64, u64),
}

/// Wakes `thread` at `deadline` (monotonic nanoseconds).
pub(super) fn set(deadline: u64, thread: Arc<Thread>) -> Alarm {
    let _irq = IrqGuard::new();
    let cpu = cpu::this().index;
    let key = (deadline, NEXT.fetch_add(1, Ordering::Relaxed));
    ALARMS[cpu].lock().insert(key, thread);
    run_queue::arm_timer(deadline);
    Alarm { cpu, key }
}

/// Forgets an alarm, rung or not.
pub(super) fn cancel(alarm: Alarm) {
    let thread = ALARMS[alarm.cpu].lock().remove(&alarm.key);
    drop(thread);
}

/// How many alarms are set.
pub(super) fn count() -> usize {
    ALARMS.iter().map(|alarms| alarms.lock().len()).sum()
}

/// Wakes everybody of this processor whose time has come; the next deadline. Interrupts are off.
pub(super) fn ring() -> Option<u64> {
    let alarms = &ALARMS[cpu::this().index];
    loop {
        let due = {
            let mut alarms = alarms.lock();
            let (&key, _) = alarms.first_key_value()?;
            if key.0 > time::monotonic_ns() {
                return Some(key.0);
            }
            alarms.remove(&key)
        };
        if let Some(thread) = due {
            thread.unpark();
        }
    }
}

/// The next deadline of this processor.
pub(super) fn next() -> Option<u64> {
    ALARMS[cpu::this().index].lock().first_key_value().map(|(key, _)| key.0)
}
