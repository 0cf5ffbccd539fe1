//! Loading a program: from a path to an address space, an entry point and an initial stack.
//!
//! Static executables, position-independent ones, and dynamic ones through the interpreter that they name. A file
//! that begins with `#!` runs the interpreter named there.

mod elf;
mod stack;
mod vdso;

use crate::mm::address_space::{AddressSpace, Content, PAGE};
use crate::mm::vma::{Backing, Prot};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use elf::{Elf, Refused};
use vfs::Errno;
use vfs::file::File;
use vfs::ops::Vfs;
use vfs::path::Place;
use vfs::types::{FileType, New, OpenFlags};

/// Where position-independent programs go.
const PIE_BASE: u64 = 0x5555_5555_4000;
/// Top of the stack.
const STACK_TOP: u64 = 0x7fff_ffff_e000;
/// Size of the stack's area in bytes; pages come when they are touched.
pub const STACK_SIZE: u64 = 8 << 20;

/// A program ready to run.
pub struct Image {
    /// Its memory.
    pub space: Arc<AddressSpace>,
    /// First instruction.
    pub entry: u64,
    /// Initial stack pointer.
    pub stack: u64,
    /// The executable's path.
    pub path: Vec<u8>,
    /// Arguments, as the program sees them.
    pub args: Vec<Vec<u8>>,
    /// The auxiliary vector, for `/proc/self/auxv`.
    pub auxv: Vec<u8>,
}

/// What cannot be loaded, and why.
pub struct LoadError {
    /// The file concerned: the program, or an interpreter that it names.
    pub path: Vec<u8>,
    /// What `execve` answers.
    pub error: Errno,
    /// The rule that the file breaks; empty if the error says all.
    pub why: &'static str,
    /// The file is the interpreter of the program.
    pub interpreter: bool,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.interpreter {
            write!(f, "its interpreter {}: ", String::from_utf8_lossy(&self.path))?;
        }
        write!(f, "{}", self.error)?;
        if self.why.is_empty() { Ok(()) } else { write!(f, ": {}", self.why) }
    }
}

fn open(vfs: &Vfs, base: &Arc<Place>, path: &[u8]) -> Result<Arc<File>, Errno> {
    let file = vfs.open(base, path, OpenFlags::empty(), &New::new(FileType::Regular, 0))?;
    if file.inode().file_type() != FileType::Regular || file.inode().stat()?.mode & 0o111 == 0 {
        return Err(Errno::EACCES);
    }
    Ok(file)
}

/// The interpreter of a script, and the argument that it gets before the script's path.
type Script = (Vec<u8>, Option<Vec<u8>>);

/// The interpreter line of a script: `#!path [argument]`.
fn script(file: &File) -> Result<Option<Script>, Errno> {
    let mut head = [0; 256];
    let n = file.inode().read_at(0, &mut head)?;
    let Some(line) = head[..n].strip_prefix(b"#!") else { return Ok(None) };
    let line = line.split(|b| *b == b'\n').next().unwrap_or_default().trim_ascii();
    let mut words = line.splitn(2, |b| *b == b' ' || *b == b'\t');
    let path = words.next().filter(|p| !p.is_empty()).ok_or(Errno::ENOEXEC)?.to_vec();
    let argument = words.next().map(|a| a.trim_ascii().to_vec()).filter(|a| !a.is_empty());
    Ok(Some((path, argument)))
}

/// Loads the program at `path`, seen from `base`.
pub fn load(
    vfs: &Vfs,
    base: &Arc<Place>,
    path: &[u8],
    mut args: Vec<Vec<u8>>,
    env: &[Vec<u8>],
) -> Result<Image, LoadError> {
    let mut path = path.to_vec();
    let mut nested = false;
    for _ in 0..4 {
        let fail = |error| LoadError { path: path.clone(), error, why: "", interpreter: nested };
        let file = open(vfs, base, &path).map_err(fail)?;
        match script(&file).map_err(fail)? {
            Some((interpreter, argument)) => {
                let mut new = alloc::vec![interpreter.clone()];
                new.extend(argument);
                new.push(path);
                new.extend(args.into_iter().skip(1));
                args = new;
                path = interpreter;
                nested = true;
            }
            None => return load_elf(vfs, base, &file, path.clone(), args, env),
        }
    }
    Err(LoadError { path, error: Errno::ELOOP, why: "", interpreter: true })
}

fn load_elf(
    vfs: &Vfs,
    base: &Arc<Place>,
    file: &Arc<File>,
    path: Vec<u8>,
    args: Vec<Vec<u8>>,
    env: &[Vec<u8>],
) -> Result<Image, LoadError> {
    let refused =
        |r: Refused| LoadError { path: path.clone(), error: r.errno, why: r.why, interpreter: false };
    let fail = |error: Errno| refused(error.into());
    let elf = Elf::read(file).map_err(refused)?;
    let space = AddressSpace::new().map_err(fail)?;
    let at = if elf.dynamic { Some(PIE_BASE) } else { None };
    let bias = map_segments(&space, file, &elf, at).map_err(refused)?;
    space.set_brk_start(elf.end().wrapping_add(bias).next_multiple_of(PAGE));
    let mut entry = elf.entry.wrapping_add(bias);
    let program_entry = entry;
    let mut interpreter_base = 0;
    if let Some(interpreter) = &elf.interpreter {
        let refused = |r: Refused| {
            // As on Linux: it is the interpreter that is no program.
            let error = if r.errno == Errno::ENOEXEC { Errno::ELIBBAD } else { r.errno };
            LoadError { path: interpreter.clone(), error, why: r.why, interpreter: true }
        };
        let file = open(vfs, base, interpreter).map_err(|e| refused(e.into()))?;
        let loader = Elf::read(&file).map_err(refused)?;
        interpreter_base = map_segments(&space, &file, &loader, None).map_err(refused)?;
        entry = loader.entry.wrapping_add(interpreter_base);
    }
    let prot = Prot(Prot::READ | Prot::WRITE | if elf.executable_stack { Prot::EXEC } else { 0 });
    let content = Content::new(prot, Backing::Anonymous).named("[stack]").in_small_pages();
    space.map(STACK_TOP - STACK_SIZE, STACK_SIZE, true, content).map_err(fail)?;
    let vdso = vdso::map(&space).map_err(fail)?;
    let layout = stack::Layout {
        vdso,
        top: STACK_TOP,
        headers: elf.header_address.map_or(0, |a| a.wrapping_add(bias)),
        header_size: elf.headers.1,
        header_count: elf.headers.2,
        interpreter_base,
        entry: program_entry,
    };
    let (stack, auxv) = stack::build(&space, &layout, &path, &args, env).map_err(fail)?;
    Ok(Image { space, entry, stack, path: file.place.path(), args, auxv })
}

/// Maps an executable's segments; the load bias. A position-independent one goes to `at`, or where there is room.
fn map_segments(space: &AddressSpace, file: &Arc<File>, elf: &Elf, at: Option<u64>) -> Result<u64, Refused> {
    let unmapped = |errno| Refused { errno, why: "its segments cannot be mapped" };
    let first = elf.segments.first().map_or(0, |s| s.address & !(PAGE - 1));
    let last = elf.end();
    let span = (last - first).next_multiple_of(PAGE);
    let bias = if elf.dynamic {
        let align =
            elf.segments.iter().map(|s| s.align).filter(|a| a.is_power_of_two()).max().unwrap_or(PAGE);
        let hint = at.map_or(0, |at| at.next_multiple_of(align.clamp(PAGE, 1 << 30)));
        // Reserves the whole span, so that the segments lie together; they replace it piece by piece.
        let reserved = Content::new(Prot(0), Backing::Anonymous);
        let start = space.map(hint, span, false, reserved).map_err(unmapped)?;
        start.wrapping_sub(first)
    } else {
        if last > STACK_TOP - STACK_SIZE {
            return Err(Refused::format("a segment lies where the stack belongs"));
        }
        if !elf.segments.iter().all(|s| space.is_free(s.address, s.mem_size)) {
            return Err(Refused { errno: Errno::EEXIST, why: "its segments lie where the program's do" });
        }
        0
    };
    for segment in &elf.segments {
        map_segment(space, file, segment, bias).map_err(unmapped)?;
    }
    Ok(bias)
}

fn map_segment(space: &AddressSpace, file: &Arc<File>, s: &elf::Segment, bias: u64) -> Result<(), Errno> {
    let prot = Prot(s.prot);
    let start = s.address.wrapping_add(bias);
    let page = start & !(PAGE - 1);
    let file_end = start + s.file_size;
    let mem_end = (start + s.mem_size).next_multiple_of(PAGE);
    let file_pages = if s.file_size > 0 { file_end.next_multiple_of(PAGE) } else { page };
    if file_pages > page {
        let offset = s.offset - s.address % PAGE;
        let backing = Backing::File(Arc::clone(file), offset);
        space.map(page, file_pages - page, true, Content::new(prot, backing))?;
        if s.mem_size > s.file_size && file_end < file_pages {
            // The rest of the last page is the beginning of the zeros.
            space.poke(file_end, &alloc::vec![0; (file_pages - file_end) as usize])?;
        }
    }
    if mem_end > file_pages {
        let zeros = Content::new(prot, Backing::Anonymous);
        space.map(file_pages, mem_end - file_pages, true, zeros)?;
    }
    Ok(())
}
