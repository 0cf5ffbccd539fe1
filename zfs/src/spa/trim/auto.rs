//! Automatic trims: with the property `autotrim`, devices hear now and then what became free since. Source: `vdev_autotrim_thread`
//! (`vdev_trim.c`).
//!
//! Nothing of it is on record: what became free and was not told before the pool was exported or lost power is left to `zpool trim`.

use super::super::core::Core;
use super::{TrimReport, can_trim, discard, joined};
use crate::error::{Error, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use platform::sync::{Condvar, Mutex};

/// Txgs between two rounds (`zfs_trim_txg_batch`).
const TXG_BATCH: u64 = 32;

/// Who trims.
#[derive(Default)]
pub(crate) struct AutoTrim {
    last: AtomicU64,
    /// A round is going on.
    running: Mutex<bool>,
    ended: Condvar,
    /// The pool is going away.
    stop: AtomicBool,
    manual: AtomicBool,
}

/// Marks the one who trims by hand.
pub(super) struct Manual<'a>(&'a AtomicBool);

impl Drop for Manual<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl AutoTrim {
    /// [`Error::Busy`] if somebody trims by hand already.
    pub(super) fn claim_manual(&self) -> Result<Manual<'_>> {
        if self.manual.swap(true, Ordering::AcqRel) { Err(Error::Busy) } else { Ok(Manual(&self.manual)) }
    }
}

impl Core {
    /// A txg is on disk: begins a round in a thread of its own, if one is due.
    pub(in super::super) fn autotrim_due(self: &Arc<Self>, txg: u64) {
        let auto = &self.auto_trim;
        if !self.spa.space.autotrim() || txg < auto.last.load(Ordering::Relaxed) + TXG_BATCH {
            return;
        }
        let mut running = auto.running.lock();
        if *running || auto.stop.load(Ordering::Acquire) {
            return;
        }
        auto.last.store(txg, Ordering::Relaxed);
        *running = true;
        drop(running);
        let core = Arc::clone(self);
        platform::thread::spawn("autotrim", move || {
            core.autotrim_round();
            *core.auto_trim.running.lock() = false;
            core.auto_trim.ended.notify_all();
        });
    }

    /// The pool goes away: waits for the round that is going on, and lets no other begin. With `last`, what is free by now is told first.
    pub(in super::super) fn end_autotrim(&self, last: bool) {
        let auto = &self.auto_trim;
        auto.stop.store(true, Ordering::Release);
        let mut running = auto.running.lock();
        while *running {
            running = auto.ended.wait(running);
        }
        drop(running);
        if last && self.spa.space.autotrim() {
            auto.stop.store(false, Ordering::Release);
            self.autotrim_round();
            auto.stop.store(true, Ordering::Release);
        }
    }

    /// Tells the devices what became free. A hint: nobody hears of failures.
    fn autotrim_round(&self) -> TrimReport {
        let mut report = TrimReport::default();
        for slab in self.spa.space.slabs() {
            if self.auto_trim.stop.load(Ordering::Acquire) {
                break;
            }
            let vdevs = self.spa.zio.vdevs();
            let (Ok(top), Ok(taken)) = (vdevs.top(slab.vdev), self.spa.space.begin_autotrim(&slab)) else {
                continue;
            };
            let stretches: Vec<_> =
                taken.ranges.iter().flat_map(|(start, len)| top.stretches(*start, *len)).collect();
            // A device that is being brought its data has other work.
            let whole = joined(stretches)
                .into_iter()
                .filter(|(leaf, ..)| can_trim(leaf) && leaf.missing().is_empty());
            let told = discard(whole);
            report.bytes += told.bytes;
            report.failed += told.failed;
        }
        report
    }
}
