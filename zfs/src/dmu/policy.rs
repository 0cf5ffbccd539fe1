//! How a block is to be written. Source: `dmu_write_policy` (`dmu.c`), `zio_write_compress` (`zio.c`).

use crate::checksum::Checksum;
use crate::compress::Compression;
use crate::dmu::objset::{RedundantMetadata, Settings};
use crate::error::Result;
use crate::ondisk::object_type::ObjectType;
use crate::zio::WritePolicy;

/// From this sync pass on, blocks of the syncing txg are rewritten in place (`zfs_sync_pass_rewrite`).
pub(crate) const PASS_REWRITE: u32 = 2;
/// From this sync pass on, nothing is compressed, so that sizes stop changing (`zfs_sync_pass_dont_compress`).
const PASS_DONT_COMPRESS: u32 = 8;
/// Indirect blocks from this level on get another copy with `redundant_metadata=most`.
const MOST_DITTO_LEVEL: u8 = 2;

/// What a block is.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) object_type: ObjectType,
    pub(crate) level: u8,
    pub(crate) spill: bool,
    /// The dnode's overrides, by their numbers on disk; 0 inherits.
    pub(crate) checksum: u8,
    pub(crate) compress: u8,
}

impl Kind {
    pub(crate) fn new(object_type: ObjectType, level: u8) -> Self {
        Kind { object_type, level, spill: false, checksum: 0, compress: 0 }
    }
}

/// The policy for a block, with that fill count.
pub(crate) fn policy(settings: &Settings, pass: u32, kind: Kind, fill: u64) -> Result<WritePolicy> {
    let Kind { object_type, level, .. } = kind;
    let metadata = level > 0 || kind.spill || object_type.is_metadata();
    let (checksum, mut compression, mut copies);
    if metadata {
        checksum = metadata_checksum(settings.checksum);
        compression = if settings.lz4 { Compression::Lz4 } else { Compression::Lzjb };
        let critical = object_type.is_critical(level);
        copies = settings.copies
            + u8::from(match settings.redundant_metadata {
                RedundantMetadata::All => true,
                RedundantMetadata::Most => level >= MOST_DITTO_LEVEL || critical,
                RedundantMetadata::Some => critical,
                RedundantMetadata::None => false,
            });
    } else {
        let own = Checksum::from_raw(kind.checksum)?;
        checksum = if own == Checksum::Inherit { settings.checksum.resolve() } else { own.resolve() };
        compression = compression_of(kind.compress).unwrap_or(settings.compression);
        copies = settings.copies;
    }
    if pass >= PASS_DONT_COMPRESS {
        compression = Compression::Off;
    }
    copies = copies.clamp(1, 3);
    let compresses = compression != Compression::Off;
    Ok(WritePolicy {
        object_type: object_type.0,
        level,
        checksum,
        compression,
        copies,
        special_small: settings.special_small,
        fill,
        may_embed: compresses && settings.embedded_data && level == 0 && !object_type.has_fill(),
        may_hole: compresses && object_type != ObjectType::OBJSET,
        authenticated: false,
    })
}

/// Metadata is always checksummed, by a function that finds every burst of errors.
fn metadata_checksum(data: Checksum) -> Checksum {
    match data.resolve() {
        strong @ (Checksum::Sha256
        | Checksum::Sha512
        | Checksum::Skein
        | Checksum::Edonr
        | Checksum::Blake3) => strong,
        _ => Checksum::Fletcher4,
    }
}

/// The function of a dnode's override; `None` if it inherits (or names none that we know).
fn compression_of(raw: u8) -> Option<Compression> {
    match raw {
        1 | 15 => Some(Compression::Lz4),
        2 => Some(Compression::Off),
        3 => Some(Compression::Lzjb),
        5..=13 => Some(Compression::Gzip(raw - 4)),
        14 => Some(Compression::Zle),
        16 => Some(Compression::Zstd(3)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ondisk::objset::ObjsetKind;

    #[test]
    fn metadata_has_more_copies_and_a_real_checksum() {
        let mut settings = Settings::default_of(ObjsetKind::Zfs);
        settings.checksum = Checksum::Off;
        settings.compression = Compression::Off;
        let of = |ty, level| policy(&settings, 1, Kind::new(ty, level), 1).unwrap();
        let data = of(ObjectType::PLAIN_FILE_CONTENTS, 0);
        assert_eq!((data.checksum, data.copies, data.may_embed), (Checksum::Off, 1, false));
        let indirect = of(ObjectType::PLAIN_FILE_CONTENTS, 1);
        assert_eq!((indirect.checksum, indirect.copies), (Checksum::Fletcher4, 2));
        assert!(!of(ObjectType::DNODE, 0).may_embed && of(ObjectType::DIRECTORY_CONTENTS, 0).may_embed);
        let late = policy(&settings, 8, Kind::new(ObjectType::SPACE_MAP, 0), 1).unwrap();
        assert_eq!(late.compression, Compression::Off);
    }
}
