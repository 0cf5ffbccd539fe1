//! Keys as the ZAP code compares them. Source: `zap_name_t` (`zap_impl.h`), `zap_match`.

use crate::error::{Error, Result};
use crate::zap::hash::{hash_name, hash_words};
use crate::zap::textprep::{NORMALIZE_TO_UPPER, fold};
use crate::zap::{FLAG_UINT64_KEY, Key, MAX_LONG_NAME_LEN, MAX_NAME_LEN};
use alloc::vec::Vec;

/// When two names are the same (`matchtype_t`). In a ZAP that does not fold names, whenever their bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Match {
    /// If their bytes are (0).
    #[default]
    Exact,
    /// If their folded forms are (`MT_NORMALIZE`).
    Folded,
    /// If their folded forms are, case left as it is (`MT_NORMALIZE | MT_MATCH_CASE`).
    CaseKept,
}

/// How one ZAP hashes and compares.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) salt: u64,
    pub(crate) flags: u64,
    pub(crate) normalization: u64,
}

impl Rules {
    /// The hash of a name: always that of its folded form, however names are compared.
    pub(crate) fn hash_name(&self, name: &[u8]) -> u64 {
        match self.normalization {
            0 => hash_name(self.salt, self.flags, name),
            how => hash_name(self.salt, self.flags, &fold(name, how)),
        }
    }
}

/// A key on its way through the ZAP code.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    pub(crate) hash: u64,
    /// 1 for names, 8 for words.
    pub(crate) int_size: u8,
    /// As stored: a name with its terminating zero, or words in big-endian order.
    pub(crate) stored: Vec<u8>,
    /// Compare folded names: the query's own folded form, and how names are folded for that.
    folded: Option<(Vec<u8>, u64)>,
}

impl Query {
    pub(crate) fn new(rules: &Rules, key: Key<'_>, how: Match) -> Result<Self> {
        match key {
            Key::Name(name) => {
                if rules.flags & FLAG_UINT64_KEY != 0 {
                    return Err(Error::Invalid("the keys of this ZAP are words"));
                }
                if name.len() >= MAX_LONG_NAME_LEN {
                    return Err(Error::NameTooLong);
                }
                if name.is_empty() || name.contains(&0) {
                    return Err(Error::Invalid("a name is not empty and holds no zero byte"));
                }
                let hash = rules.hash_name(name);
                let mut stored = Vec::with_capacity(name.len() + 1);
                stored.extend_from_slice(name);
                stored.push(0);
                let by = match how {
                    _ if rules.normalization == 0 => None,
                    Match::Exact => None,
                    Match::Folded => Some(rules.normalization),
                    Match::CaseKept => Some(rules.normalization & !NORMALIZE_TO_UPPER),
                };
                let folded = by.map(|by| (fold(name, by), by));
                Ok(Query { hash, int_size: 1, stored, folded })
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
                Ok(Query { hash, int_size: 8, stored, folded: None })
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
            Some((folded, by)) => *folded == fold(stored, *by),
            None if self.int_size == 8 => stored == self.stored,
            None => stored == self.name(),
        }
    }

    /// Whether names are compared folded.
    pub(crate) fn folds(&self) -> bool {
        self.folded.is_some()
    }
}
