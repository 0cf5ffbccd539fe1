//! POSIX files: the tree of mounts, open files, locks and pipes, over the ZFS engine and the memory file systems.
//!
//! [`ops::Vfs`] is what a kernel holds. The engine's errors become numbers here ([`errno`]) and nowhere below.
#![cfg_attr(not(any(feature = "std", test)), no_std)]
extern crate alloc;

pub mod devfs;
pub mod epoll;
pub mod errno;
pub mod events;
pub mod file;
pub mod inode;
pub mod inotify;
pub mod locks;
pub mod mapped;
pub mod ops;
pub mod path;
pub mod pipe;
pub mod poll;
pub mod procfs;
pub mod sysfs;
pub mod tar;
pub mod tmpfs;
pub mod types;
pub mod unix;
pub mod wait;
pub mod zfs;

pub use errno::{Errno, Result};
