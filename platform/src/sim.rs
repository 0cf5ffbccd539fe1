//! Disks that lose power: for tests.
//!
//! All [`SimDisk`]s of one [`SimLog`] write down, in one order, what is asked of them and when they answered. From that record a
//! [`Cuts`] makes the disks as they may look after a power cut at any moment of it, so that one run gives thousands of cuts.
//!
//! # What survives a cut
//! - A write is durable once a flush *that was submitted after the write was complete* is itself complete.
//! - Of every other write, submitted or complete, any of its sectors may be there: all, none, or some. Which ones is drawn from a
//!   seed; writes to the same sector keep their order (a cache never brings back what was overwritten in it).
//! - A sector is written whole or not at all.
//! - What is discarded reads as zeros; a discard is as durable as a write.

use crate::block::{BlockDevice, BlockError, BlockInfo, Op, Outcome, Request, check_range};
use crate::random::{Random, Seeded};
use crate::sync::{Condvar, Mutex, RwLock};
use crate::thread::spawn;
use alloc::sync::{Arc, Weak};
use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;
use core::sync::atomic::{AtomicBool, Ordering};

/// Smallest unit that is written as a whole, in bytes.
pub const SECTOR: usize = 512;
/// Images share unchanged chunks of that many bytes.
const CHUNK: usize = 16 << 10;
/// Requests that a disk with delayed answers keeps waiting at most before it answers one.
const QUEUE_DEPTH: u32 = 32;

/// The content of a disk. Cloning is cheap: unchanged chunks are shared, chunks never written take no memory.
#[derive(Clone)]
pub struct Image {
    chunks: Vec<Option<Arc<Vec<u8>>>>,
    size: u64,
}

impl Image {
    /// A zeroed disk of `size` bytes.
    #[must_use]
    pub fn new(size: u64) -> Self {
        Image { chunks: vec![None; (size as usize).div_ceil(CHUNK)], size }
    }

    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Fills `buf` from `offset`. Beyond the end there are zeros.
    pub fn read(&self, offset: u64, buf: &mut [u8]) {
        buf.fill(0);
        let mut done = 0;
        while done < buf.len() {
            let (chunk, within) = ((offset as usize + done) / CHUNK, (offset as usize + done) % CHUNK);
            let len = (CHUNK - within).min(buf.len() - done);
            if let Some(Some(data)) = self.chunks.get(chunk) {
                buf[done..done + len].copy_from_slice(&data[within..within + len]);
            }
            done += len;
        }
    }

    /// Writes `data` at `offset`. What lies beyond the end is dropped.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let mut done = 0;
        while done < data.len() {
            let (chunk, within) = ((offset as usize + done) / CHUNK, (offset as usize + done) % CHUNK);
            let len = (CHUNK - within).min(data.len() - done);
            if let Some(slot) = self.chunks.get_mut(chunk) {
                let content = slot.get_or_insert_with(|| Arc::new(vec![0; CHUNK]));
                Arc::make_mut(content)[within..within + len].copy_from_slice(&data[done..done + len]);
            }
            done += len;
        }
    }

    /// Takes the content of a range away: it reads as zeros.
    pub fn erase(&mut self, offset: u64, len: u64) {
        let (mut at, end) = (offset, (offset + len).min(self.size));
        while at < end {
            let (chunk, within) = (at as usize / CHUNK, at as usize % CHUNK);
            let piece = (CHUNK - within).min((end - at) as usize);
            match self.chunks.get_mut(chunk) {
                Some(slot) if piece == CHUNK => *slot = None,
                Some(Some(data)) => Arc::make_mut(data)[within..within + piece].fill(0),
                _ => {}
            }
            at += piece as u64;
        }
    }

    /// The parts that were ever written: offset and bytes, in order.
    pub fn written(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let chunks = self.chunks.iter().enumerate();
        chunks.filter_map(|(i, c)| c.as_ref().map(|c| ((i * CHUNK) as u64, &c[..])))
    }
}

/// What a write leaves on the medium.
#[derive(Clone)]
enum Content {
    Bytes(Bytes),
    /// So many bytes are discarded: a write of nothing, which a cut may leave done in part like any other.
    Nothing(u64),
}

impl Content {
    fn len(&self) -> usize {
        match self {
            Content::Bytes(data) => data.len(),
            Content::Nothing(len) => *len as usize,
        }
    }

    /// Puts the part `from..to` of it on the medium.
    fn apply(&self, image: &mut Image, offset: u64, from: usize, to: usize) {
        match self {
            Content::Bytes(data) => image.write(offset + from as u64, &data[from..to]),
            Content::Nothing(_) => image.erase(offset + from as u64, (to - from) as u64),
        }
    }
}

/// One line of the record. A moment is an index into it.
enum Event {
    Write {
        disk: usize,
        offset: u64,
        content: Content,
    },
    Flush {
        disk: usize,
    },
    /// The request submitted at that moment is complete.
    Done(usize),
}

#[derive(Default)]
struct Record {
    events: Vec<Event>,
    recording: bool,
}

impl Record {
    fn submitted(&mut self, disk: usize, op: &Op) -> Option<usize> {
        if !self.recording {
            return None;
        }
        let event = match op {
            Op::Write { offset, data } => {
                Event::Write { disk, offset: *offset, content: Content::Bytes(data.clone()) }
            }
            Op::Discard { offset, len } => {
                Event::Write { disk, offset: *offset, content: Content::Nothing(*len) }
            }
            Op::Flush => Event::Flush { disk },
            Op::Read { .. } => return None,
        };
        self.events.push(event);
        Some(self.events.len() - 1)
    }
}

/// A request that waits for its answer, and the moment of the record at which it was submitted.
type Unanswered = (Arc<DiskState>, Request, Option<usize>);

struct Waiting {
    queue: Mutex<Vec<Unanswered>>,
    work: Condvar,
    ended: AtomicBool,
}

/// What was done to a group of disks.
pub struct SimLog {
    record: Mutex<Record>,
    /// Requests that a thread answers later, in an order drawn from a seed; `None`: they are complete when `submit` returns.
    waiting: Option<Arc<Waiting>>,
}

impl SimLog {
    /// Disks that answer at once: what happens depends on nothing but the caller.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(SimLog { record: Mutex::new(Record::default()), waiting: None })
    }

    /// Disks that answer later and in another order, drawn from `seed`: finds callers that do not wait for what they rely on.
    #[must_use]
    pub fn reordering(seed: u64) -> Arc<Self> {
        let waiting = Arc::new(Waiting {
            queue: Mutex::new(Vec::new()),
            work: Condvar::new(),
            ended: AtomicBool::new(false),
        });
        let log =
            Arc::new(SimLog { record: Mutex::new(Record::default()), waiting: Some(Arc::clone(&waiting)) });
        let weak = Arc::downgrade(&log);
        spawn("sim-disk", move || answer(&weak, &waiting, seed));
        log
    }

    /// Begins a new record: what is on the disks now is what the first cut starts from.
    pub fn start(&self) {
        let mut record = self.record.lock();
        record.events.clear();
        record.recording = true;
    }

    /// The present moment.
    #[must_use]
    pub fn now(&self) -> usize {
        self.record.lock().events.len()
    }

    fn perform(&self, state: &DiskState, op: Op, at: Option<usize>) -> Outcome {
        let outcome = state.perform(op);
        if let Some(at) = at.filter(|_| outcome.is_ok()) {
            self.record.lock().events.push(Event::Done(at));
        }
        outcome
    }
}

impl Drop for SimLog {
    fn drop(&mut self) {
        if let Some(waiting) = &self.waiting {
            waiting.ended.store(true, Ordering::SeqCst);
            // Under the lock, so that the thread is either before its check or already asleep.
            let _queue = waiting.queue.lock();
            waiting.work.notify_all();
        }
    }
}

/// Answers waiting requests in a random order until their log is gone.
fn answer(log: &Weak<SimLog>, waiting: &Waiting, seed: u64) {
    let random = Seeded::new(seed);
    loop {
        let (disk, request, at) = {
            let mut queue = waiting.queue.lock();
            while queue.is_empty() {
                if waiting.ended.load(Ordering::SeqCst) {
                    return;
                }
                queue = waiting.work.wait(queue);
            }
            let pick = random.next_u64() as usize % queue.len();
            queue.swap_remove(pick)
        };
        let outcome = match log.upgrade() {
            Some(log) => log.perform(&disk, request.op, at),
            None => Err(BlockError::Gone),
        };
        (request.done)(outcome);
    }
}

struct DiskState {
    image: RwLock<Image>,
    gone: AtomicBool,
}

impl DiskState {
    fn info(&self) -> BlockInfo {
        BlockInfo {
            size: self.image.read().size(),
            sector_size: SECTOR as u32,
            physical_sector_size: SECTOR as u32,
            read_only: false,
            discard: true,
            queue_depth: QUEUE_DEPTH,
        }
    }

    fn perform(&self, op: Op) -> Outcome {
        if self.gone.load(Ordering::SeqCst) {
            return Err(BlockError::Gone);
        }
        check_range(&self.info(), &op)?;
        match op {
            Op::Read { offset, mut buf } => {
                self.image.read().read(offset, &mut buf);
                return Ok(buf);
            }
            Op::Write { offset, data } => self.image.write().write(offset, &data),
            Op::Flush => {}
            Op::Discard { offset, len } => self.image.write().erase(offset, len),
        }
        Ok(Vec::new())
    }
}

/// A disk in memory whose history is recorded.
pub struct SimDisk {
    log: Arc<SimLog>,
    index: usize,
    state: Arc<DiskState>,
}

impl SimDisk {
    /// Disk `index` (from 0, each once) of the group that `log` records, with this content.
    #[must_use]
    pub fn new(log: &Arc<SimLog>, index: usize, image: Image) -> Self {
        let state = DiskState { image: RwLock::new(image), gone: AtomicBool::new(false) };
        SimDisk { log: Arc::clone(log), index, state: Arc::new(state) }
    }

    /// Its content at present, as a reader sees it.
    #[must_use]
    pub fn image(&self) -> Image {
        self.state.image.read().clone()
    }

    /// The disk dies: every request fails from now on.
    pub fn lose(&self) {
        self.state.gone.store(true, Ordering::SeqCst);
    }
}

impl BlockDevice for SimDisk {
    fn info(&self) -> BlockInfo {
        self.state.info()
    }

    fn submit(&self, request: Request) {
        let at = self.log.record.lock().submitted(self.index, &request.op);
        match &self.log.waiting {
            Some(waiting) => {
                waiting.queue.lock().push((Arc::clone(&self.state), request, at));
                waiting.work.notify_all();
            }
            None => (request.done)(self.log.perform(&self.state, request.op, at)),
        }
    }
}

/// A write that no flush has made durable yet.
struct Volatile {
    at: usize,
    complete: Option<usize>,
    offset: u64,
    content: Content,
}

/// Walks over a record, moment by moment, and makes the disks as a power cut would leave them.
pub struct Cuts<'a> {
    log: &'a SimLog,
    at: usize,
    durable: Vec<Image>,
    volatile: Vec<Vec<Volatile>>,
}

impl<'a> Cuts<'a> {
    /// From the disks as they were when the record began ([`SimLog::start`]), in the order of their indices.
    #[must_use]
    pub fn new(log: &'a SimLog, base: Vec<Image>) -> Self {
        let volatile = base.iter().map(|_| Vec::new()).collect();
        Cuts { log, at: 0, durable: base, volatile }
    }

    /// Goes on to a later moment. Going back is not possible.
    pub fn advance(&mut self, to: usize) {
        let record = self.log.record.lock();
        while self.at < to.min(record.events.len()) {
            match &record.events[self.at] {
                Event::Write { disk, offset, content } => self.volatile[*disk].push(Volatile {
                    at: self.at,
                    complete: None,
                    offset: *offset,
                    content: content.clone(),
                }),
                Event::Flush { .. } => {}
                Event::Done(begun) => match &record.events[*begun] {
                    Event::Flush { disk } => self.flush(*disk, *begun),
                    Event::Write { disk, .. } => {
                        let found = self.volatile[*disk].iter_mut().find(|w| w.at == *begun);
                        found.into_iter().for_each(|w| w.complete = Some(self.at));
                    }
                    Event::Done(_) => {}
                },
            }
            self.at += 1;
        }
    }

    /// What was complete before a flush was submitted is durable.
    fn flush(&mut self, disk: usize, submitted: usize) {
        let image = &mut self.durable[disk];
        self.volatile[disk].retain(|write| {
            let durable = write.complete.is_some_and(|at| at < submitted);
            if durable {
                write.content.apply(image, write.offset, 0, write.content.len());
            }
            !durable
        });
    }

    /// How many writes are not durable now.
    #[must_use]
    pub fn unflushed(&self) -> usize {
        self.volatile.iter().map(Vec::len).sum()
    }

    /// Draws what a power cut now leaves of each write that is not durable.
    #[must_use]
    pub fn draw(&self, random: &dyn Random) -> Vec<Fate> {
        // Some cuts lose (almost) everything, some (almost) nothing: the interesting ones are not all in the middle.
        let kept_of_eight = random.next_u64() % 9;
        let fate = |write: &Volatile| match random.next_u64() % 8 < kept_of_eight {
            true => torn(write.content.len().div_ceil(SECTOR), random),
            false => Fate::Lost,
        };
        self.volatile.iter().flatten().map(fate).collect()
    }

    /// The disks after a power cut now, with these fates ([`Cuts::draw`]) of the writes that are not durable.
    #[must_use]
    pub fn cut(&self, fates: &[Fate]) -> Vec<Image> {
        let mut images = self.durable.clone();
        let mut fates = fates.iter();
        for (image, writes) in images.iter_mut().zip(&self.volatile) {
            for (write, fate) in writes.iter().zip(&mut fates) {
                let len = write.content.len();
                for i in (0..len.div_ceil(SECTOR)).filter(|i| fate.keeps(*i)) {
                    write.content.apply(image, write.offset, i * SECTOR, ((i + 1) * SECTOR).min(len));
                }
            }
        }
        images
    }

    /// The writes that are not durable, in the order of their fates: disk, offset and length.
    #[must_use]
    pub fn list_unflushed(&self) -> Vec<(usize, u64, usize)> {
        let disks = self.volatile.iter().enumerate();
        disks
            .flat_map(|(disk, writes)| writes.iter().map(move |w| (disk, w.offset, w.content.len())))
            .collect()
    }
}

/// What a power cut leaves of a write that was not flushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Nothing.
    Lost,
    /// All of it.
    Kept,
    /// These of its sectors.
    Torn(Vec<bool>),
}

impl Fate {
    fn keeps(&self, sector: usize) -> bool {
        match self {
            Fate::Lost => false,
            Fate::Kept => true,
            Fate::Torn(kept) => kept.get(sector).copied().unwrap_or(false),
        }
    }
}

impl core::fmt::Display for Fate {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Fate::Lost => f.write_str("lost"),
            Fate::Kept => f.write_str("kept"),
            Fate::Torn(kept) => {
                f.write_str("torn ")?;
                kept.iter().try_for_each(|k| f.write_str(if *k { "1" } else { "0" }))
            }
        }
    }
}

/// All or some of so many sectors.
fn torn(sectors: usize, random: &dyn Random) -> Fate {
    let at = random.next_u64() as usize % (sectors + 1);
    match random.next_u64() % 4 {
        // Only its beginning, only its end, or any of its sectors.
        0 => Fate::Torn((0..sectors).map(|i| i < at).collect()),
        1 => Fate::Torn((0..sectors).map(|i| i >= at).collect()),
        2 => Fate::Torn((0..sectors).map(|_| random.next_u64() & 1 == 1).collect()),
        _ => Fate::Kept,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{Batch, run};

    fn write(disk: &SimDisk, offset: u64, byte: u8, sectors: usize) {
        run(disk, Op::Write { offset, data: vec![byte; sectors * SECTOR].into() }).unwrap();
    }

    fn byte(image: &Image, offset: u64) -> u8 {
        let mut one = [0];
        image.read(offset, &mut one);
        one[0]
    }

    #[test]
    fn images_read_what_was_written_across_chunks() {
        let mut image = Image::new(1 << 20);
        let copy = image.clone();
        image.write(CHUNK as u64 - 512, &[7; 1024]);
        let mut buf = [1; 2048];
        image.read(CHUNK as u64 - 1024, &mut buf);
        assert!(buf[..512].iter().all(|b| *b == 0) && buf[512..1536].iter().all(|b| *b == 7));
        assert_eq!((image.written().count(), copy.written().count()), (2, 0));
    }

    #[test]
    fn flushed_writes_survive_and_others_may_be_lost_whole_or_in_part() {
        let log = SimLog::new();
        let disk = SimDisk::new(&log, 0, Image::new(1 << 20));
        log.start();
        write(&disk, 0, 1, 1);
        run(&disk, Op::Flush).unwrap();
        let flushed = log.now();
        write(&disk, 4096, 2, 8);
        let base = || vec![Image::new(1 << 20)];
        let mut seen = [false; 3];
        for seed in 0..200 {
            let mut cuts = Cuts::new(&log, base());
            cuts.advance(flushed);
            assert_eq!(byte(&cuts.cut(&[])[0], 4096), 0);
            cuts.advance(log.now());
            let image = &cuts.cut(&cuts.draw(&Seeded::new(seed)))[0];
            assert_eq!(byte(image, 0), 1, "what was flushed is there");
            match (0..8).filter(|i| byte(image, 4096 + i * 512) == 2).count() {
                0 => seen[0] = true,
                8 => seen[2] = true,
                _ => seen[1] = true,
            }
        }
        assert_eq!(seen, [true; 3], "lost, torn and whole");
    }

    #[test]
    fn a_flush_does_not_cover_writes_that_were_still_under_way() {
        let log = SimLog::new();
        log.start();
        let data = Bytes::from(vec![3; SECTOR]);
        let write = |offset| Event::Write { disk: 0, offset, content: Content::Bytes(data.clone()) };
        // The second write is complete only after the flush was submitted.
        let events =
            [write(0), Event::Done(0), write(512), Event::Flush { disk: 0 }, Event::Done(2), Event::Done(3)];
        log.record.lock().events.extend(events);
        let mut cuts = Cuts::new(&log, vec![Image::new(1 << 20)]);
        cuts.advance(6);
        assert_eq!((byte(&cuts.durable[0], 0), byte(&cuts.durable[0], 512)), (3, 0));
        assert_eq!(cuts.volatile[0].len(), 1);
    }

    #[test]
    fn a_discard_may_be_lost_or_done_in_part() {
        let log = SimLog::new();
        let mut base = Image::new(1 << 20);
        base.write(0, &vec![7; 64 << 10]);
        let disk = SimDisk::new(&log, 0, base.clone());
        log.start();
        assert!(run(&disk, Op::Discard { offset: 4096, len: 40 << 10 }).is_ok());
        assert_eq!((byte(&disk.image(), 4095), byte(&disk.image(), 4096)), (7, 0));
        let mut seen = [false; 3];
        for seed in 0..100 {
            let mut cuts = Cuts::new(&log, vec![base.clone()]);
            cuts.advance(log.now());
            let image = &cuts.cut(&cuts.draw(&Seeded::new(seed)))[0];
            assert_eq!((byte(image, 0), byte(image, 44 << 10)), (7, 7), "what lies around stays");
            match (0..80).filter(|i| byte(image, 4096 + i * 512) == 0).count() {
                0 => seen[0] = true,
                80 => seen[2] = true,
                _ => seen[1] = true,
            }
        }
        assert_eq!(seen, [true; 3], "lost, in part and whole");
    }

    #[test]
    fn disks_that_reorder_answer_everything() {
        let log = SimLog::reordering(5);
        let disks: Vec<_> = (0..2).map(|i| SimDisk::new(&log, i, Image::new(1 << 20))).collect();
        log.start();
        let batch = Batch::new();
        for i in 0..40u64 {
            let data = vec![i as u8 + 1; SECTOR].into();
            batch.submit(&disks[i as usize % 2], Op::Write { offset: i * 512, data });
        }
        assert!(batch.wait().iter().all(Outcome::is_ok));
        assert_eq!((byte(&disks[1].image(), 39 * 512), log.now()), (40, 80));
        disks[0].lose();
        assert_eq!(run(&disks[0], Op::Flush), Err(BlockError::Gone));
    }
}
