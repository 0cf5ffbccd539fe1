//! Holds on snapshots. Source: `module/zfs/dsl_userhold.c`.

use super::destroy::is_doomed;
use super::host::Slop;
use super::names;
use super::pool::DslPool;
use crate::error::{Error, Result};
use crate::ondisk::object_type::ObjectType;
use alloc::string::{String, ToString};

/// Longest tag, in bytes (`MAXNAMELEN` less the temporary holds' prefix).
const MAX_TAG: usize = 238;

impl DslPool {
    /// Puts a hold on a snapshot. [`Error::Exists`] if there is one of that tag.
    pub fn hold(&self, snapshot: &str, tag: &str) -> Result<()> {
        names::split_snapshot(snapshot)?;
        if tag.is_empty() || tag.len() > MAX_TAG {
            return Err(Error::NameTooLong);
        }
        let (name, tag) = (snapshot.to_string(), tag.to_string());
        self.run_task(Slop::Reserved, move |pool, tx| {
            let snapshot = pool.find(&name)?;
            let mut zap = snapshot.phys().userrefs_obj;
            if zap == 0 {
                zap = pool.meta.zap_create(tx, ObjectType::USERREFS)?;
                snapshot.update(pool, tx, |p| p.userrefs_obj = zap)?;
            }
            pool.meta.zap_add(tx, zap, &tag, pool.now())?;
            let text = alloc::format!("tag={tag} temp=0 refs={}", pool.meta.zap_count(zap)?);
            pool.host().log_internal(tx, "hold", snapshot.object, &name, &text)
        })
    }

    /// Releases a hold; a snapshot whose destruction was deferred goes with the last one.
    pub fn release(&self, snapshot: &str, tag: &str) -> Result<()> {
        names::split_snapshot(snapshot)?;
        let (name, tag) = (snapshot.to_string(), String::from(tag));
        self.run_task(Slop::Reserved, move |pool, tx| {
            let snapshot = pool.find(&name)?;
            let zap = snapshot.phys().userrefs_obj;
            if zap == 0 {
                return Err(Error::NotFound);
            }
            pool.meta.zap_remove(tx, zap, &tag)?;
            let text = alloc::format!("{tag} refs={}", pool.meta.zap_count(zap)?);
            pool.host().log_internal(tx, "release", snapshot.object, &name, &text)?;
            if is_doomed(&snapshot) { pool.destroy_snapshot(tx, &snapshot) } else { Ok(()) }
        })
    }
}
