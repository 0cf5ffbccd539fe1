//! `tarn zpool list` and `get`.

use super::vdevs;
use crate::cli::zpool::{Get, List};
use crate::commands::open::OpenPool;
use crate::output::{Align, Column, Table};
use crate::quantity::human;
use anyhow::{Result, bail, ensure};
use std::collections::BTreeMap;
use std::process::ExitCode;
use zfs::Error;

/// What `zpool list` shows if nobody says: property, heading.
const DEFAULT: [(&str, &str); 9] = [
    ("name", "NAME"),
    ("size", "SIZE"),
    ("allocated", "ALLOC"),
    ("free", "FREE"),
    ("checkpoint", "CKPOINT"),
    ("fragmentation", "FRAG"),
    ("capacity", "CAP"),
    ("dedupratio", "DEDUP"),
    ("health", "HEALTH"),
];

/// Short names that `zpool list -o` takes.
const SHORT: [(&str, &str); 4] =
    [("alloc", "allocated"), ("frag", "fragmentation"), ("cap", "capacity"), ("dedup", "dedupratio")];

/// Properties in bytes.
const BYTES: [&str; 10] = [
    "size",
    "allocated",
    "free",
    "freeing",
    "leaked",
    "checkpoint",
    "expandsize",
    "bootsize",
    "bcloneused",
    "bclonesaved",
];
/// Properties in percent.
const PERCENT: [&str; 2] = ["capacity", "fragmentation"];

/// A value for people. The pool's own answer is exact.
fn show(name: &str, value: &str) -> String {
    match value.parse::<u64>() {
        Ok(bytes) if BYTES.contains(&name) => {
            let nothing = bytes == 0 && matches!(name, "checkpoint" | "expandsize" | "bootsize");
            if nothing { "-".to_owned() } else { human(bytes) }
        }
        Ok(percent) if PERCENT.contains(&name) => format!("{percent}%"),
        Ok(_) | Err(_) if name.ends_with("ratio") && !value.ends_with('x') && value != "-" => {
            format!("{value}x")
        }
        _ => value.to_owned(),
    }
}

/// A property's value and source; a dash where the pool has none.
fn value(opened: &OpenPool, name: &str, exact: bool) -> Result<(String, &'static str)> {
    if name == "name" {
        return Ok((opened.pool.name(), "-"));
    }
    match opened.pool.get_property(name) {
        Ok((value, source)) if exact => Ok((value, source)),
        Ok((value, source)) => Ok((show(name, &value), source)),
        Err(Error::NotFound) if DEFAULT.iter().any(|(known, _)| *known == name) => Ok(("-".to_owned(), "-")),
        Err(Error::NotFound) => bail!("a pool has no property {name}"),
        Err(e) => Err(e.into()),
    }
}

/// `zpool list`.
pub(super) fn list(opened: &OpenPool, options: &List) -> Result<ExitCode> {
    let names: Vec<&str> = if options.columns.is_empty() {
        DEFAULT.iter().map(|(name, _)| *name).collect()
    } else {
        let full = |short: &str| SHORT.iter().find(|(s, _)| *s == short).map(|(_, full)| *full);
        options.columns.iter().map(|name| full(name).unwrap_or(name)).collect()
    };
    let columns = names.iter().map(|name| {
        let heading = DEFAULT.iter().find(|(known, _)| known == name).map(|(_, heading)| *heading);
        let text = matches!(*name, "name" | "health" | "comment" | "bootfs" | "guid");
        let column = Column::new(name, if text { Align::Left } else { Align::Right });
        heading.map_or(column.clone(), |h| column.headed(h))
    });
    let mut table = Table::new(columns.collect());
    let mut row = Vec::new();
    for name in &names {
        row.push(value(opened, name, options.listing.exact())?.0);
    }
    table.push(row);
    if options.verbose {
        vdev_rows(opened, &names, options.listing.exact()).into_iter().for_each(|row| table.push(row));
    }
    table.show(options.listing.style())
}

/// What `zpool list -v` shows below the pool: its vdevs, and the space of those that are allocated from.
fn vdev_rows(opened: &OpenPool, names: &[&str], exact: bool) -> Vec<Vec<String>> {
    let space: BTreeMap<u32, (u64, u64)> =
        opened.pool.vdev_space().into_iter().map(|(id, size, used)| (id, (size, used))).collect();
    let mut rows = Vec::new();
    for section in vdevs::sections(&opened.pool) {
        if !section.heading.is_empty() {
            let cell = |name: &&str| if *name == "name" { section.heading } else { "-" }.to_owned();
            rows.push(names.iter().map(cell).collect());
        }
        for row in &section.rows {
            let own = row.top.filter(|_| row.depth == 1).and_then(|top| space.get(&top));
            let number = |name: &str| {
                let (size, used) = own?;
                match name {
                    "size" => Some(*size),
                    "allocated" => Some(*used),
                    "free" => Some(size.saturating_sub(*used)),
                    "capacity" => Some(used.saturating_mul(100).checked_div(*size)?),
                    _ => None,
                }
            };
            let cell = |name: &&str| match *name {
                "name" => format!("{}{}", "  ".repeat(row.depth), row.name),
                "health" => row.state.to_owned(),
                "guid" => row.guid.to_string(),
                name => match number(name) {
                    Some(value) if exact => value.to_string(),
                    Some(value) => show(name, &value.to_string()),
                    None => "-".to_owned(),
                },
            };
            rows.push(names.iter().map(cell).collect());
        }
    }
    rows
}

/// `zpool get`.
pub(super) fn get(opened: &OpenPool, options: &Get) -> Result<ExitCode> {
    let all = ["name", "property", "value", "source"];
    let columns: Vec<&str> = match options.columns.is_empty() {
        true => all.to_vec(),
        false => options.columns.iter().map(String::as_str).collect(),
    };
    for column in &columns {
        ensure!(all.contains(column), "-o {column}: the columns are name, property, value and source");
    }
    let mut table = Table::new(columns.iter().map(|c| Column::new(c, Align::Left)).collect());
    let exact = options.listing.exact();
    let mut found: Vec<(String, String, &'static str)> = Vec::new();
    for name in options.properties.split(',').map(str::trim).filter(|n| !n.is_empty()) {
        if name == "all" {
            let shown = |value: &str, name: &str| if exact { value.to_owned() } else { show(name, value) };
            let list = opened.pool.properties()?.into_iter();
            found.extend(list.map(|(name, value, source)| {
                let value = shown(&value, &name);
                (name, value, source)
            }));
        } else {
            let (value, source) = value(opened, name, exact)?;
            found.push((name.to_owned(), value, source));
        }
    }
    for (property, value, source) in found {
        let cell = |column: &str| match column {
            "name" => opened.pool.name(),
            "property" => property.clone(),
            "value" => value.clone(),
            _ => source.to_owned(),
        };
        table.push(columns.iter().map(|c| cell(c)).collect());
    }
    table.show(options.listing.style())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_as_zpool_does() {
        assert_eq!(show("size", "1073741824"), "1G");
        assert_eq!(show("checkpoint", "0"), "-");
        assert_eq!(show("capacity", "7"), "7%");
        assert_eq!(show("dedupratio", "1.00"), "1.00x");
        assert_eq!(show("dedupratio", "1.00x"), "1.00x");
        assert_eq!((show("bclonesaved", "2048"), show("bcloneratio", "2.50")), ("2K".into(), "2.50x".into()));
        assert_eq!(show("guid", "17"), "17");
        assert_eq!(show("health", "ONLINE"), "ONLINE");
    }
}
