//! Names, numbers and properties of datasets in pools that OpenZFS wrote, against what `zfs get all` said of them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use platform::Env;
use platform::block::BlockDevice;
use platform::host::SystemClock;
use platform::random::Seeded;
use std::sync::Arc;
use tests::properties::{answers, compare};
use tests::{fixtures, keys};
use zfs::Error;
use zfs::spa::{ImportOptions, Pool};

fn open(fixture: &str) -> Arc<Pool> {
    let env = Env { clock: Arc::new(SystemClock), random: Arc::new(Seeded::new(1)) };
    let disks = fixtures::disks(fixture).unwrap();
    let disks = disks.into_iter().map(|disk| disk as Arc<dyn BlockDevice>).collect();
    Pool::import(disks, env, ImportOptions::read_only()).unwrap_or_else(|e| panic!("{fixture}: {e}"))
}

#[test]
fn all_properties_are_what_openzfs_says() {
    let mut differences = Vec::new();
    // OpenZFS was asked about these two after it had replayed their logs or healed them; the images are from before.
    // OpenZFS 2.3 has more properties, and other defaults.
    let unchanged = |name: &String| !matches!(name.as_str(), "k-zil-noslog" | "q-corrupt-single" | "zfs-2.3");
    for fixture in fixtures::names().unwrap().into_iter().filter(unchanged) {
        let mut want = answers(&fixtures::text(&fixture, "zfs-get.tsv").unwrap());
        let pool = open(&fixture);
        if fixture == "j-encrypted" {
            keys::load_all(&pool);
        }
        let dsl = pool.dsl();
        for head in dsl.datasets().unwrap() {
            let mut all = head.snapshots().unwrap();
            all.insert(0, head);
            for dataset in all {
                match want.remove(&dataset.name()) {
                    Some(want) => compare(&dataset, &want, &mut differences),
                    None => differences.push(format!("{}: OpenZFS knows it not", dataset.name())),
                }
            }
        }
        want.retain(|name, _| !name.contains('#'));
        differences.extend(want.keys().map(|name| format!("{fixture}: {name} was not found")));
    }
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
}

#[test]
fn holds_bookmarks_clones_and_diffs_of_the_snapshot_pool() {
    let pool = open("h-snaps");
    let dsl = pool.dsl();
    let held = dsl.lookup("h_snaps/fs@two").unwrap();
    assert_eq!(held.holds().unwrap()[0].tag, "keep-it");
    let names: Vec<_> = dsl
        .lookup("h_snaps/fs")
        .unwrap()
        .bookmarks()
        .unwrap()
        .into_iter()
        .map(|b| (b.name, b.creation_txg))
        .collect();
    assert_eq!(names, [("h_snaps/fs#bm-one".to_string(), 12), ("h_snaps/fs#bm-two".to_string(), 16)]);
    assert_eq!(dsl.lookup("h_snaps/fs@one").unwrap().clones().unwrap(), ["h_snaps/clone1"]);
    let diff = dsl.diff("h_snaps/n1@many-3", "h_snaps/n1@many-4").unwrap();
    assert_eq!((diff.added, diff.removed), (1, 0));
    assert!(dsl.lookup("h_snaps/fs@doomed").is_err() && dsl.lookup("h_snaps/$MOS").is_err());
    assert_eq!(dsl.set_properties("h_snaps", &[("atime", "on")]), Err(Error::ReadOnly));
}
