//! LZJB. Source: `lzjb.c`.
//!
//! Items in groups of eight behind a byte of flags, lowest bit first: a clear bit is a literal byte, a set one a match
//! of two bytes, six bits of length minus three and ten bits of distance.

use super::Damaged;
use alloc::vec::Vec;

const MATCH_MIN: usize = 3;
const MATCH_MAX: usize = (1 << 6) + MATCH_MIN - 1;
const DISTANCE: usize = (1 << 10) - 1;

/// Appends the compressed data to `out`; `false` once it would be longer than `limit` bytes.
pub(super) fn compress(data: &[u8], out: &mut Vec<u8>, limit: usize) -> bool {
    let mut recent = [0u16; 1024];
    let mut flags_at = 0;
    let mut bit = 8;
    let mut at = 0;
    while at < data.len() {
        if bit == 8 {
            if out.len() + 1 + 16 > limit {
                return false;
            }
            bit = 0;
            flags_at = out.len();
            out.push(0);
        }
        let found = if at + MATCH_MAX <= data.len() { find(data, at, &mut recent) } else { None };
        if let Some((len, distance)) = found {
            out[flags_at] |= 1 << bit;
            out.push(((len - MATCH_MIN) << 2 | distance >> 8) as u8);
            out.push(distance as u8);
            at += len;
        } else {
            out.push(data[at]);
            at += 1;
        }
        bit += 1;
    }
    true
}

fn find(data: &[u8], at: usize, recent: &mut [u16; 1024]) -> Option<(usize, usize)> {
    let mut hash = u32::from(data[at]) << 16 | u32::from(data[at + 1]) << 8 | u32::from(data[at + 2]);
    hash = hash.wrapping_add(hash >> 9);
    hash = hash.wrapping_add(hash >> 5);
    let slot = &mut recent[hash as usize % 1024];
    let distance = at.wrapping_sub(usize::from(*slot)) & DISTANCE;
    *slot = at as u16;
    let from = at.checked_sub(distance)?;
    if distance == 0 || data[from..from + MATCH_MIN] != data[at..at + MATCH_MIN] {
        return None;
    }
    let len = (MATCH_MIN..MATCH_MAX).find(|&i| data[from + i] != data[at + i]).unwrap_or(MATCH_MAX);
    Some((len, distance))
}

/// Fills `out` whole.
pub(super) fn decompress(data: &[u8], out: &mut [u8]) -> Result<(), Damaged> {
    let mut input = data.iter().copied();
    let mut next = || input.next().ok_or(Damaged);
    let mut at = 0;
    let (mut flags, mut bit) = (0, 8);
    while at < out.len() {
        if bit == 8 {
            flags = next()?;
            bit = 0;
        }
        if flags >> bit & 1 == 0 {
            out[at] = next()?;
            at += 1;
        } else {
            let (high, low) = (usize::from(next()?), usize::from(next()?));
            let len = (high >> 2) + MATCH_MIN;
            let from = at.checked_sub((high << 8 | low) & DISTANCE).filter(|&f| f < at).ok_or(Damaged)?;
            for i in 0..len.min(out.len() - at) {
                out[at + i] = out[from + i];
            }
            at += len;
        }
        bit += 1;
    }
    Ok(())
}
