//! virtio over memory-mapped registers: version 2, and version 1 ("legacy"), which QEMU's microvm still defaults to.

use super::queue::LEGACY_ALIGN;
use super::{Interrupts, QueueMemory, Transport, VirtioMmio};
use crate::arch::ioapic::Trigger;
use crate::arch::irq;
use crate::drivers::mmio::Registers;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;

const MAGIC: u64 = 0x000;
const VERSION: u64 = 0x004;
const DEVICE_ID: u64 = 0x008;
const DEVICE_FEATURES: u64 = 0x010;
const DEVICE_FEATURES_SELECT: u64 = 0x014;
const DRIVER_FEATURES: u64 = 0x020;
const DRIVER_FEATURES_SELECT: u64 = 0x024;
const GUEST_PAGE_SIZE: u64 = 0x028;
const QUEUE_SELECT: u64 = 0x030;
const QUEUE_SIZE_MAX: u64 = 0x034;
const QUEUE_SIZE: u64 = 0x038;
const QUEUE_ALIGN: u64 = 0x03c;
const QUEUE_PAGE: u64 = 0x040;
const QUEUE_READY: u64 = 0x044;
const QUEUE_NOTIFY: u64 = 0x050;
const INTERRUPT_STATUS: u64 = 0x060;
const INTERRUPT_ACK: u64 = 0x064;
const STATUS: u64 = 0x070;
const QUEUE_DESCRIPTORS: u64 = 0x080;
const QUEUE_AVAILABLE: u64 = 0x090;
const QUEUE_USED: u64 = 0x0a0;
const CONFIG: u64 = 0x100;

const MAGIC_VALUE: u32 = u32::from_le_bytes(*b"virt");

struct Mmio {
    registers: Registers,
    place: VirtioMmio,
    legacy: bool,
}

/// The device at `place`; `None` if there is none.
pub(super) fn open(place: VirtioMmio) -> Option<impl Transport> {
    let registers = Registers::map(place.address, 0x200);
    let version: u32 = registers.read(VERSION);
    if registers.read::<u32>(MAGIC) != MAGIC_VALUE || registers.read::<u32>(DEVICE_ID) == 0 {
        return None;
    }
    matches!(version, 1 | 2).then_some(Mmio { registers, place, legacy: version == 1 })
}

impl Transport for Mmio {
    fn device_id(&self) -> u32 {
        self.registers.read(DEVICE_ID)
    }

    fn name(&self) -> String {
        format!("mmio {:#x}", self.place.address)
    }

    fn device_features(&self) -> u64 {
        let half = |select: u32| {
            self.registers.write(DEVICE_FEATURES_SELECT, select);
            u64::from(self.registers.read::<u32>(DEVICE_FEATURES))
        };
        half(0) | half(1) << 32
    }

    fn set_driver_features(&self, features: u64) {
        for select in 0..2u32 {
            self.registers.write(DRIVER_FEATURES_SELECT, select);
            self.registers.write(DRIVER_FEATURES, (features >> (32 * select)) as u32);
        }
        if self.legacy {
            self.registers.write(GUEST_PAGE_SIZE, LEGACY_ALIGN as u32);
        }
    }

    fn status(&self) -> u8 {
        self.registers.read::<u32>(STATUS) as u8
    }

    fn set_status(&self, status: u8) {
        self.registers.write(STATUS, u32::from(status));
    }

    fn queue_size(&self, index: u16) -> u16 {
        self.registers.write(QUEUE_SELECT, u32::from(index));
        self.registers.read::<u32>(QUEUE_SIZE_MAX).min(1 << 15) as u16
    }

    fn enable_queue(&self, index: u16, queue: &QueueMemory) {
        self.registers.write(QUEUE_SELECT, u32::from(index));
        self.registers.write(QUEUE_SIZE, u32::from(queue.size));
        if self.legacy {
            self.registers.write(QUEUE_ALIGN, LEGACY_ALIGN as u32);
            self.registers.write(QUEUE_PAGE, (queue.descriptors / LEGACY_ALIGN as u64) as u32);
            return;
        }
        for (register, address) in [
            (QUEUE_DESCRIPTORS, queue.descriptors),
            (QUEUE_AVAILABLE, queue.available),
            (QUEUE_USED, queue.used),
        ] {
            self.registers.write(register, address as u32);
            self.registers.write(register + 4, (address >> 32) as u32);
        }
        self.registers.write(QUEUE_READY, 1u32);
    }

    fn notify(&self, index: u16) {
        self.registers.write(QUEUE_NOTIFY, u32::from(index));
    }

    fn config_u8(&self, offset: u64) -> u8 {
        if CONFIG + offset < self.registers.len() { self.registers.read(CONFIG + offset) } else { 0 }
    }

    fn set_config_u32(&self, offset: u64, value: u32) {
        if CONFIG + offset + 4 <= self.registers.len() {
            self.registers.write(CONFIG + offset, value);
        }
    }

    fn connect(&self, _index: u16, handler: Arc<dyn Fn() + Send + Sync>) -> Interrupts {
        let registers = self.registers;
        Interrupts::line(irq::connect_gsi(self.place.gsi, Trigger::LevelHigh, move || {
            let pending: u32 = registers.read(INTERRUPT_STATUS);
            registers.write(INTERRUPT_ACK, pending);
            handler();
        }))
    }

    fn legacy(&self) -> bool {
        self.legacy
    }
}
