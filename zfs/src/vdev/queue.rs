//! The I/O queue of a call: many extents, merged where they are neighbours, issued together, waited for once.
//! Source: `vdev_queue.c` (aggregation).

use super::{Leaf, VdevTree};
use crate::error::{Error, Result};
use crate::ondisk::blkptr::Dva;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;
use platform::block::{Batch, BlockDevice, BlockError, Op};

/// The largest merged request, in bytes (`zfs_vdev_aggregation_limit`).
const MERGED_MAX: u64 = 1 << 20;
/// Reads may be merged over a gap of that many bytes (`zfs_vdev_read_gap_limit`).
const READ_GAP: u64 = 32 << 10;

/// One extent to read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReadExtent {
    /// Where.
    pub(crate) dva: Dva,
    /// How many bytes, a multiple of 512.
    pub(crate) len: u64,
    /// Which side of a mirror is asked; taken modulo their number.
    pub(crate) side: usize,
}

/// One extent to write, to all sides.
#[derive(Debug, Clone)]
pub(crate) struct WriteExtent {
    /// Where.
    pub(crate) dva: Dva,
    /// What; padded with zeros to the vdev's sector.
    pub(crate) data: Bytes,
}

/// Why one extent failed: the device, or an address that is none.
pub(crate) type Read = Result<Bytes>;

/// A read on its way to one device.
struct Piece {
    device: Arc<dyn BlockDevice>,
    /// Identity of the device, to merge requests of one.
    leaf: u64,
    offset: u64,
    /// Bytes on the device, in its sectors.
    span: u64,
    len: u64,
    index: usize,
}

/// Reads that were issued.
pub(crate) struct Reads {
    batch: Batch,
    /// For each request of the batch its offset and the pieces that it covers.
    groups: Vec<(u64, Vec<Piece>)>,
    results: Vec<Option<Read>>,
}

/// The device of a side, the next present one if it is missing.
fn side(sides: &[Leaf], wanted: usize) -> Result<(u64, &Arc<dyn BlockDevice>)> {
    let present = (0..sides.len()).map(|i| &sides[(wanted + i) % sides.len()]);
    let mut present = present.filter_map(|leaf| leaf.device.as_ref().map(|d| (leaf.guid, d)));
    present.next().ok_or(Error::Io { cause: BlockError::Gone, at: None })
}

/// Issues all reads and returns without waiting.
pub(crate) fn start_reads(vdevs: &VdevTree, extents: &[ReadExtent]) -> Reads {
    let mut results: Vec<Option<Read>> = vec![None; extents.len()];
    let mut pieces = Vec::with_capacity(extents.len());
    for (index, extent) in extents.iter().enumerate() {
        let found = vdevs.locate(&extent.dva, extent.len).and_then(|(top, offset)| {
            let (leaf, device) = side(top.sides(), extent.side)?;
            Ok((leaf, device, offset))
        });
        match found {
            Ok((leaf, device, offset)) => {
                let sector = u64::from(device.info().sector_size.max(512));
                let span = extent.len.next_multiple_of(sector);
                let device = Arc::clone(device);
                pieces.push(Piece { device, leaf, offset, span, len: extent.len, index });
            }
            Err(e) => results[index] = Some(Err(e)),
        }
    }
    pieces.sort_by_key(|p| (p.leaf, p.offset));
    let batch = Batch::new();
    let mut groups: Vec<(u64, Vec<Piece>)> = Vec::new();
    let mut pieces = pieces.into_iter().peekable();
    while let Some(first) = pieces.next() {
        let (leaf, start) = (first.leaf, first.offset);
        let device = Arc::clone(&first.device);
        let mut end = start + first.span;
        let mut group = vec![first];
        while let Some(next) = pieces.next_if(|next| {
            let far = (next.offset + next.span).max(end) - start;
            next.leaf == leaf && next.offset <= end + READ_GAP && far <= MERGED_MAX
        }) {
            end = end.max(next.offset + next.span);
            group.push(next);
        }
        batch.submit(&*device, Op::Read { offset: start, buf: vec![0; (end - start) as usize] });
        groups.push((start, group));
    }
    Reads { batch, groups, results }
}

impl Reads {
    /// Waits for all; the answers in the order of the extents.
    pub(crate) fn wait(self) -> Vec<Read> {
        let Reads { batch, groups, mut results } = self;
        for (outcome, (start, group)) in batch.wait().into_iter().zip(groups) {
            match outcome {
                Ok(buf) => {
                    let whole = Bytes::from(buf);
                    for piece in group {
                        let from = (piece.offset - start) as usize;
                        results[piece.index] = Some(Ok(whole.slice(from..from + piece.len as usize)));
                    }
                }
                // One bad sector must not fail its neighbours.
                Err(_) if group.len() > 1 => retry(&group, &mut results),
                Err(cause) => {
                    for piece in group {
                        results[piece.index] = Some(Err(Error::Io { cause, at: None }));
                    }
                }
            }
        }
        let lost = || Err(Error::Io { cause: BlockError::Gone, at: None });
        results.into_iter().map(|r| r.unwrap_or_else(lost)).collect()
    }
}

fn retry(group: &[Piece], results: &mut [Option<Read>]) {
    let batch = Batch::new();
    for piece in group {
        batch.submit(&*piece.device, Op::Read { offset: piece.offset, buf: vec![0; piece.span as usize] });
    }
    for (outcome, piece) in batch.wait().into_iter().zip(group) {
        results[piece.index] = Some(match outcome {
            Ok(buf) => Ok(Bytes::from(buf).slice(..piece.len as usize)),
            Err(cause) => Err(Error::Io { cause, at: None }),
        });
    }
}

/// A write on its way to all sides of one vdev.
struct Pending {
    top: u32,
    offset: u64,
    /// Bytes on the device, in the vdev's sectors.
    span: u64,
    data: Bytes,
}

/// Writes all extents and waits once. An extent succeeds if one side of its vdev took it; the first error otherwise.
pub(crate) fn write(vdevs: &VdevTree, extents: Vec<WriteExtent>) -> Result<()> {
    let mut pending = Vec::with_capacity(extents.len());
    for extent in extents {
        let len = extent.data.len() as u64;
        let (top, offset) = vdevs.locate(&extent.dva, len)?;
        let span = top.psize_to_asize(len);
        pending.push(Pending { top: top.id, offset, span, data: extent.data });
    }
    // Stable, so that of two writes to one place the later one of the call comes last, and is refused to merge.
    pending.sort_by_key(|p| (p.top, p.offset));
    let batch = Batch::new();
    // For every request the group that it belongs to: all sides of one range.
    let mut groups: Vec<usize> = Vec::new();
    let mut group = 0;
    let mut pending = pending.into_iter().peekable();
    while let Some(first) = pending.next() {
        let (top_id, start) = (first.top, first.offset);
        let mut end = start + first.span;
        let mut run = vec![first];
        while let Some(next) = pending.next_if(|next| {
            next.top == top_id && next.offset == end && next.offset + next.span - start <= MERGED_MAX
        }) {
            end += next.span;
            run.push(next);
        }
        let data = joined(run);
        for side in vdevs.top(top_id)?.sides() {
            if let Some(device) = &side.device {
                batch.submit(&**device, Op::Write { offset: start, data: data.clone() });
                groups.push(group);
            }
        }
        group += 1;
    }
    let mut fate: Vec<Option<core::result::Result<(), BlockError>>> = vec![None; group];
    for (outcome, group) in batch.wait().into_iter().zip(groups) {
        match (outcome, &fate[group]) {
            (Ok(_), _) => fate[group] = Some(Ok(())),
            (Err(cause), None) => fate[group] = Some(Err(cause)),
            (Err(_), Some(_)) => {}
        }
    }
    fate.into_iter().try_for_each(|f| f.unwrap_or(Err(BlockError::Gone)).map_err(Error::from))
}

/// The data of neighbouring writes as one buffer.
fn joined(mut run: Vec<Pending>) -> Bytes {
    if run.len() == 1 && run[0].data.len() as u64 == run[0].span {
        return run.remove(0).data;
    }
    let total: u64 = run.iter().map(|p| p.span).sum();
    let mut out = Vec::with_capacity(total as usize);
    for piece in run {
        let end = out.len() + piece.span as usize;
        out.extend_from_slice(&piece.data);
        out.resize(end, 0);
    }
    Bytes::from(out)
}
