//! The vdev tree: from a [`Dva`] to bytes on devices. Source: `vdev.c`, `vdev_mirror.c`.
//!
//! A top-level vdev is kept as its *sides*: the leaves that each hold all of its data, one of a plain disk, several of
//! a mirror (and of `replacing` and `spare`, which are mirrors). Other kinds have no sides and say so when they are
//! read; raidz will bring its own mapping here.

pub mod draid;
pub mod label;
pub mod queue;

use crate::error::{Error, Result};
use crate::ondisk::blkptr::{Dva, LABEL_START_SIZE};
use crate::ondisk::label::LABEL_SIZE;
use crate::ondisk::nvlist::NvList;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use platform::block::{Batch, BlockDevice, BlockError, Op};

/// A device with the guid that the tree knows it by.
pub type Member = (u64, Arc<dyn BlockDevice>);

/// How many top-level vdevs a pool may have before we call its configuration broken.
const MAX_TOPS: usize = 4096;
/// How deep a vdev tree may nest below a top-level vdev (mirror of replacing of disk).
const MAX_DEPTH: usize = 4;
/// `ASHIFT_MIN` and `ASHIFT_MAX`.
const ASHIFT_RANGE: core::ops::RangeInclusive<u64> = 9..=16;

/// A leaf vdev.
pub struct Leaf {
    /// Its guid.
    pub guid: u64,
    /// Guid of its top-level vdev.
    pub top_guid: u64,
    /// Index of its top-level vdev.
    pub top: u32,
    /// Its sector size, as a power of two.
    pub ashift: u8,
    /// Where it was when the configuration was written.
    pub path: Option<String>,
    /// The device; `None` if it is missing.
    pub device: Option<Arc<dyn BlockDevice>>,
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
    /// Its configuration as it was given.
    pub config: NvList,
    sides: Vec<Leaf>,
}

impl TopVdev {
    /// The allocated size of a block of `psize` bytes (`vdev_psize_to_asize`).
    #[must_use]
    pub fn psize_to_asize(&self, psize: u64) -> u64 {
        psize.next_multiple_of(1 << self.ashift)
    }

    /// The leaves that each hold all data; none if this kind of vdev cannot be read.
    #[must_use]
    pub fn sides(&self) -> &[Leaf] {
        &self.sides
    }
}

/// All vdevs of a pool.
pub struct VdevTree {
    tops: Vec<Option<TopVdev>>,
}

impl VdevTree {
    /// Opens the tree that `config` describes: a `vdev_tree` list, be it of the root or of one top-level vdev.
    /// `devices` are found in it by guid. A top-level vdev that lacks all its devices is
    /// [`Error::MissingDevice`], one of a kind that cannot be read [`Error::Unsupported`].
    pub fn open(config: &NvList, devices: &[Member]) -> Result<VdevTree> {
        let list = core::slice::from_ref(config);
        let configs = if config.str("type")? == "root" {
            config.get_nvlists("children").ok_or(Error::corrupt("vdev tree: root without children", None))?
        } else {
            list
        };
        let mut tops: Vec<Option<TopVdev>> = Vec::new();
        for config in configs {
            let top = open_top(config, devices)?;
            let id = top.id as usize;
            if tops.len() <= id {
                tops.resize_with(id + 1, || None);
            }
            if tops[id].replace(top).is_some() {
                return Err(Error::corrupt("vdev tree: two vdevs with one id", None));
            }
        }
        Ok(VdevTree { tops })
    }

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

    /// All leaves.
    #[must_use]
    pub fn leaves(&self) -> Vec<&Leaf> {
        self.tops.iter().flatten().flat_map(|top| &top.sides).collect()
    }

    /// The unit in which physical sizes are rounded up, in bytes (`spa_min_alloc`).
    #[must_use]
    pub fn min_alloc(&self) -> u64 {
        1 << self.normal_ashifts().min().unwrap_or(9)
    }

    /// The unit in which space is given out, in bytes: the largest sector of the pool.
    #[must_use]
    pub fn max_alloc(&self) -> u64 {
        1 << self.normal_ashifts().max().unwrap_or(9)
    }

    fn normal_ashifts(&self) -> impl Iterator<Item = u8> {
        self.tops.iter().flatten().filter(|top| !top.is_log && !top.sides.is_empty()).map(|top| top.ashift)
    }

    /// The vdev of an address, and the address's offset on each of its devices, after checking that an extent of `len`
    /// bytes lies inside.
    pub(crate) fn locate(&self, dva: &Dva, len: u64) -> Result<(&TopVdev, u64)> {
        let top = self.top(dva.vdev)?;
        if top.sides.is_empty() {
            return Err(Error::unsupported(format!("vdev type {}", top.kind)));
        }
        // The allocatable size is what the labels leave of the device; a grown device may have more.
        let end =
            dva.offset.checked_add(len).ok_or(Error::corrupt("block pointer: offset overflows", None))?;
        if end > top.asize {
            return Err(Error::corrupt("block pointer: offset beyond the vdev's end", None));
        }
        Ok((top, dva.offset + LABEL_START_SIZE))
    }

    /// Makes all completed writes durable on all devices. A device that does not know flushes has no volatile cache.
    pub fn flush(&self) -> Result<()> {
        let batch = Batch::new();
        for leaf in self.leaves() {
            if let Some(device) = &leaf.device {
                batch.submit(&**device, Op::Flush);
            }
        }
        batch.wait().into_iter().try_for_each(|outcome| match outcome {
            Ok(_) | Err(BlockError::Unsupported) => Ok(()),
            Err(cause) => Err(Error::from(cause)),
        })
    }

    /// Whether any device refuses writes.
    #[must_use]
    pub fn read_only(&self) -> bool {
        self.leaves().iter().filter_map(|leaf| leaf.device.as_ref()).any(|device| device.info().read_only)
    }
}

fn open_top(config: &NvList, devices: &[Member]) -> Result<TopVdev> {
    let kind = config.str("type")?;
    let id = config.u64("id")?;
    if id as usize >= MAX_TOPS {
        return Err(Error::corrupt("vdev tree: id out of range", None));
    }
    let guid = config.get_u64("guid").unwrap_or(0);
    let mut top = TopVdev {
        id: id as u32,
        guid,
        kind: kind.to_string(),
        ashift: 9,
        asize: config.get_u64("asize").unwrap_or(0),
        is_log: config.get_u64("is_log") == Some(1),
        config: config.clone(),
        sides: Vec::new(),
    };
    match kind {
        // What was here was removed; the ids of the others stay. Reading through an indirect vdev is refused later.
        "hole" | "missing" | "indirect" => return Ok(top),
        "raidz" | "draid" => return Err(Error::unsupported(format!("vdev type {kind}"))),
        _ => {}
    }
    let ashift = config.u64("ashift")?;
    if !ASHIFT_RANGE.contains(&ashift) {
        return Err(Error::corrupt("vdev tree: ashift out of range", None));
    }
    top.ashift = ashift as u8;
    collect_sides(config, &mut top, devices, 0)?;
    if let [first, ..] = &top.sides[..]
        && top.sides.iter().all(|side| side.device.is_none())
    {
        return Err(Error::MissingDevice { guid: first.guid, path: first.path.clone() });
    }
    if top.asize == 0 {
        // Configurations of old versions lack it.
        let size = top.sides.iter().filter_map(|s| s.device.as_ref()).map(|d| d.info().size).min();
        let size = size.unwrap_or(0);
        let labels = LABEL_START_SIZE + 2 * LABEL_SIZE;
        top.asize = (size - size % LABEL_SIZE).saturating_sub(labels);
    }
    Ok(top)
}

fn collect_sides(config: &NvList, top: &mut TopVdev, devices: &[Member], depth: usize) -> Result<()> {
    match config.str("type")? {
        "disk" | "file" => {
            let guid = config.u64("guid")?;
            let device = devices.iter().find(|(g, _)| *g == guid).map(|(_, device)| Arc::clone(device));
            top.sides.push(Leaf {
                guid,
                top_guid: top.guid,
                top: top.id,
                ashift: top.ashift,
                path: config.get_str("path").map(Into::into),
                device,
            });
            Ok(())
        }
        "mirror" | "replacing" | "spare" if depth < MAX_DEPTH => {
            let children = config.get_nvlists("children");
            let children = children.ok_or(Error::corrupt("vdev tree: mirror without children", None))?;
            children.iter().try_for_each(|child| collect_sides(child, top, devices, depth + 1))
        }
        kind => Err(Error::unsupported(format!("vdev type {kind}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use platform::mem::MemDisk;

    fn disk(id: u64, guid: u64) -> NvList {
        NvList::new()
            .with("type", "disk")
            .with("id", id)
            .with("guid", guid)
            .with("ashift", 12u64)
            .with("asize", 8u64 << 20)
    }

    fn members(guids: &[u64]) -> Vec<Member> {
        guids.iter().map(|&g| (g, Arc::new(MemDisk::new(16 << 20)) as Arc<dyn BlockDevice>)).collect()
    }

    #[test]
    fn a_mirror_lives_with_one_side_missing_but_not_with_both() {
        let mirror = disk(0, 1).with("type", "mirror").with("children", vec![disk(0, 10), disk(1, 11)]);
        let root = NvList::new().with("type", "root").with("children", vec![mirror, disk(1, 2)]);
        let tree = VdevTree::open(&root, &members(&[11, 2])).unwrap();
        assert_eq!((tree.leaves().len(), tree.top(0).unwrap().sides().len()), (3, 2));
        let missing = VdevTree::open(&root, &members(&[2])).err();
        assert_eq!(missing, Some(Error::MissingDevice { guid: 10, path: None }));
    }

    #[test]
    fn addresses_are_checked() {
        let tree = VdevTree::open(&disk(0, 1), &members(&[1])).unwrap();
        let dva = Dva { vdev: 0, offset: (8 << 20) - 4096, asize: 4096, gang: false };
        assert!(tree.locate(&dva, 4096).is_ok());
        let beyond = Error::corrupt("block pointer: offset beyond the vdev's end", None);
        assert_eq!(tree.locate(&dva, 8192).err(), Some(beyond));
        let no_vdev = Error::corrupt("block pointer: no such vdev", None);
        assert_eq!(tree.locate(&Dva { vdev: 7, ..dva }, 512).err(), Some(no_vdev));
        let overflow = Error::corrupt("block pointer: offset overflows", None);
        assert_eq!(tree.locate(&Dva { offset: u64::MAX, ..dva }, 512).err(), Some(overflow));
    }

    #[test]
    fn kinds_without_an_implementation_are_named() {
        let raidz = disk(0, 1).with("type", "raidz");
        assert_eq!(VdevTree::open(&raidz, &[]).err(), Some(Error::unsupported("vdev type raidz")));
        let huge = disk(1 << 40, 1);
        assert_eq!(
            VdevTree::open(&huge, &[]).err(),
            Some(Error::corrupt("vdev tree: id out of range", None))
        );
    }
}
