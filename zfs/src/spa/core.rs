//! What a pool is made of, and what its datasets see of it.
//!
//! [`Spa`] is the part that the dataset layer refers to, [`Core`] is both together: what a [`super::Pool`] and its sync thread share.

use super::brt::Brt;
use super::checkpoint::Checkpoint;
use super::config::Config;
use super::devices::Guard;
use super::dtl::Dtls;
use super::features::Features;
use super::history;
use super::log_space_map::Logs;
use super::metaslab::{Metaslabs, Rules, VdevLayout};
use super::scan::Scan;
use super::trim::AutoTrim;
use crate::dmu::{Objset, SpaceCheck, Tx, Txgs};
use crate::dsl::{DslPool, Slop, SpaHost, SyncTask};
use crate::error::{Error, Result};
use crate::ondisk::blkptr::Blkptr;
use crate::ondisk::bookmark::Bookmark;
use crate::ondisk::nvlist::NvList;
use crate::ondisk::uberblock::Uberblock;
use crate::vdev::Member;
use crate::zio::Zio;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use platform::Env;
use platform::sync::{Condvar, Mutex};

/// Number of slots for per-txg state.
const SLOTS: usize = crate::dmu::tx::TXG_SIZE;
/// Slop space is the pool's size shifted by this (`spa_slop_shift`) …
const SLOP_SHIFT: u32 = 5;
/// … at least that many bytes, but no more than half of the pool (`spa_min_slop`) …
const SLOP_MIN: u64 = 128 << 20;
/// … and at most that many (`spa_max_slop`).
const SLOP_MAX: u64 = 128 << 30;

/// A task for the sync thread; it answers by itself.
pub(super) type Task = Box<dyn FnOnce(&Tx) + Send>;

/// What changes as a whole.
pub(super) struct State {
    pub(super) config: Config,
    /// The MOS's object of the configuration.
    pub(super) config_object: u64,
    /// The configuration has to be written, to the MOS and to the labels.
    pub(super) config_dirty: bool,
    /// The same, but only together with the first txg that changes something: who uses the pool now.
    pub(super) config_stale: bool,
    /// The last one written.
    pub(super) uberblock: Uberblock,
    /// This import has written a txg.
    pub(super) wrote: bool,
    /// Entries of the MOS's list of deferred frees were taken off.
    pub(super) deferred_done: bool,
    /// Logs of space map changes that the first txg flushes.
    pub(super) logs: Option<Logs>,
    /// Every device that was given or found, in service or not; spares and cache devices, too.
    pub(super) members: Vec<Member>,
}

/// The pool without its datasets.
pub(crate) struct Spa {
    me: Weak<Spa>,
    pub(super) env: Env,
    pub(super) zio: Arc<Zio>,
    pub(super) txgs: Arc<Txgs>,
    pub(super) mos: Arc<Objset>,
    pub(super) space: Metaslabs,
    pub(super) features: Features,
    pub(super) read_only: bool,
    pub(super) state: Mutex<State>,
    /// The last scrub or resilver, and the one that goes on.
    pub(super) scan: Scan,
    pub(super) checkpoint: Checkpoint,
    /// References to cloned blocks.
    pub(super) brt: Brt,
    /// The dirty time logs of the leaves as they are on disk.
    pub(super) dtls: Dtls,
    /// Somebody changes what the pool is made of.
    pub(super) changing_devices: AtomicBool,
    /// The pool is being created: internal history is not written.
    pub(super) initializing: AtomicBool,
    frees: Mutex<[Vec<Blkptr>; SLOTS]>,
    tasks: Mutex<[Vec<Task>; SLOTS]>,
}

/// A pool and its datasets.
pub(crate) struct Core {
    pub(super) spa: Arc<Spa>,
    pub(super) dsl: Arc<DslPool>,
    pub(super) auto_trim: AutoTrim,
    pub(super) guard: Guard,
    /// Whether the sync thread has ended.
    pub(super) ended: (Mutex<bool>, Condvar),
}

impl Core {
    /// Nothing goes on in it yet.
    pub(super) fn new(spa: Arc<Spa>, dsl: Arc<DslPool>) -> Arc<Self> {
        let ended = (Mutex::new(false), Condvar::new());
        Arc::new(Core { spa, dsl, auto_trim: AutoTrim::default(), guard: Guard::default(), ended })
    }
}

/// The parts of a [`Spa`] that it is built from.
pub(super) struct Parts {
    pub(super) env: Env,
    pub(super) zio: Arc<Zio>,
    pub(super) txgs: Arc<Txgs>,
    pub(super) mos: Arc<Objset>,
    pub(super) space: Metaslabs,
    pub(super) features: Features,
    pub(super) read_only: bool,
    pub(super) config: Config,
    pub(super) config_object: u64,
    pub(super) uberblock: Uberblock,
    pub(super) members: Vec<Member>,
}

impl Spa {
    pub(super) fn new(parts: Parts) -> Arc<Spa> {
        let Parts {
            env,
            zio,
            txgs,
            mos,
            space,
            features,
            read_only,
            config,
            config_object,
            uberblock,
            members,
        } = parts;
        let state = State {
            config,
            config_object,
            config_dirty: false,
            config_stale: false,
            uberblock,
            wrote: false,
            deferred_done: false,
            logs: None,
            members,
        };
        let spa = Arc::new_cyclic(|me| Spa {
            me: Weak::clone(me),
            env,
            zio,
            txgs,
            mos,
            space,
            features,
            read_only,
            state: Mutex::new(state),
            scan: Scan::default(),
            checkpoint: Checkpoint::default(),
            brt: Brt::default(),
            dtls: Dtls::default(),
            changing_devices: AtomicBool::new(false),
            initializing: AtomicBool::new(false),
            frees: Mutex::default(),
            tasks: Mutex::default(),
        });
        let smallest = spa.space.layouts().iter().map(VdevLayout::smallest_block).max();
        spa.txgs.set_block_min(smallest.unwrap_or(512));
        spa.txgs.set_space_check(Box::new(PoolCheck { spa: Arc::downgrade(&spa) }));
        spa
    }

    /// What the enabled features ask of space maps.
    pub(super) fn rules(&self) -> Rules {
        Rules {
            histogram: self.features.is_enabled("com.delphix:spacemap_histogram"),
            two_words: self.features.is_active("com.delphix:spacemap_v2"),
        }
    }

    /// Space that only the pool itself may use, in bytes (`spa_get_slop_space`).
    pub(super) fn slop_space(&self) -> u64 {
        let size = self.space.size();
        (size >> SLOP_SHIFT).min(SLOP_MAX).max((size >> 1).min(SLOP_MIN))
    }

    /// What `sync` frees in this txg, taken out.
    pub(super) fn take_frees(&self, txg: u64) -> Vec<Blkptr> {
        core::mem::take(&mut self.frees.lock()[(txg % SLOTS as u64) as usize])
    }

    /// Whether the txg frees anything.
    pub(super) fn has_frees(&self, txg: u64) -> bool {
        !self.frees.lock()[(txg % SLOTS as u64) as usize].is_empty()
    }

    /// The txg's sync tasks, taken out.
    pub(super) fn take_tasks(&self, txg: u64) -> Vec<Task> {
        core::mem::take(&mut self.tasks.lock()[(txg % SLOTS as u64) as usize])
    }

    /// Changes the number of a feature's users; the labels follow.
    pub(super) fn change_feature(&self, tx: &Tx, guid: &str, delta: i64) -> Result<()> {
        if self.features.change(&self.mos, tx, guid, delta)? {
            self.state.lock().config_dirty = true;
        }
        Ok(())
    }

    /// Space that may be allocated in all, in bytes, by those who may use that much of the slop space.
    fn size_without(&self, slop: Slop) -> u64 {
        let space = self.slop_space();
        let kept = match slop {
            Slop::Normal => space,
            Slop::Reserved => space >> 1,
            Slop::ExtraReserved => space >> 2,
            Slop::None => 0,
        };
        self.space.size().saturating_sub(kept)
    }

    /// Whether the pool has room for an operation that may use that much of the slop space.
    pub(super) fn check_slop(&self, slop: Slop) -> Result<()> {
        if self.space.allocated() > self.size_without(slop) { Err(Error::NoSpace) } else { Ok(()) }
    }

    /// Runs a task in the sync thread and waits until its txg is on disk.
    pub(super) fn run_task<T: Send + 'static>(
        &self,
        task: impl FnOnce(&Tx) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        if self.read_only {
            return Err(Error::ReadOnly);
        }
        let answer: Arc<Mutex<Option<Result<T>>>> = Arc::default();
        let hold = self.txgs.begin_net_free(0)?;
        let txg = hold.txg();
        let told = Arc::clone(&answer);
        let task: Task = Box::new(move |tx| *told.lock() = Some(task(tx)));
        self.tasks.lock()[(txg % SLOTS as u64) as usize].push(task);
        drop(hold);
        self.txgs.wait_synced(txg)?;
        let answer = answer.lock().take();
        answer.unwrap_or(Err(Error::Invalid("the pool was closed before the task ran")))
    }

    /// An internal line of the history that is about no dataset.
    pub(super) fn log_internal_event(&self, tx: &Tx, event: &str, text: &str) -> Result<()> {
        self.log_internal(tx, event, 0, "", text)
    }

    /// Adds a record to the history, with the time and the host. Syncing context.
    pub(super) fn log(&self, tx: &Tx, record: NvList) -> Result<()> {
        let time = u64::try_from(self.env.clock.now().sec).unwrap_or(0);
        let host = self.state.lock().config.host_name.clone();
        let record = record.with("history time", time).with("history hostname", host);
        history::append(&self.mos, tx, &record)
    }
}

impl SpaHost for Spa {
    fn free_block(&self, tx: &Tx, bp: &Blkptr) {
        if !bp.is_hole() && !bp.is_embedded() {
            self.frees.lock()[(tx.txg() % SLOTS as u64) as usize].push(*bp);
        }
    }

    fn dsize(&self, bp: &Blkptr) -> u64 {
        self.zio.dsize(bp)
    }

    fn adjusted_size(&self, check: Slop) -> u64 {
        // Datasets pay for each reference to a cloned block as if it were a block of its own.
        self.size_without(check).saturating_add(self.brt.saved())
    }

    fn sync_task(&self, slop: Slop, task: SyncTask) -> Result<()> {
        self.check_slop(slop)?;
        let Some(spa) = self.me.upgrade() else { return Err(Error::ReadOnly) };
        self.run_task(move |tx: &Tx| {
            task(tx)?;
            spa.datasets_changed(tx)
        })
    }

    fn version(&self) -> u64 {
        self.state.lock().config.version
    }

    fn feature_enabled(&self, feature: &str) -> bool {
        self.features.is_enabled(feature)
    }

    fn feature_active(&self, feature: &str) -> bool {
        self.features.is_active(feature)
    }

    fn feature_add(&self, tx: &Tx, feature: &str, delta: i64) -> Result<()> {
        self.change_feature(tx, feature, delta)
    }

    fn log_internal(&self, tx: &Tx, event: &str, dataset: u64, name: &str, text: &str) -> Result<()> {
        if self.initializing.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut record = NvList::new();
        if dataset != 0 {
            record.insert("dsname", name);
            record.insert("dsid", dataset);
        }
        record.insert("history internal str", text);
        record.insert("internal_name", event);
        record.insert("history txg", tx.txg());
        self.log(tx, record)
    }

    fn forget_errors(&self, tx: &Tx, head: u64) -> Result<()> {
        self.forget_errors_of(tx, head)
    }

    fn move_errors(&self, tx: &Tx, from: u64, to: u64, until: u64) -> Result<()> {
        self.move_errors_of(tx, from, to, until)
    }

    fn env(&self) -> &Env {
        &self.env
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn pool_name(&self) -> String {
        self.state.lock().config.name.clone()
    }
}

/// The pool's own space check: what is on disk and what is on its way must fit beside the slop space.
struct PoolCheck {
    spa: Weak<Spa>,
}

impl SpaceCheck for PoolCheck {
    fn check(&self, reserve: u64, pending: u64, net_free: bool) -> Result<()> {
        let Some(spa) = self.spa.upgrade() else { return Err(Error::ReadOnly) };
        if spa.read_only {
            return Err(Error::ReadOnly);
        }
        let limit = spa.size_without(if net_free { Slop::ExtraReserved } else { Slop::Normal });
        let wanted = spa.space.allocated().saturating_add(pending).saturating_add(reserve);
        if wanted > limit { Err(Error::NoSpace) } else { Ok(()) }
    }
}

/// The bookmark of blocks that are known by their pointer alone.
pub(super) const NOWHERE: Bookmark = Bookmark { objset: 0, object: 0, level: 0, blkid: 0 };
