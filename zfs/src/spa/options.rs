//! How a pool is to be created or imported.

use crate::dsl::InitFs;
use crate::zio::Tamper;
use alloc::string::String;
use alloc::vec::Vec;

/// Default limit of the cache, in bytes.
const DEFAULT_ARC_MAX: usize = 64 << 20;
/// Default limit of dirty data, in bytes: an open txg with more is closed, a writer far over it waits.
const DEFAULT_DIRTY_MAX: u64 = 64 << 20;

/// How a new pool is to be.
pub struct CreateOptions {
    /// The pool's name.
    pub name: String,
    /// Sector size as a power of two, 9 to 16; `None`: 12, or more if the device's physical sector is larger.
    pub ashift: Option<u8>,
    /// Pool properties (`comment`, `failmode`, …) and features (`feature@lz4_compress` = `enabled` or `disabled`), as text.
    pub properties: Vec<(String, String)>,
    /// Properties of the root file system, as text.
    pub root_properties: Vec<(String, String)>,
    /// Fills the root file system (`zpl::init`).
    pub init_root: InitFs,
    /// A txg is closed after that many nanoseconds; `None`: only when it is full or someone asks.
    pub txg_timeout_ns: Option<u64>,
    /// Limit of the cache, in bytes.
    pub arc_max: usize,
    /// Limit of dirty data, in bytes.
    pub dirty_max: u64,
    /// Who creates it: host id.
    pub host_id: u64,
    /// Who creates it: host name.
    pub host_name: String,
    /// What the labels say about where the devices are, one path each; may be shorter than the list of devices.
    pub device_paths: Vec<String>,
    /// The first line of the pool's history (`zpool create …`).
    pub command: Option<String>,
}

impl CreateOptions {
    /// Defaults for a pool of that name, whose root file system `init_root` fills.
    pub fn new(name: impl Into<String>, init_root: InitFs) -> Self {
        CreateOptions {
            name: name.into(),
            ashift: None,
            properties: Vec::new(),
            root_properties: Vec::new(),
            init_root,
            txg_timeout_ns: None,
            arc_max: DEFAULT_ARC_MAX,
            dirty_max: DEFAULT_DIRTY_MAX,
            host_id: 0,
            host_name: String::from("tarn"),
            device_paths: Vec::new(),
            command: None,
        }
    }
}

/// Which state of a pool is to be imported, if not the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rewind {
    /// The newest.
    #[default]
    No,
    /// The newest whose metadata is whole, at most a few txgs old: what those freed is not reused yet (`-F`).
    Recent,
    /// The newest whose metadata is whole, however old (`-FX`).
    Any,
    /// The newest whole one of that txg or before (`-T`).
    Txg(u64),
    /// The checkpoint (`--rewind-to-checkpoint`). Written: what came after it is gone.
    Checkpoint,
}

/// How a pool is to be imported.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// Write nothing at all. Intent logs are not replayed.
    pub read_only: bool,
    /// Also if another host used it last and did not export it.
    pub force: bool,
    /// The pool's new name.
    pub name: Option<String>,
    /// Only the pool of that guid.
    pub guid: Option<u64>,
    /// Which state of it.
    pub rewind: Rewind,
    /// Limit of the cache, in bytes.
    pub arc_max: usize,
    /// Limit of dirty data, in bytes.
    pub dirty_max: u64,
    /// A txg is closed after that many nanoseconds; `None`: only when it is full or someone asks.
    pub txg_timeout_ns: Option<u64>,
    /// Who imports it: host id.
    pub host_id: u64,
    /// Who imports it: host name.
    pub host_name: String,
    /// The pool looks after its devices by itself: those that fail too often leave the service, and hot spares take their places, also of
    /// those that are missing. Without it [`super::Pool::use_spares`] does that when it is called.
    pub guard_devices: bool,
    /// For fuzzers: changes blocks between the medium and their readers.
    pub tamper: Option<Tamper>,
}

impl Default for ImportOptions {
    fn default() -> Self {
        ImportOptions {
            read_only: false,
            force: false,
            name: None,
            guid: None,
            rewind: Rewind::No,
            arc_max: DEFAULT_ARC_MAX,
            dirty_max: DEFAULT_DIRTY_MAX,
            txg_timeout_ns: None,
            host_id: 0,
            host_name: String::from("tarn"),
            guard_devices: false,
            tamper: None,
        }
    }
}

impl ImportOptions {
    /// Defaults for looking only.
    #[must_use]
    pub fn read_only() -> Self {
        ImportOptions { read_only: true, force: true, ..ImportOptions::default() }
    }
}
