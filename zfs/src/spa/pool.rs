//! The pool as everybody above holds it.

use super::options::{CreateOptions, ImportOptions};
use super::report::{DamagedFile, HistoryRecord, Progress, VerifyReport};
use crate::dmu::{Objset, Tx, Txgs};
use crate::dsl::{DslPool, Slop};
use crate::error::Result;
use crate::ondisk::blkptr::Blkptr;
use crate::ondisk::nvlist::NvList;
use crate::zio::{AllocateBlocks, Zio};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use platform::Env;
use platform::block::BlockDevice;

/// A pool's space, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Space {
    /// Size of its normal vdevs.
    pub size: u64,
    /// Allocated.
    pub allocated: u64,
    /// Not allocated (`zpool list`'s FREE, which counts slop space as free).
    pub free: u64,
    /// Waiting to be freed by destroys.
    pub freeing: u64,
    /// Fragmentation of the free space in percent; `None` if the space maps have no histograms.
    pub fragmentation: Option<u8>,
}

/// How a feature stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeatureState {
    /// Not in the pool.
    Disabled,
    /// May be used.
    Enabled,
    /// Is used on disk.
    Active,
}

/// Whether the pool works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolState {
    /// All is well.
    Online,
    /// Works, with a device or some data missing.
    Degraded,
    /// A write to it failed for good: nothing more is written.
    Suspended,
}

/// An imported pool. Dropping the last handle without [`Pool::export`] is like cutting the power.
pub struct Pool {}

impl Pool {
    /// Makes a pool on devices (each a top-level vdev) and fills its root file system. Everything on them is lost.
    pub fn create(devices: Vec<Arc<dyn BlockDevice>>, env: Env, options: CreateOptions) -> Result<Arc<Pool>> {
        let _ = (devices, env, options);
        todo!()
    }

    /// Imports the pool that lies on `devices`.
    ///
    /// # Errors
    /// [`crate::Error::NoPool`], [`crate::Error::MissingDevice`], [`crate::Error::InUse`], [`crate::Error::Unsupported`] (a feature, by name),
    /// [`crate::Error::ReadOnlyFeature`] (can be imported with [`ImportOptions::read_only`]), or what reading its root gives.
    pub fn import(devices: Vec<Arc<dyn BlockDevice>>, env: Env, options: ImportOptions) -> Result<Arc<Pool>> {
        let _ = (devices, env, options);
        todo!()
    }

    /// Syncs, marks the pool as exported and stops its sync thread. No file system may be mounted any more. Every later write fails.
    pub fn export(&self) -> Result<()> {
        todo!()
    }

    /// Makes everything done so far durable: closes the open txg and waits until it is synced.
    pub fn sync(&self) -> Result<()> {
        todo!()
    }

    /// Its name.
    pub fn name(&self) -> String {
        todo!()
    }
    /// The id that never changes.
    #[must_use]
    pub fn guid(&self) -> u64 {
        todo!()
    }
    /// SPA version: 5000 with features.
    #[must_use]
    pub fn version(&self) -> u64 {
        todo!()
    }
    /// The configuration as `zdb -C` shows it.
    pub fn config(&self) -> NvList {
        todo!()
    }
    /// Every feature that this engine or the pool knows: short name and state, by name.
    pub fn features(&self) -> Vec<(String, FeatureState)> {
        todo!()
    }
    /// Whether it works.
    pub fn state(&self) -> PoolState {
        todo!()
    }
    /// Whether nothing may be written.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        todo!()
    }
    /// Its space.
    pub fn space(&self) -> Space {
        todo!()
    }
    /// The txg of the last uberblock on disk.
    #[must_use]
    pub fn last_synced_txg(&self) -> u64 {
        todo!()
    }

    /// The I/O engine.
    #[must_use]
    pub fn zio(&self) -> &Arc<Zio> {
        todo!()
    }
    /// The transaction groups: `pool.txgs().begin(…)`.
    #[must_use]
    pub fn txgs(&self) -> &Arc<Txgs> {
        todo!()
    }
    /// The meta objset.
    #[must_use]
    pub fn mos(&self) -> &Arc<Objset> {
        todo!()
    }
    /// The datasets.
    #[must_use]
    pub fn dsl(&self) -> &Arc<DslPool> {
        todo!()
    }
    /// Clock and randomness.
    #[must_use]
    pub fn env(&self) -> &Env {
        todo!()
    }
    /// The space allocator, for blocks written from open context (intent log). What is allocated for txg N counts as allocated on
    /// disk once N is synced.
    #[must_use]
    pub fn alloc(&self) -> &dyn AllocateBlocks {
        todo!()
    }
    /// Frees a block as of `tx`'s txg: an intent-log block, say.
    pub fn free_block(&self, tx: &Tx, bp: &Blkptr) {
        let _ = (tx, bp);
        todo!()
    }

    /// Runs `task` in the sync thread and waits until its txg is on disk. It must do all its checks before it changes anything.
    pub fn sync_task<T: Send + 'static>(
        &self,
        slop: Slop,
        task: impl FnOnce(&Tx) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let _ = (slop, task);
        todo!()
    }

    /// The pool's history, oldest first.
    pub fn history(&self) -> Result<Vec<HistoryRecord>> {
        todo!()
    }
    /// Adds a command line to the pool's history.
    pub fn log_history(&self, command: &str) -> Result<()> {
        let _ = command;
        todo!()
    }

    /// A pool property as `zpool get -p` shows it, and whether it is set locally (else default or a statistic, `-`).
    pub fn get_property(&self, name: &str) -> Result<(String, &'static str)> {
        let _ = name;
        todo!()
    }
    /// All pool properties: name, value, source (`local`, `default` or `-`), features last.
    pub fn properties(&self) -> Result<Vec<(String, String, &'static str)>> {
        todo!()
    }
    /// Sets a pool property: `bootfs` (a dataset's name), `comment`, `failmode`, …
    pub fn set_property(&self, name: &str, value: &str) -> Result<()> {
        let _ = (name, value);
        todo!()
    }

    /// Reads and checks all copies of all blocks, compares the space maps with what is referred to, and lists damaged files.
    /// Writes nothing. What changes in the pool meanwhile makes the space figures unreliable.
    pub fn verify(&self, progress: &mut dyn FnMut(Progress)) -> Result<VerifyReport> {
        let _ = progress;
        todo!()
    }
    /// [`Pool::verify`], and its outcome is recorded as the pool's last scrub.
    pub fn scrub(&self, progress: &mut dyn FnMut(Progress)) -> Result<VerifyReport> {
        let _ = progress;
        todo!()
    }
    /// Damaged files that the pool's error log lists (`zpool status -v`).
    pub fn errors(&self) -> Result<Vec<DamagedFile>> {
        todo!()
    }
}
