//! `mmap` and what belongs to it.

use super::{Call, SysResult, uring, user};
use crate::mm::address_space::{Access, Content, PAGE, Remap};
use crate::mm::file_pages::Pages;
use crate::mm::frame;
use crate::mm::usercopy::USER_END;
use crate::mm::vma::{Backing, Large, Prot};
use alloc::sync::Arc;
use spin::Once;
use vfs::Errno;
use vfs::file::File;
use vfs::inode::FileSystem;
use vfs::mapped::Mapped;
use vfs::path::Place;
use vfs::tmpfs::Tmpfs;
use vfs::types::{FileType, New, OpenFlags};

/// Number of the file system of `memfd_create` (`st_dev`).
const DEV_MEMFD: u64 = 8;

const MAP_SHARED: u64 = 1;
const MAP_PRIVATE: u64 = 2;
const MAP_SHARED_VALIDATE: u64 = 3;
const MAP_FIXED: u64 = 0x10;
const MAP_ANONYMOUS: u64 = 0x20;
const MAP_GROWSDOWN: u64 = 0x100;
const MAP_POPULATE: u64 = 0x8000;
const MAP_STACK: u64 = 0x2_0000;
const MAP_HUGETLB: u64 = 0x4_0000;
const MAP_SYNC: u64 = 0x8_0000;
const MAP_FIXED_NOREPLACE: u64 = 0x10_0000;

fn shared_pages(file: &Arc<File>) -> Result<Arc<Pages>, Errno> {
    let inode = file.inode();
    let pages = Mapped::get_or_insert(&**inode, || Pages::new(Some(Arc::clone(inode))));
    let any: Arc<dyn core::any::Any + Send + Sync> = pages;
    any.downcast::<Pages>().map_err(|_| Errno::ENODEV)
}

fn backing(call: &Call<'_>, prot: Prot) -> Result<Backing, Errno> {
    let (flags, offset) = (call.arg(3), call.arg(5));
    let shared = match flags & 0xf {
        MAP_SHARED | MAP_SHARED_VALIDATE => true,
        MAP_PRIVATE => false,
        _ => return Err(Errno::EINVAL),
    };
    if flags & 0xf == MAP_SHARED_VALIDATE && flags & MAP_SYNC != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    if flags & MAP_HUGETLB != 0 {
        return Err(Errno::ENOMEM);
    }
    if flags & MAP_ANONYMOUS != 0 {
        return Ok(if shared { Backing::Shared(Pages::new(None), 0, None) } else { Backing::Anonymous });
    }
    if !offset.is_multiple_of(PAGE) || offset.checked_add(call.arg(1)).is_none_or(|e| e > i64::MAX as u64) {
        return Err(Errno::EINVAL);
    }
    let file = call.process().fds.get(call.int(4))?;
    if let Some(stream) = file.stream() {
        if let Some(pages) = uring::shared_memory(stream, offset) {
            return if shared { Ok(Backing::Shared(pages?, 0, None)) } else { Err(Errno::EINVAL) };
        }
        // /dev/zero is the one device that can be mapped.
        let zero = stream.ready() == vfs::inode::Ready::FILE
            && file.inode().stat()?.rdev == vfs::types::makedev(1, 5);
        return if zero { Ok(Backing::Anonymous) } else { Err(Errno::ENODEV) };
    }
    if file.inode().file_type() != FileType::Regular {
        return Err(Errno::ENODEV);
    }
    if !file.flags().readable() || shared && prot.write() && !file.flags().writable() {
        return Err(Errno::EACCES);
    }
    Ok(if shared {
        Backing::Shared(shared_pages(&file)?, offset, Some(file))
    } else {
        Backing::File(file, offset)
    })
}

pub(super) fn mmap(call: &mut Call<'_>) -> SysResult {
    let (hint, len, flags) = (call.arg(0), call.arg(1), call.arg(3));
    let prot = Prot(call.arg(2) as u32 & 7);
    if len == 0 {
        return Err(Errno::EINVAL);
    }
    if len > USER_END {
        return Err(Errno::ENOMEM);
    }
    let fixed = flags & (MAP_FIXED | MAP_FIXED_NOREPLACE) != 0;
    let backing = backing(call, prot)?;
    let space = call.process().space();
    if flags & MAP_FIXED_NOREPLACE != 0 && !space.is_free(hint, len) {
        return Err(Errno::EEXIST);
    }
    let mut content = Content::new(prot, backing);
    if flags & (MAP_STACK | MAP_GROWSDOWN) != 0 {
        content = content.in_small_pages();
    }
    let at = space.map(hint, len, fixed, content)?;
    if flags & MAP_POPULATE != 0 {
        space.populate(at, len, prot);
    }
    Ok(at)
}

pub(super) fn munmap(call: &mut Call<'_>) -> SysResult {
    call.process().space().unmap(call.arg(0), call.arg(1)).map(|()| 0)
}

pub(super) fn mprotect(call: &mut Call<'_>) -> SysResult {
    call.process().space().protect(call.arg(0), call.arg(1), Prot(call.arg(2) as u32 & 7)).map(|()| 0)
}

pub(super) fn brk(call: &mut Call<'_>) -> SysResult {
    Ok(call.process().space().brk(call.arg(0)))
}

pub(super) fn mremap(call: &mut Call<'_>) -> SysResult {
    let to = match call.arg(3) {
        0 => Remap::InPlace,
        1 => Remap::MayMove,
        3 => Remap::Fixed(call.arg(4)),
        _ => return Err(Errno::EINVAL),
    };
    call.process().space().remap(call.arg(0), call.arg(1), call.arg(2), to)
}

pub(super) fn msync(call: &mut Call<'_>) -> SysResult {
    const ASYNC: u64 = 1;
    const SYNC: u64 = 4;
    let flags = call.arg(2);
    if flags & !7 != 0 || flags & (ASYNC | SYNC) == ASYNC | SYNC || !call.arg(0).is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    call.process().space().sync(call.arg(0), call.arg(1), flags & SYNC != 0).map(|()| 0)
}

pub(super) fn madvise(call: &mut Call<'_>) -> SysResult {
    const DONTNEED: u64 = 4;
    const HUGEPAGE: u64 = 14;
    const NOHUGEPAGE: u64 = 15;
    const POPULATE_READ: u64 = 22;
    const POPULATE_WRITE: u64 = 23;
    let (start, len, advice) = (call.arg(0), call.arg(1), call.arg(2));
    let known = matches!(advice, 0..=4 | 8 | 10..=23);
    let end = len.checked_next_multiple_of(PAGE).and_then(|len| start.checked_add(len));
    let end = end.filter(|_| start.is_multiple_of(PAGE) && known).ok_or(Errno::EINVAL)?;
    if len == 0 {
        return Ok(0);
    }
    let space = call.process().space();
    match advice {
        DONTNEED => space.discard(start, len)?,
        POPULATE_READ | POPULATE_WRITE => {
            let access = if advice == POPULATE_WRITE { Access::Write } else { Access::Read };
            space.fault_in_all(start, end, access)?;
        }
        HUGEPAGE => space.advise(start, end, Large::Wanted),
        NOHUGEPAGE => space.advise(start, end, Large::Never),
        // NORMAL, RANDOM, SEQUENTIAL, WILLNEED, FREE (which may keep what it could drop), DONTFORK … : hints.
        _ => {}
    }
    if space.is_mapped(start, end) { Ok(0) } else { Err(Errno::ENOMEM) }
}

pub(super) fn mincore(call: &mut Call<'_>) -> SysResult {
    /// Pages that are asked for at once.
    const PIECE: u64 = 1 << 15;
    let (start, pages) = (call.arg(0), call.arg(1).div_ceil(PAGE));
    let end = pages.checked_mul(PAGE).and_then(|len| start.checked_add(len)).filter(|end| *end <= USER_END);
    if !start.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    let (end, space) = (end.ok_or(Errno::ENOMEM)?, call.process().space());
    if pages > 0 && !space.is_mapped(start, end) {
        return Err(Errno::ENOMEM);
    }
    let mut at = start;
    while at < end {
        let to = end.min(at + PIECE * PAGE);
        let present = space.present(at, to);
        user::write(call.arg(2) + (at - start) / PAGE, &present)?;
        at = to;
    }
    Ok(0)
}

/// A file of a name that nobody else has, in memory.
pub(super) fn memfd_create(call: &mut Call<'_>) -> SysResult {
    const CLOEXEC: u64 = 1;
    const ALLOW_SEALING: u64 = 2;
    const NAME_MAX: usize = 249;
    // Without ALLOW_SEALING a file cannot be sealed; with it, it could be and is not: `F_ADD_SEALS` says EINVAL.
    if call.arg(1) & !(CLOEXEC | ALLOW_SEALING) != 0 {
        return Err(Errno::EINVAL);
    }
    let name = user::read_string(call.arg(0), NAME_MAX + 1);
    let name = name.map_err(|e| if e == Errno::ENAMETOOLONG { Errno::EINVAL } else { e })?;
    static FILES: Once<Arc<Tmpfs>> = Once::new();
    let files = FILES.call_once(|| {
        // As much as `/dev/shm` on Linux.
        Tmpfs::new("tmpfs", DEV_MEMFD, frame::total() * PAGE / 2, crate::env().clock)
    });
    let inode = files.root().create_unnamed(&New::new(FileType::Regular, 0o777))?;
    let shown = [b"/memfd:", &name[..], b" (deleted)"].concat();
    let file = File::new(Place::detached(inode, &shown), OpenFlags::RDWR, None)?;
    call.process().fds.add(file, call.arg(1) & CLOEXEC != 0, 0).map(|fd| fd as u64)
}

/// There is one node of memory, and the default policy.
pub(super) fn get_mempolicy(call: &mut Call<'_>) -> SysResult {
    if call.arg(0) != 0 {
        user::write_u32(call.arg(0), 0)?;
    }
    if call.arg(1) != 0 && call.arg(2) > 0 {
        let bytes = (call.arg(2).div_ceil(64) * 8).min(128);
        user::write(call.arg(1), &alloc::vec![0; bytes as usize])?;
    }
    Ok(0)
}

/// All policies mean the one node.
pub(super) fn set_mempolicy(call: &mut Call<'_>) -> SysResult {
    if call.arg(0) & 0xff <= 6 { Ok(0) } else { Err(Errno::EINVAL) }
}

pub(super) fn mbind(call: &mut Call<'_>) -> SysResult {
    if call.arg(0).is_multiple_of(PAGE) && call.arg(2) & 0xff <= 6 { Ok(0) } else { Err(Errno::EINVAL) }
}

/// No protection keys: none is free.
pub(super) fn pkey_alloc(_call: &mut Call<'_>) -> SysResult {
    Err(Errno::ENOSPC)
}
