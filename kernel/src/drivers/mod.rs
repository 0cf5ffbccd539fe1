//! Devices: what there is (ACPI, PCI, virtio-mmio) and the drivers for it.

pub mod acpi;
mod mmio;
mod mp_table;
mod pci;
pub mod power_button;
pub mod virtio;

use crate::{console, log};
use alloc::sync::Arc;
use alloc::vec::Vec;
use platform::block::BlockDevice;
use platform::sync::Mutex;
use virtio::blk::Disk;
use virtio::net::Nic;

static DISKS: Mutex<Vec<Arc<Disk>>> = Mutex::new(Vec::new());

/// The disks that were found, in the order of the buses.
pub fn block_devices() -> Vec<Arc<dyn BlockDevice>> {
    DISKS.lock().iter().map(|disk| Arc::clone(disk) as Arc<dyn BlockDevice>).collect()
}

/// The same disks, for their statistics.
pub fn disks() -> Vec<Arc<Disk>> {
    DISKS.lock().clone()
}

fn add_block_device(disk: Arc<Disk>) {
    DISKS.lock().push(disk);
}

static NICS: Mutex<Vec<Arc<Nic>>> = Mutex::new(Vec::new());

/// The network devices that were found, in the order of the buses.
pub fn network_devices() -> Vec<Arc<Nic>> {
    NICS.lock().clone()
}

fn add_network_device(nic: Arc<Nic>) {
    NICS.lock().push(nic);
}

/// Looks for devices and starts their drivers. In a thread, with interrupts on.
pub fn start() {
    virtio::probe();
    if console::wants_virtio() && !console::is_attached() {
        log!(Error, "there is no virtio console: the serial port stays the console");
    }
}
