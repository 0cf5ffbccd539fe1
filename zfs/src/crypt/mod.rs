//! Native encryption: from a user's key to the plain bytes of a block. Source: `module/os/linux/zfs/zio_crypt.c`,
//! `module/zfs/dsl_crypt.c`, `lib/libzfs/libzfs_crypto.c`.
//!
//! A user's key (a passphrase, or 32 bytes) becomes the *wrapping key* of an encryption root, which opens the *master key*
//! of each dataset below it. Every block has a key of its own, derived from the master key and the salt in its pointer;
//! what is not encrypted is authenticated by the *HMAC key*, that is wrapped together with the master key.
//!
//! # Invariants
//! - Keys are arguments; nothing here reads a file or draws a random number.
//! - Bytes of keys are overwritten when they are dropped, and never shown.
//! - MACs are compared in constant time.

mod cipher;
mod key;
mod store;
#[cfg(test)]
mod tests;
mod wrapping;

pub use cipher::Suite;
pub use key::MasterKey;
pub(crate) use key::check_indirect;
pub use store::Keys;
pub use wrapping::{KeyFormat, Pbkdf2, WrappingKey};
