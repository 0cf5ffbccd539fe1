//! ZAPs of vdevs: one for each leaf and each top-level vdev, with the feature `vdev_zaps_v2` one for the root, and one that lists them all.
//! Source: `vdev_construct_zaps`, `vdev_create_link_zap` (`module/zfs/vdev.c`).
//!
//! A vdev's list in the MOS names its ZAP; the labels do not.

use super::config::Config;
use super::core::Spa;
use super::directory;
use super::topology::{ALLOCATION_BIAS, Bias};
use crate::dmu::{Dnode, Objset, Tx};
use crate::error::{Error, Result};
use crate::ondisk::nvlist::NvList;
use crate::ondisk::object_type::ObjectType;
use crate::zap;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// The MOS's list of the vdevs' ZAPs (`DMU_POOL_VDEV_ZAP_MAP`).
const ALL: &str = "com.delphix:vdev_zap_map";
/// What names a leaf's ZAP in its list (`ZPOOL_CONFIG_VDEV_LEAF_ZAP`).
pub(super) const LEAF_ZAP: &str = "com.delphix:vdev_zap_leaf";
/// What names a top-level vdev's (`ZPOOL_CONFIG_VDEV_TOP_ZAP`).
pub(super) const TOP_ZAP: &str = "com.delphix:vdev_zap_top";
/// What names the root's (`ZPOOL_CONFIG_VDEV_ROOT_ZAP`).
pub(super) const ROOT_ZAP: &str = "com.klarasystems:vdev_zap_root";
/// The feature in whose pools the root has one (`SPA_FEATURE_AVZ_V2`).
const VDEV_ZAPS_V2: &str = "com.klarasystems:vdev_zaps_v2";

/// Makes those of a new pool; the root's comes with its first configuration.
pub(super) fn create(mos: &Arc<Objset>, tx: &Tx, config: &mut Config, biases: &[Bias]) -> Result<()> {
    let all = mos.hold(directory::create_zap(mos, tx, ALL, ObjectType::OTN_ZAP_METADATA)?)?;
    let mut tops = config.tops().to_vec();
    for (top, bias) in tops.iter_mut().zip(biases) {
        of_top(mos, tx, &all, top, *bias)?;
    }
    config.root.insert("children", tops);
    Ok(())
}

/// Those of a new top-level vdev and of its leaves.
fn of_top(mos: &Arc<Objset>, tx: &Tx, all: &Arc<Dnode>, top: &mut NvList, bias: Bias) -> Result<()> {
    if top.get_nvlists("children").is_none() {
        link(mos, tx, all, top, LEAF_ZAP)?;
    }
    let zap = link(mos, tx, all, top, TOP_ZAP)?;
    if let Some(name) = bias.name() {
        let text: Vec<u8> = name.bytes().chain([0]).collect();
        zap::add(&zap, tx, ALLOCATION_BIAS, &zap::Value::bytes(&text))?;
    }
    if let Some(children) = top.get_nvlists("children") {
        let mut children = children.to_vec();
        for child in &mut children {
            link(mos, tx, all, child, LEAF_ZAP)?;
        }
        // Last, as OpenZFS has it.
        top.remove("children");
        top.insert("children", children);
    }
    Ok(())
}

/// Makes a ZAP of a vdev, listed among all and named in the vdev's own list.
fn link(mos: &Arc<Objset>, tx: &Tx, all: &Arc<Dnode>, vdev: &mut NvList, name: &str) -> Result<Arc<Dnode>> {
    let zap = zap::create(mos, tx, ObjectType::OTN_ZAP_METADATA, &zap::CreateOptions::default())?;
    zap::add_u64(all, tx, zap::int_name(zap.object()).as_str(), zap.object())?;
    vdev.insert(name, zap.object());
    Ok(zap)
}

impl Spa {
    /// The list of all, if this pool's vdevs have ZAPs.
    fn all_vdev_zaps(&self, config: &Config) -> Result<Option<Arc<Dnode>>> {
        let all = directory::lookup(&self.mos, ALL)?.filter(|_| config.per_vdev_zaps);
        all.map(|object| self.mos.hold(object)).transpose()
    }

    /// Makes the ZAPs of new top-level vdevs and of their leaves. Syncing context.
    pub(super) fn create_top_zaps(
        &self,
        tx: &Tx,
        config: &Config,
        tops: &mut [NvList],
        biases: &[Bias],
    ) -> Result<()> {
        let Some(all) = self.all_vdev_zaps(config)? else { return Ok(()) };
        let mut tops = tops.iter_mut().zip(biases);
        tops.try_for_each(|(top, bias)| of_top(&self.mos, tx, &all, top, *bias))
    }

    /// Makes the ZAP of a new leaf. Syncing context.
    pub(super) fn create_leaf_zap(&self, tx: &Tx, config: &Config, leaf: &mut NvList) -> Result<()> {
        match self.all_vdev_zaps(config)? {
            Some(all) => link(&self.mos, tx, &all, leaf, LEAF_ZAP).map(|_| ()),
            None => Ok(()),
        }
    }

    /// Makes the root's, where the feature is enabled and there is none: it becomes active with it. Syncing context.
    pub(super) fn create_root_zap(&self, tx: &Tx) -> Result<()> {
        let mut config = self.state.lock().config.clone();
        let has_one = config.root.get_u64(ROOT_ZAP).is_some_and(|zap| zap != 0);
        if has_one || !self.features.is_enabled(VDEV_ZAPS_V2) {
            return Ok(());
        }
        let Some(all) = self.all_vdev_zaps(&config)? else { return Ok(()) };
        link(&self.mos, tx, &all, &mut config.root, ROOT_ZAP)?;
        self.state.lock().config.root = config.root;
        if self.features.is_active(VDEV_ZAPS_V2) {
            return Ok(());
        }
        self.change_feature(tx, VDEV_ZAPS_V2, 1)
    }

    /// Frees a ZAP of a vdev that is no more. Syncing context.
    pub(super) fn free_vdev_zap(&self, tx: &Tx, vdev: &NvList, name: &str) -> Result<()> {
        let Some(zap) = vdev.get_u64(name).filter(|zap| *zap != 0) else { return Ok(()) };
        if let Some(all) = directory::lookup(&self.mos, ALL)? {
            match zap::remove(&self.mos.hold(all)?, tx, zap::int_name(zap).as_str()) {
                Ok(()) | Err(Error::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        self.mos.free(tx, zap)
    }
}
