//! Dnodes in memory: one object, its shape, and the changes that are not yet on disk. Source: `dnode.c`, `dbuf.c`.

use crate::dmu::dirty::{Slot, Source, State};
use crate::dmu::objset::Core;
use crate::dmu::tree::Tree;
use crate::dmu::tx::slot_of;
use crate::dmu::{Objset, Tx};
use crate::error::{Error, Result};
use crate::ondisk::blkptr::{BLKPTR_SIZE, Blkptr};
use crate::ondisk::bookmark::Bookmark;
use crate::ondisk::dnode::{DNODE_CORE_SIZE, DNODE_SIZE, DnodePhys};
use crate::ondisk::object_type::ObjectType;
use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use bytes::Bytes;
use platform::sync::{Mutex, RwLock};

/// What a dirty dnode counts against the dirty limit besides its blocks, in bytes.
const DNODE_COST: u64 = 2048;
/// The largest spill block, in bytes (`SPA_OLD_MAXBLOCKSIZE`).
const MAX_SPILL: usize = 128 << 10;

/// The shape of an object as the newest change left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnodeInfo {
    /// The object's number.
    pub object: u64,
    /// What its blocks hold.
    pub object_type: ObjectType,
    /// What the bonus holds.
    pub bonus_type: ObjectType,
    /// Length of the bonus in bytes.
    pub bonus_len: usize,
    /// Data block size in bytes.
    pub block_size: u32,
    /// Size of an indirect block in bytes.
    pub indirect_size: u32,
    /// Levels of the block tree on disk, 1 if there are no indirect blocks.
    pub levels: u8,
    /// Block pointers in the dnode.
    pub nblkptr: u8,
    /// Largest block id that may hold data.
    pub maxblkid: u64,
    /// Space used on disk, in bytes, as of the last sync.
    pub used: u64,
    /// Slots of 512 bytes.
    pub slots: u8,
    /// `FLAG_*` of [`crate::ondisk::dnode`].
    pub flags: u8,
    /// Whether it has a spill block.
    pub has_spill: bool,
    /// Checksum override, 0 if inherited.
    pub checksum: u8,
    /// Compression override, 0 if inherited.
    pub compress: u8,
}

impl DnodeInfo {
    /// Bytes up to the end of the last block that may hold data: no list in the object is longer.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.maxblkid.saturating_add(1).saturating_mul(u64::from(self.block_size))
    }
}

pub(crate) enum Owner {
    /// Any object keeps its objset alive.
    Objset(Arc<Objset>),
    /// The meta-dnode is kept by its objset.
    Meta(Weak<Objset>),
}

/// An object.
pub struct Dnode {
    owner: Owner,
    pub(crate) core: Arc<Core>,
    object: u64,
    pub(crate) state: Mutex<State>,
    /// Lock of the ZAP that this object may be, and what is remembered of it.
    pub(crate) zap: RwLock<crate::zap::Cache>,
}

impl Dnode {
    pub(crate) fn new(owner: Owner, core: Arc<Core>, object: u64, phys: DnodePhys) -> Self {
        Dnode { owner, core, object, state: Mutex::new(State::new(phys)), zap: RwLock::default() }
    }

    /// The object's number.
    #[must_use]
    pub fn object(&self) -> u64 {
        self.object
    }

    /// The objset it belongs to.
    ///
    /// # Panics
    /// If this is a meta-dnode whose objset is gone.
    #[must_use]
    pub fn objset(&self) -> Arc<Objset> {
        match &self.owner {
            Owner::Objset(objset) => Arc::clone(objset),
            Owner::Meta(objset) => objset.upgrade().expect("an objset outlives the use of its meta-dnode"),
        }
    }

    /// Its shape.
    #[must_use]
    pub fn info(&self) -> DnodeInfo {
        let state = self.state.lock();
        DnodeInfo {
            object: self.object,
            object_type: state.object_type,
            bonus_type: state.bonus_type,
            bonus_len: state.bonus.len(),
            block_size: state.block_size,
            indirect_size: 1 << state.phys.indblkshift,
            levels: state.phys.nlevels,
            nblkptr: state.phys.nblkptr,
            maxblkid: state.maxblkid,
            used: state.phys.used_bytes(),
            slots: state.phys.slots,
            flags: state.phys.flags,
            has_spill: state.has_spill(),
            checksum: state.checksum,
            compress: state.compress,
        }
    }

    /// What its blocks hold.
    #[must_use]
    pub fn object_type(&self) -> ObjectType {
        self.state.lock().object_type
    }

    /// Data block size in bytes.
    #[must_use]
    pub fn block_size(&self) -> u32 {
        self.state.lock().block_size
    }

    /// Space used on disk, in bytes, as of the last sync.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.state.lock().phys.used_bytes()
    }

    /// Space used on disk as of the last sync and the data block size, both in bytes, and slots of 512 bytes: what `stat` asks for.
    #[must_use]
    pub fn usage(&self) -> (u64, u32, u8) {
        let state = self.state.lock();
        (state.phys.used_bytes(), state.block_size, state.phys.slots)
    }

    /// Whether the object was freed (a handle may outlive its object).
    #[must_use]
    pub fn is_freed(&self) -> bool {
        self.state.lock().freed
    }

    /// Whether it has changes that are not on disk.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.state.lock().slots.iter().any(Option::is_some)
    }

    pub(crate) fn tree(&self, state: &State) -> Tree {
        Tree::new(self.core.id, self.object, &state.phys)
    }

    pub(crate) fn bookmark(&self, level: i64, blkid: u64) -> Bookmark {
        Bookmark { objset: self.core.id, object: self.object, level, blkid }
    }

    /// The slot of `tx`'s txg, entering this dnode among the dirty ones of that txg if it is the first change.
    pub(crate) fn slot<'a>(self: &Arc<Self>, state: &'a mut State, tx: &Tx) -> Result<&'a mut Slot> {
        if state.freed {
            return Err(Error::NotFound);
        }
        let txg = tx.txg();
        let i = slot_of(txg);
        if state.slots[i].is_none() {
            state.slots[i] = Some(Box::new(Slot { txg, ..Slot::default() }));
            state.newest = state.newest.max(txg);
            if let Owner::Objset(objset) = &self.owner {
                self.core.add_dirty_dnode(tx, objset, self);
                self.core.txgs.add_dirty(txg, DNODE_COST);
            }
        }
        let slot = state.slots[i].as_mut().expect("it was just made");
        assert_eq!(slot.txg, txg, "the slot of an older txg was not emptied by its sync");
        Ok(slot)
    }

    /// The bonus.
    #[must_use]
    pub fn bonus(&self) -> Bytes {
        self.state.lock().bonus.clone()
    }

    /// Replaces the bonus. [`crate::Error::TooBig`] if it does not fit beside the block pointers and the spill pointer.
    pub fn set_bonus(self: &Arc<Self>, tx: &Tx, bonus_type: ObjectType, bonus: &[u8]) -> Result<()> {
        let mut state = self.state.lock();
        if bonus.len() > room_for_bonus(&state.phys, state.has_spill()) {
            return Err(Error::TooBig);
        }
        let bonus = Bytes::copy_from_slice(bonus);
        self.slot(&mut state, tx)?.bonus = Some((bonus_type, bonus.clone()));
        // It is the newest one, though its txg may be older: what a newer txg writes must not be without it.
        for newer in state.newer_than(tx.txg()).filter(|newer| newer.bonus.is_some()) {
            newer.bonus = Some((bonus_type, bonus.clone()));
        }
        state.bonus_type = bonus_type;
        state.bonus = bonus;
        Ok(())
    }

    /// Room for a bonus, in bytes, with or without a spill block pointer behind it.
    #[must_use]
    pub fn max_bonus(&self, with_spill: bool) -> usize {
        room_for_bonus(&self.state.lock().phys, with_spill)
    }

    /// The pointer to its spill block as of the last sync; a hole if there is none.
    #[must_use]
    pub fn spill_pointer(&self) -> Blkptr {
        self.state.lock().phys.spill.unwrap_or(Blkptr::HOLE)
    }

    /// The spill block.
    pub fn spill(&self) -> Result<Option<Bytes>> {
        loop {
            let bp = {
                let state = self.state.lock();
                if let Some(dirty) = state.dirty_spill() {
                    return Ok(dirty.clone());
                }
                match state.phys.spill {
                    None => return Ok(None),
                    Some(bp) => bp,
                }
            };
            match self.core.zio.read(&bp, self.bookmark(0, u64::MAX)) {
                Ok(data) => return Ok(Some(data)),
                Err(_) if self.state.lock().phys.spill != Some(bp) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes the spill block; it is padded with zeros to a multiple of 512 bytes (at most 128 KiB).
    /// [`crate::Error::TooBig`] if it is larger, or if the bonus leaves no room for the pointer.
    pub fn set_spill(self: &Arc<Self>, tx: &Tx, data: &[u8]) -> Result<()> {
        let size = data.len().max(1).next_multiple_of(512);
        let mut state = self.state.lock();
        if size > MAX_SPILL || state.bonus.len() > room_for_bonus(&state.phys, true) {
            return Err(Error::TooBig);
        }
        let mut block = Vec::with_capacity(size);
        block.extend_from_slice(data);
        block.resize(size, 0);
        let new = self.replace_spill(&mut state, tx, Some(Bytes::from(block)))?;
        drop(state);
        if new {
            self.core.txgs.add_dirty_block(tx.txg(), size as u64);
        }
        Ok(())
    }

    /// Removes the spill block.
    pub fn remove_spill(self: &Arc<Self>, tx: &Tx) -> Result<()> {
        let mut state = self.state.lock();
        if state.has_spill() {
            self.replace_spill(&mut state, tx, None)?;
        }
        Ok(())
    }

    /// Sets what becomes of the spill block; whether that is the first change of it in `tx`'s txg. Like the bonus it is the newest one.
    fn replace_spill(self: &Arc<Self>, state: &mut State, tx: &Tx, spill: Option<Bytes>) -> Result<bool> {
        let new = self.slot(state, tx)?.spill.replace(spill.clone()).is_none();
        for newer in state.newer_than(tx.txg()).filter(|newer| newer.spill.is_some()) {
            newer.spill = Some(spill.clone());
        }
        Ok(new)
    }

    /// Changes the data block size, in bytes: only while there is at most block 0.
    pub fn set_block_size(self: &Arc<Self>, tx: &Tx, block_size: u32) -> Result<()> {
        if block_size == 0 || !block_size.is_multiple_of(512) || block_size > 16 << 20 {
            return Err(Error::Invalid("block size is not a multiple of 512 up to 16 MiB"));
        }
        loop {
            let (old, seq) = {
                let mut state = self.state.lock();
                if state.block_size == block_size {
                    return Ok(());
                }
                if state.maxblkid > 0 {
                    return Err(Error::Invalid("the block size can change only while there is one block"));
                }
                let old = match state.source(0) {
                    Source::Dirty(buf) => Some(buf.share()),
                    Source::Zero => None,
                    source => {
                        let cloned = matches!(source, Source::Cloned(_));
                        let tree = self.tree(&state);
                        let seq = state.seq;
                        drop(state);
                        let there = cloned || !tree.lookup(&self.core.zio, 0, 0)?.is_hole();
                        let old = if there { Some(self.read_block(0)?) } else { None };
                        state = self.state.lock();
                        if state.seq != seq {
                            continue;
                        }
                        old
                    }
                };
                (old, state.seq)
            };
            // A block of another size must be rewritten, or the pointer to it would contradict the dnode.
            let resized = old.map(|data| {
                let mut block = Vec::with_capacity(block_size as usize);
                block.extend_from_slice(&data[..data.len().min(block_size as usize)]);
                block.resize(block_size as usize, 0);
                block
            });
            let mut state = self.state.lock();
            if state.seq != seq {
                continue;
            }
            let slot = self.slot(&mut state, tx)?;
            slot.block_size = Some(block_size);
            slot.drop_clones(0..1);
            if let Some(block) = resized {
                let before = slot.blocks.insert(0, crate::dmu::dirty::Buf::Owned(block));
                // Growing a dirty block step by step counts once.
                let counted = before.map_or(0, |b| b.as_slice().len() as u64);
                self.core.txgs.add_dirty(tx.txg(), u64::from(block_size).saturating_sub(counted));
            }
            state.block_size = block_size;
            state.seq += 1;
            return Ok(());
        }
    }

    /// Changes the object type (used when an object is reused).
    pub fn set_type(self: &Arc<Self>, tx: &Tx, object_type: ObjectType) -> Result<()> {
        let mut state = self.state.lock();
        self.slot(&mut state, tx)?.object_type = Some(object_type);
        state.object_type = object_type;
        Ok(())
    }

    /// Overrides checksum and compression for this object's data, by their numbers on disk; 0 inherits.
    pub fn set_policy(self: &Arc<Self>, tx: &Tx, checksum: u8, compress: u8) -> Result<()> {
        let mut state = self.state.lock();
        self.slot(&mut state, tx)?.policy = Some((checksum, compress));
        (state.checksum, state.compress) = (checksum, compress);
        Ok(())
    }

    /// Marks the object freed in `tx`'s txg.
    pub(crate) fn mark_free(self: &Arc<Self>, tx: &Tx) -> Result<()> {
        let mut state = self.state.lock();
        let slot = self.slot(&mut state, tx)?;
        slot.free = true;
        slot.blocks.clear();
        slot.drop_clones(0..u64::MAX);
        state.freed = true;
        state.seq += 1;
        Ok(())
    }

    /// After a sync: `phys` is on disk, the changes of `txg` are in it.
    pub(crate) fn install(&self, txg: u64, phys: DnodePhys) {
        let mut state = self.state.lock();
        state.phys = phys;
        let done = state.slots[slot_of(txg)].take();
        drop(state);
        // Freeing megabytes of buffers is no work to do under the lock.
        drop(done);
    }

    /// Makes an object of a dnode that stands outside the array of objects and was free until now.
    pub(crate) fn revive(&self, phys: DnodePhys) {
        *self.state.lock() = State::new(phys);
    }

    /// Drops the slot of `txg` without installing anything (an object that never came to the disk).
    pub(crate) fn discard(&self, txg: u64) {
        let done = self.state.lock().slots[slot_of(txg)].take();
        drop(done);
    }
}

fn room_for_bonus(phys: &DnodePhys, with_spill: bool) -> usize {
    let pointers = usize::from(phys.nblkptr) + usize::from(with_spill);
    usize::from(phys.slots) * DNODE_SIZE - DNODE_CORE_SIZE - pointers * BLKPTR_SIZE
}
