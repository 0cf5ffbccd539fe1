//! The sync of a txg, and the thread that does it. Source: `spa_sync` (`module/zfs/spa.c`).
//!
//! What a txg changed is written in passes. Pass 1 writes the datasets and runs the sync tasks. Every pass writes the MOS, which
//! allocates and frees space, which changes the space maps, which are in the MOS: the passes go on until one changes nothing.
//! They do converge: a block of the MOS that this txg wrote is overwritten in place as long as its size stays the same, and late
//! passes do not compress, so that sizes do.

use super::config::{self, Config};
use super::core::{Core, NOWHERE, Spa};
use super::directory;
use crate::dmu::{Quiesced, SyncContext, Tx};
use crate::dsl::{Bpobj, SpaHost};
use crate::error::{Error, Result};
use crate::ondisk::blkptr::Blkptr;
use crate::ondisk::uberblock::{MMP_MAGIC, Uberblock};
use crate::vdev::label;
use alloc::sync::Arc;

/// Passes after which a txg is given up: it would never converge.
const PASSES_MAX: u32 = 64;
/// SPA version of everything that this engine knows.
pub(super) const SOFTWARE_VERSION: u64 = 5000;
/// Entries of the list of deferred frees that are taken off in one txg.
const DEFERRED_MAX: u64 = 100_000;

/// Starts the sync thread of a pool.
pub(super) fn start(core: &Arc<Core>) {
    let core = Arc::clone(core);
    platform::thread::spawn("txg_sync", move || {
        core.run();
        *core.ended.0.lock() = true;
        core.ended.1.notify_all();
    });
}

impl Core {
    /// The sync thread.
    fn run(self: &Arc<Self>) {
        while let Some(quiesced) = self.spa.txgs.quiesce() {
            if !self.sync_quiesced(&quiesced) {
                break;
            }
            self.autotrim_due(quiesced.txg);
            self.look_after_devices(false);
        }
    }

    /// Syncs a txg and says so; if that fails, nothing is written any more.
    pub(super) fn sync_quiesced(&self, quiesced: &Quiesced) -> bool {
        match self.sync(quiesced) {
            Ok(more) => {
                self.spa.txgs.synced(quiesced.txg);
                if more {
                    self.spa.txgs.request_sync();
                }
                true
            }
            Err(error) => {
                self.spa.txgs.fail(error);
                false
            }
        }
    }

    /// Waits until the sync thread has ended.
    pub(super) fn wait_ended(&self) {
        let mut ended = self.ended.0.lock();
        while !*ended {
            ended = self.ended.1.wait(ended);
        }
    }

    /// One txg. True if another one should follow soon: there is more to free.
    fn sync(&self, quiesced: &Quiesced) -> Result<bool> {
        let (spa, dsl) = (&self.spa, &self.dsl);
        let txg = quiesced.txg;
        let tx = Tx::syncing(&spa.txgs, txg);
        spa.apply_references(&tx)?;
        dsl.sync(&tx, 1, &spa.space, &quiesced.dirty_objsets)?;
        let more = dsl.free_some(&tx)?;
        self.log_lost(&tx)?;
        for task in spa.take_tasks(txg) {
            task(&tx);
        }
        dsl.sync(&tx, 1, &spa.space, &[])?;
        let more = self.free_deferred(&tx)? || more;
        let more = spa.discard_some(&tx)? || more;
        if !spa.mos.is_dirty(txg)
            && !spa.has_frees(txg)
            && !spa.space.is_dirty(txg)
            && !spa.config_dirty()
            && !spa.checkpoint_dirty()
            && !spa.brt.is_dirty()
        {
            return Ok(false);
        }
        let (root, label) = self.sync_to_convergence(&tx)?;
        spa.write_uberblock(txg, root, label.as_ref())?;
        spa.space.sync_done(txg);
        Ok(more)
    }

    /// Writes the MOS until nothing in it changes any more; its root, and the configuration if the labels need a new one.
    fn sync_to_convergence(&self, tx: &Tx) -> Result<(Blkptr, Option<Config>)> {
        let (spa, dsl, txg) = (&self.spa, &self.dsl, tx.txg());
        let mut label = None;
        spa.flush_logs(tx)?;
        for pass in 1..PASSES_MAX {
            if pass > 1 {
                dsl.sync(tx, pass, &spa.space, &[])?;
            }
            spa.free_blocks(tx)?;
            spa.sync_brt(tx)?;
            spa.space.sync(tx, pass, &spa.rules(), &mut || spa.space_map_created(tx))?;
            spa.sync_checkpoint(tx, pass, &spa.rules())?;
            spa.sync_dtls(tx, pass)?;
            if let Some(config) = spa.sync_config(tx)? {
                label = Some(config);
            }
            if !spa.mos.is_dirty(txg) {
                return Ok((spa.mos.root(), label));
            }
            let owner = dsl.mos_owner(tx);
            spa.mos.sync(&SyncContext { txg, pass, alloc: &spa.space, owner: &*owner })?;
        }
        Err(Error::Invalid("the txg did not converge: its space maps kept changing"))
    }

    /// Frees what another implementation left on the list of deferred frees (`spa_sync_deferred_frees`). We put nothing on it.
    fn free_deferred(&self, tx: &Tx) -> Result<bool> {
        if self.spa.state.lock().deferred_done {
            return Ok(false);
        }
        let mut left = DEFERRED_MAX;
        if let Some(object) = directory::lookup(&self.spa.mos, "sync_bplist")? {
            let host: Arc<dyn SpaHost> = Arc::<Spa>::clone(&self.spa);
            let mut list = Bpobj::open(&self.spa.mos, &host, object)?;
            if !list.is_empty() {
                list.take(tx, &mut left, &mut |bp| {
                    host.free_block(tx, bp);
                    Ok(())
                })?;
            }
        }
        self.spa.state.lock().deferred_done = left > 0;
        Ok(left == 0)
    }
}

impl Spa {
    /// Each map with a histogram counts as a user of the feature.
    pub(super) fn space_map_created(&self, tx: &Tx) -> Result<()> {
        match self.rules().histogram {
            true => self.change_feature(tx, "com.delphix:spacemap_histogram", 1),
            false => Ok(()),
        }
    }

    fn config_dirty(&self) -> bool {
        self.state.lock().config_dirty
    }

    /// Gives the space of freed blocks to the metaslabs.
    fn free_blocks(&self, tx: &Tx) -> Result<()> {
        for bp in self.take_frees(tx.txg()) {
            // In this order: where both tables know a block, its space goes with the dedup table's last reference.
            if self.brt_free(&bp)? || bp.dedup() && self.ddt_free(tx, &bp)? {
                continue;
            }
            self.free_extents(&bp)?;
        }
        Ok(())
    }

    /// Gives the space of one block back, or keeps it for the checkpoint.
    pub(super) fn free_extents(&self, bp: &Blkptr) -> Result<()> {
        let kept = self.checkpoint.keeps(bp);
        for dva in self.zio.extents(bp, NOWHERE)? {
            if kept { self.checkpoint.add(&dva)? } else { self.space.free(&dva)? }
        }
        Ok(())
    }

    /// Writes the configuration into the MOS if it changed (`spa_sync_config_object`).
    fn sync_config(&self, tx: &Tx) -> Result<Option<Config>> {
        let layouts = self.space.layouts();
        let wanted = {
            let state = self.state.lock();
            state.config_dirty || state.config_stale
        };
        if wanted {
            self.create_root_zap(tx)?;
        }
        let mut state = self.state.lock();
        let changed = state.config.layouts()?.iter().any(|old| {
            let new = layouts.iter().find(|new| new.id == old.id);
            new.is_some_and(|new| new.array != old.array)
        });
        if changed {
            state.config.set_layouts(&layouts);
            state.config_dirty = true;
        }
        let stale = core::mem::take(&mut state.config_stale);
        if !core::mem::take(&mut state.config_dirty) && !stale {
            return Ok(None);
        }
        let (config, object) = (state.config.clone(), state.config_object);
        drop(state);
        let list = config.for_mos(tx.txg(), &self.features.for_labels());
        config::write(&self.mos, tx, object, &list)?;
        Ok(Some(config))
    }

    /// Ends a txg: flush, labels, uberblock, flush.
    fn write_uberblock(&self, txg: u64, rootbp: Blkptr, config: Option<&Config>) -> Result<()> {
        let old = self.state.lock().uberblock.clone();
        let guid_sum = self.state.lock().config.guid_sum();
        let uberblock = Uberblock {
            txg,
            guid_sum,
            timestamp: u64::try_from(self.env.clock.now().sec).unwrap_or(0),
            rootbp,
            software_version: SOFTWARE_VERSION,
            mmp_magic: MMP_MAGIC,
            mmp_delay: 0,
            mmp_config: 0,
            checkpoint_txg: 0,
            ..old
        };
        let features = self.features.for_labels();
        let make = config
            .map(|c| move |leaf: &crate::vdev::Leaf| c.for_label(leaf.top_guid, leaf.guid, txg, &features));
        match &make {
            Some(make) => label::sync(&self.zio.vdevs(), &uberblock, Some(make))?,
            None => label::sync(&self.zio.vdevs(), &uberblock, None)?,
        }
        let mut state = self.state.lock();
        state.uberblock = uberblock;
        state.wrote = true;
        Ok(())
    }
}
