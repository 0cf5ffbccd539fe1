//! Keys as the ZAP code compares them. Source: `zap_name_t` (`zap_impl.h`), `zap_normalize`, `zap_match`.

use crate::error::{Error, Result};
use crate::zap::hash::{hash_name, hash_words};
use crate::zap::{FLAG_UINT64_KEY, Key, MAX_NAME_LEN};
use alloc::string::String;
use alloc::vec::Vec;

/// Fold to upper case (`U8_TEXTPREP_TOUPPER`).
pub const NORMALIZE_TO_UPPER: u64 = 0x2;
/// Fold to lower case (`U8_TEXTPREP_TOLOWER`).
pub const NORMALIZE_TO_LOWER: u64 = 0x4;

/// How one ZAP hashes and compares.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) salt: u64,
    pub(crate) flags: u64,
    pub(crate) normalization: u64,
}

/// A key on its way through the ZAP code.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    pub(crate) hash: u64,
    /// 1 for names, 8 for words.
    pub(crate) int_size: u8,
    /// As stored: a name with its terminating zero, or words in big-endian order.
    pub(crate) stored: Vec<u8>,
    /// Compare folded names: the query's own folded form.
    folded: Option<Vec<u8>>,
    normalization: u64,
}

impl Query {
    /// `fold`: names are equal if their folded forms are.
    pub(crate) fn new(rules: &Rules, key: Key<'_>, fold: bool) -> Result<Self> {
        match key {
            Key::Name(name) => {
                if rules.flags & FLAG_UINT64_KEY != 0 {
                    return Err(Error::Invalid("the keys of this ZAP are words"));
                }
                if name.len() >= MAX_NAME_LEN {
                    return Err(Error::NameTooLong);
                }
                if name.is_empty() || name.contains(&0) {
                    return Err(Error::Invalid("a name is not empty and holds no zero byte"));
                }
                let folded = (rules.normalization != 0).then(|| normalize(name, rules.normalization));
                let hash = hash_name(rules.salt, rules.flags, folded.as_deref().unwrap_or(name));
                let mut stored = Vec::with_capacity(name.len() + 1);
                stored.extend_from_slice(name);
                stored.push(0);
                let folded = folded.filter(|_| fold);
                Ok(Query { hash, int_size: 1, stored, folded, normalization: rules.normalization })
            }
            Key::Words(words) => {
                if rules.flags & FLAG_UINT64_KEY == 0 {
                    return Err(Error::Invalid("the keys of this ZAP are names"));
                }
                if words.is_empty() || words.len() * 8 > MAX_NAME_LEN {
                    return Err(Error::NameTooLong);
                }
                let hash = hash_words(rules.salt, rules.flags, words);
                let stored = words.iter().flat_map(|w| w.to_be_bytes()).collect();
                Ok(Query { hash, int_size: 8, stored, folded: None, normalization: 0 })
            }
        }
    }

    /// Number of integers of the key as stored.
    pub(crate) fn numints(&self) -> usize {
        self.stored.len() / usize::from(self.int_size)
    }

    /// The name without its terminating zero.
    pub(crate) fn name(&self) -> &[u8] {
        self.stored.strip_suffix(&[0]).unwrap_or(&self.stored)
    }

    /// Whether a stored name (without terminating zero; words in big-endian order) is this key.
    pub(crate) fn matches(&self, stored: &[u8]) -> bool {
        match &self.folded {
            Some(folded) => *folded == normalize(stored, self.normalization),
            None if self.int_size == 8 => stored == self.stored,
            None => stored == self.name(),
        }
    }

    /// Whether names are compared folded.
    pub(crate) fn folds(&self) -> bool {
        self.folded.is_some()
    }
}

/// The folded form of a name. Case is folded character by character; names that are not ASCII keep their normal form.
fn normalize(name: &[u8], flags: u64) -> Vec<u8> {
    if name.is_ascii() {
        return if flags & NORMALIZE_TO_UPPER != 0 {
            name.to_ascii_uppercase()
        } else if flags & NORMALIZE_TO_LOWER != 0 {
            name.to_ascii_lowercase()
        } else {
            name.to_vec()
        };
    }
    let Ok(text) = core::str::from_utf8(name) else { return name.to_vec() };
    let mut out = String::with_capacity(name.len());
    for c in text.chars() {
        // Only one-to-one mappings: the format's tables know no others.
        let mut mapped = if flags & NORMALIZE_TO_UPPER != 0 {
            Mapped::Upper(c.to_uppercase())
        } else if flags & NORMALIZE_TO_LOWER != 0 {
            Mapped::Lower(c.to_lowercase())
        } else {
            Mapped::Same
        };
        out.push(mapped.single().unwrap_or(c));
    }
    out.into_bytes()
}

enum Mapped {
    Upper(core::char::ToUppercase),
    Lower(core::char::ToLowercase),
    Same,
}

impl Mapped {
    fn single(&mut self) -> Option<char> {
        match self {
            Mapped::Upper(m) if m.len() == 1 => m.next(),
            Mapped::Lower(m) if m.len() == 1 => m.next(),
            _ => None,
        }
    }
}
