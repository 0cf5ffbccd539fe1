use super::*;
use platform::clock::FixedClock;

fn fs() -> Arc<Tmpfs> {
    Tmpfs::new("tmpfs", 7, 1 << 20, Arc::new(FixedClock(Timespec { sec: 5, nsec: 6 })))
}

fn file(root: &Arc<dyn Inode>, name: &str) -> Arc<dyn Inode> {
    root.create(name.as_bytes(), &New::new(FileType::Regular, 0o644)).unwrap()
}

#[test]
fn sparse_reads_truncate_and_space() {
    let fs = fs();
    let f = file(&fs.root(), "a");
    f.write_at(10_000, b"xyz", Sync::No).unwrap();
    let mut buf = [1; 20_000];
    assert_eq!(f.read_at(0, &mut buf), Ok(10_003));
    assert!(buf[..10_000].iter().all(|b| *b == 0));
    assert_eq!(&buf[10_000..10_003], b"xyz");
    assert_eq!(fs.shared.used.load(Ordering::Relaxed), 4096);
    assert_eq!(f.seek(0, false), Ok(8192));
    assert_eq!(f.seek(0, true), Ok(0));
    assert_eq!(f.seek(9000, true), Ok(10_003));
    f.set_attr(&SetAttr { size: Some(10_001), ..SetAttr::default() }).unwrap();
    f.set_attr(&SetAttr { size: Some(10_003), ..SetAttr::default() }).unwrap();
    assert_eq!(f.read_at(10_000, &mut buf), Ok(3));
    assert_eq!(&buf[..3], b"x\0\0");
    f.set_attr(&SetAttr { size: Some(0), ..SetAttr::default() }).unwrap();
    assert_eq!(fs.shared.used.load(Ordering::Relaxed), 0);
    assert_eq!(f.write_at(0, &alloc::vec![1; 2 << 20], Sync::No), Err(Errno::ENOSPC));
    fs.root().unlink(b"a").unwrap();
    drop(f);
    assert_eq!(fs.shared.used.load(Ordering::Relaxed), 0);
}

#[test]
fn names_links_and_rename() {
    let fs = fs();
    let root = fs.root();
    let a = file(&root, "a");
    let d = root.create(b"d", &New::new(FileType::Directory, 0o700)).unwrap();
    assert_eq!(root.stat().unwrap().nlink, 3);
    root.link(b"b", &a).unwrap();
    assert_eq!(a.stat().unwrap().nlink, 2);
    assert_eq!(root.create(b"a", &New::new(FileType::Regular, 0)).err(), Some(Errno::EEXIST));
    root.rename(b"b", &d, b"c", RenameFlags::empty()).unwrap();
    assert_eq!(d.lookup(b"c").unwrap().ino(), a.ino());
    assert_eq!(root.rename(b"d", &d, b"e", RenameFlags::empty()), Err(Errno::EINVAL));
    assert_eq!(root.rename(b"a", &d, b"c", RenameFlags::NOREPLACE), Err(Errno::EEXIST));
    assert_eq!(root.rmdir(b"d"), Err(Errno::ENOTEMPTY));
    assert_eq!(root.rmdir(b"a"), Err(Errno::ENOTDIR));
    assert_eq!(root.unlink(b"d"), Err(Errno::EISDIR));
    d.unlink(b"c").unwrap();
    file(&d, "x");
    root.rename(b"a", &d, b"x", RenameFlags::EXCHANGE).unwrap();
    assert_eq!(d.lookup(b"x").unwrap().ino(), a.ino());
    d.unlink(b"x").unwrap();
    root.rmdir(b"d").unwrap();
    assert_eq!(d.create(b"late", &New::new(FileType::Regular, 0)).err(), Some(Errno::ENOENT));
    assert_eq!(root.stat().unwrap().nlink, 2);
}

#[test]
fn reading_a_directory_is_stable_while_it_changes() {
    let fs = fs();
    let root = fs.root();
    for i in 0..10 {
        file(&root, &alloc::format!("f{i}"));
    }
    let mut seen = Vec::new();
    let mut cookie = 0;
    for _ in 0..20 {
        root.read_dir(cookie, &mut |e| {
            cookie = e.next;
            seen.push(e.name.to_vec());
            false
        })
        .unwrap();
        let _ = root.unlink(b"f3");
    }
    assert_eq!(seen.len(), 9);
}

#[test]
fn punching_holes() {
    let fs = fs();
    let f = file(&fs.root(), "a");
    f.write_at(0, &alloc::vec![9; 16384], Sync::No).unwrap();
    f.allocate(Allocate::PunchHole, 100, 8192).unwrap();
    let mut buf = alloc::vec![1; 16384];
    assert_eq!(f.read_at(0, &mut buf), Ok(16384));
    assert!(buf.iter().enumerate().all(|(i, b)| *b == if (100..8292).contains(&i) { 0 } else { 9 }));
    assert_eq!(fs.shared.used.load(Ordering::Relaxed), 3 * 4096);
    f.allocate(Allocate::Reserve { keep_size: false }, 0, 20_000).unwrap();
    assert_eq!(f.stat().unwrap().size, 20_000);
}

#[test]
fn xattrs() {
    let fs = fs();
    let f = file(&fs.root(), "a");
    f.set_xattr(b"user.x", b"1", Some(false)).unwrap();
    assert_eq!(f.set_xattr(b"user.x", b"1", Some(false)), Err(Errno::EEXIST));
    assert_eq!(f.set_xattr(b"user.y", b"1", Some(true)), Err(Errno::ENODATA));
    assert_eq!(f.get_xattr(b"user.x").unwrap(), b"1");
    assert_eq!(f.list_xattr().unwrap(), [b"user.x".to_vec()]);
    f.remove_xattr(b"user.x").unwrap();
    assert_eq!(f.get_xattr(b"user.x"), Err(Errno::ENODATA));
}
