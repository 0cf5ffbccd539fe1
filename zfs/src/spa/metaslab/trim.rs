//! Free ranges that devices are being told of.
//!
//! # Invariants
//! - What is in a [`Trimming`] is nobody's: it cannot be allocated before that is dropped. Who finds no other room waits for it.
//! - A [`Trimming`] is not held while waiting for a txg.

use super::{Metaslab, Metaslabs};
use crate::error::Result;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

/// A metaslab's place: index of its vdev, its own index, first byte and size in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slab {
    pub(crate) vdev: u32,
    pub(crate) index: usize,
    pub(crate) start: u64,
    pub(crate) size: u64,
    /// Bytes that are not allocated as of the last txg.
    pub(crate) free: u64,
}

/// Ranges by start and length, in bytes, and where the next one begins that is not among them.
pub(super) type Taken = (Vec<(u64, u64)>, Option<u64>);

/// Free ranges that are taken out as long as it lives.
pub(crate) struct Trimming<'a> {
    space: &'a Metaslabs,
    vdev: u32,
    index: usize,
    /// Start and length, in bytes of the vdev.
    pub(crate) ranges: Vec<(u64, u64)>,
    /// Where the next free range begins that is not among them.
    pub(crate) next: Option<u64>,
}

impl Drop for Trimming<'_> {
    fn drop(&mut self) {
        let mut inner = self.space.inner.lock();
        inner.trimmings -= 1;
        let vdev = inner.vdevs.iter_mut().find(|v| v.layout.id == self.vdev);
        if let Some(slab) = vdev.and_then(|v| v.slabs.get_mut(self.index)) {
            slab.end_trim(&self.ranges);
        }
        drop(inner);
        self.space.trimmed.notify_all();
    }
}

impl Metaslabs {
    /// All metaslabs, by vdev and place.
    pub(crate) fn slabs(&self) -> Vec<Slab> {
        let inner = self.inner.lock();
        let of = |v: &super::VdevSpace| {
            let vdev = v.layout.id;
            let slab = |(index, s): (usize, &Metaslab)| Slab {
                vdev,
                index,
                start: s.start,
                size: s.size,
                free: s.size.saturating_sub(s.synced_allocated()),
            };
            v.slabs.iter().enumerate().map(slab).collect::<Vec<_>>()
        };
        inner.vdevs.iter().flat_map(of).collect()
    }

    /// Takes free ranges of a metaslab out, from the address `from` on and about `most` bytes. None of a metaslab that is no more.
    pub(crate) fn begin_trim(&self, slab: &Slab, from: u64, most: u64) -> Result<Trimming<'_>> {
        self.take_out(slab, |metaslab, unit| metaslab.begin_trim(from, (most / unit).max(1) * unit))
    }

    /// Takes out what was freed in a metaslab since this was asked last, if that is on record ([`Metaslabs::set_autotrim`]).
    pub(crate) fn begin_autotrim(&self, slab: &Slab) -> Result<Trimming<'_>> {
        self.take_out(slab, |metaslab, _| metaslab.begin_autotrim().map(|ranges| (ranges, None)))
    }

    /// From now on it is on record what becomes free, or no longer.
    pub(crate) fn set_autotrim(&self, on: bool) {
        self.autotrim.store(on, Ordering::Release);
        if !on {
            let mut inner = self.inner.lock();
            inner.vdevs.iter_mut().flat_map(|v| &mut v.slabs).for_each(Metaslab::forget_fresh);
        }
    }

    pub(crate) fn autotrim(&self) -> bool {
        self.autotrim.load(Ordering::Acquire)
    }

    /// `take` gets the metaslab and the unit in which ranges are cut, in bytes.
    fn take_out(
        &self,
        slab: &Slab,
        take: impl FnOnce(&mut Metaslab, u64) -> Result<Taken>,
    ) -> Result<Trimming<'_>> {
        let mut inner = self.inner.lock();
        let vdev = inner.vdevs.iter_mut().find(|v| v.layout.id == slab.vdev);
        let (ranges, next) = match vdev {
            Some(vdev) => {
                let unit = vdev.layout.geometry.alignment(vdev.layout.ashift).max(1 << vdev.layout.ashift);
                match vdev.slabs.get_mut(slab.index) {
                    Some(metaslab) => take(metaslab, unit)?,
                    None => (Vec::new(), None),
                }
            }
            None => (Vec::new(), None),
        };
        inner.trimmings += 1;
        Ok(Trimming { space: self, vdev: slab.vdev, index: slab.index, ranges, next })
    }
}
