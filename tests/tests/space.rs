//! Space that runs out: full pools, quotas of users, and blocks in pieces.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use platform::block::BlockDevice;
use platform::host::FileDisk;
use std::path::Path;
use std::sync::Arc;
use tests::{accounts, model, tool};
use zfs::Error;
use zfs::dmu::Accounted;
use zfs::spa::Pool;
use zfs::zpl::{Durability, FileKind, Filesystem, New};

const MIB: u64 = 1 << 20;

fn create(folder: &Path, properties: &[(&str, &str)]) -> (Arc<Pool>, Arc<Filesystem>) {
    let disk: Arc<dyn BlockDevice> = Arc::new(FileDisk::create(&folder.join("disk.img"), 96 * MIB).unwrap());
    let pool = model::create_pool(vec![disk], "space", properties);
    let fs = model::mount_root(&pool);
    (pool, fs)
}

fn file(fs: &Filesystem, name: &str, uid: u32) -> Result<u64, Error> {
    fs.create(fs.root(), name.as_bytes(), &New { uid, gid: uid, ..New::new(FileKind::Regular, 0o644) })
}

fn close(pool: &Arc<Pool>, fs: &Arc<Filesystem>, folder: &Path) {
    pool.sync().unwrap();
    accounts::check(&fs.dataset().objset().unwrap()).unwrap();
    fs.unmount().unwrap();
    pool.export().unwrap();
    tool::zdb_check(folder, "space").unwrap();
}

#[test]
fn a_full_pool_can_be_emptied() {
    let folder = tempfile::tempdir().unwrap();
    let (pool, fs) = create(folder.path(), &[("compression", "off")]);
    for round in 0..2 {
        let mut names = Vec::new();
        let full = loop {
            let name = format!("{round}-{}", names.len());
            let data = tests::tree::noise(names.len() as u64, MIB as usize);
            let written = file(&fs, &name, 0).and_then(|f| {
                names.push(name);
                fs.write(f, 0, &data, Durability::Later)
            });
            match written {
                Ok(()) => assert!(names.len() < 96, "more fits than there is"),
                Err(error) => break error,
            }
        };
        assert_eq!(full, Error::NoSpace);
        assert!(names.len() > 20, "only {} MiB fitted", names.len());
        for name in &names {
            fs.unlink(fs.root(), name.as_bytes()).unwrap();
        }
        for _ in 0..4 {
            pool.sync().unwrap();
        }
    }
    file(&fs, "after", 0).unwrap();
    close(&pool, &fs, folder.path());
}

#[test]
fn users_and_groups_stay_within_their_quotas() {
    let folder = tempfile::tempdir().unwrap();
    let (pool, fs) = create(folder.path(), &[("compression", "off")]);
    fs.set_quota(Accounted::User, false, 1000, Some(MIB)).unwrap();
    fs.set_quota(Accounted::Group, true, 1001, Some(3)).unwrap();
    let big = file(&fs, "big", 1000).unwrap();
    let data = tests::tree::noise(1, 600_000);
    fs.write(big, 0, &data, Durability::Later).unwrap();
    pool.sync().unwrap();
    fs.write(big, 600_000, &data, Durability::Later).unwrap();
    pool.sync().unwrap();
    assert_eq!(fs.write(big, 1_200_000, &data, Durability::Later), Err(Error::QuotaExceeded));
    assert_eq!(file(&fs, "another", 1000), Err(Error::QuotaExceeded));
    for name in ["a", "b", "c"] {
        file(&fs, name, 1001).unwrap();
    }
    pool.sync().unwrap();
    assert_eq!(file(&fs, "d", 1001), Err(Error::QuotaExceeded));
    fs.unlink(fs.root(), b"a").unwrap();
    fs.truncate(big, 0).unwrap();
    pool.sync().unwrap();
    file(&fs, "d", 1001).unwrap();
    fs.write(big, 0, &data, Durability::Later).unwrap();
    fs.set_quota(Accounted::User, false, 1000, None).unwrap();
    fs.write(big, 600_000, &data, Durability::Later).unwrap();
    close(&pool, &fs, folder.path());
}
