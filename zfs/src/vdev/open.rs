//! From configuration lists to a tree. Source: `vdev_alloc`, `vdev_open` (`vdev.c`).

use super::draid::Draid;
use super::{Geometry, Layout, Leaf, LeafState, Mapping, Member, TopVdev, Vdev, VdevTree};
use crate::error::{Error, Result};
use crate::ondisk::blkptr::LABEL_START_SIZE;
use crate::ondisk::label::LABEL_SIZE;
use crate::ondisk::nvlist::NvList;
use alloc::format;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// How many top-level vdevs a pool may have before we call its configuration broken.
const MAX_TOPS: usize = 4096;
/// How deep a vdev tree may nest below a top-level vdev (mirror of replacing of spare of disk).
const MAX_DEPTH: usize = 6;
/// `ASHIFT_MIN` and `ASHIFT_MAX`.
const ASHIFT_RANGE: core::ops::RangeInclusive<u64> = 9..=16;

/// A flag of leaves that is in memory alone: out of service until the pool is exported (`vdev_tmpoffline`).
pub(crate) const TEMPORARILY_OFFLINE: &str = "tmp_offline";

/// What a tree is opened with.
struct Opener<'a> {
    devices: &'a [Member],
    old: Option<&'a VdevTree>,
    /// Index, guid and sector size of the top-level vdev at hand.
    top: (u32, u64, u8),
}

impl VdevTree {
    /// Opens the tree that `config` describes: a `vdev_tree` list, be it of the root or of one top-level vdev.
    /// `devices` are found in it by guid. [`Error::MissingDevice`] if a top-level vdev lacks more devices than it can do without,
    /// [`Error::Unsupported`] if it is of a kind that is not known.
    pub fn open(config: &NvList, devices: &[Member]) -> Result<VdevTree> {
        VdevTree::reopen(config, devices, None)
    }

    /// As [`VdevTree::open`]; leaves that `old` has, too, keep their errors and missed txgs, and removed vdevs their mappings.
    pub fn reopen(config: &NvList, devices: &[Member], old: Option<&VdevTree>) -> Result<VdevTree> {
        let list = core::slice::from_ref(config);
        let configs = if config.str("type")? == "root" {
            config.get_nvlists("children").ok_or(Error::corrupt("vdev tree: root without children", None))?
        } else {
            list
        };
        let mut opener = Opener { devices, old, top: (0, 0, 9) };
        let mut tops: Vec<Option<TopVdev>> = Vec::new();
        for config in configs {
            let top = opener.top(config)?;
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

    /// Gives a removed vdev the mapping that says where its blocks are now.
    pub fn set_mapping(&mut self, id: u32, mapping: Mapping) -> Result<()> {
        match self.tops.get_mut(id as usize).and_then(Option::as_mut).map(|top| &mut top.layout) {
            Some(Layout::Indirect(place)) => {
                *place = Some(Arc::new(mapping));
                Ok(())
            }
            _ => Err(Error::corrupt("vdev tree: a mapping for a vdev that was not removed", None)),
        }
    }
}

impl Opener<'_> {
    fn top(&mut self, config: &NvList) -> Result<TopVdev> {
        let kind = config.str("type")?;
        let id = config.u64("id")?;
        if id as usize >= MAX_TOPS {
            return Err(Error::corrupt("vdev tree: id out of range", None));
        }
        let guid = config.get_u64("guid").unwrap_or(0);
        let ashift = match kind {
            // Nothing lies on them; OpenZFS writes 0.
            "hole" | "missing" => 9,
            "indirect" => config.get_u64("ashift").unwrap_or(9),
            _ => config.u64("ashift")?,
        };
        if !ASHIFT_RANGE.contains(&ashift) {
            return Err(Error::corrupt("vdev tree: ashift out of range", None));
        }
        self.top = (id as u32, guid, ashift as u8);
        let geometry = Geometry::parse(config)?;
        let layout = match (kind, geometry) {
            ("hole" | "missing", _) => Layout::Absent,
            ("indirect", _) => Layout::Indirect(self.old_mapping(id as u32)),
            (_, Geometry::Raidz { parity, .. }) => Layout::Raidz(parity as usize, self.children(config, 0)?),
            (_, Geometry::Draid(shape)) => Layout::Draid(Draid::new(shape)?, self.children(config, 0)?),
            _ => Layout::Single(self.vdev(config, 0)?),
        };
        let mut top = TopVdev {
            id: id as u32,
            guid,
            kind: kind.to_string(),
            ashift: ashift as u8,
            asize: config.get_u64("asize").unwrap_or(0),
            is_log: config.get_u64("is_log") == Some(1),
            geometry,
            config: config.clone(),
            layout,
        };
        if !top.survives(&|leaf| leaf.device.is_some())
            && let Some(lost) = top.leaves().into_iter().find(|leaf| leaf.device.is_none())
        {
            return Err(Error::MissingDevice { guid: lost.guid, path: lost.path.clone() });
        }
        if top.asize == 0 && top.is_real() {
            // Configurations of old versions lack it.
            let sizes =
                top.leaves().into_iter().filter_map(|leaf| leaf.device.as_ref()).map(|d| d.info().size);
            let size = sizes.min().unwrap_or(0);
            let child = (size - size % LABEL_SIZE).saturating_sub(LABEL_START_SIZE + 2 * LABEL_SIZE);
            top.asize = match geometry {
                Geometry::Plain => child,
                Geometry::Raidz { children, .. } => child.saturating_mul(children),
                Geometry::Draid(shape) => shape.asize(child),
            };
        }
        Ok(top)
    }

    fn old_mapping(&self, id: u32) -> Option<Arc<Mapping>> {
        match &self.old?.top(id).ok()?.layout {
            Layout::Indirect(mapping) => mapping.clone(),
            _ => None,
        }
    }

    fn children(&self, config: &NvList, depth: usize) -> Result<Vec<Vdev>> {
        let children = config.get_nvlists("children").filter(|children| !children.is_empty());
        let children = children.ok_or(Error::corrupt("vdev tree: vdev without children", None))?;
        children.iter().map(|child| self.vdev(child, depth + 1)).collect()
    }

    fn vdev(&self, config: &NvList, depth: usize) -> Result<Vdev> {
        match config.str("type")? {
            "disk" | "file" => Ok(Vdev::Leaf(Arc::new(self.leaf(config)?))),
            // What stands where a leaf is lost for good.
            "missing" => Ok(Vdev::Leaf(Arc::new(Leaf::new(
                config.get_u64("guid").unwrap_or(0),
                None,
                LeafState::Missing,
            )))),
            "mirror" | "replacing" | "spare" if depth < MAX_DEPTH => {
                Ok(Vdev::Mirror(self.children(config, depth)?))
            }
            "dspare" if depth > 0 => {
                let mut leaf = Leaf::new(config.u64("guid")?, None, LeafState::Online);
                self.known(&mut leaf, config);
                Ok(Vdev::Spare(config.u64("spareid")?, Arc::new(leaf)))
            }
            kind => Err(Error::unsupported(format!("vdev type {kind}"))),
        }
    }

    fn leaf(&self, config: &NvList) -> Result<Leaf> {
        let guid = config.u64("guid")?;
        let device = self.devices.iter().find(|(g, _)| *g == guid).map(|(_, device)| Arc::clone(device));
        let is = |flag: &str| config.get_u64(flag) == Some(1);
        let (device, state) = match device {
            _ if is("offline") || is(TEMPORARILY_OFFLINE) => (None, LeafState::Offline),
            _ if is("faulted") => (None, LeafState::Faulted),
            Some(device) => (Some(device), LeafState::Online),
            None => (None, LeafState::Missing),
        };
        let mut leaf = Leaf::new(guid, device, state);
        self.known(&mut leaf, config);
        Ok(leaf)
    }

    /// What is known of a leaf beside its device.
    fn known(&self, leaf: &mut Leaf, config: &NvList) {
        (leaf.top, leaf.top_guid, leaf.ashift) = self.top;
        leaf.path = config.get_str("path").map(Into::into);
        let old = self.old.and_then(|old| old.dtl_leaves().into_iter().find(|old| old.guid == leaf.guid));
        if let Some(old) = old {
            leaf.inherit(old);
        }
    }
}
