//! Holds on snapshots. Source: `module/zfs/dsl_userhold.c`.

use super::dataset::Dataset;
use super::destroy::is_doomed;
use super::host::Slop;
use super::names;
use super::pool::DslPool;
use crate::dmu::Tx;
use crate::error::{Error, Result};
use crate::ondisk::object_type::ObjectType;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Longest tag, in bytes (`MAXNAMELEN` less the temporary holds' prefix).
const MAX_TAG: usize = 238;

fn checked(snapshots: &[&str]) -> Result<Vec<String>> {
    snapshots.iter().map(|name| names::split_snapshot(name).map(|_| (*name).to_string())).collect()
}

impl DslPool {
    /// Puts a hold on snapshots, on all or none. [`Error::Exists`] if one has a hold of that tag.
    pub fn hold(&self, snapshots: &[&str], tag: &str) -> Result<()> {
        let names = checked(snapshots)?;
        if tag.is_empty() || tag.len() > MAX_TAG {
            return Err(Error::NameTooLong);
        }
        let tag = tag.to_string();
        self.run_task(Slop::Reserved, move |pool, tx| {
            let found = names.iter().map(|name| pool.find(name)).collect::<Result<Vec<_>>>()?;
            for snapshot in &found {
                if pool.has_hold(snapshot, &tag)? {
                    return Err(Error::Exists);
                }
            }
            found.iter().try_for_each(|snapshot| pool.hold_one(tx, snapshot, &tag))
        })
    }

    fn has_hold(&self, snapshot: &Dataset, tag: &str) -> Result<bool> {
        let zap = snapshot.phys().userrefs_obj;
        Ok(zap != 0 && self.meta.zap_get(zap, tag)?.is_some())
    }

    fn hold_one(&self, tx: &Tx, snapshot: &Arc<Dataset>, tag: &str) -> Result<()> {
        let mut zap = snapshot.phys().userrefs_obj;
        if zap == 0 {
            zap = self.meta.zap_create(tx, ObjectType::USERREFS)?;
            snapshot.update(self, tx, |p| p.userrefs_obj = zap)?;
        }
        self.meta.zap_add(tx, zap, tag, self.now())?;
        let text = alloc::format!("tag={tag} temp=0 refs={}", self.meta.zap_count(zap)?);
        self.host().log_internal(tx, "hold", snapshot.object, &snapshot.name(), &text)
    }

    /// Releases a hold on snapshots, on all or none; one whose destruction was deferred goes with its last hold. [`Error::NotFound`] if one has
    /// no hold of that tag.
    pub fn release(&self, snapshots: &[&str], tag: &str) -> Result<()> {
        let (names, tag) = (checked(snapshots)?, String::from(tag));
        self.run_task(Slop::Reserved, move |pool, tx| {
            let found = names.iter().map(|name| pool.find(name)).collect::<Result<Vec<_>>>()?;
            for snapshot in &found {
                if !pool.has_hold(snapshot, &tag)? {
                    return Err(Error::NotFound);
                }
            }
            found.iter().try_for_each(|snapshot| pool.release_one(tx, snapshot, &tag))
        })
    }

    fn release_one(&self, tx: &Tx, snapshot: &Arc<Dataset>, tag: &str) -> Result<()> {
        let zap = snapshot.phys().userrefs_obj;
        self.meta.zap_remove(tx, zap, tag)?;
        let text = alloc::format!("{tag} refs={}", self.meta.zap_count(zap)?);
        self.host().log_internal(tx, "release", snapshot.object, &snapshot.name(), &text)?;
        if is_doomed(snapshot) { self.destroy_snapshot(tx, snapshot) } else { Ok(()) }
    }
}
