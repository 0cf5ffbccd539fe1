//! virtio: devices of virtual machines (OASIS virtio 1.2), over PCI and over memory-mapped registers.

pub mod blk;
mod console;
mod crate_driver;
pub mod liar;
mod mmio;
pub mod net;
mod pci;
mod queue;
mod rng;

use super::acpi::{self, VirtioMmio};
use crate::boot;
use crate::log;
use alloc::sync::Arc;

/// Device ids.
const NETWORK: u32 = 1;
const BLOCK: u32 = 2;
const CONSOLE: u32 = 3;
const ENTROPY: u32 = 4;

/// Bits of the device status register.
mod status {
    pub(super) const ACKNOWLEDGE: u8 = 1;
    pub(super) const DRIVER: u8 = 2;
    pub(super) const DRIVER_OK: u8 = 4;
    pub(super) const FEATURES_OK: u8 = 8;
    pub(super) const FAILED: u8 = 128;
}

/// Feature bits of all devices.
mod feature {
    /// Legacy devices: a chain may be split anywhere.
    pub(super) const ANY_LAYOUT: u64 = 1 << 27;
    pub(super) const INDIRECT_DESC: u64 = 1 << 28;
    /// Notifications are suppressed by indices.
    pub(super) const EVENT_IDX: u64 = 1 << 29;
    pub(super) const VERSION_1: u64 = 1 << 32;
    pub(super) const ACCESS_PLATFORM: u64 = 1 << 33;
}

/// How a device makes itself heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupts {
    /// By a message of its own (MSI-X).
    Message,
    /// By a line that it may share.
    Line,
    /// Not at all: the driver must poll.
    None,
}

impl Interrupts {
    /// Those of a line, if it could be connected.
    fn line(connected: bool) -> Self {
        if connected { Interrupts::Line } else { Interrupts::None }
    }
}

/// Where a queue lies: physical addresses of its parts.
#[derive(Debug, Clone, Copy)]
pub struct QueueMemory {
    /// Number of descriptors.
    pub size: u16,
    /// The descriptors.
    pub descriptors: u64,
    /// The ring of available chains.
    pub available: u64,
    /// The ring of used chains.
    pub used: u64,
}

/// How to reach a device. Offsets and sizes in bytes.
pub trait Transport: Send + Sync {
    /// The virtio device id.
    fn device_id(&self) -> u32;
    /// Where it is, for messages.
    fn name(&self) -> alloc::string::String;
    /// The features that the device offers.
    fn device_features(&self) -> u64;
    /// Tells the features that the driver takes.
    fn set_driver_features(&self, features: u64);
    /// The status register.
    fn status(&self) -> u8;
    /// Sets the status register; 0 resets.
    fn set_status(&self, status: u8);
    /// Largest size of queue `index`; 0 if it does not exist.
    fn queue_size(&self, index: u16) -> u16;
    /// Hands a queue's memory over.
    fn enable_queue(&self, index: u16, queue: &QueueMemory);
    /// Tells the device that queue `index` has something new. Cheap; may be called by several processors at once.
    fn notify(&self, index: u16);
    /// A byte of the device's configuration.
    fn config_u8(&self, offset: u64) -> u8;
    /// Sets a little-endian word of the device's configuration.
    fn set_config_u32(&self, offset: u64, value: u32);
    /// Calls `handler` (in interrupt context) when queue `index` has completions.
    fn connect(&self, index: u16, handler: Arc<dyn Fn() + Send + Sync>) -> Interrupts;
    /// Whether the device is of the kind before virtio 1.0.
    fn legacy(&self) -> bool {
        false
    }
}

/// A little-endian number of the device's configuration.
fn config<const N: usize>(transport: &dyn Transport, offset: u64) -> [u8; N] {
    core::array::from_fn(|i| transport.config_u8(offset + i as u64))
}

/// Resets the device and agrees on features: those of `wanted` that it offers. `None` if it refuses.
fn negotiate(transport: &dyn Transport, wanted: u64) -> Option<u64> {
    transport.set_status(0);
    let mut tries = 0;
    while transport.status() != 0 && tries < 100_000 {
        tries += 1;
    }
    transport.set_status(status::ACKNOWLEDGE | status::DRIVER);
    let wanted = wanted | feature::VERSION_1 | feature::ACCESS_PLATFORM;
    let features = transport.device_features() & wanted;
    transport.set_driver_features(features);
    if !transport.legacy() {
        transport.set_status(status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK);
        if transport.status() & status::FEATURES_OK == 0 || features & feature::VERSION_1 == 0 {
            transport.set_status(status::FAILED);
            return None;
        }
    }
    Some(features)
}

/// Starts the device: its queues are set up.
fn start(transport: &dyn Transport) {
    transport.set_status(transport.status() | status::DRIVER_OK);
}

/// Starts the drivers of all virtio devices.
pub fn probe() {
    for function in super::pci::functions() {
        log!(
            Debug,
            "pci {} {:04x}:{:04x} class {:06x}",
            function.address,
            function.vendor,
            function.device,
            function.class
        );
        if let Some(transport) = pci::open(function) {
            attach(Arc::new(transport));
        }
    }
    let named = boot::info().cmdline();
    let from_cmdline = named.get_all("virtio_mmio.device").filter_map(parse_mmio);
    for device in acpi::tables().virtio_mmio.iter().copied().chain(from_cmdline) {
        if let Some(transport) = mmio::open(device) {
            attach(Arc::new(transport));
        }
    }
}

/// `<size>@<address>:<irq>[:<id>]`, as Linux reads it.
fn parse_mmio(text: &str) -> Option<VirtioMmio> {
    let (_, place) = text.split_once('@')?;
    let mut parts = place.split(':');
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    };
    let address = parts.next().and_then(number)?;
    let gsi = parts.next().and_then(number)?;
    Some(VirtioMmio { address, gsi: gsi as u32 })
}

fn attach(transport: Arc<dyn Transport>) {
    let name = transport.name();
    match transport.device_id() {
        BLOCK => match blk::Disk::open(transport) {
            Some(disk) => super::add_block_device(disk),
            None => log!(Error, "virtio-blk at {name} does not start"),
        },
        NETWORK => match net::Nic::open(transport) {
            Some(nic) => super::add_network_device(nic),
            None => log!(Error, "virtio-net at {name} does not start"),
        },
        CONSOLE if crate::console::wants_virtio() => match console::Port::open(transport) {
            Some(port) => crate::console::attach(port),
            None => log!(Error, "virtio-console at {name} does not start"),
        },
        ENTROPY => rng::seed(&*transport),
        id => log!(Debug, "virtio device of type {id} at {name} has no driver"),
    }
}
