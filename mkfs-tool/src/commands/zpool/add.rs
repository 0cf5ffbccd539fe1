//! `tarn zpool add` and `remove`: vdevs, hot spares and cache devices that a pool gets, and those that it can give up.

use super::change::Target;
use super::create::{Devices, layout, words_of};
use super::devices::{file_name, line};
use super::vdevs;
use crate::cli::zpool::{Add, Remove};
use crate::commands::open::OpenPool;
use crate::vdev_spec::{Shape, Spec};
use anyhow::{Context, Result, bail, ensure};
use std::process::ExitCode;
use zfs::spa::Pool;

/// `zpool add`.
pub(super) fn run(target: Target<'_>, options: &Add) -> Result<ExitCode> {
    let spec = Spec::parse(&options.vdevs)?;
    let mut ashift = None;
    for (name, value) in &options.properties {
        ensure!(name == "ashift", "{name}: ashift is the only property of what is added");
        ashift = Some(value.parse().with_context(|| format!("ashift={value}"))?);
    }
    if options.dry_run {
        let opened = OpenPool::read(target.disks)?;
        opened.expect_name(Some(&options.pool))?;
        check_redundancy(&opened.pool, &spec, options)?;
        println!("would add to '{}':\n\n{}", options.pool, layout(&options.pool, &spec));
        return Ok(ExitCode::SUCCESS);
    }
    target.change(Some(&options.pool), |opened| {
        check_redundancy(&opened.pool, &spec, options)?;
        let devices = Devices::open(&spec, options.size, options.force)?;
        if !options.force {
            devices.check_sizes(&spec)?;
        }
        let topology = devices.topology(&spec);
        // The pool must never know of a device that has no name.
        devices.commit()?;
        opened.pool.add(topology, ashift).with_context(|| options.pool.clone())?;
        Ok(Some(format!("zpool add {} {}", options.pool, words_of(&spec))))
    })
}

fn check_redundancy(pool: &Pool, spec: &Spec, options: &Add) -> Result<()> {
    if options.force { Ok(()) } else { spec.check_redundancy(&existing(pool)) }
}

/// The data vdevs that the pool has.
fn existing(pool: &Pool) -> Vec<(Shape, usize)> {
    let config = pool.config();
    let tops =
        config.get_nvlist("vdev_tree").and_then(|tree| tree.get_nvlists("children")).unwrap_or_default();
    let number = |list: &zfs::ondisk::nvlist::NvList, name: &str| {
        list.get_u64(name).and_then(|value| u8::try_from(value).ok()).unwrap_or(1)
    };
    let shape = |top: &zfs::ondisk::nvlist::NvList| {
        let count = top.get_nvlists("children").unwrap_or_default().len().max(1);
        let shape = match top.get_str("type")? {
            "mirror" => Shape::Mirror,
            "raidz" => Shape::Raidz(number(top, "nparity")),
            "draid" => Shape::Draid {
                parity: number(top, "nparity"),
                data: Some(number(top, "draid_ndata")),
                spares: number(top, "draid_nspares"),
            },
            "disk" | "file" | "replacing" | "spare" => Shape::Disk,
            _ => return None,
        };
        Some((shape, count))
    };
    tops.iter().filter(|top| vdevs::class(pool, top).1.is_empty()).filter_map(shape).collect()
}

/// `zpool remove`.
pub(super) fn remove(target: Target<'_>, options: &Remove) -> Result<ExitCode> {
    target.change(Some(&options.pool), |opened| {
        for word in &options.devices {
            let (text, name) = (word.to_string_lossy(), file_name(word));
            let rows = vdevs::sections(&opened.pool).into_iter().flat_map(|section| section.rows);
            let mut found = rows.filter(|row| row.name == text || row.name == name || row.guid.to_string() == text);
            let Some(row) = found.next() else {
                bail!("{text}: the pool has no device of that name; zpool status shows their names")
            };
            opened.pool.remove(row.guid).with_context(|| {
                format!("{text} (a spare must not be in use, and the logs on a log device must have been replayed)")
            })?;
        }
        Ok(Some(line("remove", &options.pool, &options.devices)))
    })
}
