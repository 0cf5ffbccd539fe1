//! `mmap` and its kin as databases use them.

use libc::{
    MAP_ANONYMOUS, MAP_FAILED, MAP_FIXED, MAP_NORESERVE, MAP_PRIVATE, MAP_SHARED, PROT_NONE, PROT_READ,
    PROT_WRITE,
};
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};

const PAGE: usize = 4096;
const BOTH: i32 = PROT_READ | PROT_WRITE;
const PRIVATE: i32 = MAP_PRIVATE | MAP_ANONYMOUS;

fn ensure(right: bool, what: &str) -> Result<(), String> {
    if right { Ok(()) } else { Err(format!("{what} ({})", std::io::Error::last_os_error())) }
}

fn map(at: usize, len: usize, prot: i32, flags: i32, fd: i32) -> Result<*mut u8, String> {
    // SAFETY: the callers replace only what is theirs.
    let at = unsafe { libc::mmap(at as *mut _, len, prot, flags, fd, 0) };
    if at == MAP_FAILED { Err(std::io::Error::last_os_error().to_string()) } else { Ok(at.cast()) }
}

fn reservations() -> Result<(), String> {
    const HUGE: usize = 8 << 40;
    let base = map(0, HUGE, PROT_NONE, PRIVATE | MAP_NORESERVE, -1).map_err(|e| format!("8 TiB: {e}"))?;
    // SAFETY: all addresses lie in our reservation.
    unsafe {
        for i in [0, 1 << 30, HUGE - (1 << 20)] {
            let part = map(base as usize + i, 1 << 20, BOTH, PRIVATE | MAP_FIXED, -1)?;
            ensure(part == base.add(i), "MAP_FIXED went elsewhere")?;
            part.write(7);
            part.add((1 << 20) - 1).write(8);
        }
        // Splitting and joining by rights.
        let part = base.add(1 << 30);
        for i in (0..256).step_by(2) {
            ensure(libc::mprotect(part.add(i * PAGE).cast(), PAGE, PROT_READ) == 0, "mprotect")?;
        }
        ensure(libc::mprotect(part.cast(), 1 << 20, BOTH) == 0, "mprotect of all")?;
        ensure(part.read() == 7, "the content went with the rights")?;
        part.add(100 * PAGE).write(9);
        // Memory that is given back reads as zeros.
        ensure(libc::madvise(part.cast(), 1 << 20, libc::MADV_DONTNEED) == 0, "madvise")?;
        ensure(part.read() == 0 && part.add(100 * PAGE).read() == 0, "not zeros after MADV_DONTNEED")?;
        let taken = map(base as usize, PAGE, BOTH, PRIVATE | libc::MAP_FIXED_NOREPLACE, -1);
        ensure(taken.is_err(), "MAP_FIXED_NOREPLACE replaced something")?;
        ensure(map(0, PAGE, BOTH, PRIVATE | MAP_FIXED, -1).is_err(), "page 0 can be mapped")?;
        ensure(libc::munmap(base.cast(), HUGE) == 0, "munmap")?;
        let mut present = [0u8; 1];
        ensure(libc::mincore(base.cast(), PAGE, present.as_mut_ptr()) == -1, "mincore of nothing")
    }
}

fn moving() -> Result<(), String> {
    let old = map(0, 4 * PAGE, BOTH, PRIVATE, -1)?;
    // SAFETY: mappings of ours.
    unsafe {
        old.write(1);
        old.add(3 * PAGE).write(4);
        let mut present = [9u8; 4];
        ensure(libc::mincore(old.cast(), 4 * PAGE, present.as_mut_ptr()) == 0, "mincore")?;
        ensure(present[0] & 1 == 1 && present[2] & 1 == 0, &format!("mincore says {present:?}"))?;
        // Something behind it, so that it has to move to grow.
        let new: *mut u8 = libc::mremap(old.cast(), 4 * PAGE, 4000 * PAGE, libc::MREMAP_MAYMOVE).cast();
        ensure(new.cast() != MAP_FAILED, "mremap")?;
        ensure(
            new.read() == 1 && new.add(3 * PAGE).read() == 4 && new.add(3999 * PAGE).read() == 0,
            "moved content",
        )?;
        let target = map(0, 4 * PAGE, PROT_NONE, PRIVATE, -1)?;
        let fixed = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        let there: *mut u8 = libc::mremap(new.cast(), 4000 * PAGE, 4 * PAGE, fixed, target).cast();
        ensure(there == target && there.add(3 * PAGE).read() == 4, "mremap to an address")?;
        ensure(libc::munmap(there.cast(), 4 * PAGE) == 0, "munmap")
    }
}

fn files() -> Result<(), String> {
    let path = "/data/grows";
    let open = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path);
    let file = open.map_err(|e| e.to_string())?;
    file.set_len(16 << 10).map_err(|e| e.to_string())?;
    // 10 GiB of a file of 16 KiB, as bbolt maps its database; it must not be filled.
    let at = map(0, 10 << 30, PROT_READ, MAP_SHARED | libc::MAP_POPULATE, file.as_raw_fd())?;
    file.set_len(1 << 20).map_err(|e| e.to_string())?;
    std::os::unix::fs::FileExt::write_all_at(&file, &[5], 900_000).map_err(|e| e.to_string())?;
    // SAFETY: the file reaches that far now.
    ensure(unsafe { at.add(900_000).read() } == 5, "a file that grew under its mapping")?;
    // SAFETY: ours.
    ensure(unsafe { libc::munmap(at.cast(), 10 << 30) } == 0, "munmap")
}

fn memory_file() -> Result<(), String> {
    // SAFETY: a name that ends.
    let fd = unsafe { libc::memfd_create(c"heap".as_ptr(), libc::MFD_CLOEXEC) };
    ensure(fd >= 0, "memfd_create")?;
    // SAFETY: it is ours alone.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(1 << 20).map_err(|e| e.to_string())?;
    let name = std::fs::read_link(format!("/proc/self/fd/{fd}")).map_err(|e| e.to_string())?;
    ensure(name.to_string_lossy().contains("memfd:heap"), &format!("its name is {}", name.display()))?;
    // Mapped twice, as a collector of garbage maps its heap.
    let (a, b) = (map(0, 1 << 20, BOTH, MAP_SHARED, fd)?, map(0, 1 << 20, BOTH, MAP_SHARED, fd)?);
    // SAFETY: both are mapped.
    unsafe {
        a.add(77_777).write(3);
        ensure(b.add(77_777).read() == 3, "two mappings of one file differ")?;
        ensure(libc::munmap(a.cast(), 1 << 20) == 0 && libc::munmap(b.cast(), 1 << 20) == 0, "munmap")?;
    }
    let shm = map(0, PAGE, BOTH, MAP_SHARED | MAP_ANONYMOUS, -1)?;
    // SAFETY: mapped above.
    unsafe { shm.write(1) };
    std::fs::write("/dev/shm/segment", [1; 5000]).map_err(|e| format!("/dev/shm: {e}"))?;
    std::fs::remove_file("/dev/shm/segment").map_err(|e| format!("/dev/shm: {e}"))
}

/// The check.
pub fn run() -> Result<String, String> {
    reservations()?;
    moving()?;
    files()?;
    memory_file()?;
    Ok("8 TiB reserved, 10 GiB mapped".to_owned())
}
