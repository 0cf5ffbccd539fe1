//! Bad input, through the real binary: each gives one clear line and a failing status, never a panic, and what was refused is
//! not written to.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use platform::block::BlockDevice;
use platform::host::{FileDisk, OsRandom, SystemClock};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use tests::fixtures;
use tests::tool::{tarn, tarn_ok, zdb_check};
use zfs::dmu::{Traverse, Visit, traverse};
use zfs::ondisk::blkptr::{Blkptr, Dva};
use zfs::ondisk::bookmark::Bookmark;
use zfs::spa::{ImportOptions, Pool};

/// Offset of the allocatable space behind the front labels, in bytes.
const DATA_START: u64 = 4 << 20;
const LABEL: u64 = 256 << 10;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Folder(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }

    /// A small good image with some files and a snapshot.
    fn image(&self, name: &str) -> PathBuf {
        let source = self.path("source");
        if !source.exists() {
            fs::create_dir_all(source.join("folder/below")).unwrap();
            fs::write(source.join("hello"), "hello\n").unwrap();
            fs::write(source.join("folder/big"), vec![7; 300_000]).unwrap();
            for n in 0..200 {
                fs::write(source.join(format!("folder/below/file-{n:03}")), format!("{n}")).unwrap();
            }
            std::os::unix::fs::symlink("hello", source.join("link")).unwrap();
        }
        let image = self.path(name);
        let (from, to) = (self.text("source"), self.text(name));
        tarn_ok(&["create", &to, "--from", &from, "--size", "128M", "--pool", "bad", "-q"]).unwrap();
        zdb_check(self.0.path(), "bad").unwrap();
        image
    }
}

fn sum(path: &Path) -> Vec<u8> {
    Sha256::digest(fs::read(path).unwrap()).to_vec()
}

fn output(args: &[&str]) -> Output {
    tarn().args(args).output().unwrap()
}

/// Expects a refusal: a failing status and one line that says all of `words`.
fn refused(args: &[&str], words: &[&str]) {
    let output = output(args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let command = args.join(" ");
    assert!(!output.status.success(), "{command}: succeeded\n{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(said.lines().count(), 1, "{command}: not one line:\n{said}");
    assert!(said.starts_with("tarn: ") && !said.contains("internal error"), "{command}: {said}");
    for word in words {
        assert!(said.to_lowercase().contains(&word.to_lowercase()), "{command}: no {word:?} in {said}");
    }
}

/// Expects an end without a panic, be it a success or not; the answer.
fn survives(args: &[&str]) -> Output {
    let output = output(args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.contains("internal error") && !said.contains("panicked"), "{}: {said}", args.join(" "));
    assert!(
        output.status.code().is_some_and(|code| code != 101),
        "{}: {:?} {said}",
        args.join(" "),
        output.status
    );
    if !output.status.success() {
        let errors = said.lines().filter(|l| l.starts_with("tarn: ")).count();
        assert!(errors <= 1, "{}: {said}", args.join(" "));
    }
    output
}

/// All verbs that read an image, on one that must be refused; it stays as it was.
fn all_refused(image: &Path, words: &[&str]) {
    let before = sum(image);
    let path = image.to_string_lossy().into_owned();
    let place = format!("{path}:/");
    refused(&["zpool", "--disk", &path, "list"], words);
    refused(&["zpool", "--disk", &path, "scrub", "--verify"], words);
    refused(&["zfs", "--disk", &path, "list"], words);
    refused(&["ls", &place], words);
    refused(&["zfs", "--disk", &path, "snapshot", "bad/root@s"], words);
    refused(&["zfs", "--disk", &path, "set", "compression=off", "bad"], words);
    refused(&["cp", &path, &format!("{path}:/copy")], words);
    assert_eq!(before, sum(image), "a refused image was written to");
}

#[test]
fn a_truncated_image_is_refused() {
    let folder = Folder::new();
    let image = folder.image("t.img");
    for (size, words) in
        [(100_u64 << 20, &["t.img"][..]), (70 << 20, &["t.img"]), (1 << 20, &["too few"]), (0, &["too few"])]
    {
        OpenOptions::new().write(true).open(&image).unwrap().set_len(size).unwrap();
        all_refused(&image, words);
        refused(&["run", &image.to_string_lossy()], &["t.img"]);
    }
}

#[test]
fn an_image_without_labels_is_refused_and_one_pair_is_enough() {
    let folder = Folder::new();
    let image = folder.image("l.img");
    let file = OpenOptions::new().write(true).open(&image).unwrap();
    let size = file.metadata().unwrap().len();
    let zeros = vec![0; 2 * LABEL as usize];
    file.write_all_at(&zeros, 0).unwrap();
    assert!(tarn_ok(&["ls", &format!("{}:/", image.display())]).unwrap().contains("hello"));
    file.write_all_at(&zeros, size - 2 * LABEL).unwrap();
    all_refused(&image, &["no pool found", "l.img"]);
    refused(&["run", &image.to_string_lossy()], &["no pool found", "l.img"]);
}

#[test]
fn what_is_no_image_is_refused() {
    let folder = Folder::new();
    File::create(folder.path("zeros.img")).unwrap().set_len(128 << 20).unwrap();
    all_refused(&folder.path("zeros.img"), &["no pool found"]);
    let mut qcow = b"QFI\xfb".to_vec();
    qcow.resize(1 << 20, 0);
    fs::write(folder.path("disk.qcow2"), qcow).unwrap();
    all_refused(&folder.path("disk.qcow2"), &["qcow2", "qemu-img"]);
    refused(&["zfs", "--disk", &folder.text("nothing.img"), "list"], &["nothing.img"]);
    refused(&["ls", &folder.text("nothing.img:/x")], &["no such image"]);
    refused(&["zfs", "list"], &["--disk"]);
}

#[test]
fn an_unknown_incompatible_feature_is_named() {
    let folder = Folder::new();
    let image = folder.path("f.img");
    fixtures::write_image("a-default", 0, &image).unwrap();
    rename_feature(&image, b"com.delphix:hole_birth", b"com.example:holebirth2");
    all_refused(&image, &["com.example:holebirth2"]);
}

/// Renames a feature that is needed for reading in all four labels, and seals them again.
fn rename_feature(image: &Path, from: &[u8], to: &[u8]) {
    assert_eq!(from.len(), to.len());
    let file = OpenOptions::new().read(true).write(true).open(image).unwrap();
    let size = file.metadata().unwrap().len() / LABEL * LABEL;
    for label in [0, LABEL, size - 2 * LABEL, size - LABEL] {
        let offset = label + (16 << 10);
        let mut list = vec![0; 112 << 10];
        file.read_exact_at(&mut list, offset).unwrap();
        assert_eq!(list[list.len() - 32..], seal(&list, offset), "the label's checksum is not understood");
        let at = list.windows(from.len()).position(|w| w == from).unwrap();
        list[at..at + to.len()].copy_from_slice(to);
        let sum = seal(&list, offset);
        let end = list.len();
        list[end - 32..].copy_from_slice(&sum);
        file.write_all_at(&list, offset).unwrap();
    }
}

/// The embedded checksum of a label: SHA-256 with the block's offset in the place of the checksum.
fn seal(list: &[u8], offset: u64) -> [u8; 32] {
    let mut block = list.to_vec();
    let end = block.len();
    block[end - 32..].fill(0);
    block[end - 32..end - 24].copy_from_slice(&offset.to_le_bytes());
    let mut words: [u8; 32] = Sha256::digest(&block).into();
    // ZFS keeps the digest as big-endian words in the machine's order.
    words.chunks_mut(8).for_each(<[u8]>::reverse);
    words
}

/// One block of each kind of metadata: what it is, and all places of its copies.
#[derive(Default)]
struct Kinds(BTreeMap<(bool, u8, i64), (Bookmark, Vec<Dva>)>);

impl Traverse for Kinds {
    fn block(&mut self, bp: &Blkptr, at: &Bookmark) -> zfs::Result<Visit> {
        if !bp.is_embedded() && !bp.is_hole() {
            let key = (at.objset == 0, bp.object_type(), at.level);
            self.0.entry(key).or_insert_with(|| (*at, bp.dvas().collect()));
        }
        Ok(Visit::Continue)
    }
}

fn kinds(image: &Path) -> Kinds {
    let env = platform::Env { clock: Arc::new(SystemClock), random: Arc::new(OsRandom::open().unwrap()) };
    let disk: Arc<dyn BlockDevice> = Arc::new(FileDisk::open(image, false).unwrap());
    let pool = Pool::import(vec![disk], env, ImportOptions::read_only()).unwrap();
    let mut kinds = Kinds::default();
    let root = pool.mos().root();
    kinds.block(&root, &Bookmark::objset_root(0)).unwrap();
    traverse(pool.zio(), 0, &root, 0, &mut kinds).unwrap();
    for dataset in pool.dsl().datasets().unwrap() {
        let root = dataset.root_bp();
        kinds.block(&root, &Bookmark::objset_root(dataset.object())).unwrap();
        traverse(pool.zio(), dataset.object(), &root, 0, &mut kinds).unwrap();
    }
    kinds
}

#[test]
fn a_flipped_bit_in_any_metadata_is_found() {
    let folder = Folder::new();
    let image = folder.image("m.img");
    let path = image.to_string_lossy().into_owned();
    let kinds = kinds(&image);
    assert!(kinds.0.len() >= 10, "only {} kinds of blocks", kinds.0.len());
    let before = sum(&image);
    for ((mos, object_type, level), (at, dvas)) in &kinds.0 {
        let what = format!(
            "{} object type {object_type} level {level} at {at}",
            if *mos { "MOS" } else { "dataset" }
        );
        flip(&image, dvas);
        let damaged = sum(&image);
        let verified = survives(&["zpool", "--disk", &path, "scrub", "--verify"]);
        assert!(!verified.status.success(), "{what}: not noticed");
        for args in [
            &["zpool", "--disk", &path, "list"][..],
            &["zpool", "--disk", &path, "status", "-v"],
            &["zpool", "--disk", &path, "history", "-il"],
            &["zpool", "--disk", &path, "get", "all"],
            &["zfs", "--disk", &path, "list", "-t", "all"],
            &["zfs", "--disk", &path, "get", "all"],
            &["ls", "-lR", &format!("{path}:/")],
            &["cat", &format!("{path}:/folder/big")],
            &["inspect", &path],
            &["inspect", &path, "mos", "-v"],
            &["inspect", &path, "bad/root", "-v"],
        ] {
            survives(args);
        }
        assert_eq!(damaged, sum(&image), "{what}: a damaged image was written to");
        flip(&image, dvas);
        assert_eq!(before, sum(&image));
    }
}

/// Flips one bit in the middle of every copy.
fn flip(image: &Path, dvas: &[Dva]) {
    let file = OpenOptions::new().read(true).write(true).open(image).unwrap();
    for dva in dvas {
        let at = DATA_START + dva.offset + 17;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        byte[0] ^= 0x10;
        file.write_all_at(&byte, at).unwrap();
    }
}

#[test]
fn a_flipped_bit_in_a_label_or_an_uberblock_costs_nothing() {
    let folder = Folder::new();
    let image = folder.image("u.img");
    let listing = tarn_ok(&["ls", &format!("{}:/", image.display())]).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&image).unwrap();
    // The first label's configuration, then its whole uberblock ring.
    for at in (16 << 10..17 << 10).step_by(64).chain((128 << 10..256 << 10).step_by(512)) {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        byte[0] ^= 1;
        file.write_all_at(&byte, at).unwrap();
    }
    assert_eq!(tarn_ok(&["ls", &format!("{}:/", image.display())]).unwrap(), listing);
    let shown = output(&["inspect", &image.to_string_lossy(), "--labels", "--uberblocks"]);
    assert!(shown.status.success());
}

#[test]
fn files_that_do_not_fit_leave_no_image() {
    let folder = Folder::new();
    fs::create_dir(folder.path("source")).unwrap();
    // Incompressible, and more than the image holds.
    let disk = OsRandom::open().unwrap();
    let mut noise = vec![0; 1 << 20];
    for n in 0..80 {
        platform::random::Random::fill(&disk, &mut noise);
        fs::write(folder.path("source").join(n.to_string()), &noise).unwrap();
    }
    let (image, source) = (folder.text("full.img"), folder.text("source"));
    refused(&["create", &image, "--from", &source, "--size", "64M", "-q"], &["full.img", "--size"]);
    let left: Vec<_> = fs::read_dir(folder.0.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["source"], "a failed create left something behind");
}

#[test]
fn sources_that_make_no_sense_leave_no_image() {
    let folder = Folder::new();
    let image = folder.text("n.img");
    let pack = |name: &str, args: &[&str]| {
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(folder.0.path()).arg("-cPf").arg(folder.path(name)).args(args);
        assert!(tar.status().unwrap().success());
        folder.text(name)
    };
    fs::write(folder.path("file"), "x").unwrap();
    let up = pack("up.tar", &["--transform=s,file,../../evil,", "file"]);
    refused(&["create", &image, "--from", &up], &["up.tar", "leaves the root", ".."]);
    let good = pack("good.tar", &["file"]);
    let bytes = fs::read(&good).unwrap();
    fs::write(folder.path("cut.tar"), &bytes[..512]).unwrap();
    refused(&["create", &image, "--from", &folder.text("cut.tar")], &["cut.tar"]);
    fs::write(folder.path("no.tar"), "this is no archive").unwrap();
    refused(&["create", &image, "--from", &folder.text("no.tar")], &["no.tar"]);
    refused(&["create", &image, "--from", &folder.text("missing")], &["missing"]);
    for args in [
        &["--pool", "mirror"][..],
        &["--pool", "a/b"],
        &["--size", "1M"],
        &["--size", "64X"],
        &["-O", "compression=fast"],
        &["-O", "nonsense=1"],
        &["-O", "encryption=on"],
        &["-o", "ashift=99"],
        &["-O", "recordsize=1000"],
    ] {
        let mut all = vec!["create", &image, "--from", &good];
        all.extend(args);
        refused(&all, &[]);
    }
    let names: Vec<String> = fs::read_dir(folder.0.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    assert!(names.iter().all(|n| n.ends_with(".tar") || n == "file"), "{names:?}");
    // An image that exists is not replaced unasked.
    let existing = folder.image("e.img");
    let before = sum(&existing);
    refused(&["create", &existing.to_string_lossy(), "--from", &good], &["exists", "--force"]);
    assert_eq!(before, sum(&existing));
}

#[test]
fn requests_that_make_no_sense_change_nothing() {
    let folder = Folder::new();
    let image = folder.image("r.img");
    let path = image.to_string_lossy().into_owned();
    tarn_ok(&["zfs", "--disk", &path, "snapshot", "bad/root@one"]).unwrap();
    for (args, words) in [
        (&["ls", &format!("{path}:/nothing")][..], &["not found"][..]),
        (&["cat", &format!("{path}:/folder")], &["directory"]),
        (&["cat", &format!("{path}:bad/nothing:/x")], &["no dataset"]),
        (&["cat", &format!("{path}:bad/root@none:/x")], &["no dataset"]),
        (&["zfs", "--disk", &path, "get", "used", "other/root"], &["no such dataset"]),
        (&["zfs", "--disk", &path, "set", "compression=fast", "bad/root"], &[]),
        (&["zfs", "--disk", &path, "set", "used=1", "bad/root"], &[]),
        (&["zfs", "--disk", &path, "snapshot", "bad/root@one"], &["exists"]),
        (&["zfs", "--disk", &path, "snapshot", "bad/root"], &["DATASET@NAME"]),
        (&["zfs", "--disk", &path, "rollback", "bad/root@two"], &["no such dataset"]),
        (&["zfs", "--disk", &path, "destroy", "bad/root"], &["-r"]),
        (&["zfs", "--disk", &path, "destroy", "bad/root@two"], &["no such snapshot"]),
        (&["zpool", "--disk", &path, "list", "other"], &["other"]),
        (&["zpool", "--disk", &path, "get", "nonsense"], &["nonsense"]),
        (&["cp", "-a", &path, "/nonexistent/x"], &["name what to copy"]),
        (&["frobnicate"], &["frobnicate"]),
    ] {
        refused(args, words);
    }
    tarn_ok(&["zpool", "--disk", &path, "scrub", "--verify"]).unwrap();
    // Two tools at once: the second writer is refused.
    let lock = File::open(&image).unwrap();
    lock.lock().unwrap();
    refused(&["zfs", "--disk", &path, "snapshot", "bad/root@two"], &["in use"]);
    assert!(tarn_ok(&["zfs", "--disk", &path, "list"]).unwrap().contains("bad/root"));
    drop(lock);
    zdb_check(folder.0.path(), "bad").unwrap();
}
