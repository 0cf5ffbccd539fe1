//! `tarn zpool set` and `upgrade`: what changes a pool as a whole.

use crate::cli::zpool::{Clear, Reguid, Set, Upgrade};
use crate::commands::open::OpenPool;
use crate::output::{Align, Column, Style, Table};
use anyhow::{Context, Result, ensure};
use std::path::PathBuf;
use std::process::ExitCode;
use zfs::ondisk::features::{FEATURES, Feature, Support};
use zfs::spa::FeatureState;

/// The version of pools with features (`SPA_VERSION_FEATURES`).
const VERSION_FEATURES: u64 = 5000;

/// The images of the pool, and whether it is taken from another host.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) disks: &'a [PathBuf],
    pub(super) force: bool,
}

impl Target<'_> {
    /// Opens the pool for writing, lets `work` change it, and closes it. `work` says what the history is to say.
    pub(super) fn change(
        self,
        name: Option<&str>,
        work: impl FnOnce(&OpenPool) -> Result<Option<String>>,
    ) -> Result<ExitCode> {
        let opened = OpenPool::write(self.disks, self.force)?;
        opened.expect_name(name)?;
        let worked = work(&opened);
        if let Ok(Some(line)) = &worked {
            opened.pool.log_history(line)?;
        }
        opened.close()?;
        worked?;
        Ok(ExitCode::SUCCESS)
    }
}

/// `zpool set`.
pub(super) fn set(target: Target<'_>, options: &Set) -> Result<ExitCode> {
    target.change(options.pool.as_deref(), |opened| {
        let (name, value) = &options.property;
        opened.pool.set_property(name, value).with_context(|| format!("{name}={value}"))?;
        Ok(Some(format!("zpool set {name}={value} {}", opened.pool.name())))
    })
}

/// `zpool clear`.
pub(super) fn clear(target: Target<'_>, options: &Clear) -> Result<ExitCode> {
    target.change(options.pool.as_deref(), |opened| {
        opened.pool.clear_errors()?;
        Ok(Some(format!("zpool clear {}", opened.pool.name())))
    })
}

/// `zpool reguid`.
pub(super) fn reguid(target: Target<'_>, options: &Reguid) -> Result<ExitCode> {
    target.change(options.pool.as_deref(), |opened| {
        opened.pool.reguid()?;
        Ok(Some(format!("zpool reguid {}", opened.pool.name())))
    })
}

/// `zpool upgrade`: shows what could be enabled, or enables it. Nothing is ever enabled unasked.
pub(super) fn upgrade(target: Target<'_>, options: &Upgrade) -> Result<ExitCode> {
    if options.verbose {
        return supported();
    }
    let missing = |opened: &OpenPool| {
        let states = opened.pool.features();
        let on = |feature: &Feature| {
            states.iter().any(|(name, state)| name == feature.name && *state != FeatureState::Disabled)
        };
        let all = FEATURES.iter().filter(|f| f.default_enabled() && !on(f));
        all.map(|f| f.name).collect::<Vec<_>>()
    };
    if !options.all && options.pool.is_none() {
        let opened = OpenPool::read(target.disks)?;
        let missing = missing(&opened);
        let name = opened.pool.name();
        if opened.pool.version() < VERSION_FEATURES {
            println!(
                "{name}: version {}, which has no features and cannot be upgraded here",
                opened.pool.version()
            );
        } else if missing.is_empty() {
            println!("{name}: every feature that this tarn can write is enabled");
        } else {
            println!(
                "{name}: these features are not enabled; upgrade -a enables them, and older software may not read the pool then:"
            );
            missing.iter().for_each(|feature| println!("\t{feature}"));
        }
        return Ok(ExitCode::SUCCESS);
    }
    target.change(options.pool.as_deref(), |opened| {
        let name = opened.pool.name();
        ensure!(
            opened.pool.version() >= VERSION_FEATURES,
            "{name}: a pool of version {} cannot be upgraded here",
            opened.pool.version()
        );
        let missing = missing(opened);
        for feature in &missing {
            let property = format!("feature@{feature}");
            opened.pool.set_property(&property, "enabled").with_context(|| property.clone())?;
            println!("{name}: enabled {feature}");
        }
        Ok((!missing.is_empty()).then(|| format!("zpool upgrade {name}")))
    })
}

/// Every feature this tool knows, and how far.
fn supported() -> Result<ExitCode> {
    let columns = ["feature", "support", "description"].map(|key| Column::new(key, Align::Left));
    let mut table = Table::new(columns.to_vec());
    for feature in FEATURES {
        let support = match feature.support {
            Support::Write => "read, write",
            Support::Read => "read",
            Support::None => "while it is not used",
        };
        table.push(vec![feature.name.to_owned(), support.to_owned(), feature.description.to_owned()]);
    }
    table.show(Style::Human)
}
