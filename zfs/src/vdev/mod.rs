//! The vdev tree: from a [`Dva`] to bytes on devices. Source: `vdev.c`, `vdev_mirror.c`, `vdev_raidz.c`, `vdev_draid.c`, `vdev_indirect.c`.
//!
//! A tree does not change: devices that come and go, or another shape, make a new tree ([`VdevTree::open`] with the old one, from which the
//! leaves' errors and missed txgs are taken over). [`VdevTree::resolve`] is what every layout comes down to: rows of columns on leaves.
//! [`queue`] reads and writes them, [`survey`] looks at everything that there is of a block, to find what is right and mend what is not.
//!
//! # Invariants
//! - Nothing here knows checksums: who asks says what is right.
//! - A write succeeds if no row lost more columns than it has parity; who missed it has it noted.

pub mod draid;
mod draid_maps;
mod geometry;
mod indirect;
pub mod label;
mod leaf;
mod map;
mod open;
mod parity;
pub mod partition;
pub mod queue;
mod raidz;
pub(crate) mod survey;
#[cfg(test)]
mod tests;
mod txgs;

pub use geometry::Geometry;
pub use indirect::{Mapping, Segment};
pub use leaf::{ErrorCounts, Leaf, LeafState};
pub use map::{Column, Map, Row, Target};
pub(crate) use open::TEMPORARILY_OFFLINE;
pub use txgs::TxgRanges;

use crate::error::{Error, Result};
use crate::ondisk::blkptr::{Dva, LABEL_START_SIZE};
use crate::ondisk::nvlist::NvList;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use draid::Draid;
use platform::block::{Batch, BlockDevice, BlockError, Op};

/// A device with the guid that the tree knows it by.
pub type Member = (u64, Arc<dyn BlockDevice>);

/// How deep addresses on removed vdevs may lead to others.
const INDIRECT_MAX: usize = 64;

/// A vdev below the top level.
enum Vdev {
    /// A device.
    Leaf(Arc<Leaf>),
    /// A mirror, or a vdev that is being replaced, by another or by a spare: all children hold the same.
    Mirror(Vec<Vdev>),
    /// A distributed spare of the draid vdev above: its bytes lie on other children, by permutation. The leaf has no device, but
    /// missed txgs of its own.
    Spare(u64, Arc<Leaf>),
}

impl Vdev {
    fn for_each_leaf<'a>(&'a self, f: &mut impl FnMut(&'a Arc<Leaf>)) {
        match self {
            Vdev::Leaf(leaf) => f(leaf),
            Vdev::Mirror(children) => children.iter().for_each(|child| child.for_each_leaf(f)),
            Vdev::Spare(..) => {}
        }
    }

    /// All that can miss a txg: devices and distributed spares.
    fn for_each_dtl<'a>(&'a self, f: &mut impl FnMut(&'a Arc<Leaf>)) {
        match self {
            Vdev::Leaf(leaf) | Vdev::Spare(_, leaf) => f(leaf),
            Vdev::Mirror(children) => children.iter().for_each(|child| child.for_each_dtl(f)),
        }
    }

    /// Births of blocks that it could not give if the leaf `without` were gone (`DTL_OUTAGE`).
    fn outage(&self, without: u64) -> TxgRanges {
        match self {
            Vdev::Leaf(leaf) if leaf.guid == without || leaf.device.is_none() => TxgRanges::all(),
            Vdev::Spare(_, leaf) if leaf.guid == without => TxgRanges::all(),
            Vdev::Leaf(leaf) | Vdev::Spare(_, leaf) => leaf.missing(),
            Vdev::Mirror(children) => {
                let outages: Vec<TxgRanges> = children.iter().map(|child| child.outage(without)).collect();
                TxgRanges::in_at_least(&outages, children.len())
            }
        }
    }
}

/// How a top-level vdev lays out its bytes.
enum Layout {
    /// A disk or a mirror.
    Single(Vdev),
    /// Raidz of that parity.
    Raidz(usize, Vec<Vdev>),
    /// Draid.
    Draid(Draid, Vec<Vdev>),
    /// A removed vdev; its bytes lie elsewhere. `None` until the mapping was read.
    Indirect(Option<Arc<Mapping>>),
    /// A hole in the numbering.
    Absent,
}

/// A top-level vdev: what a [`Dva`] names.
pub struct TopVdev {
    /// Its index.
    pub id: u32,
    /// Its guid.
    pub guid: u64,
    /// `disk`, `mirror`, `raidz`, `indirect`, …
    pub kind: String,
    /// Sector size of its allocations, as a power of two.
    pub ashift: u8,
    /// Allocatable size in bytes.
    pub asize: u64,
    /// It holds intent logs only.
    pub is_log: bool,
    /// Its shape.
    pub geometry: Geometry,
    /// Its configuration as it was given.
    pub config: NvList,
    layout: Layout,
}

impl TopVdev {
    /// The allocated size of a block of `psize` bytes (`vdev_psize_to_asize`).
    #[must_use]
    pub fn psize_to_asize(&self, psize: u64) -> u64 {
        self.geometry.psize_to_asize(self.ashift, psize)
    }

    /// The bytes of data that `asize` allocated ones stand for ([`Geometry::deflate`]).
    #[must_use]
    pub fn deflate(&self, asize: u64) -> u64 {
        self.geometry.deflate(self.ashift, asize)
    }

    /// Whether blocks lie on it, or could.
    fn is_real(&self) -> bool {
        !matches!(self.layout, Layout::Indirect(_) | Layout::Absent)
    }

    fn children(&self) -> &[Vdev] {
        match &self.layout {
            Layout::Single(child) => core::slice::from_ref(child),
            Layout::Raidz(_, children) | Layout::Draid(_, children) => children,
            Layout::Indirect(_) | Layout::Absent => &[],
        }
    }

    /// Its leaves.
    #[must_use]
    pub fn leaves(&self) -> Vec<&Arc<Leaf>> {
        let mut leaves = Vec::new();
        self.children().iter().for_each(|child| child.for_each_leaf(&mut |leaf| leaves.push(leaf)));
        leaves
    }

    /// Its leaves, and the distributed spares that are in use: all that can miss a txg.
    #[must_use]
    pub fn dtl_leaves(&self) -> Vec<&Arc<Leaf>> {
        let mut leaves = Vec::new();
        self.children().iter().for_each(|child| child.for_each_dtl(&mut |leaf| leaves.push(leaf)));
        leaves
    }

    /// Whether some data could not be read without the leaf of that guid (`vdev_dtl_required`).
    #[must_use]
    pub fn requires(&self, guid: u64) -> bool {
        let outages: Vec<TxgRanges> = self.children().iter().map(|child| child.outage(guid)).collect();
        !TxgRanges::in_at_least(&outages, self.geometry.parity() + 1).is_empty()
    }

    /// The leaves that hold a child's bytes at `offset` of it.
    fn targets(
        &self,
        child: &Vdev,
        offset: u64,
        depth: usize,
        through: Option<&Arc<Leaf>>,
        out: &mut Vec<Target>,
    ) {
        match child {
            Vdev::Leaf(leaf) => out.push(Target::new(leaf, through)),
            Vdev::Mirror(children) => {
                children.iter().for_each(|child| self.targets(child, offset, depth, through, out));
            }
            Vdev::Spare(spare, own) => {
                // Spares may stand in for children that hold other spares; a broken configuration must not go round for ever.
                if let Layout::Draid(draid, children) = &self.layout
                    && let Some(child) = children.get(draid.spare_child(*spare, offset))
                    && depth < children.len()
                {
                    self.targets(child, offset, depth + 1, Some(own), out);
                }
            }
        }
    }

    fn column(&self, index: usize, place: raidz::Place, data_len: u64) -> Column {
        let mut targets = Vec::with_capacity(1);
        if let Some(child) = self.children().get(index) {
            self.targets(child, place.offset, 0, None, &mut targets);
        }
        targets.dedup_by_key(|leaf| leaf.guid);
        Column {
            group: (self.id, index as u32),
            offset: place.offset + LABEL_START_SIZE,
            size: place.size as usize,
            data_len: data_len as usize,
            targets,
        }
    }

    /// Where on its leaves a stretch of it lies, all of it (`vdev_xlate`): leaf, offset on the device and length, in bytes. The stretch is
    /// one of whole sectors, and on draid of whole stripes.
    #[must_use]
    pub fn stretches(&self, offset: u64, len: u64) -> Vec<(Arc<Leaf>, u64, u64)> {
        let places = match &self.layout {
            Layout::Single(_) => [raidz::Place { child: 0, offset, size: len }].into(),
            Layout::Raidz(_, children) => (0..children.len())
                .map(|child| raidz::stretch(self.ashift, children.len(), child, offset, len))
                .filter(|place| place.size > 0)
                .collect(),
            Layout::Draid(draid, _) => draid.stretches(self.ashift, offset, len),
            Layout::Indirect(_) | Layout::Absent => Vec::new(),
        };
        let of = |place: raidz::Place| {
            let size = place.size;
            let column = self.column(place.child, place, 0);
            column.targets.into_iter().map(move |leaf| (Arc::clone(leaf.leaf()), column.offset, size))
        };
        places.into_iter().flat_map(of).collect()
    }

    /// The rows of `psize` bytes at `offset`. Both were checked.
    fn rows(&self, offset: u64, psize: u64, rows: &mut Vec<Row>) {
        match &self.layout {
            Layout::Single(_) => {
                let place = raidz::Place { child: 0, offset, size: psize };
                rows.push(Row { parity: 0, columns: [self.column(0, place, psize)].into() });
            }
            Layout::Raidz(parity, children) => {
                let places = raidz::columns(self.ashift, children.len(), *parity, offset, psize);
                let column = |(i, place): (usize, raidz::Place)| {
                    self.column(place.child, place, if i < *parity { 0 } else { place.size })
                };
                rows.push(Row {
                    parity: *parity,
                    columns: places.into_iter().enumerate().map(column).collect(),
                });
            }
            Layout::Draid(draid, _) => {
                for stripe in draid.stripes(self.ashift, offset, psize) {
                    let column = |(place, data): (raidz::Place, u64)| self.column(place.child, place, data);
                    rows.push(Row {
                        parity: self.geometry.parity(),
                        columns: stripe.columns.into_iter().map(column).collect(),
                    });
                }
            }
            Layout::Indirect(_) | Layout::Absent => {}
        }
    }

    /// Whether it still has all data if only the leaves count for which `usable` says so.
    fn survives(&self, usable: &dyn Fn(&Leaf) -> bool) -> bool {
        fn alive(vdev: &Vdev, usable: &dyn Fn(&Leaf) -> bool) -> bool {
            match vdev {
                Vdev::Leaf(leaf) => usable(leaf),
                Vdev::Mirror(children) => children.iter().any(|child| alive(child, usable)),
                // As good as the children that its bytes lie on, which are counted themselves.
                Vdev::Spare(..) => true,
            }
        }
        let lost = self.children().iter().filter(|child| !alive(child, usable)).count();
        lost <= self.geometry.parity()
    }
}

/// All vdevs of a pool.
pub struct VdevTree {
    tops: Vec<Option<TopVdev>>,
}

impl VdevTree {
    /// The top-level vdevs by index; `None` where there is none.
    #[must_use]
    pub fn tops(&self) -> &[Option<TopVdev>] {
        &self.tops
    }

    /// The top-level vdev of that index.
    pub fn top(&self, id: u32) -> Result<&TopVdev> {
        let top = self.tops.get(id as usize).and_then(Option::as_ref);
        top.ok_or(Error::corrupt("block pointer: no such vdev", None))
    }

    /// All leaves, those of distributed spares once.
    #[must_use]
    pub fn leaves(&self) -> Vec<&Arc<Leaf>> {
        self.tops.iter().flatten().flat_map(TopVdev::leaves).collect()
    }

    /// All leaves and the distributed spares that are in use: all that can miss a txg.
    #[must_use]
    pub fn dtl_leaves(&self) -> Vec<&Arc<Leaf>> {
        self.tops.iter().flatten().flat_map(TopVdev::dtl_leaves).collect()
    }

    /// Whether a leaf that could have the block lacks it (`dsl_scan_need_resilver`). Gang blocks are always looked at: their members may
    /// lie anywhere.
    #[must_use]
    pub fn lacks(&self, dva: &Dva, psize: u64, birth: u64) -> bool {
        let lacks = |target: &Target| target.device.is_some() && !target.has(birth);
        dva.gang
            || self.resolve(dva, psize).is_ok_and(|map| {
                map.rows.iter().flat_map(|row| &row.columns).flat_map(|column| &column.targets).any(lacks)
            })
    }

    /// The leaf of that guid.
    #[must_use]
    pub fn leaf(&self, guid: u64) -> Option<&Arc<Leaf>> {
        self.leaves().into_iter().find(|leaf| leaf.guid == guid)
    }

    /// The unit in which physical sizes are rounded up, in bytes (`spa_min_alloc`).
    #[must_use]
    pub fn min_alloc(&self) -> u64 {
        self.normal().map(|top| top.geometry.min_alloc(top.ashift)).min().unwrap_or(512)
    }

    /// The largest sector of the pool, in bytes.
    #[must_use]
    pub fn max_sector(&self) -> u64 {
        1 << self.normal().map(|top| top.ashift).max().unwrap_or(9)
    }

    fn normal(&self) -> impl Iterator<Item = &TopVdev> {
        self.tops.iter().flatten().filter(|top| !top.is_log && top.is_real())
    }

    /// The bytes of data that an allocated extent stands for (`dva_get_dsize_sync`).
    #[must_use]
    pub fn dsize(&self, dva: &Dva) -> u64 {
        self.top(dva.vdev).map_or(dva.asize, |top| top.deflate(dva.asize))
    }

    /// The extents that `dva` means: itself, or the pieces to which a removed vdev's bytes went.
    pub fn real_extents(&self, dva: &Dva) -> Result<Vec<Dva>> {
        let (mut real, mut left) = (Vec::new(), Vec::from([(*dva, 0)]));
        while let Some((dva, depth)) = left.pop() {
            match &self.top(dva.vdev)?.layout {
                Layout::Indirect(Some(mapping)) if depth < INDIRECT_MAX => {
                    let pieces = mapping.pieces(dva.offset, dva.asize)?;
                    left.extend(
                        pieces.into_iter().map(|(vdev, offset, asize)| {
                            (Dva { vdev, offset, asize, gang: false }, depth + 1)
                        }),
                    );
                }
                _ => real.push(dva),
            }
        }
        Ok(real)
    }

    /// Where `len` bytes of the extent at `dva` lie. Refuses what does not lie on its vdev.
    pub fn resolve(&self, dva: &Dva, len: u64) -> Result<Map> {
        let mut rows = Vec::with_capacity(1);
        self.collect_rows(dva.vdev, dva.offset, len, 0, &mut rows)?;
        Ok(Map { rows, len: len as usize })
    }

    fn collect_rows(
        &self,
        vdev: u32,
        offset: u64,
        len: u64,
        depth: usize,
        rows: &mut Vec<Row>,
    ) -> Result<()> {
        let top = self.top(vdev)?;
        if let Layout::Indirect(mapping) = &top.layout {
            let mapping = mapping.as_ref();
            let mapping = mapping.ok_or_else(|| Error::unsupported("removed vdev without its mapping"))?;
            if depth >= INDIRECT_MAX {
                return Err(Error::corrupt("removed vdev: mappings lead round in a circle", None));
            }
            return mapping
                .pieces(offset, len)?
                .into_iter()
                .try_for_each(|(vdev, offset, len)| self.collect_rows(vdev, offset, len, depth + 1, rows));
        }
        if !top.is_real() {
            return Err(Error::unsupported(format!("block on a vdev of type {}", top.kind)));
        }
        if len > u64::from(u32::MAX) {
            return Err(Error::corrupt("block pointer: extent too long", None));
        }
        // The allocatable size is what the labels leave of the device; a grown device may have more.
        let psize = len.next_multiple_of(1 << top.ashift);
        let end = offset.checked_add(top.psize_to_asize(psize));
        let end = end.ok_or(Error::corrupt("block pointer: offset overflows", None))?;
        if end > top.asize {
            return Err(Error::corrupt("block pointer: offset beyond the vdev's end", None));
        }
        if !offset.is_multiple_of(1 << top.ashift)
            || !offset.is_multiple_of(top.geometry.alignment(top.ashift))
        {
            return Err(Error::corrupt("block pointer: offset is not aligned to its vdev", None));
        }
        top.rows(offset, psize, rows);
        Ok(())
    }

    /// Makes all completed writes durable on all devices. A device that does not know flushes has no volatile cache. Fails if what
    /// the devices that did it hold is not all data.
    pub fn flush(&self) -> Result<()> {
        let batch = Batch::new();
        let leaves: Vec<&Arc<Leaf>> = self.leaves();
        let mut asked = Vec::new();
        for leaf in &leaves {
            if let Some(device) = &leaf.device {
                batch.submit(&**device, Op::Flush);
                asked.push(*leaf);
            }
        }
        let mut failed: Vec<(u64, BlockError)> = Vec::new();
        for (outcome, leaf) in batch.wait().into_iter().zip(asked) {
            match outcome {
                Ok(_) | Err(BlockError::Unsupported) => {}
                Err(cause) => {
                    leaf.count_write_error();
                    failed.push((leaf.guid, cause));
                }
            }
        }
        self.tolerate(&failed)
    }

    /// What becomes of failures of leaves, by guid: nothing, if every top-level vdev can do without them.
    pub(crate) fn tolerate(&self, failed: &[(u64, BlockError)]) -> Result<()> {
        let Some((_, cause)) = failed.first() else { return Ok(()) };
        let usable = |leaf: &Leaf| leaf.device.is_some() && failed.iter().all(|(guid, _)| *guid != leaf.guid);
        let enough = self.tops.iter().flatten().all(|top| top.survives(&usable));
        if enough { Ok(()) } else { Err(Error::from(*cause)) }
    }

    /// Whether any device refuses writes.
    #[must_use]
    pub fn read_only(&self) -> bool {
        self.leaves().iter().filter_map(|leaf| leaf.device.as_ref()).any(|device| device.info().read_only)
    }

    /// Whether a device is missing or out of service.
    #[must_use]
    pub fn is_degraded(&self) -> bool {
        self.leaves().iter().any(|leaf| leaf.device.is_none())
    }
}
