//! Devices that come, go and take each other's places. Source: `spa_vdev_attach`, `spa_vdev_detach`, `vdev_online`, `vdev_offline`
//! (`spa.c`, `vdev.c`).
//!
//! Each change is one sync task: it changes the configuration's lists, opens a tree of them and puts that in the place of the old one. The
//! labels of the new tree's leaves are written with the txg. Until its uberblock is on disk, the old configuration counts: it is in the
//! labels of the old leaves and in the MOS of the uberblock before.
//!
//! # Invariants
//! - A device that joins is labelled first, with txg 0, which no uberblock has; one that leaves loses its labels last.
//! - A leaf that joins lacks everything up to the last txg that may have been written past it; it is known before the first read.
//! - Nobody leaves whose data nobody else has.
//! - One change at a time.

mod add;
mod attach;
mod detach;
mod guard;
mod remove;
mod state;
#[cfg(test)]
mod tests;
mod tree;

pub use attach::Replacement;
pub(super) use guard::Guard;

use super::config::Config;
use super::core::{Core, Spa};
use crate::error::{Error, Result};
use crate::ondisk::nvlist::NvList;
use crate::vdev::{Member, VdevTree};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

/// Marks the one who changes the devices.
struct Changing<'a>(&'a AtomicBool);

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Spa {
    /// Begins a change of the devices. [`Error::Busy`] if another one is going on.
    fn change_devices(&self) -> Result<Changing<'_>> {
        if self.read_only {
            return Err(Error::ReadOnly);
        }
        if self.changing_devices.swap(true, Ordering::AcqRel) {
            return Err(Error::Busy);
        }
        Ok(Changing(&self.changing_devices))
    }

    /// The configuration and the devices as they are now.
    fn devices(&self) -> (Config, Vec<Member>) {
        let state = self.state.lock();
        (state.config.clone(), state.members.clone())
    }

    /// The device of that guid, if it is there.
    fn member(&self, guid: u64) -> Option<Member> {
        self.state.lock().members.iter().find(|(own, _)| *own == guid).cloned()
    }

    /// Puts another configuration in the place of the one that counts. `prepare` sees the tree before anybody reads from it.
    /// [`Error::MissingDevice`], and nothing changes, if the pool could not be read with it.
    fn install(&self, config: Config, members: Vec<Member>, prepare: &dyn Fn(&VdevTree)) -> Result<()> {
        let vdevs = VdevTree::reopen(&config.root, &members, Some(&self.zio.vdevs()))?;
        prepare(&vdevs);
        {
            let mut state = self.state.lock();
            (state.config, state.members, state.config_dirty) = (config, members, true);
        }
        self.zio.set_vdevs(vdevs);
        Ok(())
    }
}

/// The list of the device of that guid.
pub(super) fn leaf_list(root: &NvList, guid: u64) -> Option<&NvList> {
    tree::path_to(root, guid)?.pop().filter(|list| tree::children(list).is_empty())
}

impl Core {
    /// Whether the pool could do without a leaf: nobody else has some of its data if not.
    fn requires(&self, top: &NvList, leaf: u64) -> bool {
        let vdevs = self.spa.zio.vdevs();
        let top = top.get_u64("id").and_then(|id| u32::try_from(id).ok());
        top.and_then(|id| vdevs.top(id).ok()).is_none_or(|top| top.requires(leaf))
    }

    /// Lets devices go that were replaced, as soon as the new ones have everything (`spa_vdev_resilver_done`).
    pub(super) fn finish_replacements(&self) -> Result<()> {
        loop {
            let root = self.spa.state.lock().config.root.clone();
            let vdevs = self.spa.zio.vdevs();
            let whole = |guid: u64| {
                let leaf = vdevs.dtl_leaves().into_iter().find(|leaf| leaf.guid == guid);
                leaf.is_some_and(|leaf| {
                    leaf.missing().is_empty() && leaf.state == crate::vdev::LeafState::Online
                })
            };
            let free = |replaced: &tree::Replaced| {
                whole(replaced.new)
                    && tree::place(&root, replaced.old)
                        .is_ok_and(|place| !self.requires(place.top, replaced.old))
            };
            let Some(replaced) = tree::replacements(&root).into_iter().find(free) else { return Ok(()) };
            self.detach(replaced.old)?;
            if let Some(spare) = replaced.spare {
                // If the spare is needed still, it stays.
                match self.detach(spare) {
                    Ok(()) | Err(Error::Busy) => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }
}
