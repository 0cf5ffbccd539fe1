//! The I/O queue of a call: many extents, merged where they are neighbours, issued together, waited for once.
//! Source: `vdev_queue.c` (aggregation), `vdev_mirror.c`, `vdev_raidz.c`.

use super::map::{Column, Map, Row, Target};
use super::parity;
use super::{Leaf, VdevTree};
use crate::error::{Error, Result};
use crate::ondisk::blkptr::Dva;
use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;
use platform::block::{Batch, BlockError, Op};

/// The largest merged request, in bytes (`zfs_vdev_aggregation_limit`), …
const MERGED_MAX: u64 = 1 << 20;
/// … and what is merged even where memory is in small pieces.
const MERGED_MIN: u64 = 64 << 10;
/// Reads may be merged over a gap of that many bytes (`zfs_vdev_read_gap_limit`).
const READ_GAP: u64 = 32 << 10;
/// Parity is computed on several processors if there is that much of it to do, in bytes of data.
const PARALLEL_FROM: usize = 256 << 10;

/// One extent to read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReadExtent {
    /// Where.
    pub(crate) dva: Dva,
    /// How many bytes, a multiple of 512.
    pub(crate) len: u64,
    /// When it was written: leaves that missed that txg are not asked, if others were not.
    pub(crate) birth: u64,
}

/// One extent to write, to all that hold it.
#[derive(Debug, Clone)]
pub(crate) struct WriteExtent {
    /// Where.
    pub(crate) dva: Dva,
    /// What; padded with zeros to the vdev's sector.
    pub(crate) data: Bytes,
}

/// What became of one extent.
pub(crate) type Read = Result<Bytes>;

/// How large a merged request may be now: its buffer is one piece of memory.
fn merged_max() -> u64 {
    MERGED_MAX.min(platform::thread::largest_piece() as u64 / 4).max(MERGED_MIN)
}

fn gone() -> Error {
    Error::Io { cause: BlockError::Gone, at: None }
}

/// A read of one leaf.
struct Piece {
    leaf: Arc<Leaf>,
    offset: u64,
    /// Bytes on the device, in its sectors.
    span: u64,
    len: usize,
    index: usize,
}

/// Reads of leaves that were gathered, and issued.
#[derive(Default)]
pub(super) struct LeafReads {
    pieces: Vec<Piece>,
}

/// Reads of leaves on their way.
pub(super) struct Flying {
    batch: Batch,
    /// For each request of the batch its offset and the pieces that it covers.
    groups: Vec<(u64, Vec<Piece>)>,
    results: Vec<Option<Read>>,
}

impl LeafReads {
    /// Adds a read; the index of its answer.
    pub(super) fn add(&mut self, leaf: &Arc<Leaf>, offset: u64, len: usize) -> usize {
        let sector = leaf.device.as_ref().map_or(512, |d| u64::from(d.info().sector_size.max(512)));
        let index = self.pieces.len();
        let span = (len as u64).next_multiple_of(sector);
        self.pieces.push(Piece { leaf: Arc::clone(leaf), offset, span, len, index });
        index
    }

    /// Issues all of them and returns without waiting.
    pub(super) fn issue(self) -> Flying {
        let results = vec![None; self.pieces.len()];
        let mut pieces = self.pieces;
        // By device; the address of a leaf says as much as its guid, and is never that of two.
        pieces.sort_by_key(|p| (Arc::as_ptr(&p.leaf).addr(), p.offset));
        let (batch, most) = (Batch::new(), merged_max());
        let mut groups: Vec<(u64, Vec<Piece>)> = Vec::new();
        let mut pieces = pieces.into_iter().peekable();
        while let Some(first) = pieces.next() {
            let Some(device) = first.leaf.device.clone() else { continue };
            let (leaf, start) = (Arc::clone(&first.leaf), first.offset);
            let mut end = start + first.span;
            let mut group = vec![first];
            while let Some(next) = pieces.next_if(|next| {
                let far = (next.offset + next.span).max(end) - start;
                Arc::ptr_eq(&next.leaf, &leaf) && next.offset <= end + READ_GAP && far <= most
            }) {
                end = end.max(next.offset + next.span);
                group.push(next);
            }
            batch.submit(&*device, Op::Read { offset: start, buf: vec![0; (end - start) as usize] });
            groups.push((start, group));
        }
        Flying { batch, groups, results }
    }
}

impl Flying {
    /// Waits for all; the answers in the order in which they were added.
    pub(super) fn wait(self) -> Vec<Read> {
        let Flying { batch, groups, mut results } = self;
        for (outcome, (start, group)) in batch.wait().into_iter().zip(groups) {
            match outcome {
                Ok(buf) => {
                    let whole = Bytes::from(buf);
                    for piece in group {
                        let from = (piece.offset - start) as usize;
                        results[piece.index] = Some(Ok(whole.slice(from..from + piece.len)));
                    }
                }
                // One bad sector must not fail its neighbours.
                Err(_) if group.len() > 1 => retry(&group, &mut results),
                Err(cause) => {
                    for piece in group {
                        piece.leaf.count_read_error();
                        results[piece.index] = Some(Err(Error::Io { cause, at: None }));
                    }
                }
            }
        }
        results.into_iter().map(|r| r.unwrap_or_else(|| Err(gone()))).collect()
    }
}

fn retry(group: &[Piece], results: &mut [Option<Read>]) {
    let batch = Batch::new();
    let asked = group.iter().filter_map(|piece| Some((piece, piece.leaf.device.as_ref()?)));
    let asked: Vec<&Piece> = asked
        .map(|(piece, device)| {
            batch.submit(&**device, Op::Read { offset: piece.offset, buf: vec![0; piece.span as usize] });
            piece
        })
        .collect();
    for (outcome, piece) in batch.wait().into_iter().zip(asked) {
        results[piece.index] = Some(match outcome {
            Ok(buf) => Ok(Bytes::from(buf).slice(..piece.len)),
            Err(cause) => {
                piece.leaf.count_read_error();
                Err(Error::Io { cause, at: None })
            }
        });
    }
}

/// What is read of a row: an answer's index for each column, of those that are asked.
struct RowReads {
    row: Row,
    answers: Vec<Option<usize>>,
    /// Data columns are missing and come from the parity.
    rebuild: bool,
}

/// Reads that were issued.
pub(crate) struct Reads {
    flying: Flying,
    extents: Vec<Result<(usize, Vec<RowReads>)>>,
}

/// The leaf of a column that is asked: the one that the address prefers, or another that has the data.
fn choose(column: &Column, birth: u64, hint: usize) -> Option<&Target> {
    let count = column.targets.len();
    let mut in_turn = (0..count).map(|i| &column.targets[(hint + i) % count]);
    in_turn.find(|leaf| leaf.has(birth))
}

/// Which side of a mirror serves an address: stretches alternate, so that all work on a long read.
fn hint(dva: &Dva) -> usize {
    (dva.offset >> 21) as usize
}

/// Plans the reads of a row: its data, and as much parity as data is missing.
fn plan(row: Row, birth: u64, hint: usize, reads: &mut LeafReads) -> Result<RowReads> {
    let mut answers = vec![None; row.columns.len()];
    let wanted = |column: &Column| column.data_len > 0;
    let missing = row.data().iter().filter(|c| wanted(c) && choose(c, birth, hint).is_none()).count();
    let rebuild = missing > 0;
    for (column, answer) in row.columns.iter().zip(&mut answers).skip(row.parity) {
        let len = if rebuild { column.size } else { column.data_len };
        if len > 0
            && let Some(leaf) = choose(column, birth, hint)
        {
            *answer = Some(reads.add(leaf.leaf(), column.offset, len));
        }
    }
    if rebuild {
        let lost = row.data().len() - answers[row.parity..].iter().flatten().count();
        let mut found = 0;
        for (column, answer) in row.columns[..row.parity].iter().zip(&mut answers) {
            if found < lost
                && let Some(leaf) = choose(column, birth, hint)
            {
                *answer = Some(reads.add(leaf.leaf(), column.offset, column.size));
                found += 1;
            }
        }
        if found < lost {
            return Err(gone());
        }
    }
    Ok(RowReads { row, answers, rebuild })
}

/// Issues all reads and returns without waiting.
pub(crate) fn start_reads(vdevs: &VdevTree, extents: &[ReadExtent]) -> Reads {
    let mut reads = LeafReads::default();
    let planned = extents.iter().map(|extent| {
        let Map { rows, len } = vdevs.resolve(&extent.dva, extent.len)?;
        let rows = rows.into_iter().map(|row| plan(row, extent.birth, hint(&extent.dva), &mut reads));
        Ok((len, rows.collect::<Result<Vec<_>>>()?))
    });
    let extents = planned.collect();
    Reads { flying: reads.issue(), extents }
}

impl Reads {
    /// Waits for all; the answers in the order of the extents.
    pub(crate) fn wait(self) -> Vec<Read> {
        let answers = self.flying.wait();
        let assemble = |extent: Result<(usize, Vec<RowReads>)>| {
            let (len, rows) = extent?;
            // The usual case needs no copy.
            if let [RowReads { row, answers: own, rebuild: false }] = &rows[..]
                && let [Some(answer)] = &own[row.parity..]
            {
                return answers[*answer].clone().map(|data| data.slice(..len.min(data.len())));
            }
            let mut out = Vec::with_capacity(len);
            for row in &rows {
                row.assemble(&answers, &mut out)?;
            }
            out.truncate(len);
            if out.len() == len { Ok(Bytes::from(out)) } else { Err(gone()) }
        };
        self.extents.into_iter().map(assemble).collect()
    }
}

impl RowReads {
    fn assemble(&self, answers: &[Read], out: &mut Vec<u8>) -> Result<()> {
        let got = |at: usize| self.answers[at].map(|answer| answers[answer].clone()).transpose();
        let parity = self.row.parity;
        let data = (parity..self.answers.len()).map(got).collect::<Result<Vec<_>>>()?;
        let mut rebuilt = Vec::new();
        if self.rebuild {
            let parities = (0..parity).filter_map(|at| got(at).transpose().map(|bytes| Ok((at, bytes?))));
            let parities = parities.collect::<Result<Vec<_>>>()?;
            let known: Vec<Option<&[u8]>> = data.iter().map(Option::as_deref).collect();
            let parities: Vec<(usize, &[u8])> =
                parities.iter().map(|(at, bytes)| (*at, &bytes[..])).collect();
            rebuilt = parity::reconstruct(&known, &parities).ok_or_else(gone)?;
        }
        let mut rebuilt = rebuilt.iter().map(Vec::as_slice);
        for (column, data) in self.row.data().iter().zip(&data) {
            let bytes = match data {
                Some(bytes) => &bytes[..],
                None if self.rebuild => rebuilt.next().unwrap_or(&[]),
                None => &[],
            };
            out.extend_from_slice(bytes.get(..column.data_len).ok_or_else(gone)?);
        }
        Ok(())
    }
}

/// A write on its way to all leaves of one column.
struct Pending {
    group: (u32, u32),
    offset: u64,
    /// Bytes on the device.
    span: u64,
    data: Bytes,
    targets: Vec<Target>,
    /// Which row it belongs to, counted over all extents.
    row: usize,
}

impl Pending {
    /// Whether `next` may follow in a merged request of at most `most` bytes.
    fn may_precede(&self, end: u64, next: &Pending, most: u64) -> bool {
        let same = |(a, b): (&Target, &Target)| a.is(b);
        next.group == self.group
            && next.offset == end
            && next.offset + next.span - self.offset <= most
            && next.targets.len() == self.targets.len()
            && self.targets.iter().zip(&next.targets).all(same)
    }
}

/// The columns of an extent with their bytes.
fn fill(map: Map, data: Bytes) -> Vec<(usize, Vec<(Column, Bytes)>)> {
    let mut rest = data;
    let mut rows = Vec::with_capacity(map.rows.len());
    for row in map.rows {
        let mut own = rest.split_to(row.data_len().min(rest.len()));
        if let ([column], 0) = (&row.columns[..], row.parity) {
            let size = column.size;
            if own.len() < size {
                let mut padded = own.to_vec();
                padded.resize(size, 0);
                own = Bytes::from(padded);
            }
            rows.push((0, row.columns.into_iter().map(|column| (column, own.clone())).collect()));
            continue;
        }
        let filled = row.fill(&own);
        let columns = row.columns.into_iter().zip(filled.into_iter().map(Bytes::from));
        rows.push((row.parity, columns.filter(|(_, bytes)| !bytes.is_empty()).collect()));
    }
    rows
}

/// Writes that were issued.
pub(crate) struct Writes {
    txg: u64,
    batch: Batch,
    /// For every request its run and its leaf.
    requests: Vec<(usize, Target)>,
    /// For every run the rows that it serves.
    runs: Vec<Vec<usize>>,
    /// For every row how many columns it can spare.
    parities: Vec<usize>,
}

/// Writes all extents and waits once: see [`Writes::wait`].
pub(crate) fn write(vdevs: &VdevTree, txg: u64, extents: Vec<WriteExtent>) -> Result<()> {
    start_writes(vdevs, txg, extents)?.wait()
}

/// Issues all writes and returns without waiting. Of two writes to one place the later one must not be issued before the earlier
/// one was waited for.
pub(crate) fn start_writes(vdevs: &VdevTree, txg: u64, extents: Vec<WriteExtent>) -> Result<Writes> {
    let mut maps = Vec::with_capacity(extents.len());
    let mut coded = 0;
    for extent in extents {
        let map = vdevs.resolve(&extent.dva, extent.data.len() as u64)?;
        coded += if map.rows.iter().any(|row| row.parity > 0) { extent.data.len() } else { 0 };
        maps.push((map, extent.data));
    }
    let filled: Vec<_> = if coded >= PARALLEL_FROM {
        platform::parallel::map(maps, |(map, data)| fill(map, data))
    } else {
        maps.into_iter().map(|(map, data)| fill(map, data)).collect()
    };
    let mut pending = Vec::new();
    let mut parities = Vec::new();
    for (parity, columns) in filled.into_iter().flatten() {
        for (column, data) in columns {
            pending.push(Pending {
                group: column.group,
                offset: column.offset,
                span: column.size as u64,
                data,
                targets: column.targets,
                row: parities.len(),
            });
        }
        parities.push(parity);
    }
    Ok(issue_writes(txg, pending, parities))
}

fn issue_writes(txg: u64, mut pending: Vec<Pending>, parities: Vec<usize>) -> Writes {
    // Stable, so that of two writes to one place the later one of the call comes last, and is refused to merge.
    pending.sort_by_key(|p| (p.group, p.offset));
    let (batch, most) = (Batch::new(), merged_max());
    let mut requests = Vec::new();
    let mut runs: Vec<Vec<usize>> = Vec::new();
    let mut pending = pending.into_iter().peekable();
    while let Some(first) = pending.next() {
        let start = first.offset;
        let mut end = start + first.span;
        let mut run = vec![first];
        while let Some(next) = pending.next_if(|next| run[0].may_precede(end, next, most)) {
            end += next.span;
            run.push(next);
        }
        let targets = run[0].targets.clone();
        let rows: BTreeSet<usize> = run.iter().map(|p| p.row).collect();
        let data = joined(run);
        for leaf in targets {
            match &leaf.device {
                Some(device) => {
                    batch.submit(&**device, Op::Write { offset: start, data: data.clone() });
                    requests.push((runs.len(), leaf));
                }
                None => leaf.note_missing(txg),
            }
        }
        runs.push(rows.into_iter().collect());
    }
    Writes { txg, batch, requests, runs, parities }
}

impl Writes {
    /// Waits for all. An extent succeeds if no row of it lost more columns than it has parity; leaves that missed something have the
    /// txg noted.
    pub(crate) fn wait(self) -> Result<()> {
        let Writes { txg, batch, requests, runs, parities } = self;
        let mut done = vec![false; runs.len()];
        let mut failure = BlockError::Gone;
        for (outcome, (run, leaf)) in batch.wait().into_iter().zip(requests) {
            match outcome {
                Ok(_) => done[run] = true,
                Err(cause) => {
                    leaf.count_write_error();
                    leaf.note_missing(txg);
                    failure = cause;
                }
            }
        }
        let mut lost = vec![0; parities.len()];
        for (rows, done) in runs.iter().zip(done) {
            rows.iter().for_each(|row| lost[*row] += usize::from(!done));
        }
        let enough = lost.iter().zip(&parities).all(|(lost, parity)| lost <= parity);
        if enough { Ok(()) } else { Err(Error::from(failure)) }
    }
}

/// The data of neighbouring writes as one buffer.
fn joined(mut run: Vec<Pending>) -> Bytes {
    if run.len() == 1 {
        return run.remove(0).data;
    }
    let total: u64 = run.iter().map(|p| p.span).sum();
    let mut out = Vec::with_capacity(total as usize);
    for piece in run {
        out.extend_from_slice(&piece.data);
    }
    Bytes::from(out)
}
