//! The object directory: object 1 of the MOS, names to what the pool consists of. Source: `DMU_POOL_DIRECTORY_OBJECT`.

use crate::dmu::{Allocate, Objset, Tx};
use crate::error::{Error, Result};
use crate::ondisk::object_type::ObjectType;
use crate::zap;
use alloc::sync::Arc;

/// Its object number.
const OBJECT: u64 = 1;

/// Makes the directory of a new MOS.
pub(crate) fn create(mos: &Arc<Objset>, tx: &Tx) -> Result<()> {
    let dnode = mos.claim(tx, OBJECT, &Allocate::plain(ObjectType::OBJECT_DIRECTORY, 512))?;
    zap::format(&dnode, tx, &zap::CreateOptions::default())
}

/// The value under a name, if there is one.
pub(crate) fn lookup_value(mos: &Arc<Objset>, name: &str) -> Result<Option<zap::Value>> {
    match zap::lookup(&mos.hold(OBJECT)?, name) {
        Ok(value) => Ok(Some(value)),
        Err(Error::NotFound) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The number under a name, if there is one.
pub(crate) fn lookup(mos: &Arc<Objset>, name: &str) -> Result<Option<u64>> {
    Ok(lookup_value(mos, name)?.map(|value| value.first()))
}

/// Adds a number.
pub(crate) fn add(mos: &Arc<Objset>, tx: &Tx, name: &str, value: u64) -> Result<()> {
    zap::add_u64(&mos.hold(OBJECT)?, tx, name, value)
}

/// Removes an entry.
pub(crate) fn remove(mos: &Arc<Objset>, tx: &Tx, name: &str) -> Result<()> {
    zap::remove(&mos.hold(OBJECT)?, tx, name)
}

/// Adds bytes.
pub(crate) fn add_bytes(mos: &Arc<Objset>, tx: &Tx, name: &str, bytes: &[u8]) -> Result<()> {
    zap::add(&mos.hold(OBJECT)?, tx, name, &zap::Value::bytes(bytes))
}

/// Sets what stands under a name, be it there or not.
pub(crate) fn update_value(mos: &Arc<Objset>, tx: &Tx, name: &str, value: &zap::Value) -> Result<()> {
    zap::update(&mos.hold(OBJECT)?, tx, name, value)
}

/// A new ZAP under a name; its object number (`zap_create_link`).
pub(crate) fn create_zap(mos: &Arc<Objset>, tx: &Tx, name: &str, object_type: ObjectType) -> Result<u64> {
    let object = zap::create(mos, tx, object_type, &zap::CreateOptions::default())?.object();
    add(mos, tx, name, object)?;
    Ok(object)
}
