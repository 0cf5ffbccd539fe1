//! Reading a log's chain: claiming it at import, visiting it, freeing it.

use crate::dmu::{Objset, Tx};
use crate::error::{Error, Result};
use crate::ondisk::blkptr::{BLKPTR_SIZE, Blkptr};
use crate::ondisk::bookmark::Bookmark;
use crate::ondisk::objset::ObjsetKind;
use crate::ondisk::zil::{
    CHECKSUM_SEQ, CLAIM_LR_SEQ_VALID, Chain, HEADER_SIZE, Header, REPLAY_NEEDED, Record, RecordHeader,
    clone_pointers, kind, records,
};
use crate::zio::Zio;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;
use hashbrown::HashSet;

/// `enum zio_checksum`: a log block with its chain header at the end.
const CHECKSUM_ZILOG: u8 = 5;
/// `enum zio_checksum`: a log block with its chain header at the start.
pub(super) const CHECKSUM_ZILOG2: u8 = 9;

/// What [`walk`] meets.
pub enum Entry<'a> {
    /// A block of the chain: also the last one, allocated and not (wholly) written.
    Block(&'a Blkptr),
    /// A record, with its bytes.
    Record(&'a RecordHeader, &'a [u8]),
}

/// How far a walk came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Walked {
    /// Blocks that were read.
    pub blocks: u64,
    /// Records that were met.
    pub records: u64,
    /// Sequence number of the last block met.
    pub block_seq: u64,
    /// Sequence number of the last record.
    pub record_seq: u64,
}

/// Reads one log block; `None` is the end of the chain.
fn read_block(zio: &Arc<Zio>, bp: &Blkptr, objset: u64) -> Result<Option<(Bytes, Chain, bool)>> {
    let seq = bp.checksum()[CHECKSUM_SEQ];
    let at = Bookmark { objset, object: 0, level: Bookmark::LEVEL_ZIL, blkid: seq };
    let slim = match bp.checksum_type() {
        CHECKSUM_ZILOG => false,
        CHECKSUM_ZILOG2 => true,
        _ => return Ok(None),
    };
    if bp.verify(Some(at)).is_err() || bp.is_embedded() {
        return Ok(None);
    }
    let block = match zio.read_zil(bp, at) {
        Ok(block) => block,
        // A block that was allocated and never written is the normal end.
        Err(Error::Checksum { .. } | Error::Corrupt { .. }) => return Ok(None),
        Err(e) => return Err(e),
    };
    let Ok(chain) = Chain::parse(&block, slim) else { return Ok(None) };
    let mut expected = bp.checksum();
    expected[CHECKSUM_SEQ] = expected[CHECKSUM_SEQ].wrapping_add(1);
    if chain.next.is_hole() || chain.next.checksum() != expected {
        return Ok(None);
    }
    Ok(Some((block, chain, slim)))
}

/// Walks a chain from its header (`zil_parse`). A claimed chain is followed as far as it was claimed. `visit` ends the walk
/// by an error, which is passed on.
pub fn walk(
    zio: &Arc<Zio>,
    header: &Header,
    objset: u64,
    visit: &mut dyn FnMut(Entry<'_>) -> Result<()>,
) -> Result<Walked> {
    let claimed = header.claim_txg != 0;
    let block_limit = if claimed { header.claim_blk_seq } else { u64::MAX };
    let valid = claimed && header.flags & CLAIM_LR_SEQ_VALID != 0;
    let record_limit = if valid { header.claim_lr_seq } else { u64::MAX };
    let mut walked = Walked::default();
    let mut bp = header.log;
    // The sequence number grows with every block, so that no chain is a loop.
    while !bp.is_hole() {
        let seq = bp.checksum()[CHECKSUM_SEQ];
        if seq > block_limit {
            break;
        }
        visit(Entry::Block(&bp))?;
        walked.block_seq = seq;
        let Some((block, chain, slim)) = read_block(zio, &bp, objset)? else { break };
        walked.blocks += 1;
        let Ok(body) = chain.records(&block, slim) else { break };
        for record in records(body) {
            let Ok((head, bytes)) = record else { return Ok(walked) };
            if head.seq > record_limit {
                return Ok(walked);
            }
            visit(Entry::Record(&head, bytes))?;
            walked.record_seq = head.seq;
            walked.records += 1;
        }
        bp = chain.next;
    }
    Ok(walked)
}

/// Blocks that a record refers to.
enum Refers {
    /// None.
    Nothing,
    /// To one that was written for it: a write record that does not hold its data.
    Own(Blkptr),
    /// To blocks of other files: once it is claimed it counts as a reference to each of them.
    Shared(Vec<Blkptr>),
}

impl Refers {
    fn of(head: &RecordHeader, bytes: &[u8]) -> Self {
        match head.kind {
            kind::WRITE => match Record::parse(head, bytes) {
                Ok(Record::Write { bp, data, .. }) if data.is_empty() && !bp.is_hole() => Refers::Own(bp),
                _ => Refers::Nothing,
            },
            kind::CLONE_RANGE => match clone_pointers(bytes) {
                Ok(bps) => Refers::Shared(bps.into_iter().filter(Blkptr::is_stored).collect()),
                Err(_) => Refers::Nothing,
            },
            _ => Refers::Nothing,
        }
    }
}

/// What claiming a log asks for.
pub enum Claim<'a> {
    /// To mark a block as allocated that the space maps do not know of.
    Block(&'a Blkptr),
    /// To count another reference to each of these blocks.
    References(&'a [Blkptr]),
}

/// Blocks by their address, so that one that is met twice counts once.
#[derive(Default)]
struct Seen(HashSet<[u8; BLKPTR_SIZE]>);

impl Seen {
    fn first_time(&mut self, bp: &Blkptr) -> bool {
        let mut key = [0; BLKPTR_SIZE];
        key[..48].copy_from_slice(&bp.to_bytes()[..48]);
        self.0.insert(key)
    }
}

/// Claims the log of a head dataset at import (`zil_claim`): `claim` is called for every block that is not in the space maps
/// yet (born in `first_txg`, the first txg of this import, or later) and must be marked as allocated, and for blocks that records clone,
/// which must have been written up to the txg `synced` that was opened. Does nothing if there is no log or it was claimed before. `tx` is of
/// `first_txg`.
pub fn claim(
    os: &Arc<Objset>,
    tx: &Tx,
    (synced, first_txg): (u64, u64),
    claim: &mut dyn FnMut(Claim<'_>) -> Result<()>,
) -> Result<()> {
    if os.kind() == ObjsetKind::Meta {
        return Ok(());
    }
    let mut header = Header::from_bytes(&os.zil_header());
    if header.claim_txg != 0 || header.log.is_hole() {
        return Ok(());
    }
    let mut seen = Seen::default();
    let mut reached = Walked::default();
    let mut block_seq = 0;
    let mut record_seq = 0;
    let mut failed = None;
    let walked = walk(os.zio(), &header, os.id(), &mut |entry| {
        let bp = match entry {
            Entry::Block(bp) => {
                block_seq = bp.checksum()[CHECKSUM_SEQ];
                *bp
            }
            Entry::Record(head, bytes) => {
                let refers = Refers::of(head, bytes);
                match &refers {
                    // A write whose data did not get to the disk ends the log before it.
                    Refers::Own(bp) if bp.birth() >= first_txg => {
                        os.zio().verify(bp, Bookmark { objset: os.id(), ..Bookmark::default() })?;
                    }
                    // So does a clone of blocks that are not there.
                    Refers::Shared(bps) if bps.iter().any(|bp| bp.physical_birth() > synced) => {
                        return Err(Error::corrupt("intent log: a clone of blocks of the future", None));
                    }
                    _ => {}
                }
                reached.records += 1;
                record_seq = head.seq;
                match refers {
                    Refers::Nothing => return Ok(()),
                    Refers::Own(bp) => bp,
                    Refers::Shared(bps) => {
                        return claim(Claim::References(&bps)).inspect_err(|e| failed = Some(e.clone()));
                    }
                }
            }
        };
        if bp.birth() >= first_txg && seen.first_time(&bp) {
            claim(Claim::Block(&bp)).inspect_err(|e| failed = Some(e.clone()))?;
        }
        Ok(())
    });
    match (walked, failed) {
        (Ok(walked), _) => reached = walked,
        (Err(_), Some(e)) => return Err(e),
        (Err(e @ Error::Io { .. }), None) => return Err(e),
        (Err(_), None) => {
            reached.block_seq = block_seq;
            reached.record_seq = record_seq;
        }
    }
    header.claim_txg = first_txg;
    header.claim_blk_seq = reached.block_seq;
    header.claim_lr_seq = reached.record_seq;
    header.flags |= CLAIM_LR_SEQ_VALID;
    if reached.records > 0 || reached.blocks > 1 {
        header.flags |= REPLAY_NEEDED;
    }
    os.set_zil_header(tx, header.to_bytes());
    Ok(())
}

/// How many records of an objset's log are still to be replayed: changes that a reader does not see.
pub fn pending(os: &Objset) -> Result<u64> {
    let header = Header::from_bytes(&os.zil_header());
    let mut count = 0;
    walk(os.zio(), &header, os.id(), &mut |entry| {
        count += u64::from(matches!(entry, Entry::Record(head, _) if head.seq > header.replay_seq));
        Ok(())
    })?;
    Ok(count)
}

/// Visits every block that the log of a head dataset occupies, as the space maps of the last synced txg `synced` know it
/// (`traverse_zil`), and the blocks that its records clone, as often as they do, if that counts. `header` is [`Objset::zil_header`].
pub fn visit_blocks(
    zio: &Arc<Zio>,
    header: &[u8; HEADER_SIZE],
    objset: u64,
    synced: u64,
    visit: &mut dyn FnMut(&Blkptr) -> Result<()>,
) -> Result<()> {
    let header = Header::from_bytes(header);
    let mut seen = Seen::default();
    walk(zio, &header, objset, &mut |entry| match entry {
        Entry::Block(bp) => {
            if (header.claim_txg != 0 || bp.birth() <= synced) && seen.first_time(bp) {
                visit(bp)?;
            }
            Ok(())
        }
        Entry::Record(head, bytes) if header.claim_txg != 0 => match Refers::of(head, bytes) {
            Refers::Own(bp) if bp.birth() >= header.claim_txg && seen.first_time(&bp) => visit(&bp),
            Refers::Shared(bps) => bps.iter().try_for_each(&mut *visit),
            _ => Ok(()),
        },
        Entry::Record(..) => Ok(()),
    })?;
    Ok(())
}

/// Calls `free` for every block of a claimed chain, for the data blocks that its records own, and for each reference that they are.
pub fn free_chain(zio: &Arc<Zio>, header: &Header, objset: u64, free: &mut dyn FnMut(&Blkptr)) -> Result<()> {
    let mut seen = Seen::default();
    walk(zio, header, objset, &mut |entry| {
        match entry {
            Entry::Block(bp) => {
                if seen.first_time(bp) {
                    free(bp);
                }
            }
            Entry::Record(head, bytes) if header.claim_txg != 0 => match Refers::of(head, bytes) {
                Refers::Own(bp) if bp.birth() >= header.claim_txg && seen.first_time(&bp) => free(&bp),
                Refers::Shared(bps) => bps.iter().for_each(&mut *free),
                _ => {}
            },
            Entry::Record(..) => {}
        }
        Ok(())
    })?;
    Ok(())
}
