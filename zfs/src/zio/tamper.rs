//! Changing blocks between the medium and their readers: for fuzzers, which could not get past the checksums otherwise.

use crate::ondisk::blkptr::Blkptr;
use alloc::sync::Arc;
use bytes::Bytes;
use core::fmt;

type Change = dyn Fn(&Blkptr, Bytes) -> Bytes + Send + Sync;

/// Sees every block that is read from a device, decompressed and with a good checksum, and answers what its reader gets instead. It must
/// keep the length, and answer the same for the same block.
#[derive(Clone)]
pub struct Tamper(Arc<Change>);

impl Tamper {
    /// By this function.
    pub fn new(change: impl Fn(&Blkptr, Bytes) -> Bytes + Send + Sync + 'static) -> Self {
        Tamper(Arc::new(change))
    }

    pub(super) fn apply(&self, bp: &Blkptr, data: Bytes) -> Bytes {
        let len = data.len();
        let changed = (self.0)(bp, data);
        assert_eq!(changed.len(), len, "tampering must keep the length of a block");
        changed
    }
}

impl fmt::Debug for Tamper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tamper")
    }
}
