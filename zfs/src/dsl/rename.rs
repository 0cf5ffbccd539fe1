//! Renaming datasets and snapshots. Source: `dsl_dir_rename_sync`, `dsl_dataset_rename_snapshot_sync_impl`.

use super::dir::{Delta, Dir, split_last};
use super::host::Slop;
use super::names;
use super::pool::DslPool;
use crate::dmu::Tx;
use crate::error::{Error, Result};
use crate::ondisk::dsl::{Space, Used};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

const COUNTS: [&str; 2] = ["com.joyent:filesystem_count", "com.joyent:snapshot_count"];

impl DslPool {
    /// Renames a dataset, also to under another parent of the pool, or a snapshot within its file system (`recursive`: the snapshots of that
    /// name on all descendants, too).
    pub fn rename(&self, from: &str, to: &str, recursive: bool) -> Result<()> {
        if from.contains('@') {
            return self.rename_snapshot(from, to, recursive);
        }
        names::check_dataset(from)?;
        names::check_dataset(to)?;
        let (from, to) = (from.to_string(), to.to_string());
        self.run_task(Slop::Reserved, move |pool, tx| {
            let dir = pool.find_dir(&from)?;
            let old_parent =
                dir.parent().ok_or(Error::Invalid("the pool's root dataset cannot be renamed"))?;
            let (parent, last) = split_last(&to).ok_or(Error::Exists)?;
            let parent = pool.find_dir(&parent)?;
            if pool.meta.zap_get(parent.phys().child_dir_zapobj, &last)?.is_some() {
                return Err(Error::Exists);
            }
            if to.starts_with(&format!("{from}/")) {
                return Err(Error::Invalid("a dataset cannot be moved below itself"));
            }
            pool.check_lengths(&dir, from.len(), to.len())?;
            pool.check_encryption_root(&dir, &parent)?;
            let head = dir.phys().head_dataset_obj;
            pool.host().log_internal(tx, "rename", head, &from, &format!("-> {to}"))?;
            if parent.object != old_parent.object {
                pool.move_space(tx, &dir, &old_parent, &parent)?;
            }
            pool.meta.zap_remove(tx, old_parent.phys().child_dir_zapobj, &dir.last_name())?;
            pool.meta.zap_add(tx, parent.phys().child_dir_zapobj, &last, dir.object)?;
            dir.update(&pool.meta, tx, |d| d.parent_obj = parent.object)?;
            dir.with_state(|s| {
                s.name = last;
                s.parent = Some(parent);
            });
            // Inherited properties may be others there.
            pool.refresh_settings()
        })
    }

    /// No name below may become too long.
    fn check_lengths(&self, dir: &Arc<Dir>, old: usize, new: usize) -> Result<()> {
        for dataset in self.below(&self.head_of(dir)?)? {
            let longest = self.snapshots_of(&dataset)?.iter().map(|s| s.name().len()).max();
            let longest = longest.unwrap_or(0).max(dataset.name().len());
            if longest - old + new >= 256 {
                return Err(Error::NameTooLong);
            }
        }
        Ok(())
    }

    /// What a dir uses is charged to its new parent.
    fn move_space(&self, tx: &Tx, dir: &Dir, old: &Arc<Dir>, new: &Arc<Dir>) -> Result<()> {
        let phys = dir.phys();
        let space = Space {
            used: phys.used_bytes,
            compressed: phys.compressed_bytes,
            uncompressed: phys.uncompressed_bytes,
        };
        let charged = phys.used_bytes.max(phys.reserved);
        if charged > phys.used_bytes && new.available(&self.meta) < charged {
            return Err(Error::NoSpace);
        }
        for (field, own) in COUNTS.into_iter().zip([1, 0]) {
            if let Some(count) = self.meta.field(dir.object, field)? {
                let moved = count.wrapping_add(own) as i64;
                self.adjust_count(tx, old, field, -moved, "")?;
                self.adjust_count(tx, new, field, moved, "")?;
            }
        }
        let unused = phys.reserved.saturating_sub(phys.used_bytes) as i64;
        old.diduse(&self.meta, tx, Used::Child, Delta::minus(space))?;
        new.diduse(&self.meta, tx, Used::Child, Delta::plus(space))?;
        old.diduse(&self.meta, tx, Used::ChildReservation, Delta::used(-unused))?;
        new.diduse(&self.meta, tx, Used::ChildReservation, Delta::used(unused))
    }

    fn rename_snapshot(&self, from: &str, to: &str, recursive: bool) -> Result<()> {
        let (path, old) = names::split_snapshot(from)?;
        let to = if to.starts_with('@') { format!("{path}{to}") } else { to.to_string() };
        let (to_path, new) = names::split_snapshot(&to)?;
        if to_path != path {
            return Err(Error::CrossDataset);
        }
        let (path, old, new) = (path.to_string(), old.to_string(), new.to_string());
        self.run_task(Slop::Reserved, move |pool, tx| {
            let head = pool.find(&path)?;
            let heads = if recursive { pool.below(&head)? } else { alloc::vec![head] };
            let mut found = Vec::new();
            for head in heads {
                if let Some(snapshot) = pool.find_snapshot(&head, &old)? {
                    if pool.find_snapshot(&head, &new)?.is_some() {
                        return Err(Error::Exists);
                    }
                    found.push((head, snapshot));
                }
            }
            if found.is_empty() {
                return Err(Error::NotFound);
            }
            for (head, snapshot) in found {
                let text = format!("-> @{new}");
                pool.host().log_internal(tx, "rename", snapshot.object, &snapshot.name(), &text)?;
                let zap = head.phys().snapnames_zapobj;
                pool.meta.zap_remove(tx, zap, &old)?;
                pool.meta.zap_add(tx, zap, &new, snapshot.object)?;
                snapshot.with(|s| s.snap_name = Some(String::from(&new)));
            }
            Ok(())
        })
    }
}
