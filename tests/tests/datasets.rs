//! Names, numbers and properties of datasets in pools that OpenZFS wrote, against what `zfs get all` said of them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use platform::Env;
use platform::block::BlockDevice;
use platform::host::SystemClock;
use platform::random::Seeded;
use std::sync::Arc;
use tests::fixtures;
use tests::properties::{answers, compare};
use zfs::dmu::{Limits, Objset, Tx, Txgs};
use zfs::dsl::{DslPool, Slop, SpaHost, SyncTask};
use zfs::ondisk::blkptr::Blkptr;
use zfs::vdev::{VdevTree, label};
use zfs::zap;
use zfs::zio::Zio;
use zfs::{Error, Result};

/// A pool that is only read.
struct Host {
    env: Env,
    name: String,
    version: u64,
}

impl SpaHost for Host {
    fn free_block(&self, _tx: &Tx, _bp: &Blkptr) {}
    fn adjusted_size(&self, _check: Slop) -> u64 {
        0
    }
    fn sync_task(&self, _slop: Slop, _task: SyncTask) -> Result<()> {
        Err(Error::ReadOnly)
    }
    fn version(&self) -> u64 {
        self.version
    }
    fn feature_enabled(&self, _feature: &str) -> bool {
        false
    }
    fn feature_active(&self, _feature: &str) -> bool {
        false
    }
    fn feature_add(&self, _tx: &Tx, _feature: &str, _delta: i64) -> Result<()> {
        Err(Error::ReadOnly)
    }
    fn log_internal(&self, _tx: &Tx, _event: &str, _dataset: u64, _name: &str, _text: &str) -> Result<()> {
        Err(Error::ReadOnly)
    }
    fn env(&self) -> &Env {
        &self.env
    }
    fn read_only(&self) -> bool {
        true
    }
    fn pool_name(&self) -> String {
        self.name.clone()
    }
}

fn open(fixture: &str) -> Arc<DslPool> {
    let disk: Arc<dyn BlockDevice> = fixtures::disk(fixture, 0).unwrap();
    let label = label::read(&*disk).unwrap();
    let tree =
        VdevTree::open(label.config.nvlist("vdev_tree").unwrap(), &[(label.guid().unwrap(), disk)]).unwrap();
    let zio = Zio::new(tree, [0; 32], 64 << 20);
    let uberblock = label.uberblock.unwrap();
    let txgs = Txgs::new(uberblock.txg, Limits { dirty_max: 1 << 20, timeout_ns: None });
    let mos = Objset::open(Arc::clone(&zio), txgs, 0, uberblock.rootbp).unwrap();
    if let Ok(salt) = zap::lookup(&mos.hold(1).unwrap(), "org.illumos:checksum_salt") {
        zio.set_salt(salt.to_bytes().try_into().unwrap());
    }
    let host = Host {
        env: Env { clock: Arc::new(SystemClock), random: Arc::new(Seeded::new(1)) },
        name: label.config.str("name").unwrap().to_string(),
        version: uberblock.version,
    };
    DslPool::open(&mos, Arc::new(host)).unwrap()
}

#[test]
fn all_properties_are_what_openzfs_says() {
    let mut differences = Vec::new();
    // OpenZFS was asked about these two after it had replayed their logs or healed them; the images are from before.
    let unchanged = |name: &String| !matches!(name.as_str(), "k-zil-noslog" | "q-corrupt-single");
    for fixture in fixtures::names().unwrap().into_iter().filter(unchanged) {
        let mut want = answers(&fixtures::text(&fixture, "zfs-get.tsv").unwrap());
        let dsl = open(&fixture);
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
    let dsl = open("h-snaps");
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
