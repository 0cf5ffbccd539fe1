//! The pool's error log: damaged blocks that reads and scrubs have found. Source: `module/zfs/spa_errlog.c`.
//!
//! Two ZAPs, `errlog_last` and `errlog_scrub`, have a name for each block: `objset:object:level:blkid` in hexadecimal.

use super::core::Core;
use super::directory;
use super::report::DamagedFile;
use crate::error::Result;
use crate::ondisk::bookmark::Bookmark;
use crate::zap;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

fn parse(name: &[u8]) -> Option<Bookmark> {
    let mut words = core::str::from_utf8(name).ok()?.split(':').map(|w| u64::from_str_radix(w, 16));
    let mut next = || words.next()?.ok();
    Some(Bookmark { objset: next()?, object: next()?, level: next()?.cast_signed(), blkid: next()? })
}

impl Core {
    /// All damaged blocks on record.
    pub(super) fn logged_errors(&self) -> Result<Vec<DamagedFile>> {
        let mut blocks = BTreeSet::new();
        for log in ["errlog_last", "errlog_scrub"] {
            let Some(object) = directory::lookup(&self.spa.mos, log)?.filter(|o| *o != 0) else { continue };
            for entry in zap::entries(&self.spa.mos.hold(object)?)? {
                blocks.extend(parse(&entry.name));
            }
        }
        Ok(self.by_file(blocks))
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
    }
}
