//! `tarn zfs set`, `inherit`, `rename` and `promote`.

use super::accounts;
use super::create::ancestors;
use super::select::dataset;
use crate::cli::zfs::{Inherit, Promote, Rename, Set};
use crate::commands::open::OpenPool;
use anyhow::{Context, Result, ensure};

/// `zfs set`: pairs first, then datasets.
pub(super) fn set(opened: &OpenPool, options: &Set) -> Result<()> {
    let pairs: Vec<(&str, &str)> = options.words.iter().map_while(|word| word.split_once('=')).collect();
    let datasets = &options.words[pairs.len()..];
    ensure!(!pairs.is_empty(), "{}: not PROPERTY=VALUE", options.words[0]);
    ensure!(!datasets.is_empty(), "name a dataset after the properties");
    let (quotas, pairs): (Vec<_>, Vec<_>) =
        pairs.into_iter().partition(|(name, _)| accounts::is_property(name));
    for name in datasets {
        let dataset = dataset(opened, name)?;
        accounts::set_quotas(&dataset, &quotas)
            .with_context(|| format!("cannot set properties of {name}"))?;
        if pairs.is_empty() {
            continue;
        }
        let done = opened.pool.dsl().set_properties(name, &pairs);
        done.with_context(|| format!("cannot set properties of {name}"))?;
    }
    Ok(())
}

/// `zfs inherit`.
pub(super) fn inherit(opened: &OpenPool, options: &Inherit) -> Result<()> {
    for name in &options.datasets {
        dataset(opened, name)?;
        let dsl = opened.pool.dsl();
        let done = dsl.inherit_property(name, &options.property, options.recursive, options.received);
        done.with_context(|| format!("cannot inherit {} of {name}", options.property))?;
    }
    Ok(())
}

/// `zfs rename`.
pub(super) fn rename(opened: &OpenPool, options: &Rename) -> Result<()> {
    dataset(opened, &options.from)?;
    // `zfs rename fs@a @b` is allowed.
    let to = match (options.to.strip_prefix('@'), options.from.split_once('@')) {
        (Some(snapshot), Some((dataset, _))) => format!("{dataset}@{snapshot}"),
        _ => options.to.clone(),
    };
    ensure!(
        options.from.contains('@') || !options.recursive,
        "-r renames snapshots: what is below {} keeps its names anyway",
        options.from
    );
    if options.parents {
        ensure!(!options.from.contains('@'), "-p is for file systems and volumes");
        ancestors(opened, &to)?;
    }
    let done = opened.pool.dsl().rename(&options.from, &to, options.recursive);
    done.with_context(|| format!("cannot rename {} to {to}", options.from))
}

/// `zfs promote`.
pub(super) fn promote(opened: &OpenPool, options: &Promote) -> Result<()> {
    dataset(opened, &options.clone)?;
    let done = opened.pool.dsl().promote(&options.clone);
    done.with_context(|| format!("cannot promote {}", options.clone))
}
