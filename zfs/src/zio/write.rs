//! Writing: many blocks at once, which need not be waited for at once.

use super::{AllocateBlocks, Class, Write, WritePolicy, Zio};
use crate::arc::Key;
use crate::checksum::Salted;
use crate::error::{Error, Result};
use crate::ondisk::blkptr::{
    Blkptr, DVAS_PER_BP, Dva, EMBEDDED_PAYLOAD_SIZE, MAX_BLOCK_SIZE, MIN_BLOCK_SIZE,
};
use crate::ondisk::bookmark::Bookmark;
use crate::ondisk::object_type::ObjectType;
use crate::vdev::queue::{self, WriteExtent};
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;
use platform::parallel;

/// `ZIO_COMPRESS_OFF`.
const COMPRESS_OFF: u8 = 2;
/// Logical bytes that one job compresses: blocks are handed over in groups, as making a compressor ready has its cost,
/// but in several for each processor, as they end at different times.
const JOB: core::ops::RangeInclusive<usize> = 64 << 10..=1 << 20;
/// Less than that, in logical bytes, is compressed by the caller alone: to wake others takes as long.
const PARALLEL_FROM: usize = 256 << 10;

/// A block that is ready but for its address.
enum Prepared {
    /// Needs no space.
    Placed(Blkptr),
    /// Physical data with a pointer that lacks addresses.
    Block(Blkptr, Bytes),
}

/// What a call has allocated and will write.
#[derive(Default)]
pub(super) struct Allocated {
    /// Extents to give back if the call fails.
    pub(super) extents: Vec<Dva>,
    /// The I/O.
    pub(super) writes: Vec<WriteExtent>,
}

/// Blocks that were issued and not waited for: [`Zio::finish_writes`].
#[must_use]
pub struct BlocksInFlight {
    writes: queue::Writes,
    /// Extents to give back if a write fails.
    extents: Vec<Dva>,
    /// What goes to the cache when it is on disk.
    kept: Vec<(Key, Bytes)>,
}

impl Zio {
    /// Writes blocks and waits for them: [`Zio::start_writes`] and [`Zio::finish_writes`].
    pub fn write(&self, alloc: &dyn AllocateBlocks, txg: u64, writes: Vec<Write>) -> Result<Vec<Blkptr>> {
        let (placed, blocks) = self.start_writes(alloc, txg, writes)?;
        self.finish_writes(alloc, txg, blocks)?;
        Ok(placed)
    }

    /// Issues blocks: compression and checksums in parallel, allocation in the order of `writes`, then everything is issued. The
    /// answers are in the order of `writes`; nobody may read by them before the blocks are finished, but they can be written
    /// into other blocks. On an error nothing of the call stays allocated.
    ///
    /// No two blocks that are under way at once may name the same block to rewrite.
    pub fn start_writes(
        &self,
        alloc: &dyn AllocateBlocks,
        txg: u64,
        writes: Vec<Write>,
    ) -> Result<(Vec<Blkptr>, BlocksInFlight)> {
        let sizes_fit = |w: &Write| {
            let len = w.data.len() as u64;
            len > 0 && len <= MAX_BLOCK_SIZE && len.is_multiple_of(MIN_BLOCK_SIZE)
        };
        if !writes.iter().all(sizes_fit) {
            return Err(Error::Invalid("block size is no multiple of 512 up to 16 MiB"));
        }
        let places: Vec<Bookmark> = writes.iter().map(|w| w.at).collect();
        let logical: Vec<(Bytes, Option<Blkptr>, WritePolicy)> =
            writes.iter().map(|w| (w.data.clone(), w.rewrite, w.policy)).collect();
        let prepared = self.prepare(txg, writes);
        let mut allocated = Allocated::default();
        let started = self.place_all(alloc, txg, &logical, prepared, &mut allocated).and_then(|placed| {
            let writes = queue::start_writes(&self.vdevs(), txg, core::mem::take(&mut allocated.writes))?;
            Ok((placed, writes))
        });
        let Allocated { extents, .. } = allocated;
        let (placed, writes) = started.inspect_err(|_| give_back(alloc, txg, &extents))?;
        let kept = placed.iter().zip(logical).zip(places).filter_map(|((bp, (data, _, _)), at)| {
            let kept = !bp.is_hole() && !bp.is_embedded() && self.is_kept(bp, at);
            kept.then(|| (Key::of(bp), data))
        });
        let kept = kept.collect();
        Ok((placed, BlocksInFlight { writes, extents, kept }))
    }

    /// Waits for blocks: from now on they can be read. On an error nothing of them stays allocated.
    pub fn finish_writes(&self, alloc: &dyn AllocateBlocks, txg: u64, blocks: BlocksInFlight) -> Result<()> {
        let BlocksInFlight { writes, extents, kept } = blocks;
        writes.wait().inspect_err(|_| give_back(alloc, txg, &extents))?;
        kept.into_iter().for_each(|(key, data)| self.cache.insert(key, data));
        Ok(())
    }

    /// Compresses and checksums everything.
    fn prepare(&self, txg: u64, writes: Vec<Write>) -> Vec<Prepared> {
        let (salted, shared, unit) = (self.salted(), Arc::clone(&self.shared), self.vdevs().min_alloc());
        let total: usize = writes.iter().map(|w| w.data.len()).sum();
        let job = move |group: Vec<Write>| {
            shared.with_workspace(|ws| {
                group.into_iter().map(|w| prepare(&salted, txg, unit, &w, ws)).collect::<Vec<_>>()
            })
        };
        if writes.len() < 2 || total < PARALLEL_FROM {
            return job(writes);
        }
        let share = (total / (4 * platform::thread::cpus())).clamp(*JOB.start(), *JOB.end());
        let mut groups: Vec<Vec<Write>> = Vec::new();
        let mut room = 0;
        for write in writes {
            let len = write.data.len();
            if room == 0 {
                groups.push(Vec::new());
                room = share;
            }
            room = room.saturating_sub(len);
            if let Some(group) = groups.last_mut() {
                group.push(write);
            }
        }
        parallel::map(groups, job).into_iter().flatten().collect()
    }

    fn place_all(
        &self,
        alloc: &dyn AllocateBlocks,
        txg: u64,
        logical: &[(Bytes, Option<Blkptr>, WritePolicy)],
        prepared: Vec<Prepared>,
        out: &mut Allocated,
    ) -> Result<Vec<Blkptr>> {
        let mut placed = Vec::with_capacity(prepared.len());
        for (block, (_, rewrite, policy)) in prepared.into_iter().zip(logical) {
            let (mut bp, data) = match block {
                Prepared::Placed(bp) => {
                    placed.push(bp);
                    continue;
                }
                Prepared::Block(bp, data) => (bp, data),
            };
            let copies = usize::from(policy.copies).clamp(1, DVAS_PER_BP);
            match rewrite {
                Some(old) if rewritable(old, data.len() as u64, txg) => {
                    for (i, dva) in old.dvas().enumerate() {
                        bp.set_dva(i, dva);
                        out.writes.push(WriteExtent { dva, data: data.clone() });
                    }
                }
                _ => allocate_or_gang(
                    self,
                    alloc,
                    txg,
                    &mut bp,
                    &data,
                    copies,
                    class_of(policy, data.len()),
                    out,
                )?,
            }
            placed.push(bp);
        }
        Ok(placed)
    }
}

/// Takes back what was allocated for blocks that could not be written.
fn give_back(alloc: &dyn AllocateBlocks, txg: u64, extents: &[Dva]) {
    extents.iter().for_each(|dva| alloc.unallocate(txg, dva));
}

/// Where a block belongs (`spa_preferred_class`): metadata to special vdevs, and data as small as the file system wants.
fn class_of(policy: &WritePolicy, psize: usize) -> Class {
    let object_type = ObjectType(policy.object_type);
    if object_type == ObjectType::DDT_ZAP {
        return Class::Dedup;
    }
    let small = psize as u64 <= policy.special_small && object_type == ObjectType::PLAIN_FILE_CONTENTS;
    match (policy.level > 0 || object_type.is_metadata(), small) {
        (true, _) => Class::Special,
        (_, true) => Class::Small,
        _ => Class::Normal,
    }
}

/// Whether the extents of a block of this txg can take another one's data.
fn rewritable(old: &Blkptr, psize: u64, txg: u64) -> bool {
    let real = !old.is_hole() && !old.is_embedded() && !old.is_gang();
    real && old.birth() == txg && old.psize() == psize
}

/// Gives a block its addresses: extents for the whole of it, or else a gang.
#[expect(clippy::too_many_arguments, reason = "what is to be placed, for whom, and where it is noted")]
pub(super) fn allocate_or_gang(
    zio: &Zio,
    alloc: &dyn AllocateBlocks,
    txg: u64,
    bp: &mut Blkptr,
    data: &Bytes,
    copies: usize,
    class: Class,
    out: &mut Allocated,
) -> Result<()> {
    match alloc.allocate(txg, data.len() as u64, copies, class) {
        Ok(addresses) => {
            for (i, dva) in addresses.iter().enumerate() {
                bp.set_dva(i, *dva);
                out.writes.push(WriteExtent { dva: *dva, data: data.clone() });
            }
            out.extents.extend(addresses);
            Ok(())
        }
        Err(Error::NoSpace) => zio.allocate_gang(alloc, txg, bp, data, copies, out),
        Err(e) => Err(e),
    }
}

fn is_zero(data: &[u8]) -> bool {
    let (chunks, tail) = data.as_chunks::<64>();
    tail.iter().all(|&b| b == 0) && chunks.iter().all(|chunk| chunk.iter().fold(0, |acc, b| acc | b) == 0)
}

/// A hole of the shape of the block, born now.
fn hole(txg: u64, lsize: u64, policy: &WritePolicy) -> Blkptr {
    let mut bp = Blkptr::HOLE;
    // The physical size of a hole stays 0 in all its bits, so the sizes are not set as a pair.
    bp.set_hole_size(lsize);
    bp.set_object_type(policy.object_type);
    bp.set_level(policy.level);
    bp.set_birth(txg);
    bp
}

fn prepare(
    salted: &Salted,
    txg: u64,
    unit: u64,
    write: &Write,
    ws: &mut crate::compress::Workspace,
) -> Prepared {
    let policy = &write.policy;
    let lsize = write.data.len() as u64;
    // What shrank fills the place that it can have with zeros: a block that moves makes more to be written.
    let place = write.rewrite.filter(|old| rewritable(old, old.psize(), txg)).map_or(0, |old| old.psize());
    if policy.may_hole && is_zero(&write.data) {
        return Prepared::Placed(hole(txg, lsize, policy));
    }
    let mut data = write.data.clone();
    let mut function = COMPRESS_OFF;
    // Worth it only if a sector is saved, and an eighth of the block.
    let limit = lsize - lsize / 8;
    if let Some(packed) = policy.compression.compress(&write.data, limit as usize, ws) {
        let number = policy.compression.to_raw();
        if policy.may_embed && policy.level == 0 && place == 0 && packed.len() <= EMBEDDED_PAYLOAD_SIZE {
            let mut bp = Blkptr::embed(packed, lsize, number, policy.object_type, policy.level);
            bp.set_birth(txg);
            return Prepared::Placed(bp);
        }
        let psize = (packed.len() as u64).next_multiple_of(unit).max(place);
        if psize < lsize {
            let mut padded = Vec::with_capacity(psize as usize);
            padded.extend_from_slice(packed);
            padded.resize(psize as usize, 0);
            data = Bytes::from(padded);
            function = number;
        }
    }
    let checksum = policy.checksum.resolve();
    let mut bp = Blkptr::HOLE;
    bp.set_sizes(lsize, data.len() as u64);
    bp.set_compress(function);
    bp.set_checksum_type(checksum as u8);
    bp.set_object_type(policy.object_type);
    bp.set_level(policy.level);
    bp.set_little_endian();
    bp.set_birth(txg);
    bp.set_fill(policy.fill);
    bp.set_checksum(salted.checksum(checksum, &data));
    if policy.authenticated {
        bp.set_authenticated();
    }
    Prepared::Block(bp, data)
}
