//! The fixtures themselves: every image decompresses to its recorded checksum and every manifest parses.

use tests::fixtures;

#[test]
fn every_image_is_what_was_recorded() {
    for name in fixtures::names().unwrap() {
        fixtures::image(&name, 0).unwrap_or_else(|e| panic!("{name}: {e:#}"));
    }
}

#[test]
fn every_manifest_has_files() {
    for name in fixtures::names().unwrap() {
        let sections = fixtures::manifest(&name, ".files.jsonl").unwrap_or_else(|e| panic!("{name}: {e:#}"));
        let files: usize = sections.iter().map(|(_, entries)| entries.len()).sum();
        // i-zvol's point are its volumes; its root file system is an empty directory.
        assert!(files > 0, "{name}: {files} entries");
    }
}
