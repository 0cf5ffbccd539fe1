//! `tarn zfs hold`, `release` and `holds`.

use super::request;
use super::select::{dataset, same_named};
use crate::cli::zfs::{Hold, Holds, Release};
use crate::commands::open::OpenPool;
use crate::output::{Align, Column, Table};
use anyhow::{Context, Result};
use std::process::ExitCode;
use zfs::dsl::human_time;
use zfs::ondisk::nvlist::NvList;

/// The snapshots that are meant, by full name.
fn targets(opened: &OpenPool, names: &[String], recursive: bool) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for name in names {
        let (head, _) =
            name.split_once('@').with_context(|| format!("{name}: a snapshot's name is DATASET@NAME"))?;
        if recursive {
            let found = same_named(&dataset(opened, head)?, name)?;
            anyhow::ensure!(!found.is_empty(), "{name}: no such snapshot on {} or below", opened.name());
            all.extend(found);
        } else {
            dataset(opened, name)?;
            all.push(name.clone());
        }
    }
    Ok(all)
}

/// `zfs hold`: on all of them or none.
pub(super) fn hold(opened: &OpenPool, options: &Hold) -> Result<Vec<NvList>> {
    let names = targets(opened, &options.snapshots, options.recursive)?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let done = opened.pool.dsl().hold(&names, &options.tag);
    done.with_context(|| format!("cannot hold {} with the tag {}", names.join(", "), options.tag))?;
    let holds = names.iter().fold(NvList::new(), |list, name| list.with(name, options.tag.as_str()));
    Ok(vec![request::request("hold", NvList::new().with("holds", holds))])
}

/// `zfs release`: with `-r`, those of the snapshots that have the hold.
pub(super) fn release(opened: &OpenPool, options: &Release) -> Result<Vec<NvList>> {
    let mut names = targets(opened, &options.snapshots, options.recursive)?;
    if options.recursive {
        let mut held = Vec::new();
        for name in names {
            if dataset(opened, &name)?.holds()?.iter().any(|hold| hold.tag == options.tag) {
                held.push(name);
            }
        }
        anyhow::ensure!(!held.is_empty(), "no such tag on these snapshots: {}", options.tag);
        names = held;
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let done = opened.pool.dsl().release(&names, &options.tag);
    done.with_context(|| format!("cannot release the hold {} of {}", options.tag, names.join(", ")))?;
    let tag = request::set([options.tag.as_str()]);
    let input = names.iter().fold(NvList::new(), |list, name| list.with(name, tag.clone()));
    Ok(vec![request::request("release", input)])
}

/// `zfs holds`.
pub(super) fn list(opened: &OpenPool, options: &Holds) -> Result<ExitCode> {
    let columns = ["name", "tag", "timestamp"].map(|name| Column::new(name, Align::Left));
    let mut table = Table::new(columns.into());
    for name in targets(opened, &options.snapshots, options.recursive)? {
        for hold in dataset(opened, &name)?.holds()? {
            let time = if options.listing.exact() { hold.time.to_string() } else { human_time(hold.time) };
            table.push(vec![name.clone(), hold.tag, time]);
        }
    }
    table.show(options.listing.style())
}
