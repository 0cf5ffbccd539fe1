//! Lists of blocks that claim what they do not hold: they are refused, in bounded time.

use super::rig::{Rig, file_system};
use crate::dmu::{Allocate, Tx};
use crate::dsl::SpaHost;
use crate::dsl::bpobj::Bpobj;
use crate::error::Error;
use crate::ondisk::blkptr::{BLKPTR_SIZE, Blkptr, Dva};
use crate::ondisk::dsl::{BPOBJ_SIZE_V2, BpobjPhys};
use crate::ondisk::object_type::ObjectType;
use std::sync::Arc;

#[test]
fn snapshots_that_form_a_circle_are_refused() {
    let rig = Rig::new(41);
    for name in ["p/a", "p/b"] {
        rig.dsl.create_dataset(name, file_system()).unwrap();
    }
    rig.dsl.create_snapshots(&["p/a@1", "p/b@other"]).unwrap();
    rig.dsl.create_snapshots(&["p/a@2"]).unwrap();
    let (first, second) = (rig.dsl.lookup("p/a@1").unwrap(), rig.dsl.lookup("p/a@2").unwrap());
    let (dsl, object) = (Arc::clone(&rig.dsl), first.object);
    let task = move |tx: &Tx| first.update(&dsl, tx, |phys| phys.prev_snap_obj = second.object);
    rig.run(Some(Box::new(task))).unwrap();
    let corrupt = Error::corrupt("dsl_dataset: a snapshot is not older than the next", None);
    assert_eq!(rig.dsl.keys_before(object), Err(corrupt.clone()));
    assert_eq!(rig.dsl.diff("p/b@other", "p/a").map(|_| ()), Err(corrupt.clone()));
    let written = rig.dsl.lookup("p/a").unwrap().written_since("p/b@other");
    assert_eq!(written, Err(corrupt));
}

/// A list with this header, whose sub-lists are `subs` and itself.
fn refused(header: BpobjPhys, subs: &[u64]) {
    let rig = Rig::new(40);
    let (os, host) = (Arc::clone(rig.dsl.mos()), Arc::clone(&rig.host) as Arc<dyn SpaHost>);
    let subs = subs.to_vec();
    let task = move |tx: &Tx| {
        let object = Bpobj::allocate(&os, tx)?;
        let list = os.allocate(tx, &Allocate::plain(ObjectType::BPOBJ_SUBOBJ, 131_072))?;
        let numbers: Vec<u8> = subs.iter().chain([&object; 3]).flat_map(|n| n.to_le_bytes()).collect();
        list.write(tx, 0, &numbers)?;
        let subobjs = if header.num_subobjs > 0 { list.object() } else { 0 };
        let header = BpobjPhys { size: BPOBJ_SIZE_V2, subobjs, ..header };
        os.hold(object)?.set_bonus(tx, ObjectType::BPOBJ_HDR, &header.emit())?;
        let mut met = 0;
        let walked = Bpobj::open(&os, &host, object).and_then(|list| {
            list.for_each(&mut |_| {
                met += 1;
                Ok(())
            })
        });
        assert!(matches!(walked, Err(Error::Corrupt { .. })), "{header:?}: {walked:?}");
        assert!(met < 1000, "{met} blocks of a list that holds none");
        // The rig's books would miss what is not in the pool's own lists.
        os.free(tx, list.object())?;
        os.free(tx, object)
    };
    rig.run(Some(Box::new(task))).unwrap();
    rig.check();
}

/// OpenZFS lists a block once for each reference that a clone of it took, and once for each that went.
#[test]
fn a_livelist_counts_the_references_to_cloned_blocks() {
    let rig = Rig::new(42);
    let (dsl, os, host) =
        (Arc::clone(&rig.dsl), Arc::clone(rig.dsl.mos()), Arc::clone(&rig.host) as Arc<dyn SpaHost>);
    let block = |offset: u64, birth: u64| {
        let mut bp = Blkptr::HOLE;
        bp.set_dva(0, Dva { vdev: 0, offset, asize: 4096, gang: false });
        bp.set_sizes(4096, 4096);
        bp.set_birth(2);
        bp.reborn(birth)
    };
    let task = move |tx: &Tx| {
        let object = Bpobj::allocate(&os, tx)?;
        let list: Vec<(u64, u64, bool)> = vec![
            (0, 2, false),
            (0, 7, false),
            (0, 7, false),
            (0, 7, true),
            (4096, 7, false),
            (4096, 7, true),
            (8192, 7, false),
            (8192, 7, false),
        ];
        let entries: Vec<Blkptr> = list.iter().map(|(offset, birth, _)| block(*offset, *birth)).collect();
        Bpobj::open(&os, &host, object)?.enqueue(tx, &entries)?;
        // We write no frees: the mark is made by hand.
        for (at, _) in (0..).step_by(BLKPTR_SIZE).zip(&list).filter(|(_, (.., freed))| *freed) {
            os.hold(object)?.write(tx, at + 11 * 8, &1u64.to_le_bytes())?;
        }
        let left = dsl.live_blocks(object)?;
        assert_eq!(left, [block(0, 2), block(0, 7), block(8192, 7), block(8192, 7)]);
        Bpobj::destroy(&os, &host, tx, object)
    };
    rig.run(Some(Box::new(task))).unwrap();
}

#[test]
fn a_list_that_contains_itself_is_not_walked_for_ever() {
    refused(BpobjPhys { num_subobjs: 3, ..BpobjPhys::default() }, &[]);
}

#[test]
fn a_list_with_fewer_entries_or_sub_lists_than_it_says_is_refused() {
    refused(BpobjPhys { num_blkptrs: u64::MAX, ..BpobjPhys::default() }, &[]);
    refused(BpobjPhys { num_blkptrs: 1 << 57, ..BpobjPhys::default() }, &[]);
    refused(BpobjPhys { num_subobjs: u64::MAX, ..BpobjPhys::default() }, &[]);
    refused(BpobjPhys { num_subobjs: 1 << 40, ..BpobjPhys::default() }, &[0]);
}
