//! The meta objset as the dataset layer uses it: ZAPs by object number, the shared empty bpobj, zapified objects.

use super::bpobj::Bpobj;
use super::host::SpaHost;
use crate::dmu::{Objset, Tx};
use crate::error::{Error, Result};
use crate::ondisk::object_type::ObjectType;
use crate::zap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use platform::sync::Mutex;

/// The object directory of the MOS (`DMU_POOL_DIRECTORY_OBJECT`).
pub(crate) const OBJECT_DIRECTORY: u64 = 1;
const EMPTY_BPOBJ: &str = "empty_bpobj";
const FEATURE_EMPTY_BPOBJ: &str = "com.delphix:empty_bpobj";
const FEATURE_EXTENSIBLE_DATASET: &str = "com.delphix:extensible_dataset";

/// The MOS and the pool above.
pub(crate) struct Mos {
    pub(crate) os: Arc<Objset>,
    pub(crate) host: Arc<dyn SpaHost>,
    /// Object number of the empty bpobj that all empty deadlist entries share; 0 if there is none.
    empty: Mutex<u64>,
}

impl Mos {
    pub(crate) fn new(os: &Arc<Objset>, host: Arc<dyn SpaHost>) -> Result<Self> {
        let mos = Mos { os: Arc::clone(os), host, empty: Mutex::new(0) };
        let empty = mos.zap_get(OBJECT_DIRECTORY, EMPTY_BPOBJ)?.unwrap_or(0);
        *mos.empty.lock() = empty;
        Ok(mos)
    }

    /// A u64 by name; `None` if there is none.
    pub(crate) fn zap_get(&self, object: u64, name: &str) -> Result<Option<u64>> {
        absent(zap::lookup_u64(&self.os.hold(object)?, name))
    }

    /// A value by name; `None` if there is none.
    pub(crate) fn zap_value(&self, object: u64, name: &str) -> Result<Option<zap::Value>> {
        absent(zap::lookup(&self.os.hold(object)?, name))
    }

    pub(crate) fn zap_add(&self, tx: &Tx, object: u64, name: &str, value: u64) -> Result<()> {
        zap::add_u64(&self.os.hold(object)?, tx, name, value)
    }

    pub(crate) fn zap_set(&self, tx: &Tx, object: u64, name: &str, value: u64) -> Result<()> {
        zap::update_u64(&self.os.hold(object)?, tx, name, value)
    }

    pub(crate) fn zap_set_value(&self, tx: &Tx, object: u64, name: &str, value: &zap::Value) -> Result<()> {
        zap::update(&self.os.hold(object)?, tx, name, value)
    }

    pub(crate) fn zap_remove(&self, tx: &Tx, object: u64, name: &str) -> Result<()> {
        zap::remove(&self.os.hold(object)?, tx, name)
    }

    /// Removes an entry that may not be there.
    pub(crate) fn zap_remove_if_any(&self, tx: &Tx, object: u64, name: &str) -> Result<()> {
        absent(self.zap_remove(tx, object, name)).map(|_| ())
    }

    /// Adds an integer key whose value is itself (`zap_add_int`).
    pub(crate) fn zap_add_int(&self, tx: &Tx, object: u64, value: u64) -> Result<()> {
        self.zap_add(tx, object, &zap::int_name(value), value)
    }

    pub(crate) fn zap_remove_int(&self, tx: &Tx, object: u64, value: u64) -> Result<()> {
        self.zap_remove(tx, object, &zap::int_name(value))
    }

    /// All entries, each one u64, in the order of hashes. Names that are not UTF-8 are damage.
    pub(crate) fn zap_entries(&self, object: u64) -> Result<Vec<(String, u64)>> {
        let entries = zap::entries(&self.os.hold(object)?)?;
        entries.into_iter().map(|e| Ok((name_of(e.name)?, e.value.first()))).collect()
    }

    /// All entries with their values.
    pub(crate) fn zap_values(&self, object: u64) -> Result<Vec<(String, zap::Value)>> {
        let entries = zap::entries(&self.os.hold(object)?)?;
        entries.into_iter().map(|e| Ok((name_of(e.name)?, e.value))).collect()
    }

    pub(crate) fn zap_count(&self, object: u64) -> Result<u64> {
        zap::count(&self.os.hold(object)?)
    }

    pub(crate) fn zap_create(&self, tx: &Tx, object_type: ObjectType) -> Result<u64> {
        Ok(zap::create(&self.os, tx, object_type, &zap::CreateOptions::default())?.object())
    }

    /// The shared empty bpobj's number; 0 (never a bpobj's number) if there is none.
    pub(crate) fn empty_bpobj(&self) -> u64 {
        *self.empty.lock()
    }

    /// Empty bpobjs for deadlist entries: that many more references to the shared one, where the feature is enabled (`bpobj_alloc_empty`).
    pub(crate) fn acquire_empty_bpobjs(&self, tx: &Tx, count: usize) -> Result<Vec<u64>> {
        if count == 0 {
            return Ok(Vec::new());
        }
        if !self.host.feature_enabled(FEATURE_EMPTY_BPOBJ) {
            return (0..count).map(|_| Bpobj::allocate(&self.os, tx)).collect();
        }
        let mut empty = self.empty.lock();
        if *empty == 0 {
            *empty = Bpobj::allocate(&self.os, tx)?;
            self.zap_add(tx, OBJECT_DIRECTORY, EMPTY_BPOBJ, *empty)?;
        }
        self.host.feature_add(tx, FEATURE_EMPTY_BPOBJ, count as i64)?;
        Ok(alloc::vec![*empty; count])
    }

    /// That many references to the shared empty bpobj less; with the last it is freed (`bpobj_decr_empty`).
    pub(crate) fn release_empty_bpobjs(&self, tx: &Tx, count: usize) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        self.host.feature_add(tx, FEATURE_EMPTY_BPOBJ, -(count as i64))?;
        if !self.host.feature_active(FEATURE_EMPTY_BPOBJ) {
            let mut empty = self.empty.lock();
            self.zap_remove(tx, OBJECT_DIRECTORY, EMPTY_BPOBJ)?;
            self.os.free(tx, *empty)?;
            *empty = 0;
        }
        Ok(())
    }

    /// Whether a dir's or dataset's object is a ZAP besides (`dsl_dataset_is_zapified`).
    pub(crate) fn is_zapified(&self, object: u64) -> Result<bool> {
        Ok(self.os.hold(object)?.object_type() == ObjectType::OTN_ZAP_METADATA)
    }

    /// Makes it one (`dmu_object_zapify`).
    pub(crate) fn zapify(&self, tx: &Tx, object: u64) -> Result<()> {
        if self.is_zapified(object)? {
            return Ok(());
        }
        let dnode = self.os.hold(object)?;
        zap::format(&dnode, tx, &zap::CreateOptions::default())?;
        dnode.set_type(tx, ObjectType::OTN_ZAP_METADATA)?;
        self.host.feature_incr(tx, FEATURE_EXTENSIBLE_DATASET)
    }

    /// Frees an object that may be zapified (`dmu_object_free_zapified`).
    pub(crate) fn free_zapified(&self, tx: &Tx, object: u64) -> Result<()> {
        if self.is_zapified(object)? {
            self.host.feature_decr(tx, FEATURE_EXTENSIBLE_DATASET)?;
        }
        self.os.free(tx, object)
    }

    /// A u64 in a zapified object; `None` if it has none or is not zapified.
    pub(crate) fn field(&self, object: u64, name: &str) -> Result<Option<u64>> {
        if self.is_zapified(object)? { self.zap_get(object, name) } else { Ok(None) }
    }
}

/// "Not found" as `None`.
pub(crate) fn absent<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Error::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

fn name_of(name: Vec<u8>) -> Result<String> {
    String::from_utf8(name).map_err(|_| Error::corrupt("MOS: a name is not UTF-8", None))
}
