//! Reading: one block or many, through the cache or past it.

use super::examine::{judge_of, lost};
use super::verify::is_good;
use super::{Tamper, Zio};
use crate::arc::{Claim, Fill, Key, Lookup, Reader};
use crate::checksum::{Checksum, Salted};
use crate::compress;
use crate::crypt::{Keys, check_indirect};
use crate::error::{Error, Result};
use crate::ondisk::blkptr::{Blkptr, EMBEDDED_TYPE_DATA};
use crate::ondisk::bookmark::Bookmark;
use crate::vdev::queue::{self, ReadExtent};
use alloc::collections::VecDeque;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;
use platform::block::BlockError;
use platform::parallel;

/// Blocks are handed to other processors only if there is that much to do, in physical bytes.
const PARALLEL_FROM: u64 = 128 << 10;
/// Bytes of a batch that are in flight at once.
pub(super) const WINDOW: u64 = 16 << 20;
/// Windows of reads on demand: while one is checked and unpacked, the next is in flight.
const DEMAND: Windows = Windows { bytes: WINDOW, flying: 2 };
/// Windows of reads ahead: smaller, as somebody may already wait for their first block, and so more of them.
const AHEAD: Windows = Windows { bytes: 1 << 20, flying: 8 };

/// How a batch of reads is cut up.
#[derive(Clone, Copy)]
struct Windows {
    /// Physical bytes of one, unless a single block has more.
    bytes: u64,
    /// How many are in flight at once, the one that is worked on included.
    flying: usize,
}

/// A zero block for holes of usual sizes.
static ZEROS: [u8; 128 << 10] = [0; 128 << 10];

fn zeros(len: usize) -> Bytes {
    ZEROS.get(..len).map_or_else(|| Bytes::from(vec![0; len]), Bytes::from_static)
}

/// A read that needs a device.
struct Miss {
    index: usize,
    bp: Blkptr,
    at: Bookmark,
    claim: Option<Claim>,
}

/// Checks what every read relies on.
pub(super) fn admit(bp: &Blkptr, at: Bookmark) -> Result<()> {
    bp.verify(Some(at))?;
    if !bp.is_hole() && !bp.is_embedded() && !bp.little_endian() {
        return Err(Error::unsupported("block of a big-endian machine"));
    }
    Ok(())
}

/// From physical to logical bytes.
pub(super) fn unpack(bp: &Blkptr, data: Bytes, at: Bookmark) -> Result<Bytes> {
    let lsize = bp.lsize() as usize;
    if bp.compress() == COMPRESS_OFF && data.len() == lsize {
        return Ok(data);
    }
    let unpacked = compress::decompress(bp.compress(), &data, lsize).map(Bytes::from);
    unpacked.map_err(|e| if let Error::Corrupt { rule, .. } = e { Error::corrupt(rule, at) } else { e })
}

/// `ZIO_COMPRESS_OFF`.
const COMPRESS_OFF: u8 = 2;

/// From physical to logical bytes of what may be encrypted or authenticated. Without the key, what is only authenticated is taken as it is.
pub(super) fn reveal(keys: &Keys, bp: &Blkptr, data: Bytes, at: Bookmark) -> Result<Bytes> {
    if !bp.uses_crypt() {
        return unpack(bp, data, at);
    }
    if bp.level() > 0 {
        let block = unpack(bp, data, at)?;
        return check_indirect(bp, &block, at).map(|()| block);
    }
    match keys.of(at.objset) {
        Some(key) => unpack(bp, key.open_block(bp, at, Vec::from(data))?.into(), at),
        None if bp.is_encrypted() => Err(Error::KeyNotLoaded),
        None => unpack(bp, data, at),
    }
}

impl Zio {
    /// The logical bytes of a block: a hole is zeros, an embedded block its payload; else from the cache, or read,
    /// verified and decompressed. Another copy is tried if one is bad.
    pub fn read(&self, bp: &Blkptr, at: Bookmark) -> Result<Bytes> {
        // What is in the cache is most of what is read, and needs no batch.
        if let Some(result) = self.without_device(bp, at) {
            return result;
        }
        if let Some(data) = self.cache.get(&Key::of(bp)) {
            return Ok(data);
        }
        let mut results = self.read_batch(&[(*bp, at)], Some(Reader::Demand));
        results.pop().unwrap_or(Err(Error::Checksum { at }))
    }

    /// As [`Zio::read`], but the block does not enter the cache.
    pub fn read_uncached(&self, bp: &Blkptr, at: Bookmark) -> Result<Bytes> {
        let mut results = self.read_batch(&[(*bp, at)], None);
        results.pop().unwrap_or(Err(Error::Checksum { at }))
    }

    /// Many reads: all are issued, then waited for once; the answers in the order of `wants`.
    pub fn read_many(&self, wants: &[(Blkptr, Bookmark)]) -> Vec<Result<Bytes>> {
        self.read_batch(wants, Some(Reader::Demand))
    }

    /// The block if it is in the cache (or needs no device: holes and embedded blocks).
    #[must_use]
    pub fn cached(&self, bp: &Blkptr, at: Bookmark) -> Option<Bytes> {
        match self.without_device(bp, at) {
            Some(result) => result.ok(),
            None => self.cache.get(&Key::of(bp)),
        }
    }

    /// A block as [`Zio::read`] gives it, or of dnodes whose key is not loaded what lies on disk: there, all but the bonuses is clear. For those
    /// who look for blocks alone.
    pub fn read_structure(&self, bp: &Blkptr, at: Bookmark) -> Result<Bytes> {
        match self.read(bp, at) {
            Err(Error::KeyNotLoaded) if bp.object_type() == DNODE && bp.compress() == COMPRESS_OFF => {
                if bp.is_gang() {
                    return self.read_gang(bp, at);
                }
                let salted = self.salted();
                let good = judge_of(&salted, bp)?;
                let mut examined = self.examine(bp, bp.psize(), &good);
                self.settle(&mut examined);
                examined.data.ok_or_else(|| lost(examined.failure, at))
            }
            other => other,
        }
    }

    /// Holes, embedded blocks, and what is wrong already in the pointer, or needs a key that is not there.
    fn without_device(&self, bp: &Blkptr, at: Bookmark) -> Option<Result<Bytes>> {
        if let Err(e) = admit(bp, at) {
            return Some(Err(e));
        }
        if bp.is_embedded() {
            if bp.embedded_type() != EMBEDDED_TYPE_DATA {
                return Some(Err(Error::unsupported(format!(
                    "embedded block of type {}",
                    bp.embedded_type()
                ))));
            }
            return Some(unpack(bp, Bytes::from(bp.embedded_payload()), at));
        }
        if bp.is_hole() {
            return Some(Ok(zeros(bp.lsize() as usize)));
        }
        (bp.is_encrypted() && self.keys.of(at.objset).is_none()).then_some(Err(Error::KeyNotLoaded))
    }

    /// Many reads: as a `reader` of the cache, or past it.
    pub(super) fn read_batch(
        &self,
        wants: &[(Blkptr, Bookmark)],
        reader: Option<Reader>,
    ) -> Vec<Result<Bytes>> {
        let mut results: Vec<Option<Result<Bytes>>> = vec![None; wants.len()];
        let mut misses = Vec::new();
        let mut waits: Vec<(usize, Arc<Fill>)> = Vec::new();
        for (index, (bp, at)) in wants.iter().enumerate() {
            if let Some(result) = self.without_device(bp, *at) {
                results[index] = Some(result);
                continue;
            }
            let claim = if let Some(reader) = reader {
                match self.cache.lookup(Key::of(bp), reader) {
                    Lookup::Hit(data) => {
                        results[index] = Some(Ok(data));
                        continue;
                    }
                    Lookup::Wait(fill) => {
                        waits.push((index, fill));
                        continue;
                    }
                    Lookup::Mine(claim) => Some(claim),
                }
            } else if let Some(data) = self.cache.get(&Key::of(bp)) {
                results[index] = Some(Ok(data));
                continue;
            } else {
                None
            };
            misses.push(Miss { index, bp: *bp, at: *at, claim });
        }
        let windows = if reader == Some(Reader::Prefetch) { AHEAD } else { DEMAND };
        self.read_misses(misses, windows, &mut results);
        // Only now: a fill of somebody else may itself wait for one of ours.
        for (index, fill) in waits {
            results[index] = Some(fill.wait());
        }
        let lost = || Err(Error::Io { cause: BlockError::Gone, at: None });
        results.into_iter().map(|r| r.unwrap_or_else(lost)).collect()
    }

    /// Reads in windows: while one is checked and unpacked, the next ones are in flight.
    fn read_misses(&self, misses: Vec<Miss>, windows: Windows, results: &mut [Option<Result<Bytes>>]) {
        let mut misses = misses.into_iter().peekable();
        let mut flying: VecDeque<(Vec<Miss>, queue::Reads)> = VecDeque::new();
        loop {
            while flying.len() < windows.flying {
                let mut window = Vec::new();
                let mut bytes = 0;
                while let Some(miss) = misses.next_if(|m| bytes == 0 || bytes + m.bp.psize() <= windows.bytes)
                {
                    bytes += miss.bp.psize();
                    window.push(miss);
                }
                if window.is_empty() {
                    break;
                }
                let extents: Vec<_> = window.iter().map(|m| first_extent(&m.bp)).collect();
                flying.push_back((window, queue::start_reads(&self.vdevs(), &extents)));
            }
            let Some((window, reads)) = flying.pop_front() else { return };
            self.finish_window(window, reads.wait(), results);
        }
    }

    pub(super) fn digester(&self) -> Digester {
        Digester { salted: self.salted(), keys: Arc::clone(&self.keys), tamper: self.tamper.get().cloned() }
    }

    fn finish_window(&self, window: Vec<Miss>, raw: Vec<queue::Read>, results: &mut [Option<Result<Bytes>>]) {
        let work: Vec<(Miss, queue::Read)> = window.into_iter().zip(raw).collect();
        let bytes: u64 = work.iter().map(|(miss, _)| miss.bp.psize()).sum();
        let digester = self.digester();
        let done: Vec<(Miss, Result<Bytes>)> = if bytes >= PARALLEL_FROM && work.len() > 1 {
            parallel::map(work, move |(miss, raw)| {
                let result = digester.digest(&miss.bp, raw, miss.at);
                (miss, result)
            })
        } else {
            let digest = |(miss, raw): (Miss, queue::Read)| {
                let result = digester.digest(&miss.bp, raw, miss.at);
                (miss, result)
            };
            work.into_iter().map(digest).collect()
        };
        for (miss, result) in done {
            let result = match result {
                Err(first) if worth_retrying(&first) => self.read_carefully(&miss.bp, miss.at, first),
                result => result,
            };
            let result = match self.tamper.get() {
                Some(tamper) => result.map(|data| tamper.ready(&miss.bp, data)),
                None => result,
            };
            if let Some(claim) = miss.claim {
                claim.tell(&result, self.is_kept(&miss.bp, miss.at));
            }
            results[miss.index] = Some(result);
        }
    }

    /// The slow way, after the first attempt failed: everything that there is of the block, and gang blocks. What is bad is mended.
    fn read_carefully(&self, bp: &Blkptr, at: Bookmark, first: Error) -> Result<Bytes> {
        if bp.is_gang() {
            let data = self.read_gang(bp, at).and_then(|data| reveal(&self.keys, bp, data, at));
            return data.inspect_err(|e| {
                if worth_retrying(e) {
                    self.note_lost(bp, at)
                }
            });
        }
        let salted = self.salted();
        let good = judge_of(&salted, bp)?;
        let mut examined = self.examine(bp, bp.psize(), &good);
        self.settle(&mut examined);
        match examined.data {
            Some(data) => self.digester().digest(bp, Ok(data), at),
            // A bad checksum says more than a bad device.
            None => {
                self.note_lost(bp, at);
                Err(if matches!(first, Error::Io { .. }) { lost(examined.failure, at) } else { first })
            }
        }
    }
}

/// The extent that is tried first; of a gang block its header, which fails as data and is then read carefully.
fn first_extent(bp: &Blkptr) -> ReadExtent {
    let dva = bp.dva(0);
    let len = if dva.gang { crate::ondisk::gang::GANG_HEADER_SIZE as u64 } else { bp.psize() };
    ReadExtent { dva, len, birth: bp.physical_birth() }
}

/// Whether another copy may be better. What the pointer itself says wrong stays wrong.
fn worth_retrying(error: &Error) -> bool {
    matches!(error, Error::Io { .. } | Error::Checksum { .. } | Error::Corrupt { .. })
}

/// What checking and unpacking needs, also on other threads.
pub(super) struct Digester {
    pub(super) salted: Arc<Salted>,
    keys: Arc<Keys>,
    tamper: Option<Tamper>,
}

impl Digester {
    /// Whether the physical bytes of a block, whose checksum is good, are what was written with the key; `true` where there is none.
    pub(super) fn is_authentic(&self, bp: &Blkptr, data: &[u8], at: Bookmark) -> bool {
        if !bp.uses_crypt() {
            return true;
        }
        let mut data = Bytes::copy_from_slice(data);
        if let Some(tamper) = &self.tamper {
            data = tamper.on_disk(bp, data);
        }
        matches!(reveal(&self.keys, bp, data, at), Ok(_) | Err(Error::KeyNotLoaded))
    }

    /// Checks and unpacks what a device gave.
    fn digest(&self, bp: &Blkptr, raw: queue::Read, at: Bookmark) -> Result<Bytes> {
        let data = raw?;
        if bp.is_gang() {
            return Err(Error::Checksum { at });
        }
        let function = Checksum::from_raw(bp.checksum_type())?;
        if !is_good(&self.salted, function, bp, &data) {
            return Err(Error::Checksum { at });
        }
        let data = match &self.tamper {
            Some(tamper) => tamper.on_disk(bp, data),
            None => data,
        };
        reveal(&self.keys, bp, own(bp, data), at)
    }
}

/// `DMU_OT_DNODE`.
const DNODE: u8 = 10;

/// Plain data may be a slice of a merged request: the cache must not keep all of that alive.
fn own(bp: &Blkptr, data: Bytes) -> Bytes {
    if bp.compress() == COMPRESS_OFF && !data.is_unique() { Bytes::copy_from_slice(&data) } else { data }
}
