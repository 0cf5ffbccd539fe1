//! `tarn zpool scrub`.

use crate::cli::zpool::Scrub;
use crate::commands::open::OpenPool;
use crate::commands::progress::Bar;
use crate::output::show_name;
use crate::quantity::human;
use anyhow::Result;
use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;
use zfs::spa::VerifyReport;

/// Reads everything and says what it found. The status is a failure unless all is well.
pub(super) fn run(opened: &OpenPool, options: &Scrub) -> Result<ExitCode> {
    let report = read_all(opened, options.verify, options.quiet)?;
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Scrubs or verifies with a progress bar, and prints the outcome.
pub(crate) fn read_all(opened: &OpenPool, verify: bool, quiet: bool) -> Result<VerifyReport> {
    let started = Instant::now();
    let bar = Bar::bytes_of(if verify { "verifying" } else { "scrubbing" }, 0, quiet);
    let mut progress = |p: zfs::spa::Progress| bar.set(p.done, p.total);
    let report =
        if verify { opened.pool.verify(&mut progress)? } else { opened.pool.scrub(&mut progress)? };
    bar.finish();
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
        let path = file.path.as_ref().map(|p| show_name(p.as_bytes()));
        let path = path.unwrap_or_else(|| format!("<0x{:x}>", file.object));
        writeln!(out, "error: {}:{path}: {} damaged blocks", file.dataset, file.blocks.len())?;
    }
    writeln!(out, "{}", if report.is_clean() { "no errors, no leaks" } else { "NOT CLEAN" })?;
    Ok(())
}
