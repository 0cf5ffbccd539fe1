//! A volume that is written to: like a disk with a cache that can be flushed. Its intent log is that of a file system, with records of
//! writes and discards alone. Source: `zvol_write`, `zvol_discard`, `zvol_replay_vector` (`module/zfs/zvol.c`).
//!
//! # Lock order
//! byte ranges → transaction.

use super::{Zvol, size_of};
use crate::dmu::{RangeLock, Tx};
use crate::dsl::volume::DATA_OBJECT;
use crate::dsl::{Dataset, Follow, Owned};
use crate::error::{Error, Result};
use crate::ondisk::bookmark::Bookmark;
use crate::ondisk::zil::Record;
use crate::spa::Pool;
use crate::zil::{InPlace, Log, LogPolicy, Payload, ReadForLog, SyncMode, place_range};
use crate::zpl::Durability;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::ops::Deref;
use core::sync::atomic::{AtomicBool, Ordering};
use platform::sync::Mutex;

/// How much one transaction writes at most, in bytes.
const CHUNK: usize = 4 << 20;
/// Space that a small change of metadata may dirty, in bytes.
const RESERVE_METADATA: u64 = 64 << 10;

/// A volume, open for reading and writing: by one at a time. Dropping it without [`OpenZvol::close`] is like cutting the power.
pub struct OpenZvol {
    volume: Zvol,
    pool: Arc<Pool>,
    dataset: Arc<Dataset>,
    ranges: RangeLock,
    log: Arc<Log>,
    policy: LogPolicy,
    /// The property `readonly`, or closed.
    frozen: AtomicBool,
    closed: AtomicBool,
    owned: Mutex<Option<Owned>>,
}

impl Deref for OpenZvol {
    type Target = Zvol;

    fn deref(&self) -> &Zvol {
        &self.volume
    }
}

impl OpenZvol {
    /// Opens a volume, and replays what its intent log holds.
    ///
    /// # Errors
    /// [`Error::Busy`] (it is open for writing), [`Error::ReadOnly`] (a snapshot, a read-only pool, the property `readonly`),
    /// [`Error::Invalid`] (no volume), [`Error::Unsupported`] (an encrypted one).
    pub fn open(pool: &Arc<Pool>, dataset: Arc<Dataset>) -> Result<Arc<OpenZvol>> {
        let number = |name: &str| dataset.get_number(name).ok();
        if pool.is_read_only() || dataset.is_snapshot() || number("readonly").unwrap_or(0) != 0 {
            return Err(Error::ReadOnly);
        }
        if dataset.root_bp().uses_crypt() {
            // Before its log is looked at: what cannot be replayed must stay.
            return Err(Error::unsupported("writing to an encrypted dataset"));
        }
        let owned = dataset.own()?;
        let os = dataset.objset()?;
        let volume = Zvol::open(Arc::clone(&os))?;
        let policy = LogPolicy::default();
        policy.apply(&number);
        let log = Log::open(Arc::clone(&os), Arc::<Pool>::clone(pool));
        let open = Arc::new(OpenZvol {
            volume,
            pool: Arc::clone(pool),
            ranges: RangeLock::default(),
            log,
            policy,
            frozen: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            owned: Mutex::new(Some(owned)),
            dataset,
        });
        if let Err(error) = open.log.recover(&mut |record| open.apply(record)) {
            // A log that was not emptied stays for the next time.
            os.set_sync_hook(None);
            return Err(error);
        }
        let reader: Weak<OpenZvol> = Arc::downgrade(&open);
        open.log.set_reader(reader);
        let follower: Weak<OpenZvol> = Arc::downgrade(&open);
        open.dataset.follow(follower);
        Ok(open)
    }

    /// The dataset.
    #[must_use]
    pub fn dataset(&self) -> &Arc<Dataset> {
        &self.dataset
    }

    /// Commits everything and empties the intent log. Calls that change something fail from now on.
    pub fn close(&self) -> Result<()> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let closed = self.log.close();
        *self.owned.lock() = None;
        closed
    }

    /// Writes at byte `offset`; with [`Durability::Now`] (`FUA`) it is on disk when this returns.
    ///
    /// # Errors
    /// [`Error::TooBig`]: it would reach past the end; nothing is written.
    pub fn write(&self, offset: u64, data: &[u8], durability: Durability) -> Result<()> {
        self.check(offset, data.len() as u64)?;
        {
            let _range = self.ranges.exclusive(offset, offset + data.len() as u64);
            let mut at = offset;
            for chunk in data.chunks(CHUNK) {
                let reserve = chunk.len() as u64 + 2 * u64::from(self.block_size()) + RESERVE_METADATA;
                let tx = self.data.objset().begin(reserve)?;
                self.data.write(&tx, at, chunk)?;
                let len = chunk.len() as u64;
                self.note(&tx, Payload::Write { object: DATA_OBJECT, generation: 0, offset: at, len });
                at += len;
            }
        }
        self.settle(durability)
    }

    /// Makes `len` bytes from `offset` read as zeros and gives back their space (`DISCARD`, `WRITE_ZEROES`).
    ///
    /// # Errors
    /// As [`OpenZvol::write`].
    pub fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.check(offset, len)?;
        if len == 0 {
            return Ok(());
        }
        {
            let _range = self.ranges.exclusive(offset, offset + len);
            self.free(offset, len)?;
        }
        self.settle(Durability::Later)
    }

    /// Makes everything written so far durable.
    pub fn flush(&self) -> Result<()> {
        match self.policy.sync_mode() {
            SyncMode::Disabled => Ok(()),
            _ => self.log.commit(None),
        }
    }

    fn check(&self, offset: u64, len: u64) -> Result<()> {
        if self.closed.load(Ordering::Acquire) || self.frozen.load(Ordering::Acquire) {
            return Err(Error::ReadOnly);
        }
        let end = offset.checked_add(len).filter(|&end| end <= self.size());
        end.map(|_| ()).ok_or(Error::TooBig)
    }

    fn note(&self, tx: &Tx, payload: Payload) {
        self.log.assign(tx, Some(DATA_OBJECT), payload);
    }

    fn free(&self, offset: u64, len: u64) -> Result<()> {
        let tx = self.data.objset().begin(2 * u64::from(self.block_size()) + RESERVE_METADATA)?;
        self.data.free_range(&tx, offset, len)?;
        self.note(&tx, Payload::Record(Record::Truncate { object: DATA_OBJECT, offset, len }.emit()));
        Ok(())
    }

    fn settle(&self, durability: Durability) -> Result<()> {
        match self.policy.sync_mode() {
            SyncMode::Always => self.log.commit(None),
            SyncMode::Standard if durability == Durability::Now => self.log.commit(None),
            _ => Ok(()),
        }
    }

    /// Does what a record of the log says, in one transaction.
    fn apply(&self, record: &Record) -> Result<()> {
        match record {
            Record::Write { offset, len, bp, data, .. } => {
                let whole;
                let (offset, data) = if data.is_empty() && !bp.is_hole() {
                    let os = self.data.objset();
                    let at = Bookmark { objset: os.id(), object: DATA_OBJECT, level: 0, blkid: 0 };
                    whole = os.zio().read_uncached(bp, at)?;
                    // A whole block was written in place, whatever part of it the record is about.
                    let size = (whole.len() as u64).max(1);
                    (if *len < size { offset - offset % size } else { *offset }, &whole[..])
                } else {
                    (*offset, &data[..])
                };
                // The volume may have been made smaller since.
                let room = usize::try_from(self.size().saturating_sub(offset)).unwrap_or(usize::MAX);
                let data = &data[..data.len().min(room)];
                let tx = self.data.objset().begin(data.len() as u64 + RESERVE_METADATA)?;
                self.data.write(&tx, offset, data)?;
                self.note(&tx, Payload::Barrier);
                Ok(())
            }
            Record::Truncate { offset, len, .. } => self.free(*offset, *len),
            Record::CloneRange { offset, block_size, bps, .. } => {
                let size = u64::from(self.block_size());
                if *block_size != size || !offset.is_multiple_of(size) {
                    return Err(Error::Invalid("a clone of blocks of another size"));
                }
                // The volume may have been made smaller since.
                let room = self.size().saturating_sub(*offset).div_ceil(size);
                let bps = &bps[..bps.len().min(usize::try_from(room).unwrap_or(usize::MAX))];
                let tx = self.data.objset().begin(RESERVE_METADATA)?;
                self.pool.clone_blocks(&tx, &self.data, offset / size, bps)?;
                self.note(&tx, Payload::Barrier);
                Ok(())
            }
            other => Err(Error::unsupported(alloc::format!("log record type {} of a volume", other.kind()))),
        }
    }
}

impl Follow for OpenZvol {
    fn properties_changed(&self, number: &dyn Fn(&str) -> Option<u64>) {
        self.policy.apply(number);
        self.frozen.store(number("readonly").unwrap_or(0) != 0, Ordering::Release);
        // If it cannot be read, it did not change either.
        if let Ok(size) = size_of(&self.data.objset()) {
            self.volume.size.store(size, Ordering::Release);
        }
    }
}

impl ReadForLog for OpenZvol {
    fn place_for_log(
        &self,
        _object: u64,
        _generation: u64,
        offset: u64,
        len: u64,
    ) -> Result<Option<Vec<InPlace>>> {
        let os = self.data.objset();
        if os.root().uses_crypt() || len == 0 || !self.policy.in_place(len, || self.pool.has_log_device()) {
            return Ok(None);
        }
        let _range = self.ranges.shared(offset, offset.saturating_add(len));
        let tx = os.begin_net_free(0)?;
        place_range(&self.data, &tx, self.pool.alloc(), offset..offset.saturating_add(len))
    }

    fn read_for_log(
        &self,
        _object: u64,
        _generation: u64,
        offset: u64,
        len: usize,
    ) -> Result<Option<Vec<u8>>> {
        let _range = self.ranges.shared(offset, offset.saturating_add(len as u64));
        let mut data = alloc::vec![0; len];
        let got = self.volume.read(offset, &mut data)?;
        data.truncate(got);
        Ok(Some(data))
    }
}
