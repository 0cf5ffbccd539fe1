//! Files: the ZFS POSIX layer. Source: `module/zfs/zfs_vnops.c`, `zfs_znode.c`, `zfs_dir.c`, `sa.c`.
//!
//! [`Filesystem`] is a mounted dataset. Files are named by object number; names are bytes; permissions are kept but
//! not enforced (that is the caller's, who knows the user).
//!
//! # Invariants
//! - What a call changed is in the open txg and, as a record, in the intent log's memory before the call returns;
//!   [`Filesystem::fsync`] makes it durable.
//! - A file without a name stays until its last [`Filesystem::release`]; it is in the delete queue all the while, so
//!   a crash does not leak it.
//!
//! # Lock order
//! rename lock → directory locks, parents before children → xattr lock → byte ranges → transaction → holds → a znode's
//! attributes → layouts. No lock is held across I/O of file data but byte ranges.

mod attr;
mod clone;
mod create;
mod dir;
mod file;
mod filesystem;
mod names;
mod posix_acl;
mod protect;
mod quota;
mod rename;
mod replay;
mod sa;
mod snapdir;
mod tunables;
mod types;
mod unlinked;
mod xattr;
mod znode;

pub use create::init;
pub use filesystem::Filesystem;
pub use names::name_damaged;
pub use quota::{Account, accounts, quota, set_quota, used};
pub use types::*;
