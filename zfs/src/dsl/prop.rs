//! Dataset properties: the table, values and where they come from. Source: `module/zcommon/zfs_prop.c`, `module/zfs/dsl_prop.c`.

use alloc::string::String;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Not a settable property: a statistic.
    None,
    /// Nobody set it.
    Default,
    /// Set here.
    Local,
    /// Set on the named ancestor.
    Inherited(String),
    /// Came with a received stream.
    Received,
}

/// A value as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A number, or the index of an enumerated value.
    Number(u64),
    /// Text.
    Text(String),
}

/// A property of a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Property {
    /// Its name; of a user property with a colon.
    pub name: String,
    /// Its value as stored.
    pub value: Value,
    /// Its value in words, exact (`zfs get -p`).
    pub text: String,
    /// Its value in words as `zfs get` shows it to people (`1.50G`, `1.02x`, a date).
    pub human: String,
    /// Where it comes from.
    pub source: Source,
}
