//! The smallest ELF programs, made by hand.

/// Where the program is loaded.
const BASE: u64 = 0x40_0000;
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;

fn header(segments: u16, entry: u64) -> Vec<u8> {
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    elf.extend(2u16.to_le_bytes()); // ET_EXEC
    elf.extend(62u16.to_le_bytes()); // x86-64
    elf.extend(1u32.to_le_bytes());
    elf.extend(entry.to_le_bytes());
    elf.extend((HEADER as u64).to_le_bytes());
    elf.extend(0u64.to_le_bytes());
    elf.extend(0u32.to_le_bytes());
    for half in [HEADER as u16, PROGRAM_HEADER as u16, segments, 64, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    elf
}

fn segment(kind: u32, flags: u32, offset: u64, size: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(kind.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    for word in [offset, BASE + offset, BASE + offset, size, size, 4096] {
        bytes.extend(word.to_le_bytes());
    }
    bytes
}

/// A statically linked program of these instructions.
#[must_use]
pub fn static_program(code: &[u8]) -> Vec<u8> {
    let start = (HEADER + PROGRAM_HEADER) as u64;
    let mut elf = header(1, BASE + start);
    elf.extend(segment(1, 5, 0, start + code.len() as u64));
    elf.extend(code);
    elf
}

/// A program that asks for an interpreter.
#[must_use]
pub fn with_interpreter(path: &str) -> Vec<u8> {
    let start = (HEADER + 2 * PROGRAM_HEADER) as u64;
    let len = path.len() as u64 + 1;
    let mut elf = header(2, BASE + start + len);
    elf.extend(segment(3, 4, start, len));
    elf.extend(segment(1, 5, 0, start + len + 2));
    elf.extend(path.as_bytes());
    elf.push(0);
    elf.extend([0xeb, 0xfe]);
    elf
}
