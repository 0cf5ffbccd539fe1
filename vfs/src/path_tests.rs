use super::*;
use crate::tmpfs::Tmpfs;
use crate::types::New;
use platform::clock::{FixedClock, Timespec};

fn tmpfs(dev: u64) -> Arc<Tmpfs> {
    Tmpfs::new("tmpfs", dev, 1 << 20, Arc::new(FixedClock(Timespec::default())))
}

fn dir(at: &Arc<dyn Inode>, name: &str) -> Arc<dyn Inode> {
    at.create(name.as_bytes(), &New::new(FileType::Directory, 0o755)).unwrap()
}

fn link(at: &Arc<dyn Inode>, name: &str, target: &str) {
    let new = New { target: target.into(), ..New::new(FileType::Symlink, 0o777) };
    at.create(name.as_bytes(), &new).unwrap();
}

fn tree() -> Tree {
    let fs = tmpfs(1);
    let root = fs.root();
    let a = dir(&root, "a");
    let b = dir(&a, "b");
    b.create(b"f", &New::new(FileType::Regular, 0)).unwrap();
    link(&root, "abs", "/a/b");
    link(&a, "rel", "../a/b/");
    link(&root, "dangling", "a/new");
    link(&root, "loop", "loop");
    Tree::new(fs)
}

fn at(tree: &Tree, path: &str) -> Result<String> {
    tree.resolve(&tree.root(), path.as_bytes(), true).map(|p| String::from_utf8(p.path()).unwrap())
}

#[test]
fn walks() {
    let t = tree();
    for (path, want) in [
        ("/", "/"),
        ("a/b/f", "/a/b/f"),
        ("//a/./b//f", "/a/b/f"),
        ("a/b/../../..", "/"),
        ("abs/f", "/a/b/f"),
        ("a/rel/f", "/a/b/f"),
        ("a/rel/", "/a/b"),
        ("a/rel/../..", "/"),
    ] {
        assert_eq!(at(&t, path).as_deref(), Ok(want), "{path}");
    }
    for (path, want) in [
        ("", Errno::ENOENT),
        ("x", Errno::ENOENT),
        ("a/b/f/", Errno::ENOTDIR),
        ("a/b/f/x", Errno::ENOTDIR),
        ("loop", Errno::ELOOP),
        ("dangling", Errno::ENOENT),
    ] {
        assert_eq!(at(&t, path), Err(want), "{path}");
    }
    assert_eq!(at(&t, &"x".repeat(256)), Err(Errno::ENAMETOOLONG));
    assert_eq!(at(&t, &"x/".repeat(3000)), Err(Errno::ENAMETOOLONG));
}

#[test]
fn last_names() {
    let t = tree();
    let last = t.resolve_last(&t.root(), b"a/rel/g/").unwrap();
    assert_eq!((last.dir.path(), last.name.as_slice(), last.slash), (b"/a/b".to_vec(), &b"g"[..], true));
    assert_eq!(t.resolve_last(&t.root(), b"a/..").err(), Some(Errno::EEXIST));
    let last = t.resolve_last(&t.root(), b"dangling").unwrap();
    let through = t.through_link(&last).unwrap();
    assert_eq!((through.dir.path(), through.name.as_slice()), (b"/a".to_vec(), &b"new"[..]));
    let link = t.resolve(&t.root(), b"dangling", false).unwrap();
    assert_eq!(link.inode.file_type(), FileType::Symlink);
}

#[test]
fn last_names_are_cut_off_whatever_follows_them() {
    for (path, before, name) in [
        ("a/b", "a/", "b"),
        ("a/b/./", "a/", "b"),
        ("a/./b//", "a/./", "b"),
        ("x.", "", "x."),
        ("a/..", "a/", ".."),
        ("/", "", ""),
        ("./.", "", ""),
    ] {
        assert_eq!(split_last(path.as_bytes()), (before.as_bytes(), name.as_bytes()), "{path}");
    }
    let t = tree();
    assert_eq!(t.resolve_last(&t.root(), &[b'x'; 256]).err(), Some(Errno::ENAMETOOLONG));
}

#[test]
fn mounts_cover_and_dotdot_leaves_them() {
    let t = tree();
    let other = tmpfs(2);
    dir(&other.root(), "inside");
    t.mount(b"/a/b", other).unwrap();
    assert_eq!(at(&t, "a/b/f"), Err(Errno::ENOENT));
    assert_eq!(at(&t, "abs/inside/../..").as_deref(), Ok("/a"));
    let third = tmpfs(3);
    t.mount(b"/a/b", third).unwrap();
    assert_eq!(at(&t, "a/b/inside"), Err(Errno::ENOENT));
    assert_eq!(t.describe_mounts().lines().count(), 3);
    assert!(t.describe_mounts().contains("tmpfs /a/b tmpfs rw 0 0"));
    t.unmount_all().unwrap();
}
