//! The pool's error log: blocks that reads and scrubs found lost. Source: `module/zfs/spa_errlog.c`.
//!
//! Two ZAPs, `errlog_last` and `errlog_scrub`, have a name for each block: `objset:object:level:blkid` in hexadecimal. The latter
//! is that of a scrub which goes on, and takes the place of the former when it ends. With the feature `head_errlog` there is
//! a ZAP for each head dataset between, whose names are `object:level:blkid:birth`.

use super::core::Core;
use super::directory;
use super::report::DamagedFile;
use crate::dmu::{Objset, Tx};
use crate::error::{Error, Result};
use crate::ondisk::bookmark::Bookmark;
use crate::ondisk::object_type::ObjectType;
use crate::zap::{self, Value};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// What was found since the last scrub, and by it.
pub(super) const LAST: &str = "errlog_last";
/// What a scrub has found so far.
pub(super) const SCRUB: &str = "errlog_scrub";

fn words(name: &[u8]) -> Option<[u64; 4]> {
    let mut words = core::str::from_utf8(name).ok()?.split(':').map(|w| u64::from_str_radix(w, 16));
    let mut next = || words.next()?.ok();
    Some([next()?, next()?, next()?, next()?])
}

fn parse(name: &[u8]) -> Option<Bookmark> {
    let [objset, object, level, blkid] = words(name)?;
    Some(Bookmark { objset, object, level: level.cast_signed(), blkid })
}

fn name_of(at: &Bookmark) -> String {
    format!("{:x}:{:x}:{:x}:{:x}", at.objset, at.object, at.level, at.blkid)
}

/// Adds blocks to a log, which is made if need be. Syncing context.
pub(super) fn add(mos: &Arc<Objset>, tx: &Tx, log: &str, blocks: &BTreeSet<Bookmark>) -> Result<()> {
    if blocks.is_empty() {
        return Ok(());
    }
    let object = match directory::lookup(mos, log)? {
        Some(object) if object != 0 => object,
        _ => {
            let made = zap::create(mos, tx, ObjectType::ERROR_LOG, &zap::CreateOptions::default())?.object();
            directory::update_value(mos, tx, log, &Value::words(&[made]))?;
            made
        }
    };
    let zap = mos.hold(object)?;
    for block in blocks {
        // The value is a name that nobody gives, with its terminating zero.
        zap::update(&zap, tx, name_of(block).as_str(), &Value::bytes(&[0]))?;
    }
    Ok(())
}

/// A scrub ended: its log is the log. Syncing context.
pub(super) fn rotate(mos: &Arc<Objset>, tx: &Tx) -> Result<()> {
    let last = directory::lookup(mos, LAST)?.unwrap_or(0);
    let scrub = directory::lookup(mos, SCRUB)?.unwrap_or(0);
    if last == 0 && scrub == 0 {
        return Ok(());
    }
    if last != 0 {
        free(mos, tx, last)?;
    }
    directory::update_value(mos, tx, LAST, &Value::words(&[scrub]))?;
    directory::update_value(mos, tx, SCRUB, &Value::words(&[0]))
}

/// Frees a log and the logs that it names.
fn free(mos: &Arc<Objset>, tx: &Tx, log: u64) -> Result<()> {
    for entry in zap::entries(&mos.hold(log)?)? {
        if words(&entry.name).is_none() && entry.value.int_size == 8 {
            mos.free(tx, entry.value.first())?;
        }
    }
    mos.free(tx, log)
}

impl Core {
    /// Lists what reads have found lost since the last txg.
    pub(super) fn log_lost(&self, tx: &Tx) -> Result<()> {
        let lost = self.spa.zio.take_lost();
        if lost.is_empty() {
            return Ok(());
        }
        let known = self.logged_blocks(&[LAST]).unwrap_or_default();
        let new = lost.into_iter().filter(|at| !known.contains(at)).collect();
        match add(&self.spa.mos, tx, LAST, &new) {
            // A pool that is damaged so far, or full, goes on without.
            Err(Error::NoSpace | Error::Checksum { .. } | Error::Corrupt { .. }) => Ok(()),
            done => done,
        }
    }

    /// The blocks in some logs.
    pub(super) fn logged_blocks(&self, logs: &[&str]) -> Result<BTreeSet<Bookmark>> {
        let mos = &self.spa.mos;
        let mut blocks = BTreeSet::new();
        for log in logs {
            let Some(object) = directory::lookup(mos, log)?.filter(|o| *o != 0) else { continue };
            for entry in zap::entries(&mos.hold(object)?)? {
                if let Some(at) = parse(&entry.name) {
                    blocks.insert(at);
                    continue;
                }
                // A head dataset's own log.
                let name = core::str::from_utf8(&entry.name).ok();
                let Some(objset) = name.and_then(|n| u64::from_str_radix(n, 16).ok()) else { continue };
                for entry in zap::entries(&mos.hold(entry.value.first())?)? {
                    let at = words(&entry.name).map(|[object, level, blkid, _]| Bookmark {
                        objset,
                        object,
                        level: level.cast_signed(),
                        blkid,
                    });
                    blocks.extend(at);
                }
            }
        }
        Ok(blocks)
    }

    /// All damaged blocks on record, by file.
    pub(super) fn logged_errors(&self) -> Result<Vec<DamagedFile>> {
        Ok(self.by_file(self.logged_blocks(&[LAST, SCRUB])?))
    }

    /// Forgets the log (`zpool clear`).
    pub(super) fn clear_errors(&self) -> Result<()> {
        drop(self.spa.zio.take_lost());
        let mos = Arc::clone(&self.spa.mos);
        self.spa.run_task(move |tx: &Tx| {
            for log in [LAST, SCRUB] {
                if let Some(object) = directory::lookup(&mos, log)?.filter(|o| *o != 0) {
                    free(&mos, tx, object)?;
                    directory::update_value(&mos, tx, log, &Value::words(&[0]))?;
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
        assert_eq!(parse(b"36:a:0:1f"), Some(Bookmark { objset: 0x36, object: 10, level: 0, blkid: 31 }));
        assert_eq!(parse(b"36:a:ffffffffffffffff:0").map(|b| b.level), Some(-1));
        assert_eq!((parse(b"36:a:0"), parse(b"x:1:2:3"), parse(b"\xff")), (None, None, None));
        for name in ["36:a:0:1f", "36:a:ffffffffffffffff:0"] {
            assert_eq!(parse(name.as_bytes()).map(|at| name_of(&at)).as_deref(), Some(name));
        }
    }
}
