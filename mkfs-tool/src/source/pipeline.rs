//! Reads the files of a tree ahead of their consumer, on several threads, in order and within a bound of memory.

use super::{Extent, Kind, Tree};
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Bytes of one piece: a file is read in pieces of at most this size.
pub const PIECE: u64 = 1 << 20;

/// Bytes that may be read ahead.
const AHEAD: u64 = 64 << 20;

/// A piece of a file.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece {
    /// Index of the entry in the tree.
    pub entry: usize,
    /// Data, by offset in the file; what lies between is a hole.
    pub data: Vec<(u64, Vec<u8>)>,
    /// This is the file's last piece.
    pub last: bool,
}

/// The next piece to be read.
#[derive(Debug, Clone, Copy)]
struct Cursor {
    entry: usize,
    offset: u64,
    sequence: u64,
}

struct State {
    next: Cursor,
    /// Pieces that were read, by sequence.
    ready: BTreeMap<u64, Result<Piece>>,
    /// Bytes claimed and not yet consumed.
    ahead: u64,
    consumed: u64,
    stop: bool,
}

struct Shared {
    tree: Arc<Tree>,
    state: Mutex<State>,
    changed: Condvar,
}

/// The pieces of all files of a tree, in the order of its entries. Files without content have none.
pub struct Pipeline {
    shared: Arc<Shared>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Pipeline {
    /// Starts reading with `threads` threads.
    pub fn start(tree: Arc<Tree>, threads: usize) -> Result<Self> {
        let next = Cursor { entry: 0, offset: 0, sequence: 0 };
        let state = State { next, ready: BTreeMap::new(), ahead: 0, consumed: 0, stop: false };
        let shared = Arc::new(Shared { tree, state: Mutex::new(state), changed: Condvar::new() });
        let mut pipeline = Pipeline { shared, threads: Vec::new() };
        for n in 0..threads.max(1) {
            let shared = Arc::clone(&pipeline.shared);
            let thread = std::thread::Builder::new().name(format!("reader-{n}"));
            pipeline.threads.push(thread.spawn(move || shared.work()).context("starting a thread")?);
        }
        Ok(pipeline)
    }

    /// The next piece; None after the last.
    pub fn take(&mut self) -> Option<Result<Piece>> {
        let mut state = self.shared.lock();
        loop {
            let sequence = state.consumed;
            if let Some(piece) = state.ready.remove(&sequence) {
                state.consumed += 1;
                if let Ok(piece) = &piece {
                    let size = self.shared.tree.piece_len(piece);
                    state.ahead = state.ahead.saturating_sub(size);
                }
                self.shared.changed.notify_all();
                return Some(piece);
            }
            if self.shared.tree.advance(state.next).is_none() && sequence == state.next.sequence {
                return None;
            }
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            // A reader that panicked has already ended the program.
            let _ = thread.join();
        }
    }
}

impl Tree {
    /// The first piece at or after the cursor: entry and range.
    fn advance(&self, cursor: Cursor) -> Option<(usize, u64, Extent)> {
        let mut offset = cursor.offset;
        for (index, entry) in self.entries.iter().enumerate().skip(cursor.entry) {
            if let Kind::File { size, token, .. } = entry.kind
                && offset < size
            {
                return Some((index, token, offset..size.min(offset + PIECE)));
            }
            offset = 0;
        }
        None
    }

    /// What a piece was accounted as when it was claimed.
    fn piece_len(&self, piece: &Piece) -> u64 {
        let _ = self;
        piece.data.iter().map(|(_, d)| d.len() as u64).sum()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        while let Some((sequence, entry, token, range, last)) = self.claim() {
            let len = range.end - range.start;
            let piece = self.read(token, range).map(|data| Piece { entry, data, last });
            let piece = piece.with_context(|| format!("reading {}", self.tree.path(entry)));
            let mut state = self.lock();
            // Holes take no memory: give back what was claimed for them.
            let used = piece.as_ref().map_or(0, |p| self.tree.piece_len(p));
            state.ahead = state.ahead.saturating_sub(len - used.min(len));
            state.ready.insert(sequence, piece);
            drop(state);
            self.changed.notify_all();
        }
    }

    fn claim(&self) -> Option<(u64, usize, u64, Extent, bool)> {
        let mut state = self.lock();
        loop {
            if state.stop {
                return None;
            }
            let (entry, token, range) = self.tree.advance(state.next)?;
            let len = range.end - range.start;
            // The consumer waits for the oldest piece, so that one is always allowed.
            if state.ahead == 0 || state.ahead + len <= AHEAD {
                state.ahead += len;
                let sequence = state.next.sequence;
                let size = match self.tree.entries[entry].kind {
                    Kind::File { size, .. } => size,
                    _ => 0,
                };
                let last = range.end >= size;
                let (next_entry, next_offset) = if last { (entry + 1, 0) } else { (entry, range.end) };
                state.next = Cursor { entry: next_entry, offset: next_offset, sequence: sequence + 1 };
                return Some((sequence, entry, token, range, last));
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn read(&self, token: u64, range: Extent) -> Result<Vec<(u64, Vec<u8>)>> {
        let content = &self.tree.content;
        let mut data = Vec::new();
        for extent in content.extents(token, range)? {
            let len = usize::try_from(extent.end - extent.start).context("a piece fits into memory")?;
            let mut buf = vec![0; len];
            content.read_at(token, extent.start, &mut buf)?;
            data.push((extent.start, buf));
        }
        Ok(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{Content, Entry, Meta};
    use anyhow::bail;

    /// A file's byte at offset o is (token + o / 512) mod 251; token 99 cannot be read; odd MiBs are holes.
    struct Pattern;

    impl Content for Pattern {
        fn read_at(&self, token: u64, offset: u64, buf: &mut [u8]) -> Result<()> {
            if token == 99 {
                bail!("unreadable");
            }
            for (i, b) in buf.iter_mut().enumerate() {
                *b = ((token + (offset + i as u64) / 512) % 251) as u8;
            }
            Ok(())
        }
        fn extents(&self, _token: u64, range: Extent) -> Result<Vec<Extent>> {
            let hole = (range.start / PIECE) % 2 == 1;
            Ok(if hole { Vec::new() } else { vec![range] })
        }
        fn name(&self, token: u64) -> String {
            token.to_string()
        }
    }

    fn tree(sizes: &[(u64, u64)]) -> Arc<Tree> {
        let entry = |kind| Entry { parent: 0, name: b"x".to_vec(), kind, meta: Meta::default() };
        let mut entries = vec![entry(Kind::Directory)];
        for &(token, size) in sizes {
            entries.push(entry(Kind::File { size, allocated: size, token }));
            entries.push(entry(Kind::Fifo));
        }
        Arc::new(Tree { entries, content: Box::new(Pattern), notes: Vec::new() })
    }

    #[test]
    fn pieces_come_in_order_and_whole() {
        let sizes = [(1, 10), (2, 0), (3, 3 * PIECE + 5), (4, PIECE), (5, 200 * PIECE), (6, 1)];
        for threads in [1, 3] {
            let mut pipeline = Pipeline::start(tree(&sizes), threads).unwrap();
            let mut seen: Vec<(usize, u64, bool)> = Vec::new();
            while let Some(piece) = pipeline.take() {
                let piece = piece.unwrap();
                for (offset, data) in &piece.data {
                    let token = sizes[(piece.entry - 1) / 2].0;
                    assert_eq!(u64::from(data[0]), (token + offset / 512) % 251);
                }
                let bytes = piece.data.iter().map(|d| d.1.len() as u64).sum();
                seen.push((piece.entry, bytes, piece.last));
            }
            assert_eq!(seen.len(), 1 + 4 + 1 + 200 + 1);
            assert_eq!(seen[0], (1, 10, true));
            assert_eq!(seen[1..5], [(5, PIECE, false), (5, 0, false), (5, PIECE, false), (5, 0, true)]);
            assert!(seen.windows(2).all(|w| w[0].0 <= w[1].0));
        }
    }

    #[test]
    fn an_error_arrives_in_its_place() {
        let mut pipeline = Pipeline::start(tree(&[(1, 10), (99, 10)]), 2).unwrap();
        assert!(pipeline.take().unwrap().is_ok());
        assert!(format!("{:#}", pipeline.take().unwrap().unwrap_err()).contains("unreadable"));
    }

    #[test]
    fn it_can_be_dropped_early_and_be_empty() {
        drop(Pipeline::start(tree(&[(1, 500 * PIECE)]), 4).unwrap());
        assert!(Pipeline::start(tree(&[]), 2).unwrap().take().is_none());
    }
}
