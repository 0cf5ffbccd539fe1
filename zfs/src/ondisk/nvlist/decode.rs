//! Unpacking both encodings.
//!
//! Nothing is allocated by a count from the bytes: an element is read before it is stored, so memory is bounded by
//! the input's length.

use super::{MAX_DEPTH, NvList, Value};
use crate::error::{Error, Result};
use alloc::string::String;
use alloc::vec::Vec;

const SHORT: Error = Error::Corrupt { rule: "nvlist: bytes end within a value", at: None };
const fn rule(rule: &'static str) -> Error {
    Error::Corrupt { rule, at: None }
}

/// A position in the packed bytes; every step is bounded.
struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (head, rest) = self.bytes.split_at_checked(len).ok_or(SHORT)?;
        self.bytes = rest;
        Ok(head)
    }
    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, rest) = self.bytes.split_first_chunk::<N>().ok_or(SHORT)?;
        self.bytes = rest;
        Ok(*head)
    }
    fn be32(&mut self) -> Result<u32> {
        self.array().map(u32::from_be_bytes)
    }
    fn be64(&mut self) -> Result<u64> {
        self.array().map(u64::from_be_bytes)
    }
    fn le32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }
    /// Bytes padded to a multiple of four, as XDR keeps them.
    fn opaque(&mut self, len: usize) -> Result<&'a [u8]> {
        let padded = len.checked_next_multiple_of(4).ok_or(SHORT)?;
        self.take(padded).map(|b| &b[..len])
    }
    fn xdr_string(&mut self) -> Result<String> {
        let len = self.be32()? as usize;
        self.opaque(len).map(text)
    }
}

/// Strings are bytes on disk. What is no UTF-8 (a path of an old system) is shown as well as can be.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(super) fn unpack(bytes: &[u8]) -> Result<NvList> {
    let mut reader = Reader { bytes };
    let [encoding, endian, _, _] = reader.array::<4>()?;
    match (encoding, endian) {
        (1, _) => xdr_list(&mut reader, 0),
        (0, 1) => {
            let (version, flags) = (reader.le32()?, reader.le32()?);
            native_pairs(&mut reader, version, flags, 0)
        }
        (0, _) => Err(Error::unsupported("nvlist in big-endian native encoding")),
        _ => Err(rule("nvlist: unknown encoding")),
    }
}

fn start(version: u32, flags: u32, depth: usize) -> Result<NvList> {
    if version != 0 {
        return Err(rule("nvlist: unknown version"));
    }
    if depth >= MAX_DEPTH {
        return Err(rule("nvlist: nested too deep"));
    }
    Ok(NvList { flags, pairs: Vec::new() })
}

fn xdr_list(r: &mut Reader<'_>, depth: usize) -> Result<NvList> {
    let (version, flags) = (r.be32()?, r.be32()?);
    let mut list = start(version, flags, depth)?;
    loop {
        let (_encoded, decoded) = (r.be32()?, r.be32()?);
        if decoded == 0 {
            return Ok(list);
        }
        let name = r.xdr_string()?;
        let (ty, count) = (r.be32()?, r.be32()? as usize);
        let value = xdr_value(r, ty, count, depth)?;
        list.push(&name, value);
    }
}

/// An XDR array: its count again, then its elements.
fn xdr_array<T>(
    r: &mut Reader<'_>,
    count: usize,
    mut element: impl FnMut(&mut Reader<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    if count == 0 {
        return Ok(Vec::new());
    }
    if r.be32()? as usize != count {
        return Err(rule("nvlist: array counts disagree"));
    }
    let mut out = Vec::new();
    for _ in 0..count {
        out.push(element(r)?);
    }
    Ok(out)
}

fn xdr_value(r: &mut Reader<'_>, ty: u32, count: usize, depth: usize) -> Result<Value> {
    let scalar = !matches!(ty, 10..=17 | 20 | 24..=26);
    if scalar && count != 1 && !(ty == 1 && count == 0) {
        return Err(rule("nvlist: a scalar with a count"));
    }
    Ok(match ty {
        1 => Value::Boolean,
        2 => Value::Byte(r.be32()? as u8),
        3 => Value::Int16(r.be32()? as i16),
        4 => Value::Uint16(r.be32()? as u16),
        5 => Value::Int32(r.be32()? as i32),
        6 => Value::Uint32(r.be32()?),
        7 => Value::Int64(r.be64()? as i64),
        8 => Value::Uint64(r.be64()?),
        9 => Value::String(r.xdr_string()?),
        10 => Value::ByteArray(r.opaque(count)?.into()),
        11 => Value::Int16Array(xdr_array(r, count, |r| Ok(r.be32()? as i16))?),
        12 => Value::Uint16Array(xdr_array(r, count, |r| Ok(r.be32()? as u16))?),
        13 => Value::Int32Array(xdr_array(r, count, |r| Ok(r.be32()? as i32))?),
        14 => Value::Uint32Array(xdr_array(r, count, |r| r.be32())?),
        15 => Value::Int64Array(xdr_array(r, count, |r| Ok(r.be64()? as i64))?),
        16 => Value::Uint64Array(xdr_array(r, count, |r| r.be64())?),
        17 => {
            let mut strings = Vec::new();
            for _ in 0..count {
                strings.push(r.xdr_string()?);
            }
            Value::StringArray(strings)
        }
        18 => Value::Hrtime(r.be64()? as i64),
        19 => Value::NvList(xdr_list(r, depth + 1)?),
        20 => {
            let mut lists = Vec::new();
            for _ in 0..count {
                lists.push(xdr_list(r, depth + 1)?);
            }
            Value::NvListArray(lists)
        }
        21 => Value::BooleanValue(r.be32()? != 0),
        22 => Value::Int8(r.be32()? as i8),
        23 => Value::Uint8(r.be32()? as u8),
        24 => Value::BooleanArray(xdr_array(r, count, |r| Ok(r.be32()? != 0))?),
        25 => Value::Int8Array(xdr_array(r, count, |r| Ok(r.be32()? as i8))?),
        26 => Value::Uint8Array(xdr_array(r, count, |r| Ok(r.be32()? as u8))?),
        27 => Value::Double(f64::from_bits(r.be64()?)),
        _ => return Err(rule("nvlist: unknown data type")),
    })
}

/// Pairs of a native list up to the end mark. A pair is a fixed head, its name and its value, both padded to eight
/// bytes; the pairs of embedded lists follow the pair that holds them.
fn native_pairs(r: &mut Reader<'_>, version: u32, flags: u32, depth: usize) -> Result<NvList> {
    const HEAD: usize = 16;
    let mut list = start(version, flags, depth)?;
    loop {
        let size = r.le32()? as usize;
        if size == 0 {
            return Ok(list);
        }
        let mut pair = Reader { bytes: r.take(size.checked_sub(4).ok_or(SHORT)?)? };
        let name_size = usize::from(u16::from_le_bytes(pair.array()?));
        pair.array::<2>()?;
        let (count, ty) = (pair.le32()? as usize, pair.le32()?);
        let name = match pair.take(name_size)?.split_last() {
            Some((0, name)) => text(name),
            _ => return Err(rule("nvlist: name without an end")),
        };
        // The last pair's padding may be missing if nothing follows the name.
        let padding = (HEAD + name_size).next_multiple_of(8) - (HEAD + name_size);
        pair.take(padding.min(pair.bytes.len()))?;
        let value = native_value(r, &mut pair, ty, count, depth)?;
        list.push(&name, value);
    }
}

fn native_array<const N: usize, T>(
    r: &mut Reader<'_>,
    count: usize,
    f: impl Fn([u8; N]) -> T,
) -> Result<Vec<T>> {
    let bytes = r.take(count.checked_mul(N).ok_or(SHORT)?)?;
    Ok(bytes.as_chunks::<N>().0.iter().map(|chunk| f(*chunk)).collect())
}

fn c_string(bytes: &mut &[u8]) -> Result<String> {
    let end = bytes.iter().position(|&b| b == 0).ok_or(rule("nvlist: string without an end"))?;
    let string = text(&bytes[..end]);
    *bytes = &bytes[end + 1..];
    Ok(string)
}

fn native_value(
    r: &mut Reader<'_>,
    pair: &mut Reader<'_>,
    ty: u32,
    count: usize,
    depth: usize,
) -> Result<Value> {
    let p = pair;
    Ok(match ty {
        1 => Value::Boolean,
        2 => Value::Byte(p.array::<1>()?[0]),
        3 => Value::Int16(i16::from_le_bytes(p.array()?)),
        4 => Value::Uint16(u16::from_le_bytes(p.array()?)),
        5 => Value::Int32(i32::from_le_bytes(p.array()?)),
        6 => Value::Uint32(p.le32()?),
        7 => Value::Int64(i64::from_le_bytes(p.array()?)),
        8 => Value::Uint64(u64::from_le_bytes(p.array()?)),
        9 => Value::String(c_string(&mut p.bytes)?),
        10 => Value::ByteArray(p.take(count)?.into()),
        11 => Value::Int16Array(native_array(p, count, i16::from_le_bytes)?),
        12 => Value::Uint16Array(native_array(p, count, u16::from_le_bytes)?),
        13 => Value::Int32Array(native_array(p, count, i32::from_le_bytes)?),
        14 => Value::Uint32Array(native_array(p, count, u32::from_le_bytes)?),
        15 => Value::Int64Array(native_array(p, count, i64::from_le_bytes)?),
        16 => Value::Uint64Array(native_array(p, count, u64::from_le_bytes)?),
        17 => {
            p.take(count.checked_mul(8).ok_or(SHORT)?)?;
            let mut strings = Vec::new();
            for _ in 0..count {
                strings.push(c_string(&mut p.bytes)?);
            }
            Value::StringArray(strings)
        }
        18 => Value::Hrtime(i64::from_le_bytes(p.array()?)),
        19 => {
            let (version, flags) = native_embedded(p)?;
            Value::NvList(native_pairs(r, version, flags, depth + 1)?)
        }
        20 => {
            p.take(count.checked_mul(8).ok_or(SHORT)?)?;
            let mut lists = Vec::new();
            for _ in 0..count {
                let (version, flags) = native_embedded(p)?;
                lists.push(native_pairs(r, version, flags, depth + 1)?);
            }
            Value::NvListArray(lists)
        }
        21 => Value::BooleanValue(p.le32()? != 0),
        22 => Value::Int8(p.array::<1>()?[0] as i8),
        23 => Value::Uint8(p.array::<1>()?[0]),
        24 => Value::BooleanArray(native_array(p, count, |b| u32::from_le_bytes(b) != 0)?),
        25 => Value::Int8Array(native_array(p, count, i8::from_le_bytes)?),
        26 => Value::Uint8Array(p.take(count)?.into()),
        27 => Value::Double(f64::from_bits(u64::from_le_bytes(p.array()?))),
        _ => return Err(rule("nvlist: unknown data type")),
    })
}

/// The `nvlist_t` of an embedded list as it stood in memory: version and flags matter, pointers do not.
fn native_embedded(p: &mut Reader<'_>) -> Result<(u32, u32)> {
    let (version, flags) = (p.le32()?, p.le32()?);
    p.take(16)?;
    Ok((version, flags))
}
