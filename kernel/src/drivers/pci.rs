//! PCI: finding functions, their capabilities and BARs, MSI-X, and interrupt lines.

use super::acpi;
use super::mmio::Registers;
use crate::arch::port::{inl, outl};
use crate::sync::IrqLock;
use alloc::vec::Vec;
use core::fmt;
use spin::Once;

const VENDOR: u16 = 0x00;
const COMMAND: u16 = 0x04;
const CLASS: u16 = 0x08;
const HEADER: u16 = 0x0c;
const BAR0: u16 = 0x10;
const SECONDARY_BUS: u16 = 0x18;
const CAPABILITIES: u16 = 0x34;

const INTERRUPT: u16 = 0x3c;

const CAP_MSIX: u8 = 0x11;
const MSIX_ENABLE: u32 = 1 << 31;
const MSIX_MASK_ALL: u32 = 1 << 30;

/// Address of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// Bus.
    pub bus: u8,
    /// Device on the bus, 0 to 31.
    pub device: u8,
    /// Function of the device, 0 to 7.
    pub function: u8,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}:{:02x}.{}", self.bus, self.device, self.function)
    }
}

/// A function that answered.
#[derive(Debug, Clone, Copy)]
pub struct Function {
    /// Where it is.
    pub address: Address,
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Class, subclass and programming interface, as `0xccsspp`.
    pub class: u32,
}

/// An entry of the capability list.
#[derive(Debug, Clone, Copy)]
pub struct Capability {
    /// Its id.
    pub id: u8,
    /// Its offset in configuration space.
    pub at: u16,
}

static CF8: IrqLock<()> = IrqLock::new(());
static ECAM: Once<Option<(Registers, u8, u8)>> = Once::new();

fn ecam(address: Address) -> Option<(Registers, u64)> {
    let found = ECAM.call_once(|| {
        let (physical, first, last) = acpi::tables().ecam?;
        // Bus by bus would save page tables; the first 8 buses are all that machines for virtual guests use at boot.
        let last = last.min(first.saturating_add(7));
        let len = (u64::from(last - first) + 1) << 20;
        Some((Registers::map(physical, len), first, last))
    });
    let (registers, first, last) = (*found)?;
    (first..=last).contains(&address.bus).then(|| {
        let offset = u64::from(address.bus - first) << 20
            | u64::from(address.device) << 15
            | u64::from(address.function) << 12;
        (registers, offset)
    })
}

fn cf8_address(address: Address, offset: u16) -> u32 {
    1 << 31
        | u32::from(address.bus) << 16
        | u32::from(address.device) << 11
        | u32::from(address.function) << 8
        | u32::from(offset & 0xfc)
}

/// Reads the aligned 32-bit word at `offset` of a function's configuration space.
pub fn read(address: Address, offset: u16) -> u32 {
    if let Some((registers, base)) = ecam(address) {
        return registers.read(base + u64::from(offset & 0xffc));
    }
    let _guard = CF8.lock();
    outl(0xcf8, cf8_address(address, offset));
    inl(0xcfc)
}

/// Writes the aligned 32-bit word at `offset` of a function's configuration space.
pub fn write(address: Address, offset: u16, value: u32) {
    if let Some((registers, base)) = ecam(address) {
        return registers.write(base + u64::from(offset & 0xffc), value);
    }
    let _guard = CF8.lock();
    outl(0xcf8, cf8_address(address, offset));
    outl(0xcfc, value);
}

/// All functions, through the bridges that the firmware has set up. Empty where there is no PCI.
pub fn functions() -> Vec<Function> {
    let mut found = Vec::new();
    let mut buses = alloc::vec![0u8];
    let mut next = 0;
    while let Some(&bus) = buses.get(next) {
        next += 1;
        for device in 0..32 {
            scan_device(bus, device, &mut found, &mut buses);
        }
    }
    found
}

fn scan_device(bus: u8, device: u8, found: &mut Vec<Function>, buses: &mut Vec<u8>) {
    for function in 0..8 {
        let address = Address { bus, device, function };
        let id = read(address, VENDOR);
        if id & 0xffff == 0xffff {
            if function == 0 {
                return;
            }
            continue;
        }
        let header = read(address, HEADER) >> 16 & 0xff;
        if header & 0x7f == 1 {
            let secondary = (read(address, SECONDARY_BUS) >> 8) as u8;
            if secondary != 0 && !buses.contains(&secondary) {
                buses.push(secondary);
            }
        } else {
            let class = read(address, CLASS) >> 8;
            found.push(Function { address, vendor: id as u16, device: (id >> 16) as u16, class });
        }
        if function == 0 && header & 0x80 == 0 {
            return;
        }
    }
}

const NO_INTX: u32 = 1 << 10;

impl Function {
    /// Lets the function be reached in memory and do DMA. Its interrupt line stays silent.
    pub fn enable(&self) {
        const MEMORY: u32 = 2;
        const BUS_MASTER: u32 = 4;
        let command = read(self.address, COMMAND) & 0xffff;
        write(self.address, COMMAND, command | MEMORY | BUS_MASTER | NO_INTX);
    }

    /// Lets the function use its interrupt line, which other functions may share; the global system interrupt that it
    /// arrives at. The line is where the firmware has routed it, an interrupt of the ISA range that the IOAPIC has, too.
    /// `None` if there is none.
    pub fn use_interrupt_line(&self) -> Option<u32> {
        let word = read(self.address, INTERRUPT);
        let (line, pin) = (word & 0xff, word >> 8 & 0xff);
        if pin == 0 || line == 0 || line >= 16 {
            return None;
        }
        let command = read(self.address, COMMAND) & 0xffff;
        write(self.address, COMMAND, command & !NO_INTX);
        Some(line)
    }

    /// The capability list; bounded, whatever the device says.
    pub fn capabilities(&self) -> Vec<Capability> {
        let mut list = Vec::new();
        let mut at = (read(self.address, CAPABILITIES) & 0xfc) as u16;
        while at >= 0x40 && list.len() < 48 {
            let word = read(self.address, at);
            list.push(Capability { id: word as u8, at });
            at = (word >> 8 & 0xfc) as u16;
        }
        list
    }

    /// Physical address and length of memory BAR `index`.
    pub fn bar(&self, index: u8) -> Option<(u64, u64)> {
        if index > 5 {
            return None;
        }
        let at = BAR0 + u16::from(index) * 4;
        let low = read(self.address, at);
        if low & 1 != 0 {
            return None;
        }
        let wide = low & 6 == 4;
        let command = read(self.address, COMMAND) & 0xffff;
        // Decoding is off while the BAR holds the size mask.
        write(self.address, COMMAND, command & !3);
        write(self.address, at, u32::MAX);
        let mut mask = u64::from(read(self.address, at) & !15) | 0xffff_ffff << 32;
        write(self.address, at, low);
        let mut address = u64::from(low & !15);
        if wide && index < 5 {
            let high = read(self.address, at + 4);
            write(self.address, at + 4, u32::MAX);
            mask = mask & 0xffff_ffff | u64::from(read(self.address, at + 4)) << 32;
            write(self.address, at + 4, high);
            address |= u64::from(high) << 32;
        }
        write(self.address, COMMAND, command);
        let len = (!mask).wrapping_add(1);
        (address != 0 && len != 0).then_some((address, len))
    }

    /// Switches MSI-X on, all entries masked. `None` if the function has none.
    pub fn msix(&self) -> Option<Msix> {
        let capability = self.capabilities().into_iter().find(|c| c.id == CAP_MSIX)?;
        let control = read(self.address, capability.at);
        let entries = (control >> 16 & 0x7ff) + 1;
        let table = read(self.address, capability.at + 4);
        let (address, len) = self.bar((table & 7) as u8)?;
        let (offset, size) = (u64::from(table & !7), u64::from(entries) * 16);
        if offset + size > len {
            return None;
        }
        let table = Registers::map(address + offset, size);
        for entry in 0..u64::from(entries) {
            table.write(entry * 16 + 12, 1u32);
        }
        write(self.address, capability.at, control & !MSIX_MASK_ALL | MSIX_ENABLE);
        Some(Msix { table, entries })
    }
}

/// A function's MSI-X table.
pub struct Msix {
    table: Registers,
    entries: u32,
}

impl Msix {
    /// Lets entry `entry` send `message` (address, data).
    pub fn set(&self, entry: u32, message: (u64, u32)) -> bool {
        if entry >= self.entries {
            return false;
        }
        let at = u64::from(entry) * 16;
        self.table.write(at, message.0 as u32);
        self.table.write(at + 4, (message.0 >> 32) as u32);
        self.table.write(at + 8, message.1);
        self.table.write(at + 12, 0u32);
        true
    }
}
