//! Scrub and resilver: every copy of every block is read and checked, and bad ones are written anew from good ones.
//! Source: `module/zfs/dsl_scan.c`.
//!
//! OpenZFS scans in syncing context, where nothing can be freed. This engine scans beside the txgs: for each objset it pins the
//! pool's space ([`super::metaslab::Pin`]) and walks the tree of the last uberblock, which stays whole as long as the pin holds.
//!
//! # Invariants
//! - What is recorded in the MOS ([`crate::ondisk::scan`]) can be taken up by OpenZFS: either nothing was scanned yet, or the queue lists
//!   every dataset that is left. When datasets come or go while a scan waits, it begins anew.
//! - Repairs are written under the pin only.
//! - A leaf is said to have what it missed in the txg after the last of it was written to it, whose uberblock follows a flush.
//!
//! # Lock order
//! The scan's own state is a leaf: nothing is taken while it is held.

mod run;
mod state;

use super::core::Core;
use super::report::{DamagedFile, Progress};
use crate::dmu::Tx;
use crate::error::{Error, Result};
use crate::ondisk::scan::{ScanFunc, ScanPhys, ScanState};
use crate::zio::Lost;
use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use platform::sync::Mutex;
pub(super) use state::RESILVER_DEFER;

/// How often a resilver begins anew at once, as devices missed something while it went on.
const RESILVERS_MAX: usize = 3;

/// What the caller of a scan wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ScanControl {
    /// Go on.
    #[default]
    Continue,
    /// Stop here; a later scrub goes on from here.
    Pause,
    /// Stop for good.
    Stop,
}

/// How a scan ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanReport {
    /// What is on record about it.
    pub status: ScanPhys,
    /// Files with blocks that no copy gave.
    pub damaged: Vec<DamagedFile>,
    /// What could not be looked at, in words.
    pub problems: Vec<String>,
}

/// What is known of the scan in memory.
#[derive(Default)]
pub(super) struct ScanMemory {
    /// The last scan on record.
    pub(super) phys: Option<ScanPhys>,
    /// Somebody is scanning.
    running: bool,
    /// What others want of the one who scans.
    wish: ScanControl,
    /// Grows whenever datasets come or go.
    generation: u64,
}

/// The scan of a pool.
pub(super) type Scan = Mutex<ScanMemory>;

/// Marks the one who scans.
struct Running<'a>(&'a Scan);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.lock().running = false;
    }
}

impl Core {
    /// Scrubs, or goes on with a scrub that was paused or cut off. Waits for its end.
    pub(super) fn scan(
        &self,
        func: ScanFunc,
        control: &mut dyn FnMut(Progress) -> ScanControl,
    ) -> Result<ScanReport> {
        if self.spa.read_only {
            return Err(Error::ReadOnly);
        }
        {
            let mut scan = self.spa.scan.lock();
            if scan.running {
                return Err(Error::Busy);
            }
            (scan.running, scan.wish) = (true, ScanControl::Continue);
        }
        let _running = Running(&self.spa.scan);
        let recorded = self.spa.scan.lock().phys.filter(|phys| phys.state == ScanState::Scanning);
        if func == ScanFunc::Scrub && recorded.is_some_and(|phys| phys.func == ScanFunc::Resilver) {
            return Err(Error::Invalid("a resilver is in progress"));
        }
        // What leaves lack is all on disk, so that one walk finds it.
        if let Some((_, last)) = self.spa.resilver_needed() {
            while self.spa.txgs.synced_txg() < last {
                self.spa.txgs.wait_synced(self.spa.txgs.request_sync())?;
            }
        }
        let mut run = self.start_scan(func, control)?;
        let wish = run.everything()?;
        let run::Outcome { phys, lost, problems, rest, resumed } = run.outcome();
        // What was not looked at, or failed before this import, may still be lacking somewhere.
        let complete = problems.is_empty() && (phys.errors == 0 || !resumed);
        let status = match wish {
            ScanControl::Continue => self.end_scan(phys, lost.clone(), ScanState::Finished, complete)?,
            ScanControl::Stop => self.end_scan(phys, lost.clone(), ScanState::Canceled, false)?,
            ScanControl::Pause => self.pause_scan(phys, lost.clone(), rest)?,
        };
        Ok(ScanReport { status, damaged: self.by_file(lost.into_iter().map(|lost| lost.at)), problems })
    }

    /// Asks a scrub to pause or stop: the one that is going on, or the one on record.
    pub(super) fn control_scan(&self, wish: ScanControl) -> Result<()> {
        let recorded = {
            let mut scan = self.spa.scan.lock();
            if scan.running {
                scan.wish = wish;
                return Ok(());
            }
            scan.phys.filter(|phys| phys.state == ScanState::Scanning)
        };
        let Some(phys) = recorded else { return Err(Error::Invalid("there is no active scrub")) };
        if phys.func == ScanFunc::Resilver && wish == ScanControl::Pause {
            return Err(Error::Invalid("a resilver cannot be paused"));
        }
        match wish {
            ScanControl::Continue => Ok(()),
            ScanControl::Stop => self.end_scan(phys, BTreeSet::new(), ScanState::Canceled, false).map(|_| ()),
            ScanControl::Pause => {
                let spa = Arc::clone(&self.spa);
                self.spa.run_task(move |tx: &Tx| spa.record_scan(tx, ScanPhys { paused: true, ..phys }))
            }
        }
    }

    /// Brings every device what it lacks: goes on with a resilver on record, or begins one. Devices that were replaced are let go at
    /// the end. `None` if nothing was lacking.
    pub(super) fn resilver(
        &self,
        control: &mut dyn FnMut(Progress) -> ScanControl,
    ) -> Result<Option<ScanReport>> {
        let mut last = None;
        for _ in 0..RESILVERS_MAX {
            self.finish_replacements()?;
            let recorded = self.spa.scan.lock().phys;
            let recorded =
                recorded.filter(|p| p.state == ScanState::Scanning && p.func == ScanFunc::Resilver);
            if recorded.is_none() && self.spa.resilver_needed().is_none() {
                break;
            }
            let report = self.scan(ScanFunc::Resilver, control)?;
            let again = report.status.state == ScanState::Finished && report.problems.is_empty();
            last = Some(report);
            if !again {
                break;
            }
        }
        self.finish_replacements()?;
        Ok(last)
    }

    fn end_scan(
        &self,
        phys: ScanPhys,
        lost: BTreeSet<Lost>,
        state: ScanState,
        complete: bool,
    ) -> Result<ScanPhys> {
        let spa = Arc::clone(&self.spa);
        self.spa.run_task(move |tx: &Tx| {
            if complete {
                spa.excise_dtls(phys.max_txg.saturating_sub(1));
            }
            spa.finish_scan(tx, phys, &lost, state)
        })
    }

    fn pause_scan(&self, phys: ScanPhys, lost: BTreeSet<Lost>, rest: Vec<u64>) -> Result<ScanPhys> {
        let spa = Arc::clone(&self.spa);
        // A resilver that was cut off goes on by itself wherever the pool is imported next.
        let paused = phys.func == ScanFunc::Scrub;
        self.spa.run_task(move |tx: &Tx| spa.keep_scan(tx, phys, &lost, &rest, paused))
    }
}
