//! `tarn zfs list` and `get`.

use super::accounts;
use super::select::{Item, Types, select};
use crate::cli::zfs::{Get, List};
use crate::commands::open::OpenPool;
use crate::output::{Align, Column, Table};
use anyhow::{Context, Result, ensure};
use std::cmp::Ordering;
use std::process::ExitCode;
use zfs::Error;
use zfs::dsl::{Bookmark, Property, Source, Value, human_bytes, human_time};

/// What `zfs list` shows if nobody says.
const DEFAULT: [&str; 5] = ["name", "used", "available", "referenced", "mountpoint"];

/// What `-o space` stands for.
const SPACE: [&str; 7] = [
    "name",
    "available",
    "used",
    "usedbysnapshots",
    "usedbydataset",
    "usedbyrefreservation",
    "usedbychildren",
];

/// Short names and headings of columns, as `zfs list -o` knows them: name, full name, heading.
const SHORT: [(&str, &str, &str); 17] = [
    ("avail", "available", "AVAIL"),
    ("refer", "referenced", "REFER"),
    ("compress", "compression", "COMPRESS"),
    ("recsize", "recordsize", "RECSIZE"),
    ("ratio", "compressratio", "RATIO"),
    ("reserv", "reservation", "RESERV"),
    ("refreserv", "refreservation", "REFRESERV"),
    ("volblock", "volblocksize", "VOLBLOCK"),
    ("usedsnap", "usedbysnapshots", "USEDSNAP"),
    ("usedds", "usedbydataset", "USEDDS"),
    ("usedrefreserv", "usedbyrefreservation", "USEDREFRESERV"),
    ("usedchild", "usedbychildren", "USEDCHILD"),
    ("lused", "logicalused", "LUSED"),
    ("lrefer", "logicalreferenced", "LREFER"),
    ("refratio", "refcompressratio", "REFRATIO"),
    ("rdonly", "readonly", "RDONLY"),
    ("dnsize", "dnodesize", "DNSIZE"),
];

/// Properties of bookmarks.
const OF_BOOKMARKS: [&str; 7] =
    ["type", "creation", "referenced", "guid", "createtxg", "logicalreferenced", "ivsetguid"];

fn full_name(name: &str) -> &str {
    SHORT.iter().find(|(short, ..)| *short == name).map_or(name, |(_, full, _)| full)
}

impl Item {
    fn name(&self) -> String {
        match self {
            Item::Dataset(dataset) => dataset.name(),
            Item::Bookmark(bookmark) => bookmark.name.clone(),
        }
    }

    /// A property; None where this item has none of that name.
    fn property(&self, name: &str) -> Result<Option<Property>> {
        match self {
            // What says where or how much to write means nothing of a snapshot, a mount point nothing of a volume.
            Item::Dataset(dataset) if !dataset.has_property(name)? => Ok(None),
            Item::Dataset(dataset) => match dataset.get(name) {
                Ok(property) => Ok(Some(property)),
                Err(Error::NotFound | Error::Invalid(_)) => Ok(None),
                Err(e) => Err(e).with_context(|| format!("{}: {name}", dataset.name())),
            },
            Item::Bookmark(bookmark) => Ok(bookmark_property(bookmark, name)),
        }
    }
}

fn bookmark_property(bookmark: &Bookmark, name: &str) -> Option<Property> {
    let space = bookmark.referenced;
    let number = match name {
        "type" => {
            let value = Value::Text("bookmark".to_owned());
            let text = "bookmark".to_owned();
            return Some(Property {
                name: name.to_owned(),
                value,
                human: text.clone(),
                text,
                source: Source::None,
            });
        }
        "guid" => bookmark.guid,
        "createtxg" => bookmark.creation_txg,
        "creation" => bookmark.creation_time,
        "ivsetguid" => Some(bookmark.ivset_guid).filter(|guid| *guid != 0)?,
        "referenced" => space?.used,
        "logicalreferenced" => space?.uncompressed,
        _ => return None,
    };
    let human = match name {
        "creation" => human_time(number),
        "referenced" | "logicalreferenced" => human_bytes(number),
        _ => number.to_string(),
    };
    let (text, value) = (number.to_string(), Value::Number(number));
    Some(Property { name: name.to_owned(), value, text, human, source: Source::None })
}

/// The columns that are meant: `space` stands for several.
fn columns_of(given: &[String]) -> Vec<&str> {
    let full = given.iter().flat_map(|name| match name.as_str() {
        "space" => SPACE.to_vec(),
        name => vec![full_name(name)],
    });
    if given.is_empty() { DEFAULT.to_vec() } else { full.collect() }
}

/// `zfs list`.
pub(super) fn list(opened: &OpenPool, options: &List) -> Result<ExitCode> {
    let names = columns_of(&options.columns);
    let depth = match (options.depth, options.recursive) {
        (Some(depth), _) => depth,
        (None, true) => usize::MAX,
        (None, false) => 0,
    };
    let mut items = select(opened, &options.datasets, Types::parse(&options.types)?, depth)?;
    // The sort is stable: the key that counts most comes last.
    for key in options.sort_descending.iter().rev() {
        sort(&mut items, full_name(key), true)?;
    }
    for key in options.sort.iter().rev() {
        sort(&mut items, full_name(key), false)?;
    }
    let columns = names.iter().map(|name| {
        let heading = SHORT.iter().find(|(_, full, _)| full == name).map(|(.., heading)| *heading);
        let text = matches!(*name, "name" | "mountpoint" | "origin" | "type" | "clones" | "creation");
        let column = Column::new(name, if text { Align::Left } else { Align::Right });
        heading.map_or(column.clone(), |h| column.headed(h))
    });
    let mut table = Table::new(columns.collect());
    for item in &items {
        let mut row = Vec::new();
        for name in &names {
            row.push(match *name {
                "name" => item.name(),
                name => {
                    let property = item.property(name)?;
                    let exact = options.listing.exact();
                    property.map_or_else(|| "-".to_owned(), |p| if exact { p.text } else { p.human })
                }
            });
        }
        table.push(row);
    }
    if table.is_empty() && options.listing.style() == crate::output::Style::Human {
        eprintln!("no datasets available");
        return Ok(ExitCode::SUCCESS);
    }
    table.show(options.listing.style())
}

/// Numbers by size, text by letter, what has no such property last.
fn sort(items: &mut Vec<Item>, key: &str, descending: bool) -> Result<()> {
    let mut keyed = Vec::new();
    for item in items.drain(..) {
        let value =
            if key == "name" { Some(Value::Text(item.name())) } else { item.property(key)?.map(|p| p.value) };
        keyed.push((value, item));
    }
    let compare = |a: &Option<Value>, b: &Option<Value>| match (a, b) {
        (Some(Value::Number(a)), Some(Value::Number(b))) => a.cmp(b),
        (Some(Value::Text(a)), Some(Value::Text(b))) => a.cmp(b),
        (Some(Value::Number(_)), Some(Value::Text(_))) => Ordering::Less,
        (Some(Value::Text(_)), Some(Value::Number(_))) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    };
    keyed.sort_by(|(a, _), (b, _)| match (descending, a, b) {
        (true, Some(_), Some(_)) => compare(b, a),
        _ => compare(a, b),
    });
    items.extend(keyed.into_iter().map(|(_, item)| item));
    Ok(())
}

fn source_word(source: &Source) -> String {
    match source {
        Source::None => "-".to_owned(),
        Source::Default => "default".to_owned(),
        Source::Local => "local".to_owned(),
        Source::Inherited(from) => format!("inherited from {from}"),
        Source::Received => "received".to_owned(),
    }
}

/// Whether `-s` asks for this source.
fn wanted(sources: &[String], source: &Source) -> bool {
    let word = match source {
        Source::None => "none",
        Source::Default => "default",
        Source::Local => "local",
        Source::Inherited(_) => "inherited",
        Source::Received => "received",
    };
    sources.is_empty() || sources.iter().any(|s| s == word)
}

/// `zfs get`.
pub(super) fn get(opened: &OpenPool, options: &Get) -> Result<ExitCode> {
    let all = ["name", "property", "value", "source"];
    let columns: Vec<&str> = match options.columns.is_empty() {
        true => all.to_vec(),
        false => options.columns.iter().map(String::as_str).collect(),
    };
    for column in &columns {
        ensure!(all.contains(column), "-o {column}: the columns are name, property, value and source");
    }
    for source in &options.sources {
        let known = ["local", "default", "inherited", "received", "none", "temporary"];
        ensure!(known.contains(&source.as_str()), "-s {source}: the sources are {}", known.join(", "));
    }
    let mut table = Table::new(columns.iter().map(|c| Column::new(c, Align::Left)).collect());
    let depth = options.depth.unwrap_or(if options.recursive { usize::MAX } else { 0 });
    let types = Types::parse(&options.types)?;
    // Without names and types, `get` speaks of everything that has properties.
    let everything = Types { snapshots: true, ..Types::DATASETS };
    let types = if options.datasets.is_empty() { types.or(Some(everything)) } else { types };
    for item in select(opened, &options.datasets, types, depth)? {
        let name = item.name();
        let mut rows: Vec<Property> = Vec::new();
        for wanted in options.properties.split(',').map(str::trim).filter(|n| !n.is_empty()) {
            if wanted == "all" {
                match &item {
                    Item::Dataset(dataset) => {
                        rows.extend(dataset.properties().with_context(|| name.clone())?);
                    }
                    Item::Bookmark(mark) => {
                        rows.extend(OF_BOOKMARKS.iter().filter_map(|name| bookmark_property(mark, name)));
                    }
                }
                continue;
            }
            let property = full_name(wanted);
            let missing = || Property {
                name: property.to_owned(),
                value: Value::Text(String::new()),
                text: "-".to_owned(),
                human: "-".to_owned(),
                source: Source::None,
            };
            let found = match &item {
                Item::Dataset(dataset) if accounts::is_property(property) => {
                    accounts::property(dataset, property)?
                }
                _ => item.property(property)?,
            };
            rows.push(found.unwrap_or_else(missing));
        }
        for property in rows.into_iter().filter(|p| wanted(&options.sources, &p.source)) {
            let cell = |column: &str| match column {
                "name" => name.clone(),
                "property" => property.name.clone(),
                "value" if options.listing.exact() => property.text.clone(),
                "value" => property.human.clone(),
                _ => source_word(&property.source),
            };
            table.push(columns.iter().map(|c| cell(c)).collect());
        }
    }
    table.show(options.listing.style())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_filtered_by_their_word() {
        let inherited = Source::Inherited("tarn".to_owned());
        assert!(wanted(&[], &inherited));
        assert!(wanted(&["local".to_owned(), "inherited".to_owned()], &inherited));
        assert!(!wanted(&["local".to_owned()], &inherited));
        assert_eq!(source_word(&inherited), "inherited from tarn");
    }

    #[test]
    fn short_names_are_known() {
        assert_eq!(full_name("avail"), "available");
        assert_eq!(full_name("tarn:cmd"), "tarn:cmd");
    }
}
