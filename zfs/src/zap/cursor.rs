//! Iteration over a ZAP. Source: `zap_cursor_retrieve`, `zap_cursor_serialize` (`zap.c`).
//!
//! Entries come in the order of (hash, collision differentiator), which no change of other entries alters: a cookie
//! is the position behind an entry, and stays good for as long as the ZAP lives.

use crate::dmu::Dnode;
use crate::error::Result;
use crate::zap::hash::hash_bits;
use crate::zap::micro::Micro;
use crate::zap::{COOKIE_END, COOKIE_START, Entry, Form, Value, fat, with_form};
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// How much of a ZAP is read ahead when iteration starts, in bytes.
const READ_AHEAD: u64 = 4 << 20;
/// Entries of a micro ZAP that are taken at once: about as many as a leaf has.
const BATCH: usize = 256;

/// A place in the order of entries: hash and collision differentiator.
pub(crate) type Position = (u64, u32);

/// A value as it is stored.
pub(crate) enum Stored {
    /// One integer of 8 bytes.
    Word(u64),
    /// Anything else.
    Value(Value),
}

/// An entry in its block.
pub(crate) struct Seen<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) value: Stored,
    pub(crate) at: Position,
}

enum At {
    Cookie(u64),
    Position(Position),
    End,
}

/// Goes through a ZAP, a leaf at a time. Entries added or removed meanwhile may or may not be seen; others are seen once.
struct Cursor {
    zap: Arc<Dnode>,
    at: At,
}

impl Cursor {
    fn new(zap: &Arc<Dnode>, cookie: u64) -> Self {
        if cookie == COOKIE_START {
            zap.prefetch(0, READ_AHEAD);
        }
        let at = if cookie == COOKIE_END { At::End } else { At::Cookie(cookie) };
        Cursor { zap: Arc::clone(zap), at }
    }

    /// Gives the next entries, with the cookie behind each, to `sink`, which must not touch the ZAP. There may be none, and still more
    /// to come. False at the end, and after an error.
    fn step(&mut self, sink: &mut dyn FnMut(Seen<'_>, u64)) -> Result<bool> {
        let at = core::mem::replace(&mut self.at, At::End);
        let zap = &self.zap;
        let next = with_form(zap, |form| {
            let bits = hash_bits(form.rules().flags);
            let from = match at {
                At::Cookie(cookie) => (cookie << (64 - bits), (cookie >> bits) as u32),
                At::Position(position) => position,
                At::End => return Ok(None),
            };
            // The position behind an entry: the same hash, the next cd.
            let cookie = |(hash, cd): Position| hash >> (64 - bits) | (u64::from(cd) + 1) << bits;
            let mut sink = |seen: Seen<'_>| {
                let cookie = cookie(seen.at);
                sink(seen, cookie);
            };
            match form {
                Form::Micro(index) => {
                    zap.with_block(0, |block| index.visit_from(&Micro(block), from, BATCH, &mut sink))
                }
                Form::Fat(header) => fat::visit_from(zap, header, from, &mut sink),
            }
        })?;
        self.at = next.map_or(At::End, At::Position);
        Ok(!matches!(self.at, At::End))
    }
}

/// What [`visit`] gives an entry's name, the first integer of its value and the cookie behind it to. It answers whether it wants more.
pub type Visitor<'a> = dyn FnMut(&[u8], u64, u64) -> Result<bool> + 'a;

/// Gives the entries from `cookie` on to `sink`. As [`Iter`], but without an allocation for each entry: for directories.
pub fn visit(zap: &Arc<Dnode>, cookie: u64, sink: &mut Visitor<'_>) -> Result<()> {
    let mut cursor = Cursor::new(zap, cookie);
    // What was taken of a block that is locked meanwhile: all names in one piece, and where each ends.
    let (mut names, mut entries) = (Vec::new(), Vec::new());
    let mut more = true;
    while more {
        names.clear();
        entries.clear();
        more = cursor.step(&mut |seen, cookie| {
            names.extend_from_slice(seen.name);
            let value = match seen.value {
                Stored::Word(word) => word,
                Stored::Value(value) => value.first(),
            };
            entries.push((names.len(), value, cookie));
        })?;
        let mut start = 0;
        for &(end, value, cookie) in &entries {
            if !sink(&names[start..end], value, cookie)? {
                return Ok(());
            }
            start = end;
        }
    }
    Ok(())
}

/// Entries in the order of hashes. Entries added or removed meanwhile may or may not be seen; others are seen once.
pub struct Iter {
    cursor: Cursor,
    ready: VecDeque<Entry>,
    more: bool,
}

impl Iter {
    pub(super) fn new(zap: &Arc<Dnode>, cookie: u64) -> Self {
        Iter { cursor: Cursor::new(zap, cookie), ready: VecDeque::new(), more: true }
    }
}

impl Iterator for Iter {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.ready.is_empty() {
            if !self.more {
                return None;
            }
            let ready = &mut self.ready;
            let step = self.cursor.step(&mut |seen, cookie| {
                let value = match seen.value {
                    Stored::Word(word) => Value::words(&[word]),
                    Stored::Value(value) => value,
                };
                ready.push_back(Entry { name: seen.name.to_vec(), value, cookie });
            });
            match step {
                Ok(more) => self.more = more,
                Err(error) => {
                    self.more = false;
                    // What was read before the damage is not given: an entry may be missing among them.
                    self.ready.clear();
                    return Some(Err(error));
                }
            }
        }
        self.ready.pop_front().map(Ok)
    }
}
