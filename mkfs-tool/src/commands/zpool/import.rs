//! `tarn zpool import`, `export` and `labelclear`: pools that come and go.

use super::create::STATE_DESTROYED;
use super::{status, vdevs};
use crate::cli::zpool::{Export, Import, Labelclear};
use crate::commands::new_pool;
use crate::commands::open::OpenPool;
use crate::image::{self, Access, Images};
use crate::output::show_name;
use anyhow::{Context, Result, bail, ensure};
use platform::block::{BlockDevice, Op, run as run_io};
use platform::host::FileDisk;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use zfs::ondisk::label::MIN_DEVICE_SIZE;
use zfs::spa::{ImportOptions, Rewind};
use zfs::vdev::{label, partition};

/// Devices of one pool, by what their labels say.
struct Found {
    name: String,
    guid: u64,
    paths: Vec<PathBuf>,
}

/// Shows what was found, or takes one pool over.
pub(super) fn run(options: &Import, disks: &[PathBuf]) -> Result<ExitCode> {
    let named: Vec<PathBuf> = options.folders.iter().chain(disks).cloned().collect();
    ensure!(!named.is_empty(), "name where the devices are: -d DIR, or --disk IMG");
    let pools = find(&named)?;
    let Some(wanted) = &options.pool else {
        return report(&pools);
    };
    let mut matching = pools.iter().filter(|pool| pool.name == *wanted || pool.guid.to_string() == *wanted);
    let Some(pool) = matching.next() else { bail!("no pool {wanted} was found") };
    if let Some(other) = matching.next() {
        bail!(
            "more than one pool is called {wanted}: say which by its guid, {} or {}",
            pool.guid,
            other.guid
        );
    }
    if let Some(name) = &options.new_name {
        new_pool::check_name(name)?;
    }
    let rewind = state(options);
    let wanted = ImportOptions {
        force: options.force,
        name: options.new_name.clone(),
        rewind,
        ..ImportOptions::default()
    };
    // What refuses a pool is found while its images can only be read.
    let probe = ImportOptions { read_only: true, ..wanted.clone() };
    let probed = OpenPool::with(&pool.paths, Access::Read, probe).map_err(|e| advise(e, rewind))?;
    if options.dry_run {
        let (name, txg) = (probed.pool.name(), probed.pool.last_synced_txg());
        match rewind {
            Rewind::No => println!("would import {name}"),
            _ => println!("would import {name} as it was at txg {txg}"),
        }
        return Ok(ExitCode::SUCCESS);
    }
    drop(probed);
    let opened = OpenPool::with(&pool.paths, Access::Write, wanted)?;
    let renamed = options.new_name.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
    let how = options_text(rewind);
    opened.pool.log_history(&format!("zpool import {how}{}{renamed}", pool.name))?;
    println!("{}: imported and exported again", opened.pool.name());
    opened.close()?;
    Ok(ExitCode::SUCCESS)
}

/// Which state is asked for.
fn state(options: &Import) -> Rewind {
    match (options.txg, options.rewind, options.extreme, options.rewind_to_checkpoint) {
        (Some(txg), ..) => Rewind::Txg(txg),
        (_, _, _, true) => Rewind::Checkpoint,
        (_, true, true, _) => Rewind::Any,
        (_, true, false, _) => Rewind::Recent,
        _ => Rewind::No,
    }
}

/// The options that ask for it, as the history has them.
fn options_text(rewind: Rewind) -> String {
    match rewind {
        Rewind::No => String::new(),
        Rewind::Recent => "-F ".to_owned(),
        Rewind::Any => "-FX ".to_owned(),
        Rewind::Txg(txg) => format!("-T {txg} "),
        Rewind::Checkpoint => "--rewind-to-checkpoint ".to_owned(),
    }
}

/// Says what can be done about a damaged pool.
fn advise(error: anyhow::Error, rewind: Rewind) -> anyhow::Error {
    let damaged = matches!(
        error.downcast_ref::<zfs::Error>(),
        Some(zfs::Error::Checksum { .. } | zfs::Error::Corrupt { .. })
    );
    match rewind {
        Rewind::No if damaged => {
            anyhow::anyhow!("{error:#}; -F goes back to an older state, -Fn says to which")
        }
        _ => error,
    }
}

/// Groups all labelled devices by pool.
fn find(named: &[PathBuf]) -> Result<Vec<Found>> {
    let images = Images::open(named, Access::Read)?;
    let mut pools: BTreeMap<u64, Found> = BTreeMap::new();
    for (path, device) in images.paths.iter().zip(&images.devices) {
        let Ok((label, _)) = partition::find(device) else { continue };
        // Spares and cache devices name no pool: every pool there may have them.
        let Some(guid) = label.config.get_u64("pool_guid") else { continue };
        let name = label.config.get_str("name").unwrap_or("?").to_owned();
        pools.entry(guid).or_insert_with(|| Found { name, guid, paths: Vec::new() }).paths.push(path.clone());
    }
    Ok(pools.into_values().collect())
}

/// What `zpool import` says about each pool.
fn report(pools: &[Found]) -> Result<ExitCode> {
    ensure!(!pools.is_empty(), "no pool found");
    let mut text = String::new();
    for pool in pools {
        let _ = write!(text, "   pool: {}\n     id: {}\n", show_name(pool.name.as_bytes()), pool.guid);
        match OpenPool::with(&pool.paths, Access::Read, ImportOptions::read_only()) {
            Ok(opened) => {
                let state = status::state_word(&opened.pool);
                let _ = write!(
                    text,
                    "  state: {state}\n action: The pool can be imported using its name or numeric identifier.\n config:\n\n"
                );
                status::config(&mut text, &opened.pool.name(), state, &vdevs::sections(&opened.pool));
            }
            Err(e) => {
                let _ =
                    write!(text, "  state: UNAVAIL\n status: {e:#}\n action: The pool cannot be imported.\n");
            }
        }
        text.push('\n');
    }
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Opens a pool for writing and closes it in good order.
pub(super) fn export(options: &Export, disks: &[PathBuf], force: bool) -> Result<ExitCode> {
    let opened = OpenPool::write(disks, force || options.force)?;
    opened.expect_name(options.pool.as_deref())?;
    opened.pool.log_history(&format!("zpool export {}", opened.pool.name()))?;
    opened.close()?;
    Ok(ExitCode::SUCCESS)
}

/// Overwrites all four labels of each device.
pub(super) fn labelclear(options: &Labelclear) -> Result<ExitCode> {
    for path in &options.devices {
        clear(path, options.force).with_context(|| path.display().to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn clear(path: &Path, force: bool) -> Result<()> {
    let size = std::fs::metadata(path)?.len();
    ensure!(size >= MIN_DEVICE_SIZE, "too small to have labels");
    let _lock = image::lock(path)?;
    let device: Arc<dyn BlockDevice> = Arc::new(FileDisk::open(path, true)?);
    let found = partition::find(&device);
    if !force {
        let Ok((label, _)) = &found else {
            bail!("no label was found; with -f, where labels would be is cleared anyway")
        };
        match label.config.get_str("name") {
            _ if label.config.get_u64("state") == Some(STATE_DESTROYED) => {}
            Some(name) => bail!(
                "is part of pool '{name}': with -f its labels are cleared, and the pool loses the device"
            ),
            None => bail!("is a spare or cache device of a pool: with -f its labels are cleared"),
        }
    }
    // Those of the partition that has them, as `zpool labelclear` is given it.
    let place = found.map_or(device, |(_, place)| place);
    label::clear(&*place)?;
    run_io(&*place, Op::Flush)?;
    Ok(())
}
