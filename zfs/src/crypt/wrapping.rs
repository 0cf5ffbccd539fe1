//! Wrapping keys: what a user gives, in each of the formats. Source: `get_key_material`, `derive_key`
//! (`lib/libzfs/libzfs_crypto.c`), `zfs-load-key(8)`.

use crate::error::{Error, Result};
use crate::ondisk::crypt::KEY_SIZE;
use core::fmt;
use platform::thread::use_vectors;
use sha1::Sha1;
use zeroize::Zeroizing;

/// Length of a passphrase in bytes (`MIN_PASSPHRASE_LEN`, `MAX_PASSPHRASE_LEN`).
const PASSPHRASE: core::ops::RangeInclusive<usize> = 8..=512;
/// More iterations than these are taken for damage: they would take minutes.
const ITERATIONS_MAX: u64 = 100_000_000;

/// How a key is written: the property `keyformat` (`zfs_keyformat_t`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyFormat {
    /// 32 bytes.
    Raw = 1,
    /// 64 hexadecimal digits.
    Hex = 2,
    /// 8 to 512 bytes, from which a key is derived.
    Passphrase = 3,
}

/// How a passphrase becomes a key: the properties `pbkdf2salt` and `pbkdf2iters`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pbkdf2 {
    /// The salt.
    pub salt: u64,
    /// So often the hash is applied.
    pub iterations: u64,
}

/// The key of an encryption root.
pub struct WrappingKey(Zeroizing<[u8; KEY_SIZE]>);

impl fmt::Debug for WrappingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WrappingKey")
    }
}

impl KeyFormat {
    /// The format of that number.
    pub fn from_raw(raw: u64) -> Result<Self> {
        match raw {
            1 => Ok(KeyFormat::Raw),
            2 => Ok(KeyFormat::Hex),
            3 => Ok(KeyFormat::Passphrase),
            _ => Err(Error::corrupt("encryption key: unknown key format", None)),
        }
    }

    /// The property's value.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            KeyFormat::Raw => "raw",
            KeyFormat::Hex => "hex",
            KeyFormat::Passphrase => "passphrase",
        }
    }
}

impl WrappingKey {
    /// From what a user typed, or what is in the file that `keylocation` names: of a hex key or a passphrase the first line.
    /// [`Error::Invalid`] says what is wrong with it.
    pub fn new(format: KeyFormat, material: &[u8], pbkdf2: Pbkdf2) -> Result<Self> {
        let mut key = Zeroizing::new([0; KEY_SIZE]);
        let line = material.split(|b| *b == b'\n').next().unwrap_or_default();
        match format {
            KeyFormat::Raw => {
                let bytes = <&[u8; KEY_SIZE]>::try_from(material);
                key.copy_from_slice(bytes.map_err(|_| Error::Invalid("a raw key has 32 bytes"))?);
            }
            KeyFormat::Hex => {
                let bad = Error::Invalid("a hex key has 64 hexadecimal digits");
                if line.len() != 2 * KEY_SIZE {
                    return Err(bad);
                }
                for (byte, digits) in key.iter_mut().zip(line.chunks(2)) {
                    let digit = |i: usize| char::from(digits[i]).to_digit(16);
                    let (Some(high), Some(low)) = (digit(0), digit(1)) else { return Err(bad) };
                    *byte = (high << 4 | low) as u8;
                }
            }
            KeyFormat::Passphrase => {
                if !PASSPHRASE.contains(&line.len()) {
                    return Err(Error::Invalid("a passphrase has 8 to 512 characters"));
                }
                if !(1..=ITERATIONS_MAX).contains(&pbkdf2.iterations) {
                    return Err(Error::corrupt("encryption key: pbkdf2iters out of range", None));
                }
                use_vectors();
                let salt = pbkdf2.salt.to_le_bytes();
                pbkdf2::pbkdf2_hmac::<Sha1>(line, &salt, pbkdf2.iterations as u32, &mut *key);
            }
        }
        Ok(WrappingKey(key))
    }

    pub(super) fn bytes(&self) -> &[u8; KEY_SIZE] {
        &self.0
    }
}
