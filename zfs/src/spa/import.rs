//! Import: from devices to an open pool. Source: `spa_load` (`module/zfs/spa.c`).
//!
//! Labels tell which pool it is, how its vdevs lie and its best uberblock; the uberblock leads to the MOS; the MOS holds the
//! configuration that counts, the features, the space maps and the datasets.

use super::config::{self, Config, STATE_ACTIVE, STATE_DESTROYED, STATE_EXPORTED};
use super::core::{Core, Parts, Spa};
use super::directory;
use super::features::{self, Features};
use super::indirect;
use super::log_space_map::Logs;
use super::metaslab::Metaslabs;
use super::options::ImportOptions;
use super::sync;
use crate::dmu::tx::Limits;
use crate::dmu::{Objset, Tx, Txgs};
use crate::dsl::{DslPool, SpaHost};
use crate::error::{Error, Result};
use crate::ondisk::nvlist::NvList;
use crate::ondisk::uberblock::Uberblock;
use crate::vdev::label::{self, Label};
use crate::vdev::{Member, VdevTree};
use crate::zil;
use crate::zio::Zio;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use platform::Env;
use platform::block::BlockDevice;
use platform::sync::{Condvar, Mutex};

/// The last version before features.
const VERSION_LAST_NUMBERED: u64 = 28;
/// The version that has features.
const VERSION_FEATURES: u64 = 5000;

/// What the labels of the chosen pool say.
struct Found {
    labels: Vec<Label>,
    members: Vec<Member>,
    uberblock: Uberblock,
}

impl Found {
    /// The newest label.
    fn newest(&self) -> Result<&NvList> {
        let labels = self.labels.iter().map(|l| &l.config);
        labels.max_by_key(|l| l.get_u64("txg").unwrap_or(0)).ok_or(Error::NoPool)
    }
}

/// Reads the labels and keeps those of one pool.
fn find(devices: &[Arc<dyn BlockDevice>], guid: Option<u64>) -> Result<Found> {
    let mut found = Vec::new();
    let mut failure = Error::NoPool;
    for device in devices {
        match label::read(&**device) {
            Ok(label) => found.push((label, Arc::clone(device))),
            Err(Error::NoPool) => {}
            Err(error) => failure = error,
        }
    }
    let pool_of = |label: &Label| {
        let in_pool = label.config.get_u64("state").is_none_or(|s| s <= STATE_EXPORTED);
        label.config.get_u64("pool_guid").filter(|_| in_pool)
    };
    let guid = guid.or_else(|| found.iter().find_map(|(label, _)| pool_of(label))).ok_or(failure)?;
    found.retain(|(label, _)| pool_of(label) == Some(guid));
    let best = found.iter().filter_map(|(label, _)| label.uberblock.clone()).max_by_key(Uberblock::rank);
    let uberblock = best.ok_or(Error::NoPool)?;
    let members = found
        .iter()
        .map(|(label, device)| Ok((label.guid()?, Arc::clone(device))))
        .collect::<Result<Vec<Member>>>()?;
    Ok(Found { labels: found.into_iter().map(|(label, _)| label).collect(), members, uberblock })
}

/// Refuses what the label alone shows that it cannot be opened.
fn check_label(label: &NvList, uberblock: &Uberblock, options: &ImportOptions) -> Result<()> {
    let version = label.u64("version")?.max(uberblock.version);
    let known = version <= VERSION_LAST_NUMBERED || version == VERSION_FEATURES;
    if !known || version == 0 {
        return Err(Error::unsupported(alloc::format!("pool version {version}")));
    }
    if version != VERSION_FEATURES && !options.read_only {
        return Err(Error::ReadOnlyFeature { feature: alloc::format!("pool version {version}") });
    }
    if let Some(needed) = label.get_nvlist("features_for_read") {
        features::check_readable(needed.iter().map(|(guid, _)| guid))?;
    }
    if label.get_u64("state") == Some(STATE_DESTROYED) {
        return Err(Error::NoPool);
    }
    let host_id = label.get_u64("hostid").unwrap_or(0);
    if label.get_u64("state") == Some(STATE_ACTIVE) && host_id != options.host_id && !options.force {
        return Err(Error::InUse { host: label.get_str("hostname").unwrap_or("unknown").to_string() });
    }
    Ok(())
}

/// Imports a pool.
pub(super) fn import(
    devices: &[Arc<dyn BlockDevice>],
    env: Env,
    options: &ImportOptions,
) -> Result<Arc<Core>> {
    let found = find(devices, options.guid)?;
    check_label(found.newest()?, &found.uberblock, options)?;
    let labels: Vec<&NvList> = found.labels.iter().map(|l| &l.config).collect();
    let root = config::root_from_labels(&labels)?;
    let txgs = Txgs::new(
        found.uberblock.txg,
        Limits { dirty_max: options.dirty_max, timeout_ns: options.txg_timeout_ns },
    );
    let (zio, mos) = open_mos(&root, &found, &txgs, options)?;
    let config_object = directory::lookup(&mos, "config")?;
    let config_object = config_object.ok_or(Error::corrupt("MOS: no configuration", None))?;
    let mut config = Config::parse(&config::read(&mos, config_object)?)?;
    if config.guid != found.newest()?.u64("pool_guid")? {
        return Err(Error::corrupt("MOS: configuration of another pool", None));
    }
    // The MOS knows better than the labels: of devices that are missing, were replaced or removed.
    let reopen = |old: &VdevTree| VdevTree::reopen(&config.root, &found.members, Some(old));
    zio.set_vdevs(reopen(&zio.vdevs())?);
    indirect::load(&mos, &zio, &config, &reopen)?;
    config.load_biases(&mos)?;
    if !options.read_only && zio.vdevs().read_only() {
        return Err(Error::ReadOnly);
    }
    if !options.read_only {
        zio.allow_repairs();
    }
    config.name = options.name.clone().unwrap_or(found.newest()?.str("name")?.to_string());
    config.state = STATE_ACTIVE;
    if !options.read_only {
        config.host_id = options.host_id;
        config.host_name.clone_from(&options.host_name);
    }
    let uberblock = found.uberblock;
    let features = Features::open(&mos, options.read_only)?;
    if let Some(salt) = directory::lookup_value(&mos, "org.illumos:checksum_salt")? {
        let salt = salt.to_bytes();
        let salt = salt.first_chunk::<32>().ok_or(Error::corrupt("MOS: checksum salt too short", None))?;
        zio.set_salt(*salt);
    }
    let (space, logs) = match open_space(&mos, &config) {
        // Whoever only reads can do without; verification reports it.
        Err(_) if options.read_only => (Metaslabs::open(Arc::clone(&mos), &[])?, None),
        space => space?,
    };
    let read_only = options.read_only;
    let spa =
        Spa::new(Parts { env, zio, txgs, mos, space, features, read_only, config, config_object, uberblock });
    spa.state.lock().logs = logs;
    let host: Arc<dyn SpaHost> = Arc::<Spa>::clone(&spa);
    let dsl = DslPool::open(&spa.mos, host)?;
    let core = Arc::new(Core { spa, dsl, ended: (Mutex::new(false), Condvar::new()) });
    if !read_only {
        // Not written for its own sake: with the first txg that changes something, the labels say who uses the pool.
        core.spa.state.lock().config_stale = true;
        core.claim_logs()?;
        sync::start(&core);
    }
    Ok(core)
}

/// The metaslabs, with what logs add to their maps.
fn open_space(mos: &Arc<Objset>, config: &Config) -> Result<(Metaslabs, Option<Logs>)> {
    let space = Metaslabs::open(Arc::clone(mos), &config.layouts()?)?;
    let logs = Logs::find(mos, config)?;
    if let Some(logs) = &logs {
        logs.apply(mos, &space)?;
    }
    Ok((space, logs))
}

fn open_mos(
    root: &NvList,
    found: &Found,
    txgs: &Arc<Txgs>,
    options: &ImportOptions,
) -> Result<(Arc<Zio>, Arc<Objset>)> {
    let vdevs = VdevTree::open(root, &found.members)?;
    let zio = Zio::new(vdevs, [0; 32], options.arc_max);
    if let Some(tamper) = &options.tamper {
        zio.set_tamper(tamper.clone());
    }
    let mos = Objset::open(Arc::clone(&zio), Arc::clone(txgs), 0, found.uberblock.rootbp)?;
    Ok((zio, mos))
}

impl Core {
    /// Marks the blocks of intent logs as allocated, which were written after the last txg (`spa_ld_claim_log_blocks`).
    fn claim_logs(&self) -> Result<()> {
        let spa = &self.spa;
        let mut heads = Vec::new();
        for dataset in self.dsl.datasets()? {
            if dataset.root_bp().is_hole() || dataset.is_inconsistent() {
                continue;
            }
            let objset = dataset.objset()?;
            if objset.zil_header().iter().any(|b| *b != 0) {
                heads.push(objset);
            }
        }
        if heads.is_empty() {
            return Ok(());
        }
        spa.txgs.request_sync();
        let Some(quiesced) = spa.txgs.quiesce() else { return Err(Error::Busy) };
        let tx = Tx::syncing(&spa.txgs, quiesced.txg);
        let mut claimed = 0u64;
        for objset in heads {
            zil::claim(&objset, &tx, quiesced.txg, &mut |bp| {
                for dva in bp.dvas() {
                    spa.space.claim(quiesced.txg, &dva)?;
                    claimed += 1;
                }
                Ok(())
            })?;
        }
        drop(tx);
        let dirty_objsets = spa.txgs.take_dirty(quiesced.txg);
        if dirty_objsets.is_empty() && claimed == 0 {
            spa.txgs.synced(quiesced.txg);
            return Ok(());
        }
        let quiesced = crate::dmu::Quiesced { dirty_objsets, ..quiesced };
        if self.sync_quiesced(&quiesced) { Ok(()) } else { Err(spa.txgs.failure().unwrap_or(Error::Busy)) }
    }
}
