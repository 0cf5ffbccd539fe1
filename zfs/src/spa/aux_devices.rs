//! Hot spares and cache devices: lists in the MOS, and labels that say no more than what they are. Source: `spa_load_spares`,
//! `spa_load_l2cache`, `spa_sync_aux_dev` (`module/zfs/spa.c`), `vdev_label_init`.

use super::sync::SOFTWARE_VERSION;
use super::{config, directory};
use crate::dmu::{Objset, Tx};
use crate::error::Result;
use crate::ondisk::nvlist::NvList;
use crate::vdev::{Member, label};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// `pool_state_t`: a hot spare that is not in use.
pub(crate) const STATE_SPARE: u64 = 3;
/// `pool_state_t`: a cache device.
pub(crate) const STATE_L2CACHE: u64 = 4;

/// Which of the two lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Aux {
    /// Hot spares, distributed ones included.
    Spares,
    /// Devices of the second-level cache.
    Caches,
}

impl Aux {
    /// Its name in the MOS's directory, and of the array in its object.
    fn name(self) -> &'static str {
        match self {
            Aux::Spares => "spares",
            Aux::Caches => "l2cache",
        }
    }

    fn state(self) -> u64 {
        match self {
            Aux::Spares => STATE_SPARE,
            Aux::Caches => STATE_L2CACHE,
        }
    }
}

/// The lists of the devices; none if the pool never had any.
pub(crate) fn read(mos: &Arc<Objset>, which: Aux) -> Result<Vec<NvList>> {
    let Some(object) = directory::lookup(mos, which.name())? else { return Ok(Vec::new()) };
    let list = config::read(mos, object)?;
    Ok(list.get_nvlists(which.name()).unwrap_or(&[]).to_vec())
}

/// Replaces the list. Syncing context.
pub(crate) fn write(mos: &Arc<Objset>, tx: &Tx, which: Aux, devices: Vec<NvList>) -> Result<()> {
    let object = match directory::lookup(mos, which.name())? {
        Some(object) => object,
        None => {
            let object = config::allocate(mos, tx)?;
            directory::add(mos, tx, which.name(), object)?;
            object
        }
    };
    config::write(mos, tx, object, &NvList::new().with(which.name(), devices))
}

/// Labels a device as one of the list: its guid, and what it is.
pub(crate) fn create_label(which: Aux, member: &Member) -> Result<()> {
    let list =
        NvList::new().with("version", SOFTWARE_VERSION).with("state", which.state()).with("guid", member.0);
    label::create(&*member.1, &list)
}
