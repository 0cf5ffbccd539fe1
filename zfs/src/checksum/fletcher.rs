//! Fletcher sums over 64-bit and 32-bit words. Source: `zfs_fletcher.c`.

/// fletcher2: two interleaved streams of 64-bit words. A tail of less than 16 bytes does not count.
#[must_use]
pub fn fletcher2(data: &[u8]) -> [u64; 4] {
    let (mut a0, mut a1, mut b0, mut b1) = (0u64, 0u64, 0u64, 0u64);
    for pair in data.as_chunks::<16>().0 {
        let [w0, w1] = halves(pair);
        a0 = a0.wrapping_add(w0);
        a1 = a1.wrapping_add(w1);
        b0 = b0.wrapping_add(a0);
        b1 = b1.wrapping_add(a1);
    }
    [a0, a1, b0, b1]
}

fn halves(pair: &[u8; 16]) -> [u64; 2] {
    let words = u128::from_le_bytes(*pair);
    [words as u64, (words >> 64) as u64]
}

/// Streams of fletcher4 that are summed side by side: the compiler turns them into vector lanes.
const LANES: usize = 4;
/// Bytes that one step of all streams consumes.
const STEP: usize = 4 * LANES;

/// fletcher4 over 32-bit words. A tail of less than 4 bytes does not count.
///
/// The four sums of a word stream split into [`LANES`] interleaved streams are linear in the sums of the streams, so
/// the streams run in parallel and are put together at the end.
#[must_use]
pub fn fletcher4(data: &[u8]) -> [u64; 4] {
    let (steps, tail) = data.as_chunks::<STEP>();
    let mut a = [0u64; LANES];
    let mut b = [0u64; LANES];
    let mut c = [0u64; LANES];
    let mut d = [0u64; LANES];
    for step in steps {
        let words = step.as_chunks::<4>().0;
        for lane in 0..LANES {
            a[lane] = a[lane].wrapping_add(u64::from(u32::from_le_bytes(words[lane])));
        }
        for lane in 0..LANES {
            b[lane] = b[lane].wrapping_add(a[lane]);
        }
        for lane in 0..LANES {
            c[lane] = c[lane].wrapping_add(b[lane]);
        }
        for lane in 0..LANES {
            d[lane] = d[lane].wrapping_add(c[lane]);
        }
    }
    let mut sums = combine(&a, &b, &c, &d);
    for word in tail.as_chunks::<4>().0 {
        add_word(&mut sums, u32::from_le_bytes(*word));
    }
    sums
}

fn add_word(sums: &mut [u64; 4], word: u32) {
    sums[0] = sums[0].wrapping_add(u64::from(word));
    for i in 1..4 {
        sums[i] = sums[i].wrapping_add(sums[i - 1]);
    }
}

/// Puts the sums of four interleaved streams together. With word `4i + l` in lane `l` of `n` steps, the word counts
/// `4(n - i) - l` times in B; with `k = n - i` that is `4k - l` (and the lane's own sums weigh `1`, `k`,
/// `k(k+1)/2`, `k(k+1)(k+2)/6`). C weighs `(4k-l)(4k-l+1)/2`, D `(4k-l)(4k-l+1)(4k-l+2)/6`; each is rewritten in
/// terms of the lane's weights.
fn combine(a: &[u64; 4], b: &[u64; 4], c: &[u64; 4], d: &[u64; 4]) -> [u64; 4] {
    let mut sums = [0u64; 4];
    for lane in 0..LANES {
        let l = lane as i64;
        // x(x+1)/2 at x = 4k - l, as p·(k(k+1)/2) + q·k + r.
        let (p2, q2, r2) = (16, -(4 * l + 6), l * (l - 1) / 2);
        // x(x+1)(x+2)/6 at x = 4k - l, as s·(k(k+1)(k+2)/6) + p·(k(k+1)/2) + q·k + r.
        let (s3, p3) = (64, -(16 * l + 48));
        let (q3, r3) = (2 * l * l + 4 * l + 4, -(l * (l - 1) * (l - 2)) / 6);
        let mul = |coefficient: i64, sum: u64| (coefficient as u64).wrapping_mul(sum);
        let add = |sum: &mut u64, terms: [u64; 4]| {
            *sum = terms.iter().fold(*sum, |s, t| s.wrapping_add(*t));
        };
        add(&mut sums[0], [a[lane], 0, 0, 0]);
        add(&mut sums[1], [mul(4, b[lane]), mul(-l, a[lane]), 0, 0]);
        add(&mut sums[2], [mul(p2, c[lane]), mul(q2, b[lane]), mul(r2, a[lane]), 0]);
        add(&mut sums[3], [mul(s3, d[lane]), mul(p3, c[lane]), mul(q3, b[lane]), mul(r3, a[lane])]);
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use platform::random::{Random, Seeded};

    fn plainly(data: &[u8]) -> [u64; 4] {
        let mut sums = [0; 4];
        for word in data.as_chunks::<4>().0 {
            add_word(&mut sums, u32::from_le_bytes(*word));
        }
        sums
    }

    #[test]
    fn the_lanes_sum_up_to_the_plain_recurrence() {
        let random = Seeded::new(4);
        for len in (0..200).step_by(4).chain([4096, 131_072, 1 << 20]) {
            let mut data = vec![0; len];
            random.fill(&mut data);
            assert_eq!(fletcher4(&data), plainly(&data), "{len} bytes");
        }
        assert_eq!(fletcher4(&vec![0xff; 16 << 20]), plainly(&vec![0xff; 16 << 20]));
    }

    #[test]
    fn fletcher2_of_known_words() {
        let data: alloc::vec::Vec<u8> = [1u64, 2, 3, 4].iter().flat_map(|w| w.to_le_bytes()).collect();
        assert_eq!(fletcher2(&data), [4, 6, 5, 8]);
    }
}
