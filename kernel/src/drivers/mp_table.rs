//! The Intel MultiProcessor table: processors and IOAPICs on machines without ACPI.

use super::acpi::{IoApic, Tables, bytes, le16, le32};

/// Where the floating pointer may be: the last KiB of base memory, the extended BIOS data area's usual place, the ROM.
const PLACES: [(u64, usize); 3] = [(0x9fc00, 0x400), (0x9f000, 0x400), (0xf0000, 0x10000)];
const HEADER: usize = 44;

/// Adds what the table says to `tables`.
pub(super) fn read(tables: &mut Tables) {
    let pointer = PLACES.iter().find_map(|&(start, len)| {
        let area = bytes(start, len);
        let at = (0..len - 15).step_by(16).find(|at| area[*at..].starts_with(b"_MP_"))?;
        le32(area, at + 4)
    });
    let Some(address) = pointer.filter(|address| *address != 0) else { return };
    let header = bytes(u64::from(address), HEADER);
    let Some(len) = le16(header, 4).filter(|_| header.starts_with(b"PCMP")) else { return };
    let table = bytes(u64::from(address), usize::from(len).max(HEADER));
    let mut at = HEADER;
    while let Some(kind) = table.get(at) {
        // A processor takes 20 bytes, everything else 8.
        let entry_len = if *kind == 0 { 20 } else { 8 };
        let Some(entry) = table.get(at..at + entry_len) else { return };
        at += entry_len;
        match kind {
            0 if entry[3] & 1 != 0 => tables.processors.push(u32::from(entry[1])),
            2 if entry[3] & 1 != 0 => {
                if let Some(address) = le32(entry, 4) {
                    tables.ioapics.push(IoApic { address: u64::from(address), first_gsi: 0 });
                }
            }
            _ => {}
        }
    }
}
