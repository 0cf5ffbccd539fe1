//! Writing a txg of an objset: data blocks, indirect blocks level by level, the meta-dnode, the root.
//! Source: `dmu_objset_sync`, `dnode_sync` (`dnode_sync.c`), `dbuf_sync_*`.
//!
//! All dirty dnodes advance together, so that the I/O engine gets large batches to compress in parallel and to issue
//! at once. The order of writes, and so of allocations, is: by object, then by block id, then by level.
//!
//! A block's pointer is known as soon as its write is issued, so that a level does not wait for the one below it. What is waited for is
//! that blocks are on disk before others can see their pointers: once before the dnodes are installed, and once at the end.

use crate::compress::Compression;
use crate::dmu::objects::BlockMap;
use crate::dmu::objset::Settings;
use crate::dmu::policy::{Kind, policy};
use crate::dmu::syncnode::SyncNode;
use crate::dmu::tx::slot_of;
use crate::dmu::{Accounting, Dnode, Objset, SyncContext};
use crate::error::{Error, Result};
use crate::ondisk::blkptr::Blkptr;
use crate::ondisk::bookmark::Bookmark;
use crate::ondisk::dnode::{DNODE_SIZE, DNODES_PER_BLOCK};
use crate::ondisk::object_type::ObjectType;
use crate::ondisk::objset::FLAGS_ACCOUNTING_COMPLETE;
use crate::zio::{BlocksInFlight, Write};
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;
use core::sync::atomic::Ordering;

/// A batch of writes is issued when it holds that many bytes, …
const BATCH: usize = 4 << 20;
/// … and the oldest batches are waited for when more than that are under way.
const IN_FLIGHT_MAX: usize = 32 << 20;

/// One sync of one objset.
pub(crate) struct Sync<'a> {
    pub(crate) objset: &'a Objset,
    pub(crate) ctx: &'a SyncContext<'a>,
    pub(crate) settings: Settings,
    /// What is accounted for by owner, if that is.
    pub(crate) accounting: Option<Accounting>,
}

/// Where a written block's pointer goes.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    Block { level: u8, blkid: u64 },
    Spill,
}

/// Writes on their way, with the places that wait for their pointers.
#[derive(Default)]
struct Batch {
    writes: Vec<Write>,
    places: Vec<(usize, Place)>,
    bytes: usize,
}

impl Batch {
    fn push(&mut self, node: usize, place: Place, write: Write) {
        self.bytes += write.data.len();
        self.writes.push(write);
        self.places.push((node, place));
    }
}

/// Batches that were issued, oldest first.
#[derive(Default)]
struct Pipeline {
    batches: VecDeque<Issued>,
    bytes: usize,
}

struct Issued {
    blocks: BlocksInFlight,
    /// Bytes of all blocks, and of those that are data.
    bytes: usize,
    data: u64,
}

impl Pipeline {
    fn push(&mut self, blocks: BlocksInFlight, bytes: usize, data: u64) {
        self.batches.push_back(Issued { blocks, bytes, data });
        self.bytes += bytes;
    }
}

/// See [`Objset::sync`].
pub(crate) fn sync(objset: &Arc<Objset>, ctx: &SyncContext<'_>) -> Result<Blkptr> {
    let hook = objset.hook.lock().clone();
    if let Some(hook) = hook {
        hook.syncing(objset, ctx)?;
    }
    let (dirty, zil_header, touched) = {
        let slot = &objset.core.slots.lock()[slot_of(ctx.txg)];
        let dirty: Vec<Arc<Dnode>> = slot.dnodes.values().cloned().collect();
        (dirty, slot.zil_header, slot.touched)
    };
    if dirty.is_empty() && !touched {
        return Ok(objset.root());
    }
    let encrypted = objset.root().uses_crypt();
    if encrypted && !dirty.is_empty() {
        return Err(Error::KeyNotLoaded);
    }
    let accounting = objset.accounting_rules().filter(|_| !encrypted);
    let sync = Sync { objset, ctx, settings: objset.settings(), accounting };
    let mut nodes = Vec::with_capacity(dirty.len());
    for dnode in dirty {
        nodes.push(SyncNode::prepare(&sync, dnode)?);
    }
    let mut pipeline = Pipeline::default();
    sync.write_nodes(&mut nodes, &mut pipeline)?;
    if sync.accounting.is_some() && nodes.iter().any(|node| node.phys.spill.is_some()) {
        // Owners may stand in spill blocks.
        sync.wait(&mut pipeline, 0)?;
    }
    let mut accounts = sync.account(&nodes)?;
    sync.write_nodes(&mut accounts, &mut pipeline)?;
    let blocks = sync.patch_dnode_blocks(&nodes)?;
    sync.wait(&mut pipeline, 0)?;
    let root = sync.write_meta(nodes, blocks, accounts, zil_header)?;
    // Only now may dirty dnodes be forgotten: what they were is found below the new root.
    let done = core::mem::take(&mut objset.core.slots.lock()[slot_of(ctx.txg)]);
    drop(done);
    Ok(root)
}

impl Sync<'_> {
    fn write_nodes(&self, nodes: &mut [SyncNode], pipeline: &mut Pipeline) -> Result<()> {
        let mut batch = Batch::default();
        for i in 0..nodes.len() {
            for (blkid, data) in core::mem::take(&mut nodes[i].blocks) {
                let place = Place::Block { level: 0, blkid };
                if let Some(bp) = nodes[i].placed.remove(&blkid) {
                    nodes[i].install(self, place, bp, None)?;
                    continue;
                }
                let write = self.data_write(&nodes[i], blkid, data)?;
                batch.push(i, place, write);
                if batch.bytes >= BATCH {
                    self.issue(nodes, &mut batch, pipeline)?;
                }
            }
            for (blkid, bp) in core::mem::take(&mut nodes[i].cloned) {
                let bp = if bp.is_hole() { nodes[i].hole(self, 0) } else { bp };
                nodes[i].install(self, Place::Block { level: 0, blkid }, bp, None)?;
            }
            if let Some(data) = nodes[i].spill.take() {
                let write = self.spill_write(&nodes[i], data)?;
                batch.push(i, Place::Spill, write);
            }
        }
        self.issue(nodes, &mut batch, pipeline)?;
        let levels = nodes.iter().map(|n| n.phys.nlevels).max().unwrap_or(1);
        for level in 1..levels {
            for i in 0..nodes.len() {
                for (blkid, data) in nodes[i].take_indirects(level) {
                    match self.indirect_write(&nodes[i], level, blkid, data)? {
                        Some(write) => batch.push(i, Place::Block { level, blkid }, write),
                        None => {
                            let hole = nodes[i].hole(self, level);
                            nodes[i].install(self, Place::Block { level, blkid }, hole, None)?;
                        }
                    }
                    if batch.bytes >= BATCH {
                        self.issue(nodes, &mut batch, pipeline)?;
                    }
                }
            }
            self.issue(nodes, &mut batch, pipeline)?;
        }
        Ok(())
    }

    fn issue(&self, nodes: &mut [SyncNode], batch: &mut Batch, pipeline: &mut Pipeline) -> Result<()> {
        let Batch { writes, places, bytes } = core::mem::take(batch);
        if writes.is_empty() {
            return Ok(());
        }
        let data = writes.iter().filter(|w| w.policy.level == 0).map(|w| w.data.len() as u64).sum();
        let offered: Vec<Option<Blkptr>> = writes.iter().map(|w| w.rewrite).collect();
        let (bps, blocks) = self.objset.core.zio.start_writes(self.ctx.alloc, self.ctx.txg, writes)?;
        pipeline.push(blocks, bytes, data);
        for ((&(node, place), bp), rewrite) in places.iter().zip(bps).zip(offered) {
            nodes[node].install(self, place, bp, rewrite)?;
        }
        self.wait(pipeline, IN_FLIGHT_MAX)
    }

    /// Waits until no more than `most` bytes are under way.
    fn wait(&self, pipeline: &mut Pipeline, most: usize) -> Result<()> {
        while pipeline.bytes > most
            && let Some(Issued { blocks, bytes, data }) = pipeline.batches.pop_front()
        {
            pipeline.bytes -= bytes;
            self.objset.core.zio.finish_writes(self.ctx.alloc, self.ctx.txg, blocks)?;
            self.objset.core.txgs.wrote(self.ctx.txg, data);
        }
        Ok(())
    }

    fn data_write(&self, node: &SyncNode, blkid: u64, data: Bytes) -> Result<Write> {
        let phys = &node.phys;
        let fill = if phys.object_type == ObjectType::DNODE {
            u64::from(BlockMap::of(&data).heads.count_ones())
        } else {
            1
        };
        let kind =
            Kind { checksum: phys.checksum, compress: phys.compress, ..Kind::new(phys.object_type, 0) };
        Ok(Write {
            data,
            policy: policy(&self.settings, self.ctx.pass, kind, fill)?,
            at: node.dnode.bookmark(0, blkid),
            rewrite: self.rewritable(node.get(0, blkid)),
        })
    }

    fn spill_write(&self, node: &SyncNode, data: Bytes) -> Result<Write> {
        let kind = Kind { spill: true, ..Kind::new(node.phys.bonus_type, 0) };
        Ok(Write {
            data,
            policy: policy(&self.settings, self.ctx.pass, kind, 1)?,
            at: node.dnode.bookmark(0, u64::MAX),
            rewrite: self.rewritable(node.phys.spill.unwrap_or(Blkptr::HOLE)),
        })
    }

    /// `None` if the block would hold nothing but holes: then it is one itself.
    fn indirect_write(&self, node: &SyncNode, level: u8, blkid: u64, data: Vec<u8>) -> Result<Option<Write>> {
        let (count, fill) = Blkptr::present(&data)
            .fold((0u64, 0u64), |(n, fill), (_, bp)| (n + 1, fill.wrapping_add(bp.fill())));
        if count == 0 {
            return Ok(None);
        }
        let kind = Kind::new(node.phys.object_type, level);
        Ok(Some(Write {
            data: Bytes::from(data),
            policy: policy(&self.settings, self.ctx.pass, kind, fill)?,
            at: node.dnode.bookmark(i64::from(level), blkid),
            rewrite: self.rewritable(node.get(level, blkid)),
        }))
    }

    /// A block of this very txg can be written over: nothing on disk refers to it yet.
    fn rewritable(&self, old: Blkptr) -> Option<Blkptr> {
        let ours = !old.is_hole() && !old.is_embedded() && !old.is_gang() && old.birth() == self.ctx.txg;
        (ours && self.ctx.pass >= crate::dmu::policy::PASS_REWRITE).then_some(old)
    }

    /// The meta-dnode's blocks with the new dnodes in them, by block id.
    fn patch_dnode_blocks(&self, nodes: &[SyncNode]) -> Result<Vec<(u64, Bytes)>> {
        let mut ids: Vec<u64> = nodes.iter().map(|n| n.dnode.object() / DNODES_PER_BLOCK).collect();
        ids.dedup();
        let old = self.objset.meta.read_blocks(&ids)?;
        let mut blocks: Vec<(u64, Vec<u8>)> =
            ids.iter().copied().zip(old.into_iter().map(|b| b.to_vec())).collect();
        let mut at = 0;
        for node in nodes {
            let object = node.dnode.object();
            while blocks[at].0 != object / DNODES_PER_BLOCK {
                at += 1;
            }
            let start = (object % DNODES_PER_BLOCK) as usize * DNODE_SIZE;
            let slots = &mut blocks[at].1[start..start + usize::from(node.phys.slots) * DNODE_SIZE];
            if node.free { slots.fill(0) } else { node.phys.emit(slots) }
        }
        Ok(blocks.into_iter().map(|(id, block)| (id, Bytes::from(block))).collect())
    }

    /// Writes the meta-dnode's tree and the root, and lets everybody see the new state.
    fn write_meta(
        &self,
        nodes: Vec<SyncNode>,
        blocks: Vec<(u64, Bytes)>,
        accounts: Vec<SyncNode>,
        zil_header: Option<[u8; crate::ondisk::objset::ZIL_HEADER_SIZE]>,
    ) -> Result<Blkptr> {
        let (objset, txg) = (self.objset, self.ctx.txg);
        let meta = &objset.meta;
        {
            // Numbers become free in the same moment in which the blocks show them as free: a map that is read
            // from the blocks is never cleared afterwards.
            let mut alloc = objset.alloc.lock();
            meta.insert_synced_blocks(txg, blocks);
            for node in nodes.iter().filter(|n| n.free) {
                alloc.release(node.dnode.object(), node.phys.slots);
            }
        }
        objset.generation.fetch_add(1, Ordering::SeqCst);
        for node in nodes {
            if node.free {
                node.dnode.discard(txg);
            } else {
                node.dnode.install(txg, node.phys);
            }
        }
        let mut pipeline = Pipeline::default();
        let mut meta_node = [SyncNode::prepare(self, Arc::clone(meta))?];
        self.write_nodes(&mut meta_node, &mut pipeline)?;
        let [SyncNode { phys, .. }] = meta_node;
        let (mut root, old) = {
            let state = objset.root.lock();
            (state.phys.clone(), state.bp)
        };
        root.meta_dnode = phys;
        match self.accounting {
            // In a new objset all is counted from the start. Where it was not, OpenZFS counts when it next mounts.
            Some(accounting) if old.is_hole() => root.flags |= accounting.objset_flags(),
            Some(_) => {}
            // The flags of an encrypted dataset are authenticated.
            None if old.uses_crypt() => {}
            None => root.flags &= !FLAGS_ACCOUNTING_COMPLETE,
        }
        for (index, account) in objset.accounts.iter().enumerate() {
            if let Some(node) = accounts.iter().find(|n| n.dnode.object() == account.object()) {
                root.set_accounting_dnode(index, &node.phys);
            }
        }
        if let Some(header) = zil_header {
            root.zil_header = header;
        }
        let new = self.write_root(&root, old, &mut pipeline)?;
        self.wait(&mut pipeline, 0)?;
        meta.install(txg, root.meta_dnode.clone());
        accounts.into_iter().for_each(|SyncNode { dnode, phys, .. }| dnode.install(txg, phys));
        let mut state = objset.root.lock();
        state.bp = new;
        state.phys = root;
        Ok(new)
    }

    fn write_root(
        &self,
        root: &crate::ondisk::objset::ObjsetPhys,
        old: Blkptr,
        pipeline: &mut Pipeline,
    ) -> Result<Blkptr> {
        let core = &self.objset.core;
        let fill = root.meta_dnode.blkptrs.iter().filter(|bp| !bp.is_hole()).map(Blkptr::fill).sum();
        let kind = Kind::new(ObjectType::OBJSET, 0);
        let rewrite = self.rewritable(old);
        let mut policy = policy(&self.settings, self.ctx.pass, kind, fill)?;
        if old.uses_crypt() {
            // Who has no key reads authenticated roots as they lie on disk, past decompression.
            policy.authenticated = true;
            policy.compression = Compression::Off;
        }
        let write =
            Write { data: Bytes::from(root.emit()), policy, at: Bookmark::objset_root(core.id), rewrite };
        let bytes = write.data.len();
        let (bps, blocks) = core.zio.start_writes(self.ctx.alloc, self.ctx.txg, alloc::vec![write])?;
        pipeline.push(blocks, bytes, 0);
        let new = bps[0];
        if !rewritten(rewrite, &new) {
            if !old.is_hole() {
                self.ctx.owner.killed(&old);
            }
            self.ctx.owner.born(&new);
        }
        Ok(new)
    }
}

/// Whether a write that was offered `rewrite` took that place.
pub(crate) fn rewritten(rewrite: Option<Blkptr>, new: &Blkptr) -> bool {
    rewrite.is_some_and(|old| !new.is_hole() && !new.is_embedded() && old.dva(0) == new.dva(0))
}
