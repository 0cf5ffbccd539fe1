//! `tarn zpool attach`, `detach`, `replace`, `offline`, `online` and `resilver`: devices that come and go.
//!
//! A tarn command is over when its work is: it resilvers before it ends, unless it is told not to. One that was interrupted is taken up by
//! `tarn zpool resilver`, or by OpenZFS when it imports the pool.

use super::change::Target;
use super::create::Devices;
use super::scrub::print_scan;
use super::vdevs;
use crate::cli::zpool::{Attach, Detach, NewDevice as Options, Offline, Online, Replace, Resilver};
use crate::commands::open::OpenPool;
use crate::commands::progress::Bar;
use crate::vdev_spec::Spec;
use anyhow::{Context, Result, bail, ensure};
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use zfs::spa::{Pool, Replacement, ScanControl};
use zfs::vdev::LeafState;

/// The guid of the device that is meant: by guid, by the name in the status, or by a path that ends in that name.
pub(super) fn device(pool: &Pool, word: &OsStr) -> Result<u64> {
    let text = word.to_string_lossy();
    let rows: Vec<(String, u64)> = vdevs::devices(pool);
    if let Ok(number) = text.parse::<u64>()
        && rows.iter().any(|(_, guid)| *guid == number)
    {
        return Ok(number);
    }
    let name = file_name(word);
    let mut found = rows.iter().filter(|(own, _)| *own == text || *own == name);
    let Some((_, guid)) = found.next() else {
        bail!("{text}: no device of pool {} is called that; zpool status shows their names", pool.name())
    };
    ensure!(
        found.all(|(_, other)| other == guid),
        "{text}: several devices are called that: name it by its guid"
    );
    Ok(*guid)
}

pub(super) fn file_name(word: &OsStr) -> String {
    Path::new(word).file_name().unwrap_or(word).to_string_lossy().into_owned()
}

/// A hot spare of that name or guid.
fn spare(pool: &Pool, word: &OsStr) -> Result<Option<u64>> {
    let (text, name) = (word.to_string_lossy().into_owned(), file_name(word));
    let of = |list: zfs::ondisk::nvlist::NvList| {
        let guid = list.get_u64("guid")?;
        let own = list.get_str("path").map(|path| file_name(OsStr::new(path))).unwrap_or_default();
        (own == name || guid.to_string() == text).then_some(guid)
    };
    Ok(pool.spares()?.into_iter().find_map(of))
}

/// Opens, or makes, the new device; its file has its name before the pool knows it.
fn new_device(word: &OsString, options: &Options) -> Result<zfs::spa::NewDevice> {
    let spec = Spec::parse(std::slice::from_ref(word))?;
    let path = spec.devices().next().context("no device is named")?.to_owned();
    let devices = Devices::open(&spec, options.size, options.force)?;
    let device = devices.new_device(&path);
    devices.commit()?;
    Ok(device)
}

/// Resilvers with a progress bar and prints the outcome.
fn bring(pool: &Arc<Pool>, later: bool, quiet: bool) -> Result<()> {
    if later {
        return Ok(());
    }
    let bar = Bar::bytes_of("resilvering", 0, quiet);
    let report = pool.resilver(&mut |p| {
        bar.set(p.done, p.total);
        ScanControl::Continue
    })?;
    bar.finish();
    if let Some(report) = &report {
        let whole = print_scan(pool, report)?;
        ensure!(whole && !pool.needs_resilver(), "the resilver could not bring everything: zpool status -v");
    }
    Ok(())
}

/// `zpool resilver`.
pub(super) fn resilver(target: Target<'_>, options: &Resilver) -> Result<ExitCode> {
    target.change(options.pool.as_deref(), |opened| {
        bring(&opened.pool, false, options.quiet)?;
        Ok(Some(format!("zpool resilver {}", opened.pool.name())))
    })
}

/// `zpool attach`.
pub(super) fn attach(target: Target<'_>, options: &Attach) -> Result<ExitCode> {
    target.change(Some(&options.pool), |opened| {
        let old = device(&opened.pool, &options.device)?;
        let new = new_device(&options.new_device, &options.new)?;
        opened.pool.attach(old, new).with_context(|| meant(opened, &options.new_device))?;
        opened.pool.log_history(&line("attach", &options.pool, [&options.device, &options.new_device]))?;
        bring(&opened.pool, options.new.later, options.new.quiet)?;
        Ok(None)
    })
}

/// `zpool replace`.
pub(super) fn replace(target: Target<'_>, options: &Replace) -> Result<ExitCode> {
    target.change(Some(&options.pool), |opened| {
        let pool = &opened.pool;
        let old = device(pool, &options.device)?;
        let word = options.new_device.as_ref().unwrap_or(&options.device);
        let with = match spare(pool, word)? {
            Some(guid) => Replacement::Spare(guid),
            None => Replacement::Device(new_device(word, &options.new)?),
        };
        pool.replace(old, with).with_context(|| meant(opened, word))?;
        pool.log_history(&line("replace", &options.pool, [&options.device, word]))?;
        bring(pool, options.new.later, options.new.quiet)?;
        pool.autoexpand()?;
        Ok(None)
    })
}

/// `zpool detach`.
pub(super) fn detach(target: Target<'_>, options: &Detach) -> Result<ExitCode> {
    target.change(Some(&options.pool), |opened| {
        let guid = device(&opened.pool, &options.device)?;
        opened.pool.detach(guid).with_context(|| needed(&options.device))?;
        Ok(Some(line("detach", &options.pool, [&options.device])))
    })
}

/// `zpool offline`.
pub(super) fn offline(target: Target<'_>, options: &Offline) -> Result<ExitCode> {
    ensure!(
        !options.temporary,
        "-t lasts until the pool is exported, and every tarn command exports it at its end: leave the image out instead"
    );
    target.change(Some(&options.pool), |opened| {
        for word in &options.devices {
            let guid = device(&opened.pool, word)?;
            opened.pool.offline(guid, false).with_context(|| needed(word))?;
        }
        Ok(Some(line("offline", &options.pool, &options.devices)))
    })
}

/// `zpool online`.
pub(super) fn online(target: Target<'_>, options: &Online) -> Result<ExitCode> {
    target.change(Some(&options.pool), |opened| {
        for word in &options.devices {
            let guid = device(&opened.pool, word)?;
            let state = opened.pool.online(guid, options.expand).with_context(|| needed(word))?;
            if state != LeafState::Online {
                eprintln!(
                    "tarn: {}: is in service, but was not given: name its image with --disk",
                    word.to_string_lossy()
                );
            }
        }
        let verb = if options.expand { "online -e" } else { "online" };
        opened.pool.log_history(&line(verb, &options.pool, &options.devices))?;
        bring(&opened.pool, options.later, options.quiet)?;
        opened.pool.autoexpand()?;
        Ok(None)
    })
}

fn meant(opened: &OpenPool, word: &OsStr) -> String {
    format!("{}: {}", opened.pool.name(), word.to_string_lossy())
}

fn needed(word: &OsStr) -> String {
    format!("{} (busy: no other device has all of its data)", word.to_string_lossy())
}

/// A line of the history, without this machine's folders.
pub(super) fn line<'a>(verb: &str, pool: &str, words: impl IntoIterator<Item = &'a OsString>) -> String {
    let words: Vec<String> = words.into_iter().map(|word| file_name(word)).collect();
    format!("zpool {verb} {pool} {}", words.join(" "))
}
