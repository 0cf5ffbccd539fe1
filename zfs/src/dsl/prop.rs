//! Dataset properties: the table, values and where they come from. Source: `module/zcommon/zfs_prop.c`, `module/zfs/dsl_prop.c`.

use crate::error::Result;
use alloc::format;
use alloc::string::String;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Not a settable property: a statistic.
    None,
    /// Nobody set it.
    Default,
    /// Set here.
    Local,
    /// Set on the named ancestor.
    Inherited(String),
    /// Came with a received stream.
    Received,
}

/// A value as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A number, or the index of an enumerated value.
    Number(u64),
    /// Text.
    Text(String),
}

/// A property of a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Property {
    /// Its name; of a user property with a colon.
    pub name: String,
    /// Its value as stored.
    pub value: Value,
    /// Its value in words, exact (`zfs get -p`).
    pub text: String,
    /// Its value in words as `zfs get` shows it to people (`1.50G`, `1.02x`, a date).
    pub human: String,
    /// Where it comes from.
    pub source: Source,
}

/// What is stored for a native property's value in words; of a user property the words themselves.
pub fn stored_value(property: &str, words: &str) -> Result<Value> {
    match super::prop_table::find(property) {
        Some(definition) => definition.read(words),
        None => Ok(Value::Text(String::from(words))),
    }
}

/// Bytes in at most five characters: `512B`, `1.50K`, `12.3M`, `128K` (`zfs_nicebytes`).
#[must_use]
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "K", "M", "G", "T", "P", "E"];
    let mut index = 0;
    while index + 1 < UNITS.len() && bytes >> (10 * (index + 1)) != 0 {
        index += 1;
    }
    let scale = 1u64 << (10 * index);
    if index == 0 || bytes.is_multiple_of(scale) {
        return format!("{}{}", bytes / scale, UNITS[index]);
    }
    let value = bytes as f64 / scale as f64;
    let shown = [2, 1, 0].map(|digits| format!("{value:.digits$}{}", UNITS[index]));
    shown.iter().find(|s| s.len() <= 5).unwrap_or(&shown[2]).clone()
}

/// A date in UTC as `zfs get creation` shows it: `Sun Nov 22 18:14 2026`.
#[must_use]
pub fn human_time(seconds: u64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days to a civil date, in eras of 400 years that start in March.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 2 } else { from_march - 10 };
    let year = year_of_era + era * 400 + u64::from(month < 2);
    format!(
        "{} {} {day:>2} {:>2}:{:02} {year}",
        DAYS[(days % 7) as usize],
        MONTHS[month as usize],
        rest / 3600,
        rest / 60 % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_people_read_them() {
        for (bytes, words) in [
            (0, "0B"),
            (512, "512B"),
            (1536, "1.50K"),
            (131_072, "128K"),
            (1_979_392, "1.89M"),
            (39_963_648, "38.1M"),
            (1 << 40, "1T"),
            (u64::MAX, "16.0E"),
        ] {
            assert_eq!(human_bytes(bytes), words);
        }
    }

    #[test]
    fn dates() {
        assert_eq!(human_time(0), "Thu Jan  1  0:00 1970");
        assert_eq!(human_time(951_782_400), "Tue Feb 29  0:00 2000");
        assert_eq!(human_time(1_795_364_205), "Sun Nov 22 16:16 2026");
    }
}
