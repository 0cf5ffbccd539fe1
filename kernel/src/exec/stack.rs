//! The initial stack of a program: arguments, environment and the auxiliary vector, as the System V ABI lays them out.

use crate::arch::{self, fpu, random};
use crate::mm::address_space::{AddressSpace, PAGE};
use alloc::vec::Vec;
use vfs::Errno;

/// What the auxiliary vector tells.
pub struct Layout {
    /// Where the vDSO's image is.
    pub vdso: u64,
    /// Top of the stack's area.
    pub top: u64,
    /// Address of the program headers.
    pub headers: u64,
    /// Size of one.
    pub header_size: u64,
    /// How many.
    pub header_count: u64,
    /// Where the interpreter was loaded; 0 without one.
    pub interpreter_base: u64,
    /// The program's own entry.
    pub entry: u64,
}

/// Arguments and environment may take so many bytes, as a quarter of the stack on Linux.
const MAX_STRINGS: usize = 2 << 20;

const AT_PHDR: u64 = 3;
const AT_PHENT: u64 = 4;
const AT_PHNUM: u64 = 5;
const AT_PAGESZ: u64 = 6;
const AT_BASE: u64 = 7;
const AT_FLAGS: u64 = 8;
const AT_ENTRY: u64 = 9;
const AT_UID: u64 = 11;
const AT_EUID: u64 = 12;
const AT_GID: u64 = 13;
const AT_EGID: u64 = 14;
const AT_PLATFORM: u64 = 15;
const AT_HWCAP: u64 = 16;
const AT_CLKTCK: u64 = 17;
const AT_SECURE: u64 = 23;
const AT_RANDOM: u64 = 25;
const AT_HWCAP2: u64 = 26;
const AT_EXECFN: u64 = 31;
const AT_SYSINFO_EHDR: u64 = 33;
const AT_MINSIGSTKSZ: u64 = 51;

struct Strings {
    top: u64,
    bytes: Vec<u8>,
}

impl Strings {
    /// Puts bytes below what is there and gives their address. `bytes` is kept reversed until it is written.
    fn push(&mut self, string: &[u8]) -> u64 {
        self.bytes.push(0);
        self.bytes.extend(string.iter().rev());
        self.top - self.bytes.len() as u64
    }
}

/// Writes the initial stack into `space`; the stack pointer and the auxiliary vector's bytes.
pub fn build(
    space: &AddressSpace,
    layout: &Layout,
    path: &[u8],
    args: &[Vec<u8>],
    env: &[Vec<u8>],
) -> Result<(u64, Vec<u8>), Errno> {
    let total: usize = args.iter().chain(env).map(|s| s.len() + 9).sum();
    if total > MAX_STRINGS {
        return Err(Errno::E2BIG);
    }
    // The last word is zero, as on Linux: glibc reads the value of GLIBC_TUNABLES's hwcaps, and on, until it finds an empty string.
    let mut bytes = Vec::with_capacity(total + 64);
    bytes.resize(size_of::<u64>(), 0);
    let mut strings = Strings { top: layout.top, bytes };
    let name = strings.push(path);
    let platform = strings.push(b"x86_64");
    let mut entropy = [0; 16];
    random::fill(&mut entropy);
    let random = strings.push(&entropy);
    let env: Vec<u64> = env.iter().map(|s| strings.push(s)).collect();
    let args: Vec<u64> = args.iter().map(|s| strings.push(s)).collect();

    let auxv: [(u64, u64); 21] = [
        (AT_SYSINFO_EHDR, layout.vdso),
        (AT_MINSIGSTKSZ, 1024 + fpu::state_size() as u64),
        (AT_HWCAP, u64::from(arch::cpuid(1, 0).edx)),
        (AT_PAGESZ, PAGE),
        (AT_CLKTCK, 100),
        (AT_PHDR, layout.headers),
        (AT_PHENT, layout.header_size),
        (AT_PHNUM, layout.header_count),
        (AT_BASE, layout.interpreter_base),
        (AT_FLAGS, 0),
        (AT_ENTRY, layout.entry),
        (AT_UID, 0),
        (AT_EUID, 0),
        (AT_GID, 0),
        (AT_EGID, 0),
        (AT_SECURE, 0),
        (AT_RANDOM, random),
        (AT_HWCAP2, 0),
        (AT_EXECFN, name),
        (AT_PLATFORM, platform),
        (0, 0),
    ];
    let mut words = alloc::vec![args.len() as u64];
    words.extend(&args);
    words.push(0);
    words.extend(&env);
    words.push(0);
    let auxv_words: Vec<u64> = auxv.iter().flat_map(|(key, value)| [*key, *value]).collect();
    words.extend(&auxv_words);

    let bottom = layout.top - strings.bytes.len() as u64;
    let stack = (bottom - words.len() as u64 * 8) & !15;
    let to_bytes = |words: &[u64]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
    space.poke(stack, &to_bytes(&words))?;
    strings.bytes.reverse();
    space.poke(bottom, &strings.bytes)?;
    Ok((stack, to_bytes(&auxv_words)))
}
