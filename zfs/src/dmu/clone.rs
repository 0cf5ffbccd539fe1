//! Blocks of one object in another: only their pointers are copied. Source: `dmu_read_l0_bps`, `dmu_brt_clone` (`dmu.c`).
//!
//! # Invariants
//! - The caller counts a reference to every stored block that it clones ([`crate::spa`]'s block reference table) in the same txg.
//! - A clone that is not needed any more when its txg is synced is told to [`crate::dmu::BlockOwner::unused`], which takes that back.
//! - Whoever clones has the whole blocks locked, so that no newer txg has changed them.

use crate::dmu::data::check_blkid;
use crate::dmu::dirty::Source;
use crate::dmu::{Dnode, Tx};
use crate::error::{Error, Result};
use crate::ondisk::blkptr::Blkptr;
use crate::ondisk::object_type::ObjectType;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

/// What a cloned block counts against the dirty limit, in bytes: its pointer, and its share of a table of references.
const CLONE_COST: u64 = 1024;

impl Dnode {
    /// The pointers of data blocks, holes where nothing is: as they are on disk in txg `synced`, so that a log may refer to them. `None`
    /// if one of them is not: it was changed since.
    pub fn settled_pointers(&self, ids: Range<u64>, synced: u64) -> Result<Option<Vec<Blkptr>>> {
        loop {
            let (tree, mut found, on_disk) = {
                let mut state = self.state.lock();
                if state.freed {
                    return Err(Error::NotFound);
                }
                let (mut found, mut on_disk) = (Vec::new(), Vec::new());
                for id in ids.clone() {
                    found.push(match state.source(id) {
                        Source::Dirty(_) => return Ok(None),
                        Source::Cloned(bp) => bp,
                        Source::Zero => Blkptr::HOLE,
                        Source::Disk => {
                            on_disk.push(id);
                            Blkptr::HOLE
                        }
                    });
                }
                (self.tree(&state), found, on_disk)
            };
            match tree.lookup_many(&self.core.zio, &on_disk) {
                Ok(bps) => on_disk.iter().zip(bps).for_each(|(id, bp)| found[(id - ids.start) as usize] = bp),
                Err(error) if self.tree(&self.state.lock()) == tree => return Err(error),
                // Blocks of an old tree may have been reused.
                Err(_) => continue,
            }
            let settled = found.iter().all(|bp| !bp.is_stored() || bp.physical_birth() <= synced);
            return Ok(settled.then_some(found));
        }
    }

    /// Makes blocks from `first` on the same as those that `bps` lead to; a hole makes a hole.
    ///
    /// # Errors
    /// [`Error::Invalid`]: a block of another size than this object's, of metadata, or encrypted. Nothing is changed then.
    pub fn clone_blocks(self: &Arc<Self>, tx: &Tx, first: u64, bps: &[Blkptr]) -> Result<()> {
        let Some(behind) = bps.len().checked_sub(1) else { return Ok(()) };
        let last = first.checked_add(behind as u64).ok_or(Error::TooBig)?;
        let mut state = self.state.lock();
        check_blkid(&state, last)?;
        let size = u64::from(state.block_size);
        last.checked_add(1)
            .and_then(|end| end.checked_mul(size))
            .filter(|&end| end <= i64::MAX as u64)
            .ok_or(Error::TooBig)?;
        for bp in bps.iter().filter(|bp| !bp.is_hole()) {
            bp.verify(None)?;
            if bp.lsize() != size {
                return Err(Error::Invalid("a block of another size cannot be cloned"));
            }
            if bp.level() != 0 || bp.uses_crypt() || ObjectType(bp.object_type()).is_metadata() {
                return Err(Error::Invalid("only blocks of data that is not encrypted can be cloned"));
            }
        }
        let maxblkid = state.maxblkid.max(last);
        let slot = self.slot(&mut state, tx)?;
        slot.maxblkid = Some(maxblkid);
        slot.drop_clones(first..last + 1);
        for (id, bp) in (first..).zip(bps) {
            slot.blocks.remove(&id);
            slot.cloned.insert(id, if bp.is_hole() { Blkptr::HOLE } else { bp.reborn(tx.txg()) });
        }
        for newer in state.newer_than(tx.txg()) {
            newer.maxblkid = newer.maxblkid.map(|max| max.max(last));
        }
        state.maxblkid = maxblkid;
        state.seq += 1;
        drop(state);
        self.core.txgs.add_dirty(tx.txg(), bps.len() as u64 * CLONE_COST);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dmu::testing::{Below, TestPool};
    use crate::dmu::{Allocate, Objset};
    use crate::ondisk::objset::ObjsetKind;
    use alloc::vec;
    use platform::random::Seeded;

    const SIZE: u64 = 4096;

    fn files(pool: &TestPool, count: usize) -> (Arc<Objset>, Vec<Arc<Dnode>>) {
        let tx = pool.txgs.begin(0).unwrap();
        let os = pool.create(54, ObjsetKind::Zfs, &tx);
        let what =
            Allocate { indirect_shift: 12, ..Allocate::plain(ObjectType::PLAIN_FILE_CONTENTS, SIZE as u32) };
        let files = (0..count).map(|_| os.allocate(&tx, &what).unwrap()).collect();
        (os, files)
    }

    /// As file systems do it; false: the source is not on disk.
    fn clone(pool: &TestPool, tx: &Tx, from: &Arc<Dnode>, ids: Range<u64>, to: &Arc<Dnode>, at: u64) -> bool {
        let Some(bps) = from.settled_pointers(ids, pool.txgs.synced_txg()).unwrap() else { return false };
        bps.iter().for_each(|bp| pool.space.refer(bp));
        to.clone_blocks(tx, at, &bps).unwrap();
        true
    }

    fn content(file: &Dnode, blocks: u64) -> Vec<u8> {
        let mut out = vec![0; (blocks * SIZE) as usize];
        let n = file.read(0, &mut out).unwrap();
        out[n..].fill(0);
        out
    }

    #[test]
    fn a_clone_reads_as_its_source_before_and_after_the_sync() {
        let pool = TestPool::new(64 << 20);
        let (os, files) = files(&pool, 2);
        let (a, b) = (&files[0], &files[1]);
        let data: Vec<u8> = (0..5 * SIZE).map(|i| (i * i / 300) as u8 | 1).collect();
        let tx = pool.txgs.begin(0).unwrap();
        a.write(&tx, 0, &data[..3 * SIZE as usize]).unwrap();
        a.write(&tx, 4 * SIZE, &data[4 * SIZE as usize..]).unwrap();
        assert_eq!(a.settled_pointers(0..5, pool.txgs.synced_txg()).unwrap(), None, "it is dirty");
        drop(tx);
        pool.sync();
        let used = pool.space.used();
        let tx = pool.txgs.begin(0).unwrap();
        assert!(clone(&pool, &tx, a, 0..5, b, 2));
        let want = [&vec![0; 2 * SIZE as usize][..], &content(a, 5)].concat();
        let check = |b: &Dnode| {
            assert!(content(b, 7) == want);
            assert_eq!(b.read_block(6).unwrap()[..], want[6 * SIZE as usize..]);
            assert_eq!(b.next_offset(false, 0), Ok(Some(2 * SIZE)));
            assert_eq!(b.next_offset(true, 2 * SIZE), Ok(Some(5 * SIZE)));
            assert_eq!(b.next_offset(false, 5 * SIZE), Ok(Some(6 * SIZE)));
            assert_eq!(b.info().maxblkid, 6);
        };
        check(b);
        drop(tx);
        pool.sync();
        check(b);
        pool.check(&[&os]);
        let back = Objset::open(pool.fresh_zio(), Arc::clone(&pool.txgs), 54, os.root()).unwrap();
        check(&back.hold(b.object()).unwrap());
        // The data is there once: what came are indirect blocks and dnodes.
        assert!(pool.space.used() < used + 3 * SIZE, "{} after {used}", pool.space.used());
        assert_eq!(b.used_bytes(), a.used_bytes());
        let (old, new) = (a.block_pointer(0, 0).unwrap(), b.block_pointer(0, 2).unwrap());
        assert_eq!((new.physical_birth(), new.dva(0)), (old.birth(), old.dva(0)));
        assert!(new.birth() > old.birth());
    }

    #[test]
    fn what_does_not_fit_is_refused_and_changes_nothing() {
        let pool = TestPool::new(64 << 20);
        let (_os, files) = files(&pool, 2);
        let tx = pool.txgs.begin(0).unwrap();
        files[0].write(&tx, 0, &[1; 100]).unwrap();
        files[1].write(&tx, 0, &[2; 100]).unwrap();
        drop(tx);
        pool.sync();
        let good = files[0].block_pointer(0, 0).unwrap();
        let tx = pool.txgs.begin(0).unwrap();
        let refuse = |change: &dyn Fn(&mut Blkptr)| {
            let mut bad = good;
            change(&mut bad);
            files[1].clone_blocks(&tx, 0, &[good, bad]).unwrap_err()
        };
        assert_eq!(
            refuse(&|bp| bp.set_sizes(512, 512)),
            Error::Invalid("a block of another size cannot be cloned")
        );
        let metadata = Error::Invalid("only blocks of data that is not encrypted can be cloned");
        assert_eq!(refuse(&|bp| bp.set_object_type(ObjectType::DIRECTORY_CONTENTS.0)), metadata);
        assert_eq!(refuse(&|bp| bp.set_level(1)), metadata);
        assert_eq!(refuse(&Blkptr::set_authenticated), metadata);
        assert_eq!(files[1].clone_blocks(&tx, i64::MAX as u64 / SIZE, &[good]), Err(Error::TooBig));
        assert_eq!(content(&files[1], 1)[..101], [&[2; 100][..], &[0]].concat());
    }

    /// Every way in which a clone can be followed by something else, in the same txg or a later one: content and references hold.
    #[test]
    fn clones_are_overwritten_freed_and_cloned_again_like_other_blocks() {
        const BLOCKS: u64 = 40;
        for seed in 0..6 {
            let rng = Seeded::new(seed);
            let pool = TestPool::new(64 << 20);
            let (os, files) = files(&pool, 3);
            let mut model = vec![vec![0u8; (BLOCKS * SIZE) as usize]; 3];
            for _ in 0..600 {
                let (i, at) = (rng.below(3) as usize, rng.below(BLOCKS));
                let len = 1 + rng.below(6).min(BLOCKS - at - 1);
                let bytes = (at * SIZE) as usize..((at + len) * SIZE) as usize;
                let tx = pool.txgs.begin(0).unwrap();
                match rng.below(9) {
                    0..=3 => {
                        let (j, from) = (rng.below(3) as usize, rng.below(BLOCKS - len));
                        if clone(&pool, &tx, &files[j], from..from + len, &files[i], at) {
                            let source = (from * SIZE) as usize..((from + len) * SIZE) as usize;
                            let part = model[j][source].to_vec();
                            model[i][bytes].copy_from_slice(&part);
                        }
                    }
                    4 => {
                        let fill = rng.below(255) as u8 + 1;
                        files[i].write(&tx, at * SIZE, &vec![fill; bytes.len()]).unwrap();
                        model[i][bytes].fill(fill);
                    }
                    5 => {
                        let part = bytes.start + 100..bytes.end - 50;
                        let data: Vec<u8> = part.clone().map(|_| rng.below(256) as u8).collect();
                        files[i].write(&tx, part.start as u64, &data).unwrap();
                        model[i][part].copy_from_slice(&data);
                    }
                    6 => {
                        files[i].free_range(&tx, at * SIZE, len * SIZE).unwrap();
                        model[i][bytes].fill(0);
                    }
                    _ => {
                        drop(tx);
                        pool.sync();
                        pool.check(&[&os]);
                    }
                }
                for (file, want) in files.iter().zip(&model) {
                    assert!(content(file, BLOCKS) == *want, "seed {seed}");
                }
            }
            let tx = pool.txgs.begin(0).unwrap();
            clone(&pool, &tx, &files[0], 0..BLOCKS, &files[1], 0);
            os.free(&tx, files[1].object()).unwrap();
            drop(tx);
            pool.sync();
            pool.check(&[&os]);
            let tx = pool.txgs.begin(0).unwrap();
            os.free(&tx, files[0].object()).unwrap();
            os.free(&tx, files[2].object()).unwrap();
            drop(tx);
            pool.sync();
            pool.check(&[&os]);
        }
    }
}
