//! ELF programs made by hand: the smallest ones, and a corpus of broken ones with what becomes of them.
//!
//! The corpus is read by the kernel's reader on the host (`tests/programs.rs`, and as inputs of the fuzzer), started by the guest
//! (`tests/boot.rs`) and by Linux itself, whose answers to `execve` are the measure.

use std::path::Path;
use vfs::Errno;

/// Where programs that are not position-independent are loaded.
const BASE: u64 = 0x40_0000;
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;

const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const ET_DYN: u16 = 3;

/// Fields of the ELF header.
mod field {
    pub(super) const CLASS: usize = 4;
    pub(super) const DATA: usize = 5;
    pub(super) const TYPE: usize = 16;
    pub(super) const MACHINE: usize = 18;
    pub(super) const ENTRY: usize = 24;
    pub(super) const HEADERS: usize = 32;
    pub(super) const HEADER_SIZE: usize = 54;
    pub(super) const HEADER_COUNT: usize = 56;
}

/// Fields of program header `n`.
mod ph {
    use super::{HEADER, PROGRAM_HEADER};

    const fn at(n: usize, offset: usize) -> usize {
        HEADER + n * PROGRAM_HEADER + offset
    }
    pub(super) const fn kind(n: usize) -> usize {
        at(n, 0)
    }
    pub(super) const fn flags(n: usize) -> usize {
        at(n, 4)
    }
    pub(super) const fn offset(n: usize) -> usize {
        at(n, 8)
    }
    pub(super) const fn address(n: usize) -> usize {
        at(n, 16)
    }
    pub(super) const fn file_size(n: usize) -> usize {
        at(n, 32)
    }
    pub(super) const fn mem_size(n: usize) -> usize {
        at(n, 40)
    }
    pub(super) const fn align(n: usize) -> usize {
        at(n, 48)
    }
}

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
    with_headers(1, code)
}

/// The same with room for so many program headers; all but the first are `PT_NULL`.
fn with_headers(count: u16, code: &[u8]) -> Vec<u8> {
    let start = (HEADER + usize::from(count) * PROGRAM_HEADER) as u64;
    let mut elf = header(count, BASE + start);
    elf.extend(segment(PT_LOAD, 5, 0, start + code.len() as u64));
    elf.resize(start as usize, 0);
    elf.extend(code);
    elf
}

/// What a program of the corpus prints when it runs.
pub const SAYS: &str = "ran";
/// Its exit status.
pub const STATUS: i32 = 42;

/// write(1, "ran\n", 4); exit(42)
const CODE: &[u8] = b"\xb8\x01\0\0\0\xbf\x01\0\0\0\x48\x8d\x35\x13\0\0\0\xba\x04\0\0\0\x0f\x05\
                      \xb8\x3c\0\0\0\xbf\x2a\0\0\0\x0f\x05ran\n";

/// What becomes of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It prints [`SAYS`] and ends with [`STATUS`].
    Runs,
    /// It is refused with this error, for this reason.
    Refused(Errno, &'static str),
}

/// What Linux does with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linux {
    /// The same: it runs; or `execve` gives the same error, or the flaw is met when there is no way back: a signal kills it.
    Same,
    /// It runs what Tarn refuses, because it does not look there.
    Runs,
    /// That depends on the system's settings.
    Depends,
}

/// A file of the corpus.
#[derive(Debug, Clone)]
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// Its content.
    pub file: Vec<u8>,
    /// What Tarn says.
    pub tarn: Verdict,
    /// Whether the reader of headers says so; else it is found when the program is mapped.
    pub reader: bool,
    /// What Linux says.
    pub linux: Linux,
}

impl Case {
    fn new(name: &'static str, edit: impl FnOnce(&mut Vec<u8>), tarn: Verdict) -> Self {
        let mut file = with_headers(3, CODE);
        edit(&mut file);
        Case { name, file, tarn, reader: true, linux: Linux::Same }
    }

    fn broken(name: &'static str, why: &'static str, edit: impl FnOnce(&mut Vec<u8>)) -> Self {
        Self::new(name, edit, Verdict::Refused(Errno::ENOEXEC, why))
    }

    fn good(name: &'static str, edit: impl FnOnce(&mut Vec<u8>)) -> Self {
        Self::new(name, edit, Verdict::Runs)
    }

    /// The reader of headers has nothing to say against it.
    fn at_loading(mut self, verdict: Verdict) -> Self {
        (self.tarn, self.reader) = (verdict, false);
        self
    }

    fn on_linux(mut self, linux: Linux) -> Self {
        self.linux = linux;
        self
    }
}

fn put<const N: usize>(file: &mut [u8], at: usize, bytes: [u8; N]) {
    file[at..at + N].copy_from_slice(&bytes);
}

fn put16(file: &mut [u8], at: usize, value: u16) {
    put(file, at, value.to_le_bytes());
}

fn put32(file: &mut [u8], at: usize, value: u32) {
    put(file, at, value.to_le_bytes());
}

fn put64(file: &mut [u8], at: usize, value: u64) {
    put(file, at, value.to_le_bytes());
}

/// Moves the program so that its file's beginning is at `base`.
fn link_at(file: &mut [u8], base: u64) {
    put64(file, ph::address(0), base);
    put64(file, field::ENTRY, base + (HEADER + 3 * PROGRAM_HEADER) as u64);
}

/// Makes it position-independent.
fn independent(file: &mut [u8]) {
    put16(file, field::TYPE, ET_DYN);
    link_at(file, 0);
}

/// Adds program header `n`, a segment of memory.
fn load(file: &mut [u8], n: usize, address: u64, (file_size, mem_size): (u64, u64)) {
    put32(file, ph::kind(n), PT_LOAD);
    put32(file, ph::flags(n), 6);
    for (at, value) in [
        (ph::offset(n), 0),
        (ph::address(n), address),
        (ph::file_size(n), file_size),
        (ph::mem_size(n), mem_size),
        (ph::align(n), 4096),
    ] {
        put64(file, at, value);
    }
}

/// Appends these bytes and has program header 1 say that the interpreter's path is there.
fn interpreter(file: &mut Vec<u8>, path: &[u8]) {
    put32(file, ph::kind(1), PT_INTERP);
    let at = file.len() as u64;
    put64(file, ph::offset(1), at);
    put64(file, ph::file_size(1), path.len() as u64);
    put64(file, ph::mem_size(1), path.len() as u64);
    file.extend(path);
}

/// Programs that differ by one thing from one that runs. They lie in the folder `dir`, some under others' names.
#[must_use]
pub fn corpus(dir: &Path) -> Vec<Case> {
    let mut cases = headers();
    cases.extend(segments());
    cases.extend(interpreters(dir));
    cases
}

/// The ELF header, and where the program headers are.
fn headers() -> Vec<Case> {
    const SHORT: &str = "it is shorter than an ELF header";
    const FORMAT: &str = "it is not a 64-bit little-endian ELF file";
    const COUNT: &str = "it has no program headers, or too many";
    const OUTSIDE: &str = "its program headers lie outside of it";
    vec![
        Case::good("good", |_| {}),
        Case::good("independent", |f| independent(f)),
        Case::broken("empty", SHORT, Vec::clear),
        Case::broken("short", SHORT, |f| f.truncate(63)),
        Case::broken("magic", FORMAT, |f| f[1] = b'F'),
        // Linux leaves these two to the machine's number.
        Case::broken("class", FORMAT, |f| f[field::CLASS] = 1).on_linux(Linux::Runs),
        Case::broken("big-endian", FORMAT, |f| f[field::DATA] = 2).on_linux(Linux::Runs),
        Case::broken("relocatable", "it is neither an executable nor a shared object", |f| {
            put16(f, field::TYPE, 1);
        }),
        Case::broken("core", "it is neither an executable nor a shared object", |f| put16(f, field::TYPE, 4)),
        Case::broken("machine", "it is for another machine than x86-64", |f| put16(f, field::MACHINE, 0xfff)),
        Case::broken("header-size", "its program headers have another size", |f| {
            put16(f, field::HEADER_SIZE, 32);
        }),
        Case::broken("no-headers", COUNT, |f| put16(f, field::HEADER_COUNT, 0)),
        Case::broken("many-headers", COUNT, |f| put16(f, field::HEADER_COUNT, u16::MAX)),
        Case::broken("headers-cut", OUTSIDE, |f| f.truncate(HEADER + PROGRAM_HEADER + 1)),
        Case::broken("headers-behind", OUTSIDE, |f| put64(f, field::HEADERS, 1 << 20)),
        Case::broken("headers-wrap", OUTSIDE, |f| put64(f, field::HEADERS, u64::MAX - 8)),
    ]
}

/// What is to be loaded.
fn segments() -> Vec<Case> {
    const BEYOND: &str = "a segment ends beyond all addresses";
    const UNALIGNED: &str = "a segment's address and its place in the file differ within a page";
    const UNMAPPED: &str = "its segments cannot be mapped";
    const ENTRY: &str = "its first instruction is outside of all segments";
    vec![
        Case::broken("no-segment", "it has nothing to load", |f| put32(f, ph::kind(0), 0)),
        Case::broken("more-in-file", "a segment is longer in the file than in memory", |f| {
            put64(f, ph::mem_size(0), 16);
        }),
        Case::broken("nothing-in-memory", "a segment is longer in the file than in memory", |f| {
            put64(f, ph::mem_size(0), 0);
        }),
        Case::broken("address-wraps", BEYOND, |f| load(f, 1, u64::MAX - 4095, (0, 8192))),
        Case::broken("size-wraps", BEYOND, |f| load(f, 1, BASE << 1, (0, u64::MAX - 4095))),
        Case::broken("kernels-address", BEYOND, |f| load(f, 1, 0xffff_8000_0000_0000, (0, 4096))),
        Case::broken("over-the-end", BEYOND, |f| load(f, 1, (1 << 47) - 4096, (0, 8192))),
        Case::broken("offset-wraps", "a segment lies outside of the file", |f| {
            load(f, 1, BASE << 1, (4096, 4096));
            put64(f, ph::offset(1), u64::MAX - 4095);
        }),
        Case::broken("cut-off", "a segment lies outside of the file", |f| {
            load(f, 1, BASE << 1, (4096, 4096));
            put64(f, ph::offset(1), 1 << 20);
            put32(f, ph::flags(1), 5);
            put64(f, field::ENTRY, BASE << 1);
        }),
        Case::broken("unaligned-address", UNALIGNED, |f| put64(f, ph::address(0), BASE + 8)),
        Case::broken("unaligned-offset", UNALIGNED, |f| put64(f, ph::offset(0), 8)),
        // Linux lets the later one replace the other.
        Case::broken("overlap", "its segments overlap", |f| load(f, 1, BASE + 0x80, (0, 64)))
            .on_linux(Linux::Depends),
        Case::broken("entry-nowhere", ENTRY, |f| put64(f, field::ENTRY, BASE << 1)),
        Case::broken("entry-in-kernel", ENTRY, |f| put64(f, field::ENTRY, u64::MAX - 1)),
        Case::broken("entry-not-executable", "its first instruction is not executable", |f| {
            put32(f, ph::flags(0), 4);
        }),
        Case::good("page-zero", |f| link_at(f, 0))
            .at_loading(Verdict::Refused(Errno::EPERM, UNMAPPED))
            .on_linux(Linux::Depends),
        Case::good("over-the-stack", |f| load(f, 1, 0x7fff_ffff_0000, (0, 4096)))
            .at_loading(Verdict::Refused(Errno::ENOEXEC, "a segment lies where the stack belongs"))
            .on_linux(Linux::Depends),
        Case::good("larger-than-memory", |f| {
            independent(f);
            load(f, 1, 1 << 20, (0, (1 << 47) - (2 << 20)));
        })
        .at_loading(Verdict::Refused(Errno::ENOMEM, UNMAPPED)),
        // Memory comes when it is touched: as with `vm.overcommit_memory` 1.
        Case::good("huge-zeros", |f| load(f, 1, BASE << 1, (0, 1 << 46))).on_linux(Linux::Depends),
        Case::good("high-address", |f| {
            independent(f);
            link_at(f, 0x7000_0000_0000);
        }),
        Case::good("writable-code", |f| put32(f, ph::flags(0), 7)),
        Case::good("odd-alignment", |f| put64(f, ph::align(0), 12345)),
    ]
}

/// The program that shall load it.
fn interpreters(dir: &Path) -> Vec<Case> {
    const PATH: &str = "its interpreter's path has no sane length";
    let path = |name: &str| {
        let mut path = dir.join(name).into_os_string().into_encoded_bytes();
        path.push(0);
        path
    };
    let named = |name: &'static str, file: &str, errno, why| {
        Case::good(name, |f| interpreter(f, &path(file))).at_loading(Verdict::Refused(errno, why))
    };
    let bad = Errno::ELIBBAD;
    let overlap = "its segments lie where the program's do";
    let is_no_elf = "it is not a 64-bit little-endian ELF file";
    vec![
        Case::broken("path-unterminated", "its interpreter's path does not end", |f| {
            interpreter(f, b"/bin/sh")
        }),
        Case::broken("path-empty", PATH, |f| interpreter(f, b"\0")),
        Case::broken("path-long", PATH, |f| interpreter(f, &[&[b'/'; 4096][..], &[0]].concat())),
        Case::new(
            "path-outside",
            |f| {
                interpreter(f, &path("independent"));
                put64(f, ph::offset(1), 1 << 20);
            },
            Verdict::Refused(Errno::EIO, "its interpreter's path lies outside of the file"),
        ),
        named("interpreter-missing", "nothing-of-the-kind", Errno::ENOENT, ""),
        named("interpreter-folder", "", Errno::EACCES, ""),
        named("interpreter-script", "script", bad, is_no_elf),
        named("interpreter-magic", "magic", bad, is_no_elf),
        named("interpreter-machine", "machine", bad, "it is for another machine than x86-64"),
        named("interpreter-headers", "no-headers", bad, "it has no program headers, or too many"),
        // Linux lays the interpreter over the program.
        named("interpreter-over-it", "good", Errno::EEXIST, overlap).on_linux(Linux::Runs),
        named("interpreter-itself", "interpreter-itself", Errno::EEXIST, overlap).on_linux(Linux::Runs),
        // An interpreter's own interpreter is not asked for.
        Case::good("independent-itself", |f| {
            independent(f);
            interpreter(f, &path("independent-itself"));
        }),
        Case::good("interpreter-good", |f| interpreter(f, &path("independent"))),
        Case::good("script", |f| {
            *f = [b"#!", &path("good")[..]].concat();
            f.pop();
            f.extend(b"\n# A line that makes the file longer than the header of an ELF file.\n");
        })
        .at_loading(Verdict::Runs),
    ]
}

/// Writes the corpus into the folder `to`, executable. They are made for `dir`, which is where they are seen from.
pub fn write_corpus(to: &Path, dir: &Path) -> std::io::Result<Vec<Case>> {
    use std::os::unix::fs::PermissionsExt;
    let cases = corpus(dir);
    std::fs::create_dir_all(to)?;
    for case in &cases {
        let path = to.join(case.name);
        std::fs::write(&path, &case.file)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    }
    Ok(cases)
}
