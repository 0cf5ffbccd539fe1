//! `mmap` and what belongs to it.

use super::{Call, SysResult, user};
use crate::mm::address_space::{PAGE, Remap};
use crate::mm::file_pages::Pages;
use crate::mm::usercopy::USER_END;
use crate::mm::vma::{Backing, Prot};
use alloc::sync::Arc;
use vfs::Errno;
use vfs::file::File;
use vfs::mapped::Mapped;
use vfs::types::FileType;

const MAP_SHARED: u64 = 1;
const MAP_PRIVATE: u64 = 2;
const MAP_SHARED_VALIDATE: u64 = 3;
const MAP_FIXED: u64 = 0x10;
const MAP_ANONYMOUS: u64 = 0x20;
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
    space.map(hint, len, fixed, prot, backing, "")
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
    let (start, len) = (call.arg(0), call.arg(1));
    if !start.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    match call.arg(2) {
        _ if len == 0 => Ok(0),
        // MADV_DONTNEED
        4 => call.process().space().discard(start, len).map(|()| 0),
        // NORMAL, RANDOM, SEQUENTIAL, WILLNEED, FREE, DONTFORK, DOFORK, MERGEABLE … : hints.
        0..=3 | 8 | 10..=19 | 20..=23 => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

pub(super) fn mincore(call: &mut Call<'_>) -> SysResult {
    let pages = call.arg(1).div_ceil(PAGE);
    if !call.arg(0).is_multiple_of(PAGE) || pages > 1 << 24 {
        return Err(Errno::EINVAL);
    }
    // Everything counts as present: the answer is advice only.
    user::write(call.arg(2), &alloc::vec![1; pages as usize])?;
    Ok(0)
}
