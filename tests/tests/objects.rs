//! Every object of the pools that OpenZFS wrote: dnodes, data, spill blocks, ZAPs, and a traversal of every block.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use tests::fixtures;
use zfs::dmu::{Limits, Objset, Traverse, Txgs, Visit, traverse};
use zfs::ondisk::blkptr::{BLKPTR_SIZE, Blkptr};
use zfs::ondisk::bookmark::Bookmark;
use zfs::ondisk::object_type::ObjectType;
use zfs::ondisk::objset::ObjsetKind;
use zfs::vdev::{VdevTree, label};
use zfs::zap;
use zfs::zio::Zio;

/// Single-disk pools whose blocks are all readable.
const POOLS: [&str; 13] = [
    "a-default",
    "b-nofeat",
    "b2-v28",
    "c-compress",
    "d-checksum",
    "h-snaps",
    "i-zvol",
    "m-ashift12",
    "m-ashift9",
    "u-checkpoint",
    "v-props",
    "x-async",
    "z-16m",
];

#[derive(Default)]
struct Counts {
    objects: u64,
    entries: u64,
    bytes: u64,
}

fn open(pool: &str) -> (Arc<Zio>, Arc<Objset>) {
    let disk = fixtures::disk(pool, 0).unwrap();
    let label = label::read(&*disk).unwrap();
    let tree =
        VdevTree::open(label.config.nvlist("vdev_tree").unwrap(), &[(label.guid().unwrap(), disk)]).unwrap();
    let zio = Zio::new(tree, [0; 32], 32 << 20);
    let uberblock = label.uberblock.unwrap();
    let txgs = Txgs::new(uberblock.txg, Limits { dirty_max: 1 << 20, timeout_ns: None });
    let mos = Objset::open(Arc::clone(&zio), txgs, 0, uberblock.rootbp).unwrap();
    assert_eq!(mos.kind(), ObjsetKind::Meta);
    let directory = mos.hold_typed(1, ObjectType::OBJECT_DIRECTORY).unwrap();
    if let Ok(salt) = zap::lookup(&directory, "org.illumos:checksum_salt") {
        zio.set_salt(salt.to_bytes().try_into().unwrap());
    }
    (zio, mos)
}

fn read_everything(os: &Arc<Objset>, counts: &mut Counts) {
    let mut at = 0;
    let mut objects = 0;
    while let Some(object) = os.next_object(at, false).unwrap() {
        at = object;
        objects += 1;
        let dnode = os.hold(object).unwrap();
        let info = dnode.info();
        assert_eq!(dnode.bonus().len(), info.bonus_len);
        assert_eq!(dnode.spill().unwrap().is_some(), info.has_spill);
        if info.object_type.is_zap() {
            let entries = zap::entries(&dnode).unwrap();
            assert_eq!(entries.len() as u64, zap::count(&dnode).unwrap(), "object {object}");
            let words = zap::stats(&dnode).unwrap().flags & zap::FLAG_UINT64_KEY != 0;
            for entry in entries.iter().step_by(3) {
                let key_words = entry.key_words();
                let key = if words { zap::Key::Words(&key_words) } else { zap::Key::Name(&entry.name) };
                assert_eq!(zap::lookup(&dnode, key).unwrap(), entry.value, "object {object}");
            }
            counts.entries += entries.len() as u64;
        }
        // Data, but not the holes of a sparse file.
        let mut offset = 0;
        let mut buffer = vec![0; 1 << 20];
        while let Some(data) = dnode.next_offset(false, offset).unwrap() {
            offset = data + dnode.read(data, &mut buffer).unwrap() as u64;
            counts.bytes += offset - data;
        }
    }
    assert_eq!(objects, os.object_count());
    counts.objects += objects;
}

struct Verify<'a>(&'a Zio, u64);

impl Traverse for Verify<'_> {
    fn block(&mut self, bp: &Blkptr, at: &Bookmark) -> zfs::Result<Visit> {
        self.0.verify(bp, *at)?;
        self.1 += 1;
        Ok(Visit::Continue)
    }
}

#[test]
fn every_object_of_every_dataset_reads() {
    for pool in POOLS {
        let (zio, mos) = open(pool);
        let mut counts = Counts::default();
        read_everything(&mos, &mut counts);
        let mut verify = Verify(&zio, 0);
        traverse(&zio, 0, &mos.root(), 0, &mut verify).unwrap();
        let mut at = 0;
        let mut datasets = 0;
        while let Some(object) = mos.next_object(at, false).unwrap() {
            at = object;
            let dnode = mos.hold(object).unwrap();
            if dnode.info().bonus_type != ObjectType::DSL_DATASET {
                continue;
            }
            // `ds_bp` of `dsl_dataset_phys_t`.
            let bonus = dnode.bonus();
            let bp = Blkptr::from_bytes(bonus[128..128 + BLKPTR_SIZE].try_into().unwrap());
            if bp.is_hole() {
                continue;
            }
            let os = Objset::open(Arc::clone(&zio), Arc::clone(mos.txgs()), object, bp).unwrap();
            read_everything(&os, &mut counts);
            traverse(&zio, object, &bp, 0, &mut verify).unwrap();
            datasets += 1;
        }
        println!(
            "{pool}: {datasets} datasets, {} objects, {} ZAP entries, {} bytes, {} blocks",
            counts.objects, counts.entries, counts.bytes, verify.1
        );
        assert!(datasets > 0 && counts.entries > 100);
    }
}
