//! Name-value lists: the self-describing tree of labels, pool configuration and history. Source: `nvpair.c`.
//!
//! Two encodings are read and written: XDR (big-endian, on disk) and native little-endian. Decoding is bounded: nesting
//! by [`MAX_DEPTH`], every length by the bytes that are there.

mod decode;
mod encode;
mod show;
#[cfg(test)]
mod tests;

pub use show::Show;

use crate::error::{Error, Result};
use alloc::string::String;
use alloc::vec::Vec;

/// How deep lists may nest.
pub const MAX_DEPTH: usize = 20;
/// Names within one list are unique (`NV_UNIQUE_NAME`).
pub const UNIQUE_NAME: u32 = 1;

/// A value of a pair, by its `data_type_t`.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the names are those of the types on disk")]
pub enum Value {
    Boolean,
    Byte(u8),
    Int16(i16),
    Uint16(u16),
    Int32(i32),
    Uint32(u32),
    Int64(i64),
    Uint64(u64),
    String(String),
    ByteArray(Vec<u8>),
    Int16Array(Vec<i16>),
    Uint16Array(Vec<u16>),
    Int32Array(Vec<i32>),
    Uint32Array(Vec<u32>),
    Int64Array(Vec<i64>),
    Uint64Array(Vec<u64>),
    StringArray(Vec<String>),
    Hrtime(i64),
    NvList(NvList),
    NvListArray(Vec<NvList>),
    BooleanValue(bool),
    Int8(i8),
    Uint8(u8),
    BooleanArray(Vec<bool>),
    Int8Array(Vec<i8>),
    Uint8Array(Vec<u8>),
    Double(f64),
}

/// An ordered list of named values.
#[derive(Debug, Clone, PartialEq)]
pub struct NvList {
    /// `NV_UNIQUE_NAME`, `NV_UNIQUE_NAME_TYPE`.
    pub flags: u32,
    pairs: Vec<(String, Value)>,
}

impl Default for NvList {
    fn default() -> Self {
        Self::new()
    }
}

impl NvList {
    /// An empty list with unique names.
    #[must_use]
    pub fn new() -> Self {
        NvList { flags: UNIQUE_NAME, pairs: Vec::new() }
    }

    /// Sets a value; a pair of that name is taken out first, as `nvlist_add_*` does with unique names.
    pub fn insert(&mut self, name: &str, value: impl Into<Value>) {
        self.remove(name);
        self.push(name, value.into());
    }

    /// [`NvList::insert`] for building in one expression.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.insert(name, value);
        self
    }

    /// Appends a pair even if there is one of that name.
    pub(crate) fn push(&mut self, name: &str, value: Value) {
        self.pairs.push((name.into(), value));
    }

    /// Takes a pair out.
    pub fn remove(&mut self, name: &str) -> Option<Value> {
        let i = self.pairs.iter().position(|(n, _)| n == name)?;
        Some(self.pairs.remove(i).1)
    }

    /// The first value of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.pairs.iter().find(|(n, _)| n == name).map(|(_, v)| v)
    }

    /// Whether there is a pair of that name.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The pairs in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.pairs.iter().map(|(n, v)| (n.as_str(), v))
    }

    /// How many pairs there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether there is no pair.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// The `uint64` of that name, `None` if missing or of another type.
    #[must_use]
    pub fn get_u64(&self, name: &str) -> Option<u64> {
        match self.get(name)? {
            Value::Uint64(v) => Some(*v),
            _ => None,
        }
    }

    /// The string of that name.
    #[must_use]
    pub fn get_str(&self, name: &str) -> Option<&str> {
        match self.get(name)? {
            Value::String(s) => Some(s),
            _ => None,
        }
    }

    /// The list of that name.
    #[must_use]
    pub fn get_nvlist(&self, name: &str) -> Option<&NvList> {
        match self.get(name)? {
            Value::NvList(list) => Some(list),
            _ => None,
        }
    }

    /// The array of lists of that name.
    #[must_use]
    pub fn get_nvlists(&self, name: &str) -> Option<&[NvList]> {
        match self.get(name)? {
            Value::NvListArray(lists) => Some(lists),
            _ => None,
        }
    }

    /// The array of `uint64` of that name.
    #[must_use]
    pub fn get_u64s(&self, name: &str) -> Option<&[u64]> {
        match self.get(name)? {
            Value::Uint64Array(values) => Some(values),
            _ => None,
        }
    }

    /// The array of strings of that name.
    #[must_use]
    pub fn get_strs(&self, name: &str) -> Option<&[String]> {
        match self.get(name)? {
            Value::StringArray(values) => Some(values),
            _ => None,
        }
    }

    /// [`NvList::get_u64`] of a pair that must be there.
    pub fn u64(&self, name: &str) -> Result<u64> {
        self.get_u64(name).ok_or(Error::corrupt("nvlist: a required uint64 is missing", None))
    }

    /// [`NvList::get_str`] of a pair that must be there.
    pub fn str(&self, name: &str) -> Result<&str> {
        self.get_str(name).ok_or(Error::corrupt("nvlist: a required string is missing", None))
    }

    /// [`NvList::get_nvlist`] of a pair that must be there.
    pub fn nvlist(&self, name: &str) -> Result<&NvList> {
        self.get_nvlist(name).ok_or(Error::corrupt("nvlist: a required list is missing", None))
    }

    /// Reads a packed list of either encoding; bytes after it are ignored.
    pub fn unpack(bytes: &[u8]) -> Result<Self> {
        decode::unpack(bytes)
    }

    /// The packed list in XDR, as labels, the MOS configuration and history hold it.
    #[must_use]
    pub fn pack_xdr(&self) -> Vec<u8> {
        encode::pack_xdr(self)
    }

    /// The packed list in native little-endian encoding.
    #[must_use]
    pub fn pack_native(&self) -> Vec<u8> {
        encode::pack_native(self)
    }
}

impl From<u64> for Value {
    fn from(v: u64) -> Self {
        Value::Uint64(v)
    }
}
impl From<&str> for Value {
    fn from(v: &str) -> Self {
        Value::String(v.into())
    }
}
impl From<String> for Value {
    fn from(v: String) -> Self {
        Value::String(v)
    }
}
impl From<NvList> for Value {
    fn from(v: NvList) -> Self {
        Value::NvList(v)
    }
}
impl From<Vec<NvList>> for Value {
    fn from(v: Vec<NvList>) -> Self {
        Value::NvListArray(v)
    }
}
impl From<Vec<u64>> for Value {
    fn from(v: Vec<u64>) -> Self {
        Value::Uint64Array(v)
    }
}
impl From<Vec<String>> for Value {
    fn from(v: Vec<String>) -> Self {
        Value::StringArray(v)
    }
}
impl From<()> for Value {
    fn from((): ()) -> Self {
        Value::Boolean
    }
}
impl From<bool> for Value {
    fn from(v: bool) -> Self {
        Value::BooleanValue(v)
    }
}
