//! Datasets, snapshots and their accounting. Source: `module/zfs/dsl_*.c`, `bpobj.c`.
//!
//! A pool's names form a tree of *dirs*; each has a head *dataset* (a file system or volume) and a chain of snapshots, which are
//! datasets that never change. [`DslPool`] is the whole; [`Dataset`] is a handle of one.
//!
//! # Invariants
//! - The MOS is changed by the sync thread alone, with the syncing txg's [`crate::dmu::Tx`]. What changes is done as a sync task: check, then apply.
//! - A block belongs to the oldest dataset that refers to it. The head frees what was born after its previous snapshot; all else goes
//!   to its deadlist.
//!
//! # Lock order
//! `DslPool::config` (names; written only by sync tasks) → the caches of dirs and datasets → one dataset's or dir's state. None is held
//! while waiting for a txg.

mod bookmark;
mod bpobj;
mod bptree;
mod create;
mod crypt;
mod dataset;
mod deadlist;
mod destroy;
mod diff;
mod dir;
mod follow;
mod holds;
mod host;
mod livelist;
mod mos;
mod names;
mod pool;
mod promote;
mod prop;
mod prop_table;
mod props;
mod rename;
mod rollback;
mod setprop;
mod snapshot;
mod sync;
mod task;
pub(crate) mod volume;

pub use bpobj::Bpobj;
pub use create::CreateFs;
pub use crypt::Encryption;
pub use dataset::{Bookmark, Dataset, Hold, Kind, Owned, Stats};
pub use diff::{Change, Diff};
pub use follow::Follow;
pub use host::{Slop, SpaHost, SyncTask};
pub use pool::{DslPool, InitFs};
pub use prop::{Property, Source, Value, human_bytes, human_time, stored_value};

#[cfg(test)]
mod tests;
