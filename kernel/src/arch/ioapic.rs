//! The I/O APICs: interrupt pins ("global system interrupts") to vectors.

use crate::mm::phys;
use crate::sync::IrqLock;
use alloc::vec::Vec;

/// How a pin signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// Rising edge (ISA).
    Edge,
    /// Level, active high (virtio-mmio on microvm; PCI lines routed to interrupts of the ISA range).
    LevelHigh,
}

struct IoApic {
    base: u64,
    first_gsi: u32,
    pins: u32,
}

static IOAPICS: IrqLock<Vec<IoApic>> = IrqLock::new(Vec::new());

impl IoApic {
    fn write(&self, register: u32, value: u32) {
        // SAFETY: base is the mapped IOAPIC: select at 0, window at 0x10.
        unsafe {
            (self.base as *mut u32).write_volatile(register);
            ((self.base + 0x10) as *mut u32).write_volatile(value);
        }
    }

    fn read(&self, register: u32) -> u32 {
        // SAFETY: as in `write`.
        unsafe {
            (self.base as *mut u32).write_volatile(register);
            ((self.base + 0x10) as *const u32).read_volatile()
        }
    }
}

/// Adds the IOAPIC at physical `address`, whose first pin is `first_gsi`; masks all its pins.
pub fn add(address: u64, first_gsi: u32) {
    let mut io = IoApic { base: phys::map_device(address, 4096), first_gsi, pins: 0 };
    io.pins = (io.read(1) >> 16 & 0xff) + 1;
    for pin in 0..io.pins {
        io.write(0x10 + pin * 2, 1 << 16);
    }
    IOAPICS.lock().push(io);
}

/// Sends interrupt `gsi` as `vector` to the processor with `apic_id`. `false` if no IOAPIC has the pin.
pub fn route(gsi: u32, vector: u8, apic_id: u32, trigger: Trigger) -> bool {
    let ioapics = IOAPICS.lock();
    let Some(io) = ioapics.iter().find(|io| gsi >= io.first_gsi && gsi - io.first_gsi < io.pins) else {
        return false;
    };
    let pin = gsi - io.first_gsi;
    let mode = match trigger {
        Trigger::Edge => 0,
        Trigger::LevelHigh => 1 << 15,
    };
    io.write(0x11 + pin * 2, apic_id << 24);
    io.write(0x10 + pin * 2, u32::from(vector) | mode);
    true
}
