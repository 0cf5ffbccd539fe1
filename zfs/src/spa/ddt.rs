//! Dedup tables in the MOS: a freed block that was deduplicated loses a reference, and its space with the last one; one that is cloned
//! gets one. Source: `module/zfs/ddt.c`, `zio_ddt_free`, `ddt_addref`.
//!
//! # Invariants
//! - An entry is in the table of its class: `unique` with one reference, `duplicate` with more.
//! - A table's histogram, in the statistics object, counts exactly its entries; an empty table is removed.

use super::core::Spa;
use super::directory;
use crate::checksum::Checksum;
use crate::dmu::{Dnode, Tx};
use crate::dsl::SpaHost;
use crate::error::{Error, Result};
use crate::ondisk::blkptr::Blkptr;
use crate::ondisk::ddt::{Entry, HISTOGRAM_BUCKETS, KEY_WORDS, Place, STAT_WORDS, key_of};
use crate::ondisk::object_type::ObjectType;
use crate::zap::{self, Value};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;

/// The object directory's entry of the statistics (`DMU_POOL_DDT_STATS`): histograms by table.
const STATISTICS: &str = "DDT-statistics";
/// Block size of a table, as a ZAP with a flag has it.
const FLAGS: u64 = zap::FLAG_HASH64 | zap::FLAG_UINT64_KEY;
/// Classes by name (`ddt_class_name`).
const DUPLICATE: &str = "duplicate";
const UNIQUE: &str = "unique";
const CLASSES: [&str; 3] = ["ditto", DUPLICATE, UNIQUE];

/// The table of a checksum function and a class.
fn name_of(checksum: Checksum, class: &str) -> String {
    format!("DDT-{}-zap-{class}", checksum.name())
}

/// An entry, and where it was found.
struct Found {
    table: Arc<Dnode>,
    name: String,
    entry: Entry,
}

impl Spa {
    /// Adds references to a deduplicated block. False if no table knows it. Syncing context.
    pub(super) fn ddt_refer(&self, tx: &Tx, bp: &Blkptr, count: u64) -> Result<bool> {
        self.ddt_change(tx, bp, |place| {
            let too_many = Error::corrupt("dedup table: more references than can be counted", None);
            place.references = place.references.checked_add(count).ok_or(too_many)?;
            Ok(())
        })
    }

    /// Takes a reference from a deduplicated block. False if no table knows it: then it is a block like any other. Syncing context.
    pub(super) fn ddt_free(&self, tx: &Tx, bp: &Blkptr) -> Result<bool> {
        self.ddt_change(tx, bp, |place| {
            place.references = place.references.saturating_sub(1);
            if place.references == 0 {
                let stored = block_at(bp, place);
                *place = Place::default();
                self.free_extents(&stored)?;
            }
            Ok(())
        })
    }

    /// Changes the place that a block refers to in its entry, which moves to the table of the class that it has then. False if no table
    /// knows it.
    fn ddt_change(
        &self,
        tx: &Tx,
        bp: &Blkptr,
        change: impl FnOnce(&mut Place) -> Result<()>,
    ) -> Result<bool> {
        let checksum = Checksum::from_raw(bp.checksum_type())?;
        let key = key_of(bp);
        let Some(mut found) = self.ddt_find(checksum, &key)? else { return Ok(false) };
        let Some(index) = found.entry.places.iter().position(|p| p.is_of(bp)) else { return Ok(false) };
        self.ddt_count(tx, &found.name, &key, &found.entry, false)?;
        change(&mut found.entry.places[index])?;
        self.ddt_store(tx, checksum, &key, found)?;
        Ok(true)
    }

    /// Stores a changed entry in the table of the class that it has now, or removes it.
    fn ddt_store(&self, tx: &Tx, checksum: Checksum, key: &[u64; KEY_WORDS], found: Found) -> Result<()> {
        let Found { table, name, entry } = found;
        let references = entry.references();
        let class = name_of(checksum, if references > 1 { DUPLICATE } else { UNIQUE });
        if references == 0 || class != name {
            zap::remove(&table, tx, &key[..])?;
        }
        if references > 0 {
            let target =
                if class == name { Arc::clone(&table) } else { self.ddt_table(tx, &class, checksum)? };
            zap::update(&target, tx, &key[..], &Value::bytes(&entry.emit()))?;
            self.ddt_count(tx, &class, key, &entry, true)?;
        }
        if zap::count(&table)? == 0 {
            self.ddt_remove(tx, &name, table.object())?;
        }
        Ok(())
    }

    fn ddt_find(&self, checksum: Checksum, key: &[u64; KEY_WORDS]) -> Result<Option<Found>> {
        for class in CLASSES {
            let name = name_of(checksum, class);
            let Some(object) = directory::lookup(&self.mos, &name)? else { continue };
            let table = self.mos.hold(object)?;
            match zap::lookup(&table, &key[..]) {
                Ok(value) => {
                    let entry = Entry::parse(&value.to_bytes())?;
                    return Ok(Some(Found { table, name, entry }));
                }
                Err(Error::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// A table, made if it is not there (`ddt_object_create`).
    fn ddt_table(&self, tx: &Tx, name: &str, checksum: Checksum) -> Result<Arc<Dnode>> {
        if let Some(object) = directory::lookup(&self.mos, name)? {
            return self.mos.hold(object);
        }
        let prehashed = if checksum.is_strong() { zap::FLAG_PRE_HASHED_KEY } else { 0 };
        let options = zap::CreateOptions { flags: FLAGS | prehashed, ..zap::CreateOptions::default() };
        let table = zap::create(&self.mos, tx, ObjectType::DDT_ZAP, &options)?;
        directory::add(&self.mos, tx, name, table.object())?;
        Ok(table)
    }

    /// Removes an empty table (`ddt_object_destroy`).
    fn ddt_remove(&self, tx: &Tx, name: &str, object: u64) -> Result<()> {
        directory::remove(&self.mos, tx, name)?;
        if let Some(statistics) = directory::lookup(&self.mos, STATISTICS)? {
            zap::remove(&self.mos.hold(statistics)?, tx, name)?;
        }
        self.mos.free(tx, object)
    }

    /// Counts an entry into the histogram of its table, or out of it.
    fn ddt_count(
        &self,
        tx: &Tx,
        name: &str,
        key: &[u64; KEY_WORDS],
        entry: &Entry,
        into: bool,
    ) -> Result<()> {
        let dsize = |place: &Place| self.dsize(&block_at(&Blkptr::HOLE, place));
        let Some((bucket, stat)) = entry.stat(key, dsize) else { return Ok(()) };
        let Some(statistics) = directory::lookup(&self.mos, STATISTICS)? else { return Ok(()) };
        let statistics = self.mos.hold(statistics)?;
        let mut histogram = match zap::lookup(&statistics, name) {
            Ok(value) => value.ints,
            Err(Error::NotFound) => vec![],
            Err(error) => return Err(error),
        };
        histogram.resize(HISTOGRAM_BUCKETS * STAT_WORDS, 0);
        for (sum, value) in histogram[bucket * STAT_WORDS..].iter_mut().zip(stat) {
            *sum = if into { sum.wrapping_add(value) } else { sum.wrapping_sub(value) };
        }
        zap::update(&statistics, tx, name, &Value::words(&histogram))
    }
}

/// The block that is stored at a place, otherwise like `bp`.
fn block_at(bp: &Blkptr, place: &Place) -> Blkptr {
    let mut bytes = bp.to_bytes();
    for (word, at) in place.dvas.iter().zip((0..).step_by(8)) {
        bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }
    Blkptr::from_bytes(&bytes)
}
