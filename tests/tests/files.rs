//! Files and the intent log: large writes are logged in place; whiteouts, flags and projects survive a cut; what is immutable stays.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use tests::layout::Layout;
use tests::rig::{POOL, Rig, mount};
use zfs::Error;
use zfs::ondisk::zil::{Header, Record};
use zfs::ondisk::znode::flags;
use zfs::spa::{ImportOptions, Pool};
use zfs::zil::{Entry, walk};
use zfs::zpl::{Durability, FileKind, New, RenameFlags, SetAttr, XattrMode};

fn cut(rig: &Rig, pool: Arc<Pool>) -> Arc<Pool> {
    drop(pool);
    rig.import(ImportOptions { force: true, ..ImportOptions::default() }).unwrap()
}

fn file() -> New {
    New::new(FileKind::Regular, 0o644)
}

/// The writes in the log of the pool's root file system: where, how much, and whether the log holds the data itself.
fn logged_writes(pool: &Arc<Pool>) -> Vec<(u64, u64, bool)> {
    let os = pool.dsl().root().unwrap().objset().unwrap();
    let mut writes = Vec::new();
    walk(os.zio(), &Header::from_bytes(&os.zil_header()), os.id(), &mut |entry| {
        if let Entry::Record(head, bytes) = entry
            && let Record::Write { offset, len, data, bp, .. } = Record::parse(head, bytes)?
        {
            assert_eq!(data.is_empty(), !bp.is_hole());
            writes.push((offset, len, bp.is_hole()));
        }
        Ok(())
    })
    .unwrap();
    writes
}

#[test]
fn large_writes_are_logged_in_place() {
    let (rig, pool) = Rig::with_pool(51).unwrap();
    pool.dsl().set_properties(POOL, &[("recordsize", "16384")]).unwrap();
    let fs = mount(&pool).unwrap();
    let (large, small) = (rig.noise(100_000), rig.noise(3000));
    let object = fs.create(fs.root(), b"f", &file()).unwrap();
    // The first commit of a file system syncs.
    fs.fsync(object).unwrap();
    fs.write(object, 5000, &large, Durability::Now).unwrap();
    fs.write(object, 200_000, &small, Durability::Now).unwrap();
    // What was placed and changed afterwards in the same transaction group is placed again.
    fs.write(object, 5000, &small, Durability::Later).unwrap();
    fs.write(object, 40_000, &large[..50_000], Durability::Now).unwrap();
    let mut wanted = vec![0; 203_000];
    wanted[5000..105_000].copy_from_slice(&large);
    wanted[200_000..].copy_from_slice(&small);
    wanted[5000..8000].copy_from_slice(&small);
    wanted[40_000..90_000].copy_from_slice(&large[..50_000]);
    drop(fs);
    let pool = cut(&rig, pool);
    let writes = logged_writes(&pool);
    assert_eq!(writes[0], (5000, 11_384, false));
    assert_eq!(writes[6], (98_304, 6696, false));
    assert_eq!(writes[7], (200_000, 3000, true));
    assert_eq!(writes[8], (5000, 3000, true));
    assert_eq!(writes[9], (40_000, 9152, false));
    let fs = mount(&pool).unwrap();
    let object = fs.lookup(fs.root(), b"f").unwrap();
    let mut found = vec![0; wanted.len()];
    assert_eq!(fs.read(object, 0, &mut found).unwrap(), wanted.len());
    assert!(found == wanted);
    // With logbias=throughput small ones as well; without a cut the sync takes the blocks over.
    pool.dsl().set_properties(POOL, &[("logbias", "throughput")]).unwrap();
    for round in 0..20u64 {
        fs.write(object, round * 9000, &rig.noise(700), Durability::Now).unwrap();
    }
    fs.unmount().unwrap();
    let report = pool.verify(&mut |_| ()).unwrap();
    assert!(report.is_clean(), "{report:?}");
    rig.close(pool).unwrap();
}

/// Blocks of the log are mostly not full, and written as far as they are.
#[test]
fn commits_of_every_size_wait_for_no_txg() {
    for layout in [Layout::Single, Layout::Mirror, Layout::Raidz1, Layout::Draid] {
        let rig = Rig::new(64).unwrap();
        let disks = (0..layout.disks()).map(|n| rig.new_disk(n).unwrap()).collect();
        let pool = layout.create(disks, POOL).unwrap();
        let fs = mount(&pool).unwrap();
        let object = fs.create(fs.root(), b"f", &file()).unwrap();
        // The first commit of a file system syncs.
        fs.fsync(object).unwrap();
        let before = pool.last_synced_txg();
        let mut wanted = Vec::new();
        for len in [100, 4096, 5000, 8192, 300, 20_000, 31_000, 4096] {
            let data = rig.noise(len);
            fs.write(object, wanted.len() as u64, &data, Durability::Now).unwrap();
            wanted.extend(data);
            assert_eq!(pool.last_synced_txg(), before, "{layout:?}, {len} bytes");
        }
        drop((fs, pool));
        let disks = (0..layout.disks()).map(|n| rig.disk(n).unwrap()).collect();
        let options = ImportOptions { force: true, ..ImportOptions::default() };
        let pool = Pool::import(disks, rig.env(), options).unwrap();
        let logged: u64 = logged_writes(&pool).iter().map(|write| write.1).sum();
        assert_eq!(logged, wanted.len() as u64, "{layout:?}");
        let fs = mount(&pool).unwrap();
        let mut found = vec![0; wanted.len()];
        assert_eq!(fs.read(fs.lookup(fs.root(), b"f").unwrap(), 0, &mut found).unwrap(), wanted.len());
        assert!(found == wanted, "{layout:?}");
        fs.unmount().unwrap();
        rig.close(pool).unwrap();
    }
}

#[test]
fn whiteouts_flags_and_projects_survive_a_cut() {
    let (rig, pool) = Rig::with_pool(52).unwrap();
    let fs = mount(&pool).unwrap();
    let root = fs.root();
    let moved = fs.create(root, b"a", &file()).unwrap();
    let project = fs.create(root, b"p", &New::new(FileKind::Directory, 0o755)).unwrap();
    fs.fsync(moved).unwrap();
    fs.rename(root, b"a", root, b"b", RenameFlags::WHITEOUT).unwrap();
    fs.setattr(moved, &SetAttr { flags: Some(flags::APPENDONLY | flags::NODUMP), ..SetAttr::default() })
        .unwrap();
    let inherit = SetAttr { flags: Some(flags::PROJINHERIT), project: Some(7), ..SetAttr::default() };
    fs.setattr(project, &inherit).unwrap();
    let inside = fs.create(project, b"inside", &file()).unwrap();
    assert_eq!(fs.getattr(inside).unwrap().project, 7);
    fs.sync().unwrap();
    drop(fs);
    let pool = cut(&rig, pool);
    let fs = mount(&pool).unwrap();
    let root = fs.root();
    let whiteout = fs.getattr(fs.lookup(root, b"a").unwrap()).unwrap();
    assert_eq!((whiteout.kind(), whiteout.rdev, whiteout.mode & 0o7777), (FileKind::CharDevice, 0, 0));
    assert_eq!(fs.lookup(root, b"b"), Ok(moved));
    assert_eq!(fs.getattr(moved).unwrap().flags & flags::SETTABLE, flags::APPENDONLY | flags::NODUMP);
    let project = fs.getattr(fs.lookup(root, b"p").unwrap()).unwrap();
    assert_eq!((project.project, project.flags & flags::PROJINHERIT != 0), (7, true));
    let inside = fs.lookup(project.object, b"inside").unwrap();
    assert_eq!(fs.getattr(inside).unwrap().project, 7);
    // A file of another project does not come in.
    let other = fs.create(root, b"other", &file()).unwrap();
    assert_eq!(fs.link(project.object, b"link", other), Err(Error::CrossDataset));
    let renamed = fs.rename(root, b"other", project.object, b"other", RenameFlags::empty());
    assert_eq!(renamed, Err(Error::CrossDataset));
    fs.unmount().unwrap();
    rig.close(pool).unwrap();
}

#[test]
fn a_file_that_is_let_go_of_while_it_loses_its_name_is_removed_once() {
    const FILES: u64 = 4000;
    let (rig, pool) = Rig::with_pool(54).unwrap();
    let fs = mount(&pool).unwrap();
    let root = fs.root();
    let (give, take) = std::sync::mpsc::sync_channel::<u64>(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for object in take {
                fs.release(object);
            }
        });
        for i in 0..FILES {
            let object = fs.create(root, b"f", &file()).unwrap();
            fs.hold(object).unwrap();
            give.send(object).unwrap();
            // The other thread's call begins sooner or later.
            (0..i % 512).for_each(|_| std::hint::spin_loop());
            assert_eq!(fs.unlink(root, b"f"), Ok(()), "file {i}");
        }
        drop(give);
    });
    // None of them is left, in the delete queue or elsewhere.
    pool.sync().unwrap();
    let objects = fs.dataset().objset().unwrap().object_count();
    fs.unmount().unwrap();
    drop(fs);
    let fs = mount(&pool).unwrap();
    assert_eq!(fs.dataset().objset().unwrap().object_count(), objects);
    assert_eq!(fs.readdir(root, 0, 10).unwrap(), []);
    fs.unmount().unwrap();
    rig.close(pool).unwrap();
}

#[test]
fn what_is_immutable_or_append_only_stays() {
    let (rig, pool) = Rig::with_pool(53).unwrap();
    let fs = mount(&pool).unwrap();
    let root = fs.root();
    let fixed = fs.create(root, b"fixed", &file()).unwrap();
    let log = fs.create(root, b"log", &file()).unwrap();
    let dir = fs.create(root, b"dir", &New::new(FileKind::Directory, 0o755)).unwrap();
    fs.create(dir, b"in", &file()).unwrap();
    for object in [fixed, log] {
        fs.write(object, 0, b"content", Durability::Later).unwrap();
    }
    let set =
        |object, flags| fs.setattr(object, &SetAttr { flags: Some(flags), ..SetAttr::default() }).map(|_| ());
    set(fixed, flags::IMMUTABLE).unwrap();
    set(log, flags::APPENDONLY).unwrap();
    set(dir, flags::IMMUTABLE).unwrap();
    let no = Err(Error::NotPermitted);
    assert_eq!(fs.write(fixed, 0, b"x", Durability::Later), no);
    assert_eq!(fs.append(fixed, b"x", Durability::Later), Err(Error::NotPermitted));
    assert_eq!((fs.truncate(fixed, 0), fs.punch_hole(fixed, 0, 2)), (no.clone(), no.clone()));
    assert_eq!(fs.setattr(fixed, &SetAttr { mode: Some(0), ..SetAttr::default() }), Err(Error::NotPermitted));
    assert_eq!(fs.set_xattr(fixed, b"user.x", b"y", XattrMode::Any), no);
    assert_eq!((fs.unlink(root, b"fixed"), fs.link(root, b"more", fixed)), (no.clone(), no.clone()));
    assert_eq!(fs.rename(root, b"fixed", root, b"g", RenameFlags::empty()), no);
    assert_eq!(fs.append(log, b" more", Durability::Later), Ok(7));
    assert_eq!((fs.write(log, 3, b"x", Durability::Later), fs.truncate(log, 3)), (no.clone(), no.clone()));
    assert_eq!(fs.unlink(root, b"log"), no);
    assert_eq!(fs.create(dir, b"new", &file()), Err(Error::NotPermitted));
    assert_eq!(
        (fs.unlink(dir, b"in"), fs.rename(dir, b"in", root, b"out", RenameFlags::empty())),
        (no.clone(), no)
    );
    set(fixed, 0).unwrap();
    fs.unlink(root, b"fixed").unwrap();
    fs.unmount().unwrap();
    rig.close(pool).unwrap();
}

/// An ACL as Linux keeps it: tags, permissions and ids.
fn posix_acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let entry = |(tag, perm, id): &(u16, u16, u32)| {
        [&tag.to_le_bytes()[..], &perm.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    [vec![2, 0, 0, 0], entries.iter().flat_map(entry).collect()].concat()
}

/// New files get the directory's default ACL, and what is changed of an ACL or of the mode is changed of the other, in either place
/// where attributes are kept, and after a cut.
#[test]
fn posix_acls_are_inherited_and_follow_the_mode() {
    const ACCESS: &[u8] = b"system.posix_acl_access";
    const DEFAULT: &[u8] = b"system.posix_acl_default";
    const NOBODY: u32 = u32::MAX;
    for place in ["sa", "on"] {
        let (rig, pool) = Rig::with_pool(61).unwrap();
        pool.dsl().set_properties(POOL, &[("acltype", "posix"), ("xattr", place)]).unwrap();
        let fs = mount(&pool).unwrap();
        let asked = |kind, mode| New { umask: Some(0o022), ..New::new(kind, mode) };
        let of = |perms: [u16; 5]| {
            let [user, named, group, mask, other] = perms;
            posix_acl(&[
                (1, user, NOBODY),
                (2, named, 1000),
                (4, group, NOBODY),
                (16, mask, NOBODY),
                (32, other, NOBODY),
            ])
        };
        let dir = fs.create(fs.root(), b"dir", &asked(FileKind::Directory, 0o777)).unwrap();
        assert_eq!(fs.getattr(dir).unwrap().mode & 0o777, 0o755, "no default ACL above it: the umask counts");
        fs.set_xattr(dir, DEFAULT, &of([7, 6, 5, 7, 0]), XattrMode::Any).unwrap();
        let file = fs.create(dir, b"file", &asked(FileKind::Regular, 0o666)).unwrap();
        assert_eq!(fs.getattr(file).unwrap().mode & 0o777, 0o660);
        assert_eq!(fs.get_xattr(file, ACCESS).unwrap(), of([6, 6, 5, 6, 0]));
        assert_eq!(fs.get_xattr(file, DEFAULT), Err(Error::NotFound));
        let sub = fs.create(dir, b"sub", &asked(FileKind::Directory, 0o777)).unwrap();
        assert_eq!(fs.get_xattr(sub, DEFAULT).unwrap(), of([7, 6, 5, 7, 0]));
        // What is copied has what it has.
        let copied = fs.create(dir, b"copied", &New::new(FileKind::Regular, 0o604)).unwrap();
        assert_eq!(
            (fs.getattr(copied).unwrap().mode & 0o777, fs.list_xattr(copied).unwrap()),
            (0o604, vec![])
        );
        fs.setattr(file, &SetAttr { mode: Some(0o640), ..SetAttr::default() }).unwrap();
        assert_eq!(fs.get_xattr(file, ACCESS).unwrap(), of([6, 6, 5, 4, 0]));
        fs.set_xattr(file, ACCESS, &of([7, 1, 1, 3, 2]), XattrMode::Any).unwrap();
        assert_eq!(fs.getattr(file).unwrap().mode & 0o777, 0o732);
        // A list that says what a mode says is none.
        let plain = posix_acl(&[(1, 6, NOBODY), (4, 4, NOBODY), (32, 4, NOBODY)]);
        fs.set_xattr(sub, ACCESS, &plain, XattrMode::Any).unwrap();
        assert_eq!(
            (fs.getattr(sub).unwrap().mode & 0o777, fs.get_xattr(sub, ACCESS)),
            (0o644, Err(Error::NotFound))
        );
        assert!(matches!(fs.set_xattr(file, ACCESS, b"nonsense", XattrMode::Any), Err(Error::Invalid(_))));
        assert!(matches!(fs.set_xattr(file, DEFAULT, &plain, XattrMode::Any), Err(Error::Invalid(_))));
        fs.fsync(file).unwrap();
        drop(fs);
        let pool = cut(&rig, pool);
        let fs = mount(&pool).unwrap();
        assert_eq!(fs.get_xattr(file, ACCESS).unwrap(), of([7, 1, 1, 3, 2]), "{place}");
        assert_eq!(fs.getattr(file).unwrap().mode & 0o777, 0o732);
        assert_eq!(fs.get_xattr(sub, DEFAULT).unwrap(), of([7, 6, 5, 7, 0]));
        fs.unmount().unwrap();
        rig.close(pool).unwrap();
    }
}

/// Attributes among the system attributes have records of their own once the feature is active on disk.
#[test]
fn extended_attributes_are_logged_where_the_feature_is_enabled() {
    let (rig, pool) = Rig::with_pool(62).unwrap();
    pool.set_property("feature@zilsaxattr", "enabled").unwrap();
    pool.dsl().set_properties(POOL, &[("xattr", "sa")]).unwrap();
    let fs = mount(&pool).unwrap();
    let object = fs.create(fs.root(), b"f", &file()).unwrap();
    fs.set_xattr(object, b"user.first", b"waits", XattrMode::Any).unwrap();
    fs.fsync(object).unwrap();
    fs.set_xattr(object, b"user.gone", b"soon", XattrMode::Any).unwrap();
    pool.sync().unwrap();
    fs.set_xattr(object, b"user.logged", &[7; 300], XattrMode::Any).unwrap();
    fs.set_xattr(object, b"user.logged2", b"v", XattrMode::Any).unwrap();
    fs.remove_xattr(object, b"user.gone").unwrap();
    let before = pool.last_synced_txg();
    fs.fsync(object).unwrap();
    assert_eq!(pool.last_synced_txg(), before, "nobody waited for a txg");
    drop(fs);
    let pool = cut(&rig, pool);
    assert_eq!(pool.get_property("feature@zilsaxattr").unwrap().0, "active");
    let fs = mount(&pool).unwrap();
    let names = [&b"user.first"[..], b"user.logged", b"user.logged2"];
    assert_eq!(fs.list_xattr(object).unwrap(), names);
    assert_eq!(fs.get_xattr(object, b"user.logged").unwrap(), [7; 300]);
    fs.unmount().unwrap();
    rig.close(pool).unwrap();
}

/// Every reading counts, or with `relatime` the first one after a change.
#[test]
fn relatime_decides_which_readings_count() {
    let (rig, pool) = Rig::with_pool(63).unwrap();
    for (value, counts) in [("off", true), ("on", false)] {
        pool.dsl().set_properties(POOL, &[("relatime", value)]).unwrap();
        let fs = mount(&pool).unwrap();
        let object = fs.create(fs.root(), value.as_bytes(), &file()).unwrap();
        fs.write(object, 0, b"text", Durability::Later).unwrap();
        let read = || {
            std::thread::sleep(std::time::Duration::from_millis(10));
            fs.read(object, 0, &mut [0; 4]).unwrap();
            let attr = fs.getattr(object).unwrap();
            (attr.atime.sec, attr.atime.nsec)
        };
        let written = fs.getattr(object).unwrap().mtime;
        let first = read();
        assert!(first > (written.sec, written.nsec));
        assert_eq!(read() > first, counts, "relatime={value}");
        fs.unmount().unwrap();
    }
    rig.close(pool).unwrap();
}
