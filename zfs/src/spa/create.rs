//! Making a pool. Source: `spa_create` (`module/zfs/spa.c`), `vdev_create`, `vdev_label_init`.

use super::aux_devices::{self, Aux};
use super::config::{self, Config};
use super::core::{Core, Parts, Spa};
use super::directory;
use super::features::Features;
use super::history;
use super::metaslab::Metaslabs;
use super::options::CreateOptions;
use super::props;
use super::sync::{self, SOFTWARE_VERSION};
use super::topology::{Bias, Builder, Built, Topology, new_guid};
use super::vdev_zaps;
use crate::dmu::tx::Limits;
use crate::dmu::{Objset, Quiesced, Tx, Txgs};
use crate::dsl::{Bpobj, CreateFs, DslPool, Kind, SpaHost};
use crate::error::{Error, Result};
use crate::ondisk::blkptr::Blkptr;
use crate::ondisk::features::{self as table, FEATURES, Feature};
use crate::ondisk::nvlist::NvList;
use crate::ondisk::objset::ObjsetKind;
use crate::ondisk::uberblock::Uberblock;
use crate::vdev::{Leaf, VdevTree, label};
use crate::zio::Zio;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use platform::Env;

/// The first txg of every pool (`TXG_INITIAL`).
const TXG_INITIAL: u64 = 4;

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

/// Features that the options ask for, in the table's order.
fn wanted_features(options: &CreateOptions) -> Result<Vec<&'static Feature>> {
    let compatibility = options.properties.iter().rfind(|(name, _)| name == "compatibility");
    let sets = compatibility.map_or("off", |(_, sets)| sets.as_str());
    if FEATURES.iter().any(|f| table::is_compatible(f, sets).is_none()) {
        return Err(Error::Invalid("compatibility: off, legacy, or known sets of features"));
    }
    // Sets say what a pool gets: they may go beyond what it would get without.
    let wanted = |f: &&Feature| match sets {
        "off" => f.default_enabled(),
        sets => f.can_enable() && table::is_compatible(f, sets) == Some(true),
    };
    let mut wanted: Vec<&Feature> = FEATURES.iter().filter(wanted).collect();
    for (name, value) in options.properties.iter().filter_map(|(n, v)| Some((n.strip_prefix("feature@")?, v)))
    {
        let feature =
            table::by_name(name).ok_or_else(|| Error::unsupported(alloc::format!("feature {name}")))?;
        match value.as_str() {
            "enabled" if wanted.iter().any(|f| f.name == name) => {}
            "enabled" if feature.can_enable() => wanted.push(feature),
            "enabled" => return Err(Error::unsupported(alloc::format!("writing with feature {name}"))),
            "disabled" => wanted.retain(|f| f.name != name),
            _ => return Err(Error::Invalid("a feature is either enabled or disabled")),
        }
    }
    Ok(wanted)
}

/// Creates a pool.
pub(super) fn create(topology: &Topology, env: Env, options: CreateOptions) -> Result<Arc<Core>> {
    check_name(&options.name)?;
    if topology.data.is_empty() {
        return Err(Error::Invalid("a pool needs a device"));
    }
    let wanted = wanted_features(&options)?;
    let pool_guid = new_guid(&*env.random);
    let builder = Builder {
        random: &*env.random,
        ashift: options.ashift,
        paths: &options.device_paths,
        txg: TXG_INITIAL,
        holes: Vec::new(),
        first_id: 0,
    };
    let built = builder.build(topology)?;
    let is_wanted = |guid: &str| wanted.iter().any(|feature| feature.guid == guid);
    let needed = needed_features(&built, &is_wanted)?;
    let mut config = Config::new(&options.name, pool_guid, built.tops.clone(), TXG_INITIAL);
    config.host_id = options.host_id;
    config.host_name.clone_from(&options.host_name);
    let vdevs = VdevTree::open(&config.root, &built.members)?;
    init_labels(&config, &vdevs, &built)?;

    let mut salt = [0; 32];
    env.random.fill(&mut salt);
    let zio = Zio::new(vdevs, salt, options.arc_max);
    zio.allow_repairs();
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
    for guid in needed {
        features.change(&mos, &tx, guid, 1)?;
    }
    vdev_zaps::create(&mos, &tx, &mut config, &built.biases)?;
    config.load_biases(&mos)?;
    let config_object = config::create(&mos, &tx)?;
    for (which, list) in [(Aux::Spares, built.spares), (Aux::Caches, built.caches)] {
        if !list.is_empty() {
            aux_devices::write(&mos, &tx, which, list)?;
        }
    }
    directory::add_bytes(&mos, &tx, "org.illumos:checksum_salt", &salt)?;
    let space = Metaslabs::open(Arc::clone(&mos), &config.layouts()?)?;
    let uberblock = first_uberblock();
    let read_only = false;
    let members = [built.members, built.spare_members, built.cache_members].concat();
    let parts =
        Parts { env, zio, txgs, mos, space, features, read_only, config, config_object, uberblock, members };
    let spa = Spa::new(parts);
    fill(&spa, &tx, options, quiesced)
}

/// Features that the vdevs make active, once for each user. Each must be one that `is_enabled` knows.
pub(super) fn needed_features(built: &Built, is_enabled: &dyn Fn(&str) -> bool) -> Result<Vec<&'static str>> {
    let classes = built.biases.iter().filter(|bias| matches!(bias, Bias::Special | Bias::Dedup));
    let draids = built.tops.iter().filter(|top| top.get_str("type") == Some("draid"));
    let needed: Vec<&str> = classes
        .map(|_| "org.zfsonlinux:allocation_classes")
        .chain(draids.map(|_| "org.openzfs:draid"))
        .collect();
    for guid in &needed {
        if !is_enabled(guid) {
            return Err(Error::unsupported(alloc::format!("such a vdev without feature {guid}")));
        }
    }
    Ok(needed)
}

/// Labels without an uberblock: what was on the devices before cannot be mistaken for this pool.
pub(super) fn init_labels(config: &Config, vdevs: &VdevTree, built: &Built) -> Result<()> {
    let is_new = |leaf: &&&Arc<Leaf>| built.members.iter().any(|(guid, _)| *guid == leaf.guid);
    for leaf in vdevs.leaves().iter().filter(is_new) {
        if let Some(device) = &leaf.device {
            label::create(&**device, &config.for_label(leaf.top_guid, leaf.guid, 0, &[]))?;
        }
    }
    built.spare_members.iter().try_for_each(|member| aux_devices::create_label(Aux::Spares, member))?;
    built.cache_members.iter().try_for_each(|member| aux_devices::create_label(Aux::Caches, member))
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
    let core = Core::new(Arc::clone(spa), dsl);
    if !core.sync_quiesced(&quiesced) {
        return Err(spa.txgs.failure().unwrap_or(Error::Busy));
    }
    sync::start(&core);
    Ok(core)
}

/// Properties that say how the pool is made, and are no entries in its list of properties.
fn is_structural(name: &str) -> bool {
    name.starts_with("feature@") || ["ashift", "version", "compatibility"].contains(&name)
}

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
}
