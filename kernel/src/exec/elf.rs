//! The headers of ELF executables (x86-64), read from a file and checked.

use alloc::vec::Vec;
use vfs::Errno;
use vfs::file::File;

/// A loadable piece of the file.
#[derive(Debug, Clone, Copy)]
pub struct Segment {
    /// Offset in the file.
    pub offset: u64,
    /// Address, before the load bias.
    pub address: u64,
    /// Bytes in the file.
    pub file_size: u64,
    /// Bytes in memory; the rest is zeros.
    pub mem_size: u64,
    /// Rights as `PROT_*`.
    pub prot: u32,
    /// Wanted alignment in bytes.
    pub align: u64,
}

/// What the loader needs to know of an executable.
#[derive(Debug)]
pub struct Elf {
    /// Position-independent (`ET_DYN`).
    pub dynamic: bool,
    /// First instruction, before the load bias.
    pub entry: u64,
    /// Program headers: offset in the file, size of one, how many.
    pub headers: (u64, u64, u64),
    /// Where the program headers are in memory, if a header says so.
    pub header_address: Option<u64>,
    /// Loadable segments, by address.
    pub segments: Vec<Segment>,
    /// Path of the program interpreter.
    pub interpreter: Option<Vec<u8>>,
    /// The stack must be executable.
    pub executable_stack: bool,
}

/// Why a program cannot be run.
#[derive(Debug, Clone, Copy)]
pub struct Refused {
    /// What `execve` answers.
    pub errno: Errno,
    /// The rule that the file breaks, in words; empty if the error says all.
    pub why: &'static str,
}

impl Refused {
    /// [`Errno::ENOEXEC`] for this reason.
    pub const fn format(why: &'static str) -> Self {
        Refused { errno: Errno::ENOEXEC, why }
    }
}

impl From<Errno> for Refused {
    fn from(errno: Errno) -> Self {
        Refused { errno, why: "" }
    }
}

const MAX_HEADERS: u64 = 128;
/// Size of a program header.
const HEADER_SIZE: u64 = 56;
const PAGE: u64 = 4096;
/// No address of a program is higher, and no file is as long.
const ADDRESS_END: u64 = 1 << 47;
const OFFSET_END: u64 = 1 << 62;
const EXECUTE: u32 = 4;
const PATH_MAX: u64 = 4096;
const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_PHDR: u32 = 6;
const PT_GNU_STACK: u32 = 0x6474_e551;

fn u16_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// Fills `buf` from `offset` on; `short` if the file ends before.
fn read_exact(file: &File, offset: u64, buf: &mut [u8], short: Refused) -> Result<(), Refused> {
    let end = offset.checked_add(buf.len() as u64);
    if end.is_none_or(|end| end > OFFSET_END) {
        return Err(short);
    }
    if file.inode().read_at(offset, buf)? == buf.len() { Ok(()) } else { Err(short) }
}

impl Elf {
    /// Reads and checks the headers. Most flaws are [`Errno::ENOEXEC`], as on Linux; what Linux notices only when there is no way
    /// back, and ends the program for, is so here, too.
    pub fn read(file: &File) -> Result<Elf, Refused> {
        let mut h = [0; 64];
        read_exact(file, 0, &mut h, Refused::format("it is shorter than an ELF header"))?;
        let (kind, machine) = (u16_at(&h, 16), u16_at(&h, 18));
        let (offset, size, count) = (u64_at(&h, 32), u16_at(&h, 54), u16_at(&h, 56));
        let why = if h[..6] != *b"\x7fELF\x02\x01" {
            "it is not a 64-bit little-endian ELF file"
        } else if !(kind == 2 || kind == 3) {
            "it is neither an executable nor a shared object"
        } else if machine != 62 {
            "it is for another machine than x86-64"
        } else if !(1..=MAX_HEADERS).contains(&count) {
            "it has no program headers, or too many"
        } else if size != HEADER_SIZE {
            "its program headers have another size"
        } else {
            ""
        };
        if !why.is_empty() {
            return Err(Refused::format(why));
        }
        let mut table = alloc::vec![0; (size * count) as usize];
        read_exact(file, offset, &mut table, Refused::format("its program headers lie outside of it"))?;
        let mut elf = Elf {
            dynamic: kind == 3,
            entry: u64_at(&h, 24),
            headers: (offset, size, count),
            header_address: None,
            segments: Vec::new(),
            interpreter: None,
            executable_stack: false,
        };
        // The last page of a file is there as a whole.
        let file_end = file.inode().stat()?.size.checked_next_multiple_of(PAGE).unwrap_or(OFFSET_END);
        for ph in table.chunks_exact(HEADER_SIZE as usize) {
            elf.take_header(file, file_end, ph)?;
        }
        elf.segments.sort_by_key(|s| s.address);
        elf.check_segments()?;
        if elf.header_address.is_none() {
            let holds = |s: &&Segment| s.offset <= offset && offset + size * count <= s.offset + s.file_size;
            elf.header_address = elf.segments.iter().find(holds).map(|s| s.address + (offset - s.offset));
        }
        Ok(elf)
    }

    /// First address behind all segments, before the load bias.
    pub fn end(&self) -> u64 {
        self.segments.iter().map(|s| s.address + s.mem_size).max().unwrap_or(0)
    }

    fn check_segments(&self) -> Result<(), Refused> {
        if self.segments.is_empty() {
            return Err(Refused::format("it has nothing to load"));
        }
        if self.segments.windows(2).any(|w| w[0].address + w[0].mem_size > w[1].address) {
            return Err(Refused::format("its segments overlap"));
        }
        let holds = |s: &&Segment| self.entry >= s.address && self.entry - s.address < s.mem_size;
        match self.segments.iter().find(holds) {
            None => Err(Refused::format("its first instruction is outside of all segments")),
            Some(s) if s.prot & EXECUTE == 0 => {
                Err(Refused::format("its first instruction is not executable"))
            }
            Some(_) => Ok(()),
        }
    }

    fn take_header(&mut self, file: &File, file_end: u64, ph: &[u8]) -> Result<(), Refused> {
        let flags = u32_at(ph, 4);
        let (offset, address) = (u64_at(ph, 8), u64_at(ph, 16));
        let (file_size, mem_size) = (u64_at(ph, 32), u64_at(ph, 40));
        match u32_at(ph, 0) {
            PT_LOAD if mem_size > 0 || file_size > 0 => {
                let why = if file_size > mem_size {
                    "a segment is longer in the file than in memory"
                } else if address.checked_add(mem_size).is_none_or(|end| end >= ADDRESS_END) {
                    "a segment ends beyond all addresses"
                } else if file_size > 0 && offset % PAGE != address % PAGE {
                    "a segment's address and its place in the file differ within a page"
                } else if file_size > 0 && offset.checked_add(file_size).is_none_or(|end| end > file_end) {
                    "a segment lies outside of the file"
                } else {
                    ""
                };
                if !why.is_empty() {
                    return Err(Refused::format(why));
                }
                // ELF's bits are R=4 W=2 X=1; PROT_* are R=1 W=2 X=4.
                let prot = (flags & 4) >> 2 | flags & 2 | (flags & 1) << 2;
                let align = u64_at(ph, 48);
                // Where nothing is in the file, it does not matter where.
                let offset = if file_size > 0 { offset } else { address % PAGE };
                self.segments.push(Segment { offset, address, file_size, mem_size, prot, align });
            }
            // The first one counts.
            PT_INTERP if self.interpreter.is_none() => {
                if !(2..=PATH_MAX).contains(&file_size) {
                    return Err(Refused::format("its interpreter's path has no sane length"));
                }
                let mut path = alloc::vec![0; file_size as usize];
                let why = "its interpreter's path lies outside of the file";
                read_exact(file, offset, &mut path, Refused { errno: Errno::EIO, why })?;
                if path.last() != Some(&0) {
                    return Err(Refused::format("its interpreter's path does not end"));
                }
                path.truncate(path.iter().position(|b| *b == 0).unwrap_or(path.len()));
                self.interpreter = Some(path);
            }
            PT_PHDR => self.header_address = Some(address),
            PT_GNU_STACK => self.executable_stack = flags & 1 != 0,
            _ => {}
        }
        Ok(())
    }
}
