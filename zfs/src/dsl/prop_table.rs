//! The table of native properties: names, allowed values, defaults and to whom they apply. Source: `zfs_prop_init`
//! (`module/zcommon/zfs_prop.c`), enumerations of `include/sys/fs/zfs.h` and `include/sys/zio.h`.
//!
//! The order is that of `zfs get all`. Defaults are those of OpenZFS 2.1, so that an unset property means the same to it as to us.

use super::prop::Value;
use crate::compress::Compression as Compress;
use crate::error::{Error, Result};
use alloc::format;
use alloc::string::{String, ToString};

/// Applies to file systems.
pub(crate) const FS: u8 = 1;
/// Applies to volumes.
pub(crate) const VOL: u8 = 2;
/// Applies to snapshots.
pub(crate) const SNAP: u8 = 4;
const BOTH: u8 = FS | VOL;
const ALL: u8 = FS | VOL | SNAP;

/// Names of enumerated values; the first name of a value is the one shown.
pub(crate) type Names = &'static [(&'static str, u64)];

/// How a value looks.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Form {
    /// One of a list.
    Index(Names),
    /// Compression: a list with levels packed in.
    Compression,
    /// Bytes; `none` is 0.
    Bytes,
    /// A number; `none` is the largest.
    Limit,
    /// A plain number.
    Number,
    /// Text.
    Text,
}

/// Who may change it, and whether it is inherited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// A statistic.
    ReadOnly,
    /// Settable, not inherited.
    Own,
    /// Settable and inherited.
    Inherit,
    /// Only when the dataset is created.
    Once,
}

/// A property.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Definition {
    pub(crate) name: &'static str,
    pub(crate) form: Form,
    pub(crate) rule: Rule,
    pub(crate) kinds: u8,
    pub(crate) default: u64,
    pub(crate) default_text: &'static str,
}

const fn index(name: &'static str, rule: Rule, kinds: u8, default: u64, names: Names) -> Definition {
    Definition { name, form: Form::Index(names), rule, kinds, default, default_text: "" }
}
const fn stat(name: &'static str, form: Form, kinds: u8) -> Definition {
    Definition { name, form, rule: Rule::ReadOnly, kinds, default: 0, default_text: "" }
}
const fn number(name: &'static str, form: Form, rule: Rule, kinds: u8, default: u64) -> Definition {
    Definition { name, form, rule, kinds, default, default_text: "" }
}
const fn text(name: &'static str, rule: Rule, kinds: u8, default_text: &'static str) -> Definition {
    Definition { name, form: Form::Text, rule, kinds, default: 0, default_text }
}

const ON_OFF: Names = &[("off", 0), ("on", 1)];
const CACHE: Names = &[("none", 0), ("metadata", 1), ("all", 2)];
const HIDDEN: Names = &[("hidden", 0), ("visible", 1)];
const CHECKSUM: Names = &[
    ("on", 1),
    ("off", 2),
    ("fletcher2", 6),
    ("fletcher4", 7),
    ("sha256", 8),
    ("noparity", 10),
    ("sha512", 11),
    ("skein", 12),
    ("edonr", 13),
    ("blake3", 14),
];
const VERIFY: u64 = 1 << 8;
const DEDUP: Names = &[
    ("on", 1),
    ("off", 2),
    ("verify", 1 | VERIFY),
    ("sha256", 8),
    ("sha256,verify", 8 | VERIFY),
    ("sha512", 11),
    ("sha512,verify", 11 | VERIFY),
    ("skein", 12),
    ("skein,verify", 12 | VERIFY),
    ("edonr,verify", 13 | VERIFY),
    ("blake3", 14),
    ("blake3,verify", 14 | VERIFY),
];
const COMPRESSION: Names = &[
    ("on", 1),
    ("off", 2),
    ("lzjb", 3),
    ("gzip", 10),
    ("gzip-1", 5),
    ("gzip-2", 6),
    ("gzip-3", 7),
    ("gzip-4", 8),
    ("gzip-5", 9),
    ("gzip-6", 10),
    ("gzip-7", 11),
    ("gzip-8", 12),
    ("gzip-9", 13),
    ("zle", 14),
    ("lz4", 15),
    ("zstd", ZSTD),
    ("zstd-fast", 103 << COMPRESS_BITS | ZSTD),
];
/// Number of zstd in `enum zio_compress`.
const ZSTD: u64 = 16;
/// Bits of the algorithm in the property's value; the level is above (`SPA_COMPRESSBITS`).
pub(crate) const COMPRESS_BITS: u32 = 7;
/// The fast levels of zstd and how they are numbered (`enum zio_zstd_levels`).
const ZSTD_FAST: [(u64, u64); 21] = [
    (1, 103),
    (2, 104),
    (3, 105),
    (4, 106),
    (5, 107),
    (6, 108),
    (7, 109),
    (8, 110),
    (9, 111),
    (10, 112),
    (20, 113),
    (30, 114),
    (40, 115),
    (50, 116),
    (60, 117),
    (70, 118),
    (80, 119),
    (90, 120),
    (100, 121),
    (500, 122),
    (1000, 123),
];
const ACL_MODE: Names = &[("discard", 0), ("groupmask", 2), ("passthrough", 3), ("restricted", 4)];
const ACL_INHERIT: Names = &[
    ("discard", 0),
    ("noallow", 1),
    ("restricted", 4),
    ("passthrough", 3),
    ("secure", 4),
    ("passthrough-x", 5),
];
const ACL_TYPE: Names =
    &[("off", 0), ("posix", 1), ("nfsv4", 2), ("disabled", 0), ("noacl", 0), ("posixacl", 1)];
const XATTR: Names = &[("off", 0), ("on", 1), ("sa", 2), ("dir", 1)];
const CAN_MOUNT: Names = &[("off", 0), ("on", 1), ("noauto", 2)];
const COPIES: Names = &[("1", 1), ("2", 2), ("3", 3)];
const VERSION: Names = &[("1", 1), ("2", 2), ("3", 3), ("4", 4), ("5", 5), ("current", 5)];
const CASE: Names = &[("sensitive", 0), ("insensitive", 1), ("mixed", 2)];
const NORMALIZATION: Names =
    &[("none", 0), ("formD", 0x10), ("formKC", 0x60), ("formC", 0x50), ("formKD", 0x20)];
const LOGBIAS: Names = &[("latency", 0), ("throughput", 1)];
const SYNC: Names = &[("standard", 0), ("always", 1), ("disabled", 2)];
const DNODE_SIZE: Names =
    &[("legacy", 0), ("auto", 1), ("1k", 1024), ("2k", 2048), ("4k", 4096), ("8k", 8192), ("16k", 16384)];
const VOL_MODE: Names = &[("default", 0), ("full", 1), ("geom", 1), ("dev", 2), ("none", 3)];
const REDUNDANT: Names = &[("all", 0), ("most", 1), ("some", 2), ("none", 3)];
const CRYPTO: Names = &[
    ("on", 1),
    ("off", 2),
    ("aes-128-ccm", 3),
    ("aes-192-ccm", 4),
    ("aes-256-ccm", 5),
    ("aes-128-gcm", 6),
    ("aes-192-gcm", 7),
    ("aes-256-gcm", 8),
];
const KEY_FORMAT: Names = &[("none", 0), ("raw", 1), ("hex", 2), ("passphrase", 3)];
const KEY_STATUS: Names = &[("none", 0), ("unavailable", 1), ("available", 2)];

use Form::{Bytes, Compression, Limit, Number, Text};
use Rule::{Inherit, Once, Own};

/// All native properties, in the order of `zfs get all`.
pub(crate) static TABLE: &[Definition] = &[
    stat("type", Text, ALL),
    stat("creation", Number, ALL),
    stat("used", Bytes, ALL),
    stat("available", Bytes, BOTH),
    stat("referenced", Bytes, ALL),
    stat("compressratio", Number, ALL),
    stat("mounted", Text, FS),
    stat("origin", Text, BOTH),
    number("quota", Bytes, Own, FS, 0),
    number("reservation", Bytes, Own, BOTH, 0),
    number("volsize", Bytes, Own, VOL | SNAP, 0),
    number("volblocksize", Bytes, Once, VOL, 8192),
    number("recordsize", Bytes, Inherit, FS, 131_072),
    text("mountpoint", Inherit, FS, "/"),
    text("sharenfs", Inherit, FS, "off"),
    index("checksum", Inherit, BOTH, 1, CHECKSUM),
    number("compression", Compression, Inherit, BOTH, 2),
    index("atime", Inherit, FS, 1, ON_OFF),
    index("devices", Inherit, FS | SNAP, 1, ON_OFF),
    index("exec", Inherit, FS | SNAP, 1, ON_OFF),
    index("setuid", Inherit, FS | SNAP, 1, ON_OFF),
    index("readonly", Inherit, BOTH, 0, ON_OFF),
    index("zoned", Inherit, FS, 0, ON_OFF),
    index("snapdir", Inherit, FS, 0, HIDDEN),
    index("aclmode", Inherit, FS, 0, ACL_MODE),
    index("aclinherit", Inherit, FS, 4, ACL_INHERIT),
    stat("createtxg", Number, ALL),
    index("canmount", Own, FS, 1, CAN_MOUNT),
    index("xattr", Inherit, FS | SNAP, 1, XATTR),
    index("copies", Inherit, BOTH, 1, COPIES),
    index("version", Once, FS | SNAP, 5, VERSION),
    index("utf8only", Once, FS | SNAP, 0, ON_OFF),
    index("normalization", Once, FS | SNAP, 0, NORMALIZATION),
    index("casesensitivity", Once, FS | SNAP, 0, CASE),
    index("vscan", Inherit, FS, 0, ON_OFF),
    index("nbmand", Inherit, FS | SNAP, 0, ON_OFF),
    text("sharesmb", Inherit, FS, "off"),
    number("refquota", Bytes, Own, FS, 0),
    number("refreservation", Bytes, Own, BOTH, 0),
    stat("guid", Number, ALL),
    index("primarycache", Inherit, ALL, 2, CACHE),
    index("secondarycache", Inherit, ALL, 2, CACHE),
    stat("usedbysnapshots", Bytes, BOTH),
    stat("usedbydataset", Bytes, BOTH),
    stat("usedbychildren", Bytes, BOTH),
    stat("usedbyrefreservation", Bytes, BOTH),
    index("logbias", Inherit, BOTH, 0, LOGBIAS),
    stat("defer_destroy", Form::Index(ON_OFF), SNAP),
    stat("userrefs", Number, SNAP),
    stat("objsetid", Number, ALL),
    index("dedup", Inherit, BOTH, 2, DEDUP),
    text("mlslabel", Inherit, ALL, "none"),
    index("sync", Inherit, BOTH, 0, SYNC),
    index("dnodesize", Inherit, FS, 0, DNODE_SIZE),
    stat("refcompressratio", Number, ALL),
    stat("written", Bytes, ALL),
    stat("clones", Text, SNAP),
    stat("logicalused", Bytes, BOTH),
    stat("logicalreferenced", Bytes, ALL),
    index("volmode", Inherit, BOTH, 0, VOL_MODE),
    number("filesystem_limit", Limit, Own, FS, u64::MAX),
    number("snapshot_limit", Limit, Own, BOTH, u64::MAX),
    Definition { default: u64::MAX, ..stat("filesystem_count", Limit, FS) },
    Definition { default: u64::MAX, ..stat("snapshot_count", Limit, BOTH) },
    index("snapdev", Inherit, BOTH, 0, HIDDEN),
    index("acltype", Inherit, FS | SNAP, 0, ACL_TYPE),
    text("context", Own, ALL, "none"),
    text("fscontext", Own, ALL, "none"),
    text("defcontext", Own, ALL, "none"),
    text("rootcontext", Own, ALL, "none"),
    index("relatime", Inherit, FS, 0, ON_OFF),
    index("redundant_metadata", Inherit, BOTH, 0, REDUNDANT),
    index("overlay", Inherit, FS, 1, ON_OFF),
    index("encryption", Once, ALL, 2, CRYPTO),
    text("keylocation", Own, BOTH, "none"),
    index("keyformat", Once, BOTH, 0, KEY_FORMAT),
    number("pbkdf2iters", Number, Once, BOTH, 0),
    stat("encryptionroot", Text, ALL),
    stat("keystatus", Form::Index(KEY_STATUS), ALL),
    number("special_small_blocks", Bytes, Inherit, FS, 0),
    index("longname", Inherit, FS, 0, ON_OFF),
];

/// The definition by name, also by the short names that people type.
pub(crate) fn find(name: &str) -> Option<&'static Definition> {
    let name = match name {
        "avail" => "available",
        "refer" => "referenced",
        "ratio" => "compressratio",
        "compress" => "compression",
        "recsize" => "recordsize",
        "volblock" => "volblocksize",
        "reserv" => "reservation",
        "refreserv" => "refreservation",
        "lused" => "logicalused",
        "lrefer" => "logicalreferenced",
        "rdonly" => "readonly",
        "usedsnap" => "usedbysnapshots",
        "usedds" => "usedbydataset",
        "usedchild" => "usedbychildren",
        "usedrefreserv" => "usedbyrefreservation",
        "dnsize" => "dnodesize",
        name => name,
    };
    TABLE.iter().find(|d| d.name == name)
}

/// Whether the name is one of a user property: it has a colon and only the characters allowed (`zfs_prop_user`).
pub(crate) fn is_user(name: &str) -> bool {
    name.contains(':')
        && name.len() < 256
        && name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-_.:+".contains(&c))
}

/// Properties that live in the file system or volume itself, not in the property ZAP.
pub(crate) fn lives_in_objset(name: &str) -> bool {
    matches!(name, "version" | "utf8only" | "normalization" | "casesensitivity" | "volsize" | "volblocksize")
}

impl Definition {
    /// The value in words, exact.
    pub(crate) fn show(&self, value: &Value) -> String {
        let number = match value {
            Value::Text(text) => return text.clone(),
            Value::Number(number) => *number,
        };
        match self.form {
            Form::Index(names) => names
                .iter()
                .find(|(_, v)| *v == number)
                .map_or_else(|| number.to_string(), |(n, _)| (*n).to_string()),
            Form::Compression => show_compression(number),
            _ => number.to_string(),
        }
    }

    /// Reads a value that a user typed.
    pub(crate) fn read(&self, text: &str) -> Result<Value> {
        let value = match self.form {
            Form::Text => return Ok(Value::Text(text.to_string())),
            Form::Index(names) => names.iter().find(|(n, _)| *n == text).map(|(_, v)| *v),
            Form::Compression => read_compression(text),
            Form::Bytes if text == "none" => Some(0),
            Form::Limit if text == "none" => Some(u64::MAX),
            Form::Number | Form::Bytes | Form::Limit => read_number(text),
        };
        let value = value.ok_or(Error::Invalid("this property does not take that value"))?;
        let block_size = matches!(self.name, "recordsize" | "volblocksize");
        if block_size && !(value.is_power_of_two() && (512..=16 << 20).contains(&value)) {
            return Err(Error::Invalid("block size: must be a power of 2 from 512 to 16M"));
        }
        Ok(Value::Number(value))
    }

    /// What it is when nobody set it.
    pub(crate) fn default_value(&self) -> Value {
        match self.form {
            Form::Text => Value::Text(self.default_text.to_string()),
            _ => Value::Number(self.default),
        }
    }
}

/// What a value of the property `compression` writes with. `on` is lz4 where the pool has that feature.
pub(crate) fn compression_of(value: u64, lz4: bool) -> Result<Compress> {
    let (algorithm, level) = (value & ((1 << COMPRESS_BITS) - 1), value >> COMPRESS_BITS);
    Ok(match algorithm {
        0 | 2 => Compress::Off,
        1 if lz4 => Compress::Lz4,
        1 | 3 => Compress::Lzjb,
        5..=13 => Compress::Gzip(algorithm as u8 - 4),
        14 => Compress::Zle,
        15 => Compress::Lz4,
        ZSTD => match level {
            0 => Compress::Zstd(3),
            1..=19 => Compress::Zstd(level as u8),
            level => match ZSTD_FAST.iter().find(|(_, code)| *code == level) {
                Some((fast, _)) => Compress::ZstdFast(*fast as u16),
                None => return Err(Error::corrupt("property compression: unknown zstd level", None)),
            },
        },
        other => return Err(Error::unsupported(format!("compression function {other}"))),
    })
}

fn show_compression(value: u64) -> String {
    let (algorithm, level) = (value & ((1 << COMPRESS_BITS) - 1), value >> COMPRESS_BITS);
    if algorithm == ZSTD && level != 0 {
        return match ZSTD_FAST.iter().find(|(_, code)| *code == level) {
            Some((1, _)) => "zstd-fast".to_string(),
            Some((fast, _)) => format!("zstd-fast-{fast}"),
            None => format!("zstd-{level}"),
        };
    }
    COMPRESSION
        .iter()
        .find(|(_, v)| *v == algorithm)
        .map_or_else(|| value.to_string(), |(n, _)| (*n).to_string())
}

fn read_compression(text: &str) -> Option<u64> {
    if let Some((_, value)) = COMPRESSION.iter().find(|(n, _)| *n == text) {
        return Some(*value);
    }
    if let Some(fast) = text.strip_prefix("zstd-fast-") {
        let fast: u64 = fast.parse().ok()?;
        let (_, code) = ZSTD_FAST.iter().find(|(f, _)| *f == fast)?;
        return Some(code << COMPRESS_BITS | ZSTD);
    }
    let level: u64 = text.strip_prefix("zstd-")?.parse().ok()?;
    (1..=19).contains(&level).then_some(level << COMPRESS_BITS | ZSTD)
}

/// Reads `1536`, `1.5K`, `128k`, `2GiB`, … (`zfs_nicestrtonum`).
pub(crate) fn read_number(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (digits, suffix) = text.split_at(end);
    let suffix = suffix.to_ascii_lowercase();
    let suffix = suffix.strip_suffix("ib").or(suffix.strip_suffix('b')).unwrap_or(&suffix);
    let shift = match suffix {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        "e" => 60,
        _ => return None,
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let scale = 1u128 << shift;
    let mut value = whole.parse::<u64>().ok().map(u128::from)? * scale;
    if !fraction.is_empty() {
        let fraction = &fraction[..fraction.len().min(15)];
        let part: u128 = fraction.parse().ok()?;
        value += part * scale / 10u128.pow(u32::try_from(fraction.len()).ok()?);
    }
    u64::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_and_unique() {
        for (i, d) in TABLE.iter().enumerate() {
            assert!(core::ptr::eq(find(d.name).unwrap(), &TABLE[i]), "{}", d.name);
            assert!(!is_user(d.name));
        }
    }

    #[test]
    fn values_come_back_in_words() {
        for (property, words) in [
            ("compression", "zstd-19"),
            ("compression", "zstd-fast-1000"),
            ("compression", "zstd-fast"),
            ("compression", "zstd"),
            ("compression", "gzip"),
            ("compression", "gzip-9"),
            ("compression", "lz4"),
            ("checksum", "skein"),
            ("dedup", "sha256,verify"),
            ("xattr", "sa"),
            ("normalization", "formKC"),
            ("acltype", "posix"),
            ("canmount", "noauto"),
        ] {
            let d = find(property).unwrap();
            assert_eq!(d.show(&d.read(words).unwrap()), words);
        }
        let d = find("recordsize").unwrap();
        assert_eq!(d.read("1M"), Ok(Value::Number(1 << 20)));
        assert!(d.read("3K").is_err() && d.read("32M").is_err() && d.read("bread").is_err());
        assert!(find("compression").unwrap().read("zstd-20").is_err());
        assert_eq!(find("quota").unwrap().read("none"), Ok(Value::Number(0)));
    }

    #[test]
    fn numbers_with_suffixes() {
        for (text, value) in [
            ("0", 0),
            ("512", 512),
            ("1.5k", 1536),
            ("2GiB", 2 << 30),
            ("7m", 7 << 20),
            ("8KB", 8192),
            ("5b", 5),
        ] {
            assert_eq!(read_number(text), Some(value), "{text}");
        }
        for text in ["", "k", "1x", "-1", "99999999999999999999", "20e", "1.2.3"] {
            assert_eq!(read_number(text), None, "{text}");
        }
    }

    #[test]
    fn user_property_names() {
        assert!(is_user("tarn:cmd") && is_user("com.example:on-snap"));
        assert!(!is_user("nocolon") && !is_user("Upper:case") && !is_user("sp ace:x"));
    }
}
