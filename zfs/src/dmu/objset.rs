//! Objsets: the arrays of objects. Source: `dmu_objset.c`, `dmu_object.c`.

use crate::arc::PrimaryCache;
use crate::checksum::Checksum;
use crate::compress::Compression;
use crate::dmu::accounting::{self, Accounting};
use crate::dmu::dnode::Owner;
use crate::dmu::objects::{AllocState, BlockMap};
use crate::dmu::tx::{SpaceCheck, TXG_SIZE, Tx, Txgs, slot_of};
use crate::dmu::{Dnode, SyncContext};
use crate::error::{Error, Result};
use crate::ondisk::blkptr::{BLKPTR_SIZE, Blkptr};
use crate::ondisk::bookmark::Bookmark;
use crate::ondisk::dnode::{
    self, DEFAULT_INDBLKSHIFT, DNODE_BLOCK_SIZE, DNODE_SIZE, DNODES_PER_BLOCK, DnodePhys, MAX_NBLKPTR,
    MAX_OBJECT,
};
use crate::ondisk::object_type::ObjectType;
use crate::ondisk::objset::{ObjsetKind, ObjsetPhys, ZIL_HEADER_SIZE};
use crate::zio::Zio;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use bytes::Bytes;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use hashbrown::HashMap;
use platform::sync::Mutex;

/// Which metadata gets one more copy (property `redundant_metadata`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedundantMetadata {
    /// All.
    All,
    /// Indirect blocks from level 2 on, and critical metadata.
    Most,
    /// Critical metadata.
    Some,
    /// None.
    None,
}

/// How the blocks of an objset are written; changed by properties, used at sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Checksum of data; metadata uses it too if it is strong enough, else fletcher4.
    pub checksum: Checksum,
    /// Compression of data; metadata is compressed with lz4.
    pub compression: Compression,
    /// Copies of data; metadata gets one more as `redundant_metadata` says, at most 3.
    pub copies: u8,
    /// Which metadata gets the extra copy.
    pub redundant_metadata: RedundantMetadata,
    /// File data of that many bytes or less goes to special vdevs (property `special_small_blocks`).
    pub special_small: u64,
    /// Small blocks may live in their pointers (feature embedded_data).
    pub embedded_data: bool,
    /// Holes carry their birth txg (feature hole_birth).
    pub hole_birth: bool,
    /// Metadata may be compressed with lz4 (feature lz4_compress); else lzjb.
    pub lz4: bool,
    /// Space by user and group is accounted for; `None` in pools that are too old for it.
    pub accounting: Option<Accounting>,
    /// What the cache keeps of it (property `primarycache`).
    pub primary_cache: PrimaryCache,
}

impl Settings {
    /// What an objset of that kind starts with: the MOS keeps three copies of everything.
    #[must_use]
    pub fn default_of(kind: ObjsetKind) -> Self {
        Settings {
            checksum: Checksum::Fletcher4,
            compression: Compression::Lz4,
            copies: if kind == ObjsetKind::Meta { 3 } else { 1 },
            redundant_metadata: RedundantMetadata::All,
            special_small: 0,
            embedded_data: true,
            hole_birth: true,
            lz4: true,
            accounting: None,
            primary_cache: PrimaryCache::All,
        }
    }
}

/// What to allocate.
#[derive(Debug, Clone, Copy)]
pub struct Allocate {
    /// What its blocks hold.
    pub object_type: ObjectType,
    /// Data block size in bytes, a multiple of 512; 0 means 512.
    pub block_size: u32,
    /// What the bonus holds.
    pub bonus_type: ObjectType,
    /// Length of the bonus in bytes, which starts as zeros.
    pub bonus_len: u16,
    /// Slots of 512 bytes for the dnode: 1, 2, 4, 8, 16 or 32; 0 means 1.
    pub slots: u8,
    /// Base-2 logarithm of the indirect block size; 0 means 17.
    pub indirect_shift: u8,
}

impl Allocate {
    /// An object without a bonus.
    #[must_use]
    pub fn plain(object_type: ObjectType, block_size: u32) -> Self {
        Allocate {
            object_type,
            block_size,
            bonus_type: ObjectType::NONE,
            bonus_len: 0,
            slots: 1,
            indirect_shift: 0,
        }
    }
}

/// Called by [`Objset::sync`]: the intent log's part of a txg.
pub trait SyncHook: Send + Sync {
    /// Before anything of `ctx.txg` is written; may call [`Objset::set_zil_header`] with a syncing tx.
    fn syncing(&self, objset: &Arc<Objset>, ctx: &SyncContext<'_>) -> Result<()>;
}

/// What the dnodes of an objset share with it.
pub(crate) struct Core {
    pub(crate) id: u64,
    pub(crate) zio: Arc<Zio>,
    pub(crate) txgs: Arc<Txgs>,
    pub(crate) settings: Mutex<Settings>,
    /// What is dirty, by txg.
    pub(crate) slots: Mutex<[ObjsetSlot; TXG_SIZE]>,
}

/// What is dirty in one txg.
#[derive(Default)]
pub(crate) struct ObjsetSlot {
    pub(crate) dnodes: BTreeMap<u64, Arc<Dnode>>,
    pub(crate) zil_header: Option<[u8; ZIL_HEADER_SIZE]>,
    /// The objset itself is new, or its header changed.
    pub(crate) touched: bool,
    /// Known to the txgs as dirty.
    registered: bool,
}

impl ObjsetSlot {
    pub(crate) fn is_dirty(&self) -> bool {
        self.touched || !self.dnodes.is_empty()
    }
}

impl Core {
    pub(crate) fn add_dirty_dnode(&self, tx: &Tx, objset: &Arc<Objset>, dnode: &Arc<Dnode>) {
        let register = {
            let slot = &mut self.slots.lock()[slot_of(tx.txg())];
            slot.dnodes.insert(dnode.object(), Arc::clone(dnode));
            !core::mem::replace(&mut slot.registered, true)
        };
        if register {
            self.register(tx, objset);
        }
    }

    /// The MOS is synced by its pool anyway; all others are handed to the sync thread.
    fn register(&self, tx: &Tx, objset: &Arc<Objset>) {
        if objset.kind != ObjsetKind::Meta {
            self.txgs.add_objset(tx.txg(), Arc::clone(objset));
        }
    }
}

/// The root block, under its lock.
pub(crate) struct Root {
    pub(crate) bp: Blkptr,
    pub(crate) phys: ObjsetPhys,
    /// The newest ZIL header.
    pub(crate) zil_header: [u8; ZIL_HEADER_SIZE],
}

/// An array of objects.
pub struct Objset {
    pub(crate) core: Arc<Core>,
    kind: ObjsetKind,
    pub(crate) meta: Arc<Dnode>,
    /// The accounts by user, group and project, as many as the root block has room for.
    pub(crate) accounts: Vec<Arc<Dnode>>,
    /// Dnodes that somebody holds. Entries of dead ones are swept now and then.
    dnodes: Mutex<Dnodes>,
    pub(crate) root: Mutex<Root>,
    pub(crate) alloc: Mutex<AllocState>,
    /// Counts changes of the meta-dnode's blocks: who has read a dnode without a lock sees whether it is current.
    pub(crate) generation: AtomicU64,
    check: Mutex<Option<Arc<dyn SpaceCheck>>>,
    pub(crate) hook: Mutex<Option<Arc<dyn SyncHook>>>,
    large_dnodes: AtomicBool,
    long_names: AtomicBool,
}

#[derive(Default)]
struct Dnodes {
    held: HashMap<u64, Weak<Dnode>>,
    /// Sweep when there are that many entries.
    sweep_at: usize,
}

impl Dnodes {
    fn get(&self, object: u64) -> Option<Arc<Dnode>> {
        self.held.get(&object).and_then(Weak::upgrade)
    }

    fn insert(&mut self, dnode: &Arc<Dnode>) {
        if self.held.len() >= self.sweep_at {
            self.held.retain(|_, d| d.strong_count() > 0);
            self.sweep_at = (self.held.len() * 2).max(1024);
        }
        self.held.insert(dnode.object(), Arc::downgrade(dnode));
    }
}

impl Objset {
    fn assemble(
        zio: Arc<Zio>,
        txgs: Arc<Txgs>,
        id: u64,
        bp: Blkptr,
        phys: ObjsetPhys,
    ) -> Result<Arc<Objset>> {
        let accounts = phys.accounting_dnodes()?;
        let kind = phys.kind;
        let core = Arc::new(Core {
            id,
            zio,
            txgs,
            settings: Mutex::new(Settings::default_of(kind)),
            slots: Mutex::default(),
        });
        Ok(Arc::new_cyclic(|weak| {
            let accounts = accounting::dnodes(weak, &core, accounts);
            let owner = Owner::Meta(Weak::clone(weak));
            let meta = Dnode::new(owner, Arc::clone(&core), 0, phys.meta_dnode.clone());
            Objset {
                core,
                kind,
                meta: Arc::new(meta),
                accounts,
                dnodes: Mutex::default(),
                root: Mutex::new(Root { bp, zil_header: phys.zil_header, phys }),
                alloc: Mutex::default(),
                generation: AtomicU64::new(0),
                check: Mutex::new(None),
                hook: Mutex::new(None),
                large_dnodes: AtomicBool::new(false),
                long_names: AtomicBool::new(false),
            }
        }))
    }

    /// Opens the objset that `root` leads to. `id` is its dataset's object number, 0 of the MOS.
    pub fn open(zio: Arc<Zio>, txgs: Arc<Txgs>, id: u64, root: Blkptr) -> Result<Arc<Objset>> {
        let at = Bookmark::objset_root(id);
        if root.is_hole() {
            return Err(Error::corrupt("objset: its root is a hole", at));
        }
        let block = zio.read(&root, at)?;
        let phys = ObjsetPhys::parse(&Bytes::copy_from_slice(&block), Some(at))?;
        Self::assemble(zio, txgs, id, root, phys)
    }

    /// A new, empty objset; it is on disk after the next [`Objset::sync`] of `tx`'s txg.
    pub fn create(zio: Arc<Zio>, txgs: Arc<Txgs>, id: u64, kind: ObjsetKind, tx: &Tx) -> Result<Arc<Objset>> {
        let mut meta = new_dnode(&Allocate::plain(ObjectType::DNODE, DNODE_BLOCK_SIZE as u32))?;
        meta.nblkptr = MAX_NBLKPTR as u8;
        // As many levels as the largest object number needs: the meta-dnode never grows.
        meta.nlevels = meta.levels_for(MAX_OBJECT / DNODES_PER_BLOCK - 1);
        let phys = ObjsetPhys::new(kind, meta);
        let objset = Self::assemble(zio, txgs, id, Blkptr::HOLE, phys)?;
        objset.touch(tx, |_| ());
        Ok(objset)
    }

    /// The dataset's object number; 0 of the MOS.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.core.id
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> ObjsetKind {
        self.kind
    }

    /// The root as last synced; [`Blkptr::HOLE`] of an objset that never was.
    #[must_use]
    pub fn root(&self) -> Blkptr {
        self.root.lock().bp
    }

    /// The I/O engine.
    #[must_use]
    pub fn zio(&self) -> &Arc<Zio> {
        &self.core.zio
    }

    /// The pool's txgs.
    #[must_use]
    pub fn txgs(&self) -> &Arc<Txgs> {
        &self.core.txgs
    }

    /// How blocks are written.
    #[must_use]
    pub fn settings(&self) -> Settings {
        *self.core.settings.lock()
    }

    /// Changes how blocks are written, from the next sync on.
    pub fn set_settings(&self, settings: Settings) {
        self.set_primary_cache(settings.primary_cache);
        *self.core.settings.lock() = settings;
    }

    /// Says what the cache keeps of it, from now on: for an objset that is only read, and has no settings.
    pub fn set_primary_cache(&self, what: PrimaryCache) {
        self.core.zio.set_primary_cache(self.core.id, what);
    }

    /// Installs the dataset's own space check (quota), asked by [`Objset::begin`].
    pub fn set_space_check(&self, check: Option<Arc<dyn SpaceCheck>>) {
        *self.check.lock() = check;
    }

    /// Installs the hook that is called at the start of every sync of this objset.
    pub fn set_sync_hook(&self, hook: Option<Arc<dyn SyncHook>>) {
        *self.hook.lock() = hook;
    }

    /// [`Txgs::begin`] after the objset's own space check.
    pub fn begin(&self, reserve: u64) -> Result<Tx> {
        self.ask(reserve, false)?;
        self.core.txgs.begin(reserve)
    }

    /// [`Txgs::begin_net_free`] after the objset's own space check.
    pub fn begin_net_free(&self, reserve: u64) -> Result<Tx> {
        self.ask(reserve, true)?;
        self.core.txgs.begin_net_free(reserve)
    }

    fn ask(&self, reserve: u64, net_free: bool) -> Result<()> {
        if self.root().uses_crypt() {
            return Err(Error::unsupported("writing to an encrypted dataset"));
        }
        let check = self.check.lock().clone();
        check.map_or(Ok(()), |c| c.check(reserve, self.core.txgs.pending_bytes(), net_free))
    }

    /// The object. [`crate::Error::NotFound`] if there is none of that number.
    pub fn hold(self: &Arc<Self>, object: u64) -> Result<Arc<Dnode>> {
        if object == 0 || object >= MAX_OBJECT {
            return Err(Error::NotFound);
        }
        loop {
            let held = self.dnodes.lock().get(object);
            if let Some(dnode) = held {
                return if dnode.is_freed() { Err(Error::NotFound) } else { Ok(dnode) };
            }
            let generation = self.generation.load(Ordering::SeqCst);
            let phys = self.read_dnode(object)?;
            let mut dnodes = self.dnodes.lock();
            let held = dnodes.get(object);
            if held.is_some() || self.generation.load(Ordering::SeqCst) != generation {
                // Somebody else was faster, or a sync changed the block: look again (without the lock, as the
                // dnode that was just found may be dropped here).
                drop(dnodes);
                continue;
            }
            let owner = Owner::Objset(Arc::clone(self));
            let dnode = Arc::new(Dnode::new(owner, Arc::clone(&self.core), object, phys));
            dnodes.insert(&dnode);
            return Ok(dnode);
        }
    }

    fn read_dnode(&self, object: u64) -> Result<DnodePhys> {
        let (block, slot) = (object / DNODES_PER_BLOCK, (object % DNODES_PER_BLOCK) as usize);
        if block > self.meta.info().maxblkid {
            return Err(Error::NotFound);
        }
        let data = self.meta.read_block(block)?;
        // A slot inside a large dnode holds anything: only heads are dnodes.
        if BlockMap::of(&data).heads & 1 << slot == 0 {
            return Err(Error::NotFound);
        }
        DnodePhys::parse(&data, slot, Some(self.meta.bookmark(0, block)))
    }

    /// The object, which must be of that type ([`crate::Error::Corrupt`] if it is not).
    pub fn hold_typed(self: &Arc<Self>, object: u64, object_type: ObjectType) -> Result<Arc<Dnode>> {
        let dnode = self.hold(object)?;
        if dnode.object_type() == object_type {
            Ok(dnode)
        } else {
            Err(Error::corrupt("object of another type than its place asks for", dnode.bookmark(0, 0)))
        }
    }

    /// A new object at a number of the objset's choice.
    pub fn allocate(self: &Arc<Self>, tx: &Tx, what: &Allocate) -> Result<Arc<Dnode>> {
        let phys = new_dnode(what)?;
        let mut alloc = self.alloc.lock();
        let object = alloc.take(&self.meta, phys.slots)?;
        self.adopt(tx, object, phys)
    }

    /// A new object at the given number. [`crate::Error::Exists`] if the number is taken, [`crate::Error::Busy`] if
    /// it was freed and that is not yet on disk: wait for the txg and try again.
    pub fn claim(self: &Arc<Self>, tx: &Tx, object: u64, what: &Allocate) -> Result<Arc<Dnode>> {
        let phys = new_dnode(what)?;
        let mut alloc = self.alloc.lock();
        alloc.claim(&self.meta, object, phys.slots)?;
        self.adopt(tx, object, phys)
    }

    /// Enters a new object whose number was just taken; the allocator is still locked.
    fn adopt(self: &Arc<Self>, tx: &Tx, object: u64, phys: DnodePhys) -> Result<Arc<Dnode>> {
        if phys.slots > 1 {
            self.large_dnodes.store(true, Ordering::Relaxed);
        }
        let owner = Owner::Objset(Arc::clone(self));
        let dnode = Arc::new(Dnode::new(owner, Arc::clone(&self.core), object, phys));
        self.dnodes.lock().insert(&dnode);
        dnode.slot(&mut dnode.state.lock(), tx)?.allocated = true;
        Ok(dnode)
    }

    /// Frees an object and all of its blocks.
    pub fn free(self: &Arc<Self>, tx: &Tx, object: u64) -> Result<()> {
        let dnode = self.hold(object)?;
        let mut alloc = self.alloc.lock();
        dnode.mark_free(tx)?;
        alloc.freeing(&self.meta, object)
    }

    /// The first allocated (or, with `hole`, free) object number after `after`; `None` if there is no further one.
    pub fn next_object(self: &Arc<Self>, after: u64, hole: bool) -> Result<Option<u64>> {
        let mut object = after + 1;
        while object < MAX_OBJECT {
            let mut block = object / DNODES_PER_BLOCK;
            if !hole {
                match self.next_block(block)? {
                    None => return Ok(None),
                    Some(next) if next > block => {
                        block = next;
                        object = block * DNODES_PER_BLOCK;
                    }
                    Some(_) => {}
                }
            }
            let known = self.alloc.lock().known(block);
            let map = match known {
                Some(map) => map,
                None => BlockMap::of(&self.meta.read_block(block)?),
            };
            let mut bits = if hole { !map.used } else { map.heads & !map.freeing };
            if block == 0 {
                bits &= !1;
            }
            bits &= u32::MAX << (object % DNODES_PER_BLOCK);
            if bits != 0 {
                return Ok(Some(block * DNODES_PER_BLOCK + u64::from(bits.trailing_zeros())));
            }
            object = (block + 1) * DNODES_PER_BLOCK;
        }
        Ok(None)
    }

    /// The next block of dnodes that may hold objects, on disk or in memory.
    fn next_block(&self, from: u64) -> Result<Option<u64>> {
        let known = self.alloc.lock().next_known(from);
        let (tree, end) = {
            let state = self.meta.state.lock();
            (self.meta.tree(&state), state.maxblkid + 1)
        };
        let on_disk = self.meta.next_block(&tree, false, from, end)?;
        Ok([known, on_disk].into_iter().flatten().min())
    }

    /// Objects in use, as of the last sync.
    #[must_use]
    pub fn object_count(&self) -> u64 {
        let bp = self.root();
        bp.fill()
    }

    /// The meta-dnode.
    #[must_use]
    pub fn meta_dnode(&self) -> &Arc<Dnode> {
        &self.meta
    }

    /// The ZIL header as the last call of [`Objset::set_zil_header`] left it, else as on disk.
    #[must_use]
    pub fn zil_header(&self) -> [u8; ZIL_HEADER_SIZE] {
        self.root.lock().zil_header
    }

    /// Changes the ZIL header in `tx`'s txg.
    pub fn set_zil_header(self: &Arc<Self>, tx: &Tx, header: [u8; ZIL_HEADER_SIZE]) {
        self.root.lock().zil_header = header;
        self.touch(tx, |slot| slot.zil_header = Some(header));
    }

    /// Makes the objset dirty in `tx`'s txg.
    fn touch(self: &Arc<Self>, tx: &Tx, change: impl FnOnce(&mut ObjsetSlot)) {
        let register = {
            let slot = &mut self.core.slots.lock()[slot_of(tx.txg())];
            slot.touched = true;
            change(slot);
            !core::mem::replace(&mut slot.registered, true)
        };
        if register {
            self.core.register(tx, self);
            self.core.txgs.add_dirty(tx.txg(), DNODE_SIZE as u64);
        }
    }

    /// `OBJSET_FLAG_*`.
    #[must_use]
    pub fn flags(&self) -> u64 {
        self.root.lock().phys.flags
    }

    /// Whether anything is dirty in `txg`.
    #[must_use]
    pub fn is_dirty(&self, txg: u64) -> bool {
        self.core.slots.lock()[slot_of(txg)].is_dirty()
    }

    /// Whether any object ever allocated through this handle has a dnode larger than 512 bytes (feature large_dnode).
    #[must_use]
    pub fn has_large_dnodes(&self) -> bool {
        self.large_dnodes.load(Ordering::Relaxed)
    }

    /// A directory gets a name of more than 255 bytes: with the next sync the feature longname becomes active.
    pub fn note_long_name(&self) {
        self.long_names.store(true, Ordering::Relaxed);
    }

    /// Whether [`Objset::note_long_name`] was called.
    #[must_use]
    pub fn has_long_names(&self) -> bool {
        self.long_names.load(Ordering::Relaxed)
    }

    /// Writes everything that is dirty in `ctx.txg`, bottom-up; answers the new root (the old one if nothing was
    /// dirty). Births and deaths of blocks are told to `ctx.owner`, the root's own included.
    ///
    /// On an error the pool must not commit this txg.
    pub fn sync(self: &Arc<Self>, ctx: &SyncContext<'_>) -> Result<Blkptr> {
        crate::dmu::sync::sync(self, ctx)
    }
}

/// A dnode as [`Objset::allocate`] starts it. Source: `dnode_allocate`.
pub(crate) fn new_dnode(what: &Allocate) -> Result<DnodePhys> {
    let block_size = if what.block_size == 0 { 512 } else { what.block_size };
    let slots = what.slots.max(1);
    let shift = if what.indirect_shift == 0 { DEFAULT_INDBLKSHIFT } else { what.indirect_shift };
    let room = dnode::max_bonus_len(slots);
    if !block_size.is_multiple_of(512) || block_size > 16 << 20 {
        return Err(Error::Invalid("block size is not a multiple of 512 up to 16 MiB"));
    }
    if u64::from(slots) > DNODES_PER_BLOCK || !dnode::INDBLKSHIFT.contains(&shift) {
        return Err(Error::Invalid("dnode size or indirect block size out of range"));
    }
    if what.object_type == ObjectType::NONE || usize::from(what.bonus_len) > room {
        return Err(Error::Invalid("no object type, or a bonus that does not fit"));
    }
    // System attributes may fill the whole bonus later, so they leave one block pointer only.
    let nblkptr = if what.bonus_type == ObjectType::SA {
        1
    } else {
        MAX_NBLKPTR.min(1 + (room - usize::from(what.bonus_len)) / BLKPTR_SIZE)
    };
    Ok(DnodePhys {
        object_type: what.object_type,
        indblkshift: shift,
        nlevels: 1,
        nblkptr: nblkptr as u8,
        bonus_type: what.bonus_type,
        flags: dnode::FLAG_USED_BYTES,
        datablkszsec: u16::try_from(block_size / 512).expect("16 MiB are 32768 sectors"),
        slots,
        bonus: Bytes::from(alloc::vec![0; usize::from(what.bonus_len)]),
        ..DnodePhys::free()
    })
}
