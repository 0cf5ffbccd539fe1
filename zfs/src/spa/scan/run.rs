//! The walk of a scan.

use super::super::core::Core;
use super::super::metaslab::Pin;
use super::super::report::Progress;
use super::ScanControl;
use super::state::left;
use crate::dmu::{Objset, Traverse, Tx, Visit, traverse};
use crate::error::{Error, Result};
use crate::ondisk::blkptr::{Blkptr, Dva};
use crate::ondisk::bookmark::Bookmark;
use crate::ondisk::dsl::DatasetPhys;
use crate::ondisk::scan::{ScanFunc, ScanPhys, ScanState};
use crate::vdev::VdevTree;
use crate::zil;
use crate::zio::Lost;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Blocks that are read at once …
const BATCH_BLOCKS: usize = 256;
/// … and their bytes.
const BATCH_BYTES: u64 = 16 << 20;
/// How often an objset is begun anew, as the pool was so full that its space could not stay pinned.
const ATTEMPTS: usize = 8;
/// Seconds after which it is recorded how far a scan is.
const KEEP_SECONDS: u64 = 60;

/// A scan that is going on.
pub(super) struct Run<'a> {
    core: &'a Core,
    control: &'a mut dyn FnMut(Progress) -> ScanControl,
    wish: ScanControl,
    /// The datasets as of `generation`, in the order in which they are scanned.
    all: Arc<[u64]>,
    generation: Option<u64>,
    done: BTreeSet<u64>,
    found: Found,
    kept_at: u64,
    /// It goes on with a scan of an earlier import.
    resumed: bool,
}

/// What a scan has found; taken back when an objset is begun anew.
#[derive(Clone)]
struct Found {
    phys: ScanPhys,
    lost: BTreeSet<Lost>,
    problems: Vec<String>,
}

/// What is left of a scan that ended or was interrupted.
pub(super) struct Outcome {
    pub(super) phys: ScanPhys,
    pub(super) lost: BTreeSet<Lost>,
    pub(super) problems: Vec<String>,
    pub(super) rest: Vec<u64>,
    pub(super) resumed: bool,
}

impl Core {
    /// Takes a recorded scan up, or sets a new one up.
    pub(super) fn start_scan<'a>(
        &'a self,
        func: ScanFunc,
        control: &'a mut dyn FnMut(Progress) -> ScanControl,
    ) -> Result<Run<'a>> {
        let recorded = self.spa.scan.lock().phys.filter(|p| p.state == ScanState::Scanning && p.func == func);
        let needed = self.spa.resilver_needed();
        // A resilver that does not reach all that is lacking now begins anew.
        let recorded = recorded.filter(|phys| {
            let reaches = |(min, max): (u64, u64)| phys.min_txg <= min && phys.max_txg > max;
            func == ScanFunc::Scrub || needed.is_none_or(reaches)
        });
        let resumed = recorded.is_some();
        let (mut rest, mut lost) = (None, BTreeSet::new());
        self.spa.forget_unrepaired();
        let phys = match recorded {
            Some(phys) => {
                rest = self.spa.scan_rest(&phys)?;
                let begun_anew = ScanPhys { examined: 0, processed: 0, errors: 0, ..phys };
                let phys = ScanPhys { paused: false, ..if rest.is_some() { phys } else { begun_anew } };
                if rest.is_some() {
                    lost = self.spa.logged_blocks(&[super::super::errlog::SCRUB])?;
                }
                let spa = Arc::clone(&self.spa);
                self.spa.run_task(move |tx: &Tx| spa.record_scan(tx, phys))?;
                phys
            }
            None => {
                let spa = Arc::clone(&self.spa);
                // On record stands the first txg that it does not reach (`vdev_dtl_max`).
                let bounds = needed.filter(|_| func == ScanFunc::Resilver).map(|(min, last)| (min, last + 1));
                self.spa.run_task(move |tx: &Tx| spa.setup_scan(tx, func, bounds.unwrap_or((0, tx.txg()))))?
            }
        };
        let mut run = Run {
            core: self,
            control,
            wish: ScanControl::Continue,
            all: Arc::new([]),
            generation: None,
            done: BTreeSet::new(),
            found: Found { phys, lost, problems: Vec::new() },
            kept_at: self.spa.seconds(),
            resumed,
        };
        if let Some(rest) = rest {
            run.refresh()?;
            run.done = run.all.iter().copied().filter(|id| !rest.contains(id)).collect();
            run.done.insert(0);
        }
        Ok(run)
    }
}

impl Run<'_> {
    /// Scans what is left; what the caller wanted at the end.
    pub(super) fn everything(&mut self) -> Result<ScanControl> {
        while self.wish == ScanControl::Continue {
            self.refresh()?;
            // The MOS comes first: it is what the others are found by.
            let next = match self.done.contains(&0) {
                false => Some(0),
                true => self.all.iter().copied().find(|id| !self.done.contains(id)),
            };
            let Some(next) = next else { break };
            if self.objset(next)? {
                self.done.insert(next);
                self.keep()?;
            }
        }
        Ok(self.wish)
    }

    pub(super) fn outcome(self) -> Outcome {
        let rest = if self.done.contains(&0) { left(&self.all, &self.done) } else { Vec::new() };
        let (Found { mut phys, lost, problems }, resumed) = (self.found, self.resumed);
        if !self.done.contains(&0) {
            phys.examined = 0;
        }
        Outcome { phys, lost, problems, rest, resumed }
    }

    /// Lists the datasets, if any came or went.
    fn refresh(&mut self) -> Result<()> {
        let generation = self.core.spa.scan.lock().generation;
        if self.generation == Some(generation) {
            return Ok(());
        }
        let mut all = Vec::new();
        self.core.dsl.visit_objsets(&mut |objset, _, _| {
            all.push(objset);
            Ok(())
        })?;
        // From now on the uberblock on disk knows all of them.
        let txg = self.core.spa.txgs.request_sync();
        self.core.spa.txgs.wait_synced(txg)?;
        self.all = all.into();
        self.generation = Some(generation);
        Ok(())
    }

    /// Records now and then how far it is.
    fn keep(&mut self) -> Result<()> {
        let now = self.core.spa.seconds();
        if now.saturating_sub(self.kept_at) < KEEP_SECONDS {
            return Ok(());
        }
        self.kept_at = now;
        let (phys, lost) = (self.found.phys, self.found.lost.clone());
        let rest = left(&self.all, &self.done);
        let generation = self.generation;
        let spa = Arc::clone(&self.core.spa);
        self.found.phys = self.core.spa.run_task(move |tx: &Tx| {
            if Some(spa.scan.lock().generation) != generation {
                return Ok(phys);
            }
            spa.keep_scan(tx, phys, &lost, &rest, false)
        })?;
        Ok(())
    }

    /// Scans one objset. False if it was interrupted.
    fn objset(&mut self, objset: u64) -> Result<bool> {
        let core = self.core;
        let before = self.found.clone();
        for _ in 0..ATTEMPTS {
            let pin = core.spa.space.pin()?;
            let mos_root = core.spa.state.lock().uberblock.rootbp;
            if let Some((root, min_txg)) = self.root_of(objset, mos_root)? {
                let vdevs = core.spa.zio.vdevs();
                let mut walk =
                    Walk { run: self, pin: &pin, vdevs, batch: Vec::new(), batch_bytes: 0, passed: 0 };
                walk.whole(objset, &root, min_txg);
            }
            if self.wish != ScanControl::Continue {
                return Ok(false);
            }
            if pin.holds() {
                return Ok(true);
            }
            let queue = self.found.phys.queue;
            self.found = before.clone();
            self.found.phys.queue = queue;
        }
        Err(Error::NoSpace)
    }

    /// The root block of an objset in the tree of an uberblock, and the txg from which on its blocks are its own.
    fn root_of(&mut self, objset: u64, mos_root: Blkptr) -> Result<Option<(Blkptr, u64)>> {
        let min_txg = self.found.phys.min_txg;
        if objset == 0 {
            return Ok(Some((mos_root, min_txg)));
        }
        let spa = &self.core.spa;
        let mos = Objset::open(Arc::clone(&spa.zio), Arc::clone(&spa.txgs), 0, mos_root)?;
        let phys = mos.hold(objset).and_then(|dnode| DatasetPhys::parse(&dnode.bonus()));
        match phys {
            Ok(phys) => Ok(Some((phys.bp, min_txg.max(phys.prev_snap_txg)))),
            // It was destroyed meanwhile.
            Err(Error::NotFound) => Ok(None),
            Err(error) => {
                self.found.problems.push(format!("dataset {objset}: {error}"));
                Ok(None)
            }
        }
    }
}

/// The walk through one objset.
struct Walk<'w, 'r> {
    run: &'w mut Run<'r>,
    pin: &'w Pin<'w>,
    vdevs: Arc<VdevTree>,
    batch: Vec<(Blkptr, Bookmark)>,
    batch_bytes: u64,
    /// Bytes of blocks that were passed since the last batch.
    passed: u64,
}

impl Walk<'_, '_> {
    fn whole(&mut self, objset: u64, root: &Blkptr, min_txg: u64) {
        let zio = Arc::clone(&self.run.core.spa.zio);
        if let Err(error) = traverse(&zio, objset, root, min_txg, self) {
            self.run.found.problems.push(format!("objset {objset}: {error}"));
        }
        self.flush();
        if objset != 0 && self.goes_on() {
            self.log(objset, root);
        }
    }

    fn resilvers(&self) -> bool {
        self.run.found.phys.func == ScanFunc::Resilver
    }

    fn goes_on(&self) -> bool {
        self.run.wish == ScanControl::Continue && self.pin.holds()
    }

    /// The blocks of an objset's intent log: none may be left on one side of a mirror only. The end of the log is bad
    /// on all sides, which is no damage.
    fn log(&mut self, objset: u64, root: &Blkptr) {
        let spa = &self.run.core.spa;
        let Ok(os) = Objset::open(Arc::clone(&spa.zio), Arc::clone(&spa.txgs), objset, *root) else { return };
        let (header, synced) = (os.zil_header(), spa.state.lock().uberblock.txg);
        let mut blocks = Vec::new();
        let _ = zil::visit_blocks(&spa.zio, &header, objset, synced, &mut |bp| {
            blocks.push(*bp);
            Ok(())
        });
        let at = Bookmark { objset, object: 0, level: Bookmark::LEVEL_ZIL, blkid: 0 };
        for bp in blocks {
            if let Some(Ok(mended)) = self.pin.while_held(|| spa.zio.repair_zil(&bp, at)) {
                self.run.found.phys.processed += u64::from(mended.repaired) * bp.psize();
            }
        }
    }

    /// Reads and checks what has gathered; mends what can be mended.
    fn flush(&mut self) {
        let batch = core::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        let zio = &self.run.core.spa.zio;
        let resilvers = self.resilvers();
        let outcomes = match resilvers {
            // Most of it has to be written: at once.
            true => self.pin.while_held(|| zio.repair_many(&batch)),
            false => Some(zio.verify_many(&batch)),
        };
        self.run.found.phys.examined += core::mem::take(&mut self.passed);
        // Where the pin broke, the objset is begun anew.
        let Some(outcomes) = outcomes else { return };
        for ((bp, at), outcome) in batch.iter().zip(outcomes) {
            let outcome = match outcome {
                Ok(found) if found.bad == 0 && found.stale == 0 => continue,
                Err(Error::Unsupported { what }) => {
                    self.run.found.problems.push(format!("{at}: not supported: {what}"));
                    continue;
                }
                outcome if resilvers => Some(outcome),
                _ => self.pin.while_held(|| self.run.core.spa.zio.repair(bp, *at)),
            };
            match outcome {
                // What was read may be gone since: the objset is begun anew.
                None => return,
                Some(Ok(mended)) => {
                    self.run.found.phys.processed += u64::from(mended.repaired) * bp.psize();
                    let wrong = mended.bad + mended.stale;
                    self.run.found.phys.errors += u64::from(wrong.saturating_sub(mended.repaired));
                }
                Some(Err(_)) => self.lost(bp, *at),
            }
        }
        let found = &self.run.found.phys;
        let progress = Progress { done: found.examined.min(found.to_examine), total: found.to_examine };
        self.run.wish = (self.run.control)(progress);
        let asked = self.run.core.spa.scan.lock().wish;
        if asked != ScanControl::Continue {
            self.run.wish = asked;
        }
    }

    fn lost(&mut self, bp: &Blkptr, at: Bookmark) {
        if self.run.found.lost.insert(Lost::new(bp, at)) {
            self.run.found.phys.errors += 1;
        }
    }
}

impl Traverse for Walk<'_, '_> {
    fn block(&mut self, bp: &Blkptr, at: &Bookmark) -> Result<Visit> {
        if !self.goes_on() {
            return Ok(Visit::Stop);
        }
        if bp.is_embedded() {
            return Ok(Visit::Continue);
        }
        self.passed += bp.asize();
        let lacks = |dva: Dva| self.vdevs.lacks(&dva, bp.psize(), bp.physical_birth());
        if !self.resilvers() || bp.dvas().any(lacks) {
            self.batch_bytes += bp.psize() * bp.dvas().count() as u64;
            self.batch.push((*bp, *at));
            if self.batch.len() >= BATCH_BLOCKS || self.batch_bytes >= BATCH_BYTES {
                self.flush();
            }
        }
        Ok(if self.goes_on() { Visit::Continue } else { Visit::Stop })
    }

    fn unreadable(&mut self, bp: &Blkptr, at: &Bookmark, error: Error) -> Result<()> {
        match error {
            Error::KeyNotLoaded => {
                let text = format!("dataset {}: encrypted, its files were not scanned", at.objset);
                if self.run.found.problems.last() != Some(&text) {
                    self.run.found.problems.push(text);
                }
            }
            Error::Unsupported { what } => {
                self.run.found.problems.push(format!("{at}: not supported: {what}"));
            }
            _ if self.pin.holds() => self.lost(bp, *at),
            _ => {}
        }
        Ok(())
    }
}
