//! Vdevs, spares and cache devices that are added to a pool. Source: `spa_vdev_add`.

use super::super::aux_devices::{self, Aux};
use super::super::core::{Core, Spa};
use super::super::create::{init_labels, needed_features};
use super::super::metaslab::VdevLayout;
use super::super::topology::{Builder, Built, Topology};
use super::tree;
use crate::dmu::Tx;
use crate::error::{Error, Result};
use crate::ondisk::nvlist::NvList;
use crate::vdev::VdevTree;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

impl Core {
    /// Adds vdevs, spares and cache devices. Everything on the devices is lost. `ashift`: as the pool's data vdevs have it, if not given.
    pub(crate) fn add(&self, topology: &Topology, ashift: Option<u8>) -> Result<()> {
        let spa = &self.spa;
        let _changing = spa.change_devices()?;
        spa.check_no_checkpoint()?;
        let (config, members) = spa.devices();
        let hole = |top: &&NvList| top.get_str("type") == Some("hole");
        let holes = config.tops().iter().filter(hole).filter_map(|top| top.get_u64("id")).collect();
        let largest = u8::try_from(spa.zio.vdevs().max_sector().ilog2()).ok();
        let builder = Builder {
            random: &*spa.env.random,
            ashift: ashift.or(largest),
            paths: &[],
            txg: spa.txgs.open_txg(),
            holes,
            first_id: config.children,
        };
        let built = builder.build(topology)?;
        let new = [&built.members, &built.spare_members, &built.cache_members];
        let known = |device| members.iter().any(|(_, own)| Arc::ptr_eq(own, device));
        if new.into_iter().flatten().any(|(_, device)| known(device)) {
            return Err(Error::Invalid("the device is part of the pool already"));
        }
        let needed = needed_features(&built, &|guid| spa.features.is_enabled(guid))?;
        let mut trial = config.clone();
        trial.set_tops(with_tops(config.tops(), &built.tops));
        let vdevs = VdevTree::reopen(
            &trial.root,
            &[members, built.members.clone()].concat(),
            Some(&spa.zio.vdevs()),
        )?;
        init_labels(&trial, &vdevs, &built)?;
        let spa = Arc::clone(spa);
        self.spa.run_task(move |tx: &Tx| spa.take_in(tx, built, &needed))
    }
}

/// The lists of the top-level vdevs with new ones among them, by their indices.
fn with_tops(old: &[NvList], new: &[NvList]) -> Vec<NvList> {
    let id = |list: &NvList| list.get_u64("id");
    let kept = old.iter().filter(|list| new.iter().all(|other| id(other) != id(list)));
    let mut all: Vec<NvList> = kept.chain(new).cloned().collect();
    all.sort_by_key(id);
    all
}

impl Spa {
    fn take_in(&self, tx: &Tx, mut built: Built, needed: &[&'static str]) -> Result<()> {
        let (mut config, mut members) = self.devices();
        self.create_top_zaps(tx, &config, &mut built.tops, &built.biases)?;
        for guid in needed {
            self.change_feature(tx, guid, 1)?;
        }
        for (which, new) in [(Aux::Spares, built.spares), (Aux::Caches, built.caches)] {
            if !new.is_empty() {
                let all = [aux_devices::read(&self.mos, which)?, new].concat();
                aux_devices::write(&self.mos, tx, which, all)?;
            }
        }
        config.set_tops(with_tops(config.tops(), &built.tops));
        let ids: Vec<u32> =
            built.tops.iter().filter_map(|top| u32::try_from(top.get_u64("id")?).ok()).collect();
        ids.iter().zip(&built.biases).for_each(|(id, bias)| config.set_bias(*id, *bias));
        members.extend([built.members, built.spare_members, built.cache_members].concat());
        let layouts = config.layouts()?.into_iter().filter(|layout| ids.contains(&layout.id));
        let layouts: Vec<VdevLayout> = layouts.collect();
        self.install(config, members, &|_| ())?;
        self.space.add(&layouts)?;
        let smallest = self.space.layouts().iter().map(VdevLayout::smallest_block).max();
        self.txgs.set_block_min(smallest.unwrap_or(512));
        for top in &built.tops {
            let first = tree::children(top).first().unwrap_or(top);
            let text = format!("vdev={}", first.get_str("path").unwrap_or("?"));
            self.log_internal_event(tx, "vdev add", &text)?;
        }
        Ok(())
    }
}
