//! Transactions and transaction groups. Source: `txg.c`, `dmu_tx.c`.
//!
//! At any time one txg is open; up to two older ones may be closed: one waiting (its holds run out, "quiescing") and
//! one syncing. The state of txg N lives in slot `N % 4` everywhere.
//!
//! # Invariants
//! - `synced < open`, and at most two txgs lie between them: three slots are in use, never four.
//! - A txg closes only in [`Txgs::begin`] (size) or in [`Txgs::quiesce`] (request, timer): with the timer off, txg
//!   boundaries depend only on the order of calls.
//! - With the timer on, writers never wait for a whole txg: see [`super::throttle`].

use crate::dmu::Objset;
use crate::dmu::throttle::{self, DIRTY_TXGS, History, Throttle, TxStats, TxgRecord, TxgTimes};
use crate::error::{Error, Result};
use crate::ondisk::blkptr::MIN_BLOCK_SIZE;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use platform::sync::{Condvar, Mutex, MutexGuard, RwLock};
use platform::thread::scheduler;

/// Number of slots for per-txg state (`TXG_SIZE`).
pub const TXG_SIZE: usize = 4;

/// The slot of a txg's state.
#[must_use]
pub(crate) fn slot_of(txg: u64) -> usize {
    (txg % TXG_SIZE as u64) as usize
}

/// Limits of the transaction machinery.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of dirty data at which the open txg closes. With the timer on, [`throttle::DIRTY_TXGS`] times as many bytes may be
    /// dirty in all txgs together (`zfs_dirty_data_max`); with the timer off a txg never gets larger.
    pub dirty_max: u64,
    /// Nanoseconds after which a dirty open txg closes by itself; `None`: only by size or request.
    pub timeout_ns: Option<u64>,
}

/// Whether there is room for a change. Implemented by `spa` (pool) and `dsl` (quotas).
pub trait SpaceCheck: Send + Sync {
    /// `reserve` bytes are about to be written, `pending` bytes are dirty or reserved and not yet on disk.
    /// `net_free` marks a change that frees more than it writes (removal): it may use the slop space.
    fn check(&self, reserve: u64, pending: u64, net_free: bool) -> Result<()>;
}

/// Objsets that are dirty in a txg, in the order of their ids.
pub type DirtyObjsets = Vec<Arc<Objset>>;

/// A txg that nobody holds any more and that can be synced.
pub struct Quiesced {
    /// The txg.
    pub txg: u64,
    /// What it changed.
    pub dirty_objsets: DirtyObjsets,
}

#[derive(Default)]
struct Group {
    holds: u64,
    dirty: u64,
    /// What of `dirty` is on disk already.
    written: u64,
    times: TxgTimes,
    objsets: BTreeMap<u64, Arc<Objset>>,
}

struct State {
    open: u64,
    synced: u64,
    syncing: Option<u64>,
    /// The highest txg that somebody wants on disk.
    requested: u64,
    /// When the open txg became dirty, on the scheduler's clock.
    dirty_since: Option<u64>,
    groups: [Group; TXG_SIZE],
    reserved: u64,
    failed: Option<Error>,
    shut_down: bool,
    limits: Limits,
    throttle: Throttle,
    history: History,
}

impl State {
    /// The closed txg that the sync thread has not taken yet.
    fn waiting(&self) -> Option<u64> {
        let next = self.syncing.unwrap_or(self.synced) + 1;
        (next < self.open).then_some(next)
    }

    fn close(&mut self) {
        let now = scheduler().monotonic_ns();
        self.groups[slot_of(self.open)].times.closed = now;
        self.open += 1;
        self.groups[slot_of(self.open)].times.opened = now;
        self.dirty_since = None;
    }

    /// Bytes that are dirty and not yet on disk, in all txgs.
    fn unwritten(&self) -> u64 {
        self.groups.iter().map(|g| g.dirty.saturating_sub(g.written)).sum()
    }

    fn pending(&self) -> u64 {
        self.reserved + self.groups.iter().map(|g| g.dirty).sum::<u64>()
    }
}

/// The open, the quiescing and the syncing txg of a pool.
pub struct Txgs {
    state: Mutex<State>,
    /// For the sync thread.
    work: Condvar,
    /// For those who wait for a sync.
    done: Condvar,
    check: RwLock<Option<Arc<dyn SpaceCheck>>>,
    /// What the smallest block takes on disk, in bytes.
    block_min: AtomicU64,
}

impl Txgs {
    /// A pool whose last synced txg is `last_synced`; the next one is open.
    #[must_use]
    pub fn new(last_synced: u64, limits: Limits) -> Arc<Txgs> {
        Arc::new(Txgs {
            state: Mutex::new(State {
                open: last_synced + 1,
                synced: last_synced,
                syncing: None,
                requested: 0,
                dirty_since: None,
                groups: Default::default(),
                reserved: 0,
                failed: None,
                shut_down: false,
                limits,
                throttle: Throttle::default(),
                history: History::default(),
            }),
            work: Condvar::new(),
            done: Condvar::new(),
            check: RwLock::new(None),
            block_min: AtomicU64::new(MIN_BLOCK_SIZE),
        })
    }

    /// Installs the pool's space check.
    pub fn set_space_check(&self, check: Box<dyn SpaceCheck>) {
        *self.check.write() = Some(Arc::from(check));
    }

    /// Says what the smallest block takes on disk, in bytes: many small ones must not be counted as less.
    pub fn set_block_min(&self, bytes: u64) {
        self.block_min.store(bytes.max(MIN_BLOCK_SIZE), Ordering::Relaxed);
    }

    /// Changes the limits.
    pub fn set_limits(&self, limits: Limits) {
        self.state.lock().limits = limits;
        self.work.notify_all();
    }

    /// Joins the open txg, having asked for `reserve` bytes of space: at least an upper bound of what the caller will
    /// dirty. Closes the open txg first if it is over its limit, and waits if the older ones are not done.
    /// A thread must not begin a second tx while it holds one.
    pub fn begin(self: &Arc<Self>, reserve: u64) -> Result<Tx> {
        self.join(reserve, false)
    }

    /// As [`Txgs::begin`], for a change that in the end frees space.
    pub fn begin_net_free(self: &Arc<Self>, reserve: u64) -> Result<Tx> {
        self.join(reserve, true)
    }

    fn join(self: &Arc<Self>, reserve: u64, net_free: bool) -> Result<Tx> {
        let check = self.check.read().clone();
        if let Some(check) = check
            && let Err(error) = check.check(reserve, self.pending_bytes(), net_free)
        {
            // What is pending is counted as if it did not compress, and what was freed is not free yet.
            if error != Error::NoSpace || self.pending_bytes() == 0 {
                return Err(error);
            }
            let txg = self.request_sync();
            self.wait_synced(txg)?;
            check.check(reserve, self.pending_bytes(), net_free)?;
        }
        let mut state = self.state.lock();
        let mut delayed = false;
        loop {
            if let Some(error) = &state.failed {
                return Err(error.clone());
            }
            let full = state.groups[slot_of(state.open)].dirty >= state.limits.dirty_max;
            if full && state.waiting().is_none() {
                state.close();
                self.work.notify_all();
                continue;
            }
            if state.limits.timeout_ns.is_none() {
                if !full {
                    break;
                }
                state = self.done.wait(state);
                continue;
            }
            // The intent log reserves nothing: who waits for it must not wait for a txg as well.
            if net_free && reserve == 0 {
                break;
            }
            let (dirty, max) = (state.unwritten(), state.limits.dirty_max.saturating_mul(DIRTY_TXGS));
            if dirty >= max {
                state.throttle.stats.dirty_over_max += 1;
                state = self.done.wait(state);
                continue;
            }
            match state.throttle.delay(dirty, max, scheduler().monotonic_ns()) {
                Some(until) if !delayed => {
                    drop(state);
                    throttle::sleep_until(until);
                    delayed = true;
                    state = self.state.lock();
                }
                _ => break,
            }
        }
        state.throttle.stats.assigned += 1;
        let txg = state.open;
        state.groups[slot_of(txg)].holds += 1;
        state.reserved += reserve;
        drop(state);
        Ok(Tx { txgs: Arc::clone(self), txg, reserve, syncing: false })
    }

    /// The open txg.
    #[must_use]
    pub fn open_txg(&self) -> u64 {
        self.state.lock().open
    }

    /// The last txg that is on disk.
    #[must_use]
    pub fn synced_txg(&self) -> u64 {
        self.state.lock().synced
    }

    /// The txg that the sync thread is writing.
    #[must_use]
    pub fn syncing_txg(&self) -> Option<u64> {
        self.state.lock().syncing
    }

    /// Asks for the open txg to be synced soon; answers which it is. See [`Txgs::wait_synced`].
    pub fn request_sync(&self) -> u64 {
        let mut state = self.state.lock();
        let txg = state.open;
        state.requested = state.requested.max(txg);
        drop(state);
        self.work.notify_all();
        txg
    }

    /// Sleeps until `txg` is on disk, asking for it if nobody has. An error if the pool failed ([`Txgs::fail`]) before.
    pub fn wait_synced(&self, txg: u64) -> Result<()> {
        let mut state = self.state.lock();
        let txg = txg.min(state.open);
        if state.requested < txg && state.synced < txg {
            state.requested = txg;
            self.work.notify_all();
        }
        while state.synced < txg {
            if let Some(error) = &state.failed {
                return Err(error.clone());
            }
            state = self.done.wait(state);
        }
        Ok(())
    }

    /// For the sync thread: sleeps until a txg has to be synced (size, request, timer) and nobody holds it.
    /// `None` after [`Txgs::shut_down`] once nothing is left to do, and after [`Txgs::fail`].
    pub fn quiesce(&self) -> Option<Quiesced> {
        let mut state = self.state.lock();
        loop {
            if state.failed.is_some() {
                return None;
            }
            if let Some(txg) = state.waiting() {
                let group = &mut state.groups[slot_of(txg)];
                if group.holds == 0 {
                    let dirty_objsets = core::mem::take(&mut group.objsets).into_values().collect();
                    state.groups[slot_of(txg)].times.taken = scheduler().monotonic_ns();
                    state.syncing = Some(txg);
                    // Those that wait to close the next txg can do so now.
                    self.done.notify_all();
                    return Some(Quiesced { txg, dirty_objsets });
                }
                state = self.work.wait(state);
                continue;
            }
            if state.requested >= state.open {
                state.close();
                continue;
            }
            if state.shut_down {
                return None;
            }
            state = self.wait_for_work(state);
        }
    }

    fn wait_for_work<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let Some(timeout) = state.limits.timeout_ns else { return self.work.wait(state) };
        let Some(since) = state.dirty_since else { return self.work.wait(state) };
        let elapsed = scheduler().monotonic_ns().saturating_sub(since);
        if elapsed >= timeout {
            state.close();
            return state;
        }
        self.work.wait_timeout(state, timeout - elapsed).0
    }

    /// Objsets that became dirty in `txg` since the last call: in syncing context (new datasets).
    pub fn take_dirty(&self, txg: u64) -> DirtyObjsets {
        let mut state = self.state.lock();
        core::mem::take(&mut state.groups[slot_of(txg)].objsets).into_values().collect()
    }

    /// The sync thread is done with `txg`.
    pub fn synced(&self, txg: u64) {
        let mut state = self.state.lock();
        assert_eq!(state.syncing, Some(txg), "only the syncing txg can become synced");
        state.syncing = None;
        state.synced = txg;
        let group = core::mem::take(&mut state.groups[slot_of(txg)]);
        state.history.push(txg, group.dirty, group.times, scheduler().monotonic_ns());
        drop(state);
        self.done.notify_all();
    }

    /// The pool cannot be written any more: all waiters and all later [`Txgs::begin`] get `error`.
    pub fn fail(&self, error: Error) {
        self.state.lock().failed.get_or_insert(error);
        self.done.notify_all();
        self.work.notify_all();
    }

    /// Why the pool failed, if it did.
    #[must_use]
    pub fn failure(&self) -> Option<Error> {
        self.state.lock().failed.clone()
    }

    /// [`Txgs::quiesce`] answers `None` from now on, once what was requested is done.
    pub fn shut_down(&self) {
        self.state.lock().shut_down = true;
        self.work.notify_all();
    }

    /// Bytes that are dirty or reserved and not yet on disk.
    #[must_use]
    pub fn pending_bytes(&self) -> u64 {
        self.state.lock().pending()
    }

    /// Of the dirty data of `txg`, `bytes` bytes are on disk now.
    pub(crate) fn wrote(&self, txg: u64, bytes: u64) {
        let mut state = self.state.lock();
        let group = &mut state.groups[slot_of(txg)];
        group.written = group.written.saturating_add(bytes).min(group.dirty);
        let throttled = state.limits.timeout_ns.is_some();
        drop(state);
        if throttled {
            self.done.notify_all();
        }
    }

    /// How transactions fared so far.
    #[must_use]
    pub fn tx_stats(&self) -> TxStats {
        self.state.lock().throttle.stats
    }

    /// The last txgs that were synced, oldest first.
    #[must_use]
    pub fn history(&self) -> Vec<TxgRecord> {
        self.state.lock().history.records()
    }

    /// Counts a new dirty block of `size` bytes.
    pub(crate) fn add_dirty_block(&self, txg: u64, size: u64) {
        self.add_dirty(txg, size.next_multiple_of(self.block_min.load(Ordering::Relaxed)));
    }

    /// Counts `bytes` of new dirty data.
    pub(crate) fn add_dirty(&self, txg: u64, bytes: u64) {
        let mut state = self.state.lock();
        state.groups[slot_of(txg)].dirty += bytes;
        if txg == state.open && state.dirty_since.is_none() {
            state.dirty_since = Some(scheduler().monotonic_ns());
            let timed = state.limits.timeout_ns.is_some();
            drop(state);
            if timed {
                self.work.notify_all();
            }
        }
    }

    /// `objset` has its first change in `txg`.
    pub(crate) fn add_objset(&self, txg: u64, objset: Arc<Objset>) {
        self.state.lock().groups[slot_of(txg)].objsets.insert(objset.id(), objset);
    }
}

/// A hold on a txg: what is changed with it gets on disk together or not at all. Dropping it commits.
pub struct Tx {
    txgs: Arc<Txgs>,
    txg: u64,
    reserve: u64,
    syncing: bool,
}

impl Tx {
    /// For the sync thread: changes that belong to the txg that is being synced.
    #[must_use]
    pub fn syncing(txgs: &Arc<Txgs>, txg: u64) -> Tx {
        Tx { txgs: Arc::clone(txgs), txg, reserve: 0, syncing: true }
    }

    /// The txg.
    #[must_use]
    pub fn txg(&self) -> u64 {
        self.txg
    }

    /// Whether it belongs to the sync thread.
    #[must_use]
    pub fn is_syncing(&self) -> bool {
        self.syncing
    }

    /// The pool's txgs.
    #[must_use]
    pub fn txgs(&self) -> &Arc<Txgs> {
        &self.txgs
    }
}

impl Drop for Tx {
    fn drop(&mut self) {
        if self.syncing {
            return;
        }
        let mut state = self.txgs.state.lock();
        state.reserved -= self.reserve;
        let closed = self.txg < state.open;
        let group = &mut state.groups[slot_of(self.txg)];
        group.holds -= 1;
        let last = group.holds == 0 && closed;
        drop(state);
        if last {
            self.txgs.work.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { dirty_max: 1000, timeout_ns: None };

    #[test]
    fn a_full_txg_closes_in_begin() {
        let txgs = Txgs::new(10, LIMITS);
        let tx = txgs.begin(5).unwrap();
        assert_eq!((tx.txg(), txgs.pending_bytes()), (11, 5));
        txgs.add_dirty(11, 1000);
        drop(tx);
        assert_eq!((txgs.begin(0).unwrap().txg(), txgs.pending_bytes()), (12, 1000));
        assert_eq!(txgs.quiesce().unwrap().txg, 11);
        txgs.synced(11);
        assert_eq!((txgs.synced_txg(), txgs.pending_bytes()), (11, 0));
        assert!(txgs.wait_synced(11).is_ok());
    }

    #[test]
    fn with_the_timer_on_a_writer_goes_on_beside_a_full_txg_and_waits_only_for_blocks() {
        let txgs = Txgs::new(0, Limits { timeout_ns: Some(1 << 60), ..LIMITS });
        txgs.add_dirty(1, 1000);
        assert_eq!(txgs.begin(0).unwrap().txg(), 2);
        // Txg 1 waits for the sync thread; with the timer off, this would wait for it.
        txgs.add_dirty(2, 1500);
        assert_eq!(txgs.begin(0).unwrap().txg(), 2);
        assert_eq!(txgs.quiesce().unwrap().txg, 1);
        txgs.add_dirty(2, 500);
        let waiter = {
            let txgs = Arc::clone(&txgs);
            std::thread::spawn(move || txgs.begin(0).unwrap().txg())
        };
        while txgs.tx_stats().dirty_over_max == 0 {
            std::thread::yield_now();
        }
        assert_eq!(txgs.begin_net_free(0).unwrap().txg(), 3, "the intent log does not wait");
        txgs.wrote(1, 400);
        assert_eq!(waiter.join().unwrap(), 3);
        txgs.synced(1);
        assert!(txgs.tx_stats().delayed >= 1);
        let history = txgs.history();
        assert_eq!((history.len(), history[0].txg, history[0].dirty), (1, 1, 1000));
    }

    #[test]
    fn a_held_txg_is_not_synced_before_its_tx_ends() {
        let txgs = Txgs::new(0, LIMITS);
        let tx = txgs.begin(0).unwrap();
        txgs.request_sync();
        let waiter = {
            let txgs = Arc::clone(&txgs);
            std::thread::spawn(move || {
                let txg = txgs.quiesce().unwrap().txg;
                txgs.synced(txg);
                txg
            })
        };
        while txgs.open_txg() == 1 {
            std::thread::yield_now();
        }
        assert_eq!(txgs.syncing_txg(), None);
        drop(tx);
        txgs.wait_synced(1).unwrap();
        assert_eq!(waiter.join().unwrap(), 1);
    }

    #[test]
    fn a_failed_pool_tells_everybody() {
        let txgs = Txgs::new(0, LIMITS);
        txgs.fail(Error::NoSpace);
        assert_eq!(txgs.begin(0).err(), Some(Error::NoSpace));
        assert_eq!(txgs.wait_synced(1), Err(Error::NoSpace));
        assert!(txgs.quiesce().is_none());
    }

    #[test]
    fn shutting_down_ends_the_sync_thread() {
        let txgs = Txgs::new(0, LIMITS);
        txgs.request_sync();
        txgs.shut_down();
        assert_eq!(txgs.quiesce().unwrap().txg, 1);
        txgs.synced(1);
        assert!(txgs.quiesce().is_none());
    }
}
