//! Packing both encodings.
use super::NvList;
use alloc::vec::Vec;
pub(super) fn pack_xdr(_list: &NvList) -> Vec<u8> {
    todo!()
}
pub(super) fn pack_native(_list: &NvList) -> Vec<u8> {
    todo!()
}
