//! gzip-1 to gzip-9: zlib streams. Source: `gzip.c`.
//!
//! The host uses the faster of two pure-Rust implementations, which needs the standard library; the kernel the other.

use super::{Damaged, Workspace};

/// Compresses into `ws.out`.
pub(super) fn compress(data: &[u8], level: u8, ws: &mut Workspace) {
    #[cfg(feature = "std")]
    {
        let bound = zlib_rs::compress_bound(data.len());
        ws.out.clear();
        ws.out.resize(bound, 0);
        let config = zlib_rs::DeflateConfig::new(i32::from(level));
        let (done, code) = zlib_rs::compress_slice(&mut ws.out, data, config);
        let len = done.len();
        if code == zlib_rs::ReturnCode::Ok {
            ws.out.truncate(len);
            return;
        }
    }
    ws.out = miniz_oxide::deflate::compress_to_vec_zlib(data, level);
}

/// Fills `out` whole. What follows the stream is the sector's padding.
pub(super) fn decompress(data: &[u8], out: &mut [u8]) -> Result<(), Damaged> {
    #[cfg(feature = "std")]
    {
        let want = out.len();
        let (done, code) = zlib_rs::decompress_slice(out, data, zlib_rs::InflateConfig::default());
        if code == zlib_rs::ReturnCode::Ok && done.len() == want { Ok(()) } else { Err(Damaged) }
    }
    #[cfg(not(feature = "std"))]
    decompress_portable(data, out)
}

#[cfg(any(not(feature = "std"), test))]
fn decompress_portable(data: &[u8], out: &mut [u8]) -> Result<(), Damaged> {
    use miniz_oxide::inflate::TINFLStatus;
    use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags as flags};
    let mut state = alloc::boxed::Box::<DecompressorOxide>::default();
    let flags = flags::TINFL_FLAG_PARSE_ZLIB_HEADER | flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
    match decompress(&mut state, data, out, 0, flags) {
        (TINFLStatus::Done, _, n) if n == out.len() => Ok(()),
        _ => Err(Damaged),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn both_implementations_read_each_other() {
        let data: alloc::vec::Vec<u8> = (0..100_000u32).map(|i| (i.wrapping_mul(i) >> 9) as u8).collect();
        let mut ws = Workspace::default();
        compress(&data, 6, &mut ws);
        let portable = miniz_oxide::deflate::compress_to_vec_zlib(&data, 6);
        for packed in [&ws.out, &portable] {
            let mut padded = packed.clone();
            padded.resize(padded.len().next_multiple_of(4096), 0);
            let mut out = vec![0; data.len()];
            assert!(decompress(&padded, &mut out).is_ok() && out == data);
            out.fill(0);
            assert!(decompress_portable(&padded, &mut out).is_ok() && out == data);
        }
    }
}
