//! The compression functions of the format. Source: `zio_compress.c`.
//!
//! Compressors work in a [`Workspace`] that is kept from block to block: its tables and buffers cost more to make
//! than a block costs to compress. Decompressors write into a buffer of exactly the logical size and survive any bytes.

mod gzip;
mod lzjb;
#[cfg(test)]
mod tests;
mod zle;
pub mod zstd;

use crate::error::{Error, Result};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use lz4_flex::block as lz4;

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

/// Compressed bytes that do not decompress to the size they should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Damaged;

/// What of a [`Workspace`] may pass from thread to thread, and so is kept for long.
#[derive(Default)]
pub struct Buffers {
    out: Vec<u8>,
    scratch: Vec<u8>,
    lz4: Option<lz4::CompressTable>,
}

/// Buffers and tables of a compressor. The zstd compressor is bound to its thread.
#[derive(Default)]
pub struct Workspace {
    out: Vec<u8>,
    scratch: Vec<u8>,
    lz4: Option<lz4::CompressTable>,
    zstd: Option<(i32, zfs_zstd::Compressor)>,
}

impl Workspace {
    /// A workspace that takes over what another left.
    #[must_use]
    pub fn from_buffers(buffers: Buffers) -> Self {
        let Buffers { out, scratch, lz4 } = buffers;
        Workspace { out, scratch, lz4, zstd: None }
    }

    /// What is worth keeping.
    #[must_use]
    pub fn into_buffers(self) -> Buffers {
        Buffers { out: self.out, scratch: self.scratch, lz4: self.lz4 }
    }
}

/// Numbers of the functions on disk (`enum zio_compress`).
mod raw {
    pub(super) const INHERIT: u8 = 0;
    pub(super) const ON: u8 = 1;
    pub(super) const OFF: u8 = 2;
    pub(super) const LZJB: u8 = 3;
    pub(super) const EMPTY: u8 = 4;
    pub(super) const GZIP_1: u8 = 5;
    pub(super) const GZIP_9: u8 = 13;
    pub(super) const ZLE: u8 = 14;
    pub(super) const LZ4: u8 = 15;
    pub(super) const ZSTD: u8 = 16;
}

impl Compression {
    /// What `compression=on` chooses, and what metadata is written with.
    pub const ON: Compression = Compression::Lz4;

    /// The number of the function on disk (`enum zio_compress`).
    #[must_use]
    pub fn to_raw(self) -> u8 {
        match self {
            Compression::Off => raw::OFF,
            Compression::Lzjb => raw::LZJB,
            Compression::Gzip(level) => raw::GZIP_1 - 1 + level.clamp(1, 9),
            Compression::Zle => raw::ZLE,
            Compression::Lz4 => raw::LZ4,
            Compression::Zstd(_) | Compression::ZstdFast(_) => raw::ZSTD,
        }
    }

    /// Compresses `data` into the workspace. `None` if that takes more than `limit` bytes, or if it is off.
    pub fn compress<'w>(self, data: &[u8], limit: usize, ws: &'w mut Workspace) -> Option<&'w [u8]> {
        ws.out.clear();
        let fits = match self {
            Compression::Off => false,
            Compression::Lz4 => compress_lz4(data, ws),
            Compression::Lzjb => lzjb::compress(data, &mut ws.out, limit),
            Compression::Zle => zle::compress(data, &mut ws.out, limit),
            Compression::Gzip(level) => {
                gzip::compress(data, level.clamp(1, 9), ws);
                true
            }
            Compression::Zstd(level) => {
                let level = level.clamp(1, 19);
                worth_zstd(data, level, limit, ws) && {
                    zstd::compress(data, i32::from(level), level, ws);
                    true
                }
            }
            Compression::ZstdFast(level) => zstd::fast_level_to_raw(level).is_some_and(|number| {
                zstd::compress(data, -i32::from(level), number, ws);
                true
            }),
        };
        (fits && ws.out.len() <= limit).then_some(&ws.out)
    }
}

/// Expensive levels are not tried on what lz4 and then zstd-1 cannot shrink (as OpenZFS does from 128 KiB up).
fn worth_zstd(data: &[u8], level: u8, limit: usize, ws: &mut Workspace) -> bool {
    if level <= 3 || data.len() < 128 << 10 {
        return true;
    }
    if compress_lz4(data, ws) && ws.out.len() <= limit {
        return true;
    }
    zstd::compress(data, 1, 1, ws);
    ws.out.len() <= limit
}

/// lz4 behind its big-endian length.
fn compress_lz4(data: &[u8], ws: &mut Workspace) -> bool {
    const LENGTH: usize = 4;
    let small = data.len() < usize::from(u16::MAX);
    // A table too large for the input costs time to clear, one too small does not work.
    let fits = ws.lz4.as_ref().is_some_and(|table| matches!(table, lz4::CompressTable::Small(_)) == small);
    if !fits {
        ws.lz4 = Some(if small { lz4::CompressTable::small() } else { lz4::CompressTable::large() });
    }
    let Some(table) = &mut ws.lz4 else { return false };
    let bound = LENGTH + lz4::get_maximum_output_size(data.len());
    if ws.scratch.len() < bound {
        ws.scratch.resize(bound, 0);
    }
    let Ok(len) = lz4::compress_into_with_table(data, &mut ws.scratch[LENGTH..bound], table) else {
        return false;
    };
    ws.scratch[..LENGTH].copy_from_slice(&(len as u32).to_be_bytes());
    ws.out.clear();
    ws.out.extend_from_slice(&ws.scratch[..LENGTH + len]);
    true
}

fn decompress_lz4(data: &[u8], out: &mut [u8]) -> core::result::Result<(), Damaged> {
    let (len, rest) = data.split_first_chunk::<4>().ok_or(Damaged)?;
    let packed = rest.get(..u32::from_be_bytes(*len) as usize).ok_or(Damaged)?;
    match lz4::decompress_into(packed, out) {
        Ok(n) if n == out.len() => Ok(()),
        _ => Err(Damaged),
    }
}

/// Decompresses a block. `function` is the number on disk; the answer is exactly `lsize` bytes, which the caller
/// has bounded.
pub fn decompress(function: u8, data: &[u8], lsize: usize) -> Result<Vec<u8>> {
    let mut out = vec![0; lsize];
    let done = match function {
        raw::OFF => match data.get(..lsize) {
            Some(data) => {
                out.copy_from_slice(data);
                Ok(())
            }
            None => Err(Damaged),
        },
        raw::EMPTY => Ok(()),
        raw::LZJB => lzjb::decompress(data, &mut out),
        raw::GZIP_1..=raw::GZIP_9 => gzip::decompress(data, &mut out),
        raw::ZLE => zle::decompress(data, &mut out),
        raw::LZ4 => decompress_lz4(data, &mut out),
        raw::ZSTD => zstd::decompress(data, &mut out),
        unknown => return Err(Error::unsupported(format!("compression function {unknown}"))),
    };
    done.map(|()| out)
        .map_err(|Damaged| Error::corrupt("compressed data does not decompress to its size", None))
}

/// The name of a function by its number on disk, as zdb has it.
#[must_use]
pub fn name(function: u8) -> String {
    match function {
        raw::INHERIT => "inherit".into(),
        raw::ON => "on".into(),
        raw::OFF => "uncompressed".into(),
        raw::LZJB => "lzjb".into(),
        raw::EMPTY => "empty".into(),
        raw::GZIP_1..=raw::GZIP_9 => format!("gzip-{}", function - raw::GZIP_1 + 1),
        raw::ZLE => "zle".into(),
        raw::LZ4 => "lz4".into(),
        raw::ZSTD => "zstd".into(),
        unknown => format!("compress-{unknown}"),
    }
}
