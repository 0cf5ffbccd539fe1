//! What the dataset layer needs from the pool above it.
//!
//! # Invariants
//! - The implementor must not own the [`super::DslPool`]: that would be a cycle of references.

use crate::dmu::Tx;
use crate::error::Result;
use crate::ondisk::blkptr::Blkptr;
use alloc::boxed::Box;
use platform::Env;

/// How much of the slop space an operation may use (`zfs_space_check_t`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slop {
    /// Ordinary writes: none of it.
    Normal,
    /// Snapshots, property changes: half of it.
    Reserved,
    /// Destroys: three quarters of it.
    ExtraReserved,
    /// All of it.
    None,
}

/// What the sync thread is to do; see [`SpaHost::sync_task`].
pub type SyncTask = Box<dyn FnOnce(&Tx) -> Result<()> + Send>;

/// The pool, as datasets see it. Implemented by `spa`.
pub trait SpaHost: Send + Sync {
    /// Frees every address of a block as of `tx`'s txg (`zio_free`): deferred by whatever rule keeps it readable for the uberblocks
    /// that may still be chosen.
    fn free_block(&self, tx: &Tx, bp: &Blkptr);

    /// Allocated bytes as accounting counts them, without parity (`bp_get_dsize`). On mirrors and disks the asize.
    fn dsize(&self, bp: &Blkptr) -> u64 {
        bp.asize()
    }

    /// Space that datasets may fill in all, in bytes (`dsl_pool_adjustedsize`).
    fn adjusted_size(&self, check: Slop) -> u64;

    /// Queues `task` for the sync thread, if the pool has more room than `slop` keeps back, and waits until the txg in which it ran is synced. Its error is the task's, which
    /// must change nothing before its last check (`dsl_sync_task`).
    fn sync_task(&self, slop: Slop, task: SyncTask) -> Result<()>;

    /// The pool's SPA version (5000 with features).
    fn version(&self) -> u64;
    /// Whether a feature is enabled, by guid name (`com.delphix:empty_bpobj`).
    fn feature_enabled(&self, feature: &str) -> bool;
    /// Whether a feature is active.
    fn feature_active(&self, feature: &str) -> bool;
    /// Changes the number of a feature's users. Syncing context.
    fn feature_add(&self, tx: &Tx, feature: &str, delta: i64) -> Result<()>;
    /// One more user of a feature (`spa_feature_incr`). Syncing context.
    fn feature_incr(&self, tx: &Tx, feature: &str) -> Result<()> {
        self.feature_add(tx, feature, 1)
    }
    /// One user less (`spa_feature_decr`). Syncing context.
    fn feature_decr(&self, tx: &Tx, feature: &str) -> Result<()> {
        self.feature_add(tx, feature, -1)
    }

    /// An internal line of the pool's history (`spa_history_log_internal`): `dataset` is its object number, 0 for none.
    fn log_internal(&self, tx: &Tx, event: &str, dataset: u64, name: &str, text: &str) -> Result<()>;

    /// A head is gone: the pool's error log forgets what it lists of it (`spa_delete_dataset_errlog`). Syncing context.
    fn forget_errors(&self, tx: &Tx, head: u64) -> Result<()>;
    /// Snapshots went from one head to another, the last of them of txg `until`: what the error log lists of blocks in these follows
    /// (`spa_swap_errlog`). Syncing context.
    fn move_errors(&self, tx: &Tx, from: u64, to: u64, until: u64) -> Result<()>;

    /// Clock and randomness.
    fn env(&self) -> &Env;
    /// Whether nothing may be written.
    fn read_only(&self) -> bool;
    /// Stripes, default checksum and the like may depend on it: the pool's name, first component of every dataset name.
    fn pool_name(&self) -> alloc::string::String;
}
