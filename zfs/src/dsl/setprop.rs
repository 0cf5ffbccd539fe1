//! Setting properties. Source: `dsl_prop_set_sync_impl`, `dsl_props_set_check` (`module/zfs/dsl_prop.c`), `zfs_prop_set_special`.

use super::dataset::{Dataset, Kind};
use super::dir::{Delta, Dir};
use super::host::Slop;
use super::pool::{DslPool, LONGNAME};
use super::prop::Value;
use super::prop_table::{self as table, Definition, Form, Rule};
use super::volume;
use crate::dmu::Tx;
use crate::error::{Error, Result};
use crate::ondisk::dsl::Used;
use crate::ondisk::object_type::ObjectType;
use crate::zap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Longest value of a user property, in bytes (`ZAP_MAXVALUELEN`, and a terminating zero).
const MAX_TEXT: usize = 8191;

/// A checked change of a property.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    name: String,
    value: Value,
    native: bool,
}

impl Setting {
    /// Checks name and value; those that the objset itself keeps are left out (the creator of its content has them).
    pub(crate) fn read_all(pool: &DslPool, given: &[(String, String)], kind: Kind) -> Result<Vec<Setting>> {
        let mut settings = Vec::new();
        for (name, text) in given {
            let setting = Setting::read(pool, name, text, kind, true)?;
            if !table::lives_in_objset(&setting.name) {
                settings.push(setting);
            }
        }
        Ok(settings)
    }

    fn read(pool: &DslPool, name: &str, text: &str, kind: Kind, creating: bool) -> Result<Setting> {
        let Some(definition) = table::find(name) else {
            if !table::is_user(name) {
                return Err(Error::Invalid("there is no property of that name"));
            }
            if text.len() > MAX_TEXT {
                return Err(Error::TooBig);
            }
            return Ok(Setting {
                name: name.to_string(),
                value: Value::Text(text.to_string()),
                native: false,
            });
        };
        let mask = if kind == Kind::Volume { table::VOL } else { table::FS };
        match definition.rule {
            Rule::ReadOnly => return Err(Error::Invalid("this property is read-only")),
            Rule::Once if !creating => return Err(Error::Invalid("this property is only set at creation")),
            _ if kind == Kind::Snapshot => {
                return Err(Error::Invalid("only user properties of snapshots can be set"));
            }
            _ if definition.kinds & mask == 0 => {
                return Err(Error::Invalid("this property is not one of this kind of dataset"));
            }
            _ => {}
        }
        let value = definition.read(text)?;
        check_features(pool, definition, &value)?;
        Ok(Setting { name: definition.name.to_string(), value, native: true })
    }

    fn number(&self) -> u64 {
        match self.value {
            Value::Number(number) => number,
            Value::Text(_) => 0,
        }
    }

    fn stored(&self) -> zap::Value {
        match &self.value {
            Value::Number(number) => zap::Value::words(&[*number]),
            Value::Text(text) => {
                let mut bytes = text.as_bytes().to_vec();
                bytes.push(0);
                zap::Value::bytes(&bytes)
            }
        }
    }
}

/// What needs a feature that the pool does not have is refused by name.
fn check_features(pool: &DslPool, definition: &Definition, value: &Value) -> Result<()> {
    let Value::Number(number) = *value else {
        return if definition.name == "keylocation" {
            Err(Error::unsupported("com.datto:encryption"))
        } else {
            Ok(())
        };
    };
    let feature = match (definition.name, number) {
        ("encryption", n) if n != 2 => return Err(Error::unsupported("com.datto:encryption")),
        ("keyformat", n) if n != 0 => return Err(Error::unsupported("com.datto:encryption")),
        ("dedup", n) if n != 2 => return Err(Error::unsupported("deduplication")),
        ("filesystem_limit" | "snapshot_limit", n) if n != u64::MAX => {
            return Err(Error::unsupported("com.joyent:filesystem_limits"));
        }
        ("checksum", 11) => "org.illumos:sha512",
        ("checksum", 12) => "org.illumos:skein",
        ("checksum", 13) => "org.illumos:edonr",
        ("checksum", 14) => "org.openzfs:blake3",
        ("compression", n) if n & ((1 << table::COMPRESS_BITS) - 1) == 16 => "org.freebsd:zstd_compress",
        ("compression", 15) => "org.illumos:lz4_compress",
        ("recordsize" | "volblocksize", n) if n > 128 << 10 => "org.open-zfs:large_blocks",
        ("longname", n) if n != 0 => LONGNAME,
        ("dnodesize", n) if n != 0 => "org.zfsonlinux:large_dnode",
        _ => return Ok(()),
    };
    if pool.host().feature_enabled(feature) { Ok(()) } else { Err(Error::unsupported(feature)) }
}

impl DslPool {
    /// Sets properties, native or user, all or none. [`Error::NoSpace`] if a quota is below what is used or a reservation above what is free.
    pub fn set_properties(&self, name: &str, properties: &[(&str, &str)]) -> Result<()> {
        let given: Vec<(String, String)> =
            properties.iter().map(|(n, v)| ((*n).to_string(), (*v).to_string())).collect();
        let name = name.to_string();
        self.run_task(Slop::Reserved, move |pool, tx| {
            let dataset = pool.find(&name)?;
            let kind = if dataset.is_snapshot() { Kind::Snapshot } else { dataset.content_kind()? };
            let mut settings = Vec::new();
            for (property, text) in &given {
                if property == "version" {
                    return Err(Error::unsupported("changing the property version"));
                }
                settings.push(Setting::read(pool, property, text, kind, false)?);
            }
            pool.fix_reservation(&dataset, &mut settings)?;
            settings.iter().try_for_each(|setting| pool.check_setting(&dataset, setting))?;
            for setting in &settings {
                pool.apply_setting(tx, &dataset, setting)?;
                pool.log_set(tx, &dataset, setting)?;
            }
            pool.refresh_settings()
        })
    }

    /// What a new dataset reserves must fit into what the one above may still use.
    pub(crate) fn check_room(&self, above: &Dir, settings: &[Setting]) -> Result<()> {
        let reserves = |s: &&Setting| s.native && matches!(s.name.as_str(), "reservation" | "refreservation");
        let most = settings.iter().filter(reserves).map(Setting::number).max().unwrap_or(0);
        if most > above.available(&self.meta) { Err(Error::NoSpace) } else { Ok(()) }
    }

    /// The history's line of a change (`dsl_prop_set_sync_impl`): values as they are stored.
    pub(crate) fn log_set(&self, tx: &Tx, dataset: &Dataset, setting: &Setting) -> Result<()> {
        let text = match &setting.value {
            Value::Number(number) => format!("{}={number}", setting.name),
            Value::Text(text) => format!("{}={text}", setting.name),
        };
        self.host().log_internal(tx, "set", dataset.object, &dataset.name(), &text)
    }

    /// A volume's refreservation follows its size, if it was what the old size asked for and nobody sets another (`zfs_add_synthetic_resv`).
    fn fix_reservation(&self, dataset: &Arc<Dataset>, settings: &mut Vec<Setting>) -> Result<()> {
        let size = settings.iter().find(|s| s.native && s.name == "volsize").map(Setting::number);
        if settings.iter().any(|s| s.native && s.name == "refreservation") {
            return Ok(());
        }
        let Some(size) = size else { return Ok(()) };
        let (old, block_size) = self.volume_geometry(dataset)?;
        let copies = self.number_of(dataset, "copies")?.clamp(1, 3);
        if dataset.with(|s| s.reserved) == self.volume_reservation(old, block_size, copies) {
            let value = Value::Number(self.volume_reservation(size, block_size, copies));
            settings.push(Setting { name: "refreservation".to_string(), value, native: true });
        }
        Ok(())
    }

    fn check_setting(&self, dataset: &Arc<Dataset>, setting: &Setting) -> Result<()> {
        if !setting.native {
            return Ok(());
        }
        let (dir, phys) = (dataset.dir().phys(), dataset.phys());
        let value = setting.number();
        let available = || dataset.dir().available(&self.meta);
        let fits = match setting.name.as_str() {
            "quota" => value == 0 || value >= dir.used_bytes.max(dir.reserved),
            "refquota" => value == 0 || value >= phys.referenced_bytes,
            "reservation" => {
                let more = value.max(dir.used_bytes)
                    - dir.reserved.max(dir.used_bytes).min(value.max(dir.used_bytes));
                more <= available() && (dir.quota == 0 || value <= dir.quota)
            }
            "refreservation" => {
                let (old, unique) = dataset.with(|s| (s.reserved, s.phys.unique_bytes));
                value.saturating_sub(old.max(unique)) <= available() && (dir.quota == 0 || value <= dir.quota)
            }
            "volsize" => return self.check_volume_size(dataset, value),
            _ => true,
        };
        if fits { Ok(()) } else { Err(Error::NoSpace) }
    }

    /// Stores a property and does what belongs to it.
    pub(crate) fn apply_setting(&self, tx: &Tx, dataset: &Arc<Dataset>, setting: &Setting) -> Result<()> {
        if setting.native && setting.name == "volsize" {
            return volume::resize(&dataset.objset()?, tx, setting.number());
        }
        let zap = self.properties_zap(tx, dataset)?;
        self.meta.zap_remove_if_any(tx, zap, &format!("{}$inherit", setting.name))?;
        self.meta.zap_set_value(tx, zap, &setting.name, &setting.stored())?;
        if setting.native { self.apply_special(tx, dataset, &setting.name, setting.number()) } else { Ok(()) }
    }

    fn apply_special(&self, tx: &Tx, dataset: &Arc<Dataset>, name: &str, value: u64) -> Result<()> {
        let dir = dataset.dir();
        match name {
            "quota" => dir.update(&self.meta, tx, |d| d.quota = value),
            "reservation" => dir.set_reservation(&self.meta, tx, value),
            "refquota" => {
                dataset.with(|s| s.quota = value);
                Ok(())
            }
            "refreservation" => {
                let (old, unique) =
                    dataset.with(|s| (core::mem::replace(&mut s.reserved, value), s.phys.unique_bytes));
                let delta = value.saturating_sub(unique) as i64 - old.saturating_sub(unique) as i64;
                dir.diduse(&self.meta, tx, Used::RefReservation, Delta::used(delta))
            }
            _ => Ok(()),
        }
    }

    fn properties_zap(&self, tx: &Tx, dataset: &Dataset) -> Result<u64> {
        let phys = dataset.phys();
        if !phys.is_snapshot() {
            return Ok(dataset.dir().phys().props_zapobj);
        }
        if phys.props_obj != 0 {
            return Ok(phys.props_obj);
        }
        let zap = self.meta.zap_create(tx, ObjectType::DSL_PROPS)?;
        dataset.update(self, tx, |p| p.props_obj = zap)?;
        Ok(zap)
    }

    /// Back to the inherited or default value; with `received`, to the value that came with a received stream, if there is one.
    pub fn inherit_property(
        &self,
        name: &str,
        property: &str,
        recursive: bool,
        received: bool,
    ) -> Result<()> {
        let definition = table::find(property);
        match definition {
            Some(d) if matches!(d.rule, Rule::ReadOnly | Rule::Once) => {
                return Err(Error::Invalid("this property cannot be inherited"));
            }
            None if !table::is_user(property) => {
                return Err(Error::Invalid("there is no property of that name"));
            }
            _ => {}
        }
        let property = definition.map_or(property, |d| d.name).to_string();
        let name = name.to_string();
        self.run_task(Slop::Reserved, move |pool, tx| {
            let dataset = pool.find(&name)?;
            let all = if recursive && !dataset.is_snapshot() {
                pool.below(&dataset)?
            } else {
                alloc::vec![dataset]
            };
            for dataset in all {
                pool.clear_setting(tx, &dataset, &property, received)?;
                let text = format!("{property}=");
                pool.host().log_internal(tx, "inherit", dataset.object, &dataset.name(), &text)?;
            }
            pool.refresh_settings()
        })
    }

    fn clear_setting(&self, tx: &Tx, dataset: &Arc<Dataset>, property: &str, received: bool) -> Result<()> {
        let phys = dataset.phys();
        if phys.is_snapshot() && phys.props_obj == 0 {
            return Ok(());
        }
        let zap = self.properties_zap(tx, dataset)?;
        self.meta.zap_remove_if_any(tx, zap, property)?;
        let came = self.meta.zap_value(zap, &format!("{property}$recvd"))?;
        let inherit = format!("{property}$inherit");
        match came {
            Some(value) if received => {
                self.meta.zap_remove_if_any(tx, zap, &inherit)?;
                if let Some(Form::Bytes) = table::find(property).map(|d| d.form) {
                    return self.apply_special(tx, dataset, property, value.first());
                }
                return Ok(());
            }
            Some(_) => self.meta.zap_set_value(tx, zap, &inherit, &zap::Value::bytes(&[0]))?,
            None => {}
        }
        match table::find(property) {
            Some(d) if matches!(d.form, Form::Bytes) => self.apply_special(tx, dataset, property, d.default),
            _ => Ok(()),
        }
    }
}
