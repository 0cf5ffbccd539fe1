//! Who reads an object in order, and what to read ahead for them. Source: `dmu_zfetch.c`.
//!
//! Several readers may go through one object at once, each is a stream of its own: forward block after block, or with a
//! constant stride, in either direction. What is read ahead doubles while a stream goes on, up to a bound, so that a few
//! small reads cost little and a long one keeps the devices busy.

use core::ops::Range;

/// Streams that are remembered of one object (`zfetch_max_streams`).
const STREAMS: usize = 8;
/// First and furthest distance that is read ahead, in bytes (`zfetch_min_distance`, `zfetch_max_distance`).
const MIN_DISTANCE: u64 = 512 << 10;
const MAX_DISTANCE: u64 = 8 << 20;
/// Strides of more bytes than that are taken for chance.
const MAX_STRIDE: u64 = 64 << 20;
/// Pieces that are read ahead of a reader with a stride, at most.
const MAX_PIECES: u64 = 16;

/// One reader.
#[derive(Debug, Clone, Copy, Default)]
struct Stream {
    /// The blocks of its last read.
    first: u64,
    end: u64,
    /// Blocks between the starts of its last two reads, if it has a stride.
    stride: i64,
    /// How often the stride was confirmed.
    confirmed: u32,
    /// Up to which block was read ahead; with a stride, up to which piece start.
    ahead: u64,
    /// Present distance, in blocks.
    distance: u64,
    /// When it read last.
    used: u64,
}

/// The streams of an object.
#[derive(Debug, Default)]
pub(crate) struct Zfetch {
    streams: [Option<Stream>; STREAMS],
    clock: u64,
}

impl Zfetch {
    /// Notes a read of `blocks`, of an object of blocks `0..end`; tells each range to be read ahead to `want`.
    pub(crate) fn note(
        &mut self,
        blocks: Range<u64>,
        end: u64,
        block_size: u64,
        want: &mut dyn FnMut(Range<u64>),
    ) {
        if end <= 1 || blocks.is_empty() {
            return;
        }
        self.clock += 1;
        let clock = self.clock;
        let streams = self.streams.iter_mut().flatten();
        let mut recent: Option<&mut Stream> = None;
        for stream in streams {
            // Small reads come to a block several times.
            let goes_on =
                stream.stride == 0 && (blocks.start == stream.end || blocks.start + 1 == stream.end);
            if goes_on {
                stream.used = clock;
                if blocks.end > stream.end {
                    stream.forward(&blocks, end, block_size, want);
                }
                return;
            }
            if stream.stride != 0 && stream.first.checked_add_signed(stream.stride) == Some(blocks.start) {
                stream.used = clock;
                stream.with_stride(&blocks, end, block_size, want);
                return;
            }
            if stream.stride != 0 && blocks.start == stream.first {
                stream.used = clock;
                return;
            }
            if recent.as_ref().is_none_or(|other| other.used < stream.used) {
                recent = Some(stream);
            }
        }
        // The newest stream may turn out to have a stride: the next read tells.
        if let Some(stream) = recent.filter(|stream| stream.used + 1 == clock) {
            let step = blocks.start.wrapping_sub(stream.first) as i64;
            let near = step.unsigned_abs().saturating_mul(block_size) <= MAX_STRIDE;
            if step != 0 && near && stream.confirmed == 0 {
                let length = blocks.end - blocks.start;
                *stream = Stream {
                    first: blocks.start,
                    end: blocks.end,
                    stride: step,
                    used: clock,
                    ..Stream::default()
                };
                // It may as well be the start of a reader in order, elsewhere.
                let other =
                    Stream { first: blocks.start, end: blocks.end, used: clock - 1, ..Stream::default() };
                if step.unsigned_abs() > length {
                    self.add(other);
                }
                return;
            }
        }
        self.add(Stream { first: blocks.start, end: blocks.end, used: clock, ..Stream::default() });
    }

    fn add(&mut self, stream: Stream) {
        let place = self.streams.iter_mut().min_by_key(|s| s.map_or(0, |s| s.used));
        if let Some(place) = place {
            *place = Some(stream);
        }
    }
}

impl Stream {
    /// The next blocks in order were read.
    fn forward(&mut self, blocks: &Range<u64>, end: u64, block_size: u64, want: &mut dyn FnMut(Range<u64>)) {
        (self.first, self.end) = (blocks.start, blocks.end);
        let in_blocks = |bytes: u64| bytes.div_ceil(block_size).max(1);
        self.distance = match self.distance {
            0 => in_blocks(MIN_DISTANCE).max(blocks.end - blocks.start),
            distance => distance.saturating_mul(2).min(in_blocks(MAX_DISTANCE)),
        };
        let from = self.ahead.max(self.end);
        let to = self.end.saturating_add(self.distance).min(end);
        // In large pieces: each costs a look at the tree and the waking of a thread.
        if from < to && (to - from >= self.distance / 2 || to == end) {
            self.ahead = to;
            want(from..to);
        }
    }

    /// The reader took its next step.
    fn with_stride(
        &mut self,
        blocks: &Range<u64>,
        end: u64,
        block_size: u64,
        want: &mut dyn FnMut(Range<u64>),
    ) {
        let length = blocks.end - blocks.start;
        (self.first, self.end) = (blocks.start, blocks.end);
        self.confirmed += 1;
        let pieces = (MAX_DISTANCE / (length * block_size).max(1))
            .clamp(1, MAX_PIECES)
            .min(1 << self.confirmed.min(5));
        for n in 1..=pieces as i64 {
            let Some(start) = self.stride.checked_mul(n).and_then(|far| self.first.checked_add_signed(far))
            else {
                break;
            };
            if start >= end {
                break;
            }
            // Each piece once: those between here and the furthest one were asked for by earlier steps.
            let known =
                self.confirmed > 1 && if self.stride > 0 { start <= self.ahead } else { start >= self.ahead };
            if !known {
                self.ahead = start;
                want(start..(start + length).min(end));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    const BLOCK: u64 = 128 << 10;

    fn note(zfetch: &mut Zfetch, blocks: Range<u64>, end: u64) -> Vec<Range<u64>> {
        let mut wanted = Vec::new();
        zfetch.note(blocks, end, BLOCK, &mut |range| wanted.push(range));
        wanted
    }

    #[test]
    fn a_reader_in_order_is_read_ahead_of_further_and_further_up_to_a_bound() {
        let mut zfetch = Zfetch::default();
        let mut ahead = 0;
        let mut largest = 0;
        for block in 0..1000 {
            for range in note(&mut zfetch, block..block + 1, 1000) {
                assert!(
                    range.start == ahead.max(block + 1) && range.end <= 1000,
                    "{range:?} after {ahead} at {block}"
                );
                ahead = range.end;
                largest = largest.max(ahead - block);
            }
            assert!(block < 2 || ahead > block, "block {block} was not read ahead");
        }
        assert_eq!((ahead, largest), (1000, MAX_DISTANCE / BLOCK + 1));
    }

    #[test]
    fn small_reads_of_one_block_ask_for_nothing_twice() {
        let mut zfetch = Zfetch::default();
        note(&mut zfetch, 0..1, 100);
        assert_eq!(note(&mut zfetch, 1..2, 100).first(), Some(&(2..6)));
        for _ in 0..20 {
            assert!(note(&mut zfetch, 1..2, 100).is_empty());
        }
    }

    #[test]
    fn several_readers_of_one_object_do_not_disturb_each_other() {
        let mut zfetch = Zfetch::default();
        let starts = [0, 10_000, 20_000, 30_000];
        let mut wanted = [0; 4];
        for step in 0..50 {
            for (start, wanted) in starts.iter().zip(&mut wanted) {
                let block = start + step;
                *wanted +=
                    note(&mut zfetch, block..block + 1, 100_000).iter().map(|r| r.end - r.start).sum::<u64>();
            }
        }
        assert!(wanted.iter().all(|&w| w >= 48), "{wanted:?}");
    }

    #[test]
    fn a_stride_is_found_forwards_and_backwards() {
        for stride in [10i64, -10] {
            let mut zfetch = Zfetch::default();
            let mut wanted = Vec::new();
            let at = |step: i64| (5_000 + step * stride) as u64;
            for step in 0..20 {
                let reads = note(&mut zfetch, at(step)..at(step) + 2, 100_000);
                if step >= 3 {
                    assert!(
                        wanted.contains(&(at(step)..at(step) + 2)),
                        "stride {stride}, step {step}: {wanted:?}"
                    );
                }
                wanted.extend(reads);
            }
            let mut once = wanted.clone();
            once.sort_by_key(|r| r.start);
            once.dedup();
            assert_eq!(once.len(), wanted.len(), "nothing is asked for twice");
            assert!(wanted.len() <= 20 + MAX_PIECES as usize);
        }
    }

    #[test]
    fn readers_at_random_places_are_left_alone() {
        use platform::random::{Random, Seeded};
        let random = Seeded::new(5);
        let mut zfetch = Zfetch::default();
        let mut wanted = 0;
        for _ in 0..10_000 {
            let block = random.next_u64() % 1_000_000;
            wanted += note(&mut zfetch, block..block + 1, 1_000_000).len();
        }
        assert!(wanted < 20, "{wanted} times");
    }
}
