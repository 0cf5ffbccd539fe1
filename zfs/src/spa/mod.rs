//! The pool: import, export, creation, transaction group sync, space, features, history and verification.
//! Source: `module/zfs/spa*.c`, `metaslab.c`, `space_map.c`, `zfeature.c`.
//!
//! [`Pool`] is what everybody above holds. Below it lies one engine, shared with the sync thread: the MOS, the space
//! allocator, the features, and the queue of sync tasks.
//!
//! # Invariants
//! - The MOS is changed by the sync thread alone, with the syncing txg's `Tx`; everything else asks for it by a sync task.
//! - Space that a txg frees is given out again only after [`metaslab::DEFER_TXGS`] more txgs are on disk, so that the uberblocks
//!   of those txgs stay whole.
//! - An uberblock is written only after everything that it refers to was flushed.
//!
//! # Lock order
//! The config lock of `dsl` → the allocator → a feature table. None is held while waiting for a txg.

mod aux_devices;
mod background;
mod brt;
mod checkpoint;
mod claim;
mod config;
mod core;
mod create;
mod ddt;
mod devices;
mod directory;
mod dtl;
mod errlog;
mod features;
mod history;
mod import;
mod indirect;
mod log_space_map;
pub(crate) mod metaslab;
mod options;
mod pool;
mod props;
mod range_tree;
mod report;
mod scan;
mod space_map;
mod sync;
#[cfg(test)]
mod tests;
mod topology;
mod trim;
mod vdev_zaps;
mod verify;

pub use crate::ondisk::scan::{ScanFunc, ScanPhys, ScanState};
pub use crate::zio::Tamper;
pub use checkpoint::CheckpointStatus;
pub use devices::Replacement;
pub use options::{CreateOptions, ImportOptions, Rewind};
pub use pool::{FeatureState, Pool, PoolState, Space};
pub use report::{DamagedFile, HistoryRecord, Progress, VerifyReport};
pub use scan::{ScanControl, ScanReport};
pub use topology::{NewDevice, NewVdev, Topology};
pub use trim::{TrimReport, TrimState, TrimStatus};
