//! Integration tests: what they share.
//!
//! The tests themselves are in `tests/tests/`, one file per subject. Those that need a program of the machine (`zdb`,
//! QEMU) fail when it is missing, they do not skip: `cargo xtask test` installs it.

pub mod accounts;
pub mod elf;
pub mod fixtures;
pub mod frames;
pub mod fuzz;
pub mod interop;
pub mod keys;
pub mod layout;
pub mod link;
pub mod manifest;
pub mod model;
pub mod properties;
pub mod rig;
pub mod server;
pub mod sim;
pub mod soak;
pub mod tap;
pub mod tool;
pub mod tree;
pub mod world;
