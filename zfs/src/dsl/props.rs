//! Reading properties: local, inherited and received values, and the statistics that are shown among them.
//! Source: `module/zfs/dsl_prop.c`, `lib/libzfs/libzfs_dataset.c`.

use super::dataset::{Dataset, Hold, Kind};
use super::deadlist::Deadlist;
use super::dir::Dir;
use super::pool::{DslPool, LONGNAME};
use super::prop::{Property, Source, Value, human_bytes, human_time};
use super::prop_table::{self as table, Definition, Form, Rule};
use super::volume;
use crate::error::{Error, Result};
use crate::ondisk::dsl::DS_FLAG_DEFER_DESTROY;
use crate::zap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

const INHERIT_SUFFIX: &str = "$inherit";
const RECEIVED_SUFFIX: &str = "$recvd";
/// The ZPL's master node (`MASTER_NODE_OBJ`).
const MASTER_NODE: u64 = 1;

/// Values of `keystatus` (`zfs_keystatus_t`).
const KEY_UNAVAILABLE: u64 = 1;
const KEY_AVAILABLE: u64 = 2;

/// A value found, and on which dataset.
enum Found {
    At(zap::Value, String),
    Received(zap::Value),
    Nowhere,
}

impl DslPool {
    /// Looks a property up where it may be set, from the dataset upwards (`dsl_prop_get_ds`).
    fn find_property(&self, dataset: &Dataset, name: &str, inheritable: bool) -> Result<Found> {
        let phys = dataset.phys();
        if phys.is_snapshot() && phys.props_obj != 0 {
            if let Some(value) = self.meta.zap_value(phys.props_obj, name)? {
                return Ok(Found::At(value, dataset.name()));
            }
            if let Some(value) = self.meta.zap_value(phys.props_obj, &format!("{name}{RECEIVED_SUFFIX}"))? {
                return Ok(Found::Received(value));
            }
        }
        let mut dir: Option<Arc<Dir>> = Some(dataset.dir());
        let mut own = !phys.is_snapshot();
        while let Some(this) = dir {
            if !own && !inheritable {
                break;
            }
            let props = this.phys().props_zapobj;
            if props != 0 {
                if let Some(value) = self.meta.zap_value(props, name)? {
                    return Ok(Found::At(value, this.name()));
                }
                let inherit = self.meta.zap_value(props, &format!("{name}{INHERIT_SUFFIX}"))?.is_some();
                let received = format!("{name}{RECEIVED_SUFFIX}");
                match self.meta.zap_value(props, &received)? {
                    Some(value) if !inherit && own => return Ok(Found::Received(value)),
                    Some(value) if !inherit => return Ok(Found::At(value, this.name())),
                    _ => {}
                }
            }
            own = false;
            dir = this.parent();
        }
        Ok(Found::Nowhere)
    }

    /// A native property's stored value and where it comes from.
    fn stored(&self, dataset: &Dataset, d: &Definition) -> Result<(Value, Source)> {
        let (value, source) = match self.find_property(dataset, d.name, d.rule == Rule::Inherit)? {
            Found::At(value, at) if at == dataset.name() => (value, Source::Local),
            Found::At(value, at) => (value, Source::Inherited(at)),
            Found::Received(value) => (value, Source::Received),
            Found::Nowhere => return Ok((d.default_value(), Source::Default)),
        };
        Ok((decode(&value, matches!(d.form, Form::Text)), source))
    }

    /// The number of a settable property, from the ZAPs alone.
    pub(crate) fn number_of(&self, dataset: &Dataset, name: &str) -> Result<u64> {
        let definition = table::find(name).ok_or(Error::NotFound)?;
        match self.stored(dataset, definition)?.0 {
            Value::Number(number) => Ok(number),
            Value::Text(_) => Err(Error::Invalid("this property is no number")),
        }
    }

    fn native(&self, dataset: &Dataset, d: &'static Definition) -> Result<Property> {
        if let Some((value, source)) = self.special(dataset, d)? {
            return Ok(show(d, value, source));
        }
        let (value, source) = self.stored(dataset, d)?;
        let value = match (d.name, value) {
            ("mountpoint", Value::Text(point)) => Value::Text(mountpoint(&dataset.name(), &point, &source)),
            (_, value) => value,
        };
        Ok(show(d, value, source))
    }

    /// Properties that are not, or not only, in the property ZAPs.
    fn special(&self, dataset: &Dataset, d: &Definition) -> Result<Option<(Value, Source)>> {
        let phys = dataset.phys();
        let dir = dataset.dir().phys();
        let number = |n: u64| Some((Value::Number(n), Source::None));
        let words = |t: &str| Some((Value::Text(t.to_string()), Source::None));
        let limit = |n: u64| {
            let source = if n == 0 { Source::Default } else { Source::Local };
            Some((Value::Number(n), source))
        };
        let flag = |b: bool| Some((Value::Number(u64::from(b)), Source::None));
        Ok(match d.name {
            "type" => words(match dataset.kind()? {
                Kind::Filesystem => "filesystem",
                Kind::Volume => "volume",
                Kind::Snapshot => "snapshot",
            }),
            "creation" => number(phys.creation_time),
            "createtxg" => number(phys.creation_txg),
            "guid" => number(phys.guid),
            "objsetid" => number(dataset.object),
            "origin" => words(&dataset.origin()?.map_or_else(String::new, |o| o.name())),
            "mounted" => words(if dataset.is_held() { "yes" } else { "no" }),
            "quota" => limit(dir.quota),
            "reservation" => limit(dir.reserved),
            "defer_destroy" => flag(phys.flags & DS_FLAG_DEFER_DESTROY != 0),
            "userrefs" => {
                number(if phys.userrefs_obj == 0 { 0 } else { self.meta.zap_count(phys.userrefs_obj)? })
            }
            "filesystem_count" | "snapshot_count" => {
                let field = format!("com.joyent:{}", d.name);
                let count = self.meta.field(dataset.dir().object, &field)?;
                Some((Value::Number(count.unwrap_or(u64::MAX)), Source::Default))
            }
            "encryption" | "keyformat" | "pbkdf2iters" | "encryptionroot" | "keystatus" => {
                return self.crypt_property(dataset, d);
            }
            name if table::lives_in_objset(name) => self.objset_property(dataset, d)?,
            name => self.statistic(dataset, name)?.map(|n| (Value::Number(n), Source::None)),
        })
    }

    /// Properties of the key of an encrypted dataset; others have the defaults.
    fn crypt_property(&self, dataset: &Dataset, d: &Definition) -> Result<Option<(Value, Source)>> {
        let Some(encryption) = self.encryption_of(&dataset.dir())? else { return Ok(None) };
        let number = match d.name {
            "encryption" => encryption.suite as u64,
            "keyformat" => encryption.format as u64,
            "keystatus" if encryption.available => KEY_AVAILABLE,
            "keystatus" => KEY_UNAVAILABLE,
            "pbkdf2iters" if encryption.pbkdf2.iterations == 0 => return Ok(None),
            "pbkdf2iters" => encryption.pbkdf2.iterations,
            _ => return Ok(Some((Value::Text(encryption.root), Source::None))),
        };
        Ok(Some((Value::Number(number), Source::None)))
    }

    fn statistic(&self, dataset: &Dataset, name: &str) -> Result<Option<u64>> {
        const NAMES: [&str; 12] = [
            "used",
            "available",
            "referenced",
            "compressratio",
            "usedbysnapshots",
            "usedbydataset",
            "usedbychildren",
            "usedbyrefreservation",
            "refcompressratio",
            "written",
            "logicalused",
            "logicalreferenced",
        ];
        let Some(index) = NAMES.iter().position(|n| *n == name) else { return Ok(None) };
        let s = self.stats_of(dataset)?;
        let values = [
            s.used,
            s.available,
            s.referenced,
            s.compress_ratio,
            s.used_by_snapshots,
            s.used_by_dataset,
            s.used_by_children,
            s.used_by_refreservation,
            s.ref_compress_ratio,
            s.written,
            s.logical_used,
            s.logical_referenced,
        ];
        Ok(Some(values[index]))
    }

    /// Properties kept in the file system's master node or the volume's own ZAP.
    fn objset_property(&self, dataset: &Dataset, d: &Definition) -> Result<Option<(Value, Source)>> {
        let objset = match dataset.objset() {
            Ok(objset) => objset,
            Err(Error::KeyNotLoaded) => return Ok(None),
            Err(error) => return Err(error),
        };
        let zap_number =
            |object: u64, name: &str| match objset.hold(object).and_then(|z| zap::lookup_u64(&z, name)) {
                Err(Error::KeyNotLoaded) => Ok(None),
                other => super::mos::absent(other),
            };
        Ok(match d.name {
            "volsize" => {
                zap_number(volume::ZAP_OBJECT, volume::SIZE)?.map(|n| (Value::Number(n), Source::Local))
            }
            "volblocksize" => {
                let size = u64::from(objset.hold(volume::DATA_OBJECT)?.block_size());
                let source = if size == d.default { Source::Default } else { Source::None };
                Some((Value::Number(size), source))
            }
            name => {
                let key = if name == "version" { "VERSION" } else { name };
                let value = zap_number(MASTER_NODE, key)?.unwrap_or(if name == "version" { 1 } else { 0 });
                Some((Value::Number(value), Source::None))
            }
        })
    }

    /// Whether `zfs get all` lists a property of this dataset.
    fn applies(&self, dataset: &Dataset, d: &Definition, kind: Kind) -> Result<bool> {
        let mask = match kind {
            Kind::Filesystem => table::FS,
            Kind::Volume => table::VOL,
            Kind::Snapshot => table::SNAP,
        };
        if d.kinds & mask == 0 {
            return Ok(false);
        }
        let of_volume = dataset.content_kind()? == Kind::Volume;
        Ok(match d.name {
            "origin" => dataset.origin()?.is_some(),
            "clones" => !dataset.clones()?.is_empty(),
            "volsize" => of_volume,
            // Without encryption there is neither a root nor a key.
            "encryptionroot" | "keystatus" => self.encryption_of(&dataset.dir())?.is_some(),
            "mlslabel" | "keylocation" | "keyformat" | "pbkdf2iters" => {
                kind != Kind::Snapshot || d.name == "mlslabel"
            }
            name if kind == Kind::Snapshot && of_volume => {
                !table::lives_in_objset(name)
                    && !matches!(name, "devices" | "exec" | "setuid" | "xattr" | "nbmand" | "acltype")
            }
            _ => true,
        })
    }

    fn user_properties(&self, dataset: &Dataset) -> Result<Vec<Property>> {
        let mut names: Vec<String> = Vec::new();
        let mut collect = |object: u64| -> Result<()> {
            if object != 0 {
                for (name, _) in self.meta.zap_values(object)? {
                    let name = name.strip_suffix(RECEIVED_SUFFIX).unwrap_or(&name);
                    if table::is_user(name) && !names.iter().any(|n| n == name) {
                        names.push(name.to_string());
                    }
                }
            }
            Ok(())
        };
        collect(dataset.phys().props_obj)?;
        let mut dir = Some(dataset.dir());
        while let Some(this) = dir {
            collect(this.phys().props_zapobj)?;
            dir = this.parent();
        }
        names.sort();
        let mut properties = Vec::new();
        for name in names {
            match self.user(dataset, &name) {
                Ok(property) => properties.push(property),
                Err(Error::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(properties)
    }

    fn user(&self, dataset: &Dataset, name: &str) -> Result<Property> {
        let (value, source) = match self.find_property(dataset, name, true)? {
            Found::At(value, at) if at == dataset.name() => (value, Source::Local),
            Found::At(value, at) => (value, Source::Inherited(at)),
            Found::Received(value) => (value, Source::Received),
            Found::Nowhere => return Err(Error::NotFound),
        };
        let value = decode(&value, true);
        let text = match &value {
            Value::Text(text) => text.clone(),
            Value::Number(number) => number.to_string(),
        };
        Ok(Property { name: name.to_string(), value, human: text.clone(), text, source })
    }
}

impl Dataset {
    /// One property, native or user (`a:b`); inherited values are followed. [`Error::NotFound`] if there is none such.
    pub fn get(&self, property: &str) -> Result<Property> {
        let pool = self.pool()?;
        if property == "clones" {
            let names = self.clones()?.join(",");
            let definition = table::find(property).ok_or(Error::NotFound)?;
            return Ok(show(definition, Value::Text(names), Source::None));
        }
        if let Some(since) = property.strip_prefix("written@") {
            return Ok(written(property, self.written_since(since)?));
        }
        if let Some(mark) = property.strip_prefix("written#") {
            return Ok(written(property, self.written_since_bookmark(mark)?));
        }
        let _config = pool.read_config();
        match table::find(property) {
            Some(definition) => pool.native(self, definition),
            None => pool.user(self, property),
        }
    }

    /// What this refers to that was written since an earlier snapshot, in bytes (`written@snap`): its name after the `@`, or its full name.
    pub fn written_since(&self, snapshot: &str) -> Result<u64> {
        let pool = self.pool()?;
        let _config = pool.read_config();
        let name = match snapshot.contains('@') {
            true => snapshot.to_string(),
            false => format!("{}@{snapshot}", self.dir().name()),
        };
        let earlier = pool.find(&name)?;
        let mut written = self.phys().referenced_bytes.wrapping_sub(earlier.phys().referenced_bytes);
        let mut at = self.phys();
        loop {
            // What it had and this has not any more died on the way.
            let dead = Deadlist::open(pool.meta(), at.deadlist_obj)?.space();
            written = written.wrapping_add(dead.used);
            if at.prev_snap_obj == earlier.object {
                return Ok(written);
            }
            at = pool.previous(&at)?.ok_or(Error::NotFound)?.phys();
        }
    }

    /// Whether a property is one of this kind of dataset: a native one by the table, any other if it has a value here.
    pub fn has_property(&self, property: &str) -> Result<bool> {
        let mask = match self.kind()? {
            Kind::Filesystem => table::FS,
            Kind::Volume => table::VOL,
            Kind::Snapshot => table::SNAP,
        };
        Ok(table::find(property).is_none_or(|definition| definition.kinds & mask != 0))
    }

    /// A numeric property's value (`recordsize`, `atime` as 0 or 1, `compression` as its index).
    pub fn get_number(&self, property: &str) -> Result<u64> {
        match self.get(property)?.value {
            Value::Number(number) => Ok(number),
            Value::Text(_) => Err(Error::Invalid("this property is no number")),
        }
    }

    /// Everything that `zfs get all` shows, in its order, then user properties by name.
    pub fn properties(&self) -> Result<Vec<Property>> {
        let kind = self.kind()?;
        let pool = self.pool()?;
        let mut properties = Vec::new();
        for definition in table::TABLE {
            // OpenZFS 2.1 has no such property.
            let known = definition.name != "longname" || pool.host().feature_enabled(LONGNAME);
            if known && pool.applies(self, definition, kind)? {
                properties.push(self.get(definition.name)?);
            }
        }
        let _config = pool.read_config();
        properties.append(&mut pool.user_properties(self)?);
        Ok(properties)
    }

    /// Holds on this snapshot, by tag.
    pub fn holds(&self) -> Result<Vec<Hold>> {
        let pool = self.pool()?;
        let _config = pool.read_config();
        let zap = self.phys().userrefs_obj;
        if zap == 0 {
            return Ok(Vec::new());
        }
        let entries = pool.meta().zap_entries(zap)?;
        let mut holds: Vec<Hold> = entries.into_iter().map(|(tag, time)| Hold { tag, time }).collect();
        holds.sort_by(|a, b| a.tag.cmp(&b.tag));
        Ok(holds)
    }
}

fn written(name: &str, bytes: u64) -> Property {
    Property {
        name: name.to_string(),
        value: Value::Number(bytes),
        text: bytes.to_string(),
        human: human_bytes(bytes),
        source: Source::None,
    }
}

fn decode(value: &zap::Value, text: bool) -> Value {
    if value.int_size == 1 || text {
        let mut bytes = value.to_bytes();
        if let Some(end) = bytes.iter().position(|b| *b == 0) {
            bytes.truncate(end);
        }
        return Value::Text(String::from_utf8_lossy(&bytes).into_owned());
    }
    Value::Number(value.first())
}

fn show(d: &Definition, value: Value, source: Source) -> Property {
    let text = match (d.name, &value) {
        ("compressratio" | "refcompressratio", Value::Number(n)) => format!("{}.{:02}", n / 100, n % 100),
        ("origin" | "clones", Value::Text(t)) if t.is_empty() => "-".to_string(),
        _ => d.show(&value),
    };
    let human = match (d.form, d.name, &value) {
        (_, "creation", Value::Number(n)) => human_time(*n),
        (_, "compressratio" | "refcompressratio", _) => format!("{text}x"),
        (Form::Bytes, "quota" | "reservation" | "refquota" | "refreservation", Value::Number(0)) => {
            "none".to_string()
        }
        (Form::Limit, _, Value::Number(u64::MAX)) => "none".to_string(),
        (Form::Bytes, _, Value::Number(n)) => human_bytes(*n),
        _ => text.clone(),
    };
    Property { name: d.name.to_string(), value, text, human, source }
}

/// The mount point: what was set, and below it the rest of the name (`zfs_prop_get`).
fn mountpoint(name: &str, set: &str, source: &Source) -> String {
    let rest = match source {
        Source::Inherited(from) => name.strip_prefix(from.as_str()).unwrap_or("").trim_start_matches('/'),
        Source::Default => name,
        _ => "",
    };
    if !set.starts_with('/') || rest.is_empty() {
        return set.to_string();
    }
    format!("{}/{rest}", set.trim_end_matches('/'))
}
