//! Page tables of the kernel's half.

use crate::boot::BootInfo;
use crate::mm::{page_table, phys};
use crate::sync::IrqLock;
use x86_64::registers::control::{Cr3, Cr3Flags};
use x86_64::structures::paging::PhysFrame;
use x86_64::{PhysAddr, VirtAddr};

pub use x86_64::structures::paging::PageTableFlags as Flags;

/// Strongly uncached: write-through and cache-disable.
pub const UNCACHED: Flags = Flags::WRITE_THROUGH.union(Flags::NO_CACHE);

/// The physical address in an entry.
pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

static KERNEL_TABLES: IrqLock<()> = IrqLock::new(());

/// Where tables come from: a bump allocator at boot, the frame allocator later. Gives a zeroed frame.
type NewTable<'a> = &'a mut dyn FnMut() -> u64;

/// The entry for `virt` at `level` (1 = 4 KiB pages, 2 = 2 MiB, 3 = 1 GiB), making the tables above it; `None` if a
/// larger page maps it already.
///
/// # Safety
/// `root` is a page table that the caller may change, and its tables are readable at their address plus `offset`.
unsafe fn entry(root: u64, offset: u64, virt: u64, level: u32, new: NewTable<'_>) -> Option<*mut u64> {
    let mut table = root;
    let mut at = 4;
    loop {
        let index = virt >> (12 + 9 * (at - 1)) & 511;
        let slot = (offset + table + index * 8) as *mut u64;
        if at == level {
            return Some(slot);
        }
        // SAFETY: `table` is a page table (the root, or made below).
        unsafe {
            if slot.read() & Flags::PRESENT.bits() == 0 {
                slot.write(new() | (Flags::PRESENT | Flags::WRITABLE).bits());
            }
            if slot.read() & Flags::HUGE_PAGE.bits() != 0 {
                return None;
            }
            table = slot.read() & ADDRESS;
        }
        at -= 1;
    }
}

/// Writes the entry for `virt` at `level`, unless a larger page covers it.
///
/// # Safety
/// As for [`entry`].
unsafe fn set(root: u64, offset: u64, virt: u64, level: u32, value: u64, new: NewTable<'_>) {
    // SAFETY: promised by the caller.
    unsafe {
        if let Some(slot) = entry(root, offset, virt, level, new) {
            slot.write(value);
        }
    }
}

/// Makes the tables that the page at `virt` lacks, of the two lowest levels, so that [`map_kernel`] takes no frame for it. `false`
/// without memory.
pub fn make_tables(virt: u64) -> bool {
    let _tables = KERNEL_TABLES.lock();
    let mut spare = [page_table::new_table(), page_table::new_table()];
    let enough = spare.iter().all(Option::is_some);
    if enough {
        let mut new = || spare.iter_mut().find_map(Option::take).expect("a table for each level");
        // SAFETY: the kernel's own tables, locked; all RAM is in the direct map.
        unsafe { entry(phys::kernel_pml4(), phys::DIRECT_MAP, virt, 1, &mut new) };
    }
    spare.into_iter().flatten().for_each(page_table::free_table);
    enough
}

/// Maps one page of the kernel's half.
pub fn map_kernel(virt: u64, physical: u64, flags: Flags) {
    let _tables = KERNEL_TABLES.lock();
    let mut new = || page_table::new_table().expect("a frame for a kernel page table");
    // SAFETY: the kernel's own tables, locked; all RAM is in the direct map.
    unsafe {
        // In a large page of the direct map (RAM, or a device among it) it is reachable already.
        set(
            phys::kernel_pml4(),
            phys::DIRECT_MAP,
            virt,
            1,
            physical | flags.bits() | Flags::PRESENT.bits(),
            &mut new,
        );
    }
    x86_64::instructions::tlb::flush(VirtAddr::new(virt));
}

/// Takes the page at `virt` out of the kernel's half again: the frame that was mapped there. Processors may still hold the translation:
/// see [`tlb::shootdown`](super::tlb::shootdown), which must be done before the frame is used for something else.
pub fn unmap_kernel(virt: u64) -> Option<u64> {
    let _tables = KERNEL_TABLES.lock();
    let mut new = || page_table::new_table().expect("a frame for a kernel page table");
    // SAFETY: the kernel's own tables, locked.
    unsafe {
        let slot = entry(phys::kernel_pml4(), phys::DIRECT_MAP, virt, 1, &mut new)?;
        let old = slot.replace(0);
        (old & Flags::PRESENT.bits() != 0).then_some(old & ADDRESS)
    }
}

unsafe extern "C" {
    static __text_start: u8;
    static __text_end: u8;
    static __rodata_start: u8;
    static __rodata_end: u8;
    static __kernel_end: u8;
}

/// Physical address of the end of the image, its bss included.
pub fn image_end() -> u64 {
    &raw const __kernel_end as u64 - phys::KERNEL_BASE
}

/// Builds the kernel's tables (direct map of `boot`'s RAM, image with its rights) and loads them. `new` gives zeroed
/// frames below 4 GiB, which the boot tables map 1:1; `extra` bytes beyond the image (the symbol table) are mapped
/// read-only. Gives the physical address of the top table.
pub fn build_kernel_tables(boot: &BootInfo, extra: u64, new: NewTable<'_>) -> u64 {
    let root = new();
    let gigantic = super::cpuid(0x8000_0001, 0).edx & 1 << 26 != 0;
    let flags = Flags::PRESENT | Flags::WRITABLE | Flags::NO_EXECUTE;
    const GIB: u64 = 1 << 30;
    const LARGE: u64 = 2 << 20;
    for &(start, end) in boot.ram() {
        // Whole 2 MiB pages around the RAM: what else lies in them (firmware tables, ROM) is write-back, too. Not so
        // above: devices have their own 2 MiB pages at least 2 MiB away from RAM in every machine model known.
        let mut at = start & !(LARGE - 1);
        let end = end.next_multiple_of(LARGE);
        while at < end {
            // SAFETY: tables come from `new`; identity mapped, so offset 0.
            unsafe {
                if gigantic && at.is_multiple_of(GIB) && at + GIB <= end {
                    set(root, 0, phys::DIRECT_MAP + at, 3, at | (flags | Flags::HUGE_PAGE).bits(), new);
                    at += GIB;
                } else {
                    set(root, 0, phys::DIRECT_MAP + at, 2, at | (flags | Flags::HUGE_PAGE).bits(), new);
                    at += LARGE;
                }
            }
        }
    }
    let text = &raw const __text_start as u64..&raw const __text_end as u64;
    let rodata = &raw const __rodata_start as u64..&raw const __rodata_end as u64;
    let end = &raw const __kernel_end as u64;
    let mut page = text.start;
    while page < end + extra {
        let rights = if text.contains(&page) {
            Flags::PRESENT
        } else if rodata.contains(&page) || page >= end {
            Flags::PRESENT | Flags::NO_EXECUTE
        } else {
            flags
        };
        // SAFETY: as above.
        unsafe {
            set(root, 0, page, 1, (page - phys::KERNEL_BASE) | rights.bits(), new);
        }
        page += 4096;
    }
    // The tables for kernel stacks exist from the start, so that every address space shares them.
    // SAFETY: as above.
    unsafe { entry(root, 0, crate::mm::stack::REGION, 3, new) };
    load(root);
    root
}

/// Loads a top page table on this processor. Interrupts are off, or nobody else changes this processor's table.
pub fn load(root: u64) {
    // SAFETY: every root shares the kernel's half, so execution goes on.
    unsafe { Cr3::write(PhysFrame::containing_address(PhysAddr::new(root)), Cr3Flags::empty()) }
}
