//! The suites: AES in CCM and GCM mode.

use crate::error::{Error, Result};
use crate::ondisk::crypt::{IV_SIZE, KEY_SIZE, MAC_SIZE};
use aes::{Aes128, Aes192, Aes256};
use aes_gcm::AesGcm;
use aes_gcm::aead::consts::{U12, U16};
use aes_gcm::aead::{AeadInOut, KeyInit, Nonce, Tag};
use alloc::boxed::Box;
use alloc::format;
use ccm::Ccm;
use platform::thread::use_vectors;

/// A cipher with its mode, as numbered by the property `encryption` (`enum zio_encrypt`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// `aes-128-ccm`.
    Aes128Ccm = 3,
    /// `aes-192-ccm`.
    Aes192Ccm = 4,
    /// `aes-256-ccm`.
    Aes256Ccm = 5,
    /// `aes-128-gcm`.
    Aes128Gcm = 6,
    /// `aes-192-gcm`.
    Aes192Gcm = 7,
    /// `aes-256-gcm`.
    Aes256Gcm = 8,
}

impl Suite {
    /// All of them.
    pub const ALL: [Suite; 6] = [
        Suite::Aes128Ccm,
        Suite::Aes192Ccm,
        Suite::Aes256Ccm,
        Suite::Aes128Gcm,
        Suite::Aes192Gcm,
        Suite::Aes256Gcm,
    ];

    /// The suite of that number.
    pub fn from_raw(raw: u64) -> Result<Self> {
        let known = Suite::ALL.into_iter().find(|suite| *suite as u64 == raw);
        known.ok_or_else(|| Error::unsupported(format!("encryption suite {raw}")))
    }

    /// Bytes of its keys.
    #[must_use]
    pub fn key_len(self) -> usize {
        match self {
            Suite::Aes128Ccm | Suite::Aes128Gcm => 16,
            Suite::Aes192Ccm | Suite::Aes192Gcm => 24,
            Suite::Aes256Ccm | Suite::Aes256Gcm => 32,
        }
    }

    /// The suite of the same mode with the longest keys: what wraps other keys.
    #[must_use]
    pub(super) fn of_wrapping(self) -> Self {
        match self {
            Suite::Aes128Ccm | Suite::Aes192Ccm | Suite::Aes256Ccm => Suite::Aes256Ccm,
            Suite::Aes128Gcm | Suite::Aes192Gcm | Suite::Aes256Gcm => Suite::Aes256Gcm,
        }
    }
}

/// Keys are scheduled once and used for many blocks, so they are kept in boxes.
pub(super) enum Cipher {
    Ccm128(Box<Ccm<Aes128, U16, U12>>),
    Ccm192(Box<Ccm<Aes192, U16, U12>>),
    Ccm256(Box<Ccm<Aes256, U16, U12>>),
    Gcm128(Box<AesGcm<Aes128, U12>>),
    Gcm192(Box<AesGcm<Aes192, U12>>),
    Gcm256(Box<AesGcm<Aes256, U12>>),
}

/// The MAC is not that of the bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Forged;

fn make<T: KeyInit>(key: &[u8]) -> Result<Box<T>> {
    T::new_from_slice(key)
        .map(Box::new)
        .map_err(|_| Error::Invalid("a key of another length than its suite's"))
}

fn open_with<T: AeadInOut>(
    cipher: &T,
    iv: &[u8; IV_SIZE],
    aad: &[u8],
    data: &mut [u8],
    mac: &[u8; MAC_SIZE],
) -> core::result::Result<(), Forged> {
    let (Ok(nonce), Ok(tag)) = (<&Nonce<T>>::try_from(&iv[..]), <&Tag<T>>::try_from(&mac[..])) else {
        return Err(Forged);
    };
    cipher.decrypt_inout_detached(nonce, aad, data.into(), tag).map_err(|_| Forged)
}

impl Cipher {
    /// A cipher with a key, of which the suite takes as many bytes as its keys have.
    pub(super) fn new(suite: Suite, key: &[u8; KEY_SIZE]) -> Result<Self> {
        use_vectors();
        let key = &key[..suite.key_len()];
        Ok(match suite {
            Suite::Aes128Ccm => Cipher::Ccm128(make(key)?),
            Suite::Aes192Ccm => Cipher::Ccm192(make(key)?),
            Suite::Aes256Ccm => Cipher::Ccm256(make(key)?),
            Suite::Aes128Gcm => Cipher::Gcm128(make(key)?),
            Suite::Aes192Gcm => Cipher::Gcm192(make(key)?),
            Suite::Aes256Gcm => Cipher::Gcm256(make(key)?),
        })
    }

    /// Decrypts in place. `data` is meaningless if it was forged.
    pub(super) fn open(
        &self,
        iv: &[u8; IV_SIZE],
        aad: &[u8],
        data: &mut [u8],
        mac: &[u8; MAC_SIZE],
    ) -> core::result::Result<(), Forged> {
        use_vectors();
        match self {
            Cipher::Ccm128(cipher) => open_with(&**cipher, iv, aad, data, mac),
            Cipher::Ccm192(cipher) => open_with(&**cipher, iv, aad, data, mac),
            Cipher::Ccm256(cipher) => open_with(&**cipher, iv, aad, data, mac),
            Cipher::Gcm128(cipher) => open_with(&**cipher, iv, aad, data, mac),
            Cipher::Gcm192(cipher) => open_with(&**cipher, iv, aad, data, mac),
            Cipher::Gcm256(cipher) => open_with(&**cipher, iv, aad, data, mac),
        }
    }
}
