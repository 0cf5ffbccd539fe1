//! ZAP objects: names (or arrays of u64) to arrays of integers. Source: `zap.c`, `zap_micro.c`, `zap_fat.c`, `zap_leaf.c`.
//!
//! A *micro* ZAP is one block of 64-byte entries (names under 50 bytes, one u64 each); a *fat* ZAP is an extendible
//! hash table of 16 KiB leaves. A micro ZAP becomes fat by itself when an entry does not fit.

use crate::dmu::{Dnode, Objset, Tx};
use crate::error::Result;
use crate::ondisk::object_type::ObjectType;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Longest name in bytes, its terminating zero included (`ZAP_MAXNAMELEN`).
pub const MAX_NAME_LEN: usize = 256;
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

/// What is remembered of a ZAP between calls.
#[derive(Default)]
pub(crate) struct Cache {}

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
    let _ = (os, tx, object_type, o);
    todo!()
}

/// Makes a ZAP of an object that was just allocated or claimed.
pub fn format(dnode: &Arc<Dnode>, tx: &Tx, o: &CreateOptions) -> Result<()> {
    let _ = (dnode, tx, o);
    todo!()
}

/// The value of `key`. [`crate::Error::NotFound`] if there is none.
pub fn lookup<'k>(zap: &Arc<Dnode>, key: impl Into<Key<'k>>) -> Result<Value> {
    let _ = (zap, key.into());
    todo!()
}

/// The value of `key`, which must be a single integer.
pub fn lookup_u64<'k>(zap: &Arc<Dnode>, key: impl Into<Key<'k>>) -> Result<u64> {
    let _ = (zap, key.into());
    todo!()
}

/// As [`lookup_u64`], comparing folded names if `fold` and the ZAP normalizes; answers the stored name as well.
pub fn lookup_folded(zap: &Arc<Dnode>, name: &[u8], fold: bool) -> Result<(Vec<u8>, u64)> {
    let _ = (zap, name, fold);
    todo!()
}

/// Adds an entry. [`crate::Error::Exists`] if the key has one.
pub fn add<'k>(zap: &Arc<Dnode>, tx: &Tx, key: impl Into<Key<'k>>, value: &Value) -> Result<()> {
    let _ = (zap, tx, key.into(), value);
    todo!()
}

/// [`add`] of one u64.
pub fn add_u64<'k>(zap: &Arc<Dnode>, tx: &Tx, key: impl Into<Key<'k>>, value: u64) -> Result<()> {
    let _ = (zap, tx, key.into(), value);
    todo!()
}

/// Sets the value of `key`, which may be new.
pub fn update<'k>(zap: &Arc<Dnode>, tx: &Tx, key: impl Into<Key<'k>>, value: &Value) -> Result<()> {
    let _ = (zap, tx, key.into(), value);
    todo!()
}

/// [`update`] of one u64.
pub fn update_u64<'k>(zap: &Arc<Dnode>, tx: &Tx, key: impl Into<Key<'k>>, value: u64) -> Result<()> {
    let _ = (zap, tx, key.into(), value);
    todo!()
}

/// Removes an entry. [`crate::Error::NotFound`] if there is none.
pub fn remove<'k>(zap: &Arc<Dnode>, tx: &Tx, key: impl Into<Key<'k>>) -> Result<()> {
    let _ = (zap, tx, key.into());
    todo!()
}

/// Adds `delta` to the u64 of `key`; an entry that becomes 0 is removed, one that is missing counts as 0
/// (`zap_increment`). Answers the new value.
pub fn increment<'k>(zap: &Arc<Dnode>, tx: &Tx, key: impl Into<Key<'k>>, delta: i64) -> Result<u64> {
    let _ = (zap, tx, key.into(), delta);
    todo!()
}

/// The name of an integer key in hexadecimal, as `zap_add_int` and its family store it.
#[must_use]
pub fn int_name(value: u64) -> alloc::string::String {
    alloc::format!("{value:x}")
}

/// How many entries there are.
pub fn count(zap: &Arc<Dnode>) -> Result<u64> {
    let _ = zap;
    todo!()
}

/// Figures.
pub fn stats(zap: &Arc<Dnode>) -> Result<Stats> {
    let _ = zap;
    todo!()
}

/// Iterates from `cookie` ([`COOKIE_START`] or an entry's) in the order of hashes.
#[must_use]
pub fn iterate(zap: &Arc<Dnode>, cookie: u64) -> Iter {
    let _ = (zap, cookie);
    Iter {}
}

/// All entries at once, in the order of hashes.
pub fn entries(zap: &Arc<Dnode>) -> Result<Vec<Entry>> {
    iterate(zap, COOKIE_START).collect()
}

/// Entries in the order of hashes. Entries added or removed meanwhile may or may not be seen; others are seen once.
pub struct Iter {}

impl Iterator for Iter {
    type Item = Result<Entry>;
    fn next(&mut self) -> Option<Self::Item> {
        todo!()
    }
}
