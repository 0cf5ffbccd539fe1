//! Edon-R 512 with the pool's salt, as `edonr` checksums use it (D. Gligoroski et al., with the second-round tweak).
//!
//! A block of 16 words goes through four rows of two quasigroup operations each. The salt of 32 bytes is stretched to
//! one block, `H(salt) ‖ H(H(salt))`, which is hashed before the data.

const BLOCK: usize = 128;
type Octet = [u64; 8];

/// The state after the salt block.
#[derive(Debug, Clone)]
pub(super) struct Template([u64; 16]);

const INITIAL: [u64; 16] = {
    let mut words = [0; 16];
    let mut i = 0;
    while i < 16 {
        words[i] = 0x8081_8283_8485_8687 + 0x0808_0808_0808_0808 * i as u64;
        i += 1;
    }
    words
};

/// The quasigroup operation `x * y`: two Latin squares, each with its rotations, then sums of exclusive-ors.
#[inline]
fn operate(x: &Octet, y: &Octet) -> Octet {
    const C: u64 = 0xaaaa_aaaa_aaaa_aaaa;
    let sum = |v: &Octet, i: [usize; 5]| i.iter().fold(0u64, |s, &i| s.wrapping_add(v[i]));
    let s: Octet = [
        C.wrapping_add(sum(x, [0, 1, 2, 4, 7])),
        sum(x, [0, 1, 3, 4, 7]).rotate_left(5),
        sum(x, [0, 1, 4, 6, 7]).rotate_left(15),
        sum(x, [2, 3, 5, 6, 7]).rotate_left(22),
        sum(x, [1, 2, 3, 5, 6]).rotate_left(31),
        sum(x, [0, 2, 3, 4, 5]).rotate_left(40),
        sum(x, [0, 1, 5, 6, 7]).rotate_left(50),
        sum(x, [2, 3, 4, 5, 6]).rotate_left(59),
    ];
    let t: Octet = [
        (!C).wrapping_add(sum(y, [0, 1, 2, 5, 7])),
        sum(y, [0, 1, 3, 4, 6]).rotate_left(10),
        sum(y, [0, 1, 2, 3, 5]).rotate_left(19),
        sum(y, [2, 3, 4, 6, 7]).rotate_left(29),
        sum(y, [0, 1, 3, 4, 5]).rotate_left(36),
        sum(y, [2, 4, 5, 6, 7]).rotate_left(44),
        sum(y, [1, 2, 5, 6, 7]).rotate_left(48),
        sum(y, [0, 3, 4, 6, 7]).rotate_left(55),
    ];
    let xor = |v: &Octet, [i, j, k]: [usize; 3]| v[i] ^ v[j] ^ v[k];
    let put = |i: [usize; 3], j: [usize; 3]| xor(&s, i).wrapping_add(xor(&t, j));
    [
        put([0, 1, 4], [0, 1, 5]),
        put([0, 4, 7], [2, 6, 7]),
        put([1, 6, 7], [0, 1, 3]),
        put([2, 3, 4], [0, 3, 4]),
        put([0, 1, 7], [1, 2, 5]),
        put([3, 5, 6], [3, 4, 6]),
        put([2, 5, 6], [2, 5, 7]),
        put([2, 3, 5], [4, 6, 7]),
    ]
}

fn reversed(mut x: Octet) -> Octet {
    x.reverse();
    x
}

fn block(pipe: &mut [u64; 16], data: &[u8; BLOCK]) {
    let mut low = [0; 8];
    let mut high = [0; 8];
    for (i, bytes) in data.as_chunks::<8>().0.iter().enumerate() {
        let word = u64::from_le_bytes(*bytes);
        if i < 8 { low[i] = word } else { high[i - 8] = word }
    }
    let mut pipe_low = [0; 8];
    let mut pipe_high = [0; 8];
    pipe_low.copy_from_slice(&pipe[..8]);
    pipe_high.copy_from_slice(&pipe[8..]);

    let mut p = operate(&reversed(high), &low);
    let mut q = operate(&p, &high);
    p = operate(&pipe_high, &p);
    q = operate(&p, &q);
    p = operate(&p, &pipe_low);
    q = operate(&q, &p);
    p = operate(&reversed(low), &p);
    q = operate(&p, &q);
    for i in 0..8 {
        pipe[i] ^= high[i] ^ p[i];
        pipe[8 + i] ^= low[i] ^ q[i];
    }
}

/// Hashes the rest of a message of `total` bytes; whole blocks before it went into `pipe`.
fn finish(mut pipe: [u64; 16], rest: &[u8], total: usize) -> [u64; 8] {
    let (blocks, tail) = rest.as_chunks::<BLOCK>();
    for data in blocks {
        block(&mut pipe, data);
    }
    let mut last = [0; 2 * BLOCK];
    last[..tail.len()].copy_from_slice(tail);
    last[tail.len()] = 0x80;
    let end = if tail.len() + 9 <= BLOCK { BLOCK } else { 2 * BLOCK };
    last[end - 8..end].copy_from_slice(&(total as u64 * 8).to_le_bytes());
    for data in last[..end].as_chunks::<BLOCK>().0 {
        block(&mut pipe, data);
    }
    let mut out = [0; 8];
    out.copy_from_slice(&pipe[8..]);
    out
}

fn digest(data: &[u8]) -> [u8; 64] {
    let mut bytes = [0; 64];
    for (word, out) in finish(INITIAL, data, data.len()).iter().zip(bytes.as_chunks_mut::<8>().0) {
        *out = word.to_le_bytes();
    }
    bytes
}

impl Template {
    pub(super) fn new(salt: &[u8; 32]) -> Self {
        let mut stretched = [0; BLOCK];
        let once = digest(salt);
        stretched[..64].copy_from_slice(&once);
        stretched[64..].copy_from_slice(&digest(&once));
        let mut pipe = INITIAL;
        block(&mut pipe, &stretched);
        Template(pipe)
    }

    pub(super) fn checksum(&self, data: &[u8]) -> [u64; 4] {
        let out = finish(self.0, data, BLOCK + data.len());
        [out[0], out[1], out[2], out[3]]
    }
}
