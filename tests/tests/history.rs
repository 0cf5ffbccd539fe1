//! `tarn zpool history -il` of pools that OpenZFS wrote, beside what `zpool history -il` printed of them.

use tests::fixtures;
use tests::tool::tarn_ok;

#[test]
fn histories_read_as_openzfs_prints_them() {
    for name in ["h-snaps", "i-zvol", "v-props", "c-compress"] {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("disk0.img");
        fixtures::write_image(name, 0, &image).unwrap();
        let printed = tarn_ok(&["zpool", "--disk", &image.to_string_lossy(), "history", "-il"]).unwrap();
        let want = fixtures::text(name, ".zpool-history.txt").unwrap();
        // The export, and the import that read the files back, came after it was printed.
        for (number, (got, want)) in printed.lines().zip(want.trim_end().lines()).enumerate() {
            assert_eq!(got, want, "{name}, line {}", number + 1);
        }
        assert!(printed.lines().count() >= want.trim_end().lines().count(), "{name}");
    }
}
