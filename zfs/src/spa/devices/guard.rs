//! What becomes of devices that fail while nobody looks: they are taken out of service, and hot spares take their places. In OpenZFS its
//! event daemon does that (`cmd/zed/agents/zfs_diagnosis.c`, `zfs_retire.c`).

use super::super::aux_devices::{self, Aux};
use super::super::background::Background;
use super::super::core::Core;
use super::super::scan::ScanControl;
use super::attach::Replacement;
use super::tree;
use crate::dmu::Tx;
use crate::error::{Error, Result};
use crate::vdev::{Leaf, LeafState};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

/// So many failed reads and writes are too many (`io_N` of the diagnosis, which counts those of ten minutes).
const ERRORS_MAX: u64 = 10;

/// Who looks after the devices.
#[derive(Default)]
pub(crate) struct Guard {
    on: AtomicBool,
    pub(crate) work: Background,
}

fn fails(leaf: &Leaf) -> bool {
    let errors = leaf.errors();
    leaf.device.is_some() && errors.read + errors.write >= ERRORS_MAX
}

impl Core {
    /// From now on the pool looks after its devices by itself.
    pub(crate) fn guard_devices(self: &Arc<Self>) {
        self.guard.on.store(true, Ordering::Release);
        self.look_after_devices(true);
    }

    /// A txg is on disk: if a device fails, a thread does what there is to do. `anyway`: even if it is not known that any does.
    pub(crate) fn look_after_devices(self: &Arc<Self>, anyway: bool) {
        if !self.guard.on.load(Ordering::Acquire) {
            return;
        }
        let failing = || self.spa.zio.vdevs().leaves().iter().any(|leaf| fails(leaf));
        if !(anyway || failing()) || !self.guard.work.claim() {
            return;
        }
        let core = Arc::clone(self);
        platform::thread::spawn("spares", move || {
            // Nobody is there to hear of it; the status of the devices tells how they stand.
            let _ = core.use_spares().and_then(|_| {
                core.resilver(&mut |_| match core.guard.work.stopping() {
                    true => ScanControl::Pause,
                    false => ScanControl::Continue,
                })
            });
            core.guard.work.done();
        });
    }

    /// Takes devices that failed too often out of service, if the pool can do without them, and puts hot spares in the places of those that
    /// failed or are missing: the guids of each and of its spare. They have the pool's data after a resilver.
    pub(crate) fn use_spares(&self) -> Result<Vec<(u64, u64)>> {
        let failing: Vec<u64> =
            self.spa.zio.vdevs().leaves().iter().filter(|leaf| fails(leaf)).map(|leaf| leaf.guid).collect();
        for guid in failing {
            match self.fault(guid) {
                // Better a bad device than none.
                Ok(()) | Err(Error::Busy) => {}
                Err(error) => return Err(error),
            }
        }
        let lost = |leaf: &&&Arc<Leaf>| matches!(leaf.state, LeafState::Faulted | LeafState::Missing);
        let lost: Vec<u64> =
            self.spa.zio.vdevs().leaves().iter().filter(lost).map(|leaf| leaf.guid).collect();
        let mut used = Vec::new();
        for guid in lost {
            if let Some(spare) = self.spare_for(guid)? {
                used.push((guid, spare));
            }
        }
        Ok(used)
    }

    /// Puts the first hot spare that fits in the place of a device; its guid, if there is one.
    fn spare_for(&self, guid: u64) -> Result<Option<u64>> {
        let root = self.spa.state.lock().config.root.clone();
        let place = tree::place(&root, guid)?;
        let parent = place.parent.get_str("type").unwrap_or("");
        if matches!(parent, "spare" | "replacing") || place.leaf.get_u64("is_spare") == Some(1) {
            return Ok(None);
        }
        for spare in aux_devices::read(&self.spa.mos, Aux::Spares)? {
            let Some(spare) = spare.get_u64("guid") else { continue };
            match self.attach(guid, Replacement::Spare(spare), true) {
                Ok(_) => return Ok(Some(spare)),
                // In use, missing, too small, or of another vdev.
                Err(Error::Busy | Error::MissingDevice { .. } | Error::Invalid(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Takes a device out of service because of its errors.
    fn fault(&self, guid: u64) -> Result<()> {
        let _changing = self.spa.change_devices()?;
        let (config, _) = self.spa.devices();
        if self.requires(tree::place(&config.root, guid)?.top, guid) {
            return Err(Error::Busy);
        }
        let spa = Arc::clone(&self.spa);
        self.spa.run_task(move |_: &Tx| {
            let (mut config, members) = spa.devices();
            config.edit_vdev(guid, &mut |list| {
                list.insert("faulted", 1);
                list.insert("aux_state", "err_exceeded");
            });
            spa.install(config, members, &|_| ())
        })
    }
}
