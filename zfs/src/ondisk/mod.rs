//! The on-disk format: every offset, size and magic number, and nothing else.
//!
//! Two levels: a `*Phys` type is a total view of raw little-endian bytes (any bytes are a value), its parsed
//! counterpart is a validated value. The law is `parse(emit(x)) == x`. Integers from disk never become enums by a cast.
//!
//! # Invariants
//! - No module here reads a device, allocates by a size from disk without a bound, or panics on any bytes.

pub mod acl;
pub mod blkptr;
pub mod bookmark;
pub mod brt;
pub mod crypt;
pub mod ddt;
pub mod dnode;
pub mod dsl;
pub mod eck;
pub mod features;
pub mod gang;
pub mod gpt;
pub mod indirect;
pub mod label;
pub mod nvlist;
pub mod object_type;
pub mod objset;
pub mod pretty;
pub mod sa;
pub mod scan;
pub mod space_map;
pub mod uberblock;
pub mod zil;
pub mod zil_optional;
pub mod znode;

/// The little-endian word at `offset`; 0 past the end of `bytes`.
#[must_use]
pub(crate) fn read_u64(bytes: &[u8], offset: usize) -> u64 {
    bytes.get(offset..).and_then(|b| b.first_chunk::<8>()).map_or(0, |b| u64::from_le_bytes(*b))
}
