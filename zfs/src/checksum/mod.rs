//! The checksum functions of the format. Source: `zio_checksum.c`.
//!
//! Everything here assumes data that was written little-endian; `zio` refuses other blocks.

mod edonr;
pub mod embedded;
pub mod fletcher;
mod skein;

use crate::error::{Error, Result};
use platform::thread::use_vectors;
use sha2::{Digest, Sha256, Sha512_256};

/// A checksum function, as numbered on disk (`enum zio_checksum`). Which a property may choose: `dsl` knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are those of the functions")]
pub enum Checksum {
    Inherit = 0,
    On = 1,
    Off = 2,
    Label = 3,
    GangHeader = 4,
    Zilog = 5,
    Fletcher2 = 6,
    Fletcher4 = 7,
    Sha256 = 8,
    Zilog2 = 9,
    Noparity = 10,
    Sha512 = 11,
    Skein = 12,
    Edonr = 13,
    Blake3 = 14,
}

impl Checksum {
    /// All functions by their numbers.
    pub const ALL: [Checksum; 15] = {
        use Checksum::{
            Blake3, Edonr, Fletcher2, Fletcher4, GangHeader, Inherit, Label, Noparity, Off, On, Sha256,
            Sha512, Skein, Zilog, Zilog2,
        };
        [
            Inherit, On, Off, Label, GangHeader, Zilog, Fletcher2, Fletcher4, Sha256, Zilog2, Noparity,
            Sha512, Skein, Edonr, Blake3,
        ]
    };

    /// The function of that number.
    pub fn from_raw(raw: u8) -> Result<Self> {
        let found = Self::ALL.get(usize::from(raw)).copied();
        found.ok_or_else(|| Error::unsupported(alloc::format!("checksum function {raw}")))
    }

    /// Its name, as properties and zdb have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        const NAMES: [&str; 15] = [
            "inherit",
            "on",
            "off",
            "label",
            "gang_header",
            "zilog",
            "fletcher2",
            "fletcher4",
            "sha256",
            "zilog2",
            "noparity",
            "sha512",
            "skein",
            "edonr",
            "blake3",
        ];
        NAMES[self as usize]
    }

    /// The function that really runs: `on` means fletcher4.
    #[must_use]
    pub fn resolve(self) -> Self {
        if matches!(self, Checksum::On | Checksum::Inherit) { Checksum::Fletcher4 } else { self }
    }

    /// Strong enough for metadata (`ZCHECKSUM_FLAG_METADATA`): metadata of datasets with a weaker one uses fletcher4.
    #[must_use]
    pub fn fit_for_metadata(self) -> bool {
        use Checksum::{Blake3, Edonr, Fletcher4, GangHeader, Label, Sha256, Sha512, Skein};
        matches!(self, Label | GangHeader | Fletcher4 | Sha256 | Sha512 | Skein | Edonr | Blake3)
    }

    /// Strong enough to find duplicates (`ZCHECKSUM_FLAG_DEDUP`).
    #[must_use]
    pub fn is_strong(self) -> bool {
        matches!(self, Checksum::Sha256 | Checksum::Sha512 | Checksum::Skein | Checksum::Blake3)
    }
}

/// What the salted functions prepare once from the pool's salt.
#[derive(Debug, Clone)]
pub struct Salted {
    skein: skein::Template,
    edonr: edonr::Template,
    blake3: [u8; 32],
}

impl Salted {
    /// Prepares for a salt.
    #[must_use]
    pub fn new(salt: &[u8; 32]) -> Self {
        Salted { skein: skein::Template::new(salt), edonr: edonr::Template::new(salt), blake3: *salt }
    }

    /// The checksum of a block by a function whose result stands in the block pointer. Functions that stand in the
    /// block itself (label, gang header, intent log) give their bare hash: see [`embedded`].
    #[must_use]
    pub fn checksum(&self, function: Checksum, data: &[u8]) -> [u64; 4] {
        match function.resolve() {
            Checksum::Inherit | Checksum::On | Checksum::Off | Checksum::Noparity => [0; 4],
            Checksum::Label | Checksum::GangHeader | Checksum::Sha256 => sha256(data),
            Checksum::Fletcher2 | Checksum::Zilog => fletcher::fletcher2(data),
            Checksum::Fletcher4 | Checksum::Zilog2 => fletcher::fletcher4(data),
            Checksum::Sha512 => {
                use_vectors();
                words(&Sha512_256::digest(data), u64::from_le_bytes)
            }
            Checksum::Skein => self.skein.checksum(data),
            Checksum::Edonr => self.edonr.checksum(data),
            Checksum::Blake3 => {
                use_vectors();
                words(blake3::keyed_hash(&self.blake3, data).as_bytes(), u64::from_le_bytes)
            }
        }
    }
}

/// SHA-256 as four big-endian words, the way ZFS has always kept it.
#[must_use]
pub fn sha256(data: &[u8]) -> [u64; 4] {
    use_vectors();
    words(&Sha256::digest(data), u64::from_be_bytes)
}

fn words(bytes: &[u8], word: fn([u8; 8]) -> u64) -> [u64; 4] {
    let mut out = [0; 4];
    for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *out = word(*bytes);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha256_of_abc() {
        let golden =
            [0xba78_16bf_8f01_cfea, 0x4141_40de_5dae_2223, 0xb003_61a3_9617_7a9c, 0xb410_ff61_f200_15ad];
        assert_eq!(sha256(b"abc"), golden);
    }

    #[test]
    fn every_number_is_its_own_function() {
        for raw in 0..15 {
            let function = Checksum::from_raw(raw).unwrap();
            assert_eq!(function as u8, raw);
        }
        assert_eq!(Checksum::from_raw(15), Err(Error::unsupported("checksum function 15")));
    }
}
