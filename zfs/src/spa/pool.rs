//! The pool as everybody above holds it.

use super::aux_devices::{self, Aux};
use super::checkpoint::CheckpointStatus;
use super::config::STATE_EXPORTED;
use super::core::Core;
use super::devices::Replacement;
use super::options::{CreateOptions, ImportOptions};
use super::report::{DamagedFile, HistoryRecord, Progress, VerifyReport};
use super::scan::{ScanControl, ScanReport};
use super::topology::{NewDevice, Topology};
use super::trim::{TrimReport, TrimStatus};
use super::{create, history, import, props};
use crate::dmu::{Dnode, Objset, Tx, Txgs};
use crate::dsl::{DslPool, Slop, SpaHost};
use crate::error::{Error, Result};
use crate::ondisk::blkptr::Blkptr;
use crate::ondisk::features::FEATURES;
use crate::ondisk::nvlist::NvList;
use crate::ondisk::scan::{ScanFunc, ScanPhys, ScanState};
use crate::vdev::LeafState;
use crate::zil::LogHost;
use crate::zio::{AllocateBlocks, Zio};
use alloc::string::{String, ToString};
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
pub struct Pool {
    pub(super) core: Arc<Core>,
}

impl LogHost for Pool {
    fn alloc(&self) -> &dyn AllocateBlocks {
        Pool::alloc(self)
    }

    fn free(&self, tx: &Tx, bp: &Blkptr) {
        self.free_block(tx, bp);
    }

    fn guid(&self) -> [u64; 2] {
        let word = || self.env().random.next_u64().max(1);
        [word(), word()]
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // The sync thread must not outlive its pool; what was not asked to be on disk need not get there.
        self.core.spa.txgs.fail(Error::ReadOnly);
        self.core.guard.work.end();
        self.core.end_autotrim(false);
    }
}

impl Pool {
    /// Makes a pool of a topology, or of devices (each a top-level vdev), and fills its root file system. Everything on the
    /// devices is lost.
    pub fn create(topology: impl Into<Topology>, env: Env, options: CreateOptions) -> Result<Arc<Pool>> {
        Ok(Arc::new(Pool { core: create::create(&topology.into(), env, options)? }))
    }

    /// Imports the pool that lies on `devices`.
    ///
    /// # Errors
    /// [`crate::Error::NoPool`], [`crate::Error::MissingDevice`], [`crate::Error::InUse`], [`crate::Error::Unsupported`] (a feature, by name),
    /// [`crate::Error::ReadOnlyFeature`] (can be imported with [`ImportOptions::read_only`]), or what reading its root gives.
    pub fn import(devices: Vec<Arc<dyn BlockDevice>>, env: Env, options: ImportOptions) -> Result<Arc<Pool>> {
        Ok(Arc::new(Pool { core: import::import(&devices, env, &options)? }))
    }

    /// Syncs, marks the pool as exported and stops its sync thread. No file system may be mounted any more. Every later write fails.
    pub fn export(&self) -> Result<()> {
        let spa = &self.core.spa;
        if spa.read_only {
            return Ok(());
        }
        self.core.guard.work.end();
        self.sync()?;
        let wrote = {
            let mut state = spa.state.lock();
            // A pool that nothing was written to stays as it was.
            if state.wrote && state.config.state != STATE_EXPORTED {
                state.config.state = STATE_EXPORTED;
                state.config_dirty = true;
            }
            state.wrote
        };
        if wrote {
            self.sync()?;
        }
        spa.txgs.shut_down();
        self.core.wait_ended();
        self.core.end_autotrim(true);
        spa.txgs.failure().map_or(Ok(()), Err)
    }

    /// Makes everything done so far durable: closes the open txg and waits until it is synced.
    pub fn sync(&self) -> Result<()> {
        if self.core.spa.read_only {
            return Ok(());
        }
        let txg = self.core.spa.txgs.request_sync();
        self.core.spa.txgs.wait_synced(txg)
    }

    /// Its name.
    pub fn name(&self) -> String {
        self.core.spa.pool_name()
    }
    /// The id that never changes.
    #[must_use]
    pub fn guid(&self) -> u64 {
        self.core.spa.state.lock().config.guid
    }
    /// SPA version: 5000 with features.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.core.spa.version()
    }
    /// The configuration as `zdb -C` shows it.
    pub fn config(&self) -> NvList {
        let features = self.core.spa.features.for_labels();
        let state = self.core.spa.state.lock();
        state.config.for_mos(state.uberblock.txg, &features)
    }
    /// Its hot spares, as the MOS lists them (`guid`, `path`, …); draid's distributed ones are of type `dspare`.
    pub fn spares(&self) -> Result<Vec<NvList>> {
        aux_devices::read(&self.core.spa.mos, Aux::Spares)
    }
    /// Its cache devices, as the MOS lists them. They are not used.
    pub fn caches(&self) -> Result<Vec<NvList>> {
        aux_devices::read(&self.core.spa.mos, Aux::Caches)
    }
    /// Every feature that this engine writes or the pool has: short name (guid name if it is unknown) and state.
    pub fn features(&self) -> Vec<(String, FeatureState)> {
        let features = &self.core.spa.features;
        let state = |guid: &str| match (features.is_enabled(guid), features.is_active(guid)) {
            (_, true) => FeatureState::Active,
            (true, _) => FeatureState::Enabled,
            _ => FeatureState::Disabled,
        };
        let known = FEATURES.iter().filter(|f| f.default_enabled() || features.is_enabled(f.guid));
        let mut all: Vec<_> = known.map(|f| (f.name.to_string(), state(f.guid))).collect();
        let unknown = features.all().into_iter().filter(|(guid, _)| FEATURES.iter().all(|f| f.guid != guid));
        all.extend(unknown.map(|(guid, _)| (guid.clone(), state(&guid))));
        all
    }
    /// Whether it works.
    pub fn state(&self) -> PoolState {
        if self.core.spa.txgs.failure().is_some() {
            PoolState::Suspended
        } else if self.core.spa.zio.vdevs().is_degraded() {
            PoolState::Degraded
        } else {
            PoolState::Online
        }
    }
    /// Whether nothing may be written.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.core.spa.read_only
    }
    /// Its space.
    pub fn space(&self) -> Space {
        let space = &self.core.spa.space;
        let (size, allocated) = space.raw_space();
        Space {
            size,
            allocated,
            free: size.saturating_sub(allocated),
            freeing: self.core.dsl.freeing(),
            fragmentation: space.fragmentation(),
        }
    }
    /// The space of each top-level vdev that can be allocated from: its index, size, and bytes allocated.
    #[must_use]
    pub fn vdev_space(&self) -> Vec<(u32, u64, u64)> {
        self.core.spa.space.by_vdev()
    }
    /// The txg of the last uberblock on disk.
    #[must_use]
    pub fn last_synced_txg(&self) -> u64 {
        self.core.spa.state.lock().uberblock.txg
    }

    /// The I/O engine.
    #[must_use]
    pub fn zio(&self) -> &Arc<Zio> {
        &self.core.spa.zio
    }
    /// The transaction groups: `pool.txgs().begin(…)`.
    #[must_use]
    pub fn txgs(&self) -> &Arc<Txgs> {
        &self.core.spa.txgs
    }
    /// The meta objset.
    #[must_use]
    pub fn mos(&self) -> &Arc<Objset> {
        &self.core.spa.mos
    }
    /// The datasets.
    #[must_use]
    pub fn dsl(&self) -> &Arc<DslPool> {
        &self.core.dsl
    }
    /// Clock and randomness.
    #[must_use]
    pub fn env(&self) -> &Env {
        &self.core.spa.env
    }
    /// The space allocator, for blocks written from open context (intent log). What is allocated for txg N counts as allocated on
    /// disk once N is synced.
    #[must_use]
    pub fn alloc(&self) -> &dyn AllocateBlocks {
        &self.core.spa.space
    }
    /// Whether there is a vdev for intent logs (`spa_has_slogs`).
    #[must_use]
    pub fn has_log_device(&self) -> bool {
        self.core.spa.zio.vdevs().tops().iter().flatten().any(|top| top.is_log)
    }
    /// For tests: from now on every second block of more than `bytes` becomes a gang block, its members as well
    /// (`metaslab_force_ganging`).
    pub fn force_gangs(&self, bytes: u64) {
        // What is one sector cannot be cut.
        self.core.spa.space.force_gangs(bytes.max(self.core.spa.zio.vdevs().max_sector()));
    }
    /// Whether blocks of files can be shared: feature block_cloning is enabled, and the pool can be written.
    #[must_use]
    pub fn clones_blocks(&self) -> bool {
        self.core.spa.clones_blocks()
    }
    /// Makes blocks of an object, from `first` on, the same as those that `bps` lead to (`dmu_brt_clone`). Whoever calls has them locked.
    ///
    /// # Errors
    /// [`Error::Unsupported`] (the feature is not enabled), [`Error::Invalid`] (blocks of another size, of metadata, or encrypted).
    pub fn clone_blocks(&self, tx: &Tx, dnode: &Arc<Dnode>, first: u64, bps: &[Blkptr]) -> Result<()> {
        self.core.clone_blocks(tx, dnode, first, bps)
    }
    /// Frees a block as of `tx`'s txg: an intent-log block, say.
    pub fn free_block(&self, tx: &Tx, bp: &Blkptr) {
        self.core.spa.free_block(tx, bp);
    }

    /// Runs `task` in the sync thread and waits until its txg is on disk. It must do all its checks before it changes anything.
    /// [`crate::Error::NoSpace`] if the pool is fuller than `slop` allows.
    pub fn sync_task<T: Send + 'static>(
        &self,
        slop: Slop,
        task: impl FnOnce(&Tx) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let spa = &self.core.spa;
        spa.check_slop(slop)?;
        spa.run_task(task)
    }

    /// The pool's history, oldest first.
    pub fn history(&self) -> Result<Vec<HistoryRecord>> {
        history::records(&self.core.spa.mos)
    }
    /// Adds a command line to the pool's history.
    pub fn log_history(&self, command: &str) -> Result<()> {
        self.log_requests(Vec::new(), command)
    }
    /// Adds the requests that a command made, each with `ioctl` and `in_nvl` at least, and then its line to the pool's history
    /// (`spa_history_log_nvl`).
    pub fn log_requests(&self, requests: Vec<NvList>, command: &str) -> Result<()> {
        let spa = Arc::clone(&self.core.spa);
        let command = NvList::new().with("history command", command);
        self.core.spa.run_task(move |tx| {
            let records = requests.into_iter().chain([command]);
            records
                .map(|r| r.with("history zone", "linux").with("history who", 0))
                .try_for_each(|r| spa.log(tx, r))
        })
    }

    /// A pool property as `zpool get -p` shows it, and whether it is set locally (else default or a statistic, `-`).
    pub fn get_property(&self, name: &str) -> Result<(String, &'static str)> {
        self.core.get_property(name)
    }
    /// All pool properties: name, value, source (`local`, `default` or `-`), features last.
    pub fn properties(&self) -> Result<Vec<(String, String, &'static str)>> {
        self.core.properties()
    }
    /// Sets a pool property: `bootfs` (a dataset's name), `comment`, `failmode`, …
    pub fn set_property(&self, name: &str, value: &str) -> Result<()> {
        let core = Arc::clone(&self.core);
        let (name, value) = (name.to_string(), value.to_string());
        self.core.spa.run_task(move |tx| props::set(&core.spa, &core.dsl, tx, &name, &value))
    }

    /// Reads and checks all copies of all blocks, compares the space maps with what is referred to, and lists damaged files.
    /// Writes nothing but what is not yet synced. What changes in the pool meanwhile makes the space figures unreliable.
    pub fn verify(&self, progress: &mut dyn FnMut(Progress)) -> Result<VerifyReport> {
        self.sync()?;
        self.core.verify(progress)
    }
    /// Reads and checks all copies of all blocks, writes good ones over bad ones, and records the outcome in the pool: as the last scrub,
    /// and in the error log. Goes on with a scrub that was paused or cut off. What changes in the pool meanwhile does it no harm.
    ///
    /// # Errors
    /// [`crate::Error::ReadOnly`], [`crate::Error::Busy`] (a scrub is going on), [`crate::Error::NoSpace`] (the pool is so full that what
    /// is being scanned cannot stay in place).
    pub fn scrub(&self, control: &mut dyn FnMut(Progress) -> ScanControl) -> Result<ScanReport> {
        self.core.scan(ScanFunc::Scrub, control)
    }
    /// Brings devices what they lack: new ones everything, others what they missed. Goes on with a resilver that was cut off, or that
    /// OpenZFS began. Devices that were replaced leave the pool at the end. `None` if nothing was lacking.
    ///
    /// # Errors
    /// As [`Pool::scrub`].
    pub fn resilver(&self, control: &mut dyn FnMut(Progress) -> ScanControl) -> Result<Option<ScanReport>> {
        self.core.resilver(control)
    }
    /// Whether a device lacks something, so that [`Pool::resilver`] has work.
    #[must_use]
    pub fn needs_resilver(&self) -> bool {
        let unfinished =
            |scan: &ScanPhys| scan.func == ScanFunc::Resilver && scan.state == ScanState::Scanning;
        self.core.spa.resilver_needed().is_some() || self.scan_status().as_ref().is_some_and(unfinished)
    }
    /// Puts another device beside one of a single disk or mirror (`zpool attach`): its guid. Everything on it is lost. It has the pool's
    /// data after [`Pool::resilver`].
    ///
    /// # Errors
    /// [`crate::Error::NotFound`] (no such device), [`crate::Error::Invalid`] (it cannot be there, or is too small), [`crate::Error::Busy`].
    pub fn attach(&self, guid: u64, new: NewDevice) -> Result<u64> {
        self.core.attach(guid, Replacement::Device(new), false)
    }
    /// Replaces a device, be it there or not (`zpool replace`): the guid of the other one. The old one leaves the pool when
    /// [`Pool::resilver`] is done; a hot spare stands beside it until then and longer.
    ///
    /// # Errors
    /// As [`Pool::attach`].
    pub fn replace(&self, guid: u64, with: Replacement) -> Result<u64> {
        self.core.attach(guid, with, true)
    }
    /// Takes devices that failed too often out of service and puts hot spares in the places of those that failed or are missing: the
    /// guids of each and of its spare. They have the pool's data after [`Pool::resilver`].
    ///
    /// # Errors
    /// As [`Pool::attach`].
    pub fn use_spares(&self) -> Result<Vec<(u64, u64)>> {
        self.core.use_spares()
    }
    /// Takes a device out of a mirror, or ends a replacement (`zpool detach`): its labels are cleared, a hot spare is free again.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`], [`crate::Error::Invalid`] (it has no companion), [`crate::Error::Busy`] (nobody else has its data).
    pub fn detach(&self, guid: u64) -> Result<()> {
        self.core.detach(guid)
    }
    /// Adds vdevs, spares and cache devices (`zpool add`). Everything on the devices is lost. `ashift` is that of the pool's data
    /// vdevs, if it is not given.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] (an impossible shape), [`crate::Error::Unsupported`] (a feature that is not enabled), [`crate::Error::Busy`].
    pub fn add(&self, topology: impl Into<Topology>, ashift: Option<u8>) -> Result<()> {
        self.core.add(&topology.into(), ashift)
    }
    /// Takes a hot spare, a cache device or a log vdev out of the pool (`zpool remove`), by its guid: labels are cleared.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`], [`crate::Error::Busy`] (the spare is in use, or the log holds records that were not replayed),
    /// [`crate::Error::Unsupported`] (a vdev with data).
    pub fn remove(&self, guid: u64) -> Result<()> {
        self.core.remove(guid)
    }
    /// Takes a device out of service (`zpool offline`), `temporary` until the pool is exported.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`], [`crate::Error::Busy`] (nobody else has its data).
    pub fn offline(&self, guid: u64, temporary: bool) -> Result<()> {
        self.core.offline(guid, temporary)
    }
    /// Puts a device into service again (`zpool online`); how it stands then. It gets what it missed by [`Pool::resilver`]. With `expand`
    /// its vdev becomes as large as its devices allow.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`], [`crate::Error::Busy`].
    pub fn online(&self, guid: u64, expand: bool) -> Result<LeafState> {
        self.core.online(guid, expand)
    }
    /// Tells the devices of these guids (all that can be told, if there are none) what is free on them (`zpool trim`), at most `rate` bytes
    /// in a second of each. Goes on where an unfinished trim stopped; `control` may suspend it or give it up.
    ///
    /// # Errors
    /// [`crate::Error::Unsupported`] (no device can be told), [`crate::Error::NotFound`], [`crate::Error::Busy`], [`crate::Error::ReadOnly`].
    pub fn trim(
        &self,
        devices: &[u64],
        rate: Option<u64>,
        control: &mut dyn FnMut(Progress) -> ScanControl,
    ) -> Result<TrimReport> {
        self.core.trim(devices, rate, control)
    }
    /// Ends the unfinished trims of these devices, or of all: for good (`zpool trim -c`), or until the next one (`-s`).
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] (there is none), [`crate::Error::NotFound`].
    pub fn stop_trim(&self, devices: &[u64], suspend: bool) -> Result<()> {
        self.core.stop_trim(devices, suspend)
    }
    /// How the trim of a device stands; [`crate::Error::NotFound`] if the pool has none of that guid.
    pub fn trim_status(&self, device: u64) -> Result<TrimStatus> {
        self.core.trim_status(device)
    }
    /// Makes vdevs as large as their devices allow, if the property `autoexpand` is on.
    pub fn autoexpand(&self) -> Result<()> {
        self.core.autoexpand()
    }
    /// Asks the scrub that is going on, or that is on record as unfinished, to pause or to stop.
    pub fn control_scrub(&self, wish: ScanControl) -> Result<()> {
        self.core.control_scan(wish)
    }
    /// The last scrub or resilver.
    #[must_use]
    pub fn scan_status(&self) -> Option<ScanPhys> {
        self.core.spa.scan.lock().phys
    }
    /// Damaged files that the pool's error log lists (`zpool status -v`), without their paths: `zpl::name_damaged` finds these.
    pub fn errors(&self) -> Result<Vec<DamagedFile>> {
        self.core.logged_errors()
    }
    /// Keeps the pool's state as of the last txg, to be returned to by [`super::Rewind::Checkpoint`]. What is freed from now on stays
    /// allocated until [`Pool::discard_checkpoint`].
    ///
    /// # Errors
    /// [`crate::Error::Exists`] if there is one, [`crate::Error::Unsupported`] if the feature is not enabled.
    pub fn checkpoint(&self) -> Result<()> {
        self.core.make_checkpoint()
    }
    /// Gives the checkpoint up; [`crate::Error::NotFound`] if there is none. Its space is free when [`Pool::checkpoint_status`] is `None`.
    pub fn discard_checkpoint(&self) -> Result<()> {
        self.core.discard_checkpoint()
    }
    /// The checkpoint, if there is one.
    #[must_use]
    pub fn checkpoint_status(&self) -> Option<CheckpointStatus> {
        self.core.spa.checkpoint_status()
    }
    /// Gives the pool another guid, so that it can stand beside a copy of itself (`zpool reguid`); the new one.
    pub fn reguid(&self) -> Result<u64> {
        self.core.reguid()
    }
    /// Forgets the error log (`zpool clear`).
    pub fn clear_errors(&self) -> Result<()> {
        self.core.clear_errors()
    }
}
