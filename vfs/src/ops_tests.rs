use super::*;
use crate::devfs;
use crate::inode::FileSystem;
use crate::tmpfs::Tmpfs;
use alloc::vec::Vec;
use platform::clock::{Clock, FixedClock, Timespec};

fn vfs() -> Vfs {
    let clock: Arc<dyn Clock> = Arc::new(FixedClock(Timespec::default()));
    let tree = Tree::new(Tmpfs::new("tmpfs", 1, 1 << 20, clock.clone()) as Arc<dyn FileSystem>);
    tree.root().inode.create(b"dev", &New::new(FileType::Directory, 0o755)).unwrap();
    tree.mount(b"/dev", devfs::new(2, clock).unwrap()).unwrap();
    Vfs::new(tree, Arc::new(devfs::Builtin::new(Arc::new(platform::random::Seeded::new(1)), None)))
}

const CREATE: OpenFlags = OpenFlags::RDWR.union(OpenFlags::CREAT);

fn open(v: &Vfs, path: &str, flags: OpenFlags) -> Result<Arc<File>> {
    v.open(&v.tree.root(), path.as_bytes(), flags, &New::new(FileType::Regular, 0o600))
}

#[test]
fn open_flags() {
    let v = vfs();
    assert_eq!(open(&v, "a", OpenFlags::empty()).err(), Some(Errno::ENOENT));
    open(&v, "a", CREATE).unwrap().write(b"abc").unwrap();
    assert_eq!(open(&v, "a", CREATE | OpenFlags::EXCL).err(), Some(Errno::EEXIST));
    assert_eq!(open(&v, "a", OpenFlags::DIRECTORY).err(), Some(Errno::ENOTDIR));
    assert_eq!(open(&v, "/", OpenFlags::RDWR).err(), Some(Errno::EISDIR));
    assert_eq!(open(&v, "b/", CREATE).err(), Some(Errno::EISDIR));
    let f = open(&v, "a", OpenFlags::RDWR | OpenFlags::TRUNC).unwrap();
    assert_eq!(f.inode().stat().unwrap().size, 0);
    let root = v.tree.root();
    v.create(&root, b"l", &New { target: b"t".to_vec(), ..New::new(FileType::Symlink, 0o777) }).unwrap();
    assert_eq!(open(&v, "l", CREATE | OpenFlags::EXCL).err(), Some(Errno::EEXIST));
    assert_eq!(open(&v, "l", OpenFlags::NOFOLLOW).err(), Some(Errno::ELOOP));
    open(&v, "l", CREATE).unwrap();
    assert!(v.tree.resolve(&root, b"t", false).is_ok());
    let u = open(&v, "/", OpenFlags::RDWR | OpenFlags::TMPFILE_BIT | OpenFlags::DIRECTORY).unwrap();
    assert_eq!(u.inode().stat().unwrap().nlink, 0);
}

#[test]
fn devices_answer() {
    let v = vfs();
    let zero = open(&v, "/dev/zero", OpenFlags::RDWR).unwrap();
    let mut buf = [1; 8];
    assert_eq!(zero.read(&mut buf), Ok(8));
    assert_eq!(buf, [0; 8]);
    let null = open(&v, "/dev/null", OpenFlags::RDWR).unwrap();
    assert_eq!((null.read(&mut buf), null.write(b"xyz")), (Ok(0), Ok(3)));
    let full = open(&v, "/dev/full", OpenFlags::RDWR).unwrap();
    assert_eq!(full.write(b"x"), Err(Errno::ENOSPC));
    let random = open(&v, "/dev/urandom", OpenFlags::empty()).unwrap();
    let mut bytes = [0; 64];
    assert_eq!(random.read(&mut bytes), Ok(64));
    assert!(bytes.iter().any(|b| *b != 0));
    assert_eq!(v.remove(&v.tree.root(), b"/dev", true), Err(Errno::EBUSY));
}

#[test]
fn rename_and_link_across_mounts_fail() {
    let v = vfs();
    let root = v.tree.root();
    open(&v, "a", CREATE).unwrap();
    let to = (&root, &b"/dev/shm/a"[..]);
    assert_eq!(v.rename((&root, b"a"), to, RenameFlags::empty()), Err(Errno::EXDEV));
    let a = v.tree.resolve(&root, b"a", false).unwrap();
    assert_eq!(v.link(&a, &root, b"/dev/b"), Err(Errno::EXDEV));
    v.rename((&root, b"a"), (&root, b"c"), RenameFlags::empty()).unwrap();
    assert_eq!(v.rename((&root, b"a"), (&root, b"c"), RenameFlags::empty()), Err(Errno::ENOENT));
    assert_eq!(v.remove(&root, b"c/", false), Err(Errno::ENOTDIR));
    v.remove(&root, b"c", false).unwrap();
}

#[test]
fn named_pipes_meet() {
    let v = Arc::new(vfs());
    let root = v.tree.root();
    v.create(&root, b"p", &New::new(FileType::Fifo, 0o600)).unwrap();
    assert_eq!(open(&v, "p", OpenFlags::WRONLY | OpenFlags::NONBLOCK).err(), Some(Errno::ENXIO));
    let other = v.clone();
    let writer = std::thread::spawn(move || open(&other, "p", OpenFlags::WRONLY).unwrap().write(b"hi"));
    let reader = open(&v, "p", OpenFlags::empty()).unwrap();
    let mut buf = Vec::from([0; 4]);
    assert_eq!(reader.read(&mut buf), Ok(2));
    assert_eq!(writer.join().unwrap(), Ok(2));
}

#[test]
fn a_directory_can_give_its_group() {
    let v = vfs();
    let root = v.tree.root();
    v.create(&root, b"d", &New { gid: 7, ..New::new(FileType::Directory, 0o2770) }).unwrap();
    v.create(&root, b"d/sub", &New::new(FileType::Directory, 0o700)).unwrap();
    open(&v, "d/file", CREATE).unwrap();
    let stat = |path: &str| v.tree.resolve(&root, path.as_bytes(), false).unwrap().inode.stat().unwrap();
    let (sub, file) = (stat("d/sub"), stat("d/file"));
    assert_eq!((sub.gid, sub.mode & 0o7777, file.gid, file.mode & 0o7777), (7, 0o2700, 7, 0o600));
}

#[test]
fn an_exchange_stands_alone() {
    let v = vfs();
    let root = v.tree.root();
    for name in ["a", "b"] {
        open(&v, name, CREATE).unwrap();
    }
    for other in [RenameFlags::NOREPLACE, RenameFlags::WHITEOUT] {
        let renamed = v.rename((&root, b"a"), (&root, b"b"), RenameFlags::EXCHANGE | other);
        assert_eq!(renamed, Err(Errno::EINVAL));
    }
}
