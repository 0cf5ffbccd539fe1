//! The few ACPI tables that matter: MADT (processors, IOAPICs), MCFG (PCI), FADT (power-off, power button), and three patterns
//! in the DSDT's byte code (virtio-mmio devices, the `\_S5` package, the generic event device), which needs no interpreter.

use crate::arch::port::{inw, outb, outw};
use crate::boot;
use crate::mm::phys;
use alloc::vec::Vec;
use spin::Once;

/// An IOAPIC of the MADT.
#[derive(Debug, Clone, Copy)]
pub struct IoApic {
    /// Physical address.
    pub address: u64,
    /// First global system interrupt.
    pub first_gsi: u32,
}

/// A virtio-mmio device of the DSDT (`_HID` LNRO0005).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VirtioMmio {
    /// Physical address of its registers.
    pub address: u64,
    /// Its interrupt.
    pub gsi: u32,
}

#[derive(Debug, Clone, Copy)]
enum PowerOff {
    /// PM1a (and PM1b) control ports with their sleep types.
    Pm1 { a: u16, b: u16, type_a: u16, type_b: u16 },
    /// Hardware-reduced: the sleep control register (memory or port) and its sleep type.
    SleepControl { address: u64, memory: bool, kind: u8 },
}

/// How the power button tells that it was pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerButton {
    /// By a bit of the fixed event registers.
    Fixed {
        /// The interrupt of the system's events, as an ISA line.
        irq: u8,
        /// Port of the status register of block PM1a.
        status: u16,
        /// Port of its enable register.
        enable: u16,
        /// Port of the control register, whose bit 0 says that events are ours and not the firmware's.
        control: u16,
        /// The port that asks the firmware for them, and what to write there; port 0: they are ours from the start.
        handover: (u16, u8),
    },
    /// By a register of QEMU's generic event device (`ACPI0013`), where there are no fixed ones.
    Generic {
        /// Its interrupt.
        gsi: u32,
        /// Physical address of the register, 4 bytes, which tells what has happened since it was read last.
        select: u64,
    },
}

/// What the tables say.
#[derive(Debug, Default)]
pub struct Tables {
    /// APIC ids of the processors that may be started.
    pub processors: Vec<u32>,
    /// The IOAPICs.
    pub ioapics: Vec<IoApic>,
    /// Where ISA interrupts go that are not identity-mapped: (irq, gsi).
    pub overrides: Vec<(u8, u32)>,
    /// PCI configuration space: (physical address, first bus, last bus) of segment 0.
    pub ecam: Option<(u64, u8, u8)>,
    /// virtio-mmio devices.
    pub virtio_mmio: Vec<VirtioMmio>,
    /// The power button.
    pub power_button: Option<PowerButton>,
    power_off: Option<PowerOff>,
}

/// Flags of the FADT: the power button is not among the fixed registers; there are no fixed registers.
const NO_FIXED_BUTTON: u32 = 1 << 4;
const HARDWARE_REDUCED: u32 = 1 << 20;

static TABLES: Once<Tables> = Once::new();

/// What the tables say; empty without ACPI.
pub fn tables() -> &'static Tables {
    TABLES.call_once(read)
}

/// A table's bytes, mapped for ever.
fn table(address: u64) -> Option<&'static [u8]> {
    if address == 0 {
        return None;
    }
    let header = bytes(address, 36);
    let len = le32(header, 4)? as usize;
    (36..1 << 24).contains(&len).then(|| bytes(address, len))
}

/// Firmware memory; it may lie outside of what the loader called RAM.
pub(super) fn bytes(address: u64, len: usize) -> &'static [u8] {
    phys::map_device(address, len as u64);
    // SAFETY: mapped now, never written by us nor by devices.
    unsafe { core::slice::from_raw_parts(phys::to_virt(address), len) }
}

pub(super) fn le16(b: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(b.get(at..at + 2)?.try_into().ok()?))
}

pub(super) fn le32(b: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(b.get(at..at + 4)?.try_into().ok()?))
}

fn le64(b: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(b.get(at..at + 8)?.try_into().ok()?))
}

fn find_rsdp() -> Option<u64> {
    boot::info().rsdp.or_else(|| {
        let bios = bytes(0xe0000, 0x20000);
        (0..bios.len() - 36)
            .step_by(16)
            .find(|i| bios[*i..].starts_with(b"RSD PTR "))
            .map(|i| 0xe0000 + i as u64)
    })
}

/// What the tables say, or the older MP table where there is no ACPI (Firecracker, `microvm,acpi=off`).
fn read() -> Tables {
    let mut tables = read_acpi();
    if tables.processors.is_empty() {
        super::mp_table::read(&mut tables);
    }
    if tables.ioapics.is_empty() {
        tables.ioapics.push(IoApic { address: 0xfec0_0000, first_gsi: 0 });
    }
    tables
}

fn read_acpi() -> Tables {
    let mut tables = Tables::default();
    let Some(rsdp) = find_rsdp().map(|address| bytes(address, 36)) else { return tables };
    let revision = rsdp[15];
    let (root, width) = match le64(rsdp, 24).filter(|xsdt| revision >= 2 && *xsdt != 0) {
        Some(xsdt) => (xsdt, 8),
        None => (u64::from(le32(rsdp, 16).unwrap_or(0)), 4),
    };
    let Some(root) = table(root) else { return tables };
    for entry in root[36..].chunks_exact(width) {
        let address = if width == 8 { le64(entry, 0) } else { le32(entry, 0).map(u64::from) };
        let Some(found) = address.and_then(table) else { continue };
        match &found[..4] {
            b"APIC" => madt(found, &mut tables),
            b"MCFG" => {
                tables.ecam = le64(found, 44)
                    .zip(found.get(54).copied().zip(found.get(55).copied()))
                    .map(|(address, (first, last))| (address, first, last));
            }
            b"FACP" => fadt(found, &mut tables),
            _ => {}
        }
    }
    tables
}

fn madt(madt: &[u8], tables: &mut Tables) {
    let mut at = 44;
    while at + 2 <= madt.len() {
        let len = usize::from(madt[at + 1]).max(2);
        let Some(entry) = madt.get(at..at + len) else { return };
        at += len;
        match entry[0] {
            // Local APIC: flags bit 0 = enabled, bit 1 = may be enabled.
            0 if entry.len() >= 8 && entry[4] & 3 != 0 => tables.processors.push(u32::from(entry[3])),
            9 if entry.len() >= 16 && entry[8] & 3 != 0 => tables.processors.extend(le32(entry, 4)),
            1 => {
                if let (Some(address), Some(first_gsi)) = (le32(entry, 4), le32(entry, 8)) {
                    tables.ioapics.push(IoApic { address: u64::from(address), first_gsi });
                }
            }
            2 => tables.overrides.extend(entry.get(3).copied().zip(le32(entry, 4))),
            _ => {}
        }
    }
}

fn fadt(fadt: &[u8], tables: &mut Tables) {
    let dsdt = le64(fadt, 140).filter(|a| *a != 0).or(le32(fadt, 40).map(u64::from));
    let Some(dsdt) = dsdt.and_then(table) else { return };
    tables.virtio_mmio = virtio_mmio(dsdt);
    let (type_a, type_b) = s5(dsdt).unwrap_or((5, 5));
    let flags = le32(fadt, 112).unwrap_or(0);
    if flags & HARDWARE_REDUCED != 0 {
        // Generic address structure at 244: space, width, offset, access, address.
        if let (Some(space), Some(address)) = (fadt.get(244), le64(fadt, 248)) {
            let memory = *space == 0;
            if memory {
                phys::map_device(address, 1);
            }
            tables.power_off = Some(PowerOff::SleepControl { address, memory, kind: type_a as u8 });
        }
        tables.power_button = generic_events(dsdt);
    } else if let (Some(a), Some(b)) = (le32(fadt, 64), le32(fadt, 68)) {
        tables.power_off = Some(PowerOff::Pm1 { a: a as u16, b: b as u16, type_a, type_b });
        if flags & NO_FIXED_BUTTON == 0 {
            tables.power_button = fixed_button(fadt, a as u16);
        }
    }
}

/// The fixed power button. `PM1_EVT_LEN` covers the status register and the enable register behind it.
fn fixed_button(fadt: &[u8], control: u16) -> Option<PowerButton> {
    let irq = u8::try_from(le16(fadt, 46)?).ok()?;
    let status = u16::try_from(le32(fadt, 56)?).ok().filter(|port| *port != 0)?;
    let enable = status + u16::from(*fadt.get(88)? / 2);
    let handover = (u16::try_from(le32(fadt, 48)?).ok()?, *fadt.get(52)?);
    Some(PowerButton::Fixed { irq, status, enable, control, handover })
}

/// The generic event device: its `Extended Interrupt` descriptor, and `OperationRegion (EREG, SystemMemory, address, …)`.
fn generic_events(aml: &[u8]) -> Option<PowerButton> {
    let at = aml.windows(8).position(|w| w == b"ACPI0013")? + 8;
    let window = &aml[at..aml.len().min(at + 128)];
    let interrupt = window.windows(3).position(|w| w == [0x89, 0x06, 0x00])?;
    let region = window.windows(8).position(|w| w == b"\x5b\x80EREG\x00\x0c")?;
    let (gsi, select) = (le32(window, interrupt + 5)?, le32(window, region + 8)?);
    Some(PowerButton::Generic { gsi, select: u64::from(select) })
}

/// The sleep types of `Name (_S5, Package () {a, b, …})`.
fn s5(aml: &[u8]) -> Option<(u16, u16)> {
    let at = aml.windows(4).position(|w| w == b"_S5_")? + 4;
    let body = aml.get(at..at + 16)?;
    // PackageOp, PkgLength (one byte in so small a package), NumElements, then integers.
    let mut elements = body.get(3..)?.iter().copied();
    if body[0] != 0x12 {
        return None;
    }
    let mut integer = || match elements.next()? {
        0 => Some(0),
        1 => Some(1),
        0x0a => elements.next().map(u16::from),
        _ => None,
    };
    let a = integer()?;
    Some((a, integer().unwrap_or(a)))
}

/// Devices named LNRO0005: the `Memory32Fixed` and the `Extended Interrupt` descriptor that follow the name.
fn virtio_mmio(aml: &[u8]) -> Vec<VirtioMmio> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(step) = aml[at..].windows(8).position(|w| w == b"LNRO0005") {
        at += step + 8;
        let window = &aml[at..aml.len().min(at + 128)];
        let memory = window.windows(3).position(|w| w == [0x86, 0x09, 0x00]);
        let interrupt = window.windows(3).position(|w| w == [0x89, 0x06, 0x00]);
        if let (Some(m), Some(i)) = (memory, interrupt)
            && let (Some(address), Some(gsi)) = (le32(window, m + 4), le32(window, i + 5))
        {
            found.push(VirtioMmio { address: u64::from(address), gsi });
        }
    }
    found
}

/// Switches the machine off; returns if it cannot.
pub fn power_off() {
    const SLEEP_ENABLE: u16 = 1 << 13;
    match TABLES.get().and_then(|t| t.power_off) {
        Some(PowerOff::Pm1 { a, b, type_a, type_b }) => {
            let keep = inw(a) & !(7 << 10);
            outw(a, keep | type_a << 10 | SLEEP_ENABLE);
            if b != 0 {
                outw(b, type_b << 10 | SLEEP_ENABLE);
            }
        }
        Some(PowerOff::SleepControl { address, memory, kind }) => {
            let value = kind << 2 | 1 << 5;
            if memory {
                // SAFETY: the firmware says that the sleep control register is there; mapped when that was read.
                unsafe { phys::to_virt(address).write_volatile(value) };
            } else {
                outb(address as u16, value);
            }
        }
        None => {}
    }
}
