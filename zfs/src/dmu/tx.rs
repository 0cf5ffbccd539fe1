//! Transactions and transaction groups. Source: `txg.c`, `dmu_tx.c`.
//!
//! At any time one txg is open; up to two older ones may be closed: one waiting (its holds run out, "quiescing") and
//! one syncing. The state of txg N lives in slot `N % 4` everywhere.

use crate::dmu::Objset;
use crate::error::{Error, Result};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Number of slots for per-txg state (`TXG_SIZE`).
pub const TXG_SIZE: usize = 4;

/// Limits of the transaction machinery.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of dirty data at which the open txg closes.
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

/// The open, the quiescing and the syncing txg of a pool.
pub struct Txgs {}

impl Txgs {
    /// A pool whose last synced txg is `last_synced`; the next one is open.
    #[must_use]
    pub fn new(last_synced: u64, limits: Limits) -> Arc<Txgs> {
        let _ = (last_synced, limits);
        todo!()
    }

    /// Installs the pool's space check.
    pub fn set_space_check(&self, check: Box<dyn SpaceCheck>) {
        let _ = check;
        todo!()
    }

    /// Joins the open txg, having asked for `reserve` bytes of space: at least an upper bound of what the caller will
    /// dirty. Closes the open txg first if it is over its limit, and waits if the older ones are not done.
    /// A thread must not begin a second tx while it holds one.
    pub fn begin(self: &Arc<Self>, reserve: u64) -> Result<Tx> {
        let _ = reserve;
        todo!()
    }

    /// As [`Txgs::begin`], for a change that in the end frees space.
    pub fn begin_net_free(self: &Arc<Self>, reserve: u64) -> Result<Tx> {
        let _ = reserve;
        todo!()
    }

    /// The open txg.
    #[must_use]
    pub fn open_txg(&self) -> u64 {
        todo!()
    }

    /// The last txg that is on disk.
    #[must_use]
    pub fn synced_txg(&self) -> u64 {
        todo!()
    }

    /// Asks for the open txg to be synced soon; answers which it is. See [`Txgs::wait_synced`].
    pub fn request_sync(&self) -> u64 {
        todo!()
    }

    /// Sleeps until `txg` is on disk. An error if the pool failed ([`Txgs::fail`]) before.
    pub fn wait_synced(&self, txg: u64) -> Result<()> {
        let _ = txg;
        todo!()
    }

    /// For the sync thread: sleeps until a txg has to be synced (size, request, timer) and nobody holds it.
    /// `None` after [`Txgs::shut_down`] once nothing is left to do.
    pub fn quiesce(&self) -> Option<Quiesced> {
        todo!()
    }

    /// Objsets that became dirty in `txg` since the last call: in syncing context (new datasets).
    pub fn take_dirty(&self, txg: u64) -> DirtyObjsets {
        let _ = txg;
        todo!()
    }

    /// The sync thread is done with `txg`.
    pub fn synced(&self, txg: u64) {
        let _ = txg;
        todo!()
    }

    /// The pool cannot be written any more: all waiters and all later [`Txgs::begin`] get `error`.
    pub fn fail(&self, error: Error) {
        let _ = error;
        todo!()
    }

    /// [`Txgs::quiesce`] answers `None` from now on.
    pub fn shut_down(&self) {
        todo!()
    }

    /// Bytes that are dirty or reserved and not yet on disk.
    #[must_use]
    pub fn pending_bytes(&self) -> u64 {
        todo!()
    }
}

/// A hold on a txg: what is changed with it gets on disk together or not at all. Dropping it commits.
pub struct Tx {
    txg: u64,
}

impl Tx {
    /// For the sync thread: changes that belong to the txg that is being synced.
    #[must_use]
    pub fn syncing(txgs: &Arc<Txgs>, txg: u64) -> Tx {
        let _ = txgs;
        Tx { txg }
    }

    /// The txg.
    #[must_use]
    pub fn txg(&self) -> u64 {
        self.txg
    }

    /// Whether it belongs to the sync thread.
    #[must_use]
    pub fn is_syncing(&self) -> bool {
        todo!()
    }
}
