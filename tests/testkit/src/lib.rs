//! What the developer commands and the tests share: the machine's programs, and root file systems made of them.

pub mod machine;
pub mod rootfs;
pub mod sums;
