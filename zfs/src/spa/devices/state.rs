//! Devices in and out of service, and vdevs that grow. Source: `vdev_online`, `vdev_offline`, `vdev_expand` (`vdev.c`).

use super::super::core::{Core, Spa};
use super::super::topology::allocatable;
use super::tree;
use crate::dmu::Tx;
use crate::error::{Error, Result};
use crate::ondisk::nvlist::NvList;
use crate::vdev::{Geometry, LeafState, TEMPORARILY_OFFLINE, VdevTree};
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

impl Core {
    /// Takes a device out of service, until the pool is exported if it is `temporary`. It misses what is written from now on.
    /// [`Error::Busy`] if nobody else has some of its data.
    pub(crate) fn offline(&self, guid: u64, temporary: bool) -> Result<()> {
        let _changing = self.spa.change_devices()?;
        let (config, _) = self.spa.devices();
        let place = tree::place(&config.root, guid)?;
        if self.requires(place.top, guid) {
            return Err(Error::Busy);
        }
        let path = place.leaf.get_str("path").unwrap_or("?");
        let text = format!("vdev={path}{}", if temporary { " temporarily" } else { "" });
        let flag = if temporary { TEMPORARILY_OFFLINE } else { "offline" };
        let spa = Arc::clone(&self.spa);
        self.spa.run_task(move |tx: &Tx| {
            let (mut config, members) = spa.devices();
            config.edit_vdev(guid, &mut |list| list.insert(flag, 1));
            spa.install(config, members, &|_| ())?;
            spa.log_internal_event(tx, "vdev offline", &text)
        })
    }

    /// Puts a device into service again: [`LeafState::Missing`] if it is not there. A spare that stood in for it is let go as soon as the
    /// device has what it missed. `expand` makes the vdev as large as its devices allow.
    pub(crate) fn online(&self, guid: u64, expand: bool) -> Result<LeafState> {
        let _changing = self.spa.change_devices()?;
        let (config, _) = self.spa.devices();
        let place = tree::place(&config.root, guid)?;
        let spared =
            place.parent.get_str("type") == Some("spare") && place.leaf.get_u64("is_spare") != Some(1);
        let was_out = ["offline", "faulted", "removed", "degraded", TEMPORARILY_OFFLINE]
            .iter()
            .any(|flag| place.leaf.contains(flag));
        let text = format!("vdev={}", place.leaf.get_str("path").unwrap_or("?"));
        let top = place.top.get_u64("id").and_then(|id| u32::try_from(id).ok());
        let spa = Arc::clone(&self.spa);
        self.spa.run_task(move |tx: &Tx| {
            let (mut config, members) = spa.devices();
            config.edit_vdev(guid, &mut |list| {
                for flag in ["offline", "faulted", "removed", "degraded", "aux_state", TEMPORARILY_OFFLINE] {
                    list.remove(flag);
                }
                if spared && was_out {
                    list.insert("unspare", 1);
                }
            });
            spa.install(config, members, &|_| ())?;
            spa.log_internal_event(tx, "vdev online", &text)?;
            if expand { spa.expand(top) } else { Ok(()) }
        })?;
        let vdevs = self.spa.zio.vdevs();
        Ok(vdevs.leaf(guid).map_or(LeafState::Missing, |leaf| leaf.state))
    }

    /// Makes every vdev as large as its devices allow, if the property `autoexpand` is on.
    pub(crate) fn autoexpand(&self) -> Result<()> {
        let wanted = self.get_property("autoexpand").is_ok_and(|(value, _)| value == "on");
        if !wanted || !self.spa.could_grow() {
            return Ok(());
        }
        let _changing = self.spa.change_devices()?;
        let spa = Arc::clone(&self.spa);
        self.spa.run_task(move |_: &Tx| spa.expand(None))
    }
}

/// The size that a top-level vdev's devices allow; none if one is not there.
fn possible(vdevs: &VdevTree, top: &NvList) -> Option<u64> {
    let own = vdevs.top(u32::try_from(top.get_u64("id")?).ok()?).ok()?;
    let sizes: Vec<Option<u64>> =
        own.leaves().iter().map(|leaf| leaf.device.as_ref().map(|device| allocatable(&**device))).collect();
    let least = sizes.into_iter().collect::<Option<Vec<u64>>>()?.into_iter().min()?;
    Some(match own.geometry {
        Geometry::Plain => least,
        Geometry::Raidz { children, .. } => least.checked_mul(children)?,
        Geometry::Draid(layout) => layout.asize(least),
    })
}

/// Whether `asize` is a metaslab more than the vdev has.
fn grows(top: &NvList, asize: u64) -> bool {
    let shift = top.get_u64("metaslab_shift").unwrap_or(0).min(63);
    asize >> shift > top.get_u64("asize").unwrap_or(u64::MAX) >> shift
}

impl Spa {
    fn could_grow(&self) -> bool {
        let (config, vdevs) = (self.state.lock().config.clone(), self.zio.vdevs());
        config.tops().iter().any(|top| possible(&vdevs, top).is_some_and(|asize| grows(top, asize)))
    }

    /// Makes the vdev of that index (or all) as large as their devices allow. Syncing context.
    fn expand(&self, only: Option<u32>) -> Result<()> {
        let (mut config, members) = self.devices();
        let vdevs = self.zio.vdevs();
        let wanted = |top: &&NvList| only.is_none_or(|id| top.get_u64("id") == Some(u64::from(id)));
        let grown: Vec<(u64, u64)> = config
            .tops()
            .iter()
            .filter(wanted)
            .filter_map(|top| {
                let asize = possible(&vdevs, top).filter(|asize| grows(top, *asize))?;
                Some((top.get_u64("guid")?, asize))
            })
            .collect();
        for (guid, asize) in &grown {
            config.edit_vdev(*guid, &mut |top| super::super::config::replace(top, "asize", (*asize).into()));
        }
        if grown.is_empty() {
            return Ok(());
        }
        let layouts = config.layouts()?;
        self.install(config, members, &|_| ())?;
        self.space.grow(&layouts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vdev_grows_by_whole_metaslabs() {
        let top = NvList::new().with("metaslab_shift", 24).with("asize", 5u64 << 24);
        assert!(!grows(&top, (6 << 24) - 1) && grows(&top, 6 << 24) && !grows(&top, 1 << 24));
    }
}
