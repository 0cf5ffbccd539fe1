//! `tarn zpool trim`, and what `zpool status` says of it.

use super::change::Target;
use super::devices::{device, line};
use super::scrub::when;
use super::vdevs::Section;
use crate::cli::zpool::Trim;
use crate::commands::progress::Bar;
use crate::quantity::human;
use anyhow::{Result, ensure};
use std::process::ExitCode;
use zfs::spa::{Pool, ScanControl, TrimState, TrimStatus};

/// `zpool trim`.
pub(super) fn run(target: Target<'_>, options: &Trim) -> Result<ExitCode> {
    ensure!(
        !options.secure,
        "-d: neither image files nor virtio disks promise that what was there cannot be read any more"
    );
    ensure!(options.rate != Some(0), "-r 0: a rate is at least one byte in a second");
    target.change(Some(&options.pool), |opened| {
        let pool = &opened.pool;
        let devices = options.devices.iter().map(|word| device(pool, word)).collect::<Result<Vec<u64>>>()?;
        let verb = match (options.cancel, options.suspend, options.rate) {
            (true, ..) => "trim -c".to_owned(),
            (_, true, _) => "trim -s".to_owned(),
            (.., Some(rate)) => format!("trim -r {rate}"),
            _ => "trim".to_owned(),
        };
        if options.cancel || options.suspend {
            pool.stop_trim(&devices, options.suspend)?;
        } else {
            let bar = Bar::bytes_of("trimming", 0, options.quiet);
            let report = pool.trim(&devices, options.rate, &mut |p| {
                bar.set(p.done, p.total);
                ScanControl::Continue
            })?;
            bar.finish();
            println!("trimmed {}", human(report.bytes));
            ensure!(report.failed == 0, "{} requests to devices failed", report.failed);
        }
        Ok(Some(line(&verb, &options.pool, &options.devices).trim_end().to_owned()))
    })
}

/// Adds to the status of each device how far it is trimmed: whatever it is if `all`, else only that it is being trimmed.
pub(super) fn note(pool: &Pool, sections: &mut [Section], all: bool) {
    for row in sections.iter_mut().flat_map(|section| &mut section.rows).filter(|row| row.state == "ONLINE") {
        let Ok(status) = pool.trim_status(row.guid) else { continue };
        let note = if all { words(&status) } else { brief(&status) };
        let gap = if row.note.is_empty() { "" } else { "  " };
        row.note = format!("{}{gap}{note}", row.note).trim_end().to_owned();
    }
}

fn brief(status: &TrimStatus) -> String {
    if status.state == Some(TrimState::Active) { "(trimming)".to_owned() } else { String::new() }
}

/// As `zpool status -t` has it.
fn words(status: &TrimStatus) -> String {
    let when = when(status.action_time);
    let percent = status.percent;
    match status.state {
        Some(TrimState::Complete) => format!("(100% trimmed, completed at {when})"),
        Some(TrimState::Suspended) => format!("({percent}% trimmed, suspended, started at {when})"),
        Some(TrimState::Active) => format!("({percent}% trimmed, started at {when})"),
        _ if status.supported => "(untrimmed)".to_owned(),
        _ => "(trim unsupported)".to_owned(),
    }
}
