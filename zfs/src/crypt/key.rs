//! Master keys: opening them, and what they open.

use super::cipher::{Cipher, Forged, Suite};
use super::wrapping::WrappingKey;
use crate::error::{Error, Result};
use crate::ondisk::blkptr::Blkptr;
use crate::ondisk::bookmark::Bookmark;
use crate::ondisk::crypt::{
    HMAC_KEY_SIZE, IV_SIZE, KEY_SIZE, KEY_VERSION, Layout, MAC_SIZE, OBJSET_MAC_SIZE, ObjsetMacs, Params,
    SALT_SIZE, WrappedKey, indirect_input, log_block_mac,
};
use crate::ondisk::object_type::ObjectType;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use platform::sync::Mutex;
use platform::thread::use_vectors;
use sha2::{Digest, Sha512};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Keys of blocks that are kept, by their salts: a writer uses one salt for hundreds of millions of blocks.
const RECENT: usize = 8;

/// What a dataset's blocks are encrypted and authenticated with (`zio_crypt_key_t`).
pub struct MasterKey {
    suite: Suite,
    version: u64,
    master: Zeroizing<[u8; KEY_SIZE]>,
    hmac: Zeroizing<[u8; HMAC_KEY_SIZE]>,
    /// The newest is the last.
    recent: Mutex<Vec<([u8; SALT_SIZE], Arc<Cipher>)>>,
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey({:?})", self.suite)
    }
}

impl MasterKey {
    /// Opens a stored key (`zio_crypt_key_unwrap`). [`Error::WrongKey`] if it was wrapped by another.
    pub fn unwrap(wrapping: &WrappingKey, wrapped: &WrappedKey) -> Result<Self> {
        let suite = Suite::from_raw(wrapped.suite)?;
        if wrapped.version > KEY_VERSION {
            return Err(Error::unsupported(format!("encryption key of version {}", wrapped.version)));
        }
        let mut aad = wrapped.guid.to_le_bytes().to_vec();
        if wrapped.version != 0 {
            aad.extend_from_slice(&wrapped.suite.to_le_bytes());
            aad.extend_from_slice(&wrapped.version.to_le_bytes());
        }
        let len = suite.key_len();
        let mut data = Zeroizing::new(Vec::with_capacity(KEY_SIZE + HMAC_KEY_SIZE));
        data.extend_from_slice(&wrapped.master[..len]);
        data.extend_from_slice(&wrapped.hmac);
        let cipher = Cipher::new(suite.of_wrapping(), wrapping.bytes())?;
        cipher.open(&wrapped.iv, &aad, &mut data, &wrapped.mac).map_err(|Forged| Error::WrongKey)?;
        let (mut master, mut hmac) = (Zeroizing::new([0; KEY_SIZE]), Zeroizing::new([0; HMAC_KEY_SIZE]));
        master[..len].copy_from_slice(&data[..len]);
        hmac.copy_from_slice(&data[len..]);
        Ok(MasterKey { suite, version: wrapped.version, master, hmac, recent: Mutex::new(Vec::new()) })
    }

    /// The cipher of blocks with this salt.
    fn cipher(&self, salt: &[u8; SALT_SIZE]) -> Result<Arc<Cipher>> {
        let known = self.recent.lock().iter().find(|(s, _)| s == salt).map(|(_, cipher)| Arc::clone(cipher));
        if let Some(cipher) = known {
            return Ok(cipher);
        }
        use_vectors();
        let len = self.suite.key_len();
        let mut key = Zeroizing::new([0; KEY_SIZE]);
        let expanded = Hkdf::<Sha512>::new(None, &self.master[..len]).expand(salt, &mut key[..len]);
        expanded.map_err(|_| Error::Invalid("a derived key of that length"))?;
        let cipher = Arc::new(Cipher::new(self.suite, &key)?);
        let mut recent = self.recent.lock();
        if recent.len() >= RECENT {
            recent.remove(0);
        }
        recent.push((*salt, Arc::clone(&cipher)));
        Ok(cipher)
    }

    fn hmac(&self, data: &[u8]) -> Result<[u8; 64]> {
        use_vectors();
        let mac = Hmac::<Sha512>::new_from_slice(&*self.hmac);
        let mut mac = mac.map_err(|_| Error::Invalid("an HMAC key of that length"))?;
        mac.update(data);
        Ok(mac.finalize().into_bytes().into())
    }

    fn check(&self, data: &[u8], mac: &[u8], at: Bookmark) -> Result<()> {
        let computed = self.hmac(data)?;
        if bool::from(computed[..mac.len()].ct_eq(mac)) { Ok(()) } else { Err(Error::Authentication { at }) }
    }

    /// The plain, still compressed bytes of a protected block of level 0, from its physical ones (`zio_decrypt`); those of a block that is only
    /// authenticated are the same. [`Error::Authentication`] if a MAC does not fit.
    pub fn open_block(&self, bp: &Blkptr, at: Bookmark, mut data: Vec<u8>) -> Result<Vec<u8>> {
        let params = Params::of(bp);
        if !bp.is_encrypted() {
            if ObjectType(bp.object_type()) == ObjectType::OBJSET {
                self.check_objset(&data, at)?;
            } else {
                self.check(&data, &params.mac, at)?;
            }
            return Ok(data);
        }
        let layout = if ObjectType(bp.object_type()) == ObjectType::DNODE {
            Layout::dnodes(&data, self.version, Some(at))?
        } else {
            Layout::plain(data.len())
        };
        self.open_layout(&params.salt, &params.iv, &params.mac, &layout, &mut data, at)?;
        Ok(data)
    }

    /// Decrypts a log block in place; `bp` is the pointer to it.
    pub fn open_log(&self, bp: &Blkptr, at: Bookmark, data: &mut [u8]) -> Result<()> {
        let (Params { salt, iv, .. }, mac) = (Params::of(bp), log_block_mac(data)?);
        let layout = Layout::log(data)?;
        self.open_layout(&salt, &iv, &mac, &layout, data, at)
    }

    fn open_layout(
        &self,
        salt: &[u8; SALT_SIZE],
        iv: &[u8; IV_SIZE],
        mac: &[u8; MAC_SIZE],
        layout: &Layout,
        data: &mut [u8],
        at: Bookmark,
    ) -> Result<()> {
        let forged = |Forged| Error::Authentication { at };
        let cipher = self.cipher(salt)?;
        if let [all] = &layout.sealed[..] {
            return cipher.open(iv, &layout.aad, &mut data[all.clone()], mac).map_err(forged);
        }
        // The parts are one stream to the cipher.
        let mut sealed = Vec::new();
        layout.sealed.iter().for_each(|range| sealed.extend_from_slice(&data[range.clone()]));
        cipher.open(iv, &layout.aad, &mut sealed, mac).map_err(forged)?;
        let mut rest = &sealed[..];
        for range in &layout.sealed {
            let (part, tail) = rest.split_at(range.len());
            data[range.clone()].copy_from_slice(part);
            rest = tail;
        }
        Ok(())
    }

    /// Both MACs of an objset's root block (`spa_do_crypt_objset_mac_abd`). A local MAC of zeros says that the accounts are not vouched for: of
    /// some states of theirs OpenZFS writes it so, and it makes a new one later.
    fn check_objset(&self, block: &[u8], at: Bookmark) -> Result<()> {
        let macs = ObjsetMacs::of(block, self.version, at)?;
        self.check(&macs.portable_input, &macs.portable, at)?;
        if macs.local == [0; OBJSET_MAC_SIZE] {
            return Ok(());
        }
        let input = macs.local_input.ok_or(Error::Authentication { at })?;
        self.check(&input, &macs.local, at)
    }
}

/// Whether an indirect block's pointers are those that its MAC was computed of. Needs no key
/// (`zio_crypt_do_indirect_mac_checksum`).
pub(crate) fn check_indirect(bp: &Blkptr, block: &[u8], at: Bookmark) -> Result<()> {
    use_vectors();
    let mac = Params::of(bp).mac;
    let is = |version| Sha512::digest(indirect_input(block, version))[..MAC_SIZE] == mac;
    if is(KEY_VERSION) || is(0) { Ok(()) } else { Err(Error::Authentication { at }) }
}
