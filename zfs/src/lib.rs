//! A native, read-write ZFS: SPA version 5000 with feature flags.
//!
//! The layers, lowest first; each knows only those above its own line here:
//! [`ondisk`] · [`checksum`], [`compress`], [`crypt`] · [`vdev`] · [`arc`] · [`zio`] · [`dmu`], [`zap`] · [`zil`] · [`dsl`] · [`spa`] · [`zpl`], [`zvol`].
#![cfg_attr(not(any(feature = "std", test)), no_std)]
extern crate alloc;

pub mod arc;
pub mod checksum;
pub mod compress;
pub mod crypt;
pub mod dmu;
pub mod dsl;
pub mod error;
pub mod ondisk;
pub mod spa;
pub mod vdev;
pub mod zap;
pub mod zil;
pub mod zio;
pub mod zpl;
pub mod zvol;

pub use error::{Error, Result};
