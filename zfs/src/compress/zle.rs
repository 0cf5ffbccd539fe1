//! Zero-length encoding: runs of zeros. Source: `zle.c`.
//!
//! A length byte `n`: below 64, `n + 1` literal bytes follow; from 64, a run of `n - 63` zeros.

use super::Damaged;
use alloc::vec::Vec;

const LITERALS: usize = 64;
const ZEROS: usize = 256 - LITERALS;

/// Appends the compressed data to `out`; `false` once it would be longer than `limit` bytes.
pub(super) fn compress(mut data: &[u8], out: &mut Vec<u8>, limit: usize) -> bool {
    while let Some(&first) = data.first() {
        let len = if first == 0 {
            let run = data.iter().take(ZEROS).take_while(|&&b| b == 0).count();
            out.push((run - 1 + LITERALS) as u8);
            run
        } else {
            // A single zero costs a byte either way, so literals end at two zeros.
            let end = |i: usize| data[i] == 0 && data.get(i + 1).is_none_or(|&b| b == 0);
            let len = (1..data.len().min(LITERALS)).find(|&i| end(i)).unwrap_or(data.len().min(LITERALS));
            out.push((len - 1) as u8);
            out.extend(&data[..len]);
            len
        };
        if out.len() > limit {
            return false;
        }
        data = &data[len..];
    }
    true
}

/// Fills `out` whole.
pub(super) fn decompress(mut data: &[u8], mut out: &mut [u8]) -> Result<(), Damaged> {
    while !out.is_empty() {
        let (&n, rest) = data.split_first().ok_or(Damaged)?;
        let n = usize::from(n);
        let len;
        if n < LITERALS {
            let (literals, rest) = rest.split_at_checked(n + 1).ok_or(Damaged)?;
            len = literals.len().min(out.len());
            out[..len].copy_from_slice(&literals[..len]);
            data = rest;
        } else {
            len = (n - LITERALS + 1).min(out.len());
            out[..len].fill(0);
            data = rest;
        }
        out = &mut out[len..];
    }
    Ok(())
}
