//! Packing both encodings.

use super::{NvList, Value};
use alloc::vec::Vec;

/// Bytes of `nvlist_t` in memory, which stands in the native encoding and counts in XDR's decoded sizes.
const NVLIST_T: usize = 24;
/// Bytes of `nvpair_t` in memory before the name.
const NVPAIR_T: usize = 16;

impl Value {
    /// The `data_type_t`.
    fn data_type(&self) -> u32 {
        match self {
            Value::Boolean => 1,
            Value::Byte(_) => 2,
            Value::Int16(_) => 3,
            Value::Uint16(_) => 4,
            Value::Int32(_) => 5,
            Value::Uint32(_) => 6,
            Value::Int64(_) => 7,
            Value::Uint64(_) => 8,
            Value::String(_) => 9,
            Value::ByteArray(_) => 10,
            Value::Int16Array(_) => 11,
            Value::Uint16Array(_) => 12,
            Value::Int32Array(_) => 13,
            Value::Uint32Array(_) => 14,
            Value::Int64Array(_) => 15,
            Value::Uint64Array(_) => 16,
            Value::StringArray(_) => 17,
            Value::Hrtime(_) => 18,
            Value::NvList(_) => 19,
            Value::NvListArray(_) => 20,
            Value::BooleanValue(_) => 21,
            Value::Int8(_) => 22,
            Value::Uint8(_) => 23,
            Value::BooleanArray(_) => 24,
            Value::Int8Array(_) => 25,
            Value::Uint8Array(_) => 26,
            Value::Double(_) => 27,
        }
    }

    /// `nvp_value_elem`.
    fn count(&self) -> usize {
        match self {
            Value::Boolean => 0,
            Value::ByteArray(v) | Value::Uint8Array(v) => v.len(),
            Value::Int16Array(v) => v.len(),
            Value::Uint16Array(v) => v.len(),
            Value::Int32Array(v) => v.len(),
            Value::Uint32Array(v) => v.len(),
            Value::Int64Array(v) => v.len(),
            Value::Uint64Array(v) => v.len(),
            Value::StringArray(v) => v.len(),
            Value::NvListArray(v) => v.len(),
            Value::BooleanArray(v) => v.len(),
            Value::Int8Array(v) => v.len(),
            _ => 1,
        }
    }

    /// Bytes of the value in memory on a 64-bit machine (`i_get_value_size`).
    fn memory_size(&self) -> usize {
        match self {
            Value::Boolean => 0,
            Value::Byte(_) | Value::Int8(_) | Value::Uint8(_) => 1,
            Value::Int16(_) | Value::Uint16(_) => 2,
            Value::Int32(_) | Value::Uint32(_) | Value::BooleanValue(_) => 4,
            Value::Int64(_) | Value::Uint64(_) | Value::Hrtime(_) | Value::Double(_) => 8,
            Value::String(s) => s.len() + 1,
            Value::ByteArray(_) | Value::Int8Array(_) | Value::Uint8Array(_) => self.count(),
            Value::Int16Array(_) | Value::Uint16Array(_) => 2 * self.count(),
            Value::Int32Array(_) | Value::Uint32Array(_) | Value::BooleanArray(_) => 4 * self.count(),
            Value::Int64Array(_) | Value::Uint64Array(_) => 8 * self.count(),
            Value::StringArray(v) => v.iter().map(|s| 8 + s.len() + 1).sum(),
            Value::NvList(_) => NVLIST_T,
            Value::NvListArray(v) => v.len() * (8 + NVLIST_T),
        }
    }
}

/// Bytes of a pair in memory (`nvp_size`).
fn pair_size(name: &str, value: &Value) -> usize {
    (NVPAIR_T + name.len() + 1).next_multiple_of(8) + value.memory_size().next_multiple_of(8)
}

pub(super) fn pack_xdr(list: &NvList) -> Vec<u8> {
    let mut out = Vec::from([1, 1, 0, 0]);
    xdr_list(&mut out, list);
    out
}

fn be32(out: &mut Vec<u8>, v: u32) {
    out.extend(v.to_be_bytes());
}

fn be64(out: &mut Vec<u8>, v: u64) {
    out.extend(v.to_be_bytes());
}

fn pad(out: &mut Vec<u8>, from: usize, to: usize) {
    let len = (out.len() - from).next_multiple_of(to);
    out.resize(from + len, 0);
}

fn xdr_opaque(out: &mut Vec<u8>, bytes: &[u8]) {
    let from = out.len();
    out.extend(bytes);
    pad(out, from, 4);
}

fn xdr_string(out: &mut Vec<u8>, s: &str) {
    be32(out, s.len() as u32);
    xdr_opaque(out, s.as_bytes());
}

fn xdr_list(out: &mut Vec<u8>, list: &NvList) {
    be32(out, 0);
    be32(out, list.flags);
    for (name, value) in list.iter() {
        let start = out.len();
        be32(out, 0);
        be32(out, pair_size(name, value) as u32);
        xdr_string(out, name);
        be32(out, value.data_type());
        be32(out, value.count() as u32);
        xdr_value(out, value);
        // What the reader skips if it does not know the type: known only now.
        let encoded = (out.len() - start) as u32;
        out[start..start + 4].copy_from_slice(&encoded.to_be_bytes());
    }
    be64(out, 0);
}

fn xdr_array<T>(out: &mut Vec<u8>, values: &[T], put: impl Fn(&mut Vec<u8>, &T)) {
    if !values.is_empty() {
        be32(out, values.len() as u32);
        for value in values {
            put(out, value);
        }
    }
}

fn xdr_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Boolean => {}
        Value::Byte(v) | Value::Uint8(v) => be32(out, u32::from(*v)),
        Value::Int8(v) => be32(out, *v as u32),
        Value::Int16(v) => be32(out, *v as u32),
        Value::Uint16(v) => be32(out, u32::from(*v)),
        Value::Int32(v) => be32(out, *v as u32),
        Value::Uint32(v) => be32(out, *v),
        Value::BooleanValue(v) => be32(out, u32::from(*v)),
        Value::Int64(v) | Value::Hrtime(v) => be64(out, *v as u64),
        Value::Uint64(v) => be64(out, *v),
        Value::Double(v) => be64(out, v.to_bits()),
        Value::String(s) => xdr_string(out, s),
        Value::ByteArray(v) => xdr_opaque(out, v),
        Value::Int8Array(v) => xdr_array(out, v, |o, v| be32(o, *v as u32)),
        Value::Uint8Array(v) => xdr_array(out, v, |o, v| be32(o, u32::from(*v))),
        Value::Int16Array(v) => xdr_array(out, v, |o, v| be32(o, *v as u32)),
        Value::Uint16Array(v) => xdr_array(out, v, |o, v| be32(o, u32::from(*v))),
        Value::Int32Array(v) => xdr_array(out, v, |o, v| be32(o, *v as u32)),
        Value::Uint32Array(v) => xdr_array(out, v, |o, v| be32(o, *v)),
        Value::BooleanArray(v) => xdr_array(out, v, |o, v| be32(o, u32::from(*v))),
        Value::Int64Array(v) => xdr_array(out, v, |o, v| be64(o, *v as u64)),
        Value::Uint64Array(v) => xdr_array(out, v, |o, v| be64(o, *v)),
        Value::StringArray(v) => v.iter().for_each(|s| xdr_string(out, s)),
        Value::NvList(list) => xdr_list(out, list),
        Value::NvListArray(lists) => lists.iter().for_each(|list| xdr_list(out, list)),
    }
}

pub(super) fn pack_native(list: &NvList) -> Vec<u8> {
    let mut out = Vec::from([0, 1, 0, 0]);
    out.extend(0u32.to_le_bytes());
    out.extend(list.flags.to_le_bytes());
    native_pairs(&mut out, list);
    out
}

fn native_pairs(out: &mut Vec<u8>, list: &NvList) {
    for (name, value) in list.iter() {
        let start = out.len();
        out.extend((pair_size(name, value) as u32).to_le_bytes());
        out.extend((name.len() as u16 + 1).to_le_bytes());
        out.extend([0; 2]);
        out.extend((value.count() as u32).to_le_bytes());
        out.extend(value.data_type().to_le_bytes());
        out.extend(name.as_bytes());
        out.push(0);
        pad(out, start, 8);
        native_value(out, value);
        pad(out, start, 8);
        match value {
            Value::NvList(list) => native_pairs(out, list),
            Value::NvListArray(lists) => lists.iter().for_each(|list| native_pairs(out, list)),
            _ => {}
        }
    }
    out.extend([0; 4]);
}

fn native_embedded(out: &mut Vec<u8>, list: &NvList) {
    out.extend(0u32.to_le_bytes());
    out.extend(list.flags.to_le_bytes());
    out.extend([0; 16]);
}

fn native_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Boolean => {}
        Value::Byte(v) | Value::Uint8(v) => out.push(*v),
        Value::Int8(v) => out.push(*v as u8),
        Value::Int16(v) => out.extend(v.to_le_bytes()),
        Value::Uint16(v) => out.extend(v.to_le_bytes()),
        Value::Int32(v) => out.extend(v.to_le_bytes()),
        Value::Uint32(v) => out.extend(v.to_le_bytes()),
        Value::BooleanValue(v) => out.extend(u32::from(*v).to_le_bytes()),
        Value::Int64(v) | Value::Hrtime(v) => out.extend(v.to_le_bytes()),
        Value::Uint64(v) => out.extend(v.to_le_bytes()),
        Value::Double(v) => out.extend(v.to_le_bytes()),
        Value::String(s) => {
            out.extend(s.as_bytes());
            out.push(0);
        }
        Value::ByteArray(v) | Value::Uint8Array(v) => out.extend(v),
        Value::Int8Array(v) => out.extend(v.iter().map(|v| *v as u8)),
        Value::Int16Array(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Value::Uint16Array(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Value::Int32Array(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Value::Uint32Array(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Value::BooleanArray(v) => out.extend(v.iter().flat_map(|v| u32::from(*v).to_le_bytes())),
        Value::Int64Array(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Value::Uint64Array(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Value::StringArray(v) => {
            out.extend(core::iter::repeat_n(0, 8 * v.len()));
            for s in v {
                out.extend(s.as_bytes());
                out.push(0);
            }
        }
        Value::NvList(list) => native_embedded(out, list),
        Value::NvListArray(lists) => {
            out.extend(core::iter::repeat_n(0, 8 * lists.len()));
            lists.iter().for_each(|list| native_embedded(out, list));
        }
    }
}
