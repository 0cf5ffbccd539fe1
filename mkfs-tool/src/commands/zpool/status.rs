//! `tarn zpool status`.

use super::vdevs::{self, Section};
use crate::cli::zpool::Status;
use crate::commands::open::OpenPool;
use crate::commands::view::show_time;
use crate::output::show_name;
use crate::quantity::human;
use anyhow::Result;
use serde_json::json;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;
use zfs::spa::{FeatureState, Pool, PoolState};
use zfs::zap;

/// Devices, the last scrub, errors.
pub(super) fn run(opened: &OpenPool, options: &Status) -> Result<ExitCode> {
    let pool = &opened.pool;
    let state = state_word(pool);
    let errors = pool.errors()?;
    let scan = scan(opened);
    let sections = vdevs::sections(pool);
    let mut out = std::io::stdout().lock();
    if options.json {
        let files = errors.iter().map(|e| json!({"dataset": e.dataset, "object": e.object, "path": e.path}));
        let vdevs = sections.iter().flat_map(|section| {
            section.rows.iter().map(|row| {
                let class = if section.heading.is_empty() { "data" } else { section.heading };
                json!({"name": row.name, "depth": row.depth, "class": class, "state": row.state, "guid": row.guid})
            })
        });
        let value = json!({
            "name": pool.name(), "guid": pool.guid(), "state": state, "version": pool.version(),
            "txg": pool.last_synced_txg(), "scan": scan, "vdevs": vdevs.collect::<Vec<_>>(),
            "errors": files.collect::<Vec<_>>(),
            "features": pool.features().into_iter().map(|(n, s)| (n, feature_word(s).into())).collect::<serde_json::Map<_, serde_json::Value>>(),
        });
        writeln!(out, "{value:#}")?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = String::new();
    let _ = write!(text, "  pool: {}\n state: {state}\n", pool.name());
    if let Some(scan) = scan {
        let _ = writeln!(text, "  scan: {scan}");
    }
    text.push_str("config:\n\n");
    config(&mut text, &pool.name(), state, &sections);
    if options.verbose {
        text.push_str("\nfeatures:\n\n");
        for (name, state) in pool.features() {
            let _ = writeln!(text, "\t{name:28} {}", feature_word(state));
        }
    }
    if errors.is_empty() {
        text.push_str("\nerrors: No known data errors\n");
    } else {
        let _ = writeln!(text, "\nerrors: {} data errors", errors.len());
        for file in &errors {
            let path = file.path.as_ref().map(|p| show_name(p.as_bytes()));
            let path = path.unwrap_or_else(|| format!("<0x{:x}>", file.object));
            let _ = writeln!(text, "        {}:{path}", file.dataset);
        }
    }
    out.write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// The pool's state in zpool's words.
pub(super) fn state_word(pool: &Pool) -> &'static str {
    match pool.state() {
        PoolState::Online => "ONLINE",
        PoolState::Degraded => "DEGRADED",
        PoolState::Suspended => "SUSPENDED",
    }
}

fn feature_word(state: FeatureState) -> &'static str {
    match state {
        FeatureState::Disabled => "disabled",
        FeatureState::Enabled => "enabled",
        FeatureState::Active => "active",
    }
}

/// The table of vdevs.
pub(super) fn config(text: &mut String, pool: &str, state: &str, sections: &[Section]) {
    let names = sections.iter().flat_map(|s| &s.rows).map(|row| 2 * row.depth + row.name.chars().count());
    let width = names.max().unwrap_or(0).max(pool.chars().count()).max(10);
    let _ = writeln!(text, "\t{:width$} STATE", "NAME");
    let _ = writeln!(text, "\t{pool:width$} {state}");
    for section in sections {
        if !section.heading.is_empty() {
            let _ = writeln!(text, "\t{}", section.heading);
        }
        for row in &section.rows {
            let name = format!("{}{}", "  ".repeat(row.depth), row.name);
            let line = format!("\t{name:width$} {:8} {}", row.state, row.note);
            let _ = writeln!(text, "{}", line.trim_end());
        }
    }
}

/// What the last scrub or resilver did, from the MOS (`dsl_scan_phys_t`).
fn scan(opened: &OpenPool) -> Option<String> {
    let directory = opened.pool.mos().hold(1).ok()?;
    let words = zap::lookup(&directory, "scan").ok()?.ints;
    let word = |i: usize| words.get(i).copied().unwrap_or(0);
    let what = match word(0) {
        1 => "scrub",
        2 => "resilver",
        _ => return None,
    };
    let (start, end, processed, errors) = (word(7), word(8), word(12), word(13));
    let when = |t: u64| show_time(i64::try_from(t).unwrap_or(i64::MAX), 0, false);
    Some(match word(1) {
        1 => format!("{what} in progress since {}", when(start)),
        2 => {
            let verb = if what == "scrub" { "repaired" } else { "resilvered" };
            let amount = human(processed);
            let took = end.saturating_sub(start);
            let clock = format!("{:02}:{:02}:{:02}", took / 3600, took / 60 % 60, took % 60);
            format!("{what} {verb} {amount} in {clock} with {errors} errors on {}", when(end))
        }
        3 => format!("{what} canceled on {}", when(end)),
        _ => return None,
    })
}
