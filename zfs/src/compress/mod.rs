//! The compression functions of the format. Source: `zio_compress.c`.

use crate::error::{Error, Result};
use alloc::format;

/// What to compress with: the function and, of gzip and zstd, its level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// As it is.
    Off,
    /// `lz4`, the meaning of `on`.
    Lz4,
    /// `lzjb`.
    Lzjb,
    /// `gzip-1` to `gzip-9`.
    Gzip(u8),
    /// Runs of zeros.
    Zle,
    /// `zstd-1` to `zstd-19`; `zstd` is `zstd-3`.
    Zstd(u8),
    /// `zstd-fast-N` (1 to 10, 20, 30 … 100, 500, 1000).
    ZstdFast(u16),
}

impl Compression {
    /// What `compression=on` chooses, and what metadata is written with.
    pub const ON: Compression = Compression::Lz4;

    /// The number of the function on disk (`enum zio_compress`).
    #[must_use]
    pub fn to_raw(self) -> u8 {
        match self {
            Compression::Off => 2,
            Compression::Lzjb => 3,
            Compression::Gzip(level) => 4 + level.clamp(1, 9),
            Compression::Zle => 14,
            Compression::Lz4 => 15,
            Compression::Zstd(_) | Compression::ZstdFast(_) => 16,
        }
    }
}

/// Decompresses a block. `raw` is the function's number on disk; the answer is exactly `lsize` bytes.
pub fn decompress(raw: u8, data: &[u8], lsize: usize) -> Result<alloc::vec::Vec<u8>> {
    let _ = (data, lsize);
    Err(Error::unsupported(format!("compression function {raw}")))
}
