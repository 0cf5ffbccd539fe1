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
use bytes::Bytes;

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

/// Entries that are given at once, without a lock: the block that they are in as it was.
struct Batch {
    block: Bytes,
    /// Where the entries are whose turn it is.
    places: Places,
}

enum Places {
    /// A leaf's from `from` on; names are of integers of `int_size` bytes.
    Leaf { from: Position, int_size: u8 },
    /// These of a micro ZAP, and the position of the next.
    Micro { entries: Vec<(Position, u16)>, next: Option<Position> },
}

impl Batch {
    /// Gives the entries to `sink` until it answers false; where the next batch begins, if there is one and it is wanted.
    fn visit(self, zap: &Dnode, sink: &mut impl FnMut(Seen<'_>) -> bool) -> Result<Option<Position>> {
        match self.places {
            Places::Leaf { from, int_size } => fat::visit_from(zap, &self.block, int_size, from, sink),
            Places::Micro { entries, next } => {
                let micro = Micro(&self.block);
                let all = entries.into_iter().all(|(at, i)| {
                    let i = usize::from(i);
                    sink(Seen { name: micro.name(i), value: Stored::Word(micro.value(i)), at })
                });
                Ok(next.filter(|_| all))
            }
        }
    }
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

    /// Gives the next entries, with the cookie behind each, to `sink` until it answers false. There may be none, and still more to
    /// come. False at the end, after an error, and if `sink` wanted no more.
    fn step(&mut self, sink: &mut impl FnMut(Seen<'_>, u64) -> bool) -> Result<bool> {
        let at = core::mem::replace(&mut self.at, At::End);
        let zap = &self.zap;
        let batch = with_form(zap, |form| {
            let bits = hash_bits(form.rules().flags);
            let from = match at {
                At::Cookie(cookie) => (cookie << (64 - bits), (cookie >> bits) as u32),
                At::Position(position) => position,
                At::End => return Ok(None),
            };
            let (block, places) = match form {
                Form::Micro(index) => {
                    let (entries, next) = index.some_from(from, BATCH);
                    (zap.read_block(0)?, Places::Micro { entries, next })
                }
                Form::Fat(header) => {
                    let int_size = header.name_int_size();
                    (fat::leaf_as_it_is(zap, header, from.0)?, Places::Leaf { from, int_size })
                }
            };
            Ok(Some((bits, Batch { block, places })))
        })?;
        let Some((bits, batch)) = batch else { return Ok(false) };
        // The position behind an entry: the same hash, the next cd.
        let cookie = |(hash, cd): Position| hash >> (64 - bits) | (u64::from(cd) + 1) << bits;
        let next = batch.visit(zap, &mut |seen| {
            let cookie = cookie(seen.at);
            sink(seen, cookie)
        })?;
        self.at = next.map_or(At::End, At::Position);
        Ok(next.is_some())
    }
}

/// Gives the entries from `cookie` on to `sink`: the name, the first integer of the value and the cookie behind it, until it answers
/// that it wants no more. As [`Iter`], but without an allocation for each entry: for directories.
pub fn visit(
    zap: &Arc<Dnode>,
    cookie: u64,
    mut sink: impl FnMut(&[u8], u64, u64) -> Result<bool>,
) -> Result<()> {
    let mut cursor = Cursor::new(zap, cookie);
    let mut answer = Ok(true);
    let mut step = |seen: Seen<'_>, cookie| {
        let value = match seen.value {
            Stored::Word(word) => word,
            Stored::Value(value) => value.first(),
        };
        answer = sink(seen.name, value, cookie);
        matches!(answer, Ok(true))
    };
    while cursor.step(&mut step)? {}
    answer.map(drop)
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
                true
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
