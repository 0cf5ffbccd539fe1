//! System attributes: a file's attributes, packed in the order of a numbered layout. Source: `include/sys/sa_impl.h`.
//!
//! ```text
//! 0 magic u32 · 4 layout number (10 bits) and header size / 8 (6 bits) u16 · 6 lengths u16[] of the variable ones
//! header size: values, each at a multiple of 8
//! ```
//! An objset registers its attributes (name → number, length) and its layouts (number → attribute numbers) in two ZAPs.

use crate::error::{Error, Result};
use alloc::vec::Vec;

/// `SA_MAGIC`.
pub const MAGIC: u32 = 0x002f_505a;
/// Smallest header, in bytes: it has room for one length.
const MIN_HEADER: usize = 8;

/// An attribute of the ZPL, by its place in `zfs_attr_table`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
#[expect(missing_docs, reason = "the names are those of zfs_attr_table without ZPL_")]
pub enum Zpl {
    Atime = 0,
    Mtime = 1,
    Ctime = 2,
    Crtime = 3,
    Gen = 4,
    Mode = 5,
    Size = 6,
    Parent = 7,
    Links = 8,
    Xattr = 9,
    Rdev = 10,
    Flags = 11,
    Uid = 12,
    Gid = 13,
    Pad = 14,
    ZnodeAcl = 15,
    DaclCount = 16,
    Symlink = 17,
    Scanstamp = 18,
    DaclAces = 19,
    Dxattr = 20,
    Projid = 21,
}

/// What the format says of an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute {
    /// Its name in the registry.
    pub name: &'static str,
    /// Its length in bytes; 0 if it varies.
    pub len: u16,
    /// How its bytes are swapped (`sa_bswap_type_t`).
    pub byteswap: u8,
}

const fn attribute(name: &'static str, len: u16, byteswap: u8) -> Attribute {
    Attribute { name, len, byteswap }
}

/// The attributes of the ZPL, indexed by [`Zpl`] (`zfs_attr_table`).
pub const ZPL_ATTRIBUTES: [Attribute; 22] = [
    attribute("ZPL_ATIME", 16, 0),
    attribute("ZPL_MTIME", 16, 0),
    attribute("ZPL_CTIME", 16, 0),
    attribute("ZPL_CRTIME", 16, 0),
    attribute("ZPL_GEN", 8, 0),
    attribute("ZPL_MODE", 8, 0),
    attribute("ZPL_SIZE", 8, 0),
    attribute("ZPL_PARENT", 8, 0),
    attribute("ZPL_LINKS", 8, 0),
    attribute("ZPL_XATTR", 8, 0),
    attribute("ZPL_RDEV", 8, 0),
    attribute("ZPL_FLAGS", 8, 0),
    attribute("ZPL_UID", 8, 0),
    attribute("ZPL_GID", 8, 0),
    attribute("ZPL_PAD", 32, 0),
    attribute("ZPL_ZNODE_ACL", 88, 3),
    attribute("ZPL_DACL_COUNT", 8, 0),
    attribute("ZPL_SYMLINK", 0, 3),
    attribute("ZPL_SCANSTAMP", 32, 3),
    attribute("ZPL_DACL_ACES", 0, 4),
    attribute("ZPL_DXATTR", 0, 3),
    attribute("ZPL_PROJID", 8, 0),
];

/// A registry entry's value: number, byteswap and length (`ATTR_NUM`, `ATTR_BSWAP`, `ATTR_LENGTH`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registered {
    /// The attribute's number in this objset.
    pub number: u16,
    /// Its length in bytes; 0 if it varies.
    pub len: u16,
    /// How its bytes are swapped.
    pub byteswap: u8,
}

impl Registered {
    /// Reads a registry entry.
    #[must_use]
    pub fn from_raw(raw: u64) -> Self {
        Registered { number: raw as u16, byteswap: (raw >> 16) as u8, len: (raw >> 24) as u16 }
    }

    /// The registry entry.
    #[must_use]
    pub fn to_raw(self) -> u64 {
        u64::from(self.number) | u64::from(self.byteswap) << 16 | u64::from(self.len) << 24
    }
}

/// The start of a buffer of attributes (`sa_hdr_phys_t`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Number of the layout.
    pub layout: u16,
    /// Where the values start, in bytes.
    pub size: usize,
}

impl Header {
    /// Reads and checks it.
    pub fn parse(buffer: &[u8]) -> Result<Self> {
        let bad = |rule| Error::corrupt(rule, None);
        let magic = buffer.first_chunk::<4>().map(|m| u32::from_le_bytes(*m));
        if magic != Some(MAGIC) {
            return Err(bad("system attributes: bad magic"));
        }
        let info = u16_at(buffer, 4).ok_or(bad("system attributes: buffer too short"))?;
        let size = usize::from(info >> 10) * 8;
        if size < MIN_HEADER || size > buffer.len() {
            return Err(bad("system attributes: header size out of range"));
        }
        Ok(Header { layout: info & 0x3ff, size })
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk::<2>().map(|b| u16::from_le_bytes(*b))
}

/// Takes a buffer apart: `layout` lists the attributes with their registered lengths (0: varies).
pub fn parse<'a>(buffer: &'a [u8], layout: &[(u16, u16)]) -> Result<Vec<(u16, &'a [u8])>> {
    let header = Header::parse(buffer)?;
    let short = || Error::corrupt("system attributes: a value lies outside its buffer", None);
    let mut values = Vec::with_capacity(layout.len().min(64));
    let mut at = header.size;
    let mut lengths = 6;
    for &(number, registered) in layout {
        let mut len = usize::from(registered);
        if registered == 0 {
            if lengths + 2 > header.size {
                return Err(Error::corrupt("system attributes: more variable values than lengths", None));
            }
            len = usize::from(u16_at(buffer, lengths).ok_or_else(short)?);
            lengths += 2;
        }
        values.push((number, buffer.get(at..at + len).ok_or_else(short)?));
        at += len.next_multiple_of(8);
    }
    Ok(values)
}

/// Size of the header before values of which `variable` have no fixed length, in bytes.
#[must_use]
pub fn header_size(variable: usize) -> usize {
    (MIN_HEADER + 2 * variable.saturating_sub(1)).next_multiple_of(8)
}

/// Packs values in the order of a layout; the flag says whether a value's length varies.
#[must_use]
pub fn emit<'v>(layout: u16, values: impl Iterator<Item = (&'v [u8], bool)> + Clone) -> Vec<u8> {
    let size = header_size(values.clone().filter(|(_, variable)| *variable).count());
    let total = values.clone().fold(size, |sum, (value, _)| sum + value.len().next_multiple_of(8));
    let mut out = Vec::with_capacity(total);
    out.resize(size, 0);
    out[..4].copy_from_slice(&MAGIC.to_le_bytes());
    let info = layout & 0x3ff | ((size / 8) as u16) << 10;
    out[4..6].copy_from_slice(&info.to_le_bytes());
    let mut lengths = 6;
    for (value, variable) in values {
        if variable {
            out[lengths..lengths + 2].copy_from_slice(&(value.len() as u16).to_le_bytes());
            lengths += 2;
        }
        out.extend_from_slice(value);
        out.resize(out.len().next_multiple_of(8), 0);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back() {
        let name = b"target/of/link";
        let packed = emit(4, [(&[1; 8][..], false), (name, true), (&[2; 24], true), (&[], true)].into_iter());
        assert_eq!(Header::parse(&packed).unwrap(), Header { layout: 4, size: 16 });
        let values = parse(&packed, &[(5, 8), (17, 0), (19, 0), (20, 0)]).unwrap();
        assert_eq!(values, [(5, &[1; 8][..]), (17, &name[..]), (19, &[2; 24][..]), (20, &[][..])]);
        for cut in 0..packed.len() {
            let _ = parse(&packed[..cut], &[(5, 8), (17, 0), (19, 0), (20, 0)]);
        }
        assert!(parse(&packed, &[(1, 0); 9]).is_err());
    }

    #[test]
    fn registry_entries_come_back() {
        // As OpenZFS wrote ZPL_SCANSTAMP.
        let entry = Registered::from_raw(0x2003_0012);
        assert_eq!(entry, Registered { number: 18, len: 32, byteswap: 3 });
        assert_eq!(entry.to_raw(), 0x2003_0012);
    }
}
