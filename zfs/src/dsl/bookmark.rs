//! Bookmarks: what stays of a snapshot for incremental sends. Source: `module/zfs/dsl_bookmark.c`.
//!
//! They lie in a ZAP of the head dataset. With the feature `bookmark_written` each also counts what of its snapshot's blocks died before the
//! next snapshot, so that the space written since can be told; for that the deadlists of the head and of all its clones keep a key at
//! its txg, even when the snapshot is gone.
//!
//! # Invariants
//! - [`Marks::list`] is sorted by txg; it holds what the ZAP holds.
//! - A key at the txg of a counting bookmark is in every deadlist in which a snapshot's would be.

use super::dataset::{Bookmark, Dataset, Kind};
use super::deadlist::Deadlist;
use super::host::Slop;
use super::names;
use super::pool::DslPool;
use crate::dmu::Tx;
use crate::error::{Error, Result};
use crate::ondisk::crypt::IVSET_GUID;
use crate::ondisk::dsl::{
    BOOKMARK_FLAG_FREED_BEFORE_NEXT, BOOKMARK_FLAG_SNAPSHOT_EXISTS, BOOKMARK_WORDS_V1, BookmarkPhys, Space,
};
use crate::ondisk::object_type::ObjectType;
use crate::zap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// The field of a zapified dataset that names its ZAP of bookmarks, and the feature of that name.
const FIELD: &str = "com.delphix:bookmarks";
const FEATURE: &str = "com.delphix:bookmarks";
pub(super) const FEATURE_V2: &str = "com.datto:bookmark_v2";
const FEATURE_WRITTEN: &str = "com.delphix:bookmark_written";

/// A bookmark in memory.
#[derive(Debug, Clone)]
pub(crate) struct Mark {
    pub(crate) name: String,
    pub(crate) phys: BookmarkPhys,
}

impl Mark {
    fn is_v2(&self) -> bool {
        self.phys.emit().len() > BOOKMARK_WORDS_V1
    }
}

/// A head's bookmarks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Marks {
    /// The ZAP; 0 if there is none.
    object: u64,
    list: Vec<Mark>,
}

impl Marks {
    fn insert(&mut self, mark: Mark) {
        let key = |m: &Mark| (m.phys.creation_txg, m.name.clone());
        let at = self.list.partition_point(|m| key(m) < key(&mark));
        self.list.insert(at, mark);
    }

    /// Whether a counting bookmark needs the deadlists' key of this txg.
    fn counts_at(&self, txg: u64) -> bool {
        self.list.iter().any(|m| m.phys.creation_txg == txg && m.phys.counts_freed())
    }
}

/// Splits `pool/fs#name`.
fn split(name: &str) -> Result<(&str, &str)> {
    let (path, mark) = name.split_once('#').ok_or(Error::Invalid("name of a bookmark: it has no #"))?;
    names::check_dataset(path)?;
    names::component(mark)?;
    if name.len() >= names::MAX_NAME {
        return Err(Error::NameTooLong);
    }
    Ok((path, mark))
}

impl DslPool {
    /// Makes bookmarks, all or none: each pair is the new name, `pool/fs#mark`, and what it is of, a snapshot or another bookmark.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::NotFound`], [`Error::Invalid`] if the source is no earlier state of the bookmark's file system, and
    /// [`Error::Unsupported`] if the pool has no bookmarks.
    pub fn create_bookmarks(&self, wanted: &[(&str, &str)]) -> Result<()> {
        let mut pairs = Vec::new();
        for (new, source) in wanted {
            split(new)?;
            if source.contains('#') {
                split(source)?;
            } else {
                names::split_snapshot(source)?;
            }
            if pairs.iter().any(|(n, _): &(String, String)| n == new) {
                return Err(Error::Exists);
            }
            pairs.push(((*new).to_string(), (*source).to_string()));
        }
        self.run_task(Slop::Reserved, move |pool, tx| {
            if !pool.host().feature_enabled(FEATURE) {
                return Err(Error::unsupported(FEATURE));
            }
            let mut made = Vec::new();
            for (new, source) in &pairs {
                made.push(pool.check_bookmark(new, source)?);
            }
            for (head, mark, text) in made {
                let name = mark.name.clone();
                pool.add_mark(tx, &head, mark)?;
                let text = format!("name={name} {text}");
                pool.host().log_internal(tx, "bookmark", head.object, &head.name(), &text)?;
            }
            Ok(())
        })
    }

    /// What a new bookmark is to be: its head, itself, and how the history tells its source.
    fn check_bookmark(&self, new: &str, source: &str) -> Result<(Arc<Dataset>, Mark, String)> {
        let (path, name) = split(new)?;
        let head = self.find(path)?;
        if self.with_marks(&head, |marks| marks.list.iter().any(|m| m.name == name))? {
            return Err(Error::Exists);
        }
        let (dir, phys, text) = match source.split_once('#') {
            None => {
                let snapshot = self.find(source)?;
                let phys = self.mark_of(&snapshot)?;
                let text = format!("target_snap={} redact_obj=0", snapshot.object);
                (snapshot.dir(), phys, text)
            }
            Some((path, source)) => {
                let of = self.find(path)?;
                let found = self.with_marks(&of, |m| m.list.iter().find(|m| m.name == source).cloned())?;
                let phys = BookmarkPhys { redaction_obj: 0, ..found.ok_or(Error::NotFound)?.phys };
                (of.dir(), phys, format!("source_guid={}", phys.guid))
            }
        };
        self.check_ancestor(&head, dir.object, phys.creation_txg)?;
        // Only the snapshots of its own file system tell a bookmark what they free.
        let phys = if dir.object == head.dir().object {
            phys
        } else {
            BookmarkPhys { flags: 0, referenced: Space::default(), freed: Space::default(), ..phys }
        };
        let text = format!("creation_txg={} {text}", phys.creation_txg);
        Ok((head, Mark { name: name.to_string(), phys }, text))
    }

    /// What was at `txg` in the dir `dir` must be an earlier state of the head (`dsl_dataset_is_before`).
    fn check_ancestor(&self, head: &Dataset, dir: u64, txg: u64) -> Result<()> {
        let mut at = head.dir();
        let mut latest = u64::MAX;
        loop {
            if at.object == dir && txg <= latest {
                return Ok(());
            }
            let origin = at.phys().origin_obj;
            if origin == 0 {
                return Err(Error::Invalid("the source is no earlier state of the bookmark's file system"));
            }
            let origin = self.hold_dataset(origin)?;
            if origin.creation_txg() >= latest {
                return Err(Error::corrupt("dsl_dir: an origin is not older than its clone", None));
            }
            (at, latest) = (origin.dir(), origin.creation_txg());
        }
    }

    /// What a bookmark of a snapshot knows (`dsl_bookmark_set_phys`).
    fn mark_of(&self, snapshot: &Dataset) -> Result<BookmarkPhys> {
        let of = snapshot.phys();
        let mut phys = BookmarkPhys {
            guid: of.guid,
            creation_txg: of.creation_txg,
            creation_time: of.creation_time,
            ..BookmarkPhys::default()
        };
        if self.host().feature_enabled(FEATURE_V2) {
            phys.ivset_guid = self.meta.field(snapshot.object, IVSET_GUID)?.unwrap_or(0);
        }
        if self.host().feature_enabled(FEATURE_WRITTEN) {
            phys.flags = BOOKMARK_FLAG_FREED_BEFORE_NEXT | BOOKMARK_FLAG_SNAPSHOT_EXISTS;
            phys.referenced = Space {
                used: of.referenced_bytes,
                compressed: of.compressed_bytes,
                uncompressed: of.uncompressed_bytes,
            };
            let next = self.hold_dataset(of.next_snap_obj)?;
            phys.freed = Deadlist::open(&self.meta, next.phys().deadlist_obj)?.space();
        }
        Ok(phys)
    }

    /// Adds a bookmark to a head and counts the features that it uses (`dsl_bookmark_node_add`).
    fn add_mark(&self, tx: &Tx, head: &Dataset, mark: Mark) -> Result<()> {
        let mut object = self.with_marks(head, |m| m.object)?;
        if object == 0 {
            let options = zap::CreateOptions {
                normalization: zap::NORMALIZE_TO_UPPER,
                ..zap::CreateOptions::default()
            };
            object = zap::create(&self.meta.os, tx, ObjectType::OTN_ZAP_METADATA, &options)?.object();
            self.host().feature_incr(tx, FEATURE)?;
            self.meta.zapify(tx, head.object)?;
            self.meta.zap_add(tx, head.object, FIELD, object)?;
        }
        self.meta.zap_set_value(tx, object, &mark.name, &zap::Value::words(&mark.phys.emit()))?;
        if mark.is_v2() {
            self.host().feature_incr(tx, FEATURE_V2)?;
        }
        if mark.phys.counts_freed() {
            self.host().feature_incr(tx, FEATURE_WRITTEN)?;
        }
        self.with_marks(head, |marks| {
            marks.object = object;
            marks.insert(mark);
        })
    }

    /// Destroys bookmarks, all or none. [`Error::NotFound`] if one does not exist.
    pub fn destroy_bookmarks(&self, names: &[&str]) -> Result<()> {
        let mut doomed = Vec::new();
        for name in names {
            let (path, mark) = split(name)?;
            doomed.push((path.to_string(), mark.to_string()));
        }
        self.run_task(Slop::ExtraReserved, move |pool, tx| {
            let mut found = Vec::new();
            for (path, name) in &doomed {
                let head = pool.find(path)?;
                let mark = pool.with_marks(&head, |m| m.list.iter().find(|m| m.name == *name).cloned())?;
                if mark.ok_or(Error::NotFound)?.phys.redaction_obj != 0 {
                    return Err(Error::unsupported("com.delphix:redaction_bookmarks"));
                }
                found.push((head, name));
            }
            for (head, name) in found {
                pool.destroy_marks_of(tx, &head, core::slice::from_ref(name))?;
            }
            Ok(())
        })
    }

    /// Destroys bookmarks of a head that exist.
    pub(crate) fn destroy_marks_of(&self, tx: &Tx, head: &Dataset, names: &[String]) -> Result<()> {
        for name in names {
            if let Some(mark) = self.take_mark(tx, head, name)? {
                self.drop_keys(tx, head, &mark)?;
            }
            self.drop_marks_if_empty(tx, head)?;
            let text = format!("name={name}");
            self.host().log_internal(tx, "remove bookmark", head.object, &head.name(), &text)?;
        }
        Ok(())
    }

    /// Names of a head's bookmarks of states after `txg`.
    pub(crate) fn marks_after(&self, head: &Dataset, txg: u64) -> Result<Vec<String>> {
        self.with_marks(head, |m| {
            let later = m.list.iter().filter(|m| m.phys.creation_txg > txg);
            later.map(|m| m.name.clone()).collect()
        })
    }

    /// Takes a bookmark out of its head's ZAP and its features' counts.
    fn take_mark(&self, tx: &Tx, head: &Dataset, name: &str) -> Result<Option<Mark>> {
        let (object, mark) = self.with_marks(head, |marks| {
            let at = marks.list.iter().position(|m| m.name == name);
            (marks.object, at.map(|at| marks.list.remove(at)))
        })?;
        let Some(mark) = mark else { return Ok(None) };
        self.meta.zap_remove(tx, object, name)?;
        if mark.is_v2() {
            self.host().feature_decr(tx, FEATURE_V2)?;
        }
        if mark.phys.counts_freed() {
            self.host().feature_decr(tx, FEATURE_WRITTEN)?;
        }
        Ok(Some(mark))
    }

    /// A counting bookmark was the last that needed its txg's key in the deadlists: it goes.
    fn drop_keys(&self, tx: &Tx, head: &Dataset, mark: &Mark) -> Result<()> {
        let txg = mark.phys.creation_txg;
        let needed = mark.phys.flags & BOOKMARK_FLAG_SNAPSHOT_EXISTS != 0
            || self.with_marks(head, |m| m.counts_at(txg))?
            || txg >= head.phys().prev_snap_txg;
        if !mark.phys.counts_freed() || needed {
            return Ok(());
        }
        self.remove_clones_key(tx, &head.dir(), txg)?;
        Deadlist::open(&self.meta, head.phys().deadlist_obj)?.remove_key(tx, txg)
    }

    fn drop_marks_if_empty(&self, tx: &Tx, head: &Dataset) -> Result<()> {
        let object = self.with_marks(head, |m| if m.list.is_empty() { m.object } else { 0 })?;
        if object == 0 {
            return Ok(());
        }
        self.meta.os.free(tx, object)?;
        self.host().feature_decr(tx, FEATURE)?;
        self.meta.zap_remove(tx, head.object, FIELD)?;
        self.with_marks(head, |m| m.object = 0)
    }

    /// All bookmarks of a head that is being destroyed.
    pub(crate) fn destroy_marks(&self, tx: &Tx, head: &Dataset) -> Result<()> {
        for mark in self.with_marks(head, |m| m.list.clone())? {
            self.take_mark(tx, head, &mark.name)?;
        }
        self.drop_marks_if_empty(tx, head)
    }

    /// Looks at or changes a head's bookmarks in memory; they are read when first needed.
    pub(crate) fn with_marks<T>(&self, head: &Dataset, f: impl FnOnce(&mut Marks) -> T) -> Result<T> {
        if head.with(|s| s.marks.is_none()) {
            let mut marks = Marks::default();
            if let (false, Some(object)) = (head.is_snapshot(), self.meta.field(head.object, FIELD)?) {
                marks.object = object;
                for (name, value) in self.meta.zap_values(object)? {
                    marks.insert(Mark { name, phys: BookmarkPhys::parse(&value.ints) });
                }
            }
            head.with(|s| s.marks.get_or_insert(marks).object);
        }
        Ok(head.with(|s| f(s.marks.get_or_insert_default())))
    }

    /// Adds to the counts of what was freed, by a rule for each counting bookmark, and stores those that it changes.
    fn adjust_marks(
        &self,
        tx: &Tx,
        head: &Dataset,
        mut change: impl FnMut(&mut BookmarkPhys) -> Result<()>,
    ) -> Result<()> {
        let (object, list) = self.with_marks(head, |m| (m.object, m.list.clone()))?;
        for mut mark in list.into_iter().filter(|m| m.phys.counts_freed()) {
            let before = mark.phys;
            change(&mut mark.phys)?;
            if mark.phys != before {
                self.meta.zap_set_value(tx, object, &mark.name, &zap::Value::words(&mark.phys.emit()))?;
                self.with_marks(head, |m| {
                    m.list.iter_mut().filter(|m| m.name == mark.name).for_each(|m| m.phys = mark.phys);
                })?;
            }
        }
        Ok(())
    }

    /// Txgs of the counting bookmarks whose next snapshot does not exist yet: at and after the head's previous snapshot.
    pub(crate) fn open_marks(&self, head: &Dataset) -> Result<Vec<u64>> {
        let since = head.phys().prev_snap_txg;
        self.with_marks(head, |m| {
            let open = m.list.iter().filter(|m| m.phys.counts_freed() && m.phys.creation_txg >= since);
            let mut txgs: Vec<u64> = open.map(|m| m.phys.creation_txg).collect();
            txgs.dedup();
            txgs
        })
    }

    /// Blocks died in the head: per txg of a bookmark, those that it had (`dsl_bookmark_block_killed`, `dsl_bookmark_sync_done`).
    pub(crate) fn marks_lost(&self, tx: &Tx, head: &Dataset, lost: &[(u64, Space)]) -> Result<()> {
        self.adjust_marks(tx, head, |phys| {
            if let Some((_, space)) = lost.iter().find(|(txg, _)| *txg == phys.creation_txg) {
                phys.freed += *space;
            }
            Ok(())
        })
    }

    /// A snapshot was taken: bookmarks since the one before need their keys in the head's deadlist (`dsl_bookmark_snapshotted`).
    /// `since` is the txg of the snapshot before.
    pub(crate) fn marks_snapshotted(&self, tx: &Tx, head: &Dataset, deadlist: u64, since: u64) -> Result<()> {
        let txgs = self.open_marks(head)?;
        if txgs.iter().all(|txg| *txg <= since) {
            return Ok(());
        }
        let mut deadlist = Deadlist::open(&self.meta, deadlist)?;
        txgs.into_iter().filter(|txg| *txg > since).try_for_each(|txg| deadlist.add_key(tx, txg))
    }

    /// A snapshot goes: the next of the bookmarks before it is another one now. True if bookmarks at its own txg still need the key in
    /// the deadlists (`dsl_bookmark_ds_destroyed`).
    pub(crate) fn marks_snapshot_destroyed(&self, tx: &Tx, snapshot: &Dataset) -> Result<bool> {
        let phys = snapshot.phys();
        let head = self.head_of(&snapshot.dir())?;
        if self.with_marks(&head, |m| m.list.is_empty())? {
            return Ok(false);
        }
        let next = Deadlist::open(&self.meta, self.hold_dataset(phys.next_snap_obj)?.phys().deadlist_obj)?;
        self.adjust_marks(tx, &head, |mark| {
            if (phys.prev_snap_txg..phys.creation_txg).contains(&mark.creation_txg) {
                mark.freed += next.space_range(0, mark.creation_txg)?;
            } else if mark.creation_txg == phys.creation_txg {
                mark.flags &= !BOOKMARK_FLAG_SNAPSHOT_EXISTS;
            }
            Ok(())
        })?;
        self.with_marks(&head, |m| m.counts_at(phys.creation_txg))
    }

    /// A promotion or rollback gave a snapshot another next one (`dsl_bookmark_next_changed`).
    pub(crate) fn marks_next_changed(&self, tx: &Tx, head: &Dataset, origin: &Dataset) -> Result<()> {
        let txg = origin.creation_txg();
        if !self.with_marks(head, |m| m.counts_at(txg))? {
            return Ok(());
        }
        let fresh = self.mark_of(origin)?;
        self.adjust_marks(tx, head, |mark| {
            if mark.creation_txg == txg {
                mark.freed = fresh.freed;
            }
            Ok(())
        })
    }

    /// Whether promoting `clone` would bring a bookmark of a name that it has.
    pub(crate) fn marks_collide(&self, clone: &Dataset, origin_head: &Dataset, until: u64) -> Result<bool> {
        let names = |marks: &mut Marks| -> Vec<(String, u64)> {
            marks.list.iter().map(|m| (m.name.clone(), m.phys.creation_txg)).collect()
        };
        let mine = self.with_marks(clone, names)?;
        let theirs = self.with_marks(origin_head, names)?;
        Ok(theirs.iter().any(|(name, txg)| *txg <= until && mine.iter().any(|(n, _)| n == name)))
    }

    /// Bookmarks up to a txg move from one head to another.
    pub(crate) fn move_marks(&self, tx: &Tx, from: &Dataset, to: &Dataset, until: u64) -> Result<()> {
        let moving = self.with_marks(from, |m| {
            let moving = m.list.iter().filter(|m| m.phys.creation_txg <= until);
            moving.map(|m| m.name.clone()).collect::<Vec<_>>()
        })?;
        for name in moving {
            if let Some(mark) = self.take_mark(tx, from, &name)? {
                self.add_mark(tx, to, mark)?;
            }
        }
        self.drop_marks_if_empty(tx, from)
    }

    /// One bookmark by its full name.
    pub fn lookup_bookmark(&self, name: &str) -> Result<Bookmark> {
        let (path, mark) = split(name)?;
        let head = self.lookup(path)?;
        let found = head.bookmarks()?.into_iter().find(|b| b.name.ends_with(&format!("#{mark}")));
        found.ok_or(Error::NotFound)
    }
}

impl Dataset {
    /// Its bookmarks, oldest first.
    pub fn bookmarks(&self) -> Result<Vec<Bookmark>> {
        let pool = self.pool()?;
        let _config = pool.read_config();
        if self.kind()? == Kind::Snapshot {
            return Ok(Vec::new());
        }
        let path = self.dir().name();
        let list = pool.with_marks(self, |m| m.list.clone())?;
        let show = |mark: Mark| Bookmark {
            name: format!("{path}#{}", mark.name),
            guid: mark.phys.guid,
            creation_txg: mark.phys.creation_txg,
            creation_time: mark.phys.creation_time,
            ivset_guid: mark.phys.ivset_guid,
            referenced: mark.phys.counts_freed().then_some(mark.phys.referenced),
        };
        Ok(list.into_iter().map(show).collect())
    }

    /// What this head refers to that was written since a bookmark of it, in bytes (`written#mark`). [`Error::NotFound`] if the bookmark does
    /// not count it.
    pub fn written_since_bookmark(&self, mark: &str) -> Result<u64> {
        let pool = self.pool()?;
        let _config = pool.read_config();
        let found = pool.with_marks(self, |m| m.list.iter().find(|m| m.name == mark).cloned())?;
        let phys = found.filter(|m| m.phys.counts_freed()).ok_or(Error::NotFound)?.phys;
        // What it had, less what died until its next snapshot, less what died from then on, is still here.
        let mut kept = phys.referenced.used.wrapping_sub(phys.freed.used);
        let mut at = self.phys();
        let mut after = Vec::new();
        while at.prev_snap_txg > phys.creation_txg {
            after.push(at.deadlist_obj);
            at = pool.previous(&at)?.ok_or(Error::NotFound)?.phys();
        }
        for deadlist in after {
            let dead = Deadlist::open(pool.meta(), deadlist)?.space_range(0, phys.creation_txg)?;
            kept = kept.wrapping_sub(dead.used);
        }
        Ok(self.phys().referenced_bytes.wrapping_sub(kept))
    }
}
