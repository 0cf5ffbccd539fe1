//! Pool properties. Source: `spa_prop_get`, `spa_sync_props` (`module/zfs/spa.c`), `module/zcommon/zpool_prop.c`.
//!
//! Those that differ from their default are entries of a ZAP, `pool_props`; the comment is in the configuration; the rest are figures.

use super::core::{Core, Spa};
use super::directory;
use super::sync::SOFTWARE_VERSION;
use crate::dmu::Tx;
use crate::dsl::{DslPool, SpaHost};
use crate::error::{Error, Result};
use crate::ondisk::features::FEATURES;
use crate::ondisk::object_type::ObjectType;
use crate::zap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// A value, and where it comes from: `local`, `default` or `-`.
pub(super) type Shown = (String, &'static str);

const ON_OFF: &[&str] = &["off", "on"];
/// Enumerated properties, their values by index, and the default's index.
const INDEXED: &[(&str, &[&str], u64)] = &[
    ("delegation", ON_OFF, 1),
    ("autoreplace", ON_OFF, 0),
    ("failmode", &["wait", "continue", "panic"], 0),
    ("listsnapshots", ON_OFF, 0),
    ("autoexpand", ON_OFF, 0),
    ("multihost", ON_OFF, 0),
    ("autotrim", ON_OFF, 0),
];
/// Everything that is shown, in the order of `zpool get all`; features follow.
const ALL: &[&str] = &[
    "size",
    "capacity",
    "altroot",
    "health",
    "guid",
    "version",
    "bootfs",
    "delegation",
    "autoreplace",
    "cachefile",
    "failmode",
    "listsnapshots",
    "autoexpand",
    "dedupratio",
    "free",
    "allocated",
    "readonly",
    "ashift",
    "comment",
    "expandsize",
    "freeing",
    "fragmentation",
    "leaked",
    "multihost",
    "checkpoint",
    "load_guid",
    "autotrim",
    "compatibility",
    "bcloneused",
    "bclonesaved",
    "bcloneratio",
];
/// The longest comment, in bytes.
const COMMENT_MAX: usize = 32;

impl Core {
    /// One property as `zpool get -p` shows it.
    pub(super) fn get_property(&self, name: &str) -> Result<Shown> {
        if let Some(feature) = name.strip_prefix("feature@") {
            let feature = FEATURES.iter().find(|f| f.name == feature).ok_or(Error::NotFound)?;
            return Ok(self.feature_shown(feature.guid));
        }
        if let Some((_, values, default)) = INDEXED.iter().find(|(n, ..)| *n == name) {
            let stored = stored(&self.spa, name)?.map(|v| v.first());
            let text = values.get(stored.unwrap_or(*default) as usize).copied().unwrap_or("-");
            return Ok((text.to_string(), if stored.is_some() { "local" } else { "default" }));
        }
        match name {
            "bootfs" => self.bootfs(),
            "comment" => {
                let comment = self.spa.state.lock().config.comment.clone();
                Ok(comment.map_or(("-".to_string(), "default"), |c| (c, "local")))
            }
            _ => self.figure(name),
        }
    }

    fn figure(&self, name: &str) -> Result<Shown> {
        let (size, allocated) = self.spa.space.raw_space();
        let text = match name {
            "size" => size.to_string(),
            "allocated" => allocated.to_string(),
            "free" => size.saturating_sub(allocated).to_string(),
            "capacity" => (allocated.saturating_mul(100)).checked_div(size).unwrap_or(0).to_string(),
            "freeing" => self.dsl.freeing().to_string(),
            "fragmentation" => self.spa.space.fragmentation().map_or("-".to_string(), |f| f.to_string()),
            "guid" => self.spa.state.lock().config.guid.to_string(),
            "version" => match self.spa.version() {
                5000 => "-".to_string(),
                version => version.to_string(),
            },
            "health" => if self.spa.txgs.failure().is_some() { "SUSPENDED" } else { "ONLINE" }.to_string(),
            "readonly" => if self.spa.read_only { "on" } else { "off" }.to_string(),
            "ashift" => self.spa.space.layouts().first().map_or(0, |l| l.ashift).to_string(),
            "dedupratio" => "1.00".to_string(),
            "bcloneused" => self.spa.brt.used().to_string(),
            "bclonesaved" => self.spa.brt.saved().to_string(),
            "bcloneratio" => {
                let ratio = self.spa.brt.ratio();
                format!("{}.{:02}", ratio / 100, ratio % 100)
            }
            "leaked" => "0".to_string(),
            "altroot" | "cachefile" | "expandsize" | "compatibility" => "-".to_string(),
            "checkpoint" => match self.spa.checkpoint_status() {
                Some(checkpoint) => checkpoint.space.to_string(),
                None => "-".to_string(),
            },
            "load_guid" => "0".to_string(),
            _ => return Err(Error::NotFound),
        };
        Ok((text, "-"))
    }

    fn feature_shown(&self, guid: &str) -> Shown {
        let features = &self.spa.features;
        let text = match (features.is_enabled(guid), features.is_active(guid)) {
            (_, true) => "active",
            (true, _) => "enabled",
            _ => "disabled",
        };
        (text.to_string(), "local")
    }

    fn bootfs(&self) -> Result<Shown> {
        let Some(object) = stored(&self.spa, "bootfs")?.map(|v| v.first()).filter(|o| *o != 0) else {
            return Ok(("-".to_string(), "default"));
        };
        match self.dsl.lookup_object(object) {
            Ok(dataset) => Ok((dataset.name(), "local")),
            Err(_) => Ok(("-".to_string(), "default")),
        }
    }

    /// All properties, features last.
    pub(super) fn properties(&self) -> Result<Vec<(String, String, &'static str)>> {
        let names = ALL.iter().map(ToString::to_string);
        let features = FEATURES
            .iter()
            .filter(|f| f.default_enabled() || self.spa.features.is_enabled(f.guid))
            .map(|f| format!("feature@{}", f.name));
        let all = names.chain(features);
        all.map(|name| self.get_property(&name).map(|(value, source)| (name, value, source))).collect()
    }
}

/// The stored value of a property.
fn stored(spa: &Spa, name: &str) -> Result<Option<zap::Value>> {
    let Some(object) = directory::lookup(&spa.mos, "pool_props")? else { return Ok(None) };
    match zap::lookup(&spa.mos.hold(object)?, name) {
        Ok(value) => Ok(Some(value)),
        Err(Error::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Enables a feature and those that it needs. Syncing context.
fn enable_feature(spa: &Arc<Spa>, dsl: &DslPool, tx: &Tx, name: &str, value: &str) -> Result<()> {
    let feature = FEATURES.iter().find(|f| f.name == name).ok_or(Error::NotFound)?;
    if value != "enabled" {
        return Err(Error::Invalid("a feature of a pool can be enabled, and never be taken back"));
    }
    if spa.features.is_enabled(feature.guid) {
        return Ok(());
    }
    if spa.version() < SOFTWARE_VERSION {
        return Err(Error::Invalid("a pool of an old version has no features"));
    }
    if !feature.can_enable() {
        return Err(Error::unsupported(format!("writing with feature {}", feature.guid)));
    }
    let errors_by_head = spa.lists_errors_by_head();
    spa.features.enable(&spa.mos, tx, feature)?;
    if spa.lists_errors_by_head() && !errors_by_head {
        spa.upgrade_errors(dsl, tx)?;
    }
    // What is active from now on may belong in the labels, and the root may need its ZAP.
    spa.state.lock().config_dirty = true;
    spa.log_internal(tx, "set", 0, "", &format!("feature@{name}=enabled"))
}

/// Sets a property. Syncing context.
pub(super) fn set(spa: &Arc<Spa>, dsl: &DslPool, tx: &Tx, name: &str, value: &str) -> Result<()> {
    let stored = match name {
        "comment" => {
            if value.len() > COMMENT_MAX || value.bytes().any(|b| b.is_ascii_control()) {
                return Err(Error::Invalid("a comment has up to 32 printable characters"));
            }
            let mut state = spa.state.lock();
            state.config.comment = (!value.is_empty()).then(|| value.to_string());
            state.config_dirty = true;
            drop(state);
            return spa.log_internal(tx, "set", 0, "", &format!("{name}={value}"));
        }
        "bootfs" if value.is_empty() || value == "none" => 0,
        "bootfs" => {
            let dataset = dsl.lookup(value)?;
            if dataset.is_snapshot() {
                return Err(Error::Invalid("bootfs must be a file system"));
            }
            dataset.object()
        }
        _ if name.starts_with("feature@") => {
            return enable_feature(spa, dsl, tx, &name["feature@".len()..], value);
        }
        _ if ALL.contains(&name) => {
            let (_, values, _) = INDEXED
                .iter()
                .find(|(n, ..)| *n == name)
                .ok_or(Error::Invalid("this pool property cannot be set"))?;
            let index = values.iter().position(|v| *v == value);
            index.ok_or(Error::Invalid("this pool property does not take that value"))? as u64
        }
        _ => return Err(Error::NotFound),
    };
    let object = match directory::lookup(&spa.mos, "pool_props")? {
        Some(object) => object,
        None => directory::create_zap(&spa.mos, tx, "pool_props", ObjectType::POOL_PROPS)?,
    };
    zap::update_u64(&spa.mos.hold(object)?, tx, name, stored)?;
    if name == "autotrim" {
        spa.space.set_autotrim(stored == 1);
    }
    spa.log_internal(tx, "set", 0, "", &format!("{name}={value}"))
}
