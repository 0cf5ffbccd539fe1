//! The features of a pool: which are enabled, and how many users each has. Source: `module/zfs/zfeature.c`.
//!
//! Two ZAPs, `features_for_read` and `features_for_write`, hold the number of users by guid name: a feature is enabled if it has an
//! entry and active if that is not 0. A third holds descriptions, a fourth the txg in which each was enabled.

use super::directory;
use crate::dmu::{Objset, Tx};
use crate::error::{Error, Result};
use crate::ondisk::features::{self, FEATURES, Feature, MOS, ON_ENABLE, Support};
use crate::ondisk::object_type::ObjectType;
use crate::zap;
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use platform::sync::RwLock;

const ENABLED_TXG: &str = "com.delphix:enabled_txg";

/// Object numbers of the ZAPs; 0 where there is none.
#[derive(Debug, Clone, Copy, Default)]
struct Objects {
    read: u64,
    write: u64,
    descriptions: u64,
    enabled_txg: u64,
}

#[derive(Debug, Default)]
struct State {
    objects: Objects,
    /// Users by guid name: of all features with an entry.
    users: BTreeMap<String, u64>,
}

/// The features of a pool.
#[derive(Debug, Default)]
pub(crate) struct Features {
    state: RwLock<State>,
}

fn read_counts(mos: &Arc<Objset>, object: u64, users: &mut BTreeMap<String, u64>) -> Result<()> {
    if object == 0 {
        return Ok(());
    }
    for entry in zap::entries(&mos.hold(object)?)? {
        let name = String::from_utf8(entry.name)
            .map_err(|_| Error::corrupt("features: a name is not UTF-8", None))?;
        users.insert(name, entry.value.first());
    }
    Ok(())
}

impl Features {
    /// Reads the features of a pool and refuses what cannot be opened. Pools before version 5000 have none.
    pub(crate) fn open(mos: &Arc<Objset>, read_only: bool) -> Result<Self> {
        let objects = Objects {
            read: directory::lookup(mos, "features_for_read")?.unwrap_or(0),
            write: directory::lookup(mos, "features_for_write")?.unwrap_or(0),
            descriptions: directory::lookup(mos, "feature_descriptions")?.unwrap_or(0),
            enabled_txg: directory::lookup(mos, "feature_enabled_txg")?.unwrap_or(0),
        };
        let (mut reading, mut writing) = (BTreeMap::new(), BTreeMap::new());
        read_counts(mos, objects.read, &mut reading)?;
        read_counts(mos, objects.write, &mut writing)?;
        check_readable(reading.iter().filter(|(_, users)| **users > 0).map(|(guid, _)| guid.as_str()))?;
        if !read_only {
            check_writable(reading.iter().chain(&writing))?;
        }
        reading.append(&mut writing);
        Ok(Features { state: RwLock::new(State { objects, users: reading }) })
    }

    /// Makes the ZAPs in a new pool (`spa_feature_create_zap_objects`).
    pub(crate) fn create(mos: &Arc<Objset>, tx: &Tx) -> Result<Self> {
        let mut state = State::default();
        state.objects.read =
            directory::create_zap(mos, tx, "features_for_read", ObjectType::OTN_ZAP_METADATA)?;
        state.objects.write =
            directory::create_zap(mos, tx, "features_for_write", ObjectType::OTN_ZAP_METADATA)?;
        state.objects.descriptions =
            directory::create_zap(mos, tx, "feature_descriptions", ObjectType::OTN_ZAP_METADATA)?;
        Ok(Features { state: RwLock::new(state) })
    }

    /// Whether it has an entry.
    pub(crate) fn is_enabled(&self, guid: &str) -> bool {
        self.state.read().users.contains_key(guid)
    }

    /// Whether it has users.
    pub(crate) fn is_active(&self, guid: &str) -> bool {
        self.state.read().users.get(guid).is_some_and(|users| *users > 0)
    }

    /// All enabled features and their users, by guid name.
    pub(crate) fn all(&self) -> Vec<(String, u64)> {
        self.state.read().users.iter().map(|(guid, users)| (guid.clone(), *users)).collect()
    }

    /// Active features without which the MOS cannot be read, in the order of [`FEATURES`]: for the labels.
    pub(crate) fn for_labels(&self) -> Vec<&'static str> {
        let needed = FEATURES.iter().filter(|f| f.flags & MOS != 0 && self.is_active(f.guid));
        needed.map(|f| f.guid).collect()
    }

    /// Enables a feature and what it depends on (`spa_feature_enable`). Syncing context.
    pub(crate) fn enable(&self, mos: &Arc<Objset>, tx: &Tx, feature: &Feature) -> Result<()> {
        if self.is_enabled(feature.guid) {
            return Ok(());
        }
        for dependency in feature.depends.iter().filter_map(|guid| features::by_guid(guid)) {
            self.enable(mos, tx, dependency)?;
        }
        let objects = self.state.read().objects;
        let mut text = feature.description.as_bytes().to_vec();
        text.push(0);
        zap::update(&mos.hold(objects.descriptions)?, tx, feature.guid, &zap::Value::bytes(&text))?;
        self.set(mos, tx, feature, u64::from(feature.flags & ON_ENABLE != 0))?;
        if self.is_enabled(ENABLED_TXG) {
            self.record_txg(mos, tx, feature)?;
        }
        Ok(())
    }

    fn record_txg(&self, mos: &Arc<Objset>, tx: &Tx, feature: &Feature) -> Result<()> {
        let mut object = self.state.read().objects.enabled_txg;
        if object == 0 {
            object = directory::create_zap(mos, tx, "feature_enabled_txg", ObjectType::OTN_ZAP_METADATA)?;
            self.state.write().objects.enabled_txg = object;
        }
        self.change(mos, tx, ENABLED_TXG, 1)?;
        zap::add_u64(&mos.hold(object)?, tx, feature.guid, tx.txg())
    }

    fn set(&self, mos: &Arc<Objset>, tx: &Tx, feature: &Feature, users: u64) -> Result<()> {
        let objects = self.state.read().objects;
        let object = if feature.read_only_compatible() { objects.write } else { objects.read };
        zap::update_u64(&mos.hold(object)?, tx, feature.guid, users)?;
        self.state.write().users.insert(feature.guid.to_string(), users);
        Ok(())
    }

    /// Adds `delta` users. True if the labels change with it. Syncing context.
    pub(crate) fn change(&self, mos: &Arc<Objset>, tx: &Tx, guid: &str, delta: i64) -> Result<bool> {
        let feature = features::by_guid(guid).ok_or_else(|| Error::unsupported(guid))?;
        let users = self.state.read().users.get(guid).copied();
        let users = users.ok_or(Error::Invalid("the feature is not enabled"))?;
        let now = users.checked_add_signed(delta);
        let now = now.ok_or(Error::corrupt("feature: more users left than there were", None))?;
        self.set(mos, tx, feature, now)?;
        Ok(feature.flags & MOS != 0 && (users == 0) != (now == 0))
    }
}

/// Refuses features that must be known to read a pool.
pub(crate) fn check_readable<'a>(active: impl Iterator<Item = &'a str>) -> Result<()> {
    for guid in active {
        if features::by_guid(guid).is_none_or(|f| f.support == Support::None) {
            return Err(Error::unsupported(alloc::format!("feature {guid}")));
        }
    }
    Ok(())
}

/// Refuses active features of which this engine does not do all that a writer must.
fn check_writable<'a>(users: impl Iterator<Item = (&'a String, &'a u64)>) -> Result<()> {
    for (guid, users) in users {
        if *users > 0 && features::by_guid(guid).is_none_or(|f| f.support < Support::Write) {
            return Err(Error::ReadOnlyFeature { feature: guid.clone() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_features_are_refused_by_name() {
        assert!(check_readable(["com.delphix:hole_birth"].into_iter()).is_ok());
        assert_eq!(
            check_readable(["org.example:new"].into_iter()),
            Err(Error::unsupported("feature org.example:new"))
        );
        let users = BTreeMap::from([("com.delphix:redaction_bookmarks".to_string(), 1)]);
        let feature = "com.delphix:redaction_bookmarks".to_string();
        assert_eq!(check_writable(users.iter()), Err(Error::ReadOnlyFeature { feature }));
        let users = BTreeMap::from([("com.delphix:redaction_bookmarks".to_string(), 0)]);
        assert!(check_writable(users.iter()).is_ok());
    }
}
