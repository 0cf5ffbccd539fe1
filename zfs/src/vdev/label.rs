//! Reading and writing the labels of devices. Source: `vdev_label.c`.

use super::{Leaf, VdevTree};
use crate::error::Result;
use crate::ondisk::nvlist::NvList;
use crate::ondisk::uberblock::Uberblock;
use platform::block::BlockDevice;

/// What the labels of one device say.
#[derive(Debug, Clone)]
pub struct Label {
    /// The newest configuration.
    pub config: NvList,
    /// The best uberblock of all rings.
    pub uberblock: Option<Uberblock>,
    /// Which labels hold a valid configuration.
    pub valid: [bool; 4],
}

impl Label {
    /// The guid of the device's leaf vdev.
    pub fn guid(&self) -> Result<u64> {
        self.config.u64("guid")
    }
}

/// Reads all four labels of a device. [`crate::Error::NoPool`] if none is valid.
pub fn read(device: &dyn BlockDevice) -> Result<Label> {
    let _ = device;
    todo!()
}

/// Writes fresh labels to a device that becomes part of a pool: the configuration, no uberblock but an empty ring.
/// The boot area and what was in the labels before is overwritten (`vdev_label_init`).
pub fn create(device: &dyn BlockDevice, ashift: u8, config: &NvList) -> Result<()> {
    let _ = (device, ashift, config);
    todo!()
}

/// Ends a txg: flush, even labels, flush, uberblock to all labels, flush, odd labels, flush (`vdev_config_sync`).
/// `config` gives the label of a leaf; `None` leaves the configurations as they are.
pub fn sync(vdevs: &VdevTree, uberblock: &Uberblock, config: Option<&dyn Fn(&Leaf) -> NvList>) -> Result<()> {
    let _ = (vdevs, uberblock, config);
    todo!()
}
