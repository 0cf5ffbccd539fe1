//! Gang headers: a 512-byte block of three block pointers whose data, one after another, is the block's.
//! Source: `zio_gbh_phys_t`.

/// Size of a gang header in bytes (`SPA_OLD_GANGBLOCKSIZE`).
pub const GANG_HEADER_SIZE: usize = 512;
/// Block pointers in one.
pub const GANG_MEMBERS: usize = 3;
