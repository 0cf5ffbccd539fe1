//! `tarn cp -a` of every dataset and snapshot of the fixtures, compared with what OpenZFS read. Extended attributes are compared at
//! the engine's level (`fixtures_read.rs`): the host's file systems cannot hold the larger ones.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use rustix::fs::{major, minor};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use testkit::sums::{hex, sparse_sha256};
use tests::fixtures::{self, Entry};
use tests::tool::{tarn, tarn_ok};

/// Fixtures that are compared whole, and the suffix of their manifest.
const FIXTURES: [(&str, &str); 14] = [
    ("a-default", ".files.jsonl"),
    ("b-nofeat", ".files.jsonl"),
    ("b2-v28", ".files.jsonl"),
    ("c-compress", ".files.jsonl"),
    ("d-checksum", ".files.jsonl"),
    ("h-snaps", ".files.jsonl"),
    ("i-zvol", ".files.jsonl"),
    ("m-ashift12", ".files.jsonl"),
    ("m-ashift9", ".files.jsonl"),
    ("n-grub", ".files.jsonl"),
    ("u-checkpoint", ".files.jsonl"),
    ("v-props", ".files.jsonl"),
    ("x-async", ".files.jsonl"),
    ("z-16m", ".files.jsonl"),
];

#[test]
fn every_dataset_and_snapshot_extracts_as_openzfs_read_it() {
    for (name, suffix) in FIXTURES {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("pool.img");
        fixtures::write_image(name, 0, &image).unwrap();
        let before = Sha256::digest(fs::read(&image).unwrap());
        for (dataset, entries) in fixtures::manifest(name, suffix).unwrap() {
            let out = folder.path().join("out");
            let from = format!("{}:{dataset}:/", image.display());
            tarn_ok(&["cp", "-a", &from, &out.to_string_lossy()])
                .unwrap_or_else(|e| panic!("{name}: {dataset}: {e:#}"));
            let mut differences: Vec<String> = entries.iter().filter_map(|e| compare(&out, e)).collect();
            let count = count(&out);
            if count != entries.len() {
                differences.push(format!("{count} entries, wanted {}", entries.len()));
            }
            differences.truncate(8);
            assert!(differences.is_empty(), "{name}: {dataset}:\n{}", differences.join("\n"));
            fs::remove_dir_all(&out).unwrap();
        }
        assert_eq!(before, Sha256::digest(fs::read(&image).unwrap()), "{name}: reading changed the image");
    }
}

#[test]
fn volumes_copy_as_openzfs_read_them() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("pool.img");
    fixtures::write_image("i-zvol", 0, &image).unwrap();
    for line in fixtures::text("i-zvol", ".zvols.txt").unwrap().lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let out = folder.path().join("volume");
        tarn_ok(&["cp", &format!("{}:{}", image.display(), fields[0]), &out.to_string_lossy()]).unwrap();
        assert_eq!(fs::metadata(&out).unwrap().len().to_string(), fields[2], "{line}");
        assert_eq!(sha256(&out), fields[1], "{line}");
        fs::remove_file(&out).unwrap();
    }
}

#[test]
fn a_corrupt_file_is_an_error_and_the_others_read() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("pool.img");
    fixtures::write_image("q-corrupt-single", 0, &image).unwrap();
    for entry in fixtures::manifest("q-corrupt-single", ".before.files.jsonl").unwrap().remove(0).1 {
        let Some(want) = &entry.sha256 else { continue };
        let output =
            tarn().args(["cat", &format!("{}:q_single:{}", image.display(), entry.path)]).output().unwrap();
        // Recorded in the fixture's CORRUPTION.txt; the damaged indirect block has a good second copy.
        let damaged = ["/text/text-1m.txt", "/edge/size-513"].contains(&entry.path.as_str());
        if damaged {
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success() && said.contains("checksum"), "{}: {said}", entry.path);
        } else {
            assert!(output.status.success(), "{}: {}", entry.path, String::from_utf8_lossy(&output.stderr));
            assert_eq!(&hex(&Sha256::digest(&output.stdout)), want, "{}", entry.path);
        }
    }
}

fn sha256(path: &Path) -> String {
    let mut file = File::open(path).unwrap();
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer).unwrap() {
            0 => return hex(&hash.finalize()),
            len => hash.update(&buffer[..len]),
        }
    }
}

fn count(folder: &Path) -> usize {
    let below: usize = fs::read_dir(folder)
        .unwrap()
        .map(|e| {
            let e = e.unwrap();
            if e.file_type().unwrap().is_dir() { count(&e.path()) } else { 1 }
        })
        .sum();
    below + 1
}

fn host_path(out: &Path, entry: &Entry) -> PathBuf {
    let bytes = match &entry.path_hex {
        Some(digits) => (0..digits.len() / 2)
            .map(|i| u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).unwrap())
            .collect(),
        None => entry.path.clone().into_bytes(),
    };
    out.join(std::ffi::OsString::from_vec(bytes[1..].to_vec()))
}

/// What differs between the extracted file and the manifest.
fn compare(out: &Path, entry: &Entry) -> Option<String> {
    let path = host_path(out, entry);
    let meta = match fs::symlink_metadata(&path) {
        Ok(meta) => meta,
        Err(e) => return Some(format!("{}: {e}", entry.path)),
    };
    let mut wrong = Vec::new();
    let mut check = |what: &str, found: String, want: String| {
        if found != want {
            wrong.push(format!("{what} {found}, wanted {want}"));
        }
    };
    let kind = meta.file_type();
    if entry.mountpoint {
        return (!kind.is_dir()).then(|| format!("{}: a mount point that is no directory", entry.path));
    }
    if !kind.is_symlink() {
        check("mode", format!("{:04o}", meta.mode() & 0o7777), entry.mode.clone());
    }
    check("owner", format!("{}:{}", meta.uid(), meta.gid()), format!("{}:{}", entry.uid, entry.gid));
    // The host's file system may not reach back before 1901, as ext4's does not.
    if !entry.mtime.starts_with("-2") {
        check("mtime", format!("{}.{:09}", meta.mtime(), meta.mtime_nsec()), entry.mtime.clone());
    }
    if kind.is_file() {
        check("size", meta.len().to_string(), entry.size.to_string());
        check("links", meta.nlink().to_string(), entry.nlink.to_string());
        if let Some(want) = &entry.sha256 {
            check("sha256", hex(&Sha256::digest(fs::read(&path).unwrap())), want.clone());
        }
        if let Some(want) = &entry.sparse_sha256 {
            check("sparse sha256", sparse_sha256(&path).unwrap(), want.clone());
        }
    }
    if let Some(target) = &entry.target {
        check(
            "target",
            fs::read_link(&path).unwrap_or_default().to_string_lossy().into_owned(),
            target.clone(),
        );
    }
    if let Some((want_major, want_minor)) =
        entry.rdev.filter(|_| kind.is_block_device() || kind.is_char_device())
    {
        check(
            "device",
            format!("{}:{}", major(meta.rdev()), minor(meta.rdev())),
            format!("{want_major}:{want_minor}"),
        );
    }
    (!wrong.is_empty()).then(|| format!("{}: {}", entry.path, wrong.join(", ")))
}
