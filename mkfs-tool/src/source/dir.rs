//! A directory of this machine as a source.

use super::{Collector, Content, Extent, Kind, Meta, Pending, Time, Tree};
use anyhow::{Context, Result, bail};
use rustix::fs::{SeekFrom, lgetxattr, llistxattr, major, minor, seek};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::{CStr, OsStr};
use std::fs::{File, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Files of a walked directory; a token is an index.
struct Files(Vec<PathBuf>);

/// Walks a directory. It is read, never changed; what cannot be read is an error, sockets are left out with a note.
pub fn open(path: &Path) -> Result<Tree> {
    let mut walk = Walk::new();
    let metadata = std::fs::metadata(path).with_context(|| path.display().to_string())?;
    let root = walk.collector.node([])?;
    walk.collector.set(root, Pending::Kind(Kind::Directory), meta(path, &metadata)?)?;
    walk.below(path.to_owned(), Vec::new())?;
    walk.finish()
}

/// Walks several files and directories, which become the entries of the root with the names that are given. The root itself
/// stands for nothing.
pub fn open_all(items: &[(PathBuf, Vec<u8>)]) -> Result<Tree> {
    let mut walk = Walk::new();
    let root = walk.collector.node([])?;
    walk.collector.set(root, Pending::Kind(Kind::Directory), Meta::default())?;
    for (path, name) in items {
        let names = vec![name.clone()];
        if walk.visit(path, &names).with_context(|| path.display().to_string())? {
            walk.below(path.clone(), names)?;
        }
    }
    walk.finish()
}

struct Walk {
    collector: Collector,
    files: Vec<PathBuf>,
    /// Device and inode of files with several names → the node that came first.
    seen: HashMap<(u64, u64), usize>,
    notes: Vec<String>,
}

impl Walk {
    fn new() -> Self {
        Walk { collector: Collector::new(), files: Vec::new(), seen: HashMap::new(), notes: Vec::new() }
    }

    /// Adds everything below a directory, which has `names` in the tree.
    fn below(&mut self, folder: PathBuf, names: Vec<Vec<u8>>) -> Result<()> {
        let mut pending = vec![(folder, names)];
        while let Some((folder, names)) = pending.pop() {
            let list = std::fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
            for entry in list {
                let entry = entry.with_context(|| folder.display().to_string())?;
                let mut names = names.clone();
                names.push(entry.file_name().as_bytes().to_vec());
                let full = entry.path();
                if self.visit(&full, &names).with_context(|| full.display().to_string())? {
                    pending.push((full, names));
                }
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Tree> {
        self.notes.sort();
        let entries = self.collector.finish(&Meta::default())?;
        Ok(Tree { entries, content: Box::new(Files(self.files)), notes: self.notes })
    }

    /// Adds one entry; whether it is a directory to descend into.
    fn visit(&mut self, path: &Path, names: &[Vec<u8>]) -> Result<bool> {
        let metadata = std::fs::symlink_metadata(path)?;
        let kind = metadata.file_type();
        if kind.is_socket() {
            self.notes.push(format!("{}: a socket is not copied", path.display()));
            return Ok(false);
        }
        let node = self.collector.node(names.iter().map(Vec::as_slice))?;
        if metadata.nlink() > 1 && !kind.is_dir() {
            match self.seen.entry((metadata.dev(), metadata.ino())) {
                std::collections::hash_map::Entry::Occupied(first) => {
                    self.collector.set(node, Pending::Link(*first.get()), Meta::default())?;
                    return Ok(false);
                }
                std::collections::hash_map::Entry::Vacant(place) => {
                    place.insert(node);
                }
            }
        }
        let device = || (major(metadata.rdev()), minor(metadata.rdev()));
        let kind = if kind.is_dir() {
            Kind::Directory
        } else if kind.is_symlink() {
            Kind::Symlink(std::fs::read_link(path)?.into_os_string().as_bytes().to_vec())
        } else if kind.is_file() {
            self.files.push(path.to_owned());
            let allocated = metadata.blocks().saturating_mul(512);
            Kind::File { size: metadata.len(), allocated, token: (self.files.len() - 1) as u64 }
        } else if kind.is_char_device() {
            Kind::CharDevice(device().0, device().1)
        } else if kind.is_block_device() {
            Kind::BlockDevice(device().0, device().1)
        } else if kind.is_fifo() {
            Kind::Fifo
        } else {
            bail!("a file of unknown type")
        };
        let descend = kind == Kind::Directory;
        self.collector.set(node, Pending::Kind(kind), meta(path, &metadata)?)?;
        Ok(descend)
    }
}

fn meta(path: &Path, metadata: &Metadata) -> Result<Meta> {
    let time = |sec: i64, nsec: i64| Time { sec, nsec: u32::try_from(nsec).unwrap_or(0) };
    Ok(Meta {
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        atime: time(metadata.atime(), metadata.atime_nsec()),
        mtime: time(metadata.mtime(), metadata.mtime_nsec()),
        xattrs: xattrs(path)?,
    })
}

/// Longest list of names and longest value that Linux has, in bytes (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const XATTR_MAX: usize = 64 << 10;

/// All extended attributes, sorted by name. A file system without any has none.
fn xattrs(path: &Path) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut names = [0; XATTR_MAX];
    let names = match llistxattr(path, &mut names[..]) {
        Ok(0) | Err(Errno::NOTSUP | Errno::PERM | Errno::ACCESS) => return Ok(Vec::new()),
        Ok(len) => &names[..len],
        Err(e) => return Err(e).context("listing extended attributes"),
    };
    let mut value = vec![0; XATTR_MAX];
    let mut attributes = Vec::new();
    for name in names.split_inclusive(|b| *b == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        match lgetxattr(path, name, &mut value[..]) {
            Ok(len) => attributes.push((name.to_bytes().to_vec(), value[..len].to_vec())),
            // Not for us (a security module's own), or gone since.
            Err(Errno::PERM | Errno::ACCESS | Errno::NODATA | Errno::NOTSUP) => {}
            Err(e) => {
                return Err(e).with_context(|| format!("extended attribute {}", name.to_string_lossy()));
            }
        }
    }
    attributes.sort();
    Ok(attributes)
}

impl Files {
    fn open(&self, token: u64) -> Result<(File, &Path)> {
        let path =
            usize::try_from(token).ok().and_then(|i| self.0.get(i)).context("no file with that token")?;
        Ok((File::open(path).with_context(|| path.display().to_string())?, path))
    }
}

impl Content for Files {
    fn read_at(&self, token: u64, offset: u64, buf: &mut [u8]) -> Result<()> {
        let (file, path) = self.open(token)?;
        file.read_exact_at(buf, offset).with_context(|| match file.metadata() {
            Ok(now) if now.len() < offset + buf.len() as u64 => {
                format!("{} became shorter while it was read", path.display())
            }
            _ => path.display().to_string(),
        })
    }

    fn extents(&self, token: u64, range: Extent) -> Result<Vec<Extent>> {
        let (file, path) = self.open(token)?;
        extents(&file, range).with_context(|| path.display().to_string())
    }

    fn name(&self, token: u64) -> String {
        self.0.get(token as usize).map_or_else(|| OsStr::new("?"), |p| p.as_os_str()).to_string_lossy().into()
    }
}

/// The parts of `range` that the file system has allocated.
pub(crate) fn extents(file: &File, range: Extent) -> Result<Vec<Extent>> {
    let mut extents = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start.min(range.end),
            // No data from here to the end.
            Err(Errno::NXIO) => break,
            // A file system that knows no holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                extents.push(at..range.end);
                break;
            }
            Err(e) => return Err(e.into()),
        };
        if start >= range.end {
            break;
        }
        let end = seek(file, SeekFrom::Hole(start))?.min(range.end);
        extents.push(start..end);
        if end <= at {
            bail!("the file system reports extents that do not advance");
        }
        at = end;
    }
    Ok(extents)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    #[test]
    fn a_directory_becomes_a_tree() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path();
        std::fs::create_dir(root.join("d")).unwrap();
        std::fs::write(root.join("d/f"), b"hello").unwrap();
        std::fs::hard_link(root.join("d/f"), root.join("a")).unwrap();
        symlink("d/f", root.join("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.join("s")).unwrap();
        let tree = open(root).unwrap();
        let names: Vec<_> = (0..tree.entries.len()).map(|i| tree.path(i)).collect();
        assert_eq!(names, ["/", "/a", "/d", "/d/f", "/link"]);
        let Kind::File { size: 5, token, .. } = tree.entries[1].kind else { panic!("{tree:?}") };
        assert_eq!(tree.entries[3].kind, Kind::HardLink(1));
        assert_eq!(tree.entries[4].kind, Kind::Symlink(b"d/f".to_vec()));
        assert_eq!(tree.notes.len(), 1);
        let mut buf = [0; 3];
        tree.content.read_at(token, 2, &mut buf).unwrap();
        assert_eq!(&buf, b"llo");
        assert!(tree.content.read_at(token, 3, &mut buf).unwrap_err().to_string().contains("shorter"));
        let totals = tree.totals();
        assert_eq!((totals.entries, totals.files, totals.bytes), (5, 1, 5));
        let metadata = std::fs::metadata(root.join("a")).unwrap();
        assert_eq!(tree.entries[1].meta.uid, metadata.uid());
        assert_eq!(tree.entries[1].meta.mtime.sec, metadata.mtime());
    }

    #[test]
    fn extended_attributes_are_read() {
        use rustix::fs::{XattrFlags, lsetxattr};
        let temp = tempfile::tempdir().unwrap();
        let set = |name: &str, value: &[u8]| lsetxattr(temp.path(), name, value, XattrFlags::empty());
        // A temporary folder's file system may have none.
        if set("user.b", b"").is_ok() && set("user.a", b"x\0\n").is_ok() {
            let want = [(b"user.a".to_vec(), b"x\0\n".to_vec()), (b"user.b".to_vec(), Vec::new())];
            assert_eq!(open(temp.path()).unwrap().entries[0].meta.xattrs, want);
        }
    }

    #[test]
    fn holes_are_found() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("sparse");
        let file = File::create(&path).unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(b"x", 32 << 20).unwrap();
        let found = extents(&File::open(&path).unwrap(), 0..64 << 20).unwrap();
        assert!(found.iter().any(|e| e.contains(&(32 << 20))), "{found:?}");
        // A file system without holes reports one extent, which is right as well.
        let total: u64 = found.iter().map(|e| e.end - e.start).sum();
        assert!(total < 1 << 20 || found.len() == 1);
        assert_eq!(extents(&file, 5..5).unwrap(), []);
    }
}
