//! Changing blocks between the medium and their readers: for fuzzers, which could not get past the checksums otherwise.

use crate::ondisk::blkptr::Blkptr;
use alloc::sync::Arc;
use bytes::Bytes;
use core::fmt;

type Change = dyn Fn(&Blkptr, Bytes) -> Bytes + Send + Sync;

/// Sees every block that is read from a device and has a good checksum, and answers what its reader gets instead. It must
/// keep the length, and answer the same for the same block.
#[derive(Clone)]
pub struct Tamper {
    change: Arc<Change>,
    sealed: bool,
}

impl Tamper {
    /// By this function, which gets blocks decrypted and decompressed.
    pub fn new(change: impl Fn(&Blkptr, Bytes) -> Bytes + Send + Sync + 'static) -> Self {
        Tamper { change: Arc::new(change), sealed: false }
    }

    /// By this function, which gets the encrypted and authenticated blocks as they lie on disk: as one who has no key, but can compute
    /// checksums, would change them.
    pub fn sealed(change: impl Fn(&Blkptr, Bytes) -> Bytes + Send + Sync + 'static) -> Self {
        Tamper { change: Arc::new(change), sealed: true }
    }

    /// What is made of a block as it lies on disk.
    pub(super) fn on_disk(&self, bp: &Blkptr, data: Bytes) -> Bytes {
        if self.sealed && bp.uses_crypt() { self.apply(bp, data) } else { data }
    }

    /// What is made of a block that is ready for its reader.
    pub(super) fn ready(&self, bp: &Blkptr, data: Bytes) -> Bytes {
        if self.sealed { data } else { self.apply(bp, data) }
    }

    fn apply(&self, bp: &Blkptr, data: Bytes) -> Bytes {
        let len = data.len();
        let changed = (self.change)(bp, data);
        assert_eq!(changed.len(), len, "tampering must keep the length of a block");
        changed
    }
}

impl fmt::Debug for Tamper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tamper")
    }
}
