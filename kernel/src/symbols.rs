//! Names for addresses: the symbol table that the build puts into the image's last segment.
//!
//! # Format (little endian)
//! `magic[8] = "tarnsym1"`, `u32 count`, `u32 bytes of the whole table`, then `count` pairs `(u32 offset from the start
//! of .text, u32 position of the name)` in ascending order, then the names, each ended by a zero byte. Names are
//! mangled as the linker knows them, without the hash. `tools/symbols.rs` writes it.

use core::ffi::CStr;
use rustc_demangle::Demangle;

const MAGIC: [u8; 8] = *b"tarnsym1";
const HEADER: usize = 16;

/// What the linker puts there; a build without the symbol step leaves it.
#[used]
#[unsafe(link_section = ".symbols")]
static PLACE_HOLDER: [u8; HEADER] = *b"tarnsym1\0\0\0\0\x10\0\0\0";

unsafe extern "C" {
    static __symbols_start: u8;
    static __text_start: u8;
    static __text_end: u8;
}

fn word(at: usize) -> u32 {
    // SAFETY: inside the table, whose length its header gives; mapped by the kernel's page tables.
    unsafe { (&raw const __symbols_start).add(at).cast::<u32>().read_unaligned() }
}

/// Bytes of memory that the table occupies behind the image.
pub fn size() -> u64 {
    // SAFETY: the place holder is at least a header long.
    let magic = unsafe { (&raw const __symbols_start).cast::<[u8; 8]>().read_unaligned() };
    if magic == MAGIC { u64::from(word(12)) } else { HEADER as u64 }
}

/// The function that holds `address` and the offset in it.
pub fn find(address: u64) -> Option<(Demangle<'static>, u64)> {
    let start = &raw const __text_start as u64;
    if !(start..&raw const __text_end as u64).contains(&address) {
        return None;
    }
    let offset = (address - start) as u32;
    let (mut low, mut high) = (0, word(8) as usize);
    while low < high {
        let middle = low.midpoint(high);
        if word(HEADER + middle * 8) <= offset { low = middle + 1 } else { high = middle }
    }
    let entry = HEADER + low.checked_sub(1)? * 8;
    // SAFETY: the builder ends every name with a zero byte.
    let name = unsafe { CStr::from_ptr((&raw const __symbols_start).add(word(entry + 4) as usize).cast()) };
    Some((rustc_demangle::demangle(name.to_str().ok()?), u64::from(offset - word(entry))))
}
