//! `tarn zpool scrub`.

use crate::cli::zpool::Scrub;
use crate::commands::open::OpenPool;
use crate::commands::progress::Bar;
use crate::commands::view::show_time;
use crate::output::show_name;
use crate::quantity::human;
use anyhow::Result;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;
use zfs::spa::{DamagedFile, Pool, ScanControl, ScanFunc, ScanPhys, ScanReport, ScanState, VerifyReport};
use zfs::zpl;

/// Scrubs or verifies and says what it found. The status is a failure unless all is well.
pub(super) fn run(opened: &OpenPool, options: &Scrub) -> Result<ExitCode> {
    let pool = &opened.pool;
    let clean = if options.verify {
        verify(opened, options.quiet)?.is_clean()
    } else if options.pause || options.stop {
        pool.control_scrub(if options.pause { ScanControl::Pause } else { ScanControl::Stop })?;
        let flag = if options.pause { "-p" } else { "-s" };
        pool.log_history(&format!("zpool scrub {flag} {}", pool.name()))?;
        true
    } else {
        pool.log_history(&format!("zpool scrub {}", pool.name()))?;
        scrub(opened, options.quiet)?
    };
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Scrubs with a progress bar and prints the outcome; whether no data is lost.
fn scrub(opened: &OpenPool, quiet: bool) -> Result<bool> {
    let bar = Bar::bytes_of("scrubbing", 0, quiet);
    let report = opened.pool.scrub(&mut |p| {
        bar.set(p.done, p.total);
        ScanControl::Continue
    })?;
    bar.finish();
    print_scan(&opened.pool, &report)
}

/// Prints the outcome of a scan; whether no data is lost.
pub(super) fn print_scan(pool: &Arc<Pool>, report: &ScanReport) -> Result<bool> {
    let mut damaged = report.damaged.clone();
    zpl::name_damaged(pool, &mut damaged);
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", scan_line(&report.status))?;
    for problem in &report.problems {
        writeln!(out, "error: {problem}")?;
    }
    for file in &damaged {
        writeln!(out, "error: {}: {} damaged blocks", file_name(file), file.blocks.len())?;
    }
    Ok(report.status.errors == 0 && report.problems.is_empty())
}

/// What the last scrub or resilver did, in `zpool status`'s words.
pub(super) fn scan_line(scan: &ScanPhys) -> String {
    let (noun, verb) = match scan.func {
        ScanFunc::Scrub => ("scrub", "scrub repaired"),
        ScanFunc::Resilver => ("resilver", "resilvered"),
    };
    match scan.state {
        ScanState::Scanning if scan.paused => format!("{noun} paused, started on {}", when(scan.start_time)),
        ScanState::Scanning => {
            let (done, total) = (scan.examined.min(scan.to_examine), scan.to_examine.max(1));
            let percent = done as f64 * 100.0 / total as f64;
            let processed = if scan.func == ScanFunc::Resilver { "resilvered" } else { "repaired" };
            format!(
                "{noun} in progress since {}\n\t{} scanned, {} total\n\t{} {processed}, {percent:.2}% done",
                when(scan.start_time),
                human(done),
                human(scan.to_examine),
                human(scan.processed)
            )
        }
        ScanState::Canceled => format!("{noun} canceled on {}", when(scan.end_time)),
        ScanState::Finished => {
            let took = scan.end_time.saturating_sub(scan.start_time);
            let clock = format!("{:02}:{:02}:{:02}", took / 3600, took / 60 % 60, took % 60);
            let (repaired, errors) = (human(scan.processed), scan.errors);
            format!("{verb} {repaired} in {clock} with {errors} errors on {}", when(scan.end_time))
        }
    }
}

/// A moment in seconds since 1970, as status lines have it.
pub(super) fn when(seconds: u64) -> String {
    show_time(i64::try_from(seconds).unwrap_or(i64::MAX), 0, false)
}

/// A damaged file as `zpool status -v` names it.
pub(super) fn file_name(file: &DamagedFile) -> String {
    match &file.path {
        Some(path) => format!("{}:{}", file.dataset, show_name(path)),
        None => format!("{}:<0x{:x}>", file.dataset, file.object),
    }
}

/// Verifies with a progress bar and prints the outcome.
pub(crate) fn verify(opened: &OpenPool, quiet: bool) -> Result<VerifyReport> {
    let started = Instant::now();
    let bar = Bar::bytes_of("verifying", 0, quiet);
    let mut report = opened.pool.verify(&mut |p| bar.set(p.done, p.total))?;
    bar.finish();
    zpl::name_damaged(&opened.pool, &mut report.damaged);
    print(&report, started.elapsed().as_secs_f64())?;
    Ok(report)
}

fn print(report: &VerifyReport, seconds: f64) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let rate = report.bytes as f64 / seconds.max(0.001) / f64::from(1 << 20);
    writeln!(
        out,
        "{} blocks, {} read in {seconds:.1} s ({rate:.1} MiB/s)",
        report.blocks,
        human(report.bytes)
    )?;
    writeln!(out, "allocated {}, referenced {}", human(report.allocated), human(report.referenced))?;
    for (what, bytes) in [
        ("leaked (allocated, and referred to by nothing)", report.leaked),
        ("referred to, but free in the space maps", report.unallocated),
        ("referred to more than once", report.doubly_allocated),
    ] {
        if bytes > 0 {
            writeln!(out, "error: {bytes} bytes {what}")?;
        }
    }
    if report.bad_copies > 0 {
        writeln!(out, "error: {} bad copies of blocks that have another, good one", report.bad_copies)?;
    }
    for problem in &report.problems {
        writeln!(out, "error: {problem}")?;
    }
    for file in &report.damaged {
        writeln!(out, "error: {}: {} damaged blocks", file_name(file), file.blocks.len())?;
    }
    writeln!(out, "{}", if report.is_clean() { "no errors, no leaks" } else { "NOT CLEAN" })?;
    Ok(())
}
