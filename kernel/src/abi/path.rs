//! Calls that take paths: opening, attributes, names, extended attributes.

use super::{Call, SysResult, stat, user};
use crate::process::{self, Process};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use platform::clock::Timespec;
use vfs::Errno;
use vfs::inode::Inode;
use vfs::ops::Vfs;
use vfs::path::Place;
use vfs::types::{FileType, New, OpenFlags, PERMISSIONS, RenameFlags, SetAttr};

const AT_FDCWD: i32 = -100;
const AT_SYMLINK_NOFOLLOW: u64 = 0x100;
const AT_REMOVEDIR: u64 = 0x200;
const AT_SYMLINK_FOLLOW: u64 = 0x400;
const AT_EMPTY_PATH: u64 = 0x1000;
const UTIME_NOW: u64 = 0x3fff_ffff;
const UTIME_OMIT: u64 = 0x3fff_fffe;

fn files() -> &'static Vfs {
    process::vfs()
}

fn cwd(call: &Call<'_>) -> Arc<Place> {
    Arc::clone(&call.process().cwd.lock())
}

/// The directory that relative paths start from.
fn base(call: &Call<'_>, dirfd: i32, path: &[u8]) -> Result<Arc<Place>, Errno> {
    if dirfd == AT_FDCWD || path.first() == Some(&b'/') {
        return Ok(cwd(call));
    }
    let place = Arc::clone(&call.process().fds.get(dirfd)?.place);
    if !path.is_empty() && place.inode.file_type() != FileType::Directory {
        return Err(Errno::ENOTDIR);
    }
    Ok(place)
}

/// The file at (`dirfd`, `path`), with `AT_EMPTY_PATH` and `AT_SYMLINK_NOFOLLOW` in `flags`.
fn place(call: &Call<'_>, dirfd: i32, path_at: u64, flags: u64) -> Result<Arc<Place>, Errno> {
    // A null path with AT_EMPTY_PATH means the empty path.
    let path =
        if path_at == 0 && flags & AT_EMPTY_PATH != 0 { Vec::new() } else { user::read_path(path_at)? };
    let base = base(call, dirfd, &path)?;
    if path.is_empty() && flags & AT_EMPTY_PATH != 0 {
        return Ok(base);
    }
    files().tree.resolve(&base, &path, flags & AT_SYMLINK_NOFOLLOW == 0)
}

fn new_file(process: &Process, kind: FileType, mode: u32) -> New {
    let c = process.credentials.lock();
    let (uid, gid) = (c.uid[1], c.gid[1]);
    drop(c);
    let mode = if kind == FileType::Symlink { 0o777 } else { mode & PERMISSIONS };
    New { uid, gid, umask: process.umask.load(Ordering::Relaxed), ..New::new(kind, mode) }
}

fn open_at(call: &Call<'_>, dirfd: i32, path_at: u64, flags: u32, mode: u32) -> SysResult {
    let path = user::read_path(path_at)?;
    let flags = OpenFlags::from_bits_retain(flags);
    let base = base(call, dirfd, &path)?;
    let new = new_file(call.process(), FileType::Regular, mode);
    let file = files().open(&base, &path, flags - OpenFlags::CLOEXEC, &new)?;
    let fd = call.process().fds.add(file, flags.contains(OpenFlags::CLOEXEC), 0)?;
    Ok(fd as u64)
}

pub(super) fn open(call: &mut Call<'_>) -> SysResult {
    open_at(call, AT_FDCWD, call.arg(0), call.arg(1) as u32, call.arg(2) as u32)
}

pub(super) fn creat(call: &mut Call<'_>) -> SysResult {
    let flags = OpenFlags::WRONLY | OpenFlags::CREAT | OpenFlags::TRUNC;
    open_at(call, AT_FDCWD, call.arg(0), flags.bits(), call.arg(1) as u32)
}

pub(super) fn openat(call: &mut Call<'_>) -> SysResult {
    open_at(call, call.int(0), call.arg(1), call.arg(2) as u32, call.arg(3) as u32)
}

pub(super) fn openat2(call: &mut Call<'_>) -> SysResult {
    if call.arg(3) < 24 {
        return Err(Errno::EINVAL);
    }
    let how = user::read_words::<3>(call.arg(2))?;
    if how[2] != 0 {
        // The restrictions on resolving are not kept: better say so than to pretend.
        return Err(Errno::EOPNOTSUPP);
    }
    open_at(call, call.int(0), call.arg(1), how[0] as u32, how[1] as u32)
}

fn put_stat(inode: &dyn Inode, at: u64) -> SysResult {
    user::write(at, &stat::stat(&inode.stat()?))?;
    Ok(0)
}

pub(super) fn stat(call: &mut Call<'_>) -> SysResult {
    put_stat(&*place(call, AT_FDCWD, call.arg(0), 0)?.inode, call.arg(1))
}

pub(super) fn lstat(call: &mut Call<'_>) -> SysResult {
    put_stat(&*place(call, AT_FDCWD, call.arg(0), AT_SYMLINK_NOFOLLOW)?.inode, call.arg(1))
}

pub(super) fn fstat(call: &mut Call<'_>) -> SysResult {
    put_stat(&**call.process().fds.get(call.int(0))?.inode(), call.arg(1))
}

pub(super) fn newfstatat(call: &mut Call<'_>) -> SysResult {
    put_stat(&*place(call, call.int(0), call.arg(1), call.arg(3))?.inode, call.arg(2))
}

pub(super) fn statx(call: &mut Call<'_>) -> SysResult {
    let place = place(call, call.int(0), call.arg(1), call.arg(2))?;
    user::write(call.arg(4), &stat::statx(&place.inode.stat()?))?;
    Ok(0)
}

pub(super) fn statfs(call: &mut Call<'_>) -> SysResult {
    let place = place(call, AT_FDCWD, call.arg(0), 0)?;
    user::write(call.arg(1), &stat::statfs(&place.inode.statfs()?))?;
    Ok(0)
}

pub(super) fn fstatfs(call: &mut Call<'_>) -> SysResult {
    let file = call.process().fds.get(call.int(0))?;
    user::write(call.arg(1), &stat::statfs(&file.inode().statfs()?))?;
    Ok(0)
}

/// Rights are not checked but for execution, which even root needs somebody to have, and read-only file systems.
fn check_access(place: &Place, mode: u64) -> SysResult {
    let s = place.inode.stat()?;
    let regular = place.inode.file_type() == FileType::Regular;
    if mode & 1 != 0 && regular && s.mode & 0o111 == 0 {
        return Err(Errno::EACCES);
    }
    if mode & 2 != 0 && read_only(place) {
        return Err(Errno::EROFS);
    }
    Ok(0)
}

fn read_only(place: &Place) -> bool {
    let mounts = files().tree.mounts();
    mounts.iter().any(|m| m.fs.read_only() && m.fs.root().fs_id() == place.inode.fs_id())
}

pub(super) fn access(call: &mut Call<'_>) -> SysResult {
    check_access(&*place(call, AT_FDCWD, call.arg(0), 0)?, call.arg(1))
}

pub(super) fn faccessat(call: &mut Call<'_>) -> SysResult {
    check_access(&*place(call, call.int(0), call.arg(1), 0)?, call.arg(2))
}

pub(super) fn faccessat2(call: &mut Call<'_>) -> SysResult {
    check_access(&*place(call, call.int(0), call.arg(1), call.arg(3))?, call.arg(2))
}

fn truncate_to(inode: &Arc<dyn Inode>, size: u64) -> SysResult {
    if (size as i64) < 0 {
        return Err(Errno::EINVAL);
    }
    match inode.file_type() {
        FileType::Regular => vfs::file::truncate(inode, size).map(|()| 0),
        FileType::Directory => Err(Errno::EISDIR),
        _ => Err(Errno::EINVAL),
    }
}

pub(super) fn truncate(call: &mut Call<'_>) -> SysResult {
    truncate_to(&place(call, AT_FDCWD, call.arg(0), 0)?.inode, call.arg(1))
}

pub(super) fn ftruncate(call: &mut Call<'_>) -> SysResult {
    let file = call.process().fds.get(call.int(0))?;
    if !file.flags().writable() {
        return Err(Errno::EINVAL);
    }
    truncate_to(file.inode(), call.arg(1))
}

pub(super) fn getcwd(call: &mut Call<'_>) -> SysResult {
    let mut path = cwd(call).path();
    path.push(0);
    if path.len() as u64 > call.arg(1) {
        return Err(Errno::ERANGE);
    }
    user::write(call.arg(0), &path)?;
    Ok(path.len() as u64)
}

fn enter(call: &Call<'_>, place: Arc<Place>) -> SysResult {
    if place.inode.file_type() != FileType::Directory {
        return Err(Errno::ENOTDIR);
    }
    *call.process().cwd.lock() = place;
    Ok(0)
}

pub(super) fn chdir(call: &mut Call<'_>) -> SysResult {
    enter(call, place(call, AT_FDCWD, call.arg(0), 0)?)
}

pub(super) fn fchdir(call: &mut Call<'_>) -> SysResult {
    enter(call, Arc::clone(&call.process().fds.get(call.int(0))?.place))
}

fn make(call: &Call<'_>, dirfd: i32, path_at: u64, new: &New) -> SysResult {
    let path = user::read_path(path_at)?;
    files().create(&base(call, dirfd, &path)?, &path, new).map(|()| 0)
}

pub(super) fn mkdir(call: &mut Call<'_>) -> SysResult {
    make(call, AT_FDCWD, call.arg(0), &new_file(call.process(), FileType::Directory, call.arg(1) as u32))
}

pub(super) fn mkdirat(call: &mut Call<'_>) -> SysResult {
    make(call, call.int(0), call.arg(1), &new_file(call.process(), FileType::Directory, call.arg(2) as u32))
}

fn make_node(call: &Call<'_>, dirfd: i32, path_at: u64, mode: u64, dev: u64) -> SysResult {
    let kind = if mode & 0o170_000 == 0 { Some(FileType::Regular) } else { FileType::from_mode(mode as u32) };
    let kind = kind.filter(|k| !matches!(k, FileType::Directory | FileType::Symlink)).ok_or(Errno::EINVAL)?;
    let new = New { rdev: dev, ..new_file(call.process(), kind, mode as u32) };
    make(call, dirfd, path_at, &new)
}

pub(super) fn mknod(call: &mut Call<'_>) -> SysResult {
    make_node(call, AT_FDCWD, call.arg(0), call.arg(1), call.arg(2))
}

pub(super) fn mknodat(call: &mut Call<'_>) -> SysResult {
    make_node(call, call.int(0), call.arg(1), call.arg(2), call.arg(3))
}

fn make_link(call: &Call<'_>, target_at: u64, dirfd: i32, path_at: u64) -> SysResult {
    let target = user::read_path(target_at)?;
    if target.is_empty() {
        return Err(Errno::ENOENT);
    }
    make(call, dirfd, path_at, &New { target, ..new_file(call.process(), FileType::Symlink, 0) })
}

pub(super) fn symlink(call: &mut Call<'_>) -> SysResult {
    make_link(call, call.arg(0), AT_FDCWD, call.arg(1))
}

pub(super) fn symlinkat(call: &mut Call<'_>) -> SysResult {
    make_link(call, call.arg(0), call.int(1), call.arg(2))
}

fn link_to(call: &Call<'_>, from: (i32, u64), to: (i32, u64), flags: u64) -> SysResult {
    let nofollow = if flags & AT_SYMLINK_FOLLOW == 0 { AT_SYMLINK_NOFOLLOW } else { 0 };
    let place = place(call, from.0, from.1, nofollow | flags & AT_EMPTY_PATH)?;
    let path = user::read_path(to.1)?;
    files().link(&place, &base(call, to.0, &path)?, &path).map(|()| 0)
}

pub(super) fn link(call: &mut Call<'_>) -> SysResult {
    link_to(call, (AT_FDCWD, call.arg(0)), (AT_FDCWD, call.arg(1)), 0)
}

pub(super) fn linkat(call: &mut Call<'_>) -> SysResult {
    link_to(call, (call.int(0), call.arg(1)), (call.int(2), call.arg(3)), call.arg(4))
}

fn remove(call: &Call<'_>, dirfd: i32, path_at: u64, directory: bool) -> SysResult {
    let path = user::read_path(path_at)?;
    files().remove(&base(call, dirfd, &path)?, &path, directory).map(|()| 0)
}

pub(super) fn unlink(call: &mut Call<'_>) -> SysResult {
    remove(call, AT_FDCWD, call.arg(0), false)
}

pub(super) fn rmdir(call: &mut Call<'_>) -> SysResult {
    remove(call, AT_FDCWD, call.arg(0), true)
}

pub(super) fn unlinkat(call: &mut Call<'_>) -> SysResult {
    remove(call, call.int(0), call.arg(1), call.arg(2) & AT_REMOVEDIR != 0)
}

fn rename_to(call: &Call<'_>, from: (i32, u64), to: (i32, u64), flags: u64) -> SysResult {
    let flags = RenameFlags::from_bits(flags as u32).ok_or(Errno::EINVAL)?;
    let (old, new) = (user::read_path(from.1)?, user::read_path(to.1)?);
    let (old_base, new_base) = (base(call, from.0, &old)?, base(call, to.0, &new)?);
    files().rename((&old_base, &old), (&new_base, &new), flags).map(|()| 0)
}

pub(super) fn rename(call: &mut Call<'_>) -> SysResult {
    rename_to(call, (AT_FDCWD, call.arg(0)), (AT_FDCWD, call.arg(1)), 0)
}

pub(super) fn renameat(call: &mut Call<'_>) -> SysResult {
    rename_to(call, (call.int(0), call.arg(1)), (call.int(2), call.arg(3)), 0)
}

pub(super) fn renameat2(call: &mut Call<'_>) -> SysResult {
    rename_to(call, (call.int(0), call.arg(1)), (call.int(2), call.arg(3)), call.arg(4))
}

fn read_link(call: &Call<'_>, dirfd: i32, path_at: u64, to: u64, size: u64) -> SysResult {
    if (size as i32) <= 0 {
        return Err(Errno::EINVAL);
    }
    let target = place(call, dirfd, path_at, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)?.inode.readlink()?;
    let n = target.len().min(size as usize);
    user::write(to, &target[..n])?;
    Ok(n as u64)
}

pub(super) fn readlink(call: &mut Call<'_>) -> SysResult {
    read_link(call, AT_FDCWD, call.arg(0), call.arg(1), call.arg(2))
}

pub(super) fn readlinkat(call: &mut Call<'_>) -> SysResult {
    read_link(call, call.int(0), call.arg(1), call.arg(2), call.arg(3))
}

fn set_mode(inode: &dyn Inode, mode: u64) -> SysResult {
    let mode = Some(mode as u32 & PERMISSIONS);
    inode.set_attr(&SetAttr { mode, ..SetAttr::default() }).map(|()| 0)
}

pub(super) fn chmod(call: &mut Call<'_>) -> SysResult {
    set_mode(&*place(call, AT_FDCWD, call.arg(0), 0)?.inode, call.arg(1))
}

pub(super) fn fchmod(call: &mut Call<'_>) -> SysResult {
    set_mode(&**call.process().fds.get(call.int(0))?.inode(), call.arg(1))
}

pub(super) fn fchmodat(call: &mut Call<'_>) -> SysResult {
    set_mode(&*place(call, call.int(0), call.arg(1), 0)?.inode, call.arg(2))
}

fn set_owner(inode: &dyn Inode, uid: u64, gid: u64) -> SysResult {
    let id = |v: u64| Some(v as u32).filter(|v| *v != u32::MAX);
    inode.set_attr(&SetAttr { uid: id(uid), gid: id(gid), ..SetAttr::default() }).map(|()| 0)
}

pub(super) fn chown(call: &mut Call<'_>) -> SysResult {
    set_owner(&*place(call, AT_FDCWD, call.arg(0), 0)?.inode, call.arg(1), call.arg(2))
}

pub(super) fn lchown(call: &mut Call<'_>) -> SysResult {
    set_owner(&*place(call, AT_FDCWD, call.arg(0), AT_SYMLINK_NOFOLLOW)?.inode, call.arg(1), call.arg(2))
}

pub(super) fn fchown(call: &mut Call<'_>) -> SysResult {
    set_owner(&**call.process().fds.get(call.int(0))?.inode(), call.arg(1), call.arg(2))
}

pub(super) fn fchownat(call: &mut Call<'_>) -> SysResult {
    set_owner(&*place(call, call.int(0), call.arg(1), call.arg(4))?.inode, call.arg(2), call.arg(3))
}

fn set_times(inode: &dyn Inode, atime: Option<Timespec>, mtime: Option<Timespec>) -> SysResult {
    inode.set_attr(&SetAttr { atime, mtime, ..SetAttr::default() }).map(|()| 0)
}

pub(super) fn utimensat(call: &mut Call<'_>) -> SysResult {
    let place = if call.arg(1) == 0 {
        Arc::clone(&call.process().fds.get(call.int(0))?.place)
    } else {
        place(call, call.int(0), call.arg(1), call.arg(3))?
    };
    let now = crate::time::now();
    let mut times = [Some(now); 2];
    if call.arg(2) != 0 {
        let words = user::read_words::<4>(call.arg(2))?;
        for (time, pair) in times.iter_mut().zip(words.chunks_exact(2)) {
            *time = match pair[1] {
                UTIME_NOW => Some(now),
                UTIME_OMIT => None,
                nsec @ 0..=999_999_999 => Some(Timespec { sec: pair[0] as i64, nsec: nsec as u32 }),
                _ => return Err(Errno::EINVAL),
            };
        }
    }
    set_times(&*place.inode, times[0], times[1])
}

/// Two `timeval`s, or now.
fn micro_times(at: u64) -> Result<[Option<Timespec>; 2], Errno> {
    if at == 0 {
        return Ok([Some(crate::time::now()); 2]);
    }
    let w = user::read_words::<4>(at)?;
    if w[1] >= 1_000_000 || w[3] >= 1_000_000 {
        return Err(Errno::EINVAL);
    }
    Ok([0, 2].map(|i| Some(Timespec { sec: w[i] as i64, nsec: w[i + 1] as u32 * 1000 })))
}

pub(super) fn utimes(call: &mut Call<'_>) -> SysResult {
    let [atime, mtime] = micro_times(call.arg(1))?;
    set_times(&*place(call, AT_FDCWD, call.arg(0), 0)?.inode, atime, mtime)
}

pub(super) fn futimesat(call: &mut Call<'_>) -> SysResult {
    let [atime, mtime] = micro_times(call.arg(2))?;
    set_times(&*place(call, call.int(0), call.arg(1), 0)?.inode, atime, mtime)
}

pub(super) fn utime(call: &mut Call<'_>) -> SysResult {
    let times = match call.arg(1) {
        0 => [crate::time::now(); 2],
        at => {
            let words = user::read_words::<2>(at)?;
            [0, 1].map(|i| Timespec { sec: words[i] as i64, nsec: 0 })
        }
    };
    set_times(&*place(call, AT_FDCWD, call.arg(0), 0)?.inode, Some(times[0]), Some(times[1]))
}

/// Which file an extended-attribute call means.
enum Which {
    Follow,
    Link,
    Open,
}

fn xattr_inode(call: &Call<'_>, which: Which) -> Result<Arc<dyn Inode>, Errno> {
    let place = match which {
        Which::Follow => place(call, AT_FDCWD, call.arg(0), 0)?,
        Which::Link => place(call, AT_FDCWD, call.arg(0), AT_SYMLINK_NOFOLLOW)?,
        Which::Open => Arc::clone(&call.process().fds.get(call.int(0))?.place),
    };
    Ok(Arc::clone(&place.inode))
}

fn xattr_name(at: u64) -> Result<Vec<u8>, Errno> {
    let name =
        user::read_string(at, 256).map_err(|e| if e == Errno::ENAMETOOLONG { Errno::ERANGE } else { e })?;
    if name.is_empty() { Err(Errno::ERANGE) } else { Ok(name) }
}

fn set_xattr(call: &Call<'_>, which: Which) -> SysResult {
    let inode = xattr_inode(call, which)?;
    let name = xattr_name(call.arg(1))?;
    if call.arg(3) > 65536 {
        return Err(Errno::E2BIG);
    }
    let value = user::read_bytes(call.arg(2), call.arg(3) as usize)?;
    let must = match call.arg(4) {
        0 => None,
        1 => Some(false),
        2 => Some(true),
        _ => return Err(Errno::EINVAL),
    };
    inode.set_xattr(&name, &value, must).map(|()| 0)
}

/// Gives `bytes` to a caller who may only ask for their length.
fn sized(bytes: &[u8], to: u64, size: u64) -> SysResult {
    if size > 0 {
        if (size as usize) < bytes.len() {
            return Err(Errno::ERANGE);
        }
        user::write(to, bytes)?;
    }
    Ok(bytes.len() as u64)
}

fn get_xattr(call: &Call<'_>, which: Which) -> SysResult {
    let value = xattr_inode(call, which)?.get_xattr(&xattr_name(call.arg(1))?)?;
    sized(&value, call.arg(2), call.arg(3))
}

fn list_xattr(call: &Call<'_>, which: Which) -> SysResult {
    let mut list = Vec::new();
    for name in xattr_inode(call, which)?.list_xattr()? {
        list.extend(name);
        list.push(0);
    }
    sized(&list, call.arg(1), call.arg(2))
}

fn remove_xattr(call: &Call<'_>, which: Which) -> SysResult {
    xattr_inode(call, which)?.remove_xattr(&xattr_name(call.arg(1))?).map(|()| 0)
}

pub(super) fn setxattr(call: &mut Call<'_>) -> SysResult {
    set_xattr(call, Which::Follow)
}
pub(super) fn lsetxattr(call: &mut Call<'_>) -> SysResult {
    set_xattr(call, Which::Link)
}
pub(super) fn fsetxattr(call: &mut Call<'_>) -> SysResult {
    set_xattr(call, Which::Open)
}
pub(super) fn getxattr(call: &mut Call<'_>) -> SysResult {
    get_xattr(call, Which::Follow)
}
pub(super) fn lgetxattr(call: &mut Call<'_>) -> SysResult {
    get_xattr(call, Which::Link)
}
pub(super) fn fgetxattr(call: &mut Call<'_>) -> SysResult {
    get_xattr(call, Which::Open)
}
pub(super) fn listxattr(call: &mut Call<'_>) -> SysResult {
    list_xattr(call, Which::Follow)
}
pub(super) fn llistxattr(call: &mut Call<'_>) -> SysResult {
    list_xattr(call, Which::Link)
}
pub(super) fn flistxattr(call: &mut Call<'_>) -> SysResult {
    list_xattr(call, Which::Open)
}
pub(super) fn removexattr(call: &mut Call<'_>) -> SysResult {
    remove_xattr(call, Which::Follow)
}
pub(super) fn lremovexattr(call: &mut Call<'_>) -> SysResult {
    remove_xattr(call, Which::Link)
}
pub(super) fn fremovexattr(call: &mut Call<'_>) -> SysResult {
    remove_xattr(call, Which::Open)
}
