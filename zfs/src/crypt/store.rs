//! The keys that are loaded, and which objset each is of. Source: `spa_keystore_t` (`dsl_crypt.c`).

use super::key::MasterKey;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use platform::sync::RwLock;

#[derive(Default)]
struct State {
    /// By the object of the key in the MOS.
    loaded: BTreeMap<u64, Arc<MasterKey>>,
    /// The key's object, by objset.
    of_objset: BTreeMap<u64, u64>,
}

/// A pool's loaded keys.
#[derive(Default)]
pub struct Keys(RwLock<State>);

impl Keys {
    /// The key of an objset, if it is encrypted and its key is loaded.
    #[must_use]
    pub fn of(&self, objset: u64) -> Option<Arc<MasterKey>> {
        let state = self.0.read();
        state.of_objset.get(&objset).and_then(|key| state.loaded.get(key)).cloned()
    }

    /// Says which key an objset has, if any.
    pub fn assign(&self, objset: u64, key: Option<u64>) {
        let known = self.0.read().of_objset.get(&objset).copied();
        if known != key {
            let mut state = self.0.write();
            match key {
                Some(key) => state.of_objset.insert(objset, key),
                None => state.of_objset.remove(&objset),
            };
        }
    }

    /// Whether a key is loaded.
    #[must_use]
    pub fn is_loaded(&self, key: u64) -> bool {
        self.0.read().loaded.contains_key(&key)
    }

    /// Loads a key.
    pub fn load(&self, key: u64, master: Arc<MasterKey>) {
        self.0.write().loaded.insert(key, master);
    }

    /// Unloads a key; whether it was there.
    pub fn unload(&self, key: u64) -> bool {
        self.0.write().loaded.remove(&key).is_some()
    }
}
