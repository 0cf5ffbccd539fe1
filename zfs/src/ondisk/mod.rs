//! The on-disk format: every offset, size and magic number, and nothing else.
//!
//! Two levels: a `*Phys` type is a total view of raw little-endian bytes (any bytes are a value), its parsed
//! counterpart is a validated value. The law is `parse(emit(x)) == x`. Integers from disk never become enums by a cast.
//!
//! # Invariants
//! - No module here reads a device, allocates by a size from disk without a bound, or panics on any bytes.

pub mod blkptr;
pub mod bookmark;
