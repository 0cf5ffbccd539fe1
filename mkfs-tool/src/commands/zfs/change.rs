//! `tarn zfs set`, `inherit`, `create` and `rename`. Each returns its line for the pool's history.

use super::select::dataset;
use crate::cli::zfs::{Create, Inherit, Rename, Set};
use crate::commands::open::OpenPool;
use anyhow::{Context, Result, bail, ensure};
use zfs::dsl::{CreateFs, InitFs, Kind};
use zfs::zpl;

/// `zfs set`: pairs first, then datasets.
pub(super) fn set(opened: &OpenPool, options: &Set) -> Result<String> {
    let pairs: Vec<(&str, &str)> = options.words.iter().map_while(|word| word.split_once('=')).collect();
    let datasets = &options.words[pairs.len()..];
    ensure!(!pairs.is_empty(), "{}: not PROPERTY=VALUE", options.words[0]);
    ensure!(!datasets.is_empty(), "name a dataset after the properties");
    for name in datasets {
        dataset(opened, name)?;
        opened
            .pool
            .dsl()
            .set_properties(name, &pairs)
            .with_context(|| format!("cannot set properties of {name}"))?;
    }
    Ok(format!("zfs set {}", options.words.join(" ")))
}

/// `zfs inherit`.
pub(super) fn inherit(opened: &OpenPool, options: &Inherit) -> Result<String> {
    for name in &options.datasets {
        dataset(opened, name)?;
        let done = opened.pool.dsl().inherit_property(name, &options.property, options.recursive);
        done.with_context(|| format!("cannot inherit {} of {name}", options.property))?;
    }
    let flag = if options.recursive { "-r " } else { "" };
    Ok(format!("zfs inherit {flag}{} {}", options.property, options.datasets.join(" ")))
}

/// `zfs create`.
pub(super) fn create(opened: &OpenPool, options: &Create) -> Result<String> {
    if options.volume.is_some() {
        bail!("{}: making volumes (-V) is not supported yet", options.dataset);
    }
    let env = opened.pool.env().clone();
    let fixed: Vec<(&'static str, u64)> = crate::commands::new_pool::fixed_properties(&options.properties);
    let now = env.clock.now();
    let init = move |fixed: Vec<(&'static str, u64)>| -> InitFs {
        Box::new(move |os, tx| {
            let fixed: Vec<(&str, u64)> = fixed.iter().map(|(name, value)| (*name, *value)).collect();
            zpl::init(os, tx, &fixed, now)
        })
    };
    let parents: Option<Box<dyn Fn() -> InitFs + Send>> =
        if options.parents { Some(Box::new(move || init(Vec::new()))) } else { None };
    let create = CreateFs {
        kind: Kind::Filesystem,
        properties: options.properties.clone(),
        init: init(fixed),
        parents,
    };
    let made = opened.pool.dsl().create_dataset(&options.dataset, create);
    made.with_context(|| format!("cannot create {}", options.dataset))?;
    let properties: String = options.properties.iter().map(|(k, v)| format!("-o {k}={v} ")).collect();
    let flag = if options.parents { "-p " } else { "" };
    Ok(format!("zfs create {flag}{properties}{}", options.dataset))
}

/// `zfs rename`.
pub(super) fn rename(opened: &OpenPool, options: &Rename) -> Result<String> {
    dataset(opened, &options.from)?;
    // `zfs rename fs@a @b` is allowed.
    let to = match (options.to.strip_prefix('@'), options.from.split_once('@')) {
        (Some(snapshot), Some((dataset, _))) => format!("{dataset}@{snapshot}"),
        _ => options.to.clone(),
    };
    let done = opened.pool.dsl().rename(&options.from, &to, options.recursive);
    done.with_context(|| format!("cannot rename {} to {to}", options.from))?;
    let flag = if options.recursive { "-r " } else { "" };
    Ok(format!("zfs rename {flag}{} {to}", options.from))
}
