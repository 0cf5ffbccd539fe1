//! POSIX files over the ZFS engine and the memory file systems.
#![cfg_attr(not(any(feature = "std", test)), no_std)]
