//! Keyed Skein-512 with 256 bits of output (Skein 1.3), as `skein` checksums use it.
//!
//! Threefish-512 in Matyas-Meyer-Oseas chaining (UBI): the key is hashed into the chaining value, then a block of
//! configuration, then the message, then an output block. The state after the configuration is the template that all
//! blocks of a pool share.

const WORDS: usize = 8;
const BLOCK: usize = 64;
const PARITY: u64 = 0x1bd1_1bda_a9fc_1a22;
const ROTATIONS: [[u32; 4]; 8] = [
    [46, 36, 19, 37],
    [33, 27, 14, 42],
    [17, 49, 36, 39],
    [44, 9, 54, 56],
    [39, 30, 34, 24],
    [13, 50, 10, 17],
    [25, 29, 39, 43],
    [8, 35, 56, 22],
];
/// Which words a round mixes: the permutation 2 1 4 7 6 5 0 3 applied once more in each round.
const PAIRS: [[(usize, usize); 4]; 4] = [
    [(0, 1), (2, 3), (4, 5), (6, 7)],
    [(2, 1), (4, 7), (6, 5), (0, 3)],
    [(4, 1), (6, 3), (0, 5), (2, 7)],
    [(6, 1), (0, 7), (2, 5), (4, 3)],
];

const TYPE_KEY: u64 = 0;
const TYPE_CONFIG: u64 = 4 << 56;
const TYPE_MESSAGE: u64 = 48 << 56;
const TYPE_OUTPUT: u64 = 63 << 56;
const FIRST: u64 = 1 << 62;
const FINAL: u64 = 1 << 63;

/// The state after the key and the configuration.
#[derive(Debug, Clone)]
pub(super) struct Template([u64; WORDS]);

fn words(block: &[u8; BLOCK]) -> [u64; WORDS] {
    let mut out = [0; WORDS];
    for (word, bytes) in out.iter_mut().zip(block.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    out
}

/// Threefish-512 of `plain` under `key` and `tweak`.
#[inline]
fn threefish(key: &[u64; WORDS], tweak: [u64; 2], plain: &[u64; WORDS]) -> [u64; WORDS] {
    // The schedule walks cyclically through nine key words and three tweak words: laid out twice, it needs no modulo.
    let mut k = [0; 2 * (WORDS + 1)];
    k[..WORDS].copy_from_slice(key);
    k[WORDS] = key.iter().fold(PARITY, |p, w| p ^ w);
    k.copy_within(..WORDS + 1, WORDS + 1);
    let t = [tweak[0], tweak[1], tweak[0] ^ tweak[1], tweak[0], tweak[1]];
    let mut x = *plain;
    let (mut at_key, mut at_tweak) = (0, 0);
    for eight in 0..9 {
        four_rounds::<0>(&mut x, &k[at_key..], &t[at_tweak..], 2 * eight);
        (at_key, at_tweak) = (next(at_key, WORDS), next(at_tweak, 2));
        four_rounds::<4>(&mut x, &k[at_key..], &t[at_tweak..], 2 * eight + 1);
        (at_key, at_tweak) = (next(at_key, WORDS), next(at_tweak, 2));
    }
    add_subkey(&mut x, &k[at_key..], &t[at_tweak..], 18);
    x
}

fn next(i: usize, last: usize) -> usize {
    if i == last { 0 } else { i + 1 }
}

#[inline(always)]
fn add_subkey(x: &mut [u64; WORDS], k: &[u64], t: &[u64], s: u64) {
    let (Some(k), Some(t)) = (k.first_chunk::<WORDS>(), t.first_chunk::<2>()) else { return };
    for (word, k) in x.iter_mut().zip(k) {
        *word = word.wrapping_add(*k);
    }
    x[5] = x[5].wrapping_add(t[0]);
    x[6] = x[6].wrapping_add(t[1]);
    x[7] = x[7].wrapping_add(s);
}

/// A subkey and the four rounds after it, whose rotations start at row `R`. The words stay where they are and the
/// mixes are renamed instead: after four permutations everything is back in place.
#[inline(always)]
fn four_rounds<const R: usize>(x: &mut [u64; WORDS], k: &[u64], t: &[u64], s: u64) {
    add_subkey(x, k, t, s);
    for (round, pairs) in PAIRS.iter().enumerate() {
        for (j, &(a, b)) in pairs.iter().enumerate() {
            x[a] = x[a].wrapping_add(x[b]);
            x[b] = x[b].rotate_left(ROTATIONS[R + round][j]) ^ x[a];
        }
    }
}

/// One step of UBI.
fn chain(state: &mut [u64; WORDS], position: u64, flags: u64, block: &[u8; BLOCK]) {
    let plain = words(block);
    let out = threefish(state, [position, flags], &plain);
    for i in 0..WORDS {
        state[i] = out[i] ^ plain[i];
    }
}

/// A whole message of one type.
fn ubi(state: &mut [u64; WORDS], ty: u64, message: &[u8]) {
    let mut position = 0;
    let mut flags = ty | FIRST;
    let mut rest = message;
    // The last block, perhaps empty, carries the final flag.
    while let Some((block, more)) = rest.split_first_chunk::<BLOCK>().filter(|(_, more)| !more.is_empty()) {
        position += BLOCK as u64;
        chain(state, position, flags, block);
        flags = ty;
        rest = more;
    }
    let mut last = [0; BLOCK];
    last[..rest.len()].copy_from_slice(rest);
    chain(state, position + rest.len() as u64, flags | FINAL, &last);
}

impl Template {
    pub(super) fn new(salt: &[u8; 32]) -> Self {
        Self::with_key(salt, 256)
    }

    fn with_key(key: &[u8], output_bits: u64) -> Self {
        let mut state = [0; WORDS];
        if !key.is_empty() {
            ubi(&mut state, TYPE_KEY, key);
        }
        let mut config = [0; 32];
        config[..8].copy_from_slice(&0x1_3341_4853u64.to_le_bytes()); // "SHA3", version 1
        config[8..16].copy_from_slice(&output_bits.to_le_bytes());
        ubi(&mut state, TYPE_CONFIG, &config);
        Template(state)
    }

    fn hash(&self, data: &[u8]) -> [u64; WORDS] {
        let mut state = self.0;
        ubi(&mut state, TYPE_MESSAGE, data);
        ubi(&mut state, TYPE_OUTPUT, &[0; 8]);
        state
    }

    pub(super) fn checksum(&self, data: &[u8]) -> [u64; 4] {
        let state = self.hash(data);
        [state[0], state[1], state[2], state[3]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Skein-512-512 of the byte 0xff, from the Skein 1.3 specification (appendix C).
    #[test]
    fn unkeyed_golden() {
        let state = Template::with_key(&[], 512).hash(&[0xff]);
        assert_eq!(state[0].to_le_bytes(), [0x71, 0xb7, 0xbc, 0xe6, 0xfe, 0x64, 0x52, 0x22]);
    }
}
