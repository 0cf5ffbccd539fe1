//! A device joins another: as a side of a mirror, or to take its place.

use super::super::aux_devices::{self, Aux};
use super::super::config::replace;
use super::super::core::{Core, Spa};
use super::super::dtl::TXG_INITIAL;
use super::super::topology::{NewDevice, allocatable, new_guid};
use super::tree;
use crate::dmu::Tx;
use crate::error::{Error, Result};
use crate::ondisk::label::MIN_DEVICE_SIZE;
use crate::ondisk::nvlist::NvList;
use crate::vdev::{Geometry, TxgRanges, VdevTree, label};
use alloc::format;
use alloc::sync::Arc;
use platform::block::BlockDevice;

/// Txgs beside the syncing one that writes may belong to that began before it (`TXG_CONCURRENT_STATES`).
const CONCURRENT: u64 = 2;

/// What takes the place of a device.
#[derive(Clone)]
pub enum Replacement {
    /// Another device. Everything on it is lost.
    Device(NewDevice),
    /// One of the pool's hot spares, distributed ones included, by its guid.
    Spare(u64),
}

/// A leaf that is about to join.
struct Newcomer {
    guid: u64,
    list: NvList,
    /// None has a distributed spare.
    device: Option<Arc<dyn BlockDevice>>,
}

/// How it joins.
struct Joining {
    target: u64,
    group: &'static str,
    group_guid: u64,
    verb: (&'static str, &'static str),
}

impl Core {
    /// Puts a device beside `target` (a side of a mirror), or in its place (`replacing`); its guid.
    pub(crate) fn attach(&self, target: u64, with: Replacement, replacing: bool) -> Result<u64> {
        let spa = &self.spa;
        let _changing = spa.change_devices()?;
        spa.check_no_checkpoint()?;
        let (config, members) = spa.devices();
        let place = tree::place(&config.root, target)?;
        let new = match with {
            Replacement::Device(new) => {
                if members.iter().any(|(_, device)| Arc::ptr_eq(device, &new.device)) {
                    return Err(Error::Invalid("the device is part of the pool already"));
                }
                let path = new.path.unwrap_or_else(|| "/dev/vd".into());
                let guid = new_guid(&*spa.env.random);
                let list = NvList::new().with("type", "disk").with("id", 0).with("guid", guid);
                let list = list.with("path", path).with("whole_disk", 0);
                Newcomer { guid, list, device: Some(new.device) }
            }
            Replacement::Spare(guid) => self.spare(guid, &config.root, place.top)?,
        };
        let is_spare = new.list.get_u64("is_spare") == Some(1);
        let group = group(&place, is_spare, replacing)?;
        if let Some(device) = &new.device {
            fits(place.top, &**device)?;
            let top_guid = place.top.get_u64("guid").unwrap_or(0);
            label::create(&**device, &config.for_label(top_guid, new.guid, 0, &spa.features.for_labels()))?;
        }
        let verb = match (replacing, is_spare) {
            (true, true) => ("spare in", "for"),
            (true, false) => ("replace", "for"),
            _ => ("attach", "to"),
        };
        let guid = new.guid;
        let joining = Joining { target, group, group_guid: new_guid(&*spa.env.random), verb };
        let spa = Arc::clone(spa);
        self.spa.run_task(move |tx: &Tx| spa.join(tx, new, &joining))?;
        Ok(guid)
    }

    /// A hot spare that is free.
    fn spare(&self, guid: u64, root: &NvList, top: &NvList) -> Result<Newcomer> {
        let spares = aux_devices::read(&self.spa.mos, Aux::Spares)?;
        let listed = spares.into_iter().find(|list| list.get_u64("guid") == Some(guid));
        let mut list = listed.ok_or(Error::NotFound)?;
        if tree::path_to(root, guid).is_some() {
            return Err(Error::Busy);
        }
        list.remove("ashift");
        list.remove("asize");
        list.insert("id", 0);
        if list.get_str("type") == Some("dspare") {
            if list.get_u64("top_guid") != top.get_u64("guid") {
                return Err(Error::Invalid("a distributed spare serves the draid vdev that it is part of"));
            }
            return Ok(Newcomer { guid, list, device: None });
        }
        let path = list.get_str("path").map(Into::into);
        let (_, device) = self.spa.member(guid).ok_or(Error::MissingDevice { guid, path })?;
        Ok(Newcomer { guid, list, device: Some(device) })
    }
}

/// The kind of vdev in which a device and its companion stand.
fn group(place: &tree::Place<'_>, is_spare: bool, replacing: bool) -> Result<&'static str> {
    let parent = place.parent.get_str("type").unwrap_or("");
    if !replacing {
        return match parent {
            "root" | "mirror" if !is_spare => Ok("mirror"),
            _ => Err(Error::Invalid("a device can be attached to single disks and to sides of mirrors only")),
        };
    }
    let was_spare = place.leaf.get_u64("is_spare") == Some(1);
    if parent == "spare" && is_spare != was_spare {
        return Err(Error::Invalid(
            "a hot spare in use is replaced by another spare, and what it stands in for by a device",
        ));
    }
    Ok(if is_spare { "spare" } else { "replacing" })
}

/// Refuses a device that is too small for a place in the vdev, or whose sectors are too large.
fn fits(top: &NvList, device: &dyn BlockDevice) -> Result<()> {
    let info = device.info();
    if info.read_only {
        return Err(Error::ReadOnly);
    }
    let shift = top.get_u64("metaslab_shift").filter(|shift| *shift < 56).unwrap_or(0);
    let needed = top.get_u64("asize").unwrap_or(0) >> shift << shift;
    let space = allocatable(device);
    let gives = match Geometry::parse(top)? {
        Geometry::Plain => space,
        Geometry::Raidz { children, .. } => space.saturating_mul(children),
        Geometry::Draid(layout) => layout.asize(space),
    };
    if gives < needed || info.size < MIN_DEVICE_SIZE {
        return Err(Error::Invalid("the device is too small"));
    }
    if u64::from(info.sector_size.ilog2()) > top.get_u64("ashift").unwrap_or(9) {
        return Err(Error::Invalid("the device has larger sectors than the vdev"));
    }
    Ok(())
}

impl Spa {
    fn join(&self, tx: &Tx, new: Newcomer, how: &Joining) -> Result<()> {
        let (mut config, mut members) = self.devices();
        let Newcomer { guid, mut list, device } = new;
        let place = tree::place(&config.root, how.target)?;
        let old_path = place.leaf.get_str("path").unwrap_or("?");
        let new_path = list.get_str("path").unwrap_or("?");
        let text = format!("{} vdev={new_path} {} vdev={old_path}", how.verb.0, how.verb.1);
        let renamed = (old_path == new_path).then(|| format!("{old_path}/old"));
        list.insert("create_txg", place.leaf.get_u64("create_txg").unwrap_or(TXG_INITIAL));
        self.create_leaf_zap(tx, &config, &mut list)?;
        list.insert("resilver_txg", tx.txg());
        tree::attach(&mut config.root, how.target, &list, how.group, how.group_guid)?;
        if let Some(path) = renamed {
            config.edit_vdev(how.target, &mut |old| replace(old, "path", path.as_str().into()));
        }
        if let Some(device) = device {
            members.retain(|(own, _)| *own != guid);
            members.push((guid, device));
        }
        let mut lacks = TxgRanges::default();
        lacks.add(TXG_INITIAL, tx.txg() + CONCURRENT);
        self.install(config, members, &|vdevs: &VdevTree| {
            let leaf = vdevs.dtl_leaves().into_iter().find(|leaf| leaf.guid == guid);
            leaf.iter().for_each(|leaf| leaf.set_missing(lacks.clone()));
        })?;
        self.log_internal_event(tx, "vdev attach", &text)
    }
}
