//! `tarn zpool`: pools of every shape are made, shown, taken over and given up, and OpenZFS's checker agrees with each.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use tests::tool::{tarn, tarn_ok, zdb_check};

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("disks")).unwrap();
        Folder(folder)
    }

    fn disks(&self) -> PathBuf {
        self.0.path().join("disks")
    }

    /// Runs `tarn zpool` in the folder of the disks.
    fn zpool(&self, words: &str) -> (bool, String) {
        let output =
            tarn().arg("zpool").args(words.split_whitespace()).current_dir(self.disks()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        (output.status.success(), said.into_owned())
    }

    fn ok(&self, words: &str) -> String {
        let (success, said) = self.zpool(words);
        assert!(success, "zpool {words}: {said}");
        said
    }

    fn refused(&self, words: &str, why: &str) {
        let (success, said) = self.zpool(words);
        assert!(!success && said.lines().count() == 1, "zpool {words}: {said}");
        assert!(said.contains(why), "zpool {words}: no {why:?} in {said}");
    }

    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.disks()).unwrap();
        let mut names: Vec<String> =
            entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    fn zdb(&self) {
        zdb_check(&self.disks(), "tank").unwrap();
    }
}

/// The table of `status`, without tabs and states.
fn names(status: &str) -> Vec<&str> {
    let table = status.lines().skip_while(|l| !l.trim_start().starts_with("NAME")).skip(1);
    table.take_while(|l| !l.is_empty()).filter_map(|l| l.split_whitespace().next()).collect()
}

#[test]
fn pools_of_every_shape_are_made_and_shown() {
    for (words, shown) in [
        ("a b", "tank a b"),
        ("mirror a b mirror c d", "tank mirror-0 a b mirror-1 c d"),
        ("mirror a b log c spare d cache e", "tank mirror-0 a b logs c cache e spares d"),
    ] {
        let folder = Folder::new();
        folder.ok(&format!("create --size 96M -o comment=test -O compression=lz4 tank {words}"));
        folder.zdb();
        let status = folder.ok("--disk . status");
        assert_eq!(names(&status).join(" "), shown, "{status}");
        assert!(status.contains("errors: No known data errors"), "{status}");
        let list = folder.ok("--disk . list -v -H -o name,size,allocated,health");
        assert_eq!(
            list.lines().filter(|l| l.contains("ONLINE")).count() + list.matches("AVAIL").count(),
            shown.split(' ').filter(|w| !matches!(*w, "logs" | "cache" | "spares")).count(),
            "{list}"
        );
        assert_eq!(folder.ok("--disk . get -H -o value comment").trim(), "test");
        let history = folder.ok("--disk . history");
        assert!(
            history.contains(&format!("zpool create -o comment=test -O compression=lz4 tank {words}"))
                || words.contains("spare"),
            "{history}"
        );
        folder.zdb();
    }
}

#[test]
fn what_is_unwise_needs_force_and_leaves_nothing() {
    let folder = Folder::new();
    folder.refused("create --size 96M tank a mirror b c", "mismatched replication level");
    folder.refused("create --size 96M tank mirror a", "2 devices");
    folder.refused("create --size 1M tank a", "64M");
    folder.refused("create tank a", "no such file");
    folder.refused("create --size 96M mirror a", "reserved");
    folder.refused("create --size 96M -o ashift=8 tank a", "9 to 16");
    folder.refused("create --size 96M -O nonsense=1 tank a", "nonsense");
    folder.refused("create --size 96M tank", "no device given");
    let drawn = folder.ok("create -n tank mirror a b log c");
    assert!(drawn.contains("would create 'tank'") && drawn.contains("\n\tlogs\n\t  c"), "{drawn}");
    assert!(folder.files().is_empty(), "{:?}", folder.files());
    folder.ok("create --size 96M tank a");
    folder.refused("create --size 96M other a", "exists");
    folder.refused("create other a", "part of pool 'tank'");
    folder.zdb();
    folder.ok("create -f -d tank a");
    folder.zdb();
    let features = folder.ok("--disk a get -H -o value feature@lz4_compress,feature@async_destroy");
    assert_eq!(features.split_whitespace().collect::<Vec<_>>(), ["disabled", "disabled"]);
    for (name, size) in [("small", 80_u64 << 20), ("large", 160 << 20)] {
        std::fs::File::create(folder.disks().join(name)).unwrap().set_len(size).unwrap();
    }
    folder.refused("create other mirror small large", "different sizes");
    folder.ok("create -f other mirror small large");
}

#[test]
fn pools_are_found_renamed_and_given_up() {
    let folder = Folder::new();
    folder.ok("create --size 96M tank mirror a b");
    folder.ok("create --size 96M other c");
    let found = folder.ok("import -d .");
    assert!(
        found.contains("pool: tank") && found.contains("pool: other") && found.contains("mirror-0"),
        "{found}"
    );
    folder.refused("--disk . status", "different pools");
    folder.refused("import -d . nothing", "no pool nothing");
    folder.refused("import -d . tank mirror", "reserved");
    folder.ok("import -d . -n tank");
    folder.ok("import -d . tank renamed");
    assert!(folder.ok("--disk a --disk b status").contains("pool: renamed"));
    folder.ok("import -d . renamed tank");
    folder.ok("--disk c export other");
    folder.refused("labelclear c", "part of pool 'other'");
    folder.ok("labelclear -f c");
    folder.refused("labelclear c", "no label");
    let found = folder.ok("import -d .");
    assert!(found.contains("pool: tank") && !found.contains("pool: other"), "{found}");
    std::fs::remove_file(folder.disks().join("c")).unwrap();
    folder.zdb();
}

#[test]
fn files_get_into_a_pool_that_was_made_here() {
    let folder = Folder::new();
    folder.ok("create --size 96M tank mirror a b");
    let disks = folder.disks();
    let disks = disks.to_string_lossy();
    tarn_ok(&["zfs", "--disk", &disks, "create", "tank/data"]).unwrap();
    tarn_ok(&["zfs", "--disk", &disks, "snapshot", "-r", "tank@one"]).unwrap();
    let list = tarn_ok(&["zfs", "--disk", &disks, "list", "-H", "-t", "all", "-o", "name"]).unwrap();
    assert_eq!(
        list.split_whitespace().collect::<Vec<_>>(),
        ["tank", "tank@one", "tank/data", "tank/data@one"]
    );
    zdb_check(Path::new(&*disks), "tank").unwrap();
}

#[test]
fn features_are_enabled_only_when_asked() {
    let folder = Folder::new();
    folder.ok("create --size 96M -d tank a");
    let zfs = |words: &str| {
        let disks = folder.disks().to_string_lossy().into_owned();
        let mut args = vec!["zfs", "--disk", &disks];
        args.extend(words.split(' '));
        tarn_ok(&args).unwrap()
    };
    assert!(folder.ok("--disk a upgrade").contains("lz4_compress"));
    assert_eq!(folder.ok("--disk a get -H -o value feature@lz4_compress").trim(), "disabled");
    folder.ok("--disk a set feature@lz4_compress=enabled");
    assert_eq!(folder.ok("--disk a get -H -o value feature@lz4_compress").trim(), "active");
    folder.refused("--disk a set feature@lz4_compress=disabled", "never be taken back");
    folder.ok("--disk a upgrade -a");
    assert!(folder.ok("--disk a upgrade").contains("every feature"));
    zfs("create tank/more");
    folder.zdb();
}

#[test]
fn older_states_of_a_pool_are_returned_to() {
    let folder = Folder::new();
    folder.ok("create --size 96M tank mirror a b");
    let zfs = |words: &str| {
        let disks = folder.disks().to_string_lossy().into_owned();
        let args: Vec<&str> = ["zfs", "--disk", &disks].into_iter().chain(words.split(' ')).collect();
        tarn_ok(&args).unwrap()
    };
    let datasets = || zfs("list -H -o name");
    let guid = || folder.ok("--disk . get -H -o value guid");

    let first = guid();
    folder.ok("--disk . reguid tank");
    assert_ne!(guid(), first);
    folder.zdb();

    zfs("create tank/kept");
    folder.refused("--disk . checkpoint -d", "has none");
    folder.ok("--disk . checkpoint tank");
    folder.refused("--disk . checkpoint", "-d discards it");
    folder.refused("--disk . reguid", "discard it first");
    zfs("destroy tank/kept");
    zfs("create tank/later");
    let status = folder.ok("--disk . status");
    assert!(status.contains("\ncheckpoint: created ") && status.contains(", consumes "), "{status}");
    folder.zdb();

    // To look does not rewind.
    assert!(folder.ok("import -d . -n --rewind-to-checkpoint tank").contains("as it was at txg"));
    assert_eq!(datasets(), "tank\ntank/later\n");
    folder.ok("import -d . --rewind-to-checkpoint tank");
    assert_eq!(datasets(), "tank\ntank/kept\n");
    folder.refused("import -d . --rewind-to-checkpoint tank", "no checkpoint");
    folder.zdb();
    let history = folder.ok("--disk . history");
    assert!(history.contains("zpool import --rewind-to-checkpoint tank"), "{history}");

    folder.ok("--disk . checkpoint");
    zfs("destroy tank/kept");
    folder.ok("--disk . checkpoint -d");
    assert!(!folder.ok("--disk . status").contains("checkpoint:"));
    folder.zdb();

    let status: serde_json::Value = serde_json::from_str(&folder.ok("--disk . status --json")).unwrap();
    let txg = status["txg"].as_u64().unwrap();
    zfs("create tank/another");
    let found = folder.ok(&format!("import -d . -n -T {txg} tank"));
    assert!(found.contains(&format!("as it was at txg {txg}")), "{found}");
    assert_eq!(datasets(), "tank\ntank/another\n");
    folder.ok(&format!("import -d . -T {txg} tank"));
    assert_eq!(datasets(), "tank\n");
    folder.zdb();
}
