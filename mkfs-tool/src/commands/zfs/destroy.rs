//! `tarn zfs destroy`.

use super::request;
use super::select::{dataset, same_named};
use crate::cli::zfs::Destroy;
use crate::commands::open::OpenPool;
use crate::quantity::human;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeSet;
use std::sync::Arc;
use zfs::Error;
use zfs::dsl::Dataset;
use zfs::ondisk::nvlist::{NvList, Value};

/// `zfs destroy`.
pub(super) fn run(opened: &OpenPool, options: &Destroy) -> Result<Vec<NvList>> {
    let name = &options.dataset;
    if name.contains('#') {
        return bookmark(opened, options);
    }
    match name.split_once('@') {
        Some((head, list)) => {
            let doomed = snapshots_of(opened, head, list, options)?;
            snapshots(opened, options, &doomed)
        }
        None => head(opened, options).map(|()| Vec::new()),
    }
}

fn say(options: &Destroy, name: &str) {
    if options.parsable {
        println!("destroy\t{name}");
    } else if options.verbose {
        println!("{} destroy {name}", if options.dry_run { "would" } else { "will" });
    }
}

fn bookmark(opened: &OpenPool, options: &Destroy) -> Result<Vec<NvList>> {
    let name = &options.dataset;
    opened.pool.dsl().lookup_bookmark(name).map_err(|e| match e {
        Error::NotFound => anyhow::anyhow!("{name}: no such bookmark on {}", opened.name()),
        other => anyhow::Error::from(other).context(name.clone()),
    })?;
    say(options, name);
    if options.dry_run {
        return Ok(Vec::new());
    }
    opened.pool.dsl().destroy_bookmarks(&[name]).with_context(|| format!("cannot destroy {name}"))?;
    Ok(vec![request::request("destroy_bookmarks", request::set([name.as_str()]))])
}

/// What depends on datasets and must go before them, then themselves: children, snapshots, and with `clones` the clones of these.
pub(super) fn dependents(opened: &OpenPool, of: &[Arc<Dataset>], clones: bool) -> Result<Vec<Arc<Dataset>>> {
    let (mut seen, mut order) = (BTreeSet::new(), Vec::new());
    for dataset in of {
        visit(opened, dataset, clones, &mut seen, &mut order)?;
    }
    Ok(order)
}

fn visit(
    opened: &OpenPool,
    of: &Arc<Dataset>,
    clones: bool,
    seen: &mut BTreeSet<u64>,
    order: &mut Vec<Arc<Dataset>>,
) -> Result<()> {
    if !seen.insert(of.object()) {
        return Ok(());
    }
    for child in of.children()? {
        visit(opened, &child, clones, seen, order)?;
    }
    for snapshot in of.snapshots()? {
        visit(opened, &snapshot, clones, seen, order)?;
    }
    if clones && of.is_snapshot() {
        for clone in of.clones()? {
            visit(opened, &dataset(opened, &clone)?, clones, seen, order)?;
        }
    }
    order.push(Arc::clone(of));
    Ok(())
}

fn head(opened: &OpenPool, options: &Destroy) -> Result<()> {
    let name = &options.dataset;
    let head = dataset(opened, name)?;
    ensure!(!options.defer, "-d is for snapshots");
    ensure!(name.contains('/'), "{name}: a pool's root file system goes with its pool");
    let mut order = vec![Arc::clone(&head)];
    if options.dependents || options.recursive {
        order = dependents(opened, &order, options.dependents)?;
    } else {
        let mut below: Vec<String> = head.children()?.iter().map(|d| d.name()).collect();
        below.extend(head.snapshots()?.iter().map(|d| d.name()));
        ensure!(
            below.is_empty(),
            "{name}: has children or snapshots ({}): use -r to destroy them too",
            below.join(", ")
        );
    }
    order.iter().for_each(|dataset| say(options, &dataset.name()));
    if options.dry_run {
        return Ok(());
    }
    if options.dependents {
        return in_order(opened, &order);
    }
    let done = opened.pool.dsl().destroy(name, options.recursive, false);
    done.map_err(|error| explain(error, name, &order))
}

/// Destroys what stands in the right order; neighbouring snapshots at once.
pub(super) fn in_order(opened: &OpenPool, order: &[Arc<Dataset>]) -> Result<()> {
    let names: Vec<(bool, String)> = order.iter().map(|d| (d.is_snapshot(), d.name())).collect();
    for run in names.chunk_by(|(a, _), (b, _)| *a && *b) {
        let mut list: Vec<&str> = run.iter().map(|(_, name)| name.as_str()).collect();
        // A snapshot whose destruction was deferred went with its last clone.
        list.retain(|name| !matches!(opened.pool.dsl().lookup(name), Err(Error::NotFound)));
        if list.is_empty() {
            continue;
        }
        let done = match run {
            [(true, _), ..] => opened.pool.dsl().destroy_snapshots(&list, false),
            _ => opened.pool.dsl().destroy(list[0], false, false),
        };
        done.map_err(|error| explain(error, &list.join(", "), order))?;
    }
    Ok(())
}

/// An error in the user's words.
fn explain(error: Error, name: &str, doomed: &[Arc<Dataset>]) -> anyhow::Error {
    let clones = || {
        let all = doomed.iter().filter(|d| d.is_snapshot()).flat_map(|d| d.clones().unwrap_or_default());
        all.filter(|clone| doomed.iter().all(|d| d.name() != *clone)).collect::<Vec<_>>()
    };
    match error {
        Error::NotEmpty => anyhow::anyhow!("{name}: has snapshots or children: use -r to destroy them too"),
        Error::Busy => anyhow::anyhow!("cannot destroy {name}: held, or a mounted file system"),
        Error::Invalid(_) if !clones().is_empty() => {
            let clones = clones().join(", ");
            anyhow::anyhow!("cannot destroy {name}: has clones ({clones}): use -R to destroy them too")
        }
        other => anyhow::Error::from(other).context(format!("cannot destroy {name}")),
    }
}

fn snapshots(opened: &OpenPool, options: &Destroy, doomed: &[Arc<Dataset>]) -> Result<Vec<NvList>> {
    let order = if options.dependents { dependents(opened, doomed, true)? } else { doomed.to_vec() };
    order.iter().for_each(|dataset| say(options, &dataset.name()));
    if options.verbose || options.parsable {
        let bytes = reclaimed(opened, doomed)?;
        if options.parsable {
            println!("reclaim\t{bytes}");
        } else {
            println!("{} reclaim {}", if options.dry_run { "would" } else { "will" }, human(bytes));
        }
    }
    if options.dry_run {
        return Ok(Vec::new());
    }
    if options.dependents {
        return in_order(opened, &order).map(|()| Vec::new());
    }
    let names: Vec<String> = doomed.iter().map(|d| d.name()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let done = opened.pool.dsl().destroy_snapshots(&names, options.defer);
    done.map_err(|error| explain(error, &names.join(", "), doomed))?;
    let mut input = NvList::new().with("snaps", request::set(names));
    if options.defer {
        input.insert("defer", Value::Boolean);
    }
    Ok(vec![request::request("destroy_snaps", input)])
}

/// Bytes that destroying these snapshots frees: run by run of neighbours.
fn reclaimed(opened: &OpenPool, doomed: &[Arc<Dataset>]) -> Result<u64> {
    let mut heads: Vec<String> =
        doomed.iter().filter_map(|d| d.name().split_once('@').map(|(head, _)| head.to_owned())).collect();
    heads.sort();
    heads.dedup();
    let names: BTreeSet<String> = doomed.iter().map(|d| d.name()).collect();
    let mut bytes = 0;
    for head in heads {
        let all: Vec<String> = dataset(opened, &head)?.snapshots()?.iter().map(|s| s.name()).collect();
        for run in all.chunk_by(|a, b| names.contains(a) == names.contains(b)) {
            if let (Some(first), Some(last)) = (run.first(), run.last())
                && names.contains(first)
            {
                bytes += opened.pool.dsl().space_would_free(first, last)?;
            }
        }
    }
    Ok(bytes)
}

/// `a`, `a,b`, `a%c` (from a to c), `%c`, `a%`: the snapshots that are meant, with `-r` also those of these names below.
fn snapshots_of(opened: &OpenPool, fs: &str, list: &str, options: &Destroy) -> Result<Vec<Arc<Dataset>>> {
    let head = dataset(opened, fs)?;
    let existing: Vec<String> = head.snapshots()?.iter().map(|s| s.name()).collect();
    let shorts: Vec<&str> = existing.iter().filter_map(|name| name.split_once('@').map(|(_, s)| s)).collect();
    let mut names: Vec<String> = Vec::new();
    for part in list.split(',') {
        let found = match range(&shorts, part) {
            Some(found) => found,
            // With -r the snapshot may be on descendants only.
            None if options.recursive && !part.contains('%') => vec![part],
            None => bail!("{fs}@{part}: no such snapshot on {}", opened.name()),
        };
        for short in found {
            let name = format!("{fs}@{short}");
            let all = if options.recursive { same_named(&head, &name)? } else { vec![name.clone()] };
            ensure!(!all.is_empty(), "{name}: no such snapshot on {} or below", opened.name());
            names.extend(all);
        }
    }
    let (mut seen, mut unique) = (BTreeSet::new(), Vec::new());
    for name in names {
        let snapshot = dataset(opened, &name)?;
        if seen.insert(snapshot.object()) {
            unique.push(snapshot);
        }
    }
    Ok(unique)
}

/// The names that one part of the list means; None if an end of it does not exist.
fn range<'a>(names: &[&'a str], part: &'a str) -> Option<Vec<&'a str>> {
    let position = |name: &str| names.iter().position(|n| *n == name);
    let (first, last) = match part.split_once('%') {
        None => position(part).map(|i| (i, i))?,
        Some((from, to)) => {
            let last = names.len().checked_sub(1)?;
            let first = if from.is_empty() { 0 } else { position(from)? };
            (first, if to.is_empty() { last } else { position(to)? })
        }
    };
    names.get(first..=last).map(<[&str]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_snapshots() {
        let names = ["a", "b", "c", "d"];
        assert_eq!(range(&names, "b"), Some(vec!["b"]));
        assert_eq!(range(&names, "b%c"), Some(vec!["b", "c"]));
        assert_eq!(range(&names, "%b"), Some(vec!["a", "b"]));
        assert_eq!(range(&names, "c%"), Some(vec!["c", "d"]));
        assert_eq!(range(&names, "%"), Some(names.to_vec()));
        assert_eq!(range(&names, "x"), None);
        assert_eq!(range(&names, "c%a"), None);
        assert_eq!(range(&[], "%"), None);
    }
}
