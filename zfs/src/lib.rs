//! A native, read-write ZFS: SPA version 5000 with feature flags.
//!
//! The layers, lowest first; each knows only those above its own line here:
//! [`ondisk`] · `checksum`, `compress` · `vdev` · `zio` · `arc` · `dmu` · `dsl` · `spa` · `zpl`, `zil`, `zvol`.
#![cfg_attr(not(any(feature = "std", test)), no_std)]
extern crate alloc;

pub mod error;
pub mod ondisk;

pub use error::{Error, Result};
