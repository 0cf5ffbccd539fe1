//! Writing files of an image to this machine.
//!
//! An image is foreign: a name in it may be anything, and the target may hold symbolic links. So every step is made relative
//! to an open directory, no name with a slash is used, and no link is followed below the target.

use super::progress::Bar;
use super::view::{View, device_numbers};
use crate::output::show_name;
use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{
    AtFlags, CWD, Dev, FileType, Gid, Mode, OFlags, RawMode, Timespec, Timestamps, Uid, XattrFlags, chmodat,
    chownat, fsetxattr, linkat, lsetxattr, makedev, mkdirat, mknodat, openat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use rustix::process::geteuid;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use zfs::zpl::{Attr, DirEntry, FileKind};

/// How to copy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// Modes, owners, times, links, attributes.
    pub(crate) preserve: bool,
    /// Replace files that exist.
    pub(crate) replace: bool,
    /// No progress bar.
    pub(crate) quiet: bool,
}

/// Copies files and trees of one file system.
pub(crate) struct Extractor<'a> {
    view: &'a View,
    wanted: Wanted,
    /// Whether owners can be set.
    root: bool,
    /// Objects with several names → the first name that was made.
    linked: HashMap<u64, PathBuf>,
    /// Things left out, by reason.
    notes: HashMap<String, (u64, String)>,
    bar: Bar,
}

/// A directory on the way: its handle, what is left to copy, and its own metadata for when it is done.
struct Level {
    handle: OwnedFd,
    path: PathBuf,
    rest: std::vec::IntoIter<DirEntry>,
    attr: Attr,
}

impl<'a> Extractor<'a> {
    pub(crate) fn new(view: &'a View, wanted: Wanted) -> Self {
        let bar = Bar::counting("copying", wanted.quiet);
        let root = geteuid().is_root();
        Extractor { view, wanted, root, linked: HashMap::new(), notes: HashMap::new(), bar }
    }

    /// Says what was left out.
    pub(crate) fn finish(self) {
        self.bar.finish();
        let mut notes: Vec<_> = self.notes.into_iter().collect();
        notes.sort();
        for (reason, (count, first)) in notes {
            let more = if count > 1 { format!(" and {} more", count - 1) } else { String::new() };
            eprintln!("tarn: note: {first}{more}: {reason}");
        }
    }

    fn note(&mut self, path: &Path, reason: &str) {
        let shown = || show_name(path.as_os_str().as_bytes());
        let entry = self.notes.entry(reason.to_owned()).or_insert_with(|| (0, shown()));
        entry.0 += 1;
    }

    /// Copies what is no directory to `target`.
    pub(crate) fn single(&mut self, attr: &Attr, target: &Path, special: bool) -> Result<()> {
        if !special && !matches!(attr.kind(), FileKind::Regular | FileKind::Symlink) {
            bail!("is a {}: use -a", super::view::kind_name(attr.kind()));
        }
        let folder = crate::image::folder(target);
        let name = target.file_name().context("the target has no name")?;
        let handle = open_directory(CWD, folder.as_os_str()).with_context(|| folder.display().to_string())?;
        self.entry(handle.as_fd(), name, target, attr)
    }

    /// Copies a directory and everything below it; `target` is made if it is missing.
    pub(crate) fn tree(&mut self, object: u64, target: &Path) -> Result<()> {
        let attr = self.view.fs.getattr(object)?;
        match std::fs::create_dir(target) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(e).with_context(|| target.display().to_string());
            }
            _ => {}
        }
        // The target itself may be a link to a directory: it was named by the user.
        let handle = openat(CWD, target, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let handle = handle.with_context(|| target.display().to_string())?;
        let rest = self.view.entries(object)?.into_iter();
        let mut levels = vec![Level { handle, path: target.to_owned(), rest, attr }];
        while let Some(level) = levels.last_mut() {
            let Some(entry) = level.rest.next() else {
                if let Some(done) = levels.pop() {
                    // By its handle: its name may be the user's link.
                    let here = done.handle.as_fd();
                    self.metadata(here, OsStr::new("."), &done.path, &done.attr, false)?;
                    self.attributes(&done.path, &done.attr, Some(here))?;
                }
                continue;
            };
            check_name(&entry.name)?;
            let name = OsStr::from_bytes(&entry.name);
            let path = level.path.join(name);
            let attr = self.view.fs.getattr(entry.object).with_context(|| shown(&path))?;
            self.bar.add(1);
            if attr.kind() != FileKind::Directory {
                let handle = level.handle.as_fd();
                self.entry(handle, name, &path, &attr).with_context(|| shown(&path))?;
                continue;
            }
            let handle = make_directory(level.handle.as_fd(), name).with_context(|| shown(&path))?;
            let rest = self.view.entries(entry.object).with_context(|| shown(&path))?.into_iter();
            levels.push(Level { handle, path, rest, attr });
        }
        Ok(())
    }

    /// Copies what is no directory.
    fn entry(&mut self, folder: BorrowedFd<'_>, name: &OsStr, path: &Path, attr: &Attr) -> Result<()> {
        if self.wanted.replace {
            match unlinkat(folder, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(e) => return Err(e).context("replacing"),
            }
        }
        let several = self.wanted.preserve && attr.nlink > 1;
        if several && let Some(first) = self.linked.get(&attr.object) {
            linkat(CWD, first, folder, name, AtFlags::empty()).map_err(exists)?;
            return Ok(());
        }
        match attr.kind() {
            FileKind::Regular => return self.regular(folder, name, path, attr, several),
            FileKind::Symlink => {
                let target = self.view.fs.readlink(attr.object)?;
                symlinkat(OsStr::from_bytes(&target), folder, name).map_err(exists)?;
            }
            kind => {
                if !self.node(folder, name, path, attr, kind)? {
                    return Ok(());
                }
            }
        }
        if several {
            self.linked.insert(attr.object, path.to_owned());
        }
        self.metadata(folder, name, path, attr, attr.kind() == FileKind::Symlink)?;
        self.attributes(path, attr, None)
    }

    /// A device, pipe or socket; false if this user may not make it.
    fn node(
        &mut self,
        folder: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
        attr: &Attr,
        kind: FileKind,
    ) -> Result<bool> {
        let kind = match kind {
            FileKind::CharDevice => FileType::CharacterDevice,
            FileKind::BlockDevice => FileType::BlockDevice,
            FileKind::Socket => FileType::Socket,
            _ => FileType::Fifo,
        };
        let (major, minor) = device_numbers(attr.rdev);
        let device: Dev = makedev(major as u32, minor as u32);
        match mknodat(folder, name, kind, Mode::from_raw_mode(0o600), device) {
            Ok(()) => Ok(true),
            Err(Errno::PERM) => {
                self.note(path, "this user may not make devices");
                Ok(false)
            }
            Err(e) => Err(exists(e)),
        }
    }

    fn regular(
        &mut self,
        folder: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
        attr: &Attr,
        several: bool,
    ) -> Result<()> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        // Private until it is whole: it may be set-uid.
        let mode = if self.wanted.preserve { 0o600 } else { attr.mode & 0o777 };
        let file = File::from(openat(folder, name, flags, Mode::from_raw_mode(mode)).map_err(exists)?);
        let written = self.content(&file, attr);
        if let Err(e) = written {
            // No half file under its full name.
            let _ = unlinkat(folder, name, AtFlags::empty());
            return Err(e);
        }
        if several {
            self.linked.insert(attr.object, path.to_owned());
        }
        self.attributes(path, attr, Some(file.as_fd()))?;
        self.metadata(folder, name, path, attr, false)
    }

    fn content(&mut self, file: &File, attr: &Attr) -> Result<()> {
        let bar = &self.bar;
        let mut end = 0;
        self.view.read_data(attr, &mut |offset, data| {
            bar.bytes(data.len() as u64);
            // Blocks of zeros become holes, as `cp --sparse=always` has it; large records would fill them otherwise.
            for (n, block) in data.chunks(64 << 10).enumerate() {
                if block.iter().any(|b| *b != 0) {
                    let at = offset + n as u64 * (64 << 10);
                    file.write_all_at(block, at)?;
                    end = at + block.len() as u64;
                }
            }
            Ok(())
        })?;
        if end < attr.size {
            file.set_len(attr.size)?;
        }
        Ok(())
    }

    /// Owner, mode and times, in the order in which they do not undo each other.
    fn metadata(
        &mut self,
        folder: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
        attr: &Attr,
        link: bool,
    ) -> Result<()> {
        let raw: RawMode = (attr.mode & if self.wanted.preserve { 0o7777 } else { 0o777 }) as RawMode;
        let mode = Mode::from_raw_mode(raw);
        if !self.wanted.preserve {
            if attr.kind() == FileKind::Directory {
                chmodat(folder, name, mode, AtFlags::empty()).context("setting the mode")?;
            }
            return Ok(());
        }
        let mut mode = mode;
        let owner = (Some(Uid::from_raw(attr.uid)), Some(Gid::from_raw(attr.gid)));
        match chownat(folder, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::PERM | Errno::INVAL) if !self.root => {
                // Another user's set-uid file must not become ours.
                mode = mode.difference(Mode::SUID | Mode::SGID);
                self.note(path, "only root can set owners");
            }
            Err(e) => return Err(e).context("setting the owner"),
        }
        if !link {
            chmodat(folder, name, mode, AtFlags::empty()).context("setting the mode")?;
        }
        let time = |t: zfs::zpl::Timespec| Timespec { tv_sec: t.sec, tv_nsec: i64::from(t.nsec) as _ };
        let times = Timestamps { last_access: time(attr.atime), last_modification: time(attr.mtime) };
        utimensat(folder, name, &times, AtFlags::SYMLINK_NOFOLLOW).context("setting the times")
    }

    /// Extended attributes. What the system refuses is noted: other security modules, other file systems.
    fn attributes(&mut self, path: &Path, attr: &Attr, handle: Option<BorrowedFd<'_>>) -> Result<()> {
        if !self.wanted.preserve {
            return Ok(());
        }
        for name in self.view.fs.list_xattr(attr.object).context("listing extended attributes")? {
            let value = self.view.fs.get_xattr(attr.object, &name);
            let value = value.with_context(|| format!("extended attribute {}", show_name(&name)))?;
            let key = OsStr::from_bytes(&name);
            let set = match handle {
                Some(handle) => fsetxattr(handle, key, &value, XattrFlags::empty()),
                None => lsetxattr(path, key, &value, XattrFlags::empty()),
            };
            match set {
                Ok(()) => {}
                Err(
                    Errno::PERM | Errno::ACCESS | Errno::NOTSUP | Errno::NOSPC | Errno::RANGE | Errno::TOOBIG,
                ) => {
                    let namespace = name.split(|b| *b == b'.').next().unwrap_or_default();
                    let reason = format!("this file system refuses {}.* attributes", show_name(namespace));
                    self.note(path, &reason);
                }
                Err(e) => return Err(e).with_context(|| format!("extended attribute {}", show_name(&name))),
            }
        }
        Ok(())
    }
}

fn shown(path: &Path) -> String {
    show_name(path.as_os_str().as_bytes())
}

/// A file that is already there deserves a better word than the system's.
fn exists(e: Errno) -> anyhow::Error {
    if e == Errno::EXIST { anyhow::anyhow!("exists already: use --force to replace it") } else { e.into() }
}

/// What an image calls a file must be one component.
fn check_name(name: &[u8]) -> Result<()> {
    let bad = name.is_empty() || name == b"." || name == b".." || name.iter().any(|b| matches!(b, b'/' | 0));
    ensure!(!bad, "the image holds a file with an impossible name: {:?}", show_name(name));
    Ok(())
}

fn open_directory(folder: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    openat(folder, name, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

/// Makes a directory or takes the one that is there; a link to one is refused.
fn make_directory(folder: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd> {
    match mkdirat(folder, name, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(e.into()),
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    match openat(folder, name, flags, Mode::empty()) {
        Err(Errno::NOTDIR | Errno::LOOP) => bail!("exists already and is no directory"),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"/etc", b"a\0"] {
            assert!(check_name(bad).is_err());
        }
        assert!(check_name(b"..a").is_ok());
    }

    #[test]
    fn links_in_the_target_are_not_followed() {
        let temp = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/", temp.path().join("out")).unwrap();
        let here = open_directory(CWD, temp.path().as_os_str()).unwrap();
        let error = make_directory(here.as_fd(), OsStr::new("out")).unwrap_err();
        assert!(error.to_string().contains("no directory"), "{error}");
        assert!(make_directory(here.as_fd(), OsStr::new("new")).is_ok());
        assert!(make_directory(here.as_fd(), OsStr::new("new")).is_ok());
    }
}
