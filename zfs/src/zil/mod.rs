//! The intent log: what makes `fsync` cheap. Source: `module/zfs/zil.c`.
//!
//! Every change of a file system is noted in memory as a record ([`Log::assign`]). [`Log::commit`] writes the records that a
//! caller waits for to a chain of log blocks and flushes once; a txg that reaches the disk makes its records obsolete.
//! After a crash the chain is *claimed* at import (its blocks are marked as in use before anything else is allocated)
//! and *replayed* when the dataset is mounted.
//!
//! This layer stands between `dmu` and `dsl`: it knows objsets, not datasets or files.
//!
//! # Invariants
//! - A log block is pointed to before it is written, and allocated before it is pointed to.
//! - The header in the objset always leads to the first block whose records may still be needed.
//! - A commit returns only after its records, or the txgs they belong to, are durable.
//!
//! # Lock order
//! `Log::issuer` (held across the I/O of a commit) → `Log::state`. The sync thread takes `Log::state` alone.

mod chain;
mod log;
mod place;
mod policy;

pub use chain::{Claim, Entry, claim, free_chain, pending, visit_blocks, walk};
pub use log::{InPlace, Log, LogHost, Payload, ReadForLog};
pub use place::place_range;
pub use policy::{LogPolicy, SyncMode};
