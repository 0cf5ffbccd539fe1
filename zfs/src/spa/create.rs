//! Making a pool. Source: `spa_create` (`module/zfs/spa.c`), `vdev_create`, `vdev_label_init`.

use super::config::{self, Config};
use super::core::{Core, Parts, Spa};
use super::directory;
use super::features::Features;
use super::history;
use super::metaslab::{Metaslabs, metaslab_shift};
use super::options::CreateOptions;
use super::props;
use super::sync::{self, SOFTWARE_VERSION};
use crate::dmu::tx::Limits;
use crate::dmu::{Objset, Quiesced, Tx, Txgs};
use crate::dsl::{Bpobj, CreateFs, DslPool, Kind, SpaHost};
use crate::error::{Error, Result};
use crate::ondisk::blkptr::{Blkptr, LABEL_START_SIZE};
use crate::ondisk::features::{self as table, FEATURES, Feature};
use crate::ondisk::label::LABEL_SIZE;
use crate::ondisk::nvlist::NvList;
use crate::ondisk::object_type::ObjectType;
use crate::ondisk::objset::ObjsetKind;
use crate::ondisk::uberblock::Uberblock;
use crate::vdev::{Member, VdevTree, label};
use crate::zap;
use crate::zio::Zio;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use platform::Env;
use platform::block::BlockDevice;
use platform::random::Random;
use platform::sync::{Condvar, Mutex};

/// The first txg of every pool (`TXG_INITIAL`).
const TXG_INITIAL: u64 = 4;
/// The smallest device, in bytes (`SPA_MINDEVSIZE`).
pub(super) const DEVICE_SIZE_MIN: u64 = 64 << 20;
/// Smallest and largest sector size, as powers of two (`ASHIFT_MIN`, `ASHIFT_MAX`).
const ASHIFT_MIN: u8 = 9;
const ASHIFT_MAX: u8 = 16;
/// What a new vdev gets unless its sectors are larger.
const ASHIFT_DEFAULT: u8 = 12;

fn guid(random: &dyn Random) -> u64 {
    loop {
        let guid = random.next_u64();
        if guid != 0 {
            return guid;
        }
    }
}

/// Whether a pool may have that name (`pool_namecheck`).
fn check_name(name: &str) -> Result<()> {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || b"-_.: ".contains(&c);
    if name.len() > 200 {
        return Err(Error::NameTooLong);
    }
    if !name.starts_with(|c: char| c.is_ascii_alphabetic()) || !name.bytes().all(allowed) {
        return Err(Error::Invalid(
            "a pool's name begins with a letter and has letters, digits, -, _, ., : and blanks",
        ));
    }
    let reserved =
        ["mirror", "raidz", "draid", "spare"].iter().any(|word| name.starts_with(word)) || name == "log";
    if reserved { Err(Error::Invalid("a pool's name must not be one of a kind of vdev")) } else { Ok(()) }
}

/// The list of a new top-level vdev of one disk.
fn top_config(id: u64, device: &dyn BlockDevice, env: &Env, options: &CreateOptions) -> Result<NvList> {
    let info = device.info();
    if info.read_only {
        return Err(Error::ReadOnly);
    }
    if info.size < DEVICE_SIZE_MIN {
        return Err(Error::Invalid("a device for a pool must have at least 64 MiB"));
    }
    let sector = info.physical_sector_size.max(info.sector_size).max(1).ilog2() as u8;
    let ashift = options.ashift.unwrap_or(sector.clamp(ASHIFT_DEFAULT, ASHIFT_MAX));
    if !(ASHIFT_MIN..=ASHIFT_MAX).contains(&ashift) || ashift < info.sector_size.max(1).ilog2() as u8 {
        return Err(Error::Invalid("ashift: from 9 to 16, and no less than the device's sectors"));
    }
    let size = info.size - info.size % LABEL_SIZE;
    let asize = size - LABEL_START_SIZE - 2 * LABEL_SIZE;
    let path = options.device_paths.get(id as usize).cloned();
    let path = path.unwrap_or_else(|| alloc::format!("/dev/vd{}", char::from(b'a' + (id % 26) as u8)));
    Ok(NvList::new()
        .with("type", "disk")
        .with("id", id)
        .with("guid", guid(&*env.random))
        .with("path", path)
        .with("whole_disk", 0)
        .with("metaslab_array", 0)
        .with("metaslab_shift", u64::from(metaslab_shift(asize)))
        .with("ashift", u64::from(ashift))
        .with("asize", asize)
        .with("is_log", 0)
        .with("create_txg", TXG_INITIAL))
}

/// Features that the options ask for, in the table's order.
fn wanted_features(options: &CreateOptions) -> Result<Vec<&'static Feature>> {
    let mut wanted: Vec<&Feature> = FEATURES.iter().filter(|f| f.default_enabled()).collect();
    for (name, value) in options.properties.iter().filter_map(|(n, v)| Some((n.strip_prefix("feature@")?, v)))
    {
        let feature =
            table::by_name(name).ok_or_else(|| Error::unsupported(alloc::format!("feature {name}")))?;
        match value.as_str() {
            "enabled" if feature.default_enabled() => {}
            "enabled" => return Err(Error::unsupported(alloc::format!("writing with feature {name}"))),
            "disabled" => wanted.retain(|f| f.name != name),
            _ => return Err(Error::Invalid("a feature is either enabled or disabled")),
        }
    }
    Ok(wanted)
}

/// Creates a pool.
pub(super) fn create(
    devices: Vec<Arc<dyn BlockDevice>>,
    env: Env,
    options: CreateOptions,
) -> Result<Arc<Core>> {
    check_name(&options.name)?;
    if devices.is_empty() {
        return Err(Error::Invalid("a pool needs a device"));
    }
    let wanted = wanted_features(&options)?;
    let pool_guid = guid(&*env.random);
    let mut tops = Vec::new();
    let mut members: Vec<Member> = Vec::new();
    for (id, device) in devices.into_iter().enumerate() {
        let top = top_config(id as u64, &*device, &env, &options)?;
        members.push((top.u64("guid")?, device));
        tops.push(top);
    }
    let mut config = Config::new(&options.name, pool_guid, tops, TXG_INITIAL);
    config.host_id = options.host_id;
    config.host_name.clone_from(&options.host_name);
    init_labels(&config, &members)?;

    let mut salt = [0; 32];
    env.random.fill(&mut salt);
    let zio = Zio::new(VdevTree::open(&config.root, &members)?, salt, options.arc_max);
    let limits = Limits { dirty_max: options.dirty_max, timeout_ns: options.txg_timeout_ns };
    let txgs = Txgs::new(TXG_INITIAL - 1, limits);
    txgs.request_sync();
    let quiesced = txgs.quiesce().ok_or(Error::Busy)?;
    let tx = Tx::syncing(&txgs, quiesced.txg);
    let mos = Objset::create(Arc::clone(&zio), Arc::clone(&txgs), 0, ObjsetKind::Meta, &tx)?;
    directory::create(&mos, &tx)?;
    let features = Features::create(&mos, &tx)?;
    for feature in wanted {
        features.enable(&mos, &tx, feature)?;
    }
    create_vdev_zaps(&mos, &tx, &mut config)?;
    let config_object = config::create(&mos, &tx)?;
    directory::add_bytes(&mos, &tx, "org.illumos:checksum_salt", &salt)?;
    let space = Metaslabs::open(Arc::clone(&mos), &config.layouts()?)?;
    let uberblock = first_uberblock();
    let read_only = false;
    let spa =
        Spa::new(Parts { env, zio, txgs, mos, space, features, read_only, config, config_object, uberblock });
    fill(&spa, &tx, options, quiesced)
}

/// Labels without an uberblock: what was on the devices before cannot be mistaken for this pool.
fn init_labels(config: &Config, members: &[Member]) -> Result<()> {
    for (guid, device) in members {
        label::create(&**device, &config.for_label(*guid, *guid, 0, &[]))?;
    }
    Ok(())
}

fn first_uberblock() -> Uberblock {
    Uberblock {
        version: SOFTWARE_VERSION,
        txg: TXG_INITIAL - 1,
        guid_sum: 0,
        timestamp: 0,
        rootbp: Blkptr::HOLE,
        software_version: SOFTWARE_VERSION,
        mmp_magic: 0,
        mmp_delay: 0,
        mmp_config: 0,
        checkpoint_txg: 0,
        raidz_reflow_info: 0,
    }
}

/// A ZAP for each vdev and one that lists them (`vdev_construct_zaps`).
fn create_vdev_zaps(mos: &Arc<Objset>, tx: &Tx, config: &mut Config) -> Result<()> {
    let list =
        mos.hold(directory::create_zap(mos, tx, "com.delphix:vdev_zap_map", ObjectType::OTN_ZAP_METADATA)?)?;
    let mut tops = config.tops().to_vec();
    for top in &mut tops {
        for name in ["com.delphix:vdev_zap_leaf", "com.delphix:vdev_zap_top"] {
            let zap =
                zap::create(mos, tx, ObjectType::OTN_ZAP_METADATA, &zap::CreateOptions::default())?.object();
            zap::add_u64(&list, tx, zap::int_name(zap).as_str(), zap)?;
            top.insert(name, zap);
        }
    }
    config.root.insert("children", tops);
    Ok(())
}

/// The rest of the first txg: datasets, history, properties; then it is synced.
fn fill(spa: &Arc<Spa>, tx: &Tx, options: CreateOptions, quiesced: Quiesced) -> Result<Arc<Core>> {
    let mos = &spa.mos;
    spa.initializing.store(true, Ordering::Release);
    let host: Arc<dyn SpaHost> = Arc::<Spa>::clone(spa);
    let root = CreateFs {
        kind: Kind::Filesystem,
        properties: options.root_properties,
        init: options.init_root,
        parents: None,
    };
    let dsl = DslPool::create(mos, host, tx, root)?;
    spa.initializing.store(false, Ordering::Release);
    history::create(mos, tx, spa.space.size())?;
    directory::add(mos, tx, "creation_version", SOFTWARE_VERSION)?;
    directory::add(mos, tx, "deflate", 1)?;
    directory::add(mos, tx, "sync_bplist", Bpobj::allocate(mos, tx)?)?;
    let command = options.command.unwrap_or_else(|| alloc::format!("zpool create {}", options.name));
    spa.log(tx, NvList::new().with("history command", command).with("history who", 0))?;
    let text = alloc::format!(
        "pool version {SOFTWARE_VERSION}; software version tarn-{}",
        env!("CARGO_PKG_VERSION")
    );
    spa.log_internal(tx, "create", 0, "", &text)?;
    for (name, value) in options.properties.iter().filter(|(n, _)| !is_structural(n)) {
        props::set(spa, &dsl, tx, name, value)?;
    }
    spa.state.lock().config_dirty = true;
    spa.state.lock().deferred_done = true;
    let core = Arc::new(Core { spa: Arc::clone(spa), dsl, ended: (Mutex::new(false), Condvar::new()) });
    if !core.sync_quiesced(&quiesced) {
        return Err(spa.txgs.failure().unwrap_or(Error::Busy));
    }
    sync::start(&core);
    Ok(core)
}

/// Properties that say how the pool is made, and are no entries in its list of properties.
fn is_structural(name: &str) -> bool {
    name.starts_with("feature@") || name == "ashift" || name == "version"
}

/// Names that a test may want.
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["tarn", "a-b_c.d:e f", "logs"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "1pool", "mirror1", "a/b", "a@b", "log", "ä"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        assert_eq!(check_name(&"a".repeat(201)), Err(Error::NameTooLong));
    }

    #[test]
    fn metaslabs_get_openzfs_sizes() {
        assert_eq!(metaslab_shift(163_053_568), 24);
        assert_eq!(metaslab_shift(1 << 30), 27);
        assert_eq!(metaslab_shift(16 << 30), 29);
        assert_eq!(metaslab_shift(1 << 40), 33);
    }
}
