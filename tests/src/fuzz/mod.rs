//! Fuzzing: every parser, and whole pools, fed with damaged bytes.
//!
//! A [`Target`] has a corpus, taken from the pools that OpenZFS wrote, and a function that must answer each input, whatever it is:
//! without panic, in bounded time, and (where the caller limits the process's memory) without allocating what the input claims.
//! Input `n` of a seed is always the same, so that a crash is repeated by its number ([`Fuzzer::input`]).

mod corpus;
mod pools;
mod records;
mod targets;
mod zap;

use crate::model::Rng;
use anyhow::{Result, ensure};

/// Something that reads bytes.
pub struct Target {
    /// Its name on command lines.
    pub name: &'static str,
    /// Inputs that are well-formed.
    pub corpus: fn() -> Result<Vec<Vec<u8>>>,
    /// Reads an input. An error is a broken promise of the reader (wrong data, say): refusing is no error.
    pub run: fn(&[u8]) -> Result<()>,
}

/// The engine's: parsers, then whole pools.
pub static TARGETS: [Target; 17] = [
    Target { name: "blkptr", corpus: corpus::indirect_blocks, run: targets::blkptr },
    Target { name: "dnode", corpus: corpus::dnode_blocks, run: targets::dnode },
    Target { name: "objset", corpus: corpus::objsets, run: targets::objset },
    Target { name: "nvlist", corpus: corpus::nvlists, run: targets::nvlist },
    Target { name: "label", corpus: corpus::labels, run: targets::label },
    Target { name: "uberblock", corpus: corpus::uberblocks, run: targets::uberblock },
    Target { name: "dsl", corpus: corpus::bonuses, run: targets::dsl },
    Target { name: "znode", corpus: corpus::bonuses, run: targets::znode },
    Target { name: "sa", corpus: corpus::bonuses, run: targets::sa },
    Target { name: "zil", corpus: corpus::log_blocks, run: targets::zil },
    Target { name: "crypt", corpus: corpus::protected, run: targets::crypt },
    Target { name: "spacemap", corpus: corpus::space_maps, run: targets::space_map },
    Target { name: "zap", corpus: corpus::zaps, run: zap::run },
    Target { name: "records", corpus: records::corpus, run: records::run },
    Target { name: "decompress", corpus: corpus::compressed, run: targets::decompress },
    // Whole pools. Their input is a list of places to damage.
    Target { name: "pool", corpus: corpus::damages, run: pools::damaged },
    Target { name: "pool-blocks", corpus: corpus::damages, run: pools::tampered },
];

/// The inputs of a target.
pub struct Fuzzer {
    target: &'static Target,
    corpus: Vec<Vec<u8>>,
    seed: u64,
}

impl Fuzzer {
    /// The inputs of a target.
    pub fn new(target: &'static Target, seed: u64) -> Result<Fuzzer> {
        let corpus = (target.corpus)()?;
        ensure!(!corpus.is_empty(), "{}: the corpus is empty", target.name);
        Ok(Fuzzer { target, corpus, seed })
    }

    /// Input `n`: the first ones are the corpus as it is, all others are damaged.
    #[must_use]
    pub fn input(&self, n: u64) -> Vec<u8> {
        if let Some(whole) = self.corpus.get(n as usize) {
            return whole.clone();
        }
        let mut rng = Rng::new(self.seed ^ n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut pick = || &self.corpus[rng.below(self.corpus.len() as u64) as usize];
        let (mut bytes, other) = (pick().clone(), pick().clone());
        mutate(&mut bytes, &other, &mut rng);
        bytes
    }

    /// Reads input `n`.
    pub fn run(&self, n: u64) -> Result<()> {
        (self.target.run)(&self.input(n))
    }
}

/// Damages bytes in one to eight places.
fn mutate(bytes: &mut Vec<u8>, other: &[u8], rng: &mut Rng) {
    const LENGTH_MAX: usize = 1 << 20;
    const WORDS: [u64; 12] = [
        0,
        1,
        u64::MAX,
        1 << 63,
        i64::MAX as u64,
        0xff,
        0xffff,
        0xffff_ffff,
        0x8000_0000,
        0x7fff_ffff,
        1 << 32,
        512,
    ];
    for _ in 0..=rng.below(8) {
        let len = bytes.len();
        if len == 0 {
            bytes.push(rng.number() as u8);
            continue;
        }
        // Often near the beginning, where headers are.
        let span = if rng.below(2) == 0 { len.min(256) } else { len };
        let at = rng.below(span as u64) as usize;
        match rng.below(9) {
            0 | 1 => bytes[at] ^= 1 << rng.below(8),
            2 => bytes[at] = rng.number() as u8,
            3 | 4 => {
                // A whole word, aligned, of 2, 4 or 8 bytes.
                let width = 1 << (1 + rng.below(3));
                let at = at / width * width;
                let word = match rng.below(3) {
                    0 => rng.number() >> rng.below(64),
                    _ => WORDS[rng.below(WORDS.len() as u64) as usize],
                };
                let word = if rng.below(2) == 0 { word.to_le_bytes() } else { word.to_be_bytes() };
                let word = if rng.below(2) == 0 { &word[..width] } else { &word[8 - width..] };
                let end = (at + width).min(len);
                bytes[at..end].copy_from_slice(&word[..end - at]);
            }
            5 => bytes.truncate(rng.below(len as u64 + 1) as usize),
            6 => {
                let from = rng.below(len as u64) as usize;
                let piece = bytes[from..len.min(from + 64)].to_vec();
                bytes.splice(at..at, piece);
            }
            7 if !other.is_empty() => {
                let from = rng.below(other.len() as u64) as usize;
                let piece = &other[from..other.len().min(from + 1 + rng.below(512) as usize)];
                let end = (at + piece.len()).min(len);
                bytes.splice(at..end, piece.iter().copied());
            }
            _ => {
                let end = (at + rng.below(64) as usize).min(len);
                bytes[at..end].fill(if rng.below(2) == 0 { 0 } else { 0xff });
            }
        }
        bytes.truncate(LENGTH_MAX);
    }
}
