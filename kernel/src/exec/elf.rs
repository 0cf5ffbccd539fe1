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

const MAX_HEADERS: u64 = 128;
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

fn read_exact(file: &File, offset: u64, buf: &mut [u8]) -> Result<(), Errno> {
    if file.inode().read_at(offset, buf)? == buf.len() { Ok(()) } else { Err(Errno::ENOEXEC) }
}

impl Elf {
    /// Reads and checks the headers. [`Errno::ENOEXEC`] for anything but an x86-64 executable.
    pub fn read(file: &File) -> Result<Elf, Errno> {
        let mut h = [0; 64];
        read_exact(file, 0, &mut h)?;
        let (kind, machine) = (u16_at(&h, 16), u16_at(&h, 18));
        if h[..6] != *b"\x7fELF\x02\x01" || machine != 62 || !(kind == 2 || kind == 3) {
            return Err(Errno::ENOEXEC);
        }
        let (offset, size, count) = (u64_at(&h, 32), u16_at(&h, 54), u16_at(&h, 56));
        if size != 56 || count == 0 || count > MAX_HEADERS {
            return Err(Errno::ENOEXEC);
        }
        let mut table = alloc::vec![0; (size * count) as usize];
        read_exact(file, offset, &mut table)?;
        let mut elf = Elf {
            dynamic: kind == 3,
            entry: u64_at(&h, 24),
            headers: (offset, size, count),
            header_address: None,
            segments: Vec::new(),
            interpreter: None,
            executable_stack: false,
        };
        for ph in table.chunks_exact(56) {
            elf.take_header(file, ph)?;
        }
        elf.segments.sort_by_key(|s| s.address);
        let overlap = elf.segments.windows(2).any(|w| w[0].address + w[0].mem_size > w[1].address);
        if elf.segments.is_empty() || overlap {
            return Err(Errno::ENOEXEC);
        }
        if elf.header_address.is_none() {
            let holds = |s: &&Segment| s.offset <= offset && offset + size * count <= s.offset + s.file_size;
            elf.header_address = elf.segments.iter().find(holds).map(|s| s.address + (offset - s.offset));
        }
        Ok(elf)
    }

    fn take_header(&mut self, file: &File, ph: &[u8]) -> Result<(), Errno> {
        let flags = u32_at(ph, 4);
        let (offset, address) = (u64_at(ph, 8), u64_at(ph, 16));
        let (file_size, mem_size) = (u64_at(ph, 32), u64_at(ph, 40));
        match u32_at(ph, 0) {
            PT_LOAD if mem_size > 0 => {
                let sane = file_size <= mem_size
                    && address.checked_add(mem_size).is_some_and(|e| e < 1 << 47)
                    && offset.checked_add(file_size).is_some_and(|e| e < 1 << 62)
                    && offset % 4096 == address % 4096;
                if !sane {
                    return Err(Errno::ENOEXEC);
                }
                // ELF's bits are R=4 W=2 X=1; PROT_* are R=1 W=2 X=4.
                let prot = (flags & 4) >> 2 | flags & 2 | (flags & 1) << 2;
                let align = u64_at(ph, 48);
                self.segments.push(Segment { offset, address, file_size, mem_size, prot, align });
            }
            PT_INTERP => {
                if !(2..4096).contains(&file_size) {
                    return Err(Errno::ENOEXEC);
                }
                let mut path = alloc::vec![0; file_size as usize];
                read_exact(file, offset, &mut path)?;
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
