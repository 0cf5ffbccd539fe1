//! The pool's error log: blocks that reads and scrubs found lost. Source: `module/zfs/spa_errlog.c`.
//!
//! Two ZAPs, `errlog_last` and `errlog_scrub`, have a name for each block: `objset:object:level:blkid` in hexadecimal. The latter
//! is that of a scrub which goes on, and takes the place of the former when it ends. With the feature `head_errlog` there is
//! a ZAP for each head dataset between, whose names are `object:level:blkid:birth` (`zbookmark_err_phys_t`). There the
//! block is listed once, under the head of the dataset in which it was found, and its birth tells which snapshots and clones have it
//! ([`affected`]).
//!
//! # Invariants
//! - With `head_errlog`, nothing is listed under a head that does not exist; 0 is the MOS.

mod affected;
mod upgrade;

use super::core::{Core, Spa};
use super::directory;
use super::report::DamagedFile;
use crate::dmu::{Dnode, Tx};
use crate::error::{Error, Result};
use crate::ondisk::bookmark::Bookmark;
use crate::ondisk::dsl::{DatasetPhys, DirPhys};
use crate::ondisk::object_type::ObjectType;
use crate::zap::{self, Value};
use crate::zio::Lost;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// What was found since the last scrub, and by it.
pub(super) const LAST: &str = "errlog_last";
/// What a scrub has found so far.
pub(super) const SCRUB: &str = "errlog_scrub";
/// The feature with which each head has its own log.
const HEAD_ERRLOG: &str = "com.delphix:head_errlog";

fn words(name: &[u8]) -> Option<[u64; 4]> {
    let mut words = core::str::from_utf8(name).ok()?.split(':').map(|w| u64::from_str_radix(w, 16));
    let mut next = || words.next()?.ok();
    Some([next()?, next()?, next()?, next()?])
}

/// A name in a log without heads: the birth is not known.
fn parse(name: &[u8]) -> Option<Lost> {
    let [objset, object, level, blkid] = words(name)?;
    Some(Lost { at: Bookmark { objset, object, level: level.cast_signed(), blkid }, birth: 0 })
}

fn name_of(Lost { at, .. }: &Lost) -> String {
    format!("{:x}:{:x}:{:x}:{:x}", at.objset, at.object, at.level, at.blkid)
}

/// A name in the log of a head.
fn parse_of_head(head: u64, name: &[u8]) -> Option<Lost> {
    let [object, level, blkid, birth] = words(name)?;
    Some(Lost { at: Bookmark { objset: head, object, level: level.cast_signed(), blkid }, birth })
}

fn name_of_head(Lost { at, birth }: &Lost) -> String {
    format!("{:x}:{:x}:{:x}:{birth:x}", at.object, at.level, at.blkid)
}

/// An entry's value: a name that nobody gives, with its terminating zero.
fn unnamed() -> Value {
    Value::bytes(&[0])
}

impl Spa {
    /// Whether each head has its own log.
    pub(super) fn lists_errors_by_head(&self) -> bool {
        self.features.is_enabled(HEAD_ERRLOG)
    }

    fn find_log(&self, log: &str) -> Result<Option<Arc<Dnode>>> {
        let object = directory::lookup(&self.mos, log)?.filter(|object| *object != 0);
        object.map(|object| self.mos.hold(object)).transpose()
    }

    fn new_log(&self, tx: &Tx) -> Result<Arc<Dnode>> {
        zap::create(&self.mos, tx, ObjectType::ERROR_LOG, &zap::CreateOptions::default())
    }

    /// The log of a head in another one, if it has any.
    fn log_of_head(&self, log: &Arc<Dnode>, head: u64) -> Result<Option<Arc<Dnode>>> {
        match zap::lookup_u64(log, zap::int_name(head).as_str()) {
            Ok(object) => self.mos.hold(object).map(Some),
            Err(Error::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The head of the dataset's dir; `None` if the dataset is gone.
    fn head_of_objset(&self, objset: u64) -> Result<Option<u64>> {
        if objset == 0 {
            return Ok(Some(0));
        }
        let dataset = match self.mos.hold(objset) {
            Err(Error::NotFound) => return Ok(None),
            dataset => DatasetPhys::parse(&dataset?.bonus())?,
        };
        let dir = DirPhys::parse(&self.mos.hold(dataset.dir_obj)?.bonus())?;
        Ok(Some(dir.head_dataset_obj).filter(|head| *head != 0))
    }

    /// A lost block as the log has it; `None` if its dataset is gone.
    fn entry_of(&self, lost: &Lost) -> Result<Option<Lost>> {
        if !self.lists_errors_by_head() {
            return Ok(Some(Lost { birth: 0, ..*lost }));
        }
        let head = self.head_of_objset(lost.at.objset)?;
        Ok(head.map(|objset| Lost { at: Bookmark { objset, ..lost.at }, ..*lost }))
    }

    /// Adds blocks to a log, which is made if need be. Syncing context.
    pub(super) fn list_errors(&self, tx: &Tx, log: &str, blocks: &BTreeSet<Lost>) -> Result<()> {
        let mut entries = BTreeSet::new();
        for block in blocks {
            entries.extend(self.entry_of(block)?);
        }
        self.write_entries(tx, log, &entries)
    }

    fn write_entries(&self, tx: &Tx, name: &str, entries: &BTreeSet<Lost>) -> Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        let log = match self.find_log(name)? {
            Some(log) => log,
            None => {
                let made = self.new_log(tx)?;
                directory::update_value(&self.mos, tx, name, &Value::words(&[made.object()]))?;
                made
            }
        };
        let by_head = self.lists_errors_by_head();
        for entry in entries {
            if !by_head {
                zap::update(&log, tx, name_of(entry).as_str(), &unnamed())?;
                continue;
            }
            let own = self.make_log_of_head(tx, &log, entry.at.objset)?;
            zap::update(&own, tx, name_of_head(entry).as_str(), &unnamed())?;
        }
        Ok(())
    }

    fn make_log_of_head(&self, tx: &Tx, log: &Arc<Dnode>, head: u64) -> Result<Arc<Dnode>> {
        if let Some(own) = self.log_of_head(log, head)? {
            return Ok(own);
        }
        let own = self.new_log(tx)?;
        zap::update_u64(log, tx, zap::int_name(head).as_str(), own.object())?;
        Ok(own)
    }

    /// A scrub ended: its log is the log (`spa_errlog_rotate`). Syncing context.
    pub(super) fn rotate_errors(&self, tx: &Tx) -> Result<()> {
        let scrub = self.find_log(SCRUB)?.map_or(0, |log| log.object());
        match self.find_log(LAST)? {
            Some(last) => self.free_log(tx, &last)?,
            None if scrub == 0 => return Ok(()),
            None => {}
        }
        directory::update_value(&self.mos, tx, LAST, &Value::words(&[scrub]))?;
        directory::update_value(&self.mos, tx, SCRUB, &Value::words(&[0]))
    }

    /// Frees a log and the logs that it names.
    fn free_log(&self, tx: &Tx, log: &Arc<Dnode>) -> Result<()> {
        for entry in zap::entries(log)? {
            if words(&entry.name).is_none() && entry.value.int_size == 8 {
                self.mos.free(tx, entry.value.first())?;
            }
        }
        self.mos.free(tx, log.object())
    }

    /// Forgets what is listed of a head that is gone (`spa_delete_dataset_errlog`). Syncing context.
    pub(super) fn forget_errors_of(&self, tx: &Tx, head: u64) -> Result<()> {
        if !self.lists_errors_by_head() {
            return Ok(());
        }
        for log in [SCRUB, LAST] {
            let Some(log) = self.find_log(log)? else { continue };
            if let Some(own) = self.log_of_head(&log, head)? {
                zap::remove(&log, tx, zap::int_name(head).as_str())?;
                self.mos.free(tx, own.object())?;
            }
        }
        Ok(())
    }

    /// Snapshots up to txg `until` changed heads: what is listed of blocks born by then goes with them (`spa_swap_errlog`). Syncing
    /// context.
    pub(super) fn move_errors_of(&self, tx: &Tx, from: u64, to: u64, until: u64) -> Result<()> {
        if !self.lists_errors_by_head() {
            return Ok(());
        }
        for log in [SCRUB, LAST] {
            let Some(log) = self.find_log(log)? else { continue };
            let Some(old) = self.log_of_head(&log, from)? else { continue };
            let moves = |name: &[u8]| parse_of_head(from, name).is_some_and(|lost| lost.birth <= until);
            let moving: Vec<_> = zap::entries(&old)?.into_iter().filter(|e| moves(&e.name)).collect();
            if moving.is_empty() {
                continue;
            }
            let new = self.make_log_of_head(tx, &log, to)?;
            for entry in moving {
                zap::update(&new, tx, entry.name.as_slice(), &unnamed())?;
                zap::remove(&old, tx, entry.name.as_slice())?;
            }
        }
        Ok(())
    }

    /// Takes entries that no dataset has any more out of both logs (`spa_remove_error`). Syncing context.
    fn remove_entries(&self, tx: &Tx, stale: &[Lost]) -> Result<()> {
        for log in [SCRUB, LAST] {
            let Some(log) = self.find_log(log)? else { continue };
            for entry in stale {
                let Some(own) = self.log_of_head(&log, entry.at.objset)? else { continue };
                match zap::remove(&own, tx, name_of_head(entry).as_str()) {
                    Ok(()) | Err(Error::NotFound) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// The blocks in some logs, as they stand there.
    pub(super) fn logged_blocks(&self, logs: &[&str]) -> Result<BTreeSet<Lost>> {
        let mut blocks = BTreeSet::new();
        for log in logs {
            let Some(log) = self.find_log(log)? else { continue };
            for entry in zap::entries(&log)? {
                if let Some(lost) = parse(&entry.name) {
                    blocks.insert(lost);
                    continue;
                }
                let name = core::str::from_utf8(&entry.name).ok();
                let Some(head) = name.and_then(|n| u64::from_str_radix(n, 16).ok()) else { continue };
                let own = zap::entries(&self.mos.hold(entry.value.first())?)?;
                blocks.extend(own.iter().filter_map(|entry| parse_of_head(head, &entry.name)));
            }
        }
        Ok(blocks)
    }
}

impl Core {
    /// Lists what reads have found lost since the last txg.
    pub(super) fn log_lost(&self, tx: &Tx) -> Result<()> {
        let lost = self.spa.zio.take_lost();
        if lost.is_empty() {
            return Ok(());
        }
        let add = || {
            let mut new = BTreeSet::new();
            for block in &lost {
                new.extend(self.spa.entry_of(block)?);
            }
            let known = self.spa.logged_blocks(&[LAST]).unwrap_or_default();
            new.retain(|entry| !known.contains(entry));
            self.spa.write_entries(tx, LAST, &new)
        };
        match add() {
            // A pool that is damaged so far, or full, goes on without.
            Err(Error::NoSpace | Error::Checksum { .. } | Error::Corrupt { .. }) => Ok(()),
            done => done,
        }
    }

    /// All damaged blocks on record, by file: with `head_errlog` in every dataset and snapshot that has them. What none has any more is
    /// forgotten, if the pool can be written.
    pub(super) fn logged_errors(&self) -> Result<Vec<DamagedFile>> {
        let entries = self.spa.logged_blocks(&[LAST, SCRUB])?;
        if !self.spa.lists_errors_by_head() {
            return Ok(self.by_file(entries.into_iter().map(|entry| entry.at)));
        }
        let (mut found, mut stale) = (BTreeSet::new(), Vec::new());
        {
            let _config = self.dsl.read_config();
            for entry in entries {
                let affected = affected::datasets_with(&self.dsl, &entry);
                if affected.is_empty() {
                    stale.push(entry);
                }
                found.extend(affected.into_iter().map(|objset| Bookmark { objset, ..entry.at }));
            }
        }
        if !stale.is_empty() && !self.spa.read_only {
            let spa = Arc::clone(&self.spa);
            self.spa.run_task(move |tx: &Tx| spa.remove_entries(tx, &stale))?;
        }
        Ok(self.by_file(found))
    }

    /// Forgets the log (`zpool clear`).
    pub(super) fn clear_errors(&self) -> Result<()> {
        drop(self.spa.zio.take_lost());
        let spa = Arc::clone(&self.spa);
        self.spa.run_task(move |tx: &Tx| {
            for name in [LAST, SCRUB] {
                if let Some(log) = spa.find_log(name)? {
                    spa.free_log(tx, &log)?;
                    directory::update_value(&spa.mos, tx, name, &Value::words(&[0]))?;
                }
            }
            Ok(())
        })
    }

    /// Damaged blocks by the file that they belong to.
    pub(super) fn by_file(&self, blocks: impl IntoIterator<Item = Bookmark>) -> Vec<DamagedFile> {
        let mut files: BTreeMap<(u64, u64), Vec<Bookmark>> = BTreeMap::new();
        for block in blocks {
            files.entry((block.objset, block.object)).or_default().push(block);
        }
        let file = |((objset, object), blocks)| DamagedFile {
            dataset: self.objset_name(objset),
            objset,
            object,
            path: None,
            blocks,
        };
        files.into_iter().map(file).collect()
    }

    fn objset_name(&self, objset: u64) -> String {
        match objset {
            0 => "<metadata>".to_string(),
            objset => self.dsl.lookup_object(objset).map_or_else(|_| format!("<{objset:#x}>"), |d| d.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bookmarks() {
        let at = |objset, object, level, blkid| Bookmark { objset, object, level, blkid };
        assert_eq!(parse(b"36:a:0:1f"), Some(Lost { at: at(0x36, 10, 0, 31), birth: 0 }));
        assert_eq!(parse(b"36:a:ffffffffffffffff:0").map(|lost| lost.at.level), Some(-1));
        assert_eq!((parse(b"36:a:0"), parse(b"x:1:2:3"), parse(b"\xff")), (None, None, None));
        for name in ["36:a:0:1f", "36:a:ffffffffffffffff:0"] {
            assert_eq!(parse(name.as_bytes()).map(|lost| name_of(&lost)).as_deref(), Some(name));
        }
        let lost = Lost { at: at(0x36, 10, 0, 31), birth: 0x2c };
        assert_eq!(parse_of_head(0x36, b"a:0:1f:2c"), Some(lost));
        assert_eq!(name_of_head(&lost), "a:0:1f:2c");
    }
}
