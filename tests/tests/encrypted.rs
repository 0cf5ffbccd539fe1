//! Encrypted datasets that OpenZFS wrote: read with their keys, and what can be done without.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use platform::block::BlockDevice;
use platform::host::FileDisk;
use std::path::Path;
use std::sync::Arc;
use tests::keys::{J_ENCRYPTED, load_all};
use tests::manifest::{ALL, check_sections, mount, whole_hash};
use tests::tool::{tarn, tarn_ok, zdb_check};
use tests::{fixtures, model};
use zfs::Error;
use zfs::ondisk::bookmark::Bookmark;
use zfs::ondisk::zil::{Header, Record};
use zfs::spa::{ImportOptions, Pool};
use zfs::zil::{self, Entry};
use zfs::zio::Tamper;
use zfs::zpl::{Filesystem, MountOptions};
use zfs::zvol::Zvol;

const J: &str = "j-encrypted";
const PASSPHRASE: &[u8] = b"correct horse battery";

fn import_with(name: &str, options: ImportOptions) -> Arc<Pool> {
    let disks = fixtures::disks(name).unwrap();
    let disks = disks.into_iter().map(|disk| disk as Arc<dyn BlockDevice>).collect();
    Pool::import(disks, model::env(), options).unwrap()
}

fn import(name: &str) -> Arc<Pool> {
    import_with(name, ImportOptions::read_only())
}

fn volume_sum(pool: &Arc<Pool>, name: &str) -> String {
    let volume = Zvol::open(pool.dsl().lookup(name).unwrap().objset().unwrap()).unwrap();
    whole_hash(volume.size(), |at, buf| assert_eq!(volume.read(at, buf).unwrap(), buf.len()))
}

fn volume_of_the_manifest() -> String {
    let text = fixtures::text(J, ".zvols.txt").unwrap();
    text.split_whitespace().find(|word| word.len() == 64).unwrap().to_owned()
}

fn status(pool: &Arc<Pool>, dataset: &str) -> String {
    pool.dsl().lookup(dataset).unwrap().get("keystatus").unwrap().text
}

/// File systems, snapshots, a clone and a volume, in every suite and with every format of keys.
#[test]
fn all_is_read_with_the_keys() {
    let pool = import(J);
    load_all(&pool);
    check_sections(&pool, &fixtures::manifest(J, ".files.jsonl").unwrap(), ALL);
    for volume in ["j_enc/gcm/vol", "j_enc/gcm/vol@s"] {
        assert_eq!(volume_sum(&pool, volume), volume_of_the_manifest(), "{volume}");
    }
    let report = pool.verify(&mut |_| ()).unwrap();
    assert!(report.is_clean(), "{report:?}");
}

#[test]
fn without_keys_all_but_the_content_is_known() {
    let pool = import(J);
    let (clear, secret): (Vec<_>, Vec<_>) = fixtures::manifest(J, ".files.jsonl")
        .unwrap()
        .into_iter()
        .partition(|(name, _)| ["j_enc", "j_enc/plain"].contains(&name.as_str()));
    check_sections(&pool, &clear, ALL);
    assert_eq!(secret.len(), 8);
    for (name, _) in &secret {
        assert_eq!(status(&pool, name), "unavailable", "{name}");
        let dataset = pool.dsl().lookup(name).unwrap();
        let options = MountOptions { read_only: true, no_atime: true };
        assert_eq!(Filesystem::mount(&pool, dataset, options).err(), Some(Error::KeyNotLoaded), "{name}");
    }
    let volume = pool.dsl().lookup("j_enc/gcm/vol").unwrap();
    assert_eq!(volume.kind().unwrap(), zfs::dsl::Kind::Volume);
    assert_eq!(Zvol::open(volume.objset().unwrap()).err(), Some(Error::KeyNotLoaded));
    // Every block's checksum and all space can be looked at.
    let report = pool.verify(&mut |_| ()).unwrap();
    assert!(report.is_clean(), "{report:?}");
}

#[test]
fn a_wrong_key_is_told_from_none_and_from_nonsense() {
    let pool = import(J);
    let dsl = pool.dsl();
    assert_eq!(dsl.load_key("j_enc/gcm", b"correct horse batterz"), Err(Error::WrongKey));
    assert_eq!(dsl.load_key("j_enc/ccm128", &[b'0'; 64]), Err(Error::WrongKey));
    assert_eq!(dsl.check_key("j_enc/ccm256", &[0; 32]), Err(Error::WrongKey));
    for (root, key) in [
        ("j_enc/gcm", &b"short"[..]),
        ("j_enc/ccm128", b"0123"),
        ("j_enc/gcm192", &[0; 31]),
        // The key is that of its parent, or none.
        ("j_enc/gcm/child", PASSPHRASE),
        ("j_enc/gcm@s", PASSPHRASE),
        ("j_enc/plain", PASSPHRASE),
    ] {
        assert!(matches!(dsl.load_key(root, key), Err(Error::Invalid(_))), "{root}");
    }
    for (root, key) in J_ENCRYPTED {
        assert_eq!(status(&pool, root), "unavailable");
        dsl.check_key(root, key).unwrap();
        assert_eq!(status(&pool, root), "unavailable");
    }
}

#[test]
fn an_unloaded_key_leaves_nothing_in_the_cache() {
    let pool = import(J);
    let dsl = pool.dsl();
    assert_eq!(dsl.unload_key("j_enc/gcm"), Err(Error::KeyNotLoaded));
    load_all(&pool);
    let fs = mount(&pool, "j_enc/gcm/child");
    let entries = fs.readdir(fs.root(), 0, 1000).unwrap();
    let file = entries.iter().find(|e| fs.getattr(e.object).unwrap().size > 0).unwrap().object;
    let _ = fs.read(file, 0, &mut [0; 512]);
    assert_eq!(dsl.unload_key("j_enc/gcm"), Err(Error::Busy));
    fs.unmount().unwrap();
    drop(fs);
    let volume = Zvol::open(dsl.lookup("j_enc/gcm/vol").unwrap().objset().unwrap()).unwrap();
    volume.read(0, &mut [0; 8192]).unwrap();
    dsl.unload_key("j_enc/gcm").unwrap();
    assert_eq!(
        (status(&pool, "j_enc/gcm/child"), status(&pool, "j_enc/ccm128")),
        ("unavailable".into(), "available".into())
    );
    assert_eq!(volume.read(0, &mut [0; 8192]), Err(Error::KeyNotLoaded));
    let options = MountOptions { read_only: true, no_atime: true };
    let child = dsl.lookup("j_enc/gcm/child").unwrap();
    assert_eq!(Filesystem::mount(&pool, child, options).err(), Some(Error::KeyNotLoaded));
    dsl.load_key("j_enc/gcm", PASSPHRASE).unwrap();
    assert_eq!(volume_sum(&pool, "j_enc/gcm/vol"), volume_of_the_manifest());
}

/// Whoever can write to the disks and make checksums right, but has no key.
fn forged(ty: u8, at: usize) -> zfs::Result<()> {
    let tamper = Tamper::sealed(move |bp, data| {
        let mut data = data.to_vec();
        if bp.uses_crypt() && bp.level() == 0 && bp.object_type() == ty {
            data[at] ^= 0x10;
        }
        data.into()
    });
    let pool = import_with(J, ImportOptions { tamper: Some(tamper), ..ImportOptions::read_only() });
    pool.dsl().load_key("j_enc/ccm256", J_ENCRYPTED[2].1)?;
    let dataset = pool.dsl().lookup("j_enc/ccm256")?;
    let fs = Filesystem::mount(&pool, dataset, MountOptions { read_only: true, no_atime: true })?;
    for entry in fs.readdir(fs.root(), 0, 1000)? {
        fs.getattr(entry.object)?;
        for inner in fs.readdir(entry.object, 0, 1000).unwrap_or_default() {
            if fs.getattr(inner.object)?.size > 0 {
                fs.read(inner.object, 0, &mut [0; 512])?;
            }
        }
    }
    Ok(())
}

#[test]
fn forged_blocks_are_refused() {
    const DNODE: u8 = 10;
    const OBJSET: u8 = 11;
    const PLAIN_FILE: u8 = 19;
    const DIRECTORY: u8 = 20;
    const MASTER_NODE: u8 = 21;
    assert_eq!(forged(0, 0), Ok(()));
    for (ty, at) in [
        (PLAIN_FILE, 100),
        (DIRECTORY, 100),
        (MASTER_NODE, 100),
        // The master node's length, which is clear, and the bonus of a directory, which is not.
        (DNODE, 512 + 16),
        (DNODE, 2 * 512 + 300),
        // The meta-dnode, the kind of the objset, the portable and the local MAC.
        (OBJSET, 16),
        (OBJSET, 720),
        (OBJSET, 752),
    ] {
        let outcome = forged(ty, at);
        assert!(matches!(outcome, Err(Error::Authentication { .. })), "type {ty}, byte {at}: {outcome:?}");
    }
}

#[test]
fn verification_finds_forged_blocks_where_it_has_the_key() {
    const DIRECTORY: u8 = 20;
    let tamper = Tamper::sealed(|bp, data| {
        let mut data = data.to_vec();
        if bp.level() == 0 && bp.object_type() == DIRECTORY {
            data[100] ^= 1;
        }
        data.into()
    });
    let pool = import_with(J, ImportOptions { tamper: Some(tamper), ..ImportOptions::read_only() });
    assert!(pool.verify(&mut |_| ()).unwrap().is_clean());
    pool.dsl().load_key("j_enc/ccm128", J_ENCRYPTED[1].1).unwrap();
    let report = pool.verify(&mut |_| ()).unwrap();
    assert!(!report.damaged.is_empty() && report.problems.is_empty(), "{report:?}");
}

/// What needs no key: snapshots, destruction, going back. OpenZFS finds nothing wrong with it.
#[test]
fn datasets_are_managed_without_keys() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk0.img");
    fixtures::write_image(J, 0, &image).unwrap();
    let open = || model::import_pool(file_disk(&image, true));
    let close = |pool: Arc<Pool>| {
        pool.export().unwrap();
        zdb_check(folder.path(), "j_enc").unwrap();
    };
    let pool = open();
    let dsl = pool.dsl();
    dsl.create_snapshots(&["j_enc/ccm256@new", "j_enc/gcm/vol@new"]).unwrap();
    dsl.rollback("j_enc/gcm/child", "s", false).unwrap();
    assert!(matches!(dsl.rename("j_enc/gcm/child", "j_enc/plain/child", false), Err(Error::Invalid(_))));
    assert!(matches!(dsl.promote("j_enc/gcm/clone"), Err(Error::Unsupported { .. })));
    dsl.rename("j_enc/gcm192", "j_enc/plain/gcm192", false).unwrap();
    close(pool);
    let pool = open();
    let (names, key) = (["j_enc/plain/gcm192", "j_enc/ccm256@new"], J_ENCRYPTED[2].1);
    pool.dsl().load_key(names[0], key).unwrap();
    pool.dsl().load_key("j_enc/ccm256", key).unwrap();
    pool.dsl().load_key("j_enc/gcm", PASSPHRASE).unwrap();
    let mut sections = fixtures::manifest(J, ".files.jsonl").unwrap();
    sections.retain_mut(|(name, _)| {
        *name = match name.as_str() {
            "j_enc/gcm192" => names[0].to_owned(),
            "j_enc/ccm256" => names[1].to_owned(),
            other => other.to_owned(),
        };
        name != "j_enc" && name != "j_enc/ccm128"
    });
    check_sections(&pool, &sections, ALL);
    assert_eq!(volume_sum(&pool, "j_enc/gcm/vol@new"), volume_of_the_manifest());
    pool.dsl().destroy("j_enc/gcm/clone", false, false).unwrap();
    pool.dsl().destroy("j_enc/ccm128", false, false).unwrap();
    pool.dsl().destroy("j_enc/gcm", true, false).unwrap();
    close(pool);
    let pool = open();
    assert_eq!(pool.dsl().lookup("j_enc/gcm").err(), Some(Error::NotFound));
    let report = pool.verify(&mut |_| ()).unwrap();
    assert!(report.is_clean(), "{report:?}");
}

/// Records of a log, and of their names those that are there.
fn log_of(pool: &Arc<Pool>, name: &str) -> Vec<(u64, Vec<u8>)> {
    let objset = pool.dsl().lookup(name).unwrap().objset().unwrap();
    let header = Header::from_bytes(&objset.zil_header());
    let mut records = Vec::new();
    zil::walk(pool.zio(), &header, objset.id(), &mut |entry| {
        if let Entry::Record(head, bytes) = entry {
            let name = match Record::parse(head, bytes).unwrap() {
                Record::Create(_, create) => create.name,
                Record::Remove { name, .. } | Record::Link { name, .. } => name,
                Record::Rename { to, .. } => to,
                _ => Vec::new(),
            };
            records.push((head.kind, name));
        }
        Ok(())
    })
    .unwrap();
    records
}

fn file_disk(path: &Path, write: bool) -> Vec<Arc<dyn BlockDevice>> {
    vec![Arc::new(FileDisk::open(path, write).unwrap())]
}

/// The log of an encrypted file system is kept by an import that cannot replay it, and can be read with the key.
#[test]
fn an_encrypted_log_is_kept() {
    const ENC: &str = "k_zil_noslog/enc";
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk0.img");
    fixtures::write_image("k-zil-noslog", 0, &image).unwrap();
    let look = || {
        let options = ImportOptions { force: true, ..ImportOptions::read_only() };
        Pool::import(file_disk(&image, false), model::env(), options).unwrap()
    };
    let before = look();
    before.dsl().load_key(ENC, PASSPHRASE).unwrap();
    let records = log_of(&before, ENC);
    assert!(records.iter().any(|(_, name)| name == b"new-small"));
    // The same was done to the file systems beside it; each log begins somewhere else.
    let beside = log_of(&before, "k_zil_noslog/xsa");
    let shared = records.iter().filter(|record| beside.contains(record)).count();
    assert!(shared * 10 > records.len() * 9, "{shared} of {}", records.len());
    let pool = model::import_pool(file_disk(&image, true));
    let dataset = pool.dsl().lookup(ENC).unwrap();
    pool.dsl().load_key(ENC, PASSPHRASE).unwrap();
    let writable = MountOptions { read_only: false, no_atime: true };
    let refused = Filesystem::mount(&pool, Arc::clone(&dataset), writable).err();
    assert!(
        matches!(&refused, Some(Error::Unsupported { what }) if what.contains("encrypted")),
        "{refused:?}"
    );
    drop(dataset);
    pool.export().unwrap();
    let after = look();
    after.dsl().load_key(ENC, PASSPHRASE).unwrap();
    assert_eq!(log_of(&after, ENC), records);
    let objset = after.dsl().lookup(ENC).unwrap().objset().unwrap();
    assert_eq!(zil::pending(&objset).unwrap(), records.len() as u64);
    // What was there before the log began is whole.
    let fs = mount(&after, ENC);
    let mut files = 0;
    for entry in fs.readdir(fs.root(), 0, 1000).unwrap() {
        let attr = fs.getattr(entry.object).unwrap();
        let mut content = vec![0; attr.size.min(1 << 20) as usize];
        if fs.read(entry.object, 0, &mut content).is_ok() {
            files += 1;
        }
    }
    assert!(files > 3, "{files}");
    let root = objset.root();
    assert!(after.zio().read(&root, Bookmark::objset_root(objset.id())).is_ok());
}

/// A run of the tool, with this on its standard input.
fn typed(args: &[&str], input: &[u8]) -> (bool, String, String) {
    use std::io::Write;
    use std::process::Stdio;
    let mut command = tarn();
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // It may have refused and ended before it read anything.
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn keys_on_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let image = path("disk0.img");
    fixtures::write_image(J, 0, Path::new(&image)).unwrap();
    std::fs::write(path("raw"), J_ENCRYPTED[2].1).unwrap();
    std::fs::write(path("phrase"), b"correct horse battery\n").unwrap();
    let (raw, phrase) = (format!("file://{}", path("raw")), format!("file://{}", path("phrase")));

    let loads = |args: &[&str], input: &[u8]| {
        let mut all = vec!["zfs", "--disk", &image, "load-key"];
        all.extend(args);
        typed(&all, input)
    };
    assert!(loads(&["-n", "j_enc/gcm"], b"correct horse battery\n").0);
    let (ok, _, said) = loads(&["j_enc/gcm"], b"another one\n");
    assert!(!ok && said.contains("incorrect key provided for 'j_enc/gcm'"), "{said}");
    let (ok, _, said) = loads(&["-L", &raw, "j_enc/ccm256"], b"");
    assert!(ok && said.contains("No key stays loaded"), "{said}");
    let (ok, _, said) = loads(&["-L", &phrase, "j_enc/gcm/child"], b"");
    assert!(!ok && said.contains("encryption root of 'j_enc/gcm/child', which is 'j_enc/gcm'"), "{said}");
    assert!(!loads(&["j_enc/plain"], b"").0);
    let (ok, _, said) = typed(&["zfs", "--disk", &image, "unload-key", "j_enc/gcm"], b"");
    assert!(!ok && said.contains("already unloaded"), "{said}");

    let place = format!("{image}:j_enc/gcm/child:/");
    let (ok, _, said) = typed(&["ls", &place], b"");
    assert!(!ok && said.contains("--key j_enc/gcm=prompt"), "{said}");
    let key = format!("j_enc/gcm={phrase}");
    let listed = tarn_ok(&["ls", "--key", &key, &place]).unwrap();
    assert!(listed.lines().count() > 0);
    assert_eq!(typed(&["ls", "--key", "j_enc/gcm", &place], b"correct horse battery\n").1, listed);
    let hex: String = testkit::sums::hex(J_ENCRYPTED[2].1);
    tarn_ok(&["tree", "--key", &format!("j_enc/ccm256=hex:{hex}"), &format!("{image}:j_enc/ccm256:/")])
        .unwrap();

    let get = |keys: &[&str]| {
        let mut all = keys.to_vec();
        all.extend([
            "zfs",
            "--disk",
            &image,
            "get",
            "-H",
            "-o",
            "value",
            "keystatus,encryptionroot",
            "j_enc/gcm/vol@s",
        ]);
        tarn_ok(&all).unwrap()
    };
    assert_eq!(get(&[]), "unavailable\nj_enc/gcm\n");
    assert_eq!(get(&["--key", &key]), "available\nj_enc/gcm\n");

    tarn_ok(&["cp", "-q", "--key", &key, &format!("{image}:j_enc/gcm/vol@s"), &path("volume")]).unwrap();
    let volume = std::fs::read(path("volume")).unwrap();
    let sum = whole_hash(volume.len() as u64, |at, buf| {
        buf.copy_from_slice(&volume[at as usize..at as usize + buf.len()])
    });
    assert_eq!(sum, volume_of_the_manifest());
}
