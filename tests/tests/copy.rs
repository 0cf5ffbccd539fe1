//! `tarn cp` into images, and volumes out of them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use sha2::{Digest, Sha256};
use std::path::Path;
use testkit::sums::hex;
use tests::fixtures;
use tests::tool::{tarn, tarn_ok, zdb_check};
use tests::tree;

/// A folder with an image of an empty file system, alone in a folder of its own.
fn image(folder: &Path) -> String {
    std::fs::create_dir(folder.join("disk")).unwrap();
    let image = folder.join("disk/t.img").to_string_lossy().into_owned();
    tarn_ok(&["create", &image, "--size", "256M", "--pool", "t", "-q"]).unwrap();
    image
}

fn refused(args: &[&str], why: &str) {
    let output = tarn().args(args).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.lines().count() == 1 && said.contains(why), "{args:?}: {said}");
}

#[test]
fn a_tree_that_is_copied_in_comes_out_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let image = image(folder.path());
    tree::build_zoo(&folder.path().join("zoo")).unwrap();
    tarn_ok(&["cp", "-a", "-q", &path("zoo"), &format!("{image}:/")]).unwrap();
    tarn_ok(&["cp", "-a", "-q", &path("zoo"), &format!("{image}:t/root:/copy")]).unwrap();
    zdb_check(&folder.path().join("disk"), "t").unwrap();
    for place in ["zoo", "copy"] {
        let out = path(&format!("out-{place}"));
        tarn_ok(&["cp", "-a", "-q", &format!("{image}:/{place}/"), &out]).unwrap();
        let from = Path::new(&out).join(place);
        let from = if from.exists() { from } else { out.into() };
        tree::ensure_equal(&folder.path().join("zoo"), &from).unwrap();
    }
    assert!(tarn_ok(&["zpool", "--disk", &image, "history"]).unwrap().contains("tarn cp t/root/copy"));
}

#[test]
fn what_exists_is_replaced_only_when_asked() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let image = image(folder.path());
    let root = format!("{image}:/");
    std::fs::create_dir_all(folder.path().join("source/below")).unwrap();
    std::fs::write(folder.path().join("source/below/file"), "one").unwrap();
    std::os::unix::fs::symlink("source/below/file", folder.path().join("link")).unwrap();
    let (source, content) = (path("source"), path("source/."));
    refused(&["cp", &source, &root], "is a directory");
    tarn_ok(&["cp", "-r", &content, &root]).unwrap();
    assert_eq!(tarn_ok(&["cat", &format!("{image}:/below/file")]).unwrap(), "one");
    refused(&["cp", "-r", &content, &root], "exists already");
    std::fs::write(folder.path().join("source/below/file"), "two").unwrap();
    std::fs::write(folder.path().join("source/below/more"), "three").unwrap();
    tarn_ok(&["cp", "-r", "-f", &content, &root]).unwrap();
    assert_eq!(tarn_ok(&["cat", &format!("{image}:/below/file")]).unwrap(), "two");
    assert_eq!(tarn_ok(&["cat", &format!("{image}:/below/more")]).unwrap(), "three");
    // A link is copied as its file, unless everything is to stay as it is.
    tarn_ok(&["cp", &path("link"), &format!("{image}:/below/renamed")]).unwrap();
    assert_eq!(tarn_ok(&["cat", &format!("{image}:/below/renamed")]).unwrap(), "two");
    tarn_ok(&["cp", "-a", &path("link"), &root]).unwrap();
    assert!(tarn_ok(&["ls", "-l", &format!("{image}:/link")]).unwrap().contains("-> source/below/file"));
    refused(&["cp", "-r", &source, &format!("{image}:/below/file")], "exists and is no directory");
    refused(&["cp", &path("link"), &path("link"), &format!("{image}:/nowhere")], "a directory that exists");
    refused(&["cp", &path("link"), &format!("{image}:/nowhere/x")], "not found");
    refused(&["cp", &path("missing"), &root], "no such file");
    tarn_ok(&["zfs", "--disk", &image, "snapshot", "t/root@s"]).unwrap();
    refused(&["cp", &path("link"), &format!("{image}:t/root@s:/x")], "snapshot");
    zdb_check(&folder.path().join("disk"), "t").unwrap();
}

#[test]
fn the_snapshot_of_a_volume_comes_out() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("i.img");
    fixtures::write_image("i-zvol", 0, &image).unwrap();
    let copy = |name: &str| {
        let out = folder.path().join("out");
        tarn_ok(&["cp", "-f", &format!("{}:i_zvol/{name}", image.display()), &out.to_string_lossy()])
            .unwrap();
        std::fs::read(out).unwrap()
    };
    let (live, snapshot) = (copy("v16k"), copy("v16k@s"));
    let sums = fixtures::text("i-zvol", ".zvols.txt").unwrap();
    assert!(sums.contains(&format!("i_zvol/v16k {}", hex(&Sha256::digest(&live)))), "{sums}");
    // Between 1,000,000 and 1,300,000 the volume was written to after the snapshot, and nowhere else.
    let changed = 1_000_000..1_300_000;
    assert_eq!(live.len(), snapshot.len());
    assert_ne!(live[changed.clone()], snapshot[changed.clone()]);
    assert!(
        live[..changed.start] == snapshot[..changed.start] && live[changed.end..] == snapshot[changed.end..]
    );
}
