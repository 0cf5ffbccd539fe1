//! ZAP objects: names (or arrays of u64) to arrays of integers. Source: `zap.c`, `zap_micro.c`, `zap_fat.c`, `zap_leaf.c`.
//!
//! A *micro* ZAP is one block of 64-byte entries (names under 50 bytes, one u64 each); a *fat* ZAP is an extendible
//! hash table of 16 KiB leaves. A micro ZAP becomes fat by itself when an entry does not fit.
//!
//! Lookups share a lock per ZAP, changes have it alone.

mod cursor;
mod fat;
mod hash;
mod key;
mod leaf;
mod micro;
#[cfg(test)]
mod tests;
mod textprep;

pub use cursor::{Iter, visit};
pub use key::Match;
pub use textprep::{
    NORMALIZE_COMPOSE, NORMALIZE_DECOMPOSE, NORMALIZE_DECOMPOSE_COMPATIBLE, NORMALIZE_TO_LOWER,
    NORMALIZE_TO_UPPER,
};

use crate::dmu::{Allocate, Dnode, Objset, Tx};
use crate::error::{Error, Result};
use crate::ondisk::object_type::ObjectType;
use crate::ondisk::read_u64;
use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;
use fat::{Header, Put};
use key::{Query, Rules};
use micro::{Index, Micro};

/// Longest name in bytes, its terminating zero included (`ZAP_MAXNAMELEN`) …
pub const MAX_NAME_LEN: usize = 256;
/// … and of a directory (`ZAP_MAXNAMELEN_NEW`).
pub const MAX_LONG_NAME_LEN: usize = 1024;
/// Largest value in bytes (`ZAP_MAXVALUELEN`).
pub const MAX_VALUE_LEN: usize = 1024 * 8;

/// Use 48 bits of the hash instead of 28 (`ZAP_FLAG_HASH64`).
pub const FLAG_HASH64: u64 = 1 << 0;
/// Keys are arrays of u64 (`ZAP_FLAG_UINT64_KEY`).
pub const FLAG_UINT64_KEY: u64 = 1 << 1;
/// The first word of a key is its hash (`ZAP_FLAG_PRE_HASHED_KEY`).
pub const FLAG_PRE_HASHED_KEY: u64 = 1 << 2;

/// How a ZAP is created.
#[derive(Debug, Clone, Copy, Default)]
pub struct CreateOptions {
    /// `FLAG_*`; not 0 makes it fat from the start.
    pub flags: u64,
    /// `zap_normflags` (`U8_TEXTPREP_*`): how names are folded before they are compared.
    pub normalization: u64,
    /// Bonus type.
    pub bonus_type: ObjectType,
    /// Bonus length in bytes.
    pub bonus_len: u16,
    /// Dnode slots; 0 means 1.
    pub slots: u8,
}

/// What is remembered of a ZAP between calls, under the dnode's `zap` lock. The blocks are the truth; this stays equal
/// to them because all changes go through this module.
#[derive(Default)]
pub(crate) struct Cache {
    form: Option<Form>,
}

#[derive(Clone)]
enum Form {
    Micro(Index),
    Fat(Header),
}

/// A key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key<'a> {
    /// A name, without terminating zero.
    Name(&'a [u8]),
    /// Words, in a ZAP with [`FLAG_UINT64_KEY`].
    Words(&'a [u64]),
}

impl<'a> From<&'a str> for Key<'a> {
    fn from(name: &'a str) -> Self {
        Key::Name(name.as_bytes())
    }
}

impl<'a> From<&'a [u8]> for Key<'a> {
    fn from(name: &'a [u8]) -> Self {
        Key::Name(name)
    }
}

impl<'a> From<&'a [u64]> for Key<'a> {
    fn from(words: &'a [u64]) -> Self {
        Key::Words(words)
    }
}

/// A value: integers of one size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// Size of each integer: 1, 2, 4 or 8 bytes.
    pub int_size: u8,
    /// The integers; of size 1, the bytes of a string (with its terminating zero, if the writer stored it).
    pub ints: Vec<u64>,
}

impl Value {
    /// One or more 8-byte integers.
    #[must_use]
    pub fn words(words: &[u64]) -> Self {
        Value { int_size: 8, ints: words.to_vec() }
    }

    /// Bytes, as integers of size 1.
    #[must_use]
    pub fn bytes(bytes: &[u8]) -> Self {
        Value { int_size: 1, ints: bytes.iter().map(|&b| u64::from(b)).collect() }
    }

    /// The integers as bytes, each truncated to 8 bits.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.ints.iter().map(|&i| i as u8).collect()
    }

    /// The first integer; 0 if there is none.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.ints.first().copied().unwrap_or(0)
    }
}

/// An entry, as iteration gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name without terminating zero; of a u64-keyed ZAP, the words in big-endian order.
    pub name: Vec<u8>,
    /// The value.
    pub value: Value,
    /// Where to go on after this entry; stable while entries come and go (`zap_cursor_serialize`).
    pub cookie: u64,
}

impl Entry {
    /// The key's words, in a u64-keyed ZAP.
    #[must_use]
    pub fn key_words(&self) -> Vec<u64> {
        self.name.as_chunks::<8>().0.iter().map(|w| u64::from_be_bytes(*w)).collect()
    }
}

/// Figures of a ZAP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Number of entries.
    pub entries: u64,
    /// Whether it is a micro ZAP.
    pub micro: bool,
    /// Leaf blocks of a fat ZAP.
    pub leaves: u64,
    /// `zap_flags`.
    pub flags: u64,
    /// `zap_normflags`.
    pub normalization: u64,
}

/// The cookie from which iteration starts.
pub const COOKIE_START: u64 = 0;
/// The cookie behind the last entry.
pub const COOKIE_END: u64 = u64::MAX;

/// Creates a ZAP: micro, unless the options need a fat one.
pub fn create(os: &Arc<Objset>, tx: &Tx, object_type: ObjectType, o: &CreateOptions) -> Result<Arc<Dnode>> {
    let dnode = os.allocate(tx, &o.allocate(object_type))?;
    format(&dnode, tx, o)?;
    Ok(dnode)
}

/// As [`create`], at a given object number (see [`Objset::claim`]).
pub fn create_at(
    os: &Arc<Objset>,
    tx: &Tx,
    object: u64,
    object_type: ObjectType,
    o: &CreateOptions,
) -> Result<Arc<Dnode>> {
    let dnode = os.claim(tx, object, &o.allocate(object_type))?;
    format(&dnode, tx, o)?;
    Ok(dnode)
}

impl CreateOptions {
    fn allocate(&self, object_type: ObjectType) -> Allocate {
        Allocate {
            object_type,
            block_size: if self.flags == 0 { 512 } else { 1 << fat::BLOCK_SHIFT },
            bonus_type: self.bonus_type,
            bonus_len: self.bonus_len,
            slots: self.slots,
            indirect_shift: 0,
        }
    }
}

/// Makes a ZAP of an object that was just allocated or claimed.
pub fn format(dnode: &Arc<Dnode>, tx: &Tx, o: &CreateOptions) -> Result<()> {
    let mut cache = dnode.zap.write();
    // Any odd number will do; it only has to differ between objects, and images must be reproducible.
    let seed = (dnode.object() ^ dnode.objset().id().rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let rules = Rules { salt: seed | 1, flags: o.flags, normalization: o.normalization };
    if o.flags == 0 {
        let (block, form) = {
            let mut block = alloc::vec![0; dnode.block_size() as usize];
            micro::init(&mut block, rules.salt, rules.normalization);
            let index = Micro(&block).index();
            (block, Form::Micro(index))
        };
        dnode.write_block(tx, 0, block.into())?;
        cache.form = Some(form);
    } else {
        dnode.set_block_size(tx, 1 << fat::BLOCK_SHIFT)?;
        cache.form = Some(Form::Fat(fat::init(dnode, tx, rules)?));
    }
    Ok(())
}

/// Reads what kind of ZAP it is.
fn load(zap: &Dnode) -> Result<Form> {
    let bad = |rule| Error::corrupt(rule, zap.bookmark(0, 0));
    if !zap.object_type().is_zap() {
        return Err(bad("zap: the object's type is not that of a ZAP"));
    }
    let blocks = zap.info().maxblkid.saturating_add(1);
    zap.with_block(0, |block| match read_u64(block, 0) {
        micro::BLOCK_TYPE_MICRO if block.len() > micro::LARGEST => Err(bad("micro zap: block too large")),
        micro::BLOCK_TYPE_MICRO => Ok(Form::Micro(Micro(block).index())),
        _ => Header::parse(block, blocks).map(Form::Fat).map_err(bad),
    })?
}

/// Runs `f` with the ZAP's form under the shared lock.
fn with_form<R>(zap: &Arc<Dnode>, f: impl FnOnce(&Form) -> Result<R>) -> Result<R> {
    {
        let cache = zap.zap.read();
        if let Some(form) = &cache.form {
            return f(form);
        }
    }
    let mut cache = zap.zap.write();
    if cache.form.is_none() {
        cache.form = Some(load(zap)?);
    }
    f(cache.form.as_ref().expect("it was just loaded"))
}

/// Runs `f` with the ZAP's form under the exclusive lock. After an error the form is read anew.
fn with_form_mut<R>(zap: &Arc<Dnode>, tx: &Tx, f: impl FnOnce(&mut Form) -> Result<R>) -> Result<R> {
    let mut cache = zap.zap.write();
    // The form is that of the newest state, which a newer txg may have: as where files lose their names, and wait in the delete queue.
    zap.take_newer(tx)?;
    let mut form = match cache.form.take() {
        Some(form) => form,
        None => load(zap)?,
    };
    let answer = f(&mut form);
    if answer.is_ok() || matches!(answer, Err(Error::Exists | Error::NotFound)) {
        cache.form = Some(form);
    }
    answer
}

impl Form {
    fn rules(&self) -> Rules {
        match self {
            Form::Micro(index) => index.rules,
            Form::Fat(header) => header.rules,
        }
    }

    /// The stored name (only if asked for) and the value.
    fn lookup(&self, zap: &Dnode, query: &Query, want_name: bool) -> Result<(Vec<u8>, Value)> {
        match self {
            Form::Fat(header) => fat::lookup(zap, header, query, want_name),
            Form::Micro(index) => zap.with_block(0, |block| {
                let micro = Micro(block);
                let (_, i) = index.find(&micro, query).ok_or(Error::NotFound)?;
                let i = usize::from(i);
                let name = if want_name { micro.name(i).to_vec() } else { Vec::new() };
                Ok((name, Value::words(&[micro.value(i)])))
            })?,
        }
    }

    fn put(&mut self, zap: &Arc<Dnode>, tx: &Tx, query: &Query, how: Put, value: &Value) -> Result<()> {
        if !matches!(value.int_size, 1 | 2 | 4 | 8) {
            return Err(Error::Invalid("integers of 1, 2, 4 or 8 bytes"));
        }
        if value.ints.len() * usize::from(value.int_size) > MAX_VALUE_LEN {
            return Err(Error::TooBig);
        }
        if query.stored.len() > MAX_NAME_LEN && zap.object_type() != ObjectType::DIRECTORY_CONTENTS {
            return Err(Error::NameTooLong);
        }
        if let Form::Micro(index) = self {
            let found = zap.with_block(0, |block| index.find(&Micro(block), query))?;
            if found.is_some() && how != Put::Update {
                return Err(Error::Exists);
            }
            if micro::fits(query, value) {
                if let Some((_, i)) = found {
                    return zap.modify_block(tx, 0, |b| micro::set_value(b, i, value.first()));
                }
                if !index.is_full() || grow_micro(zap, tx, index)? {
                    let added = zap.modify_block(tx, 0, |b| index.add(b, query, value.first()))?;
                    return added.ok_or(Error::corrupt("micro zap: no free entry", zap.bookmark(0, 0)));
                }
            }
            *self = Form::Fat(upgrade(zap, tx, index.rules)?);
        }
        match self {
            Form::Fat(header) => fat::put(zap, tx, header, query, how, value),
            Form::Micro(_) => unreachable!("it was just upgraded"),
        }
    }

    fn remove(&mut self, zap: &Arc<Dnode>, tx: &Tx, query: &Query) -> Result<()> {
        match self {
            Form::Fat(header) => fat::remove(zap, tx, header, query),
            Form::Micro(index) => {
                let found = zap.with_block(0, |block| index.find(&Micro(block), query))?;
                let (cd, _) = found.ok_or(Error::NotFound)?;
                zap.modify_block(tx, 0, |b| index.remove(b, query.hash, cd))
            }
        }
    }
}

/// Makes room for more entries; `false` if the micro ZAP is as large as one can be.
fn grow_micro(zap: &Arc<Dnode>, tx: &Tx, index: &mut Index) -> Result<bool> {
    let size = zap.block_size() + 512;
    if size > micro::MAX_SIZE {
        return Ok(false);
    }
    zap.set_block_size(tx, size)?;
    index.resize(size);
    Ok(true)
}

/// Turns a micro ZAP into a fat one. What is wrong with its entries is found before anything is changed.
fn upgrade(zap: &Arc<Dnode>, tx: &Tx, rules: Rules) -> Result<Header> {
    let entries: Vec<_> = zap.with_block(0, |block| {
        let micro = Micro(block);
        micro.in_use().map(|i| micro.entry(i)).collect()
    })?;
    let mut names = BTreeSet::new();
    if !entries.iter().all(|(name, ..)| names.insert(name)) {
        return Err(Error::corrupt("micro zap: two entries of one name", zap.bookmark(0, 0)));
    }
    let query = |(name, value, cd): &(Vec<u8>, u64, u32)| {
        let query = Query::new(&rules, Key::Name(name), Match::Exact)?;
        Ok((query, Value::words(&[*value]), *cd))
    };
    let queries = entries.iter().map(query).collect::<Result<Vec<_>>>()?;
    zap.set_block_size(tx, 1 << fat::BLOCK_SHIFT)?;
    let mut header = fat::init(zap, tx, rules)?;
    for (query, value, cd) in queries {
        fat::put(zap, tx, &mut header, &query, Put::WithCd(cd), &value)?;
    }
    Ok(header)
}

/// The value of `key`. [`crate::Error::NotFound`] if there is none.
pub fn lookup<'k>(zap: &Arc<Dnode>, key: impl Into<Key<'k>>) -> Result<Value> {
    let key = key.into();
    with_form(zap, |form| {
        let query = Query::new(&form.rules(), key, Match::Exact)?;
        Ok(form.lookup(zap, &query, false)?.1)
    })
}

/// The value of `key`, which must be a single integer.
pub fn lookup_u64<'k>(zap: &Arc<Dnode>, key: impl Into<Key<'k>>) -> Result<u64> {
    let value = lookup(zap, key)?;
    match value.ints[..] {
        [one] => Ok(one),
        _ => {
            Err(Error::corrupt("zap: a value is not the one integer that belongs there", zap.bookmark(0, 0)))
        }
    }
}

/// As [`lookup_u64`], comparing names as asked; answers the stored name as well (`zap_lookup_norm`).
pub fn lookup_name(zap: &Arc<Dnode>, name: &[u8], how: Match) -> Result<(Vec<u8>, u64)> {
    with_form(zap, |form| {
        let query = Query::new(&form.rules(), Key::Name(name), how)?;
        let (name, value) = form.lookup(zap, &query, true)?;
        Ok((name, value.first()))
    })
}

fn put<'k>(zap: &Arc<Dnode>, tx: &Tx, key: impl Into<Key<'k>>, how: Put, value: &Value) -> Result<()> {
    let key = key.into();
    with_form_mut(zap, tx, |form| {
        let query = Query::new(&form.rules(), key, Match::Exact)?;
        form.put(zap, tx, &query, how, value)
    })
}

/// Adds an entry. [`crate::Error::Exists`] if the key has one.
pub fn add<'k>(zap: &Arc<Dnode>, tx: &Tx, key: impl Into<Key<'k>>, value: &Value) -> Result<()> {
    put(zap, tx, key, Put::Add, value)
}

/// [`add`] of one u64.
pub fn add_u64<'k>(zap: &Arc<Dnode>, tx: &Tx, key: impl Into<Key<'k>>, value: u64) -> Result<()> {
    put(zap, tx, key, Put::Add, &Value::words(&[value]))
}

/// Sets the value of `key`, which may be new.
pub fn update<'k>(zap: &Arc<Dnode>, tx: &Tx, key: impl Into<Key<'k>>, value: &Value) -> Result<()> {
    put(zap, tx, key, Put::Update, value)
}

/// [`update`] of one u64.
pub fn update_u64<'k>(zap: &Arc<Dnode>, tx: &Tx, key: impl Into<Key<'k>>, value: u64) -> Result<()> {
    put(zap, tx, key, Put::Update, &Value::words(&[value]))
}

/// Removes an entry. [`crate::Error::NotFound`] if there is none.
pub fn remove<'k>(zap: &Arc<Dnode>, tx: &Tx, key: impl Into<Key<'k>>) -> Result<()> {
    let key = key.into();
    with_form_mut(zap, tx, |form| {
        let query = Query::new(&form.rules(), key, Match::Exact)?;
        form.remove(zap, tx, &query)
    })
}

/// Adds `delta` to the u64 of `key`; an entry that becomes 0 is removed, one that is missing counts as 0
/// (`zap_increment`). Answers the new value.
pub fn increment<'k>(zap: &Arc<Dnode>, tx: &Tx, key: impl Into<Key<'k>>, delta: i64) -> Result<u64> {
    let key = key.into();
    with_form_mut(zap, tx, |form| {
        let query = Query::new(&form.rules(), key, Match::Exact)?;
        let old = match form.lookup(zap, &query, false) {
            Ok((_, value)) => value.first(),
            Err(Error::NotFound) => 0,
            Err(error) => return Err(error),
        };
        let new = old.wrapping_add_signed(delta);
        match (old, new) {
            (0, 0) => {}
            (_, 0) => form.remove(zap, tx, &query)?,
            _ => form.put(zap, tx, &query, Put::Update, &Value::words(&[new]))?,
        }
        Ok(new)
    })
}

/// The name of an integer key in hexadecimal, as `zap_add_int` and its family store it.
#[must_use]
pub fn int_name(value: u64) -> alloc::string::String {
    alloc::format!("{value:x}")
}

/// How many entries there are.
pub fn count(zap: &Arc<Dnode>) -> Result<u64> {
    Ok(stats(zap)?.entries)
}

/// Figures.
pub fn stats(zap: &Arc<Dnode>) -> Result<Stats> {
    with_form(zap, |form| {
        let Rules { flags, normalization, .. } = form.rules();
        Ok(match form {
            Form::Micro(index) => {
                Stats { entries: index.tree.len() as u64, micro: true, leaves: 0, flags, normalization }
            }
            Form::Fat(h) => {
                Stats { entries: h.entries, micro: false, leaves: h.leaves, flags, normalization }
            }
        })
    })
}

/// Iterates from `cookie` ([`COOKIE_START`] or an entry's) in the order of hashes.
#[must_use]
pub fn iterate(zap: &Arc<Dnode>, cookie: u64) -> Iter {
    Iter::new(zap, cookie)
}

/// All entries at once, in the order of hashes.
pub fn entries(zap: &Arc<Dnode>) -> Result<Vec<Entry>> {
    iterate(zap, COOKIE_START).collect()
}
