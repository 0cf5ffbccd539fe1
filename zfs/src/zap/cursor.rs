//! Iteration over a ZAP. Source: `zap_cursor_retrieve`, `zap_cursor_serialize` (`zap.c`).
//!
//! Entries come in the order of (hash, collision differentiator), which no change of other entries alters: a cookie
//! is the position behind an entry, and stays good for as long as the ZAP lives.

use crate::dmu::Dnode;
use crate::error::Result;
use crate::zap::hash::hash_bits;
use crate::zap::micro::Micro;
use crate::zap::{COOKIE_END, COOKIE_START, Entry, Form, fat, with_form};
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// How much of a ZAP is read ahead when iteration starts, in bytes.
const READ_AHEAD: u64 = 4 << 20;

/// Entries in the order of hashes. Entries added or removed meanwhile may or may not be seen; others are seen once.
pub struct Iter {
    zap: Arc<Dnode>,
    ready: VecDeque<Entry>,
    at: At,
}

enum At {
    Cookie(u64),
    Position { hash: u64, cd: u32 },
    End,
}

impl Iter {
    pub(super) fn new(zap: &Arc<Dnode>, cookie: u64) -> Self {
        if cookie == COOKIE_START {
            zap.prefetch(0, READ_AHEAD);
        }
        let at = if cookie == COOKIE_END { At::End } else { At::Cookie(cookie) };
        Iter { zap: Arc::clone(zap), ready: VecDeque::new(), at }
    }

    fn refill(&mut self) -> Result<()> {
        let zap = &self.zap;
        let (entries, next) = with_form(zap, |form| {
            let bits = hash_bits(form.rules().flags);
            let (hash, cd) = match self.at {
                At::Cookie(cookie) => (cookie << (64 - bits), (cookie >> bits) as u32),
                At::Position { hash, cd } => (hash, cd),
                At::End => return Ok((Vec::new(), None)),
            };
            // The position behind an entry: the same hash, the next cd.
            let cookie = |hash: u64, cd: u32| hash >> (64 - bits) | (u64::from(cd) + 1) << bits;
            match form {
                Form::Micro(index) => {
                    let entries = zap.with_block(0, |b| index.entries_from(&Micro(b), hash, cd, cookie))?;
                    Ok((entries, None))
                }
                Form::Fat(header) => fat::entries_from(zap, header, hash, cd, cookie),
            }
        })?;
        self.ready = entries.into();
        self.at = next.map_or(At::End, |hash| At::Position { hash, cd: 0 });
        Ok(())
    }
}

impl Iterator for Iter {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.ready.is_empty() {
            if matches!(self.at, At::End) {
                return None;
            }
            if let Err(error) = self.refill() {
                self.at = At::End;
                return Some(Err(error));
            }
        }
        self.ready.pop_front().map(Ok)
    }
}
