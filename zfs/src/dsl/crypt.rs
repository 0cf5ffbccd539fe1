//! Encryption of datasets: whose key is whose, loading and unloading. Source: `module/zfs/dsl_crypt.c`.
//!
//! A dir of an encrypted dataset names the object of its key. Keys say which dir is their *encryption root*: a user's key
//! opens all keys with the same root. A clone shares the object of its origin's key.

use super::bookmark::FEATURE_V2;
use super::dataset::Dataset;
use super::dir::Dir;
use super::pool::DslPool;
use crate::crypt::{KeyFormat, MasterKey, Pbkdf2, Suite, WrappingKey};
use crate::dmu::Tx;
use crate::error::{Error, Result};
use crate::ondisk::bookmark::Bookmark;
use crate::ondisk::crypt as phys;
use crate::ondisk::crypt::WrappedKey;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// How a dataset is encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encryption {
    /// The property `encryption`.
    pub suite: Suite,
    /// The dataset whose key opens this one.
    pub root: String,
    /// How that key is written.
    pub format: KeyFormat,
    /// How it becomes a key, if it is a passphrase.
    pub pbkdf2: Pbkdf2,
    /// Whether the key is loaded.
    pub available: bool,
}

/// The object of a dir's key, and the dir that is its encryption root.
struct KeyOf {
    object: u64,
    root_dir: u64,
}

/// A dataset, and the object of the key that opens it.
type Opened = (Arc<Dataset>, u64);

impl DslPool {
    /// The object of a dir's key; `None` if nothing is encrypted there.
    fn key_object(&self, dir: &Dir) -> Result<Option<u64>> {
        self.meta().field(dir.object, phys::DIR_KEY_OBJECT)
    }

    fn key_of(&self, dir: &Dir) -> Result<Option<KeyOf>> {
        let Some(object) = self.key_object(dir)? else { return Ok(None) };
        Ok(Some(KeyOf { object, root_dir: self.key_number(object, phys::KEY_ROOT_DIR)? }))
    }

    fn key_number(&self, object: u64, name: &str) -> Result<u64> {
        let value = self.meta().zap_get(object, name)?;
        value.ok_or(Error::corrupt("encryption key: a field is missing", None))
    }

    fn key_bytes<const N: usize>(&self, object: u64, name: &str) -> Result<[u8; N]> {
        let value = self.meta().zap_value(object, name)?.map(|value| value.to_bytes());
        let bytes = value.and_then(|bytes| bytes.first_chunk().copied());
        bytes.ok_or(Error::corrupt("encryption key: a field is missing or too short", None))
    }

    fn wrapped_key(&self, object: u64) -> Result<WrappedKey> {
        Ok(WrappedKey {
            suite: self.key_number(object, phys::KEY_SUITE)?,
            guid: self.key_number(object, phys::KEY_GUID)?,
            version: self.meta().zap_get(object, phys::KEY_VERSION_FIELD)?.unwrap_or(0),
            iv: self.key_bytes(object, phys::KEY_IV)?,
            mac: self.key_bytes(object, phys::KEY_MAC)?,
            master: self.key_bytes(object, phys::KEY_MASTER)?,
            hmac: self.key_bytes(object, phys::KEY_HMAC)?,
        })
    }

    /// Lets the I/O engine know whose key the blocks of a dataset are encrypted with.
    pub(crate) fn assign_key(&self, dataset: &Dataset) -> Result<()> {
        let key = self.key_object(&dataset.dir())?;
        self.mos().zio().keys().assign(dataset.object, key);
        Ok(())
    }

    pub(crate) fn encryption_of(&self, dir: &Dir) -> Result<Option<Encryption>> {
        let Some(key) = self.key_of(dir)? else { return Ok(None) };
        Ok(Some(Encryption {
            suite: Suite::from_raw(self.key_number(key.object, phys::KEY_SUITE)?)?,
            root: self.hold_dir(key.root_dir)?.name(),
            format: KeyFormat::from_raw(self.key_number(key.object, phys::KEY_FORMAT)?)?,
            pbkdf2: Pbkdf2 {
                salt: self.meta().zap_get(key.object, phys::KEY_PBKDF2_SALT)?.unwrap_or(0),
                iterations: self.meta().zap_get(key.object, phys::KEY_PBKDF2_ITERS)?.unwrap_or(0),
            },
            available: self.mos().zio().keys().is_loaded(key.object),
        }))
    }

    /// The datasets that the key of encryption root `name` opens, with the objects of their keys.
    fn under_root(&self, name: &str) -> Result<(Encryption, Vec<Opened>)> {
        let head = self.lookup(name)?;
        let encryption = head.encryption()?.ok_or(Error::Invalid("not encrypted: it has no key"))?;
        let dir = head.dir();
        if head.is_snapshot() || encryption.root != dir.name() {
            return Err(Error::Invalid("the key belongs to another dataset, its encryption root"));
        }
        let mut found = Vec::new();
        for dataset in self.datasets()? {
            match self.key_of(&dataset.dir())? {
                Some(key) if key.root_dir == dir.object => found.push((dataset, key.object)),
                _ => {}
            }
        }
        Ok((encryption, found))
    }

    /// Opens the master keys below an encryption root.
    fn open_keys(&self, name: &str, material: &[u8]) -> Result<BTreeMap<u64, Arc<MasterKey>>> {
        let (encryption, datasets) = self.under_root(name)?;
        let wrapping = WrappingKey::new(encryption.format, material, encryption.pbkdf2)?;
        let mut keys = BTreeMap::new();
        for (_, object) in &datasets {
            if !keys.contains_key(object) {
                keys.insert(*object, Arc::new(MasterKey::unwrap(&wrapping, &self.wrapped_key(*object)?)?));
            }
        }
        Ok(keys)
    }

    /// Whether `material` (what `keylocation` leads to, or what was typed) is the key of the encryption root `name`: [`Error::WrongKey`] if not,
    /// [`Error::Invalid`] if it is no key of its format (`zfs load-key -n`).
    pub fn check_key(&self, name: &str, material: &[u8]) -> Result<()> {
        self.open_keys(name, material).map(|_| ())
    }

    /// Loads the key of the encryption root `name`: datasets below it that have no root of their own can be read from now on. The same
    /// errors as of [`DslPool::check_key`], and [`Error::Authentication`] if the root of an open dataset is not what was written.
    pub fn load_key(&self, name: &str, material: &[u8]) -> Result<()> {
        let keys = self.open_keys(name, material)?;
        let zio = self.mos().zio();
        for (object, key) in keys {
            zio.keys().load(object, key);
        }
        // What was read without the key was not checked by it.
        zio.forget_all();
        let (_, datasets) = self.under_root(name)?;
        for (dataset, _) in &datasets {
            let checked = match dataset.open_objset() {
                Some(objset) if !objset.root().is_hole() => {
                    self.assign_key(dataset)?;
                    zio.read(&objset.root(), Bookmark::objset_root(dataset.object)).map(|_| ())
                }
                _ => Ok(()),
            };
            if let Err(error) = checked {
                datasets.iter().for_each(|(_, key)| _ = zio.keys().unload(*key));
                zio.forget_all();
                return Err(error);
            }
        }
        Ok(())
    }

    /// Unloads the key of the encryption root `name`. [`Error::Busy`] if something of it is mounted, [`Error::KeyNotLoaded`] if
    /// it was not loaded. Nothing that was decrypted is served from then on.
    pub fn unload_key(&self, name: &str) -> Result<()> {
        let (_, datasets) = self.under_root(name)?;
        let mut all = Vec::new();
        for (head, _) in &datasets {
            all.extend(head.snapshots()?);
            all.push(Arc::clone(head));
        }
        if all.iter().any(|dataset| dataset.is_held()) {
            return Err(Error::Busy);
        }
        let zio = self.mos().zio();
        let mut loaded = false;
        for (_, key) in &datasets {
            loaded |= zio.keys().unload(*key);
        }
        all.iter().for_each(|dataset| dataset.replace_objset(None));
        zio.forget_all();
        if loaded { Ok(()) } else { Err(Error::KeyNotLoaded) }
    }

    /// One dir less has its key, which goes with the last (`dsl_crypto_key_destroy_sync`).
    pub(crate) fn release_key(&self, tx: &Tx, dir: &Dir) -> Result<()> {
        let Some(key) = self.key_object(dir)? else { return Ok(()) };
        let count = self.key_number(key, phys::KEY_REFCOUNT)?;
        if count > 1 {
            return self.meta().zap_set(tx, key, phys::KEY_REFCOUNT, count - 1);
        }
        self.mos().zio().keys().unload(key);
        self.mos().free(tx, key)
    }

    /// Gives a new snapshot of something encrypted a name for its IVs, by which incremental raw streams know it.
    pub(crate) fn name_ivset(&self, tx: &Tx, dir: &Dir, snapshot: u64) -> Result<()> {
        if self.key_object(dir)?.is_none() || !self.host().feature_enabled(FEATURE_V2) {
            return Ok(());
        }
        self.meta().zapify(tx, snapshot)?;
        self.meta().zap_add(tx, snapshot, phys::IVSET_GUID, self.host().env().random.next_u64().max(1))
    }

    /// Whether a dir may move below `parent`: only with its encryption root, or if it is one (`dsl_dir_rename_crypt_check`).
    pub(crate) fn check_encryption_root(&self, dir: &Dir, parent: &Dir) -> Result<()> {
        match self.key_of(dir)? {
            Some(key) if key.root_dir != dir.object => match self.key_of(parent)? {
                Some(of_parent) if of_parent.root_dir == key.root_dir => Ok(()),
                _ => Err(Error::Invalid("a dataset cannot be moved away from its encryption root")),
            },
            _ => Ok(()),
        }
    }

    /// What is not done with encrypted datasets, as it would take their keys: what lies in this dir, or would.
    pub(crate) fn refuse_encrypted(&self, dir: &Dir) -> Result<()> {
        match self.key_object(dir)? {
            Some(_) => Err(Error::unsupported(format!(
                "creating, cloning or promoting encrypted datasets: {}",
                dir.name()
            ))),
            None => Ok(()),
        }
    }
}

impl Dataset {
    /// How it is encrypted; `None` if it is not.
    pub fn encryption(&self) -> Result<Option<Encryption>> {
        let pool = self.pool()?;
        let _config = pool.read_config();
        pool.encryption_of(&self.dir())
    }
}
