//! The data management unit: objects in objsets, changed in transactions, written by txgs.
//!
//! An [`Objset`] is an array of [`Dnode`]s, each the root of a tree of blocks. Changes belong to a [`Tx`], which holds
//! one txg of [`Txgs`] open. A changed block stays in memory, in the slot of its txg, until [`Objset::sync`] has
//! written it and everything above it to new places on disk.
//!
//! # Invariants
//! - Readers see every change as soon as the call that made it returns, whatever txg it belongs to.
//! - A dirty dnode is held strongly by its objset until the meta-dnode's block that contains it is visible.
//! - The block tree on disk that a dnode's `phys` names is never changed in place (but for same-txg rewrites of the MOS).
//! - What reaches the disk, and in which order it is allocated, depends only on the order of calls.
//!
//! # Lock order
//! `Dnode::zap` → `Objset::alloc` → `Objset::dnodes` → `Dnode::state` → `Objset::state` → `Txgs`. No lock but
//! `Dnode::zap` and `Objset::alloc` is held across I/O.

mod accounting;
mod clone;
mod data;
mod dirty;
pub mod dnode;
mod objects;
pub mod objset;
mod place;
mod policy;
mod range_lock;
mod range_set;
mod sync;
mod syncnode;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod throttle;
pub mod traverse;
mod tree;
pub mod tx;
pub mod unravel;
mod zfetch;

pub use accounting::{Accounted, Accounting, key_of as accounting_key};
pub use dnode::{Dnode, DnodeInfo};
pub use objset::{Allocate, Objset, RedundantMetadata, Settings, SyncHook};
pub use range_lock::{Range, RangeLock};
pub use throttle::{TxStats, TxgRecord};
pub use traverse::{Traverse, Visit, traverse, traverse_object};
pub use tx::{DirtyObjsets, Limits, Quiesced, SpaceCheck, Tx, Txgs};
pub use unravel::{Position, Unraveled, unravel};

use crate::ondisk::blkptr::Blkptr;
use crate::zio::AllocateBlocks;

/// Who owns the blocks of an objset: `dsl` accounts for them and decides whether a killed one is freed or goes to a deadlist.
pub trait BlockOwner: Send + Sync {
    /// `bp` was written in this txg and is now referred to (`dsl_dataset_block_born`). Not called for holes.
    fn born(&self, bp: &Blkptr);
    /// `bp` is no longer referred to (`dsl_dataset_block_kill`). Not called for holes. Embedded blocks are told,
    /// though they occupy no space.
    fn killed(&self, bp: &Blkptr);
    /// `bp` was written in this txg, and nothing came to refer to it.
    fn unused(&self, bp: &Blkptr);
}

/// What [`Objset::sync`] needs to know of the txg that is being written.
pub struct SyncContext<'a> {
    /// The syncing txg.
    pub txg: u64,
    /// Sync pass, from 1. From pass 2 on, blocks of this txg are rewritten in place where their size allows;
    /// from pass 8 on they are not compressed.
    pub pass: u32,
    /// Who gives out space.
    pub alloc: &'a dyn AllocateBlocks,
    /// Who hears of born and killed blocks.
    pub owner: &'a dyn BlockOwner,
}
