//! Import: from devices to an open pool. Source: `spa_load` (`module/zfs/spa.c`).
//!
//! Labels tell which pool it is, how its vdevs lie and its best uberblock; the uberblock leads to the MOS; the MOS holds the
//! configuration that counts, the features, the space maps and the datasets.
//!
//! Every synced txg has left an uberblock in the labels' rings, so that an older state can be opened ([`Rewind`]). What a txg freed is
//! not given out again for some more, so that the last few states are whole.

use super::checkpoint;
use super::config::{self, Config, STATE_ACTIVE, STATE_DESTROYED, STATE_EXPORTED};
use super::core::{Core, Parts, Spa};
use super::directory;
use super::dtl;
use super::features::{self, Features};
use super::indirect;
use super::log_space_map::Logs;
use super::metaslab::{DEFER_TXGS, Metaslabs};
use super::options::{ImportOptions, Rewind};
use super::sync;
use crate::dmu::tx::Limits;
use crate::dmu::{Objset, Traverse, Txgs, Visit, traverse};
use crate::dsl::{DslPool, SpaHost};
use crate::error::{Error, Result};
use crate::ondisk::blkptr::Blkptr;
use crate::ondisk::bookmark::Bookmark;
use crate::ondisk::nvlist::NvList;
use crate::ondisk::uberblock::Uberblock;
use crate::vdev::label::{self, Label};
use crate::vdev::{Member, VdevTree, partition};
use crate::zio::Zio;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use platform::Env;
use platform::block::BlockDevice;

/// The last version before features.
const VERSION_LAST_NUMBERED: u64 = 28;
/// The version that has features.
const VERSION_FEATURES: u64 = 5000;

/// What the labels of the chosen pool say.
struct Found {
    labels: Vec<Label>,
    members: Vec<Member>,
    /// The best one.
    uberblock: Uberblock,
    /// All, best first.
    uberblocks: Vec<Uberblock>,
}

impl Found {
    /// The newest label.
    fn newest(&self) -> Result<&NvList> {
        let labels = self.labels.iter().map(|l| &l.config);
        labels.max_by_key(|l| l.get_u64("txg").unwrap_or(0)).ok_or(Error::NoPool)
    }

    /// The uberblocks that are tried, in this order.
    fn candidates(&self, rewind: Rewind) -> Vec<Uberblock> {
        let newest = self.uberblock.txg;
        let wanted = |u: &&Uberblock| match rewind {
            Rewind::No | Rewind::Checkpoint => **u == self.uberblock,
            Rewind::Recent => u.txg + DEFER_TXGS as u64 >= newest,
            Rewind::Any => true,
            Rewind::Txg(txg) => u.txg <= txg,
        };
        self.uberblocks.iter().filter(wanted).cloned().collect()
    }
}

/// Reads the labels and keeps those of one pool.
fn find(devices: &[Arc<dyn BlockDevice>], guid: Option<u64>) -> Result<Found> {
    let mut found = Vec::new();
    let mut failure = Error::NoPool;
    for device in devices {
        match partition::find(device) {
            Ok(labelled) => found.push(labelled),
            Err(Error::NoPool) => {}
            Err(error) => failure = error,
        }
    }
    let pool_of = |label: &Label| {
        let in_pool = label.config.get_u64("state").is_none_or(|s| s <= STATE_EXPORTED);
        label.config.get_u64("pool_guid").filter(|_| in_pool)
    };
    let guid = guid.or_else(|| found.iter().find_map(|(label, _)| pool_of(label))).ok_or(failure)?;
    let (mut found, others): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|(label, _)| pool_of(label) == Some(guid));
    let mut uberblocks: Vec<Uberblock> =
        found.iter().flat_map(|(label, _)| label.uberblocks.clone()).collect();
    uberblocks.sort_by_key(|u| core::cmp::Reverse(u.rank()));
    uberblocks.dedup();
    let uberblock = uberblocks.first().cloned().ok_or(Error::NoPool)?;
    found.iter_mut().for_each(|(label, _)| label.choose(uberblock.txg));
    // Spares and cache devices name no pool: what the MOS lists among them is this one's.
    let auxiliary = others.iter().filter(|(label, _)| !label.config.contains("pool_guid"));
    let members = found
        .iter()
        .chain(auxiliary)
        .map(|(label, device)| Ok((label.guid()?, Arc::clone(device))))
        .collect::<Result<Vec<Member>>>()?;
    let labels = found.into_iter().map(|(label, _)| label).collect();
    Ok(Found { labels, members, uberblock, uberblocks })
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
    let mut failure = None;
    for uberblock in found.candidates(options.rewind) {
        let loaded = load(&found, &uberblock, env.clone(), options).and_then(|core| {
            // Whoever asked for a whole state gets one.
            core.check_metadata(&uberblock, options.rewind).map(|()| core)
        });
        match loaded {
            Ok(core) => return start(core, uberblock != found.uberblock, options),
            Err(error) if is_damage(&error) => failure = failure.or(Some(error)),
            Err(error) => return Err(error),
        }
    }
    Err(failure.unwrap_or(Error::NotFound))
}

/// Whether an older state may be better.
fn is_damage(error: &Error) -> bool {
    matches!(error, Error::Io { .. } | Error::Checksum { .. } | Error::Corrupt { .. } | Error::NotFound)
}

/// Opens the state of one uberblock. Writes nothing, but for the return to a checkpoint.
fn load(found: &Found, uberblock: &Uberblock, env: Env, options: &ImportOptions) -> Result<Arc<Core>> {
    let labels: Vec<&NvList> = found.labels.iter().map(|l| &l.config).collect();
    let root = config::root_from_labels(&labels)?;
    let limits = Limits { dirty_max: options.dirty_max, timeout_ns: options.txg_timeout_ns };
    // Never again a txg that was in use, whichever state this is.
    let last_txg = found.uberblock.txg + u64::from(options.rewind == Rewind::Checkpoint);
    let txgs = Txgs::new(last_txg, limits);
    let mut uberblock = uberblock.clone();
    let (mut zio, mut mos) = open_mos(&root, found, &uberblock, &txgs, options)?;
    let mut config = read_config(&mos, found)?;
    if options.rewind == Rewind::Checkpoint {
        uberblock = to_checkpoint(&zio, &mos, last_txg, &env, options)?;
        (zio, mos) = open_mos(&config.root, found, &uberblock, &txgs, options)?;
        config = read_config(&mos, found)?;
    }
    // The MOS knows better than the labels: of devices that are missing, were replaced or removed.
    let reopen = |old: &VdevTree| VdevTree::reopen(&config.root, &found.members, Some(old));
    let vdevs = reopen(&zio.vdevs())?;
    dtl::load(&mos, &config, &vdevs)?;
    zio.set_vdevs(vdevs);
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
    let config_object = config_object(&mos)?;
    let read_only = options.read_only;
    let members = found.members.clone();
    let parts =
        Parts { env, zio, txgs, mos, space, features, read_only, config, config_object, uberblock, members };
    let spa = Spa::new(parts);
    spa.state.lock().logs = logs;
    spa.load_dtls()?;
    spa.load_scan()?;
    spa.load_checkpoint()?;
    spa.load_brt()?;
    let host: Arc<dyn SpaHost> = Arc::<Spa>::clone(&spa);
    let dsl = DslPool::open(&spa.mos, host)?;
    Ok(Core::new(spa, dsl))
}

/// Starts what writes to an open pool. A pool that was rewound is written at once, so that the states that it left cannot be
/// chosen again.
fn start(core: Arc<Core>, rewound: bool, options: &ImportOptions) -> Result<Arc<Core>> {
    if core.spa.read_only {
        return Ok(core);
    }
    let rewound = rewound || options.rewind == Rewind::Checkpoint;
    {
        let mut state = core.spa.state.lock();
        // Not written for its own sake: with the first txg that changes something, the labels say who uses the pool.
        state.config_stale = true;
        state.config_dirty |= rewound;
    }
    core.claim_logs(options.rewind == Rewind::Checkpoint)?;
    core.spa.space.set_autotrim(core.get_property("autotrim")?.0 == "on");
    sync::start(&core);
    if rewound {
        let txg = core.spa.txgs.request_sync();
        core.spa.txgs.wait_synced(txg)?;
    }
    if options.guard_devices {
        core.guard_devices();
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

fn config_object(mos: &Arc<Objset>) -> Result<u64> {
    directory::lookup(mos, "config")?.ok_or(Error::corrupt("MOS: no configuration", None))
}

/// The MOS's configuration, which must be that of the pool that the labels are of.
fn read_config(mos: &Arc<Objset>, found: &Found) -> Result<Config> {
    let config = Config::parse(&config::read(mos, config_object(mos)?)?)?;
    if config.guid != found.newest()?.u64("pool_guid")? {
        return Err(Error::corrupt("MOS: configuration of another pool", None));
    }
    Ok(config)
}

/// The uberblock of the checkpoint as the newest one, which it is from now on (`spa_ld_checkpoint_rewind`).
fn to_checkpoint(
    zio: &Arc<Zio>,
    mos: &Arc<Objset>,
    txg: u64,
    env: &Env,
    options: &ImportOptions,
) -> Result<Uberblock> {
    let kept = checkpoint::uberblock(mos)?;
    let kept = kept.ok_or(Error::Invalid("the pool has no checkpoint to return to"))?;
    let timestamp = u64::try_from(env.clock.now().sec).unwrap_or(0);
    let uberblock = Uberblock { checkpoint_txg: kept.txg, txg, timestamp, ..kept };
    if !options.read_only {
        if zio.vdevs().read_only() {
            return Err(Error::ReadOnly);
        }
        // First of all: what is written next may take the space of what came after the checkpoint.
        label::sync(&zio.vdevs(), &uberblock, None)?;
    }
    Ok(uberblock)
}

fn open_mos(
    root: &NvList,
    found: &Found,
    uberblock: &Uberblock,
    txgs: &Arc<Txgs>,
    options: &ImportOptions,
) -> Result<(Arc<Zio>, Arc<Objset>)> {
    let vdevs = VdevTree::open(root, &found.members)?;
    let zio = Zio::new(vdevs, [0; 32], options.arc_max);
    if let Some(tamper) = &options.tamper {
        zio.set_tamper(tamper.clone());
    }
    let mos = Objset::open(Arc::clone(&zio), Arc::clone(txgs), 0, uberblock.rootbp)?;
    Ok((zio, mos))
}

/// Fails on the first block of metadata that cannot be read.
struct Whole;

impl Traverse for Whole {
    fn block(&mut self, _bp: &Blkptr, _at: &Bookmark) -> Result<Visit> {
        Ok(Visit::Continue)
    }

    fn unreadable(&mut self, _bp: &Blkptr, _at: &Bookmark, error: Error) -> Result<()> {
        if is_damage(&error) { Err(error) } else { Ok(()) }
    }
}

impl Core {
    /// Whether the metadata of a state is whole (`spa_load_verify`): for the last few txgs it is enough to look at what these wrote.
    fn check_metadata(&self, uberblock: &Uberblock, rewind: Rewind) -> Result<()> {
        let min_txg = match rewind {
            Rewind::No | Rewind::Checkpoint => return Ok(()),
            Rewind::Recent => uberblock.txg.saturating_sub(DEFER_TXGS as u64 + 1),
            Rewind::Any | Rewind::Txg(_) => 0,
        };
        let zio = &self.spa.zio;
        traverse(zio, 0, &self.spa.mos.root(), min_txg, &mut Whole)?;
        self.dsl.visit_objsets(&mut |objset, root, from| {
            traverse(zio, objset, root, min_txg.max(from), &mut Whole)
        })
    }
}
