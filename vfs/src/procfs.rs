//! `/proc`, as far as programs read it: a fixed tree whose files are made when they are opened.
//!
//! What the files say comes from a [`ProcSource`] that the kernel implements; this module knows only the tree.

use crate::errno::{Errno, Result};
use crate::inode::{FileSystem, Inode};
use crate::sysfs::names_below;
use crate::types::{DirEntry, FileType, Stat, StatFs, Sync, Timespec};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Who knows what `/proc` shows.
pub trait ProcSource: Send + core::marker::Sync {
    /// The id of the running process.
    fn pid(&self) -> u32;
    /// The ids of its threads.
    fn threads(&self) -> Vec<u32>;
    /// Its open descriptors and what each shows as.
    fn descriptors(&self) -> Vec<(i32, Vec<u8>)>;
    /// The content of `/proc/NAME` (`meminfo`, `sys/vm/overcommit_memory` …).
    fn system_file(&self, name: &str) -> Option<Vec<u8>>;
    /// The content of `/proc/self/NAME` (`maps`, `status` …).
    fn process_file(&self, name: &str) -> Option<Vec<u8>>;
    /// Where `/proc/self/NAME` points (`exe`, `cwd`, `root`).
    fn process_link(&self, name: &str) -> Option<Vec<u8>>;
}

const SYSTEM_FILES: &[&str] = &[
    "cmdline",
    "cpuinfo",
    "filesystems",
    "loadavg",
    "meminfo",
    "mounts",
    "stat",
    "uptime",
    "version",
    "vmstat",
];
const PROCESS_FILES: &[&str] = &[
    "auxv",
    "cgroup",
    "cmdline",
    "comm",
    "environ",
    "io",
    "limits",
    "maps",
    "mountinfo",
    "mounts",
    "oom_score_adj",
    "smaps",
    "stat",
    "statm",
    "status",
];
const PROCESS_LINKS: &[&str] = &["cwd", "exe", "root"];
/// Paths of the files that lie deeper; directories are implied.
const SYS_FILES: &[&str] = &[
    "net/dev",
    "net/if_inet6",
    "net/route",
    "net/tcp",
    "net/tcp6",
    "net/udp",
    "net/udp6",
    "spl/kstat/zfs/arcstats",
    "spl/kstat/zfs/dmu_tx",
    "spl/kstat/zfs/txgs",
    "sys/fs/file-max",
    "sys/fs/nr_open",
    "sys/fs/pipe-max-size",
    "sys/kernel/cap_last_cap",
    "sys/kernel/hostname",
    "sys/kernel/ngroups_max",
    "sys/kernel/osrelease",
    "sys/kernel/ostype",
    "sys/kernel/pid_max",
    "sys/kernel/random/boot_id",
    "sys/kernel/random/uuid",
    "sys/kernel/threads-max",
    "sys/net/core/somaxconn",
    "sys/vm/max_map_count",
    "sys/vm/overcommit_memory",
    "sys/vm/swappiness",
    "tarn/counters",
];
/// The folders that they lie in.
const SYS_FOLDERS: &[&str] = &["net", "spl", "sys", "tarn"];

/// A mounted `/proc`.
pub struct Procfs {
    shared: Arc<Shared>,
}

struct Shared {
    dev: u64,
    source: Arc<dyn ProcSource>,
}

impl Procfs {
    /// A `/proc` with file system number `dev` that shows what `source` says.
    #[must_use]
    pub fn new(dev: u64, source: Arc<dyn ProcSource>) -> Arc<Self> {
        Arc::new(Procfs { shared: Arc::new(Shared { dev, source }) })
    }
}

impl FileSystem for Procfs {
    fn root(&self) -> Arc<dyn Inode> {
        node(&self.shared, Kind::Root)
    }
    fn type_name(&self) -> &'static str {
        "proc"
    }
    fn source(&self) -> String {
        "proc".into()
    }
    fn statfs(&self) -> Result<StatFs> {
        Ok(statfs(&self.shared))
    }
}

#[derive(Clone, PartialEq, Eq)]
enum Kind {
    Root,
    /// A directory of [`SYS_FILES`], by its path.
    Sys(String),
    System(&'static str),
    SelfLink(&'static str),
    Process,
    Tasks,
    Task(u32),
    ProcessFile(&'static str),
    ProcessLink(&'static str),
    Fds,
    Fd(i32),
}

struct Node {
    shared: Arc<Shared>,
    kind: Kind,
}

fn node(shared: &Arc<Shared>, kind: Kind) -> Arc<dyn Inode> {
    Arc::new(Node { shared: Arc::clone(shared), kind })
}

fn statfs(shared: &Shared) -> StatFs {
    StatFs { magic: 0x9fa0, block_size: 4096, fsid: shared.dev, name_max: 255, ..StatFs::default() }
}

fn find(list: &[&'static str], name: &str) -> Option<&'static str> {
    list.iter().find(|n| **n == name).copied()
}

impl Node {
    fn child(&self, name: &str) -> Option<Kind> {
        let source = &self.shared.source;
        match &self.kind {
            Kind::Root => match name {
                "self" => Some(Kind::SelfLink("self")),
                "thread-self" => Some(Kind::SelfLink("thread-self")),
                _ if SYS_FOLDERS.contains(&name) => Some(Kind::Sys(name.into())),
                _ if name.parse() == Ok(source.pid()) => Some(Kind::Process),
                _ => find(SYSTEM_FILES, name).map(Kind::System),
            },
            Kind::Sys(path) => {
                let full = format!("{path}/{name}");
                let below = format!("{full}/");
                match find(SYS_FILES, &full) {
                    Some(file) => Some(Kind::System(file)),
                    None => SYS_FILES.iter().any(|f| f.starts_with(&below)).then_some(Kind::Sys(full)),
                }
            }
            Kind::Process | Kind::Task(_) => match name {
                "fd" => Some(Kind::Fds),
                "task" if self.kind == Kind::Process => Some(Kind::Tasks),
                _ => find(PROCESS_FILES, name)
                    .map(Kind::ProcessFile)
                    .or_else(|| find(PROCESS_LINKS, name).map(Kind::ProcessLink)),
            },
            Kind::Tasks => name.parse().ok().filter(|t| source.threads().contains(t)).map(Kind::Task),
            Kind::Fds => {
                let fd = name.parse().ok()?;
                source.descriptors().iter().any(|(open, _)| *open == fd).then_some(Kind::Fd(fd))
            }
            _ => None,
        }
    }

    fn names(&self) -> Vec<String> {
        let source = &self.shared.source;
        let own = |list: &[&str]| list.iter().map(|n| String::from(*n)).collect::<Vec<_>>();
        match &self.kind {
            Kind::Root => {
                let mut names = own(&["self", "thread-self"]);
                names.extend(own(SYS_FOLDERS));
                names.push(format!("{}", source.pid()));
                names.extend(own(SYSTEM_FILES));
                names
            }
            Kind::Sys(path) => own(&names_below(SYS_FILES.iter().copied(), &format!("{path}/"))),
            Kind::Process | Kind::Task(_) => {
                let mut names = own(PROCESS_FILES);
                names.extend(own(PROCESS_LINKS));
                names.extend(own(if self.kind == Kind::Process { &["fd", "task"] } else { &["fd"] }));
                names
            }
            Kind::Tasks => source.threads().iter().map(|t| format!("{t}")).collect(),
            Kind::Fds => source.descriptors().iter().map(|(fd, _)| format!("{fd}")).collect(),
            _ => Vec::new(),
        }
    }
}

impl Inode for Node {
    fn fs_id(&self) -> u64 {
        self.shared.dev
    }

    fn ino(&self) -> u64 {
        let index = |list: &[&str], name: &str| list.iter().position(|n| *n == name).unwrap_or(0) as u64;
        match &self.kind {
            Kind::Root => 1,
            Kind::Process => 2,
            Kind::Tasks => 3,
            Kind::Fds => 4,
            Kind::SelfLink(name) => 5 + u64::from(*name == "self"),
            Kind::ProcessLink(name) => 10 + index(PROCESS_LINKS, name),
            Kind::ProcessFile(name) => 100 + index(PROCESS_FILES, name),
            Kind::System(name) if name.contains('/') => 200 + index(SYS_FILES, name),
            Kind::System(name) => 300 + index(SYSTEM_FILES, name),
            Kind::Sys(path) => path.bytes().fold(1 << 40, |h: u64, b| h.wrapping_mul(31) + u64::from(b)),
            Kind::Fd(fd) => 0x10000 + *fd as u64,
            Kind::Task(id) => 0x1_0000_0000 + u64::from(*id),
        }
    }

    fn file_type(&self) -> FileType {
        match self.kind {
            Kind::Root | Kind::Sys(_) | Kind::Process | Kind::Tasks | Kind::Task(_) | Kind::Fds => {
                FileType::Directory
            }
            Kind::SelfLink(_) | Kind::ProcessLink(_) | Kind::Fd(_) => FileType::Symlink,
            Kind::System(_) | Kind::ProcessFile(_) => FileType::Regular,
        }
    }

    fn stat(&self) -> Result<Stat> {
        let kind = self.file_type();
        let permissions = match kind {
            FileType::Directory => 0o555,
            FileType::Symlink => 0o777,
            _ => 0o644,
        };
        Ok(Stat {
            dev: self.shared.dev,
            ino: self.ino(),
            mode: kind.mode_bits() | permissions,
            nlink: 1,
            blksize: 1024,
            atime: Timespec::default(),
            ..Stat::default()
        })
    }

    fn statfs(&self) -> Result<StatFs> {
        Ok(statfs(&self.shared))
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        if self.file_type() != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        let name = core::str::from_utf8(name).map_err(|_| Errno::ENOENT)?;
        self.child(name).map(|kind| node(&self.shared, kind)).ok_or(Errno::ENOENT)
    }

    fn read_dir(&self, cookie: u64, sink: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<()> {
        if self.file_type() != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        for (i, name) in self.names().into_iter().enumerate().skip(cookie as usize) {
            let Some(kind) = self.child(&name) else { continue };
            let child = Node { shared: Arc::clone(&self.shared), kind };
            let entry = DirEntry {
                name: name.as_bytes(),
                ino: child.ino(),
                kind: child.file_type(),
                next: i as u64 + 1,
            };
            if !sink(entry) {
                break;
            }
        }
        Ok(())
    }

    fn readlink(&self) -> Result<Vec<u8>> {
        let source = &self.shared.source;
        match &self.kind {
            Kind::SelfLink("self") => Ok(format!("{}", source.pid()).into_bytes()),
            Kind::SelfLink(_) => Ok(format!("{0}/task/{0}", source.pid()).into_bytes()),
            Kind::ProcessLink(name) => source.process_link(name).ok_or(Errno::ENOENT),
            Kind::Fd(fd) => {
                let found = source.descriptors().into_iter().find(|(open, _)| open == fd);
                found.map(|(_, path)| path).ok_or(Errno::ENOENT)
            }
            _ => Err(Errno::EINVAL),
        }
    }

    fn set_attr(&self, change: &crate::types::SetAttr) -> Result<()> {
        // Truncating what is about to be written must not fail.
        if change.size.is_some() { Ok(()) } else { Err(Errno::EPERM) }
    }

    fn write_at(&self, _offset: u64, _data: &[u8], _sync: Sync) -> Result<()> {
        // The few writable files of /proc/sys accept anything.
        Ok(())
    }

    fn snapshot(&self) -> Option<Result<Vec<u8>>> {
        let source = &self.shared.source;
        match &self.kind {
            Kind::System(name) => Some(source.system_file(name).ok_or(Errno::ENOENT)),
            Kind::ProcessFile(name) => Some(source.process_file(name).ok_or(Errno::ENOENT)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::File;
    use crate::path::Tree;
    use crate::types::OpenFlags;

    struct Fake;
    impl ProcSource for Fake {
        fn pid(&self) -> u32 {
            1
        }
        fn threads(&self) -> Vec<u32> {
            alloc::vec![1, 2]
        }
        fn descriptors(&self) -> Vec<(i32, Vec<u8>)> {
            alloc::vec![(0, b"/dev/console".to_vec())]
        }
        fn system_file(&self, name: &str) -> Option<Vec<u8>> {
            Some(format!("{name}!").into_bytes())
        }
        fn process_file(&self, name: &str) -> Option<Vec<u8>> {
            Some(name.into())
        }
        fn process_link(&self, _name: &str) -> Option<Vec<u8>> {
            Some(b"/meminfo".to_vec())
        }
    }

    #[test]
    fn the_tree_can_be_walked_and_read() {
        let tree = Tree::new(Procfs::new(9, Arc::new(Fake)));
        let read = |path: &str| {
            let place = tree.resolve(&tree.root(), path.as_bytes(), true)?;
            let file = File::new(place, OpenFlags::empty(), None)?;
            let mut buf = [0; 64];
            file.read(&mut buf).map(|n| String::from_utf8_lossy(&buf[..n]).into_owned())
        };
        assert_eq!(read("/meminfo").as_deref(), Ok("meminfo!"));
        assert_eq!(read("/self/maps").as_deref(), Ok("maps"));
        assert_eq!(read("/self/task/2/stat").as_deref(), Ok("stat"));
        assert_eq!(read("/self/exe").as_deref(), Ok("meminfo!"));
        assert_eq!(read("/sys/kernel/osrelease").as_deref(), Ok("sys/kernel/osrelease!"));
        assert_eq!(read("/self/task/3/stat"), Err(Errno::ENOENT));
        let link = tree.resolve(&tree.root(), b"self/fd/0", false).unwrap();
        assert_eq!(link.inode.readlink().unwrap(), b"/dev/console");
        let mut names = Vec::new();
        let root = tree.resolve(&tree.root(), b"/sys", true).unwrap();
        root.inode.read_dir(0, &mut |e| (names.push(e.name.to_vec()), true).1).unwrap();
        assert_eq!(names, [&b"fs"[..], b"kernel", b"net", b"vm"]);
    }
}
