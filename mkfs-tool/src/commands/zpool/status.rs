//! `tarn zpool status`.

use super::checkpoint;
use super::scrub::{file_name, scan_line};
use super::trim;
use super::vdevs::{self, Section};
use crate::cli::zpool::Status;
use crate::commands::open::OpenPool;
use crate::output::show_name;
use anyhow::Result;
use serde_json::json;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;
use zfs::spa::{FeatureState, Pool, PoolState};
use zfs::zpl::name_damaged;

/// Devices, the last scrub, errors.
pub(super) fn run(opened: &OpenPool, options: &Status) -> Result<ExitCode> {
    let pool = &opened.pool;
    let state = state_word(pool);
    let mut errors = pool.errors()?;
    if options.verbose || options.json {
        name_damaged(pool, &mut errors);
    }
    let scan = pool.scan_status().as_ref().map(scan_line);
    let mut sections = vdevs::sections(pool);
    trim::note(pool, &mut sections, options.trim);
    let mut out = std::io::stdout().lock();
    if options.json {
        let files = errors.iter().map(|e| {
            let path = e.path.as_ref().map(|p| show_name(p));
            json!({"dataset": e.dataset, "object": e.object, "path": path})
        });
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
    if let Some(checkpoint) = pool.checkpoint_status() {
        let _ = writeln!(text, "checkpoint: {}", checkpoint::line(&checkpoint));
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
    } else if options.verbose {
        text.push_str("\nerrors: Permanent errors have been detected in the following files:\n\n");
        for file in &errors {
            let _ = writeln!(text, "        {}", file_name(file));
        }
    } else {
        let _ = writeln!(text, "\nerrors: {} data errors, use '-v' for a list", errors.len());
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
