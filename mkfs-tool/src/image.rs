//! Image files: finding the ones of a pool, locking them, opening them, and making new ones.
//!
//! # Invariants
//! - An image is opened for reading alone unless its verb writes. A refused image was never opened for writing.
//! - Who writes holds an exclusive advisory lock (`flock`) on every image; so does `tarn run` while the machine runs.
//!   Readers take none: a pool is consistent at each of its uberblocks.
//! - A new image has no name until it is complete ([`NewImage`]): a failure or a kill leaves nothing behind.

use anyhow::{Context, Result, bail, ensure};
use platform::block::BlockDevice;
use platform::host::FileDisk;
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, flock, linkat, openat};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Smallest disk of a pool in bytes (`SPA_MINDEVSIZE`).
pub const MIN_SIZE: u64 = 64 << 20;

/// What a verb does to an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Only reads it.
    Read,
    /// Changes it.
    Write,
}

/// Opened images.
pub struct Images {
    /// Their files.
    pub paths: Vec<PathBuf>,
    /// The same as devices.
    pub devices: Vec<Arc<dyn BlockDevice>>,
    /// Held for as long as the images are in use.
    _locks: Vec<File>,
}

impl Images {
    /// How the images are called in messages.
    #[must_use]
    pub fn name(&self) -> String {
        self.paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
    }

    /// Opens image files, and all files with a pool's label in directories.
    pub fn open(named: &[PathBuf], access: Access) -> Result<Self> {
        ensure!(!named.is_empty(), "no image given: name the pool's images with --disk IMG");
        let paths = expand(named)?;
        let mut images = Images { paths: Vec::new(), devices: Vec::new(), _locks: Vec::new() };
        for path in paths {
            check_image(&path)?;
            if access == Access::Write {
                images._locks.push(lock(&path)?);
            }
            let disk =
                FileDisk::open(&path, access == Access::Write).with_context(|| path.display().to_string())?;
            images.devices.push(Arc::new(disk));
            images.paths.push(path);
        }
        Ok(images)
    }
}

/// Replaces directories by the images they hold, in the order of their names.
fn expand(named: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for path in named {
        let metadata = std::fs::metadata(path).with_context(|| path.display().to_string())?;
        if !metadata.is_dir() {
            paths.push(path.clone());
            continue;
        }
        let list = std::fs::read_dir(path).with_context(|| path.display().to_string())?;
        let mut found = Vec::new();
        for entry in list {
            let entry = entry.with_context(|| path.display().to_string())?.path();
            if entry.is_file() && has_label(&entry) {
                found.push(entry);
            }
        }
        ensure!(!found.is_empty(), "{}: no file in this directory has a ZFS label", path.display());
        found.sort();
        paths.append(&mut found);
    }
    let before = paths.len();
    paths.sort();
    paths.dedup();
    ensure!(paths.len() == before, "an image is named twice");
    Ok(paths)
}

/// Whether the file begins like a vdev: the name-value list of its first or second label, or its boot block's magic.
fn has_label(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    [0_u64, 256 << 10].iter().any(|label| {
        let mut list = [0; 4];
        // XDR encoding (1), little endian (1), after 16 KiB of padding.
        file.read_exact_at(&mut list, label + (16 << 10)).is_ok() && list[..2] == [1, 1]
    })
}

/// Formats that hold a disk but are none, by their first bytes.
const OTHER_FORMATS: [(&[u8], &str); 4] =
    [(b"QFI\xfb", "qcow2"), (b"KDMV", "VMDK"), (b"conectix", "VHD"), (b"vhdxfile", "VHDX")];

/// Refuses what cannot be an image, before anything is opened for writing.
pub fn check_image(path: &Path) -> Result<()> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let metadata = file.metadata()?;
    ensure!(!metadata.is_dir(), "{}: is a directory", path.display());
    let mut magic = [0; 8];
    let len = file.read_at(&mut magic, 0).unwrap_or(0);
    if let Some((_, format)) = OTHER_FORMATS.iter().find(|(m, _)| magic[..len].starts_with(m)) {
        bail!(
            "{}: a {format} file, not a raw image: convert it with qemu-img convert -O raw",
            path.display()
        );
    }
    if metadata.is_file() {
        ensure!(
            metadata.len() >= MIN_SIZE,
            "{}: {} bytes are too few for a pool (64M at least): truncated, or not an image",
            path.display(),
            metadata.len()
        );
    }
    Ok(())
}

/// Takes the writer's lock. It is gone when the returned file is closed.
pub fn lock(path: &Path) -> Result<File> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => {
            bail!("{}: in use by another tarn (a running machine, or a verb that writes)", path.display())
        }
        // A file system without locks: there is nothing to be done, and refusing would help nobody.
        Err(Errno::NOTSUP | Errno::NOSYS | Errno::NOLCK) => Ok(file),
        Err(e) => Err(e).with_context(|| format!("{}: locking", path.display())),
    }
}

/// An image in the making.
pub struct NewImage {
    target: PathBuf,
    replace: bool,
    file: File,
    /// Its temporary name, on file systems that know no nameless files.
    temporary: Option<tempfile::TempPath>,
}

impl NewImage {
    /// A sparse file of `size` bytes that will be called `target`. Fails if that exists, unless it is to be replaced.
    pub fn new(target: &Path, size: u64, replace: bool) -> Result<Self> {
        let shown = || target.display().to_string();
        ensure!(size >= MIN_SIZE, "an image of {size} bytes is too small for a pool: 64M is the least");
        if let Ok(metadata) = std::fs::symlink_metadata(target) {
            ensure!(replace, "{} exists: choose another name, or replace it with --force", target.display());
            ensure!(metadata.is_file(), "{} exists and is no regular file", target.display());
        }
        let folder = folder(target);
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let (file, temporary) = match openat(CWD, folder, flags, Mode::from_raw_mode(0o666)) {
            Ok(fd) => (File::from(fd), None),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) if folder.is_dir() => {
                let named = tempfile::Builder::new().prefix(".tarn-").suffix(".partial").tempfile_in(folder);
                let (file, path) = named.with_context(shown)?.into_parts();
                (file, Some(path))
            }
            Err(e) => return Err(e).with_context(shown),
        };
        file.set_len(size).with_context(shown)?;
        Ok(NewImage { target: target.to_owned(), replace, file, temporary })
    }

    /// The image as a disk.
    pub fn device(&self) -> Result<Arc<dyn BlockDevice>> {
        let path = match &self.temporary {
            Some(path) => path.to_path_buf(),
            None => self.descriptor(),
        };
        Ok(Arc::new(FileDisk::open(&path, true).with_context(|| self.target.display().to_string())?))
    }

    /// Gives the complete image its name.
    pub fn commit(self) -> Result<()> {
        let target = self.target.clone();
        self.name().with_context(|| target.display().to_string())
    }

    fn descriptor(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }

    fn name(self) -> Result<()> {
        let descriptor = self.descriptor();
        let Some(temporary) = self.temporary else {
            if !self.replace {
                linkat(CWD, &descriptor, CWD, &self.target, AtFlags::SYMLINK_FOLLOW)?;
                return Ok(());
            }
            // A link cannot replace: it gets a name beside the target, which then takes the target's place.
            let name = format!(".tarn-{}-{}.partial", std::process::id(), self.file.as_raw_fd());
            let beside = folder(&self.target).join(name);
            linkat(CWD, &descriptor, CWD, &beside, AtFlags::SYMLINK_FOLLOW)?;
            return std::fs::rename(&beside, &self.target).map_err(|e| {
                let _ = std::fs::remove_file(&beside);
                e.into()
            });
        };
        if self.replace {
            temporary.persist(&self.target)?;
        } else {
            temporary.persist_noclobber(&self.target)?;
        }
        Ok(())
    }
}

/// The directory in which a file lies.
pub(crate) fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sized(path: &Path, size: u64) {
        File::create(path).unwrap().set_len(size).unwrap();
    }

    #[test]
    fn a_new_image_appears_only_when_complete() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("a.img");
        let image = NewImage::new(&path, MIN_SIZE, false).unwrap();
        image.device().unwrap();
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
        drop(image);
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
        NewImage::new(&path, MIN_SIZE, false).unwrap().commit().unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), MIN_SIZE);
        assert!(NewImage::new(&path, MIN_SIZE, false).is_err());
        NewImage::new(&path, 2 * MIN_SIZE, true).unwrap().commit().unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 2 * MIN_SIZE);
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 1);
        assert!(NewImage::new(&temp.path().join("b"), MIN_SIZE - 1, false).is_err());
        assert!(NewImage::new(&temp.path().join("no/b"), MIN_SIZE, false).is_err());
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("x");
        sized(&path, 1000);
        assert!(check_image(&path).unwrap_err().to_string().contains("too few"));
        std::fs::write(&path, b"QFI\xfb....").unwrap();
        assert!(check_image(&path).unwrap_err().to_string().contains("qcow2"));
        assert!(check_image(temp.path()).is_err());
        sized(&path, MIN_SIZE);
        assert!(check_image(&path).is_ok());
        assert!(Images::open(&[], Access::Read).is_err());
        assert!(Images::open(&[path.clone(), path], Access::Read).is_err());
        assert!(Images::open(&[temp.path().to_owned()], Access::Read).is_err());
    }

    #[test]
    fn two_writers_exclude_each_other_and_readers_do_not() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("x");
        sized(&path, MIN_SIZE);
        let named = [path];
        let first = Images::open(&named, Access::Write).unwrap();
        let error = Images::open(&named, Access::Write).err().unwrap();
        assert!(error.to_string().contains("in use"));
        assert!(Images::open(&named, Access::Read).is_ok());
        drop(first);
        assert!(Images::open(&named, Access::Write).is_ok());
    }
}
