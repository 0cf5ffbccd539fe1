//! `tarn create`: what goes in comes out, OpenZFS's checker agrees, and the same input gives the same bytes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use sha2::{Digest, Sha256};
use std::path::Path;
use std::process::Command;
use tests::tool::{tarn, tarn_ok, zdb_check};
use tests::tree;

struct Image {
    folder: tempfile::TempDir,
}

impl Image {
    /// A folder with an empty source tree, and the place of an image that lies alone, as `zdb -p` wants it.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for sub in ["disk", "source"] {
            std::fs::create_dir(folder.path().join(sub)).unwrap();
        }
        Image { folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_string_lossy().into_owned()
    }

    fn create(&self, options: &[&str]) {
        let (image, source) = (self.path("disk/t.img"), self.path("source"));
        let mut args = vec!["create", &image, "--from", &source, "--pool", "t"];
        args.extend(options);
        tarn_ok(&args).unwrap();
        zdb_check(Path::new(&self.path("disk")), "t").unwrap();
    }

    fn extract_and_compare(&self) {
        let (from, to) = (format!("{}:/", self.path("disk/t.img")), self.path("out"));
        tarn_ok(&["cp", "-a", &from, &to]).unwrap();
        tree::ensure_equal(Path::new(&self.path("source")), Path::new(&to)).unwrap();
    }
}

#[test]
fn one_of_everything_comes_back() {
    let image = Image::new();
    tree::build_zoo(Path::new(&image.path("source"))).unwrap();
    image.create(&["--size", "512M"]);
    image.extract_and_compare();
}

#[test]
fn every_compression_and_small_records_come_back() {
    for options in [
        ["-O", "compression=off", "-O", "recordsize=4K"],
        ["-O", "compression=zstd", "-O", "recordsize=1M"],
        ["-O", "compression=gzip-6", "-O", "recordsize=512"],
        ["-O", "compression=zle", "-O", "checksum=sha256"],
        ["-O", "compression=lzjb", "-O", "copies=2"],
        ["-o", "ashift=9", "-O", "xattr=sa"],
    ] {
        let image = Image::new();
        tree::build_zoo(Path::new(&image.path("source"))).unwrap();
        let mut all = vec!["--size", "1G"];
        all.extend(options);
        image.create(&all);
        image.extract_and_compare();
    }
}

#[test]
fn a_directory_of_100_000_entries_comes_back() {
    let image = Image::new();
    let source = image.path("source");
    tree::build_large_directory(&Path::new(&source).join("large"), 100_000).unwrap();
    image.create(&["--size", "1G"]);
    let listing = tarn_ok(&["ls", &format!("{}:/large", image.path("disk/t.img"))]).unwrap();
    assert_eq!(listing.lines().count(), 100_000);
    let content = tarn_ok(&["cat", &format!("{}:/large/entry-77777", image.path("disk/t.img"))]).unwrap();
    assert_eq!(content, "77777");
}

#[test]
fn a_tar_comes_back() {
    let image = Image::new();
    let source = image.path("source");
    tree::build_zoo(Path::new(&source)).unwrap();
    // The largest holes are kept by GNU tar's sparse format.
    let tar = image.path("source.tar");
    let mut pack = Command::new("tar");
    pack.args([
        "--format=pax",
        "--sparse",
        "--xattrs",
        "--xattrs-include=*",
        "-C",
        &source,
        "-cf",
        &tar,
        ".",
    ]);
    assert!(pack.status().unwrap().success());
    tarn_ok(&["create", &image.path("disk/t.img"), "--from", &tar, "--pool", "t", "--size", "512M"]).unwrap();
    zdb_check(Path::new(&image.path("disk")), "t").unwrap();
    image.extract_and_compare();
}

#[test]
fn holes_are_no_data() {
    let image = Image::new();
    let file = std::fs::File::create(Path::new(&image.path("source")).join("sparse")).unwrap();
    file.set_len(1 << 40).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &vec![7; 3 << 20], 1 << 39).unwrap();
    let (to, source) = (image.path("disk/t.img"), image.path("source"));
    let said = tarn_ok(&["create", &to, "--from", &source, "--pool", "t"]).unwrap();
    assert!(said.contains(" 1 files, 3.0 MiB of data in "), "{said}");
    zdb_check(Path::new(&image.path("disk")), "t").unwrap();
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let image = Image::new();
    let source = image.path("source");
    tree::build_zoo(Path::new(&source)).unwrap();
    let build = |name: &str, seed: &str| {
        let path = image.path(name);
        let mut create = tarn();
        create.env("SOURCE_DATE_EPOCH", "1700000000");
        create.args(["create", &path, "--from", &source, "--pool", "t", "--size", "512M", "--seed", seed]);
        assert!(create.status().unwrap().success());
        Sha256::digest(std::fs::read(&path).unwrap())
    };
    let first = build("disk/one.img", "42");
    zdb_check(Path::new(&image.path("disk")), "t").unwrap();
    assert_eq!(first, build("two.img", "42"), "the same seed, other bytes");
    assert_ne!(first, build("three.img", "43"), "another seed, the same bytes: guids would clash");
}
