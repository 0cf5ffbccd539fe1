//! What the loader told us: memory map, command line, initrd, ACPI root. Copied early, as the tables lie in memory
//! that will be reused.

use crate::cmdline::CommandLine;
use core::ops::Range;
use spin::Once;

const MAX_REGIONS: usize = 64;
const MAX_CMDLINE: usize = 8192;
const HVM_START_MAGIC: u32 = 0x336e_c578;

/// What the loader told us.
pub struct BootInfo {
    /// Name of the protocol, for the log.
    pub protocol: &'static str,
    regions: [(u64, u64); MAX_REGIONS],
    region_count: usize,
    cmdline: [u8; MAX_CMDLINE],
    cmdline_len: usize,
    /// Physical range of the initial ramdisk.
    pub initrd: Option<Range<u64>>,
    /// Physical address of the ACPI root pointer, if the loader gave it.
    pub rsdp: Option<u64>,
}

static BOOT: Once<BootInfo> = Once::new();

/// What the loader told us. Valid from [`init`] on.
pub fn info() -> &'static BootInfo {
    BOOT.get().expect("read in the first lines of the kernel")
}

impl BootInfo {
    /// Usable RAM as the loader lists it: physical `(start, end)`, not page-aligned, in the loader's order.
    pub fn ram(&self) -> &[(u64, u64)] {
        &self.regions[..self.region_count]
    }

    /// The kernel command line.
    pub fn cmdline(&self) -> CommandLine<'_> {
        CommandLine::new(core::str::from_utf8(&self.cmdline[..self.cmdline_len]).unwrap_or(""))
    }

    fn push_ram(&mut self, start: u64, size: u64) {
        if size > 0 && self.region_count < MAX_REGIONS {
            self.regions[self.region_count] = (start, start.saturating_add(size));
            self.region_count += 1;
        }
    }

    fn copy_cmdline(&mut self, address: u64) {
        if address == 0 {
            return;
        }
        // SAFETY: the loader promises a zero-terminated string there; the boot page tables map it 1:1.
        let byte = |i: usize| unsafe { ((address + i as u64) as *const u8).read() };
        while self.cmdline_len < MAX_CMDLINE && byte(self.cmdline_len) != 0 {
            self.cmdline[self.cmdline_len] = byte(self.cmdline_len);
            self.cmdline_len += 1;
        }
    }
}

/// Reads a value at a physical address below 4 GiB (identity mapped by the boot tables). QEMU's PVH blob gives
/// misaligned tables.
///
/// # Safety
/// The boot page tables are active and the loader's protocol puts a `T` there.
unsafe fn peek<T: Copy>(address: u64) -> T {
    // SAFETY: promised by the caller.
    unsafe { (address as *const T).read_unaligned() }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct HvmStartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    module_count: u32,
    modules: u64,
    cmdline: u64,
    rsdp: u64,
    memmap: u64,
    memmap_count: u32,
    reserved: u32,
}

/// Copies the loader's tables. `protocol`: 1 = PVH, 3 = Linux 64-bit (set by `boot.s`); `info`: physical address.
pub fn init(protocol: u32, info: u64) {
    BOOT.call_once(|| {
        let mut boot = BootInfo {
            protocol: if protocol == 1 { "PVH" } else { "Linux 64-bit" },
            regions: [(0, 0); MAX_REGIONS],
            region_count: 0,
            cmdline: [0; MAX_CMDLINE],
            cmdline_len: 0,
            initrd: None,
            rsdp: None,
        };
        if protocol == 1 {
            from_pvh(&mut boot, info)
        } else {
            from_linux(&mut boot, info)
        }
        boot
    });
}

fn from_pvh(boot: &mut BootInfo, info: u64) {
    // SAFETY: PVH: ebx holds the address of the start info.
    let start: HvmStartInfo = unsafe { peek(info) };
    assert_eq!(start.magic, HVM_START_MAGIC, "not a PVH start info");
    if start.version >= 1 {
        for i in 0..u64::from(start.memmap_count) {
            // SAFETY: entries of 24 bytes: address, size, type, reserved.
            let (address, size, kind): (u64, u64, u32) = unsafe {
                let entry = start.memmap + i * 24;
                (peek(entry), peek(entry + 8), peek(entry + 16))
            };
            if kind == 1 {
                boot.push_ram(address, size);
            }
        }
    }
    if start.module_count > 0 {
        // SAFETY: entries of 32 bytes: address, size, command line, reserved.
        let (address, size): (u64, u64) = unsafe { (peek(start.modules), peek(start.modules + 8)) };
        boot.initrd = Some(address..address + size);
    }
    boot.rsdp = Some(start.rsdp).filter(|rsdp| *rsdp != 0);
    boot.copy_cmdline(start.cmdline);
}

fn from_linux(boot: &mut BootInfo, params: u64) {
    // SAFETY: Linux boot protocol: offsets of `struct boot_params` (e820_entries, e820_table, setup_header).
    unsafe {
        for i in 0..u64::from(peek::<u8>(params + 0x1e8)) {
            let entry = params + 0x2d0 + i * 20;
            if peek::<u32>(entry + 16) == 1 {
                boot.push_ram(peek(entry), peek(entry + 8));
            }
        }
        let (start, size) = (u64::from(peek::<u32>(params + 0x218)), u64::from(peek::<u32>(params + 0x21c)));
        if size > 0 {
            boot.initrd = Some(start..start + size);
        }
        boot.rsdp = Some(peek::<u64>(params + 0x70)).filter(|rsdp| *rsdp != 0);
        boot.copy_cmdline(u64::from(peek::<u32>(params + 0x228)));
    }
}
