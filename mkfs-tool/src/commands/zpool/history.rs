//! `tarn zpool history`, as `zpool history` prints it.

use crate::cli::zpool::History;
use crate::commands::open::OpenPool;
use crate::output::show_name;
use anyhow::Result;
use std::io::{BufWriter, Write};
use std::process::ExitCode;
use zfs::ondisk::nvlist::{NvList, Value};
use zfs::spa::HistoryRecord;

/// Lists nest no deeper than that in a record that makes sense.
const MAX_DEPTH: usize = 16;

/// Prints the records that were asked for.
pub(super) fn run(opened: &OpenPool, options: &History) -> Result<ExitCode> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    writeln!(out, "History for '{}':", opened.pool.name())?;
    for record in opened.pool.history()? {
        let time = i64::try_from(record.time).ok().and_then(|t| jiff::Timestamp::from_second(t).ok());
        let time =
            time.map_or_else(|| record.time.to_string(), |t| t.strftime("%Y-%m-%d.%H:%M:%S").to_string());
        match (&record.command, &record.internal, record.raw.get_str("ioctl")) {
            (Some(command), ..) => write!(out, "{time} {}", show_name(command.as_bytes()))?,
            (None, Some(internal), _) if options.internal => {
                write!(out, "{time} {}", show_name(internal.as_bytes()))?;
            }
            (None, None, Some(name)) if options.internal => {
                write!(out, "{time} ")?;
                request(&record.raw, name, &mut out)?;
            }
            _ => continue,
        }
        if options.long {
            who(&record, &mut out)?;
        }
        writeln!(out)?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// A request to the kernel: how long it took, what it asked for and what it answered.
fn request(raw: &NvList, name: &str, out: &mut dyn Write) -> Result<()> {
    if let Some(Value::Int64(elapsed)) = raw.get("elapsed_ns") {
        write!(out, "({}ms) ", elapsed / 1_000_000)?;
    }
    writeln!(out, "ioctl {}", show_name(name.as_bytes()))?;
    for (key, heading) in [("in_nvl", "input"), ("out_nvl", "output")] {
        if let Some(list) = raw.get_nvlist(key) {
            writeln!(out, "    {heading}:")?;
            dump(list, 8, 0, out)?;
        }
    }
    if let Some(Value::Int64(errno)) = raw.get("errno") {
        writeln!(out, "    errno: {errno}")?;
    }
    Ok(())
}

/// A list, pair by pair, lists in it further to the right (`dump_nvlist`).
fn dump(list: &NvList, indent: usize, depth: usize, out: &mut dyn Write) -> Result<()> {
    let space = " ".repeat(indent);
    for (name, value) in list.iter() {
        let name = show_name(name.as_bytes());
        match value {
            Value::Boolean => writeln!(out, "{space}{name}")?,
            Value::NvList(inner) => {
                writeln!(out, "{space}{name}:")?;
                if depth < MAX_DEPTH {
                    dump(inner, indent + 4, depth + 1, out)?;
                }
            }
            Value::NvListArray(lists) => {
                for (index, inner) in lists.iter().enumerate() {
                    writeln!(out, "{space}{name}[{index}]:")?;
                    if depth < MAX_DEPTH {
                        dump(inner, indent + 4, depth + 1, out)?;
                    }
                }
            }
            Value::Uint64Array(numbers) => {
                for (index, number) in numbers.iter().enumerate() {
                    writeln!(out, "{space}{name}[{index}]: {number}")?;
                }
            }
            value => writeln!(out, "{space}{name}: {}", scalar(value))?,
        }
    }
    Ok(())
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => format!("'{}'", show_name(text.as_bytes())),
        Value::Uint64(n) => n.to_string(),
        Value::Int64(n) | Value::Hrtime(n) => n.to_string(),
        Value::Uint32(n) => n.to_string(),
        Value::Int32(n) => n.to_string(),
        Value::Uint16(n) => n.to_string(),
        Value::Int16(n) => n.to_string(),
        Value::Byte(n) | Value::Uint8(n) => n.to_string(),
        Value::Int8(n) => n.to_string(),
        Value::BooleanValue(b) => b.to_string(),
        // Other arrays are those of keys, which are not to be shown.
        _ => "<array>".to_owned(),
    }
}

/// By whom and where it was done.
fn who(record: &HistoryRecord, out: &mut dyn Write) -> Result<()> {
    let host = record.host.as_deref().map(|host| show_name(host.as_bytes()));
    let zone = record.raw.get_str("history zone").map(|zone| show_name(zone.as_bytes()));
    let at = match (host, zone) {
        (Some(host), Some(zone)) => format!("on {host}:{zone}"),
        (Some(host), None) => format!("on {host}"),
        _ => String::new(),
    };
    // The names of other users are those of another machine.
    let user = record.raw.get_u64("history who").map(|id| match id {
        0 => "user 0 (root)".to_owned(),
        id => format!("user {id}"),
    });
    let words: Vec<String> = user.into_iter().chain(Some(at)).filter(|word| !word.is_empty()).collect();
    if !words.is_empty() {
        write!(out, " [{}]", words.join(" "))?;
    }
    Ok(())
}
