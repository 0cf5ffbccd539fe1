//! The log of one open objset: records in memory, group commit, the blocks on disk.

use super::chain::{CHECKSUM_ZILOG2, Entry, free_chain, walk};
use crate::compress::Compression;
use crate::dmu::{Objset, SyncContext, SyncHook, Tx};
use crate::error::{Error, Result};
use crate::ondisk::blkptr::Blkptr;
use crate::ondisk::object_type::ObjectType;
use crate::ondisk::zil::{
    CHAIN_SIZE, CHECKSUM_SEQ, Chain, Header, MAX_BLOCK_SIZE, MIN_BLOCK_SIZE, REPLAY_NEEDED, Record,
    RecordHeader, WRITE_RECORD_SIZE, stamp,
};
use crate::zio::{AllocateBlocks, Class};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::{Arc, Weak};
use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;
use platform::sync::{Condvar, Mutex, MutexGuard};
use platform::thread::scheduler;

/// What the log needs of the pool.
pub trait LogHost: Send + Sync {
    /// Who gives out space.
    fn alloc(&self) -> &dyn AllocateBlocks;
    /// Frees a block as of `tx`'s txg.
    fn free(&self, tx: &Tx, bp: &Blkptr);
    /// Two random words, not 0: the guid of a new chain.
    fn guid(&self) -> [u64; 2];
}

/// A part of a logged write whose data is in a block of the object itself (`WR_INDIRECT`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InPlace {
    /// From this byte of the object.
    pub offset: u64,
    /// So many bytes.
    pub len: u64,
    /// The block that holds them.
    pub bp: Blkptr,
}

/// Where the data of logged writes comes from when they are committed.
pub trait ReadForLog: Send + Sync {
    /// Writes the data of a logged write to where it will stay anyway, if that is better than writing it twice: its parts in
    /// order, as far as the object reaches. `None`: the log is to hold it.
    fn place_for_log(
        &self,
        object: u64,
        generation: u64,
        offset: u64,
        len: u64,
    ) -> Result<Option<Vec<InPlace>>>;

    /// Data of an object; `None` if the object (of that generation) is gone or ends before `offset`. May be shorter than `len`.
    fn read_for_log(&self, object: u64, generation: u64, offset: u64, len: usize) -> Result<Option<Vec<u8>>>;
}

/// What is noted of a change.
pub enum Payload {
    /// A record, as [`Record::emit`] gives it.
    Record(Vec<u8>),
    /// A write whose data is read from the object when it is committed.
    Write {
        /// The object.
        object: u64,
        /// Its generation.
        generation: u64,
        /// From this byte.
        offset: u64,
        /// So many bytes.
        len: u64,
    },
    /// A change that no record tells: a commit that comes to it syncs the txg.
    Barrier,
}

struct Itx {
    txg: u64,
    payload: Payload,
}

/// A log block on disk or to be filled.
struct Lwb {
    bp: Blkptr,
    /// Highest txg that must be synced before the block is of no use: of its records and of the allocation after it.
    max_txg: u64,
    written: bool,
}

#[derive(Default)]
struct State {
    /// Records in the order in which they will be written.
    ordered: VecDeque<Itx>,
    /// Records that only concern the content of one object: written when that object is committed.
    by_object: BTreeMap<u64, Vec<Itx>>,
    /// How many records were ever put into `ordered`, and up to which of them all is durable.
    queued: u64,
    durable: u64,
    issuing: bool,
    /// Threads whose commit no batch has served yet, and how many of them the next batch may hope for.
    committers: usize,
    expected: usize,
    /// How long the last batch took, in nanoseconds.
    batch_ns: u64,
    lwbs: VecDeque<Lwb>,
    record_seq: u64,
    header: Header,
    /// While replaying: the record at hand, and per open txg the last one replayed in it.
    replaying: Option<u64>,
    replayed: [u64; 4],
    /// The header is emptied in this txg.
    destroy_txg: u64,
    /// A log block could not be written: the chain has to be given up.
    broken: bool,
    closed: bool,
    /// Sizes of recent commits, in bytes: what the next block should hold.
    recent: [u64; RECENT],
    recent_at: usize,
}

const RECENT: usize = 8;
/// The longest that a batch waits for others to join, in nanoseconds.
const GATHER_MAX_NS: u64 = 1_000_000;

/// The log of one open objset.
pub struct Log {
    os: Arc<Objset>,
    host: Arc<dyn LogHost>,
    reader: Mutex<Option<Weak<dyn ReadForLog>>>,
    state: Mutex<State>,
    changed: Condvar,
    /// For the one who is about to write a batch.
    gathered: Condvar,
}

/// The block size for so many bytes of records (`zil_block_buckets`): sizes that leave room for a power of two and headers.
fn bucket(bytes: u64) -> u64 {
    let need = bytes + CHAIN_SIZE as u64;
    [4096, 8192 + 4096, 32_768 + 4096, 65_536 + 4096]
        .into_iter()
        .find(|&size| need <= size)
        .unwrap_or(MAX_BLOCK_SIZE)
}

impl Log {
    /// Opens the log of `os` for writing and hooks itself into its sync. What an earlier life left in it is for
    /// [`Log::recover`].
    #[must_use]
    pub fn open(os: Arc<Objset>, host: Arc<dyn LogHost>) -> Arc<Log> {
        let header = Header::from_bytes(&os.zil_header());
        let state = State { header, ..State::default() };
        let log = Arc::new(Log {
            os,
            host,
            reader: Mutex::new(None),
            state: Mutex::new(state),
            changed: Condvar::new(),
            gathered: Condvar::new(),
        });
        log.os.set_sync_hook(Some(Arc::<Log>::clone(&log)));
        log
    }

    /// Says where the data of logged writes comes from.
    pub fn set_reader(&self, reader: Weak<dyn ReadForLog>) {
        *self.reader.lock() = Some(reader);
    }

    /// The header as the next sync will write it.
    fn header(&self) -> Header {
        self.state.lock().header
    }

    /// From now on every change is the replay of record `seq`, and is not logged itself.
    fn replaying(&self, seq: u64) {
        self.state.lock().replaying = Some(seq);
    }

    /// Whether changes are replays.
    pub fn is_replaying(&self) -> bool {
        self.state.lock().replaying.is_some()
    }

    /// Replays what an earlier life left, if `apply` can (`zil_replay`), and frees its chain. The first record that cannot be
    /// replayed ends it: what follows may depend on it.
    ///
    /// `apply` makes each change in one transaction, together with the note that it was made ([`Log::assign`]): a crash in the
    /// middle goes on with the next record.
    pub fn recover(&self, apply: &mut dyn FnMut(&Record) -> Result<()>) -> Result<()> {
        let header = self.header();
        if header.log.is_hole() {
            return Ok(());
        }
        if header.claim_txg == 0 {
            return Err(Error::Invalid("the intent log was not claimed at import"));
        }
        if header.flags & REPLAY_NEEDED != 0 {
            for (head, bytes) in self.pending(&header)? {
                self.replaying(head.seq);
                let record = Record::parse(&head, &bytes)?;
                match apply(&record) {
                    // The object number was freed in this very txg: it can be taken once that is on disk.
                    Err(Error::Busy) => {
                        let txg = self.os.txgs().request_sync();
                        self.os.txgs().wait_synced(txg)?;
                        apply(&record)?;
                    }
                    done => done?,
                }
            }
        }
        self.replay_done()
    }

    /// The records of a claimed chain that were not replayed.
    fn pending(&self, header: &Header) -> Result<Vec<(RecordHeader, Vec<u8>)>> {
        let mut records = Vec::new();
        walk(self.os.zio(), header, self.os.id(), &mut |entry| {
            if let Entry::Record(head, bytes) = entry
                && head.seq > header.replay_seq
                && head.txg >= header.claim_txg
            {
                records.push((*head, bytes.to_vec()));
            }
            Ok(())
        })?;
        Ok(records)
    }

    /// Replay is over (or there was nothing to replay): frees the chain, waits until that is on disk.
    fn replay_done(&self) -> Result<()> {
        let header = {
            let mut state = self.state.lock();
            state.replaying = None;
            state.header
        };
        if header.log.is_hole() {
            return Ok(());
        }
        let tx = self.os.txgs().begin_net_free(0)?;
        let txg = tx.txg();
        free_chain(self.os.zio(), &header, self.os.id(), &mut |bp| self.host.free(&tx, bp))?;
        self.state.lock().destroy_txg = txg;
        self.os.set_zil_header(&tx, header.to_bytes());
        drop(tx);
        self.sync_txg(txg)
    }

    /// Notes a change made in `tx`. With `object`, it concerns the content of that object alone and need not be committed
    /// before the object itself is.
    pub fn assign(&self, tx: &Tx, object: Option<u64>, payload: Payload) {
        let mut state = self.state.lock();
        if let Some(seq) = state.replaying {
            let slot = (tx.txg() & 3) as usize;
            state.replayed[slot] = seq;
            drop(state);
            // The header must be written along with what was replayed.
            self.os.set_zil_header(tx, self.os.zil_header());
            return;
        }
        if state.closed {
            return;
        }
        let itx = Itx { txg: tx.txg(), payload };
        match object {
            Some(object) => state.by_object.entry(object).or_default().push(itx),
            None => state.push(itx),
        }
    }

    /// Before a record that changes names: all that was noted of the object goes in front of it.
    pub fn order(&self, object: u64) {
        self.state.lock().order(object);
    }

    /// Forgets what was noted of the content of an object that has no name any more.
    pub fn forget(&self, object: u64) {
        self.state.lock().by_object.remove(&object);
    }

    /// Makes durable what was noted of `object` (of all objects if `None`) and of names.
    pub fn commit(&self, object: Option<u64>) -> Result<()> {
        let mut state = self.state.lock();
        match object {
            Some(object) => state.order(object),
            None => {
                let objects: Vec<u64> = state.by_object.keys().copied().collect();
                objects.into_iter().for_each(|object| state.order(object));
            }
        }
        let target = state.queued;
        if state.durable < target {
            state.committers += 1;
            if state.committers >= state.expected {
                self.gathered.notify_all();
            }
        }
        self.reach(state, target)
    }

    /// Makes durable what was queued up to `target`, or waits for the one who does.
    fn reach<'a>(&'a self, mut state: MutexGuard<'a, State>, target: u64) -> Result<()> {
        while state.durable < target {
            if state.issuing {
                state = self.changed.wait(state);
                continue;
            }
            state.issuing = true;
            state = self.gather(state);
            state.purge(self.os.txgs().synced_txg());
            if state.ordered.is_empty() {
                state.durable = state.queued;
                state.issuing = false;
                state.committers = 0;
                self.changed.notify_all();
                break;
            }
            let (start, served) = (scheduler().monotonic_ns(), state.committers);
            let result;
            (state, result) = self.issue(state);
            state.batch_ns = scheduler().monotonic_ns().saturating_sub(start);
            // Those who came meanwhile, and those who are served and will soon be back.
            state.expected = state.committers;
            if result.is_err() {
                state.committers -= 1;
                return result;
            }
            state.committers -= served;
        }
        Ok(())
    }

    /// Waits a little for the threads that took part in the last batch and are about to commit again: one batch for all of
    /// them costs no more than one for those who are here, and without that they would take turns in two halves.
    fn gather<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let patience = (state.batch_ns / 2).min(GATHER_MAX_NS);
        let deadline = scheduler().monotonic_ns().saturating_add(patience);
        while state.committers < state.expected {
            let left = deadline.saturating_sub(scheduler().monotonic_ns());
            if left == 0 {
                // They do something else now.
                state.expected = state.committers;
                break;
            }
            state = self.gathered.wait_timeout(state, left).0;
        }
        state
    }

    /// Commits everything, empties the log on disk and lets go of the objset.
    pub fn close(&self) -> Result<()> {
        let closed = self.empty(|state| state.closed = true);
        self.os.set_sync_hook(None);
        closed
    }

    fn sync_txg(&self, txg: u64) -> Result<()> {
        self.os.txgs().request_sync();
        self.os.txgs().wait_synced(txg)
    }

    /// Stops logging by `stop`, then syncs and frees the chain.
    fn empty(&self, stop: impl FnOnce(&mut State)) -> Result<()> {
        let mut state = self.state.lock();
        stop(&mut state);
        while state.issuing {
            state = self.changed.wait(state);
        }
        let header = state.header;
        let used = !state.lwbs.is_empty();
        drop(state);
        let txgs = self.os.txgs();
        if !used {
            // Nothing on disk: what was noted is made durable by its txg.
            let txg = txgs.request_sync();
            return txgs.wait_synced(txg);
        }
        let tx = txgs.begin_net_free(0)?;
        let txg = tx.txg();
        let lwbs = {
            let mut state = self.state.lock();
            state.destroy_txg = txg;
            core::mem::take(&mut state.lwbs)
        };
        lwbs.iter().for_each(|lwb| self.host.free(&tx, &lwb.bp));
        self.os.set_zil_header(&tx, header.to_bytes());
        drop(tx);
        self.sync_txg(txg)
    }

    /// Writes everything that is ordered, or syncs the txg where that cannot be. Called with `state.issuing` set, which
    /// is over then.
    fn issue<'a>(&'a self, mut state: MutexGuard<'a, State>) -> (MutexGuard<'a, State>, Result<()>) {
        let batch: Vec<Itx> = state.ordered.drain(..).collect();
        let upto = state.queued;
        let by_log = !state.closed
            && !state.broken
            && state.header.log_is_ours(&state.lwbs)
            && !batch.iter().any(|itx| matches!(itx.payload, Payload::Barrier));
        drop(state);
        let written = if by_log { self.write_batch(&batch) } else { Ok(false) };
        let result = match written {
            Ok(true) => Ok(()),
            Ok(false) | Err(Error::NoSpace | Error::QuotaExceeded) => self.sync_instead(),
            Err(_) => {
                // The chain has a hole now, behind which nothing would be found.
                self.state.lock().broken = true;
                self.sync_instead()
            }
        };
        let mut state = self.state.lock();
        state.issuing = false;
        if result.is_ok() {
            state.durable = state.durable.max(upto);
        } else {
            // Nothing is lost from memory: the next commit tries again.
            for itx in batch.into_iter().rev() {
                state.ordered.push_front(itx);
            }
        }
        self.changed.notify_all();
        (state, result)
    }

    /// Makes everything durable by syncing the open txg; starts a chain for later commits on the way.
    fn sync_instead(&self) -> Result<()> {
        let txgs = self.os.txgs();
        let start = {
            let state = self.state.lock();
            state.lwbs.is_empty() && !state.closed
        };
        if start {
            let tx = txgs.begin_net_free(0)?;
            let guid = self.host.guid();
            let first = self.allocate(&tx, bucket(0), [guid[0], guid[1], self.os.id(), 1]);
            let txg = tx.txg();
            if let Ok(bp) = first {
                let mut state = self.state.lock();
                state.header = Header { log: bp, ..Header::default() };
                state.lwbs.push_back(Lwb { bp, max_txg: txg, written: false });
                let header = state.header.to_bytes();
                drop(state);
                self.os.set_zil_header(&tx, header);
            }
        }
        let txg = txgs.request_sync();
        txgs.wait_synced(txg)
    }

    fn allocate(&self, tx: &Tx, size: u64, checksum: [u64; 4]) -> Result<Blkptr> {
        let dvas = self.host.alloc().allocate(tx.txg(), size, 1, Class::Log)?;
        let dva = dvas.first().copied().ok_or(Error::NoSpace)?;
        let mut bp = Blkptr::HOLE;
        bp.set_dva(0, dva);
        bp.set_sizes(size, size);
        bp.set_compress(Compression::Off.to_raw());
        bp.set_checksum_type(CHECKSUM_ZILOG2);
        bp.set_object_type(ObjectType::INTENT_LOG.0);
        bp.set_level(0);
        bp.set_little_endian();
        bp.set_birth(tx.txg());
        bp.set_checksum(checksum);
        Ok(bp)
    }

    /// Writes a batch to the chain and flushes. `Ok(false)`: could not, the txg must be synced instead.
    fn write_batch(&self, batch: &[Itx]) -> Result<bool> {
        let reader = self.reader.lock().as_ref().and_then(Weak::upgrade);
        // What is written in place is written before the first record that refers to it.
        let mut placed = Vec::with_capacity(batch.len());
        for itx in batch {
            placed.push(match (&itx.payload, &reader) {
                (&Payload::Write { object, generation, offset, len }, Some(reader)) => {
                    reader.place_for_log(object, generation, offset, len)?
                }
                _ => None,
            });
        }
        let size = |(itx, placed): (&Itx, &Option<Vec<InPlace>>)| match placed {
            Some(parts) => (parts.len() * WRITE_RECORD_SIZE) as u64,
            None => itx.size(),
        };
        let mut left: u64 = batch.iter().zip(&placed).map(size).sum();
        let predicted = self.state.lock().predict(left);
        let mut filler = Filler { log: self, block: self.fresh_block()?, max_txg: 0, predicted };
        for (itx, placed) in batch.iter().zip(&placed) {
            filler.max_txg = filler.max_txg.max(itx.txg);
            match &itx.payload {
                Payload::Record(record) => {
                    if !filler.record(record, itx.txg, left)? {
                        return Ok(false);
                    }
                }
                Payload::Write { object, .. } if placed.is_some() => {
                    for &InPlace { offset, len, bp } in placed.iter().flatten() {
                        let record = Record::Write { object: *object, offset, len, bp, data: Vec::new() };
                        if !filler.record(&record.emit(), itx.txg, left)? {
                            return Ok(false);
                        }
                    }
                }
                Payload::Write { object, generation, offset, len } => {
                    let Some(reader) = &reader else { return Ok(false) };
                    let mut done = 0;
                    while done < *len {
                        let room = filler.room_for_data(*len - done, left - done.min(left))?;
                        let at = *offset + done;
                        let Some(data) = reader.read_for_log(*object, *generation, at, room)? else { break };
                        if data.is_empty() {
                            break;
                        }
                        done += data.len() as u64;
                        let record = Record::Write {
                            object: *object,
                            offset: at,
                            len: data.len() as u64,
                            bp: Blkptr::HOLE,
                            data,
                        };
                        if !filler.record(&record.emit(), itx.txg, left)? {
                            return Ok(false);
                        }
                    }
                }
                Payload::Barrier => return Ok(false),
            }
            left -= size((itx, placed)).min(left);
        }
        filler.finish()?;
        self.os.zio().flush()?;
        Ok(true)
    }

    /// The chain's last block: allocated, pointed to, still to be written.
    fn fresh_block(&self) -> Result<Block> {
        let state = self.state.lock();
        let lwb = state.lwbs.back().filter(|lwb| !lwb.written).ok_or(Error::NoSpace)?;
        Ok(Block { bp: lwb.bp, bytes: vec![0; CHAIN_SIZE] })
    }

    /// Writes the chain's last block and makes the next one the last.
    fn write_block(&self, mut block: Block, max_txg: u64, next_size: u64) -> Result<()> {
        let tx = self.os.txgs().begin_net_free(0)?;
        let mut checksum = block.bp.checksum();
        checksum[CHECKSUM_SEQ] += 1;
        let next = self.allocate(&tx, next_size, checksum)?;
        let txg = tx.txg();
        {
            let mut state = self.state.lock();
            state.lwbs.push_back(Lwb { bp: next, max_txg: txg, written: false });
            let header = state.header.to_bytes();
            drop(state);
            self.os.set_zil_header(&tx, header);
        }
        drop(tx);
        let used = block.bytes.len() as u64;
        Chain { next, used }.emit(&mut block.bytes);
        // Only what is in use is written: the checksum of such a block covers no more.
        let size = used.next_multiple_of(MIN_BLOCK_SIZE).min(block.bp.lsize());
        block.bytes.resize(size as usize, 0);
        self.os.zio().write_zil(&block.bp, Bytes::from(block.bytes))?;
        let mut state = self.state.lock();
        if let Some(lwb) = state.lwbs.iter_mut().find(|lwb| lwb.bp == block.bp) {
            lwb.written = true;
            lwb.max_txg = lwb.max_txg.max(max_txg);
        }
        Ok(())
    }
}

impl Itx {
    /// Bytes in the log, roughly.
    fn size(&self) -> u64 {
        match &self.payload {
            Payload::Record(record) => record.len() as u64,
            Payload::Write { len, .. } => {
                len.next_multiple_of(8).saturating_add(WRITE_RECORD_SIZE as u64 * (1 + len / MAX_BLOCK_SIZE))
            }
            Payload::Barrier => 0,
        }
    }
}

impl Header {
    /// Whether commits may go on with this chain: it is our own, not one that an earlier import left.
    fn log_is_ours(&self, lwbs: &VecDeque<Lwb>) -> bool {
        !lwbs.is_empty() && self.claim_txg == 0
    }
}

impl State {
    fn push(&mut self, itx: Itx) {
        self.ordered.push_back(itx);
        self.queued += 1;
    }

    fn order(&mut self, object: u64) {
        for itx in self.by_object.remove(&object).unwrap_or_default() {
            self.push(itx);
        }
    }

    /// Forgets records whose txg is on disk.
    fn purge(&mut self, synced: u64) {
        self.ordered.retain(|itx| itx.txg > synced);
        self.by_object.retain(|_, list| {
            list.retain(|itx| itx.txg > synced);
            !list.is_empty()
        });
    }

    /// Notes the size of a commit; the largest of the recent ones.
    fn predict(&mut self, bytes: u64) -> u64 {
        let at = self.recent_at % RECENT;
        self.recent[at] = bytes;
        self.recent_at = at + 1;
        self.recent.iter().copied().max().unwrap_or(bytes)
    }
}

/// A log block in the making.
struct Block {
    bp: Blkptr,
    bytes: Vec<u8>,
}

impl Block {
    fn room(&self) -> usize {
        (self.bp.lsize() as usize).saturating_sub(self.bytes.len())
    }
}

/// The least data that is worth splitting a write for, in bytes.
const MIN_SPLIT: usize = 4096;

struct Filler<'a> {
    log: &'a Log,
    block: Block,
    max_txg: u64,
    predicted: u64,
}

impl Filler<'_> {
    /// Appends a record, in the next block if need be. `left`: bytes still to come, for the size of that block. `false` if no
    /// block can hold it.
    fn record(&mut self, record: &[u8], txg: u64, left: u64) -> Result<bool> {
        if record.len() > self.block.room() {
            if record.len() as u64 + CHAIN_SIZE as u64 > MAX_BLOCK_SIZE {
                return Ok(false);
            }
            self.turn(left.max(record.len() as u64))?;
        }
        if record.len() > self.block.room() {
            return Ok(false);
        }
        let seq = {
            let mut state = self.log.state.lock();
            state.record_seq += 1;
            state.record_seq
        };
        let at = self.block.bytes.len();
        self.block.bytes.extend_from_slice(record);
        stamp(&mut self.block.bytes[at..], txg, seq);
        Ok(true)
    }

    /// How many of `want` data bytes the current block can take; goes on to the next block if that is not worth it.
    fn room_for_data(&mut self, want: u64, left: u64) -> Result<usize> {
        let want = usize::try_from(want).unwrap_or(usize::MAX);
        let room = |block: &Block| (block.room().saturating_sub(WRITE_RECORD_SIZE)) & !7;
        if room(&self.block) < want.min(MIN_SPLIT) {
            self.turn(left.max(want.min(MIN_SPLIT) as u64 + WRITE_RECORD_SIZE as u64))?;
        }
        Ok(room(&self.block).min(want))
    }

    /// Writes the current block and starts one for `left` bytes.
    fn turn(&mut self, left: u64) -> Result<()> {
        let next = Block { bp: self.block.bp, bytes: Vec::new() };
        let full = core::mem::replace(&mut self.block, next);
        self.log.write_block(full, self.max_txg, bucket(left))?;
        self.block = self.log.fresh_block()?;
        Ok(())
    }

    fn finish(self) -> Result<()> {
        if self.block.bytes.len() == CHAIN_SIZE {
            return Ok(());
        }
        self.log.write_block(self.block, self.max_txg, bucket(self.predicted))
    }
}

impl SyncHook for Log {
    fn syncing(&self, objset: &Arc<Objset>, ctx: &SyncContext<'_>) -> Result<()> {
        if ctx.pass > 1 {
            return Ok(());
        }
        let txg = ctx.txg;
        let mut freed = Vec::new();
        let header = {
            let mut state = self.state.lock();
            let slot = (txg & 3) as usize;
            let replayed = core::mem::take(&mut state.replayed[slot]);
            if replayed != 0 {
                state.header.replay_seq = replayed;
            }
            if state.destroy_txg == txg {
                state.header = Header::default();
                state.replayed = [0; 4];
                if let Some(first) = state.lwbs.front() {
                    state.header.log = first.bp;
                }
            } else if state.header.claim_txg == 0 && !state.lwbs.is_empty() {
                // The last block stays: it is the one to go on with.
                let broken = state.broken;
                while state.lwbs.front().is_some_and(|lwb| (lwb.written || broken) && lwb.max_txg <= txg) {
                    freed.extend(state.lwbs.pop_front().map(|lwb| lwb.bp));
                }
                state.header.log = state.lwbs.front().map_or(Blkptr::HOLE, |lwb| lwb.bp);
                state.broken &= !state.lwbs.is_empty();
            }
            state.header.to_bytes()
        };
        let tx = Tx::syncing(objset.txgs(), txg);
        freed.iter().for_each(|bp| self.host.free(&tx, bp));
        objset.set_zil_header(&tx, header);
        Ok(())
    }
}
