//! Block pointers and uberblocks in zdb's wording.

use crate::ondisk::blkptr::Blkptr;
use crate::ondisk::uberblock::Uberblock;
use core::fmt;

/// Shows a block pointer as `zdb -bbbb` and `zdb -dddddd` do (`snprintf_blkptr`).
pub struct ShowBlkptr<'a>(pub &'a Blkptr);

impl fmt::Display for ShowBlkptr<'_> {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        todo!()
    }
}

/// Shows an uberblock as `zdb -u` does.
pub struct ShowUberblock<'a>(pub &'a Uberblock);

impl fmt::Display for ShowUberblock<'_> {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        todo!()
    }
}
