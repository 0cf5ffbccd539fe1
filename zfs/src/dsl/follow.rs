//! Changed properties take effect where a dataset is in use: on open objsets and on mounted file systems.
//! Source: `dsl_prop_register`, `dsl_prop_changed_notify` (`module/zfs/dsl_prop.c`).

use super::dataset::Dataset;
use super::pool::DslPool;
use crate::error::Result;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

/// Who wants to hear of changed properties: a mounted file system.
pub trait Follow: Send + Sync {
    /// Properties may have changed, here or where they are inherited from. `number` gives one's number; `None` if there is none of that name.
    ///
    /// Called by the sync thread with the names locked: it must neither wait for a txg nor ask datasets for anything.
    fn properties_changed(&self, number: &dyn Fn(&str) -> Option<u64>);
}

impl Dataset {
    /// From now on `follower` hears of changes, for as long as it lives.
    pub fn follow(&self, follower: Weak<dyn Follow>) {
        self.with(|s| {
            s.followers.retain(|f| f.strong_count() > 0);
            s.followers.push(follower);
        });
    }
}

impl DslPool {
    /// After properties changed, or what they are inherited from: all open objsets and mounted file systems follow.
    pub(crate) fn refresh_settings(&self) -> Result<()> {
        for dataset in self.held_datasets() {
            if dataset.is_snapshot() {
                continue;
            }
            if let Some(objset) = dataset.open_objset() {
                objset.set_settings(self.settings_of(&dataset)?);
            }
            let followers: Vec<Arc<dyn Follow>> =
                dataset.with(|s| s.followers.iter().filter_map(Weak::upgrade).collect());
            for follower in followers {
                follower.properties_changed(&|name| self.number_of(&dataset, name).ok());
            }
        }
        Ok(())
    }
}
