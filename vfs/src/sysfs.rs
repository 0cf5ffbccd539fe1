//! `/sys`, as far as programs read it: a fixed tree of small files whose content is made when they are opened.
//!
//! What is there and what it says comes from a [`SysSource`] that the kernel implements.

use crate::errno::{Errno, Result};
use crate::inode::{FileSystem, Inode};
use crate::types::{DirEntry, FileType, SetAttr, Stat, StatFs, Sync};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Who knows what `/sys` shows.
pub trait SysSource: Send + core::marker::Sync {
    /// Paths of the files, and whether they can be written; the folders are implied.
    fn files(&self) -> &'static [(&'static str, bool)];
    /// The content of a file.
    fn read(&self, path: &str) -> Vec<u8>;
    /// Sets what a file stands for. [`Errno::EINVAL`] if that is no value for it.
    fn write(&self, path: &str, data: &[u8]) -> Result<()>;
}

/// A mounted `/sys`.
pub struct Sysfs {
    shared: Arc<Shared>,
}

struct Shared {
    dev: u64,
    source: Arc<dyn SysSource>,
}

impl Sysfs {
    /// A `/sys` with file system number `dev` that shows what `source` says.
    #[must_use]
    pub fn new(dev: u64, source: Arc<dyn SysSource>) -> Arc<Self> {
        Arc::new(Sysfs { shared: Arc::new(Shared { dev, source }) })
    }
}

impl FileSystem for Sysfs {
    fn root(&self) -> Arc<dyn Inode> {
        Arc::new(Node { shared: Arc::clone(&self.shared), path: String::new() })
    }
    fn type_name(&self) -> &'static str {
        "sysfs"
    }
    fn source(&self) -> String {
        "sysfs".into()
    }
    fn statfs(&self) -> Result<StatFs> {
        Ok(statfs(&self.shared))
    }
}

fn statfs(shared: &Shared) -> StatFs {
    StatFs { magic: 0x6265_6572, block_size: 4096, fsid: shared.dev, name_max: 255, ..StatFs::default() }
}

/// A file or a folder, by its path without a slash in front.
struct Node {
    shared: Arc<Shared>,
    path: String,
}

impl Node {
    /// Whether it can be written, if it is a file.
    fn file(&self) -> Option<bool> {
        let files = self.shared.source.files();
        files.iter().find(|(path, _)| *path == self.path).map(|(_, writable)| *writable)
    }

    fn child(&self, name: &str) -> Node {
        let path = if self.path.is_empty() { name.into() } else { alloc::format!("{}/{name}", self.path) };
        Node { shared: Arc::clone(&self.shared), path }
    }

    fn names(&self) -> Vec<&'static str> {
        let below = match self.path.as_str() {
            "" => String::new(),
            folder => alloc::format!("{folder}/"),
        };
        names_below(self.shared.source.files().iter().map(|(path, _)| *path), &below)
    }
}

/// What the files at `paths` and the folders that these imply are called directly below `folder`, which is empty or ends in a slash;
/// in order, each once.
pub(crate) fn names_below<'a>(paths: impl Iterator<Item = &'a str>, folder: &str) -> Vec<&'a str> {
    let rest = paths.filter_map(|path| path.strip_prefix(folder));
    let mut names: Vec<_> = rest.filter_map(|rest| rest.split('/').next()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

impl Inode for Node {
    fn fs_id(&self) -> u64 {
        self.shared.dev
    }

    fn ino(&self) -> u64 {
        // FNV-1a: the paths are few and known.
        self.path
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    }

    fn file_type(&self) -> FileType {
        if self.file().is_some() { FileType::Regular } else { FileType::Directory }
    }

    fn stat(&self) -> Result<Stat> {
        let permissions = match self.file() {
            None => 0o755,
            Some(true) => 0o644,
            Some(false) => 0o444,
        };
        Ok(Stat {
            dev: self.shared.dev,
            ino: self.ino(),
            mode: self.file_type().mode_bits() | permissions,
            nlink: 1,
            size: if self.file().is_some() { 4096 } else { 0 },
            blksize: 4096,
            ..Stat::default()
        })
    }

    fn statfs(&self) -> Result<StatFs> {
        Ok(statfs(&self.shared))
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        if self.file().is_some() {
            return Err(Errno::ENOTDIR);
        }
        let name = core::str::from_utf8(name).map_err(|_| Errno::ENOENT)?;
        if !self.names().contains(&name) {
            return Err(Errno::ENOENT);
        }
        Ok(Arc::new(self.child(name)))
    }

    fn read_dir(&self, cookie: u64, sink: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<()> {
        if self.file().is_some() {
            return Err(Errno::ENOTDIR);
        }
        for (i, name) in self.names().into_iter().enumerate().skip(cookie as usize) {
            let child = self.child(name);
            let (ino, kind) = (child.ino(), child.file_type());
            if !sink(DirEntry { name: name.as_bytes(), ino, kind, next: i as u64 + 1 }) {
                break;
            }
        }
        Ok(())
    }

    fn set_attr(&self, change: &SetAttr) -> Result<()> {
        // Truncating what is about to be written must not fail.
        if change.size.is_some() { Ok(()) } else { Err(Errno::EPERM) }
    }

    fn write_at(&self, _offset: u64, data: &[u8], _sync: Sync) -> Result<()> {
        match self.file() {
            Some(true) => self.shared.source.write(&self.path, data),
            Some(false) => Err(Errno::EIO),
            None => Err(Errno::EISDIR),
        }
    }

    fn snapshot(&self) -> Option<Result<Vec<u8>>> {
        self.file().map(|_| Ok(self.shared.source.read(&self.path)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::File;
    use crate::path::Tree;
    use crate::types::OpenFlags;
    use platform::sync::Mutex;

    #[derive(Default)]
    struct Fake(Mutex<Vec<u8>>);
    impl SysSource for Fake {
        fn files(&self) -> &'static [(&'static str, bool)] {
            &[("kernel/mm/enabled", true), ("kernel/mm/size", false), ("kernel/version", false)]
        }
        fn read(&self, path: &str) -> Vec<u8> {
            if path == "kernel/mm/enabled" { self.0.lock().clone() } else { path.into() }
        }
        fn write(&self, path: &str, data: &[u8]) -> Result<()> {
            assert_eq!(path, "kernel/mm/enabled");
            *self.0.lock() = data.to_vec();
            if data == b"nonsense" { Err(Errno::EINVAL) } else { Ok(()) }
        }
    }

    #[test]
    fn files_are_found_read_and_written() {
        let tree = Tree::new(Sysfs::new(9, Arc::new(Fake::default())));
        let open =
            |path: &str, flags| File::new(tree.resolve(&tree.root(), path.as_bytes(), true)?, flags, None);
        let read = |path: &str| {
            let mut buf = [0; 64];
            let n = open(path, OpenFlags::empty())?.read(&mut buf)?;
            Ok(String::from_utf8_lossy(&buf[..n]).into_owned())
        };
        assert_eq!(read("/kernel/version").as_deref(), Ok("kernel/version"));
        assert_eq!(read("/kernel/mm/nothing"), Err(Errno::ENOENT));
        assert_eq!(read("/kernel/version/mm"), Err(Errno::ENOTDIR));
        let write = |path: &str, data: &[u8]| open(path, OpenFlags::WRONLY).and_then(|f| f.write(data));
        assert_eq!(write("/kernel/mm/enabled", b"never"), Ok(5));
        assert_eq!(read("/kernel/mm/enabled").as_deref(), Ok("never"));
        assert_eq!(write("/kernel/mm/enabled", b"nonsense"), Err(Errno::EINVAL));
        assert_eq!(write("/kernel/mm/size", b"1"), Err(Errno::EIO));
        let mut names = Vec::new();
        let folder = tree.resolve(&tree.root(), b"/kernel", true).unwrap();
        folder.inode.read_dir(0, &mut |e| (names.push((e.name.to_vec(), e.kind)), true).1).unwrap();
        let wanted = [(b"mm".to_vec(), FileType::Directory), (b"version".to_vec(), FileType::Regular)];
        assert_eq!(names, wanted);
    }
}
