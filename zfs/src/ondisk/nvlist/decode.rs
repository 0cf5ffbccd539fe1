//! Unpacking both encodings.
use super::NvList;
use crate::error::Result;
pub(super) fn unpack(_bytes: &[u8]) -> Result<NvList> {
    todo!()
}
