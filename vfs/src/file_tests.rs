use super::*;
use crate::inode::FileSystem;
use crate::tmpfs::Tmpfs;
use crate::types::New;
use platform::clock::{FixedClock, Timespec};

fn open(flags: OpenFlags) -> Arc<File> {
    let fs = Tmpfs::new("tmpfs", 3, 1 << 20, Arc::new(FixedClock(Timespec::default())));
    let inode = fs.root().create(b"f", &New::new(FileType::Regular, 0o644)).unwrap();
    File::new(Place::detached(inode, b"f"), flags, None).unwrap()
}

#[test]
fn positions() {
    let f = open(OpenFlags::RDWR);
    assert_eq!(f.write(b"hello world"), Ok(11));
    assert_eq!(f.seek(-5, Whence::End), Ok(6));
    let mut buf = [0; 10];
    assert_eq!(f.read(&mut buf), Ok(5));
    assert_eq!(f.read(&mut buf), Ok(0));
    assert_eq!(f.seek(-12, Whence::Current), Err(Errno::EINVAL));
    assert_eq!(f.seek(0, Whence::Hole), Ok(11));
    assert_eq!(f.seek(11, Whence::Data), Err(Errno::ENXIO));
    assert_eq!(f.read_at(0, &mut buf[..5]), Ok(5));
    assert_eq!(&buf[..5], b"hello");
    assert_eq!(f.position(), 11);
}

#[test]
fn access_modes_and_append() {
    let f = open(OpenFlags::WRONLY | OpenFlags::APPEND);
    assert_eq!(f.read(&mut [0]), Err(Errno::EBADF));
    f.write(b"ab").unwrap();
    f.seek(0, Whence::Set).unwrap();
    f.write(b"cd").unwrap();
    assert_eq!(f.inode().stat().unwrap().size, 4);
    f.set_flags(OpenFlags::NONBLOCK | OpenFlags::RDWR);
    assert!(f.flags().contains(OpenFlags::NONBLOCK | OpenFlags::WRONLY) && !f.flags().readable());
}

#[test]
fn only_files_of_file_systems_that_can_share_blocks() {
    let (to, from) = (open(OpenFlags::RDWR), open(OpenFlags::RDWR));
    from.write(b"hello").unwrap();
    assert_eq!(to.clone_range(0, &from, 0, 5), Err(Errno::EOPNOTSUPP));
    for (to, from) in [
        (OpenFlags::empty(), OpenFlags::RDWR),
        (OpenFlags::WRONLY | OpenFlags::APPEND, OpenFlags::RDWR),
        (OpenFlags::WRONLY, OpenFlags::WRONLY),
    ] {
        assert_eq!(open(to).clone_range(0, &open(from), 0, 5), Err(Errno::EBADF));
    }
    let fs = Tmpfs::new("tmpfs", 4, 1 << 20, Arc::new(FixedClock(Timespec::default())));
    let dir = File::new(Place::detached(fs.root(), b"d"), OpenFlags::empty(), None).unwrap();
    assert_eq!(to.clone_range(0, &dir, 0, 5), Err(Errno::EISDIR));
    assert_eq!(to.inode().stat().unwrap().size, 0);
}

#[test]
fn descriptors() {
    let t = FdTable::new(4);
    let f = open(OpenFlags::RDWR);
    assert_eq!(t.add(f.clone(), false, 0), Ok(0));
    assert_eq!(t.add(f.clone(), true, 0), Ok(1));
    assert_eq!(t.add(f.clone(), false, 3), Ok(3));
    assert_eq!(t.add(f.clone(), false, 0), Ok(2));
    assert_eq!(t.add(f.clone(), false, 0), Err(Errno::EMFILE));
    assert_eq!(t.set(9, f.clone(), false).err(), Some(Errno::EBADF));
    assert!(t.remove(0).is_ok());
    assert_eq!(t.get(0).err(), Some(Errno::EBADF));
    assert_eq!(t.take_cloexec().len(), 1);
    assert_eq!(t.duplicate().list().iter().map(|(fd, _)| *fd).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(t.take_all().len(), 2);
}

#[test]
fn the_lowest_free_descriptor_is_taken_among_many() {
    let t = FdTable::new(1000);
    let f = open(OpenFlags::RDWR);
    assert!((0..300).all(|fd| t.add(f.clone(), false, 0) == Ok(fd)));
    for fd in [130, 64, 7, 299] {
        t.remove(fd).unwrap();
    }
    let next = |from| t.add(f.clone(), false, from);
    assert_eq!([next(65), next(0), next(8), next(0)], [Ok(130), Ok(7), Ok(64), Ok(299)]);
    assert_eq!([next(0), next(900), next(0)], [Ok(300), Ok(900), Ok(301)]);
}

#[test]
fn dots_come_first() {
    let fs = Tmpfs::new("tmpfs", 3, 1 << 20, Arc::new(FixedClock(Timespec::default())));
    fs.root().create(b"f", &New::new(FileType::Regular, 0o644)).unwrap();
    let d = File::new(Place::detached(fs.root(), b""), OpenFlags::empty(), None).unwrap();
    let mut names = Vec::new();
    for _ in 0..5 {
        let mut one = 0;
        d.read_dir(|e| {
            one += 1;
            if one == 1 {
                names.push(e.name.to_vec());
            }
            one == 1
        })
        .unwrap();
    }
    assert_eq!(names, [b".".to_vec(), b"..".to_vec(), b"f".to_vec()]);
}

#[test]
fn dots_have_the_numbers_of_what_they_name() {
    let fs = Tmpfs::new("tmpfs", 3, 1 << 20, Arc::new(FixedClock(Timespec::default())));
    let top = fs.root().create(b"d", &New::new(FileType::Directory, 0o755)).unwrap();
    let numbers = |place: &Arc<Place>| {
        let mut numbers = Vec::new();
        let d = File::new(Arc::clone(place), OpenFlags::empty(), None).unwrap();
        d.read_dir(|e| {
            numbers.push(e.ino);
            numbers.len() < 2
        })
        .unwrap();
        numbers
    };
    let tree = crate::path::Tree::new(fs.clone());
    assert_eq!(numbers(&tree.root()), [fs.root().ino(), fs.root().ino()]);
    let below = tree.resolve(&tree.root(), b"d", true).unwrap();
    assert_eq!(numbers(&below), [top.ino(), fs.root().ino()]);
}
