//! What the MOS records of a scan: set up, kept, ended. Syncing context, but for loading.

use super::super::core::Spa;
use super::super::{directory, errlog};
use crate::dmu::Tx;
use crate::error::Result;
use crate::ondisk::bookmark::Bookmark;
use crate::ondisk::object_type::ObjectType;
use crate::ondisk::scan::{OBJSET_NEXT, ScanFunc, ScanPhys, ScanState};
use crate::vdev::LeafState;
use crate::zap::{self, Value};
use crate::zio::Lost;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// The object number in the bookmark of a scan whose queue lists all datasets that are left. OpenZFS, which queues datasets as it
/// discovers them, writes no such bookmark.
const WHOLE_QUEUE: u64 = 0x6e72_6174;

/// The feature, in use as long as a leaf has the mark of the same name (`ZPOOL_CONFIG_RESILVER_DEFER`).
pub(in crate::spa) const RESILVER_DEFER: &str = "com.datto:resilver_defer";

impl Spa {
    /// Reads the last scan.
    pub(crate) fn load_scan(&self) -> Result<()> {
        let words = directory::lookup_value(&self.mos, "scan")?.map(|value| value.ints);
        self.scan.lock().phys = words.and_then(|words| ScanPhys::parse(&words));
        Ok(())
    }

    /// The datasets that a recorded scan has left to do; `None` if it has to begin with the first.
    pub(super) fn scan_rest(&self, phys: &ScanPhys) -> Result<Option<BTreeSet<u64>>> {
        let at = &phys.bookmark;
        if (at.objset, at.object) != (OBJSET_NEXT, WHOLE_QUEUE) || phys.queue == 0 {
            return Ok(None);
        }
        let number = |name: &[u8]| u64::from_str_radix(core::str::from_utf8(name).ok()?, 16).ok();
        let entries = zap::entries(&self.mos.hold(phys.queue)?)?;
        Ok(Some(entries.iter().filter_map(|entry| number(&entry.name)).collect()))
    }

    /// From after which txg on, and up to which one, leaves that are there lack something (`vdev_resilver_needed`).
    pub(crate) fn resilver_needed(&self) -> Option<(u64, u64)> {
        let vdevs = self.zio.vdevs();
        let mut needed: Option<(u64, u64)> = None;
        for leaf in vdevs.dtl_leaves().into_iter().filter(|leaf| leaf.state == LeafState::Online) {
            let missing = leaf.missing();
            if let (Some(first), Some(last)) = (missing.first(), missing.last()) {
                let (min, max) = needed.unwrap_or((u64::MAX, 0));
                needed = Some((min.min(first.saturating_sub(1)), max.max(last)));
            }
        }
        needed
    }

    /// A scan begins: no leaf has failed to take anything yet.
    pub(super) fn forget_unrepaired(&self) {
        self.zio.vdevs().dtl_leaves().into_iter().for_each(|leaf| leaf.forget_unrepaired());
    }

    /// Everything up to `txg` was brought to the leaves that are there. What one lacks beyond that needs another scan, which then has to
    /// look at all of it (`vdev_dtl_should_excise`).
    pub(super) fn excise_dtls(&self, txg: u64) {
        let vdevs = self.zio.vdevs();
        for leaf in vdevs.dtl_leaves().into_iter().filter(|leaf| leaf.state == LeafState::Online) {
            if leaf.missing().last().is_some_and(|last| last <= txg) {
                leaf.excise(txg);
            }
        }
    }

    /// A new scan, from the beginning (`dsl_scan_setup_sync`). One on record that did not end is forgotten.
    pub(super) fn setup_scan(&self, tx: &Tx, func: ScanFunc, txgs: (u64, u64)) -> Result<ScanPhys> {
        let old = self.scan.lock().phys.filter(|phys| phys.state == ScanState::Scanning && phys.queue != 0);
        if let Some(old) = old {
            self.mos.free(tx, old.queue)?;
        }
        let phys = ScanPhys {
            func,
            state: ScanState::Scanning,
            queue: self.new_queue(tx, &[])?,
            min_txg: txgs.0,
            max_txg: txgs.1,
            start_time: self.seconds(),
            end_time: 0,
            to_examine: self.space.allocated(),
            examined: 0,
            to_process: 0,
            processed: 0,
            errors: 0,
            ddt_class_max: 0,
            ddt_bookmark: [0; 4],
            bookmark: Bookmark::default(),
            paused: false,
        };
        self.record_scan(tx, phys)?;
        let number = phys.emit()[0];
        let text = format!("func={number} mintxg={} maxtxg={}", txgs.0, txgs.1);
        self.log_internal_event(tx, "scan setup", &text)?;
        Ok(phys)
    }

    /// Keeps how far a scan is, so that it can be taken up from there.
    pub(super) fn keep_scan(
        &self,
        tx: &Tx,
        phys: ScanPhys,
        lost: &BTreeSet<Lost>,
        rest: &[u64],
        paused: bool,
    ) -> Result<ScanPhys> {
        self.mos.free(tx, phys.queue)?;
        let queue = self.new_queue(tx, rest)?;
        let bookmark = Bookmark { objset: OBJSET_NEXT, object: WHOLE_QUEUE, level: 0, blkid: 0 };
        let phys = ScanPhys { queue, bookmark, paused, ..phys };
        self.list_errors(tx, errlog::SCRUB, lost)?;
        self.record_scan(tx, phys)?;
        Ok(phys)
    }

    /// A scan ends (`dsl_scan_done`); what it found is the pool's error log from now on.
    pub(super) fn finish_scan(
        &self,
        tx: &Tx,
        phys: ScanPhys,
        lost: &BTreeSet<Lost>,
        state: ScanState,
    ) -> Result<ScanPhys> {
        if phys.queue != 0 {
            self.mos.free(tx, phys.queue)?;
        }
        self.list_errors(tx, errlog::SCRUB, lost)?;
        self.rotate_errors(tx)?;
        self.clear_deferred(tx)?;
        let (end_time, bookmark) = (self.seconds(), Bookmark { objset: OBJSET_NEXT, ..Bookmark::default() });
        let phys = ScanPhys { state, end_time, bookmark, queue: 0, paused: false, ..phys };
        self.record_scan(tx, phys)?;
        let event = if state == ScanState::Finished { "scan done" } else { "scan cancelled" };
        self.log_internal_event(tx, event, &format!("errors={}", phys.errors))?;
        Ok(phys)
    }

    /// Leaves that waited for this resilver of OpenZFS's to end wait no longer (`vdev_clear_resilver_deferred`): whoever lacks something
    /// still gets it by the next one.
    fn clear_deferred(&self, tx: &Tx) -> Result<()> {
        if !self.features.is_active(RESILVER_DEFER) {
            return Ok(());
        }
        let vdevs = self.zio.vdevs();
        {
            let mut state = self.state.lock();
            for leaf in vdevs.dtl_leaves() {
                state.config.edit_vdev(leaf.guid, &mut |list| drop(list.remove(RESILVER_DEFER)));
            }
            state.config_dirty = true;
        }
        self.change_feature(tx, RESILVER_DEFER, -1)
    }

    /// Stores the words.
    pub(super) fn record_scan(&self, tx: &Tx, phys: ScanPhys) -> Result<()> {
        directory::update_value(&self.mos, tx, "scan", &Value::words(&phys.emit()))?;
        self.scan.lock().phys = Some(phys);
        Ok(())
    }

    /// Datasets came or went: the queue of a scan that waits would name what is gone, and lack what is new. It begins anew.
    pub(crate) fn datasets_changed(&self, tx: &Tx) -> Result<()> {
        let phys = {
            let mut scan = self.scan.lock();
            scan.generation += 1;
            scan.phys.filter(|phys| phys.state == ScanState::Scanning && phys.bookmark != Bookmark::default())
        };
        let Some(phys) = phys else { return Ok(()) };
        if phys.queue != 0 {
            self.mos.free(tx, phys.queue)?;
        }
        let queue = self.new_queue(tx, &[])?;
        let ddt_bookmark = [0; 4];
        let phys = ScanPhys { queue, ddt_bookmark, bookmark: Bookmark::default(), examined: 0, ..phys };
        self.record_scan(tx, phys)
    }

    fn new_queue(&self, tx: &Tx, datasets: &[u64]) -> Result<u64> {
        let zap = zap::create(&self.mos, tx, ObjectType::SCAN_QUEUE, &zap::CreateOptions::default())?;
        for dataset in datasets {
            // As from which txg it is scanned: from its previous snapshot on.
            zap::add_u64(&zap, tx, zap::int_name(*dataset).as_str(), 0)?;
        }
        Ok(zap.object())
    }

    /// The time in seconds since 1970.
    pub(crate) fn seconds(&self) -> u64 {
        u64::try_from(self.env.clock.now().sec).unwrap_or(0)
    }
}

/// The datasets of `all` that are not in `done`, in their order.
pub(super) fn left(all: &Arc<[u64]>, done: &BTreeSet<u64>) -> Vec<u64> {
    all.iter().copied().filter(|id| !done.contains(id)).collect()
}
