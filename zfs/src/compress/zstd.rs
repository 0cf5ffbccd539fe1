//! Zstandard in ZFS's framing: length and level, then a frame without magic, content size and checksum.
//! Source: `zfs_zstd.c`.

use super::{Damaged, Workspace};
use zfs_zstd::Compressor;

/// Bytes before the frame: big-endian length of the frame, then a byte of level and three of library version.
const HEADER: usize = 8;
/// What we say that we compressed with: the version whose format the encoder follows (1.4.5).
const VERSION: u32 = 10405;
/// `ZIO_ZSTD_LEVEL_FAST_1`.
const FAST_1: u8 = 103;
/// Meanings of the fast levels, in the order of their numbers from [`FAST_1`].
const FAST: [u16; 21] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 500, 1000];

/// The number of `zstd-fast-N` in headers and properties (`ZIO_ZSTD_LEVEL_FAST_*`); `None` if there is no such level.
#[must_use]
pub fn fast_level_to_raw(level: u16) -> Option<u8> {
    FAST.iter().position(|&l| l == level).map(|i| FAST_1 + i as u8)
}

/// The `N` of `zstd-fast-N` for a number in headers and properties.
#[must_use]
pub fn fast_level_from_raw(raw: u8) -> Option<u16> {
    FAST.get(usize::from(raw.checked_sub(FAST_1)?)).copied()
}

/// Compresses into `ws.out`; `level` as zstd counts (negative is fast), `raw` as ZFS numbers it.
pub(super) fn compress(data: &[u8], level: i32, raw: u8, ws: &mut Workspace) {
    if ws.zstd.as_ref().is_none_or(|(have, _)| *have != level) {
        ws.zstd = Some((level, Compressor::new(level)));
    }
    let Some((_, c)) = &mut ws.zstd else { return };
    c.compress(data, &mut ws.scratch);
    ws.out.clear();
    ws.out.extend((ws.scratch.len() as u32).to_be_bytes());
    ws.out.extend((u32::from(raw) << 24 | VERSION).to_be_bytes());
    ws.out.extend(&ws.scratch);
}

/// Fills `out` whole.
pub(super) fn decompress(data: &[u8], out: &mut [u8]) -> Result<(), Damaged> {
    let (len, rest) = data.split_first_chunk::<4>().ok_or(Damaged)?;
    let len = u32::from_be_bytes(*len) as usize;
    let frame = rest.get(HEADER - 4..).and_then(|r| r.get(..len)).ok_or(Damaged)?;
    match zfs_zstd::decompress(frame, out) {
        Some(n) if n == out.len() => Ok(()),
        _ => Err(Damaged),
    }
}
