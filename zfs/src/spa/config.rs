//! The pool's configuration: a list in the MOS, and for each leaf vdev a part of it in its labels. Source: `module/zfs/spa_config.c`,
//! `vdev_config_generate` (`vdev_label.c`).

use super::directory;
use super::metaslab::VdevLayout;
use super::topology::{ALLOCATION_BIAS, Bias};
use super::vdev_zaps;
use crate::dmu::{Allocate, Objset, Tx};
use crate::error::{Error, Result};
use crate::ondisk::nvlist::{NvList, Value};
use crate::ondisk::object_type::ObjectType;
use crate::vdev::{Geometry, TEMPORARILY_OFFLINE};
use crate::zap;
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

/// `pool_state_t`: the pool is in use.
pub(crate) const STATE_ACTIVE: u64 = 0;
/// `pool_state_t`: the pool was exported.
pub(crate) const STATE_EXPORTED: u64 = 1;
/// `pool_state_t`: the pool was destroyed.
pub(crate) const STATE_DESTROYED: u64 = 2;

/// Block size of the configuration's object, in bytes (`SPA_CONFIG_BLOCKSIZE`).
const BLOCK_SIZE: u32 = 16 << 10;
/// No packed configuration is larger than that, in bytes.
const SIZE_MAX: u64 = 16 << 20;
/// What the labels' copy of a vdev's list does not hold.
const NOT_IN_LABELS: [&str; 5] = [
    vdev_zaps::LEAF_ZAP,
    vdev_zaps::TOP_ZAP,
    vdev_zaps::ROOT_ZAP,
    super::scan::RESILVER_DEFER,
    TEMPORARILY_OFFLINE,
];

/// The configuration of a pool.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Config {
    pub(crate) name: String,
    pub(crate) version: u64,
    pub(crate) guid: u64,
    pub(crate) state: u64,
    pub(crate) host_id: u64,
    pub(crate) host_name: String,
    pub(crate) comment: Option<String>,
    pub(crate) errata: u64,
    pub(crate) per_vdev_zaps: bool,
    /// The root vdev's list, whole.
    pub(crate) root: NvList,
    /// How many top-level vdevs there are, holes counted.
    pub(crate) children: u64,
    /// What top-level vdevs are for, by index: as their ZAPs say.
    biases: BTreeMap<u32, Bias>,
    /// Pairs that are kept as they are.
    other: Vec<(String, Value)>,
}

impl Config {
    /// The configuration of a new pool with these top-level vdevs.
    pub(crate) fn new(name: &str, guid: u64, tops: Vec<NvList>, create_txg: u64) -> Self {
        let children = tops.len() as u64;
        let root = NvList::new()
            .with("type", "root")
            .with("id", 0)
            .with("guid", guid)
            .with("create_txg", create_txg)
            .with("children", tops);
        Config {
            name: name.to_string(),
            version: 5000,
            guid,
            state: STATE_ACTIVE,
            host_id: 0,
            host_name: String::new(),
            comment: None,
            errata: 0,
            per_vdev_zaps: true,
            root,
            children,
            biases: BTreeMap::new(),
            other: Vec::new(),
        }
    }

    /// Reads the MOS's list.
    pub(crate) fn parse(list: &NvList) -> Result<Self> {
        const NAMED: [&str; 13] = [
            "version",
            "name",
            "state",
            "txg",
            "pool_guid",
            "errata",
            "hostid",
            "hostname",
            "comment",
            "com.delphix:has_per_vdev_zaps",
            "vdev_children",
            "vdev_tree",
            "hole_array",
        ];
        let root = list.nvlist("vdev_tree")?.clone();
        let kept = |name: &str| !NAMED.contains(&name) && name != "features_for_read";
        Ok(Config {
            name: list.str("name")?.to_string(),
            version: list.u64("version")?,
            guid: list.u64("pool_guid")?,
            state: list.u64("state")?,
            host_id: list.get_u64("hostid").unwrap_or(0),
            host_name: list.get_str("hostname").unwrap_or("").to_string(),
            comment: list.get_str("comment").map(String::from),
            errata: list.get_u64("errata").unwrap_or(0),
            per_vdev_zaps: list.contains("com.delphix:has_per_vdev_zaps"),
            children: list.get_u64("vdev_children").unwrap_or(1),
            root,
            biases: BTreeMap::new(),
            other: list.iter().filter(|(n, _)| kept(n)).map(|(n, v)| (n.to_string(), v.clone())).collect(),
        })
    }

    /// The lists of the top-level vdevs.
    pub(crate) fn tops(&self) -> &[NvList] {
        self.root.get_nvlists("children").unwrap_or(&[])
    }

    /// Sum of all vdevs' guids, the root's included (`vdev_guid_sum`).
    pub(crate) fn guid_sum(&self) -> u64 {
        fn sum(list: &NvList, depth: u32) -> u64 {
            let children = if depth > DEPTH_MAX { &[] } else { list.get_nvlists("children").unwrap_or(&[]) };
            let own = list.get_u64("guid").unwrap_or(0);
            children.iter().fold(own, |all, child| all.wrapping_add(sum(child, depth + 1)))
        }
        sum(&self.root, 0)
    }

    /// Reads from the vdevs' ZAPs what each is for (`vdev_load`).
    pub(crate) fn load_biases(&mut self, mos: &Arc<Objset>) -> Result<()> {
        let mut biases = BTreeMap::new();
        for top in self.tops() {
            let (Ok(id), Some(zap)) = (u32::try_from(top.u64("id")?), top.get_u64(vdev_zaps::TOP_ZAP)) else {
                continue;
            };
            match zap::lookup(&mos.hold(zap)?, ALLOCATION_BIAS) {
                Ok(value) => _ = biases.insert(id, Bias::from_name(&value.to_bytes())),
                Err(Error::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        self.biases = biases;
        Ok(())
    }

    /// Gives the pool another guid; the old one.
    pub(crate) fn set_guid(&mut self, guid: u64) -> u64 {
        replace(&mut self.root, "guid", guid.into());
        core::mem::replace(&mut self.guid, guid)
    }

    /// How the top-level vdevs that hold blocks are cut.
    pub(crate) fn layouts(&self) -> Result<Vec<VdevLayout>> {
        let mut layouts = Vec::new();
        for top in self.tops() {
            if matches!(top.str("type")?, "hole" | "missing" | "indirect") {
                continue;
            }
            let small = |name: &str| {
                let value = top.u64(name)?;
                u8::try_from(value)
                    .ok()
                    .filter(|v| *v < 56)
                    .ok_or(Error::corrupt("vdev: impossible shift", None))
            };
            let id =
                u32::try_from(top.u64("id")?).map_err(|_| Error::corrupt("vdev: impossible id", None))?;
            layouts.push(VdevLayout {
                id,
                ashift: small("ashift")?,
                metaslab_shift: small("metaslab_shift")?,
                asize: top.u64("asize")?,
                array: top.get_u64("metaslab_array").unwrap_or(0),
                usable: top.get_u64("non_allocating").unwrap_or(0) == 0
                    && top.get_u64("removing").unwrap_or(0) == 0,
                bias: match top.get_u64("is_log") {
                    Some(1) => Bias::Log,
                    _ => self.biases.get(&id).copied().unwrap_or(Bias::None),
                },
                geometry: Geometry::parse(top)?,
            });
        }
        Ok(layouts)
    }

    /// Lets `edit` change the list of the vdev of that guid; whether there is one.
    pub(crate) fn edit_vdev(&mut self, guid: u64, edit: &mut dyn FnMut(&mut NvList)) -> bool {
        edit_below(&mut self.root, guid, edit, 0)
    }

    /// Changes what the root has as children; holes at the end do not count (`vdev_compact_children`).
    pub(crate) fn set_tops(&mut self, tops: Vec<NvList>) {
        self.children = tops.len() as u64;
        replace(&mut self.root, "children", tops.into());
    }

    /// What a new top-level vdev is for.
    pub(super) fn set_bias(&mut self, id: u32, bias: Bias) {
        self.biases.insert(id, bias);
    }

    /// Takes over which objects list the metaslabs.
    pub(crate) fn set_layouts(&mut self, layouts: &[VdevLayout]) {
        let mut tops = self.tops().to_vec();
        for top in &mut tops {
            let layout = layouts.iter().find(|l| Some(u64::from(l.id)) == top.get_u64("id"));
            if let Some(layout) = layout.filter(|_| top.contains("metaslab_array")) {
                replace(top, "metaslab_array", layout.array.into());
            }
        }
        replace(&mut self.root, "children", tops.into());
    }

    fn head(&self, txg: u64) -> NvList {
        let mut list = NvList::new()
            .with("version", self.version)
            .with("name", self.name.as_str())
            .with("state", self.state)
            .with("txg", txg)
            .with("pool_guid", self.guid)
            .with("errata", self.errata);
        if let Some(comment) = &self.comment {
            list.insert("comment", comment.as_str());
        }
        if self.host_id != 0 {
            list.insert("hostid", self.host_id);
        }
        list.with("hostname", self.host_name.as_str())
    }

    fn tail(&self, mut list: NvList, tree: NvList, features: &[&str]) -> NvList {
        let hole = |top: &&NvList| top.get_str("type") == Some("hole");
        let holes: Vec<u64> = self.tops().iter().filter(hole).filter_map(|top| top.get_u64("id")).collect();
        if !holes.is_empty() {
            list.insert("hole_array", holes);
        }
        list.insert("vdev_children", self.children);
        list.insert("vdev_tree", tree);
        let features = features.iter().fold(NvList::new(), |all, guid| all.with(guid, ()));
        list.with("features_for_read", features)
    }

    /// The MOS's list as of `txg`.
    pub(crate) fn for_mos(&self, txg: u64, features: &[&str]) -> NvList {
        let mut list = self.head(txg);
        for (name, value) in &self.other {
            list.insert(name, value.clone());
        }
        if self.per_vdev_zaps {
            list.insert("com.delphix:has_per_vdev_zaps", ());
        }
        self.tail(list, without(&self.root, &[TEMPORARILY_OFFLINE]), features)
    }

    /// The label of the leaf `guid` below the top-level vdev `top_guid`, as of `txg`.
    pub(crate) fn for_label(&self, top_guid: u64, guid: u64, txg: u64, features: &[&str]) -> NvList {
        let mut list = self.head(txg).with("top_guid", top_guid).with("guid", guid);
        let top = self.tops().iter().find(|t| t.get_u64("guid") == Some(top_guid));
        if top.and_then(|t| t.get_u64("is_log")) == Some(1) {
            list.insert("is_log", 1);
        }
        self.tail(list, top.map(|top| without(top, &NOT_IN_LABELS)).unwrap_or_default(), features)
    }
}

/// Deeper than any vdev tree is.
const DEPTH_MAX: u32 = 20;

fn edit_below(list: &mut NvList, guid: u64, edit: &mut dyn FnMut(&mut NvList), depth: u32) -> bool {
    let mut children = list.get_nvlists("children").unwrap_or(&[]).to_vec();
    for child in &mut children {
        let own = child.get_u64("guid") == Some(guid);
        if own {
            edit(child);
        }
        if own || (depth < DEPTH_MAX && edit_below(child, guid, edit, depth + 1)) {
            replace(list, "children", children.into());
            return true;
        }
    }
    false
}

/// Changes a value where it stands; [`NvList::insert`] would move it to the end.
pub(crate) fn replace(list: &mut NvList, name: &str, value: Value) {
    let mut out = NvList::new();
    for (n, v) in list.iter() {
        out.insert(n, if n == name { value.clone() } else { v.clone() });
    }
    *list = out;
}

/// A vdev's list and those below it without the pairs of these names.
fn without(vdev: &NvList, names: &[&str]) -> NvList {
    let mut out = NvList::new();
    for (name, value) in vdev.iter().filter(|(n, _)| !names.contains(n)) {
        match value {
            Value::NvListArray(children) => {
                out.insert(name, children.iter().map(|child| without(child, names)).collect::<Vec<_>>());
            }
            value => out.insert(name, value.clone()),
        }
    }
    out
}

/// Makes an object for a packed list.
pub(crate) fn allocate(mos: &Arc<Objset>, tx: &Tx) -> Result<u64> {
    let what = Allocate {
        bonus_type: ObjectType::PACKED_NVLIST_SIZE,
        bonus_len: 8,
        ..Allocate::plain(ObjectType::PACKED_NVLIST, BLOCK_SIZE)
    };
    Ok(mos.allocate(tx, &what)?.object())
}

/// Makes the object of a new pool's configuration.
pub(crate) fn create(mos: &Arc<Objset>, tx: &Tx) -> Result<u64> {
    let object = allocate(mos, tx)?;
    directory::add(mos, tx, "config", object)?;
    Ok(object)
}

/// Reads the object (`load_nvlist`).
pub(crate) fn read(mos: &Arc<Objset>, object: u64) -> Result<NvList> {
    let dnode = mos.hold(object)?;
    let size = dnode.bonus().first_chunk::<8>().map_or(0, |b| u64::from_le_bytes(*b));
    let info = dnode.info();
    let capacity = info.capacity();
    if size > capacity.min(SIZE_MAX) {
        return Err(Error::corrupt("packed list: longer than its object", None));
    }
    let mut packed = vec![0; size as usize];
    dnode.read(0, &mut packed)?;
    NvList::unpack(&packed)
}

/// Writes the object (`spa_sync_nvlist`).
pub(crate) fn write(mos: &Arc<Objset>, tx: &Tx, object: u64, list: &NvList) -> Result<()> {
    let dnode = mos.hold(object)?;
    let mut packed = list.pack_xdr();
    let size = packed.len() as u64;
    packed.resize(packed.len().next_multiple_of(BLOCK_SIZE as usize), 0);
    dnode.write(tx, 0, &packed)?;
    dnode.set_bonus(tx, ObjectType::PACKED_NVLIST_SIZE, &size.to_le_bytes())
}

/// Puts the root vdev's list together from the labels of the devices found: each holds its own top-level vdev. Also the state in
/// which each was last seen does not matter: labels of the highest txg win.
pub(crate) fn root_from_labels(labels: &[&NvList]) -> Result<NvList> {
    let newest = labels.iter().max_by_key(|l| l.get_u64("txg").unwrap_or(0)).ok_or(Error::NoPool)?;
    let guid = newest.u64("pool_guid")?;
    let count = newest.get_u64("vdev_children").unwrap_or(1);
    let mut tops: BTreeMap<u64, (u64, &NvList)> = BTreeMap::new();
    for label in labels {
        let tree = label.nvlist("vdev_tree")?;
        let (id, txg) = (tree.u64("id")?, label.get_u64("txg").unwrap_or(0));
        if tops.get(&id).is_none_or(|(old, _)| *old < txg) {
            tops.insert(id, (txg, tree));
        }
    }
    if tops.keys().any(|id| *id >= count) {
        return Err(Error::corrupt("label: vdev id past the number of vdevs", None));
    }
    let tops: Vec<NvList> = tops.into_values().map(|(_, tree)| tree.clone()).collect();
    Ok(NvList::new().with("type", "root").with("id", 0).with("guid", guid).with("children", tops))
}
