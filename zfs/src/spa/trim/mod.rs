//! TRIM: devices are told what is free on them. Source: `vdev_trim.c`.
//!
//! One metaslab after the other, in pieces: free ranges are taken out of what can be allocated, the devices hear of them, and they
//! are put back. What waits to be reused, for older uberblocks, a checkpoint or a scan, is not free yet and left alone.
//!
//! # Invariants
//! - Nothing is allocated in a range between the time a device hears of it and its answer.
//! - Nothing is trimmed that one of the last states on the devices refers to: a trim begins when the states from before the import,
//!   whose frees are forgotten, are older than those.
//! - What is on record of a leaf ([`state`]) is what OpenZFS takes up.

mod auto;
mod state;

pub(super) use auto::AutoTrim;
pub use state::TrimState;

use super::core::Core;
use super::metaslab::{DEFER_TXGS, Slab};
use super::report::Progress;
use super::scan::ScanControl;
use crate::dmu::Tx;
use crate::error::{Error, Result};
use crate::vdev::{Leaf, TopVdev};
use alloc::sync::Arc;
use alloc::vec::Vec;
use platform::block::{Batch, Op};
use platform::sync::{Condvar, Mutex};
use state::Standing;

/// A stretch on a device that is shorter is not worth a request, in bytes (`zfs_trim_extent_bytes_min`).
const EXTENT_MIN: u64 = 32 << 10;
/// The longest request, in bytes (`zfs_trim_extent_bytes_max`).
const EXTENT_MAX: u64 = 128 << 20;
/// With a rate, pieces are still that long, in bytes.
const PIECE_MIN: u64 = 1 << 20;
/// Seconds after which it is recorded how far a trim is.
const KEEP_SECONDS: u64 = 5;
/// The longest rest for a rate before the caller is asked again, in nanoseconds.
const REST_MAX_NS: u64 = 200_000_000;

/// What a trim did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TrimReport {
    /// Bytes of the devices that they were told to be free.
    pub bytes: u64,
    /// Requests that devices refused.
    pub failed: u64,
}

/// How the trim of a leaf stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrimStatus {
    /// The device can be told.
    pub supported: bool,
    /// `None`: it never was.
    pub state: Option<TrimState>,
    /// When it began, or came to an end, in seconds since 1970.
    pub action_time: u64,
    /// How far it is.
    pub percent: u8,
}

fn can_trim(leaf: &Leaf) -> bool {
    leaf.device.as_ref().is_some_and(|device| device.info().discard)
}

/// Asks devices, and waits for all.
fn discard(places: impl Iterator<Item = (Arc<Leaf>, u64, u64)>) -> TrimReport {
    let (batch, mut sizes, mut report) = (Batch::new(), Vec::new(), TrimReport::default());
    for (leaf, mut offset, mut len) in places.filter(|(_, _, len)| *len >= EXTENT_MIN) {
        let Some(device) = &leaf.device else { continue };
        while len > 0 {
            let piece = len.min(EXTENT_MAX);
            batch.submit(&**device, Op::Discard { offset, len: piece });
            sizes.push(piece);
            (offset, len) = (offset + piece, len - piece);
        }
    }
    for (outcome, size) in batch.wait().into_iter().zip(sizes) {
        match outcome {
            Ok(_) => report.bytes += size,
            Err(_) => report.failed += 1,
        }
    }
    report
}

/// Up to where a metaslab reaches on a leaf; `None` if it has no part of it.
fn end_on(top: &TopVdev, slab: &Slab, guid: u64) -> Option<u64> {
    let own = top.stretches(slab.start, slab.size).into_iter().filter(|(leaf, ..)| leaf.guid == guid);
    own.map(|(_, offset, len)| offset + len).max()
}

/// Keeps to a number of bytes in a second.
struct Pace<'a> {
    core: &'a Core,
    rate: u64,
    began_ns: u64,
    bytes: u64,
}

impl Pace<'_> {
    /// Whether so many bytes more have to wait; it rests a moment if so.
    fn rests(&self) -> bool {
        if self.rate == 0 {
            return false;
        }
        let due = u128::from(self.bytes) * 1_000_000_000 / u128::from(self.rate);
        let passed = self.core.spa.env.clock.monotonic_ns().saturating_sub(self.began_ns);
        let left = u64::try_from(due).unwrap_or(u64::MAX).saturating_sub(passed).min(REST_MAX_NS);
        if left > 0 {
            let (lock, never) = (Mutex::new(()), Condvar::new());
            let _ = never.wait_timeout(lock.lock(), left);
        }
        left > 0
    }
}

impl Core {
    /// Tells the devices of these guids (all, if there are none) what is free on them, at most `rate` bytes in a second of each. Goes on
    /// where an unfinished trim stopped.
    pub(super) fn trim(
        &self,
        only: &[u64],
        rate: Option<u64>,
        control: &mut dyn FnMut(Progress) -> ScanControl,
    ) -> Result<TrimReport> {
        let spa = &self.spa;
        if spa.read_only {
            return Err(Error::ReadOnly);
        }
        let mut leaves = self.trimmable(only)?;
        let _one = self.auto_trim.claim_manual()?;
        let now = spa.seconds();
        for leaf in &mut leaves {
            let goes_on = leaf.state.is_some_and(TrimState::is_unfinished);
            if !goes_on {
                (leaf.offset, leaf.rate) = (0, 0);
            }
            if leaf.state != Some(TrimState::Suspended) {
                leaf.action_time = now;
            }
            (leaf.rate, leaf.state) = (rate.unwrap_or(leaf.rate), Some(TrimState::Active));
        }
        let first = self.record(&leaves, true)?;
        while spa.txgs.synced_txg() < first + DEFER_TXGS as u64 {
            self.record(&leaves, false)?;
        }
        let (wish, report) = self.trim_all(&mut leaves, control)?;
        let state = match wish {
            ScanControl::Continue => TrimState::Complete,
            ScanControl::Pause => TrimState::Suspended,
            ScanControl::Stop => TrimState::Canceled,
        };
        for leaf in &mut leaves {
            (leaf.state, leaf.action_time) = (Some(state), spa.seconds());
        }
        self.record(&leaves, true)?;
        if report.bytes == 0 && report.failed > 0 {
            return Err(Error::unsupported("trim: the devices refuse to be told what is free"));
        }
        Ok(report)
    }

    /// Ends the unfinished trims of these devices (of all, if there are none): for good, or until the next one.
    pub(super) fn stop_trim(&self, only: &[u64], suspend: bool) -> Result<()> {
        let mut leaves = self.trimmable(only)?;
        let stops =
            |state: TrimState| if suspend { state == TrimState::Active } else { state.is_unfinished() };
        leaves.retain(|leaf| leaf.state.is_some_and(stops));
        if leaves.is_empty() {
            return Err(Error::Invalid("there is no active trim"));
        }
        let state = if suspend { TrimState::Suspended } else { TrimState::Canceled };
        for leaf in &mut leaves {
            leaf.action_time = self.spa.seconds();
            leaf.state = Some(state);
        }
        self.record(&leaves, true).map(|_| ())
    }

    /// How a leaf stands; [`Error::NotFound`] if there is none of that guid.
    pub(super) fn trim_status(&self, guid: u64) -> Result<TrimStatus> {
        let vdevs = self.spa.zio.vdevs();
        let leaf = vdevs.leaf(guid).ok_or(Error::NotFound)?;
        let Standing { state, action_time, offset, .. } = self.spa.trim_standing(guid)?;
        let percent = if state.is_some_and(TrimState::is_unfinished) {
            let top = vdevs.top(leaf.top)?;
            let (mut done, mut all) = (0u64, 0u64);
            for slab in self.spa.space.slabs().iter().filter(|slab| slab.vdev == leaf.top) {
                all = all.saturating_add(slab.free);
                if end_on(top, slab, guid).is_some_and(|end| end <= offset) {
                    done = done.saturating_add(slab.free);
                }
            }
            (u128::from(done) * 100).checked_div(u128::from(all)).unwrap_or(0) as u8
        } else {
            100
        };
        Ok(TrimStatus { supported: can_trim(leaf), state, action_time, percent })
    }

    /// The devices that can be told, as they stand.
    fn trimmable(&self, only: &[u64]) -> Result<Vec<Standing>> {
        let vdevs = self.spa.zio.vdevs();
        if only.iter().any(|guid| vdevs.leaf(*guid).is_none()) {
            return Err(Error::NotFound);
        }
        let leaves = vdevs.leaves();
        let wanted =
            leaves.iter().filter(|leaf| (only.is_empty() || only.contains(&leaf.guid)) && can_trim(leaf));
        let mut guids: Vec<u64> = wanted.map(|leaf| leaf.guid).collect();
        guids.sort_unstable();
        guids.dedup();
        if guids.is_empty() || guids.len() < only.len() {
            return Err(Error::unsupported("trim: no device here, or not all, can be told what is free"));
        }
        guids.into_iter().map(|guid| self.spa.trim_standing(guid)).collect()
    }

    /// Records how leaves stand; the txg that it was.
    fn record(&self, leaves: &[Standing], says: bool) -> Result<u64> {
        let (spa, leaves) = (Arc::clone(&self.spa), leaves.to_vec());
        self.spa.run_task(move |tx: &Tx| {
            leaves.iter().try_for_each(|leaf| spa.record_trim(tx, leaf, says))?;
            Ok(tx.txg())
        })
    }

    /// Walks over all metaslabs; what the caller wanted at the end.
    fn trim_all(
        &self,
        leaves: &mut [Standing],
        control: &mut dyn FnMut(Progress) -> ScanControl,
    ) -> Result<(ScanControl, TrimReport)> {
        let spa = &self.spa;
        let slabs = spa.space.slabs();
        let mut progress = Progress { done: 0, total: slabs.iter().map(|slab| slab.size).sum() };
        let (mut report, mut kept_at) = (TrimReport::default(), spa.seconds());
        let rate = leaves.iter().map(|leaf| leaf.rate).filter(|rate| *rate > 0).min().unwrap_or(0);
        let most = if rate > 0 { rate.clamp(PIECE_MIN, EXTENT_MAX) } else { EXTENT_MAX };
        let mut pace = Pace { core: self, rate, began_ns: spa.env.clock.monotonic_ns(), bytes: 0 };
        for slab in &slabs {
            let vdevs = spa.zio.vdevs();
            let Ok(top) = vdevs.top(slab.vdev) else { continue };
            let ends: Vec<(usize, u64)> = leaves
                .iter()
                .enumerate()
                .filter_map(|(i, leaf)| Some((i, end_on(top, slab, leaf.guid)?)))
                .filter(|(i, end)| *end > leaves[*i].offset)
                .collect();
            let guids: Vec<u64> = ends.iter().map(|(i, _)| leaves[*i].guid).collect();
            let mut at = (!guids.is_empty()).then_some(slab.start);
            while let Some(from) = at {
                loop {
                    let wish = control(progress);
                    if wish != ScanControl::Continue {
                        return Ok((wish, report));
                    }
                    if !pace.rests() {
                        break;
                    }
                }
                let taken = spa.space.begin_trim(slab, from, most)?;
                let stretches =
                    taken.ranges.iter().flat_map(|(start, len)| top.stretches(*start, *len)).collect();
                let told =
                    discard(joined(stretches).into_iter().filter(|(leaf, ..)| guids.contains(&leaf.guid)));
                at = taken.next;
                drop(taken);
                report.bytes += told.bytes;
                report.failed += told.failed;
                pace.bytes += told.bytes / guids.len() as u64;
            }
            ends.iter().for_each(|(i, end)| leaves[*i].offset = *end);
            progress.done += slab.size;
            if spa.seconds().saturating_sub(kept_at) >= KEEP_SECONDS {
                kept_at = spa.seconds();
                self.record(leaves, false)?;
            }
        }
        control(progress);
        Ok((ScanControl::Continue, report))
    }
}

/// Neighbours on a device as one.
fn joined(mut stretches: Vec<(Arc<Leaf>, u64, u64)>) -> Vec<(Arc<Leaf>, u64, u64)> {
    stretches.sort_by_key(|(leaf, offset, _)| (leaf.guid, *offset));
    let mut out: Vec<(Arc<Leaf>, u64, u64)> = Vec::with_capacity(stretches.len());
    for (leaf, offset, len) in stretches {
        match out.last_mut() {
            Some((last, start, size)) if last.guid == leaf.guid && *start + *size == offset => *size += len,
            _ => out.push((leaf, offset, len)),
        }
    }
    out
}
