//! Zstandard frames as ZFS stores them: without magic number, content size and checksum.
//!
//! A crate of its own only to be compiled once: the encoder is generic, and every crate that names its types would
//! instantiate all of it again, which takes minutes.
#![cfg_attr(not(any(feature = "std", test)), no_std)]
extern crate alloc;

use alloc::vec::Vec;
use structured_zstd::decoding::FrameDecoder;
use structured_zstd::encoding::{CompressionLevel, FrameCompressor};

/// A compressor kept for its tables, set to one level.
pub struct Compressor(FrameCompressor);

impl Compressor {
    /// A compressor of `level`, as zstd counts: 1 to 22, negative is fast.
    #[must_use]
    pub fn new(level: i32) -> Self {
        let mut c = FrameCompressor::new(CompressionLevel::Level(level));
        c.set_magicless(true);
        c.set_content_size_flag(false);
        c.set_content_checksum(false);
        Compressor(c)
    }

    /// Replaces `out` by the frame of `data`.
    pub fn compress(&mut self, data: &[u8], out: &mut Vec<u8>) {
        self.0.compress_independent_frame_into(data, out);
    }
}

/// Decompresses one frame to `out`; the number of bytes that it holds, `None` if it is damaged or larger than `out`.
#[must_use]
pub fn decompress(frame: &[u8], out: &mut [u8]) -> Option<usize> {
    let mut decoder = FrameDecoder::new();
    decoder.set_magicless(true);
    decoder.decode_all(frame, out).ok()
}
