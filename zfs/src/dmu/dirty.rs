//! What a dnode keeps in memory for the txgs that are not yet on disk. Source: `dbuf_dirty_record_t` (`dbuf.h`).

use crate::dmu::place::Placed;
use crate::dmu::range_set::RangeSet;
use crate::dmu::tx::{TXG_SIZE, slot_of};
use crate::dmu::zfetch::Zfetch;
use crate::ondisk::blkptr::Blkptr;
use crate::ondisk::dnode::DnodePhys;
use crate::ondisk::object_type::ObjectType;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use bytes::Bytes;
use core::ops::Range;

/// A dirty block: owned as long as only writers touch it, shared once a reader or the sync has it.
pub(crate) enum Buf {
    Owned(Vec<u8>),
    Shared(Bytes),
}

impl Buf {
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Buf::Owned(data) => data,
            Buf::Shared(data) => data,
        }
    }

    /// The data without copying; later writes copy if the answer is still alive.
    pub(crate) fn share(&mut self) -> Bytes {
        let shared = match self {
            Buf::Owned(data) => Bytes::from(core::mem::take(data)),
            Buf::Shared(data) => return data.clone(),
        };
        *self = Buf::Shared(shared.clone());
        shared
    }

    pub(crate) fn make_mut(&mut self) -> &mut [u8] {
        if let Buf::Shared(data) = self {
            let owned = match core::mem::take(data).try_into_mut() {
                Ok(unique) => Vec::from(unique),
                Err(shared) => shared.to_vec(),
            };
            *self = Buf::Owned(owned);
        }
        match self {
            Buf::Owned(data) => data,
            Buf::Shared(_) => unreachable!("it was just made owned"),
        }
    }
}

/// The changes of one txg.
#[derive(Default)]
pub(crate) struct Slot {
    pub(crate) txg: u64,
    /// Whole data blocks.
    pub(crate) blocks: BTreeMap<u64, Buf>,
    /// Those of `blocks` that are on disk already.
    pub(crate) placed: Placed,
    /// Blocks that are to be where others are ([`Dnode::clone_blocks`](crate::dmu::Dnode::clone_blocks)): none of `blocks`.
    pub(crate) cloned: BTreeMap<u64, Blkptr>,
    /// Blocks that were freed; what `blocks` and `cloned` hold came after.
    pub(crate) freed: RangeSet,
    pub(crate) bonus: Option<(ObjectType, Bytes)>,
    /// A new spill block, or its removal.
    pub(crate) spill: Option<Option<Bytes>>,
    pub(crate) block_size: Option<u32>,
    pub(crate) maxblkid: Option<u64>,
    pub(crate) object_type: Option<ObjectType>,
    pub(crate) policy: Option<(u8, u8)>,
    /// The object is new in this txg.
    pub(crate) allocated: bool,
    /// The object was freed in this txg.
    pub(crate) free: bool,
}

impl Slot {
    /// What was cloned to these blocks is not needed there any more: its references are given back when the txg is synced.
    pub(crate) fn drop_clones(&mut self, ids: Range<u64>) {
        if self.cloned.is_empty() {
            return;
        }
        let dropped: Vec<u64> = self.cloned.range(ids).map(|(&id, _)| id).collect();
        for bp in dropped.iter().filter_map(|id| self.cloned.remove(id)).filter(Blkptr::is_stored) {
            self.placed.give_up(bp);
        }
    }
}

/// Where the newest content of a block is.
pub(crate) enum Source<'a> {
    Dirty(&'a mut Buf),
    /// On disk, as a block of another object, too.
    Cloned(Blkptr),
    Zero,
    Disk,
}

/// The state of a dnode, under its lock.
pub(crate) struct State {
    /// As on disk after the last sync.
    pub(crate) phys: DnodePhys,
    /// As the newest change left it.
    pub(crate) object_type: ObjectType,
    pub(crate) bonus_type: ObjectType,
    pub(crate) bonus: Bytes,
    pub(crate) block_size: u32,
    pub(crate) maxblkid: u64,
    pub(crate) checksum: u8,
    pub(crate) compress: u8,
    pub(crate) freed: bool,
    /// Counts changes of content: who has read without the lock sees by it whether that is still the newest.
    pub(crate) seq: u64,
    /// Newest txg with a slot.
    pub(crate) newest: u64,
    pub(crate) slots: [Option<Box<Slot>>; TXG_SIZE],
    /// Who reads it in order; most objects are of one block, and have nobody.
    pub(crate) zfetch: Option<Box<Zfetch>>,
}

impl State {
    pub(crate) fn new(phys: DnodePhys) -> Self {
        State {
            object_type: phys.object_type,
            bonus_type: phys.bonus_type,
            bonus: phys.bonus.clone(),
            block_size: phys.block_size(),
            maxblkid: phys.maxblkid,
            checksum: phys.checksum,
            compress: phys.compress,
            freed: false,
            seq: 0,
            newest: 0,
            slots: Default::default(),
            zfetch: None,
            phys,
        }
    }

    /// Slots with changes, the newest first.
    pub(crate) fn newest_first(&self) -> impl Iterator<Item = &Slot> {
        let newest = self.newest;
        (0..TXG_SIZE as u64).filter_map(move |back| {
            let txg = newest.checked_sub(back)?;
            self.slots[slot_of(txg)].as_deref().filter(|s| s.txg == txg)
        })
    }

    /// Slots of txgs behind `txg`: there are some while a transaction of an older txg goes on beside newer ones.
    pub(crate) fn newer_than(&mut self, txg: u64) -> impl Iterator<Item = &mut Slot> {
        let some = self.newest > txg;
        self.slots.iter_mut().flatten().map(|slot| &mut **slot).filter(move |slot| some && slot.txg > txg)
    }

    /// Moves what newer txgs have changed of the content into the slot of `txg`, which there is; how many bytes that is.
    pub(crate) fn take_newer(&mut self, txg: u64) -> u64 {
        let Some(mut older) = self.slots[slot_of(txg)].take() else { return 0 };
        let mut taken = 0;
        for newer in txg + 1..=self.newest {
            let Some(newer) = self.slots[slot_of(newer)].as_mut().filter(|slot| slot.txg == newer) else {
                continue;
            };
            if newer.allocated {
                // What an older txg has of it is another object.
                break;
            }
            for (start, end) in core::mem::take(&mut newer.freed).iter() {
                let mut behind = older.blocks.split_off(&start);
                older.blocks.append(&mut behind.split_off(&end));
                older.freed.insert(start, end);
            }
            taken += newer.blocks.values().map(|buf| buf.as_slice().len() as u64).sum::<u64>();
            older.blocks.append(&mut newer.blocks);
            older.block_size = newer.block_size.take().or(older.block_size);
            older.maxblkid = newer.maxblkid.take().or(older.maxblkid);
        }
        self.slots[slot_of(txg)] = Some(older);
        self.seq += 1;
        taken
    }

    /// Whether block `blkid` differs from the disk, and how.
    pub(crate) fn source(&mut self, blkid: u64) -> Source<'_> {
        self.source_until(blkid, u64::MAX)
    }

    /// The same as changes up to the txg `until` left it.
    pub(crate) fn source_until(&mut self, blkid: u64, until: u64) -> Source<'_> {
        let mut found = None;
        for slot in self.newest_first().filter(|slot| slot.txg <= until) {
            if slot.blocks.contains_key(&blkid) {
                found = Some((slot_of(slot.txg), true));
                break;
            }
            if let Some(bp) = slot.cloned.get(&blkid) {
                return if bp.is_hole() { Source::Zero } else { Source::Cloned(*bp) };
            }
            if slot.freed.contains(blkid) {
                found = Some((0, false));
                break;
            }
        }
        match found {
            None if blkid > self.phys.maxblkid => Source::Zero,
            None => Source::Disk,
            Some((_, false)) => Source::Zero,
            Some((i, true)) => {
                let slot = self.slots[i].as_mut().expect("the slot was just seen");
                Source::Dirty(slot.blocks.get_mut(&blkid).expect("the block was just seen"))
            }
        }
    }

    /// Whether there is a spill block, and the newest content if it is dirty.
    pub(crate) fn dirty_spill(&self) -> Option<&Option<Bytes>> {
        self.newest_first().find_map(|s| s.spill.as_ref())
    }

    pub(crate) fn has_spill(&self) -> bool {
        self.dirty_spill().map_or(self.phys.spill.is_some(), Option::is_some)
    }

    /// The first block from `from` on that is dirty or cloned and that no newer slot freed: a candidate for data.
    pub(crate) fn next_dirty(&self, from: u64) -> Option<u64> {
        let first = |s: &Slot| {
            let block = s.blocks.range(from..).next().map(|(&id, _)| id);
            let clone = s.cloned.range(from..).next().map(|(&id, _)| id);
            block.into_iter().chain(clone).min()
        };
        self.newest_first().filter_map(first).min()
    }

    /// Where the freed range that makes `blkid` zeros ends; `u64::MAX` if it lies behind the tree on disk.
    pub(crate) fn end_of_zeros(&self, blkid: u64) -> u64 {
        let end = |s: &Slot| match s.cloned.contains_key(&blkid) {
            true => Some(blkid + 1),
            false => s.freed.range_of(blkid).map(|(_, end)| end),
        };
        self.newest_first().find_map(end).unwrap_or(u64::MAX)
    }

    /// The first block from `from` on that some slot freed or made a hole.
    pub(crate) fn next_freed(&self, from: u64) -> Option<u64> {
        let first = |s: &Slot| {
            let hole = s.cloned.range(from..).find(|(_, bp)| bp.is_hole()).map(|(&id, _)| id);
            s.freed.next_from(from).into_iter().chain(hole).min()
        };
        self.newest_first().filter_map(first).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_buffer_is_copied_only_while_it_is_shared() {
        let mut buf = Buf::Owned(alloc::vec![1; 512]);
        let reader = buf.share();
        buf.make_mut()[0] = 2;
        assert_eq!((reader[0], buf.as_slice()[0]), (1, 2));
        let at = buf.share().as_ptr();
        assert_eq!(buf.make_mut().as_ptr(), at);
    }
}
