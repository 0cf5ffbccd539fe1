//! Lists of block pointers on disk: deadlists are made of them, and what waits to be freed. Source: `bpobj_t` (`module/zfs/bpobj.c`).
//!
//! The object's data is an array of block pointers; its bonus counts them and their space. A list can also have sub-lists, named in a second
//! object as 64-bit numbers: joining two lists then takes constant time.
//!
//! # Invariants
//! - The space in the header is that of all entries and of all sub-lists.
//! - Entries carry no checksum and no fill count (they compress better without), embedded ones no payload.

use super::host::SpaHost;
use crate::dmu::{Allocate, Objset, Tx};
use crate::error::{Error, Result};
use crate::ondisk::blkptr::{BLKPTR_SIZE, Blkptr};
use crate::ondisk::dsl::{BPOBJ_SIZE_V2, BpobjPhys, Space};
use crate::ondisk::object_type::ObjectType;
use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

/// Block size of a bpobj and of a list of sub-lists, in bytes (`SPA_OLD_MAXBLOCKSIZE`).
pub(crate) const BPOBJ_BLOCK_SIZE: u32 = 131_072;
/// The deepest nesting of lists that we follow: real ones have a handful of levels.
const MAX_DEPTH: usize = 64;
/// More sub-lists than any list has: their numbers have a place in an object.
const SUBOBJS_MAX: u64 = 1 << 48;
/// Entries that are read at once.
const CHUNK: u64 = 1024;

/// The space of one block, as lists and datasets count it (`bp_get_dsize_sync`, `BP_GET_PSIZE`, `BP_GET_UCSIZE`).
pub(crate) fn space_of(host: &dyn SpaHost, bp: &Blkptr) -> Space {
    let (compressed, uncompressed) = bp.counted();
    Space { used: if bp.is_embedded() { 0 } else { host.dsize(bp) }, compressed, uncompressed }
}

/// An open list.
pub struct Bpobj {
    os: Arc<Objset>,
    host: Arc<dyn SpaHost>,
    object: u64,
    phys: BpobjPhys,
}

impl Bpobj {
    /// A new, empty list; its object number (`bpobj_alloc`).
    pub fn allocate(os: &Arc<Objset>, tx: &Tx) -> Result<u64> {
        let phys = BpobjPhys { size: BPOBJ_SIZE_V2, ..BpobjPhys::default() };
        let dnode = os.allocate(
            tx,
            &Allocate {
                bonus_type: ObjectType::BPOBJ_HDR,
                bonus_len: BPOBJ_SIZE_V2 as u16,
                ..Allocate::plain(ObjectType::BPOBJ, BPOBJ_BLOCK_SIZE)
            },
        )?;
        dnode.set_bonus(tx, ObjectType::BPOBJ_HDR, &phys.emit())?;
        Ok(dnode.object())
    }

    /// Opens a list.
    pub fn open(os: &Arc<Objset>, host: &Arc<dyn SpaHost>, object: u64) -> Result<Self> {
        let dnode = os.hold(object)?;
        if dnode.info().object_type != ObjectType::BPOBJ {
            return Err(Error::corrupt("bpobj: the object has another type", None));
        }
        let phys = BpobjPhys::parse(&dnode.bonus())?;
        if phys.num_blkptrs > dnode.info().capacity() / BLKPTR_SIZE as u64 || phys.num_subobjs > SUBOBJS_MAX {
            return Err(too_long());
        }
        Ok(Bpobj { os: Arc::clone(os), host: Arc::clone(host), object, phys })
    }

    /// Its object number.
    #[must_use]
    pub fn object(&self) -> u64 {
        self.object
    }

    /// Space of all entries and sub-lists (`bpobj_space`). Of a list older than SPA version 3 the two last are 0.
    #[must_use]
    pub fn space(&self) -> Space {
        self.phys.space()
    }

    /// No entries and no sub-lists.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.phys.num_blkptrs == 0 && self.subs() == 0
    }

    /// How many sub-lists it has: the count is stale after they were moved away.
    fn subs(&self) -> u64 {
        if self.phys.subobjs == 0 { 0 } else { self.phys.num_subobjs }
    }

    fn store(&self, tx: &Tx) -> Result<()> {
        self.os.hold(self.object)?.set_bonus(tx, ObjectType::BPOBJ_HDR, &self.phys.emit())
    }

    /// Adds blocks (`bpobj_enqueue`). Holes must not be among them.
    pub fn enqueue(&mut self, tx: &Tx, bps: &[Blkptr]) -> Result<()> {
        if bps.is_empty() {
            return Ok(());
        }
        let mut bytes = Vec::with_capacity(bps.len() * BLKPTR_SIZE);
        let mut space = Space::default();
        for bp in bps {
            space += space_of(&*self.host, bp);
            bytes.extend_from_slice(&stored(bp));
        }
        let dnode = self.os.hold(self.object)?;
        dnode.write(tx, self.phys.num_blkptrs * BLKPTR_SIZE as u64, &bytes)?;
        self.phys.num_blkptrs += bps.len() as u64;
        self.add_space(space);
        self.store(tx)
    }

    fn add_space(&mut self, space: Space) {
        self.phys.bytes = self.phys.bytes.wrapping_add(space.used);
        self.phys.comp = self.phys.comp.wrapping_add(space.compressed);
        self.phys.uncomp = self.phys.uncomp.wrapping_add(space.uncompressed);
    }

    fn subtract_space(&mut self, space: Space) {
        self.phys.bytes = self.phys.bytes.wrapping_sub(space.used);
        self.phys.comp = self.phys.comp.wrapping_sub(space.compressed);
        self.phys.uncomp = self.phys.uncomp.wrapping_sub(space.uncompressed);
    }

    /// Entries `first..first + count` of the list itself.
    fn entries(&self, first: u64, count: u64) -> Result<Vec<Blkptr>> {
        let mut bytes = vec![0; usize::try_from(count).map_err(|_| too_long())? * BLKPTR_SIZE];
        let read = self.os.hold(self.object)?.read(first * BLKPTR_SIZE as u64, &mut bytes)?;
        bytes.truncate(read);
        if bytes.len() as u64 != count * BLKPTR_SIZE as u64 {
            return Err(too_long());
        }
        let entry = |bytes: &[u8; BLKPTR_SIZE]| match Blkptr::parse(bytes, None)? {
            // No block that was freed: a list that claims more than was ever written would be walked without end.
            bp if bp.is_hole() => Err(Error::corrupt("bpobj: a hole among the entries", None)),
            bp => Ok(bp),
        };
        bytes.as_chunks::<BLKPTR_SIZE>().0.iter().map(entry).collect()
    }

    /// Sub-list number `index`.
    fn sub(&self, index: u64) -> Result<u64> {
        let mut bytes = [0; 8];
        let read = self.os.hold(self.phys.subobjs)?.read(index * 8, &mut bytes)?;
        match u64::from_le_bytes(bytes) {
            // A hole, or behind the end.
            object if object == 0 || read != 8 => {
                Err(Error::corrupt("bpobj: fewer sub-lists than its header says", None))
            }
            object => Ok(object),
        }
    }

    /// Calls `visit` for every entry, also of sub-lists, and changes nothing (`bpobj_iterate_nofree`).
    pub fn for_each(&self, visit: &mut dyn FnMut(&Blkptr) -> Result<()>) -> Result<()> {
        self.for_each_at(visit, &mut BTreeSet::new(), 0)
    }

    /// `seen`: the lists so far. A list is in one place: one that contained itself twice would be walked for ever, however deep.
    fn for_each_at(
        &self,
        visit: &mut dyn FnMut(&Blkptr) -> Result<()>,
        seen: &mut BTreeSet<u64>,
        depth: usize,
    ) -> Result<()> {
        if depth > MAX_DEPTH || !seen.insert(self.object) {
            return Err(Error::corrupt("bpobj: lists are nested without end", None));
        }
        let mut first = 0;
        while first < self.phys.num_blkptrs {
            let count = CHUNK.min(self.phys.num_blkptrs - first);
            for bp in self.entries(first, count)? {
                visit(&bp)?;
            }
            first += count;
        }
        for index in 0..self.subs() {
            Bpobj::open(&self.os, &self.host, self.sub(index)?)?.for_each_at(visit, seen, depth + 1)?;
        }
        Ok(())
    }

    /// Takes at most `*left` entries off the end, hands each to `visit` and reduces `left`; emptied sub-lists are freed
    /// (`bpobj_iterate`). Gives the space taken.
    pub fn take(
        &mut self,
        tx: &Tx,
        left: &mut u64,
        visit: &mut dyn FnMut(&Blkptr) -> Result<()>,
    ) -> Result<Space> {
        self.take_at(tx, left, visit, 0)
    }

    fn take_at(
        &mut self,
        tx: &Tx,
        left: &mut u64,
        visit: &mut dyn FnMut(&Blkptr) -> Result<()>,
        depth: usize,
    ) -> Result<Space> {
        if depth > MAX_DEPTH {
            return Err(Error::corrupt("bpobj: lists are nested without end", None));
        }
        let mut taken = self.take_entries(tx, left, visit)?;
        while *left > 0 && self.subs() > 0 {
            let index = self.phys.num_subobjs - 1;
            let mut sub = Bpobj::open(&self.os, &self.host, self.sub(index)?)?;
            taken += sub.take_at(tx, left, visit, depth + 1)?;
            if sub.is_empty() {
                if sub.phys.subobjs != 0 {
                    self.os.free(tx, sub.phys.subobjs)?;
                }
                self.os.free(tx, sub.object)?;
                self.phys.num_subobjs = index;
                self.os.hold(self.phys.subobjs)?.free_range(tx, index * 8, 8)?;
            }
        }
        if taken != Space::default() {
            self.subtract_space(taken);
            self.store(tx)?;
        }
        Ok(taken)
    }

    fn take_entries(
        &mut self,
        tx: &Tx,
        left: &mut u64,
        visit: &mut dyn FnMut(&Blkptr) -> Result<()>,
    ) -> Result<Space> {
        let mut taken = Space::default();
        let before = self.phys.num_blkptrs;
        while *left > 0 && self.phys.num_blkptrs > 0 {
            let count = CHUNK.min(self.phys.num_blkptrs).min(*left);
            let first = self.phys.num_blkptrs - count;
            for bp in self.entries(first, count)?.iter().rev() {
                visit(bp)?;
                taken += space_of(&*self.host, bp);
            }
            self.phys.num_blkptrs = first;
            *left -= count;
        }
        if self.phys.num_blkptrs != before {
            let from = self.phys.num_blkptrs * BLKPTR_SIZE as u64;
            let len = (before - self.phys.num_blkptrs) * BLKPTR_SIZE as u64;
            self.os.hold(self.object)?.free_range(tx, from, len)?;
            self.store(tx)?;
        }
        Ok(taken)
    }

    /// Moves the whole of another list into this one (`bpobj_enqueue_subobj`): small ones are copied, large ones become a sub-list. The
    /// other's object belongs to this list afterwards or is gone.
    pub fn enqueue_subobj(&mut self, tx: &Tx, object: u64) -> Result<()> {
        let mut sub = Bpobj::open(&self.os, &self.host, object)?;
        if sub.is_empty() {
            return Bpobj::destroy(&self.os, &self.host, tx, object);
        }
        let one_block = u64::from(BPOBJ_BLOCK_SIZE);
        let copy_subs = sub.subs() * 8 <= one_block;
        let copy_entries = copy_subs && sub.phys.num_blkptrs * BLKPTR_SIZE as u64 <= one_block;
        if copy_subs && sub.phys.subobjs != 0 {
            for index in 0..sub.subs() {
                let subsub = sub.sub(index)?;
                self.append_sub(tx, subsub)?;
            }
            self.os.free(tx, sub.phys.subobjs)?;
            // As in OpenZFS the sub-list's header still counts what moved; nobody reads it but through ours, which counts it once.
            sub.phys.subobjs = 0;
            sub.store(tx)?;
        }
        let space = sub.phys.space();
        if copy_entries {
            let mut bytes = Vec::new();
            for bp in sub.entries(0, sub.phys.num_blkptrs)? {
                bytes.extend_from_slice(&bp.to_bytes());
            }
            let at = self.phys.num_blkptrs * BLKPTR_SIZE as u64;
            self.os.hold(self.object)?.write(tx, at, &bytes)?;
            self.phys.num_blkptrs += sub.phys.num_blkptrs;
            self.os.free(tx, object)?;
        } else {
            self.append_sub(tx, object)?;
        }
        self.add_space(space);
        self.store(tx)
    }

    fn append_sub(&mut self, tx: &Tx, object: u64) -> Result<()> {
        if self.phys.subobjs == 0 {
            let list = self.os.allocate(tx, &Allocate::plain(ObjectType::BPOBJ_SUBOBJ, BPOBJ_BLOCK_SIZE))?;
            self.phys.subobjs = list.object();
            self.phys.num_subobjs = 0;
        }
        let at = self.phys.num_subobjs * 8;
        self.os.hold(self.phys.subobjs)?.write(tx, at, &object.to_le_bytes())?;
        self.phys.num_subobjs += 1;
        Ok(())
    }

    /// Frees the list and its sub-lists; the blocks on it are not touched (`bpobj_free`).
    pub fn destroy(os: &Arc<Objset>, host: &Arc<dyn SpaHost>, tx: &Tx, object: u64) -> Result<()> {
        let mut stack = vec![object];
        while let Some(object) = stack.pop() {
            let list = Bpobj::open(os, host, object)?;
            for index in 0..list.subs() {
                stack.push(list.sub(index)?);
            }
            if list.phys.subobjs != 0 {
                os.free(tx, list.phys.subobjs)?;
            }
            os.free(tx, object)?;
        }
        Ok(())
    }

    /// Space of the entries born after `min_txg` and at or before `max_txg` (`bpobj_space_range`). Walks the list.
    pub fn space_range(&self, min_txg: u64, max_txg: u64) -> Result<Space> {
        let mut space = Space::default();
        self.for_each(&mut |bp| {
            if bp.birth() > min_txg && bp.birth() <= max_txg {
                space += space_of(&*self.host, bp);
            }
            Ok(())
        })?;
        Ok(space)
    }
}

fn too_long() -> Error {
    Error::corrupt("bpobj: fewer entries than its header says", None)
}

/// An entry as it is stored.
fn stored(bp: &Blkptr) -> [u8; BLKPTR_SIZE] {
    let mut stored = *bp;
    if bp.is_embedded() {
        // Only the sizes and the birth count.
        let mut bytes = [0; BLKPTR_SIZE];
        bytes[48..56].copy_from_slice(&bp.to_bytes()[48..56]);
        bytes[80..88].copy_from_slice(&bp.to_bytes()[80..88]);
        return bytes;
    }
    if !bp.dedup() {
        stored.set_checksum([0; 4]);
    }
    stored.set_fill(0);
    stored.to_bytes()
}
