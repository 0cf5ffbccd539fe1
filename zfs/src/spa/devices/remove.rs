//! Hot spares, cache devices and log devices that are taken out of a pool. Source: `spa_vdev_remove`, `spa_vdev_remove_log`
//! (`vdev_removal.c`).
//!
//! A log device leaves a hole in the numbering of the vdevs, unless it is the last. Vdevs with data stay: their blocks would have to go
//! elsewhere.

use super::super::aux_devices::{self, Aux};
use super::super::config::Config;
use super::super::core::{Core, Spa};
use super::super::metaslab::DEFER_TXGS;
use super::super::vdev_zaps::{LEAF_ZAP, TOP_ZAP};
use super::tree;
use crate::dmu::Tx;
use crate::error::{Error, Result};
use crate::ondisk::nvlist::NvList;
use crate::vdev::label;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

impl Core {
    /// Takes a hot spare that is not in use, a cache device, or a log vdev out of the pool, by its guid; labels are cleared.
    /// [`Error::Busy`] if it is in use: a log that holds records which were not replayed.
    pub(crate) fn remove(&self, guid: u64) -> Result<()> {
        let _changing = self.spa.change_devices()?;
        self.spa.check_no_checkpoint()?;
        let (config, _) = self.spa.devices();
        for which in [Aux::Spares, Aux::Caches] {
            let listed = aux_devices::read(&self.spa.mos, which)?;
            let Some(list) = listed.iter().find(|list| list.get_u64("guid") == Some(guid)) else { continue };
            return self.remove_auxiliary(&config, which, list);
        }
        let found = config.tops().iter().find(|top| top.get_u64("guid") == Some(guid));
        match found {
            Some(top) if top.get_u64("is_log") == Some(1) => self.remove_log(top),
            Some(_) => Err(Error::unsupported("removal of vdevs with data")),
            None if tree::path_to(&config.root, guid).is_some() => {
                Err(Error::Invalid("a device of a vdev is detached or replaced, not removed"))
            }
            None => Err(Error::NotFound),
        }
    }

    fn remove_auxiliary(&self, config: &Config, which: Aux, list: &NvList) -> Result<()> {
        let guid = list.get_u64("guid").unwrap_or(0);
        if tree::path_to(&config.root, guid).is_some() {
            return Err(Error::Busy);
        }
        if list.get_str("type") == Some("dspare") {
            return Err(Error::Invalid("distributed spares are part of their draid vdev"));
        }
        let member = self.spa.member(guid);
        let path = list.get_str("path").unwrap_or("?");
        let text = format!("vdev={path}");
        let spa = Arc::clone(&self.spa);
        self.spa.run_task(move |tx: &Tx| {
            let mut all = aux_devices::read(&spa.mos, which)?;
            all.retain(|list| list.get_u64("guid") != Some(guid));
            aux_devices::write(&spa.mos, tx, which, all)?;
            spa.state.lock().members.retain(|(own, _)| *own != guid);
            spa.log_internal_event(tx, "vdev remove", &text)
        })?;
        member.map_or(Ok(()), |(_, device)| label::clear(&*device))
    }

    fn remove_log(&self, top: &NvList) -> Result<()> {
        let id = u32::try_from(top.get_u64("id").unwrap_or(0)).unwrap_or(0);
        let spa = &self.spa;
        spa.space.set_usable(id, false);
        // What was on it is freed, and what was freed is forgotten.
        for _ in 0..=DEFER_TXGS {
            spa.txgs.wait_synced(spa.txgs.request_sync())?;
        }
        let leaves: Vec<u64> = match tree::children(top) {
            [] => top.get_u64("guid").into_iter().collect(),
            children => children.iter().filter_map(|child| child.get_u64("guid")).collect(),
        };
        let members: Vec<_> = leaves.iter().filter_map(|guid| spa.member(*guid)).collect();
        let (top, own) = (top.clone(), Arc::clone(spa));
        let removed = self.spa.run_task(move |tx: &Tx| own.drop_log(tx, &top, id));
        if let Err(error) = removed {
            spa.space.set_usable(id, true);
            return Err(error);
        }
        members.iter().try_for_each(|(_, device)| label::clear(&**device))
    }
}

impl Spa {
    fn drop_log(&self, tx: &Tx, top: &NvList, id: u32) -> Result<()> {
        if !self.space.is_empty(id) {
            return Err(Error::Busy);
        }
        let (mut config, mut members) = self.devices();
        let mut tops = config.tops().to_vec();
        let hole = NvList::new()
            .with("type", "hole")
            .with("id", u64::from(id))
            .with("guid", 0)
            .with("metaslab_array", 0)
            .with("metaslab_shift", 0)
            .with("ashift", 0)
            .with("asize", 0)
            .with("is_log", 0)
            .with("is_hole", 1);
        for place in tops.iter_mut().filter(|place| place.get_u64("id") == Some(u64::from(id))) {
            *place = hole.clone();
        }
        while tops.last().is_some_and(|last| last.get_str("type") == Some("hole")) {
            tops.pop();
        }
        config.set_tops(tops);
        let leaves: Vec<&NvList> = match tree::children(top) {
            [] => [top].into(),
            children => children.iter().collect(),
        };
        members.retain(|(guid, _)| leaves.iter().all(|leaf| leaf.get_u64("guid") != Some(*guid)));
        self.install(config, members, &|_| ())?;
        let (maps, array) = self.space.remove(id);
        for (map, has_histogram) in maps {
            self.mos.free(tx, map)?;
            if has_histogram {
                self.change_feature(tx, "com.delphix:spacemap_histogram", -1)?;
            }
        }
        if let Some(array) = array {
            self.mos.free(tx, array)?;
        }
        self.free_vdev_zap(tx, top, TOP_ZAP)?;
        leaves.iter().try_for_each(|leaf| self.free_vdev_zap(tx, leaf, LEAF_ZAP))?;
        self.log_internal_event(tx, "vdev remove", &format!("vdev={id} (log)"))
    }
}
