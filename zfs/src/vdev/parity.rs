//! Parity of raidz and draid: P, Q and R over GF(2⁸), and solving for lost columns. Source: `vdev_raidz.c`, `vdev_raidz_math*.c`.
//!
//! The field's polynomial is x⁸+x⁴+x³+x²+1 (0x11d). Parity `j` of data columns D₀…Dₙ₋₁ is Σ (2ʲ)ⁿ⁻¹⁻ⁱ·Dᵢ: P with factor 1 is the plain sum,
//! Q has powers of 2, R powers of 4. Columns shorter than the first are taken as if zeros followed.
//!
//! The loops work on eight bytes in a word and on eight words in a step, which the compiler turns into vector instructions.

use alloc::vec;
use alloc::vec::Vec;

/// Words of a step.
const LANES: usize = 8;
/// Bytes of a step.
const STEP: usize = 8 * LANES;
/// The order of 2 in the field's multiplicative group.
const ORDER: usize = 255;

/// Eight bytes, each times 2.
#[inline(always)]
const fn double(word: u64) -> u64 {
    let high = word & 0x8080_8080_8080_8080;
    // 0xff in each byte whose high bit was set.
    let mask = (high << 1).wrapping_sub(high >> 7);
    ((word << 1) & 0xfefe_fefe_fefe_fefe) ^ (mask & 0x1d1d_1d1d_1d1d_1d1d)
}

/// Calls `f` with each word of `acc` and the word of `data` at its place; the tail of both is padded with zeros.
#[inline(always)]
fn each_word(acc: &mut [u8], data: &[u8], f: impl Fn(u64, u64) -> u64) {
    let word = |b: &[u8; 8]| u64::from_le_bytes(*b);
    let (acc_steps, acc_tail) = acc.as_chunks_mut::<STEP>();
    let (data_steps, data_tail) = data.as_chunks::<STEP>();
    for (acc, data) in acc_steps.iter_mut().zip(data_steps) {
        for (acc, data) in acc.as_chunks_mut::<8>().0.iter_mut().zip(data.as_chunks::<8>().0) {
            *acc = f(word(acc), word(data)).to_le_bytes();
        }
    }
    for (acc, data) in acc_tail.chunks_mut(8).zip(data_tail.chunks(8)) {
        let (mut a, mut d) = ([0; 8], [0; 8]);
        a[..acc.len()].copy_from_slice(acc);
        d[..data.len()].copy_from_slice(data);
        acc.copy_from_slice(&f(word(&a), word(&d)).to_le_bytes()[..acc.len()]);
    }
}

/// `acc = acc·2ʲ + data`, `data` continued with zeros.
fn advance(acc: &mut [u8], data: &[u8], parity: usize) {
    let (head, rest) = acc.split_at_mut(data.len().min(acc.len()));
    let data = &data[..head.len()];
    match parity {
        0 => each_word(head, data, |a, d| a ^ d),
        1 => {
            each_word(head, data, |a, d| double(a) ^ d);
            double_all(rest, 1);
        }
        _ => {
            each_word(head, data, |a, d| double(double(a)) ^ d);
            double_all(rest, 2);
        }
    }
}

/// `acc = acc·2ʲ`.
fn double_all(acc: &mut [u8], parity: usize) {
    let (words, tail) = acc.as_chunks_mut::<8>();
    for _ in 0..parity {
        for word in words.iter_mut() {
            *word = double(u64::from_le_bytes(*word)).to_le_bytes();
        }
        for byte in tail.iter_mut() {
            *byte = double(u64::from(*byte)) as u8;
        }
    }
}

/// Parity `index` (0: P, 1: Q, 2: R), `len` bytes of it.
pub(crate) fn generate<'a>(data: impl IntoIterator<Item = &'a [u8]>, index: usize, len: usize) -> Vec<u8> {
    let mut acc = vec![0; len];
    for column in data {
        advance(&mut acc, column, index);
    }
    acc
}

/// 2 to the power of `exponent`.
fn power(exponent: usize) -> u8 {
    let mut value = 1u64;
    for _ in 0..exponent % ORDER {
        value = double(value);
    }
    value as u8
}

/// The product of two elements.
fn times(a: u8, b: u8) -> u8 {
    let (mut sum, mut term) = (0, u64::from(a));
    for bit in 0..8 {
        if b >> bit & 1 != 0 {
            sum ^= term as u8;
        }
        term = double(term);
    }
    sum
}

/// The inverse of an element that is not 0: its power 254.
fn inverse(a: u8) -> u8 {
    let (mut result, mut square) = (1, a);
    for bit in 0..8 {
        if 254 >> bit & 1 != 0 {
            result = times(result, square);
        }
        square = times(square, square);
    }
    result
}

/// `acc += data·factor`.
fn add_product(acc: &mut [u8], data: &[u8], factor: u8) {
    each_word(acc, data, |a, d| {
        let (mut sum, mut term) = (a, d);
        for bit in 0..8 {
            // All bits set or none: no branch in the loop over the words.
            let wanted = u64::from(factor >> bit & 1).wrapping_neg();
            sum ^= term & wanted;
            term = double(term);
        }
        sum
    });
}

/// Gauss-Jordan: the inverse of a small square matrix, or none if it is singular.
fn invert(mut m: Vec<Vec<u8>>) -> Option<Vec<Vec<u8>>> {
    let n = m.len();
    let mut inv: Vec<Vec<u8>> = (0..n).map(|i| (0..n).map(|j| u8::from(i == j)).collect()).collect();
    for column in 0..n {
        let pivot = (column..n).find(|row| m[*row][column] != 0)?;
        m.swap(column, pivot);
        inv.swap(column, pivot);
        let scale = inverse(m[column][column]);
        for j in 0..n {
            m[column][j] = times(m[column][j], scale);
            inv[column][j] = times(inv[column][j], scale);
        }
        for row in (0..n).filter(|row| *row != column) {
            let factor = m[row][column];
            for j in 0..n {
                m[row][j] ^= times(factor, m[column][j]);
                inv[row][j] ^= times(factor, inv[column][j]);
            }
        }
    }
    Some(inv)
}

/// The lost data columns, in order, each as long as the first: `data` has `None` for them, and `parities` (index and bytes) are as many
/// as are lost. `None` if the numbers do not match.
pub(crate) fn reconstruct(data: &[Option<&[u8]>], parities: &[(usize, &[u8])]) -> Option<Vec<Vec<u8>>> {
    let lost: Vec<usize> = (0..data.len()).filter(|i| data[*i].is_none()).collect();
    if lost.is_empty() || lost.len() != parities.len() || data.len() > ORDER {
        return None;
    }
    // What the parities lack when the known columns are taken off: a linear system in the lost ones.
    let syndromes: Vec<Vec<u8>> = parities
        .iter()
        .map(|(index, parity)| {
            let known = data.iter().map(|column| column.unwrap_or(&[]));
            let mut syndrome = generate(known, *index, parity.len());
            each_word(&mut syndrome, parity, |a, d| a ^ d);
            syndrome
        })
        .collect();
    let row = |index: usize| lost.iter().map(|i| power(index * (data.len() - 1 - i))).collect();
    let inverse = invert(parities.iter().map(|(index, _)| row(*index)).collect())?;
    let solve = |factors: &Vec<u8>| {
        let mut column = vec![0; syndromes[0].len()];
        for (syndrome, factor) in syndromes.iter().zip(factors) {
            add_product(&mut column, syndrome, *factor);
        }
        column
    };
    Some(inverse.iter().map(solve).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use platform::random::{Random, Seeded};

    /// Byte by byte, with tables of nothing: the definition.
    fn scalar(data: &[Vec<u8>], index: usize, len: usize) -> Vec<u8> {
        (0..len)
            .map(|at| {
                data.iter().enumerate().fold(0, |sum, (i, column)| {
                    let byte = column.get(at).copied().unwrap_or(0);
                    sum ^ times(byte, power(index * (data.len() - 1 - i)))
                })
            })
            .collect()
    }

    fn columns(random: &Seeded, count: usize, len: usize, short: usize) -> Vec<Vec<u8>> {
        let column = |i: usize| {
            let mut bytes = vec![0; if i < count / 2 + 1 { len } else { len - short }];
            random.fill(&mut bytes);
            bytes
        };
        (0..count).map(column).collect()
    }

    #[test]
    fn the_field_is_one() {
        assert_eq!((power(0), power(8), power(255), times(0x80, 2)), (1, 0x1d, 1, 0x1d));
        for a in 1..=255 {
            assert_eq!(times(a, inverse(a)), 1, "{a}");
        }
    }

    #[test]
    fn words_give_what_bytes_give() {
        let random = Seeded::new(3);
        for (count, len, short) in [(1, 512, 0), (2, 1536, 512), (5, 4096, 512), (9, 77, 5), (3, 8, 8)] {
            let data = columns(&random, count, len, short);
            for index in 0..3 {
                let fast = generate(data.iter().map(Vec::as_slice), index, len);
                assert_eq!(fast, scalar(&data, index, len), "{count} columns of {len}, parity {index}");
            }
        }
    }

    #[test]
    fn every_combination_of_lost_columns_comes_back() {
        let random = Seeded::new(4);
        let (count, len) = (6, 1024);
        let data = columns(&random, count, len, 512);
        let parity: Vec<_> = (0..3).map(|i| generate(data.iter().map(Vec::as_slice), i, len)).collect();
        for lost in 1u32..1 << count {
            for used in 1u32..8 {
                if lost.count_ones() != used.count_ones() {
                    continue;
                }
                let known: Vec<_> =
                    (0..count).map(|i| (lost >> i & 1 == 0).then_some(data[i].as_slice())).collect();
                let parities: Vec<_> =
                    (0..3).filter(|i| used >> i & 1 != 0).map(|i| (i, parity[i].as_slice())).collect();
                let found = reconstruct(&known, &parities).unwrap();
                let want: Vec<_> = (0..count).filter(|i| lost >> i & 1 != 0).map(|i| &data[i]).collect();
                for (found, want) in found.iter().zip(want) {
                    assert_eq!(&found[..want.len()], &want[..], "lost {lost:b}, parities {used:b}");
                    assert!(found[want.len()..].iter().all(|b| *b == 0));
                }
            }
        }
        assert_eq!(reconstruct(&[None, Some(&[1])], &[]), None);
    }
}
