//! Verification: every copy of every block, and the space maps against what is referred to. What `zdb -bcc` and a scrub do.
//! Source: `dump_block_stats` (`cmd/zdb/zdb.c`), `module/zfs/dsl_scan.c`.

use super::brt::{Entries, is_cloneable};
use super::core::{Core, NOWHERE};
use super::directory;
use super::range_tree::RangeTree;
use super::report::{Progress, VerifyReport};
use crate::dmu::{Traverse, Visit, traverse};
use crate::dsl::{Bpobj, SpaHost};
use crate::error::{Error, Result};
use crate::ondisk::blkptr::{Blkptr, Dva};
use crate::ondisk::bookmark::Bookmark;
use crate::ondisk::brt::range_of;
use crate::zil;
use crate::zio::Verified;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Blocks that are read at once …
const BATCH_BLOCKS: usize = 256;
/// … and their bytes.
const BATCH_BYTES: u64 = 16 << 20;

/// A block that a block reference table has an entry for.
#[derive(Default)]
struct Cloned {
    /// References besides the first, as the entry says.
    references: u64,
    /// How often it was met.
    met: u64,
    /// Bytes of data that it occupies.
    dsize: u64,
}

/// A verification that is going on.
struct Verifier<'a> {
    core: &'a Core,
    progress: &'a mut dyn FnMut(Progress),
    total: u64,
    report: VerifyReport,
    damaged: BTreeSet<Bookmark>,
    referenced: BTreeMap<u32, RangeTree>,
    /// By vdev and offset.
    cloned: BTreeMap<(u32, u64), Cloned>,
    batch: Vec<(Blkptr, Bookmark)>,
    batch_bytes: u64,
    /// Something that refers to space could not be looked into, though it is not damaged: what seems leaked may be its.
    incomplete: bool,
}

impl Verifier<'_> {
    /// A block that is referred to and whose content is checked.
    fn check(&mut self, bp: &Blkptr, at: &Bookmark) {
        if bp.is_hole() || bp.is_embedded() {
            return;
        }
        self.report.blocks += 1;
        self.account(bp);
        self.batch_bytes += bp.psize() * bp.dvas().count() as u64;
        self.batch.push((*bp, *at));
        if self.batch.len() >= BATCH_BLOCKS || self.batch_bytes >= BATCH_BYTES {
            self.flush();
        }
    }

    /// Whether a block was met before, and that is right: it was cloned.
    fn is_another_reference(&mut self, bp: &Blkptr) -> bool {
        if self.cloned.is_empty() || !is_cloneable(bp) {
            return false;
        }
        let dva = bp.dva(0);
        let Some(cloned) = self.cloned.get_mut(&(dva.vdev, dva.offset)) else { return false };
        cloned.met += 1;
        cloned.dsize = self.core.spa.dsize(bp);
        cloned.met > 1 && cloned.met - 1 <= cloned.references
    }

    /// Space that is referred to.
    fn account(&mut self, bp: &Blkptr) {
        if self.is_another_reference(bp) {
            return;
        }
        let extents = if bp.dvas().any(|dva| dva.gang) {
            // An unreadable gang header shows as damage when the block itself is checked.
            self.core.spa.zio.extents(bp, NOWHERE).unwrap_or_default()
        } else {
            bp.dvas().collect::<Vec<Dva>>()
        };
        let vdevs = self.core.spa.zio.vdevs();
        // A broken address shows as damage when the block itself is checked.
        for dva in extents.iter().flat_map(|dva| vdevs.real_extents(dva).unwrap_or_default()) {
            self.report.referenced += dva.asize;
            let doubled = self.referenced.entry(dva.vdev).or_default().add_missing(dva.offset, dva.asize);
            if !bp.dedup() {
                self.report.doubly_allocated += doubled;
            }
        }
    }

    /// Reads and checks what has gathered.
    fn flush(&mut self) {
        let batch = core::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        for ((_, at), outcome) in batch.iter().zip(self.core.spa.zio.verify_many(&batch)) {
            match outcome {
                Ok(Verified { bytes, bad, .. }) => {
                    self.report.bytes += bytes;
                    self.report.bad_copies += u64::from(bad);
                }
                Err(Error::Unsupported { what }) => {
                    self.report.problems.push(format!("{at}: not supported: {what}"))
                }
                Err(_) => _ = self.damaged.insert(*at),
            }
        }
        (self.progress)(Progress { done: self.report.referenced.min(self.total), total: self.total });
    }

    /// An objset with all its blocks.
    fn objset(&mut self, objset: u64, root: &Blkptr, min_txg: u64) {
        let zio = Arc::clone(&self.core.spa.zio);
        if let Err(error) = traverse(&zio, objset, root, min_txg, self) {
            self.report.problems.push(format!("objset {objset}: {error}"));
        }
    }

    /// Everything that refers to space.
    fn walk(&mut self) -> Result<()> {
        let core = self.core;
        let spa = &core.spa;
        self.objset(0, &spa.mos.root(), 0);
        let mut objsets = Vec::new();
        let listed = core.dsl.visit_objsets(&mut |objset, root, min_txg| {
            objsets.push((objset, *root, min_txg));
            Ok(())
        });
        if let Err(error) = listed {
            self.report.problems.push(format!("datasets: {error}"));
        }
        for (objset, root, min_txg) in objsets {
            self.objset(objset, &root, min_txg);
        }
        self.flush();
        self.logs()?;
        let mut pending = Vec::new();
        core.dsl.visit_pending_frees(&mut |bp| {
            pending.push(*bp);
            Ok(())
        })?;
        if let Some(object) = directory::lookup(&spa.mos, "sync_bplist")? {
            let host: Arc<dyn SpaHost> = Arc::<super::core::Spa>::clone(spa);
            Bpobj::open(&spa.mos, &host, object)?.for_each(&mut |bp| {
                pending.push(*bp);
                Ok(())
            })?;
        }
        pending.iter().filter(|bp| !bp.is_hole() && !bp.is_embedded()).for_each(|bp| self.account(bp));
        // What only the checkpoint refers to is allocated, too.
        for (vdev, ranges) in spa.checkpoint_ranges()? {
            let referenced = self.referenced.entry(vdev).or_default();
            for (start, len) in ranges.iter() {
                self.report.referenced += len;
                self.report.doubly_allocated += referenced.add_missing(start, len);
            }
        }
        Ok(())
    }

    /// Blocks of intent logs: occupied, but their content ends where a checksum fails.
    fn logs(&mut self) -> Result<()> {
        let spa = &self.core.spa;
        let synced = spa.state.lock().uberblock.txg;
        for dataset in self.core.dsl.datasets()? {
            if dataset.root_bp().is_hole() {
                continue;
            }
            let objset = match dataset.objset() {
                Ok(objset) => objset,
                Err(Error::Unsupported { .. } | Error::KeyNotLoaded) => continue,
                Err(error) => {
                    self.report.problems.push(format!("{}: {error}", dataset.name()));
                    continue;
                }
            };
            let header = objset.zil_header();
            let mut blocks = Vec::new();
            zil::visit_blocks(&spa.zio, &header, dataset.object(), synced, &mut |bp| {
                blocks.push(*bp);
                Ok(())
            })?;
            blocks.iter().for_each(|bp| self.account(bp));
        }
        Ok(())
    }

    /// Reads the block reference tables.
    fn load_references(&mut self) -> Vec<Entries> {
        let tables = self.core.spa.brt_entries().unwrap_or_else(|error| {
            self.report.problems.push(format!("block reference tables: {error}"));
            Vec::new()
        });
        for table in &tables {
            let entry = |(offset, references): (&u64, &u64)| {
                ((table.vdev, *offset), Cloned { references: *references, ..Cloned::default() })
            };
            self.cloned.extend(table.references.iter().map(entry));
        }
        tables
    }

    /// The block reference tables against what was found.
    fn compare_references(&mut self, tables: &[Entries]) {
        for table in tables {
            let mut problem = |text: String| {
                self.report.problems.push(format!("block reference table of vdev {}: {text}", table.vdev));
            };
            let mut counts = alloc::vec![0u64; table.counts.len()];
            let (mut used, mut saved, mut surplus, mut first) = (0u64, 0u64, 0u64, None);
            for offset in table.references.keys() {
                match counts.get_mut(range_of(*offset)) {
                    Some(count) => *count += 1,
                    None => problem(format!("an entry beyond the vdev, at {offset:#x}")),
                }
                let Some(cloned) = self.cloned.get(&(table.vdev, *offset)) else { continue };
                used = used.saturating_add(cloned.dsize);
                saved = saved.saturating_add(cloned.dsize.saturating_mul(cloned.references));
                // What there is too much of shows as space that is referred to twice.
                let missing = cloned.references.saturating_sub(cloned.met.saturating_sub(1));
                if missing > 0 || cloned.met == 0 {
                    surplus = surplus.saturating_add(missing.max(1));
                    first = first.or(Some(*offset));
                }
            }
            if counts.iter().zip(&table.counts).any(|(found, said)| *found != u64::from(*said)) {
                problem("the entries of a range are not as many as it says".into());
            }
            if let Some(offset) = first.filter(|_| !self.incomplete) {
                problem(format!("{surplus} references more than there are, the first at {offset:#x}"));
            } else if !self.incomplete && (used, saved) != (table.used, table.saved) {
                let (said_used, said_saved) = (table.used, table.saved);
                problem(format!(
                    "{said_used} bytes used and {said_saved} saved, where it is {used} and {saved}"
                ));
            }
        }
    }

    /// The space maps against what was found.
    fn compare(&mut self) -> Result<()> {
        let spa = &self.core.spa;
        let mut problems = Vec::new();
        let maps = spa.space.allocated_ranges(|vdev, object, error| {
            problems.push(format!("vdev {vdev}, space map {object}: {error}"));
        });
        self.report.problems.append(&mut problems);
        for (vdev, allocated) in &maps {
            self.report.allocated += allocated.space();
            let referenced = self.referenced.remove(vdev).unwrap_or_default();
            let missing = |set: &RangeTree, from: &RangeTree| -> u64 {
                let mut rest = from.clone();
                set.iter().for_each(|(start, len)| _ = rest.clear(start, len));
                rest.space()
            };
            if !self.incomplete {
                self.report.leaked += missing(&referenced, allocated);
            }
            self.report.unallocated += missing(allocated, &referenced);
        }
        let rest: u64 = self.referenced.values().map(RangeTree::space).sum();
        self.report.unallocated += rest;
        Ok(())
    }
}

impl Traverse for Verifier<'_> {
    fn block(&mut self, bp: &Blkptr, at: &Bookmark) -> Result<Visit> {
        self.check(bp, at);
        Ok(Visit::Continue)
    }

    fn unreadable(&mut self, _bp: &Blkptr, at: &Bookmark, error: Error) -> Result<()> {
        match error {
            Error::KeyNotLoaded => self.incomplete = true,
            Error::Unsupported { what } => self.report.problems.push(format!("{at}: not supported: {what}")),
            _ => _ = self.damaged.insert(*at),
        }
        Ok(())
    }
}

impl Core {
    /// Verifies everything; writes nothing.
    pub(super) fn verify(&self, progress: &mut dyn FnMut(Progress)) -> Result<VerifyReport> {
        let mut verifier = Verifier {
            core: self,
            progress,
            total: self.spa.space.allocated(),
            report: VerifyReport::default(),
            damaged: BTreeSet::new(),
            referenced: BTreeMap::new(),
            cloned: BTreeMap::new(),
            batch: Vec::new(),
            batch_bytes: 0,
            incomplete: false,
        };
        let tables = verifier.load_references();
        verifier.walk()?;
        verifier.compare()?;
        verifier.compare_references(&tables);
        let Verifier { mut report, damaged, .. } = verifier;
        report.damaged = self.by_file(damaged);
        Ok(report)
    }
}
