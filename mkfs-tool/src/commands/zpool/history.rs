//! `tarn zpool history`.

use crate::cli::zpool::History;
use crate::commands::open::OpenPool;
use crate::output::show_name;
use anyhow::Result;
use std::io::{BufWriter, Write};
use std::process::ExitCode;

/// Prints the records that were asked for.
pub(super) fn run(opened: &OpenPool, options: &History) -> Result<ExitCode> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    writeln!(out, "History for '{}':", opened.pool.name())?;
    for record in opened.pool.history()? {
        let text = match (&record.command, &record.internal) {
            (Some(command), _) => command,
            (None, Some(internal)) if options.internal => internal,
            _ => continue,
        };
        let time = i64::try_from(record.time).ok().and_then(|t| jiff::Timestamp::from_second(t).ok());
        let time =
            time.map_or_else(|| record.time.to_string(), |t| t.strftime("%Y-%m-%d.%H:%M:%S").to_string());
        write!(out, "{time} {}", show_name(text.as_bytes()))?;
        if options.long
            && let Some(host) = &record.host
        {
            write!(out, " [on {}]", show_name(host.as_bytes()))?;
        }
        writeln!(out)?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
