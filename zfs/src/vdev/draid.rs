//! The shape of a draid vdev. Source: `vdev_draid.c`, `vdev_draid_config_t`.
//!
//! Groups of data and parity fill rows of 16 MiB on each child one after the other. After a slice, which is as many groups as end with a whole
//! row, another permutation says which child is which; the last ones of a permutation are the distributed spares.

use super::draid_maps;
use super::raidz::Place;
use crate::error::{Error, Result};
use crate::ondisk::nvlist::NvList;
use alloc::vec::Vec;

/// Bytes of a row on each device (`VDEV_DRAID_ROWHEIGHT`): the largest block fits even with one data device.
const ROW_HEIGHT: u64 = 16 << 20;
/// Kept free at the end of each device, in bytes (`VDEV_DRAID_REFLOW_RESERVE`).
const RESERVE: u64 = 2 * ROW_HEIGHT;
/// The most children of a draid vdev (`VDEV_DRAID_MAX_CHILDREN`).
const CHILDREN_MAX: u64 = 255;
/// The most distributed spares.
const SPARES_MAX: u64 = 100;

/// How groups and spares lie on the children.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Devices.
    pub children: u64,
    /// Parity devices of a group.
    pub parity: u64,
    /// Data devices of a group.
    pub data: u64,
    /// Distributed spares.
    pub spares: u64,
    /// Groups in a slice: after so many, they end with a whole row.
    pub groups: u64,
}

impl Layout {
    /// The layout of that many devices; [`Error::Invalid`] if there is none.
    pub fn new(children: u64, parity: u64, data: u64, spares: u64) -> Result<Self> {
        if !(1..=3).contains(&parity) {
            return Err(Error::Invalid("draid: parity is 1 to 3"));
        }
        if children > CHILDREN_MAX || spares > SPARES_MAX {
            return Err(Error::Invalid("draid: at most 255 devices and 100 spares"));
        }
        if data == 0 || data + parity + spares > children {
            return Err(Error::Invalid("draid: data, parity and spares need more devices than there are"));
        }
        let (width, disks) = (data + parity, children - spares);
        let mut groups = 1;
        while width * groups % disks != 0 {
            groups += 1;
        }
        Ok(Layout { children, parity, data, spares, groups })
    }

    /// What a vdev's list says.
    pub(crate) fn parse(config: &NvList) -> Result<Self> {
        let children = config.get_nvlists("children").unwrap_or(&[]).len() as u64;
        if config.get_u64("draid_nchildren").is_some_and(|count| count != children) {
            return Err(Error::unsupported("draid with failure domains"));
        }
        let layout = Layout::new(
            children,
            config.u64("nparity")?,
            config.u64("draid_ndata")?,
            config.u64("draid_nspares")?,
        );
        let layout = layout.map_err(|_| Error::corrupt("vdev tree: impossible draid", None))?;
        if layout.groups != config.u64("draid_ngroups")? {
            return Err(Error::corrupt("vdev tree: draid with an impossible number of groups", None));
        }
        Ok(layout)
    }

    /// Devices of a group.
    #[must_use]
    pub fn width(&self) -> u64 {
        self.data + self.parity
    }

    /// Allocatable bytes if each device has `child` of them (`vdev_draid_open`).
    #[must_use]
    pub fn asize(&self, child: u64) -> u64 {
        let rows = child.saturating_sub(RESERVE) / ROW_HEIGHT;
        let group = self.width() * ROW_HEIGHT;
        rows * ROW_HEIGHT * self.disks() / group * group
    }

    /// Children without the distributed spares.
    fn disks(&self) -> u64 {
        self.children - self.spares
    }

    /// Bytes of one group.
    fn group_size(&self) -> u64 {
        self.width() * ROW_HEIGHT
    }

    /// Bytes of a child in one slice.
    fn child_slice(&self) -> u64 {
        self.group_size() * self.groups / self.disks()
    }

    /// Bytes that a block of `psize` bytes takes: whole stripes.
    pub(crate) fn psize_to_asize(&self, ashift: u8, psize: u64) -> u64 {
        let rows = psize.div_ceil(self.data << ashift);
        (rows * self.width()) << ashift
    }
}

/// A part of a block that lies in one group.
pub(super) struct Stripe {
    /// Columns, parity first: all of one size, with the bytes of the block in each.
    pub(super) columns: Vec<(Place, u64)>,
}

/// A draid vdev's layout with its permutations.
pub(super) struct Draid {
    pub(super) layout: Layout,
    permutations: Vec<u8>,
}

impl Draid {
    pub(super) fn new(layout: Layout) -> Result<Self> {
        Ok(Draid { layout, permutations: draid_maps::permutations(layout.children as usize)? })
    }

    /// The child that stands at `index` in permutation `number`. Each permutation serves once for each child, turned by one each time.
    fn child(&self, number: u64, index: u64) -> usize {
        let children = self.layout.children;
        let at = number % (self.permutations.len() as u64);
        let base = at / children * children + index;
        let child = self.permutations.get(base as usize).copied().unwrap_or(0);
        ((u64::from(child) + at % children) % children) as usize
    }

    /// The child that holds a distributed spare's bytes at `offset` of it (`vdev_draid_spare_get_child`).
    pub(super) fn spare_child(&self, spare: u64, offset: u64) -> usize {
        let last = self.layout.children - 1;
        self.child(offset / self.layout.child_slice(), last.saturating_sub(spare))
    }

    /// The stripes of a block of `psize` bytes at `offset`: two if it crosses into the next group.
    pub(super) fn stripes(&self, ashift: u8, offset: u64, psize: u64) -> Vec<Stripe> {
        let layout = &self.layout;
        let end = (offset / layout.group_size() + 1) * layout.group_size();
        let asize = layout.psize_to_asize(ashift, psize);
        if offset + asize <= end {
            return [self.stripe(ashift, offset, psize)].into();
        }
        let first = (end - offset) / layout.width() * layout.data;
        [self.stripe(ashift, offset, first), self.stripe(ashift, end, psize - first)].into()
    }

    /// Where on the children a stretch of whole stripes lies: one place on each child of each group.
    pub(super) fn stretches(&self, ashift: u8, offset: u64, len: u64) -> Vec<Place> {
        let (mut at, end, mut places) = (offset, offset.saturating_add(len), Vec::new());
        while at < end {
            let piece = end.min((at / self.layout.group_size() + 1) * self.layout.group_size()) - at;
            let stripe = self.stripe(ashift, at, piece / self.layout.width() * self.layout.data);
            places.extend(stripe.columns.into_iter().map(|(place, _)| place).filter(|place| place.size > 0));
            at += piece;
        }
        places
    }

    fn stripe(&self, ashift: u8, offset: u64, psize: u64) -> Stripe {
        let layout = &self.layout;
        let (width, disks) = (layout.width(), layout.disks());
        let group = offset / layout.group_size();
        let (slice, group) = (group / layout.groups, group % layout.groups);
        let start = group * width % disks;
        let row = slice * (width * layout.groups / disks) + group * width / disks;
        // Sectors of the group before this stripe, the same on each child.
        let depth = (offset >> ashift) % ((ROW_HEIGHT >> ashift) * width) / width;
        let physical = row * ROW_HEIGHT + (depth << ashift);
        let sectors = psize >> ashift;
        let (full, rest) = (sectors / layout.data, sectors % layout.data);
        let size = (full + u64::from(rest != 0)) << ashift;
        let columns = (0..width).map(|i| {
            let (at, wraps) = ((start + i) % disks, start + i >= disks);
            let place = Place {
                child: self.child(slice, at),
                offset: physical + if wraps { ROW_HEIGHT } else { 0 },
                size,
            };
            let data = i.checked_sub(layout.parity).map_or(0, |d| (full + u64::from(d < rest)) << ashift);
            (place, data)
        });
        Stripe { columns: columns.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;

    #[test]
    fn layouts_are_openzfs_ones() {
        let layout = Layout::new(7, 2, 3, 1).unwrap();
        assert_eq!((layout.groups, layout.asize(134_217_728 - (4_718_592))), (6, 503_316_480));
        assert_eq!(Layout::new(14, 1, 8, 2).unwrap().groups, 4);
        assert!(Layout::new(4, 1, 3, 1).is_err() && Layout::new(4, 0, 3, 0).is_err());
    }

    /// No two stripes share a sector, no stripe has two columns on one child, and no spare is written to.
    #[test]
    fn stripes_do_not_overlap() {
        const ASHIFT: u8 = 20;
        for (children, parity, data, spares) in [(4, 1, 2, 0), (7, 2, 3, 1), (14, 1, 8, 2)] {
            let draid = Draid::new(Layout::new(children, parity, data, spares).unwrap()).unwrap();
            let unit = draid.layout.width() << ASHIFT;
            let mut used: BTreeMap<(usize, u64), u64> = BTreeMap::new();
            let slices = 3 * draid.layout.groups * 16;
            for index in 0..slices {
                for stripe in draid.stripes(ASHIFT, index * unit, draid.layout.data << ASHIFT) {
                    let mut seen = 0u32;
                    for (place, _) in &stripe.columns {
                        assert_eq!(seen >> place.child & 1, 0, "two columns on child {}", place.child);
                        seen |= 1 << place.child;
                        assert_eq!(used.insert((place.child, place.offset), index), None, "{place:?}");
                        for spare in 0..spares {
                            assert_ne!(
                                draid.spare_child(spare, place.offset),
                                place.child,
                                "a spare's place"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_stretch_is_what_its_stripes_are() {
        const ASHIFT: u8 = 20;
        let draid = Draid::new(Layout::new(7, 2, 3, 1).unwrap()).unwrap();
        let unit = draid.layout.width() << ASHIFT;
        let (first, count) = (5, 3 * 16 + 4);
        let mut single: Vec<(usize, u64)> = (first..first + count)
            .flat_map(|i| draid.stripes(ASHIFT, i * unit, draid.layout.data << ASHIFT))
            .flat_map(|stripe| stripe.columns.into_iter().map(|(place, _)| (place.child, place.offset)))
            .collect();
        let whole = draid.stretches(ASHIFT, first * unit, count * unit);
        let sectors = |place: &Place| {
            (0..place.size >> ASHIFT).map(|i| (place.child, place.offset + (i << ASHIFT))).collect::<Vec<_>>()
        };
        let mut whole: Vec<(usize, u64)> = whole.iter().flat_map(sectors).collect();
        single.sort_unstable();
        whole.sort_unstable();
        assert_eq!(single, whole);
    }

    #[test]
    fn a_block_may_cross_into_the_next_group() {
        let draid = Draid::new(Layout::new(4, 1, 2, 0).unwrap()).unwrap();
        let group = draid.layout.group_size();
        let stripes = draid.stripes(9, group - 3 * 512, 512 * 5);
        let data: Vec<u64> = stripes.iter().map(|s| s.columns.iter().map(|(_, d)| d).sum()).collect();
        assert_eq!(data, [1024, 1536]);
        assert_eq!(
            stripes[1].columns.iter().map(|(p, d)| (p.size, *d)).collect::<Vec<_>>(),
            [(1024, 0), (1024, 1024), (1024, 512)]
        );
    }
}
