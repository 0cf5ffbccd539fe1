//! Files that share blocks: `FICLONE`, `FICLONERANGE`, and `copy_file_range`, which uses them. The pool has the feature block_cloning, and
//! files of 128 KiB blocks.

use super::transfers::{copy_file_range, say};
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::ptr::null_mut;

const BLOCK: usize = 128 << 10;
const FICLONE: u64 = 0x4004_9409;
const FICLONERANGE: u64 = 0x4020_940d;

fn answer(status: i32) -> Result<(), i32> {
    if status == 0 { Ok(()) } else { Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)) }
}

fn clone(to: &File, from: &File) -> Result<(), i32> {
    // SAFETY: no pointers.
    answer(unsafe { libc::ioctl(to.as_raw_fd(), FICLONE as _, from.as_raw_fd()) })
}

fn clone_range(to: &File, at: usize, from: &File, start: usize, len: usize) -> Result<(), i32> {
    let range = [from.as_raw_fd() as u64, start as u64, len as u64, at as u64];
    // SAFETY: the argument is as large as `struct file_clone_range`.
    answer(unsafe { libc::ioctl(to.as_raw_fd(), FICLONERANGE as _, range.as_ptr()) })
}

fn expect<T: PartialEq + std::fmt::Debug>(what: &str, found: T, wanted: T) -> Result<(), String> {
    if found == wanted { Ok(()) } else { Err(format!("{what}: {found:?}, wanted {wanted:?}")) }
}

fn content(path: &str, wanted: &[u8]) -> Result<(), String> {
    let found = say(fs::read(path), path)?;
    let differs = found.iter().zip(wanted).position(|(a, b)| a != b);
    expect(path, (found.len(), differs), (wanted.len(), None))
}

fn create(path: &str) -> Result<File, String> {
    say(OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path), path)
}

/// A shared mapping shows what was cloned below it, and what is stored through one is cloned.
fn mapped(from: &File, to: &File, bytes: &[u8]) -> Result<(), String> {
    let map = |file: &File| {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let at = unsafe {
            libc::mmap(
                null_mut(),
                BLOCK,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        // SAFETY: the mapping is that long, and stays until the program ends.
        unsafe { std::slice::from_raw_parts_mut(at.cast::<u8>(), BLOCK) }
    };
    let (source, target) = (map(from), map(to));
    expect("before", target[..9].to_vec(), b"something".to_vec())?;
    source[100] ^= 0xff;
    let changed = source[100];
    expect("FICLONERANGE below a mapping", clone_range(to, 0, from, 0, BLOCK), Ok(()))?;
    expect("a mapping of the target", (target[0], target[100], target[99]), (bytes[0], changed, bytes[99]))?;
    source[100] ^= 0xff;
    expect("it is not the source's any more", target[100], changed)
}

/// The check.
pub fn run() -> Result<String, String> {
    let bytes: Vec<u8> = (0..5 * BLOCK as u32 + 777).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
    say(fs::write("/data/source", &bytes), "write")?;
    let from = say(OpenOptions::new().read(true).write(true).open("/data/source"), "open")?;
    let to = create("/data/clone")?;
    expect("FICLONE", clone(&to, &from), Ok(()))?;
    content("/data/clone", &bytes)?;
    say(to.write_all_at(b"something else", 3), "write")?;
    let mut wanted = bytes.clone();
    wanted[3..17].copy_from_slice(b"something else");
    content("/data/clone", &wanted)?;
    content("/data/source", &bytes)?;
    expect("FICLONERANGE", clone_range(&to, 8 * BLOCK, &from, BLOCK, 2 * BLOCK), Ok(()))?;
    wanted.resize(8 * BLOCK, 0);
    wanted.extend_from_slice(&bytes[BLOCK..3 * BLOCK]);
    content("/data/clone", &wanted)?;
    for (at, start, len) in [(1, 0, BLOCK), (0, 1, BLOCK), (0, 0, BLOCK + 1), (0, BLOCK, 90 * BLOCK)] {
        expect(
            "FICLONERANGE of no whole blocks",
            clone_range(&to, at, &from, start, len),
            Err(libc::EINVAL),
        )?;
    }
    content("/data/clone", &wanted)?;
    let read_only = say(File::open("/data/clone"), "open")?;
    expect("FICLONE into what is open for reading", clone(&read_only, &from), Err(libc::EBADF))?;
    let other = create("/dev/shm/clone")?;
    expect("FICLONE into tmpfs", clone(&other, &from).is_err(), true)?;
    // Whole blocks are shared, the rest is copied; both positions move.
    let (mut from, mut to) = (from, create("/data/copy")?);
    let mut copied = 0;
    while copied < bytes.len() {
        let n = say(copy_file_range(from.as_raw_fd(), to.as_raw_fd(), 2 * BLOCK + 5), "copy_file_range")?;
        copied += n;
        let at = (say(from.stream_position(), "lseek")?, say(to.stream_position(), "lseek")?);
        expect("positions", at, (copied as u64, copied as u64))?;
    }
    content("/data/copy", &bytes)?;
    say(to.write_all(b"more"), "write")?;
    content("/data/copy", &[&bytes[..], b"more"].concat())?;
    let target = create("/data/mapped")?;
    say(target.write_all_at(b"something", 0), "write")?;
    say(target.set_len(BLOCK as u64), "truncate")?;
    say(target.sync_all(), "fsync")?;
    mapped(&from, &target, &bytes)?;
    Ok("FICLONE, FICLONERANGE, copy_file_range".to_owned())
}
