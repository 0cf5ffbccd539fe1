//! Devices: what there is (ACPI, PCI, virtio-mmio) and the drivers for it.

pub mod acpi;

use alloc::sync::Arc;
use alloc::vec::Vec;
use platform::block::BlockDevice;
use platform::sync::Mutex;

static BLOCK_DEVICES: Mutex<Vec<Arc<dyn BlockDevice>>> = Mutex::new(Vec::new());

/// The disks that were found, in the order of the buses.
pub fn block_devices() -> Vec<Arc<dyn BlockDevice>> {
    BLOCK_DEVICES.lock().clone()
}

/// Looks for devices and starts their drivers. In a thread, with interrupts on.
pub fn start() {}
