//! Automatic trims: with the property `autotrim`, devices hear now and then what became free since. Source: `vdev_autotrim_thread`
//! (`vdev_trim.c`).
//!
//! Nothing of it is on record: what became free and was not told before the pool was exported or lost power is left to `zpool trim`.

use super::super::background::Background;
use super::super::core::Core;
use super::{can_trim, discard, joined};
use crate::error::{Error, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Txgs between two rounds (`zfs_trim_txg_batch`).
const TXG_BATCH: u64 = 32;

/// Who trims.
#[derive(Default)]
pub(crate) struct AutoTrim {
    last: AtomicU64,
    round: Background,
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
        if !auto.round.claim() {
            return;
        }
        auto.last.store(txg, Ordering::Relaxed);
        let core = Arc::clone(self);
        platform::thread::spawn("autotrim", move || {
            core.autotrim_round(true);
            core.auto_trim.round.done();
        });
    }

    /// The pool goes away: waits for the round that is going on, and lets no other begin. With `last`, what is free by now is told first.
    pub(in super::super) fn end_autotrim(&self, last: bool) {
        self.auto_trim.round.end();
        if last && self.spa.space.autotrim() {
            self.autotrim_round(false);
        }
    }

    /// Tells the devices what became free. A hint: nobody hears of failures. It `stops` when the pool goes away.
    fn autotrim_round(&self, stops: bool) {
        for slab in self.spa.space.slabs() {
            if stops && self.auto_trim.round.stopping() {
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
            discard(whole);
        }
    }
}
