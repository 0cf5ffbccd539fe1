//! Embedded checksums: the 40 bytes at the end of labels, uberblocks, gang headers and old intent-log blocks.
//! Source: `zio_eck_t`.

/// Size of the trailer in bytes: a magic and four checksum words.
pub const ECK_SIZE: usize = 40;
/// `ZEC_MAGIC`.
pub const ECK_MAGIC: u64 = 0x0210_da7a_b10c_7a11;
