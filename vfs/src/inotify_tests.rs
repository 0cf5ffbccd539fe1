use super::*;
use crate::file::File;
use crate::inode::FileSystem;
use crate::ops::Vfs;
use crate::path::Tree;
use crate::tmpfs::Tmpfs;
use crate::types::{New, OpenFlags, RenameFlags};
use crate::{devfs, path};
use platform::clock::{Clock, FixedClock, Timespec};

type Seen = (i32, Events, u32, Vec<u8>);

fn events(inotify: &Inotify) -> Vec<Seen> {
    let mut buf = [0; 4096];
    let mut out = Vec::new();
    let Ok(n) = inotify.read(&mut buf, true) else { return out };
    let mut rest = &buf[..n];
    while !rest.is_empty() {
        let word = |i: usize| u32::from_ne_bytes(rest[i * 4..i * 4 + 4].try_into().unwrap());
        let len = word(3) as usize;
        let name = rest[16..16 + len].iter().copied().take_while(|b| *b != 0).collect();
        out.push((word(0) as i32, Events::from_bits_retain(word(1)), word(2), name));
        rest = &rest[16 + len..];
    }
    out
}

fn vfs() -> Vfs {
    let clock: Arc<dyn Clock> = Arc::new(FixedClock(Timespec::default()));
    // A number of its own: the table of watches is the whole process's.
    let tree = Tree::new(Tmpfs::new("tmpfs", 77, 1 << 20, clock) as Arc<dyn FileSystem>);
    Vfs::new(tree, Arc::new(devfs::Builtin::new(Arc::new(platform::random::Seeded::new(1)), None)))
}

#[test]
fn a_directory_tells_what_happens_in_it() {
    let v = vfs();
    let root = v.tree.root();
    let open = |path: &[u8], flags| v.open(&root, path, flags, &New::new(FileType::Regular, 0o600));
    v.create(&root, b"d", &New::new(FileType::Directory, 0o755)).unwrap();
    let dir: Arc<path::Place> = v.tree.resolve(&root, b"d", true).unwrap();
    let i = Inotify::new();
    assert_eq!(i.add(&dir.inode, Events::ONLYDIR), Err(Errno::EINVAL));
    let d = i.add(&dir.inode, Events::ALL - Events::ACCESS).unwrap();
    assert_eq!(i.add(&dir.inode, Events::ALL | Events::MASK_CREATE), Err(Errno::EEXIST));
    let file: Arc<File> = open(b"d/a", OpenFlags::RDWR | OpenFlags::CREAT).unwrap();
    let f = i.add(&file.place.inode, Events::MODIFY | Events::DELETE_SELF | Events::MOVE_SELF).unwrap();
    file.write(b"x").unwrap();
    file.write(b"y").unwrap();
    drop(file);
    v.rename((&root, b"d/a"), (&root, b"d/b"), RenameFlags::empty()).unwrap();
    v.remove(&root, b"d/b", false).unwrap();
    let seen = events(&i);
    let of = |n: &[u8]| n.to_vec();
    let wanted =
        [(d, Events::CREATE, 0, of(b"a")), (d, Events::OPEN, 0, of(b"a")), (d, Events::MODIFY, 0, of(b"a"))];
    // The second write may be told as one with the first for the file, never for nobody.
    assert_eq!(seen[..3], wanted[..3]);
    let kinds: Vec<(i32, Events)> = seen[3..].iter().map(|s| (s.0, s.1)).collect();
    for wanted in [
        (f, Events::MODIFY),
        (d, Events::CLOSE_WRITE),
        (d, Events::MOVED_FROM),
        (d, Events::MOVED_TO),
        (f, Events::MOVE_SELF),
        (d, Events::DELETE),
        (f, Events::DELETE_SELF),
        (f, Events::IGNORED),
    ] {
        assert!(kinds.contains(&wanted), "{wanted:?} in {seen:?}");
    }
    let cookies: Vec<u32> =
        seen.iter().filter(|s| s.1.intersects(Events::MOVED_FROM | Events::MOVED_TO)).map(|s| s.2).collect();
    assert!(cookies.len() == 2 && cookies[0] == cookies[1] && cookies[0] != 0);
    i.remove(d).unwrap();
    assert_eq!(events(&i), [(d, Events::IGNORED, 0, of(b""))]);
    open(b"d/c", OpenFlags::RDWR | OpenFlags::CREAT).unwrap();
    assert_eq!((events(&i).len(), i.remove(d)), (0, Err(Errno::EINVAL)));
}

#[test]
fn a_small_buffer_and_many_events() {
    let v = vfs();
    let root = v.tree.root();
    let i = Inotify::new();
    i.add(&root.inode, Events::CREATE).unwrap();
    assert_eq!((i.read(&mut [0; 64], true), i.ready().0), (Err(Errno::EAGAIN), 0));
    for n in 0..QUEUE_MAX + 10 {
        notify(&*root.inode, Events::CREATE, Some(alloc::format!("{n}").as_bytes()), 0);
    }
    assert_eq!((i.read(&mut [0; 20], true), i.ready().0), (Err(Errno::EINVAL), Ready::IN));
    assert_eq!(i.queued(), QUEUE_MAX * 32 - 16);
}
