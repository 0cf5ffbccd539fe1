//! Numbers of bytes as people write and read them.

use anyhow::{Context, Result, bail};

const UNITS: [char; 7] = ['B', 'K', 'M', 'G', 'T', 'P', 'E'];

/// A number of bytes: `65536`, `64K`, `1.5G`, `2GiB`. Units are powers of 1024, in either case.
pub fn parse_size(text: &str) -> Result<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim().to_ascii_uppercase();
    let power = match unit.as_str() {
        "" | "B" => 0,
        other => {
            let letter = other.chars().next().unwrap_or_default();
            let rest = &other[letter.len_utf8()..];
            match UNITS.iter().position(|&u| u == letter) {
                Some(power) if power > 0 && matches!(rest, "" | "B" | "IB") => power,
                _ => bail!("{text:?} is not a size: use a number with one of K, M, G, T, as in 512M"),
            }
        }
    };
    let scale = 1_u128 << (10 * power);
    let bytes = match number.split_once('.') {
        None => number.parse::<u64>().ok().map(|n| u128::from(n) * scale),
        Some((whole, fraction)) if fraction.len() <= 9 => fixed_point(whole, fraction, scale),
        Some(_) => None,
    };
    let bytes = bytes.with_context(|| format!("{text:?} is not a size: use a number as in 512M or 1.5G"))?;
    u64::try_from(bytes).with_context(|| format!("{text:?} is too large"))
}

fn fixed_point(whole: &str, fraction: &str, scale: u128) -> Option<u128> {
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let part: u64 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let tens = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    Some(u128::from(whole) * scale + u128::from(part) * scale / tens)
}

/// Bytes in at most five characters, as `zfs list` shows them: `0B`, `96K`, `1.95G`.
#[must_use]
pub fn human(bytes: u64) -> String {
    let mut power = 0;
    while power + 1 < UNITS.len() && bytes >> (10 * power) >= 1024 {
        power += 1;
    }
    let scale = 1_u64 << (10 * power);
    if bytes.is_multiple_of(scale) {
        return format!("{}{}", bytes / scale, UNITS[power]);
    }
    let value = bytes as f64 / scale as f64;
    // The most digits that fit; rounding may carry (1023.99K is shown as 1024K, as zfs does).
    let fits = (0..=2).rev().map(|digits| format!("{value:.digits$}{}", UNITS[power])).find(|s| s.len() <= 5);
    fits.unwrap_or_else(|| format!("{value:.0}{}", UNITS[power]))
}

/// A ratio as ZFS shows it: `1.50x`. The argument is in hundredths.
#[must_use]
pub fn ratio(hundredths: u64) -> String {
    format!("{}.{:02}x", hundredths / 100, hundredths % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, want) in [
            ("0", 0),
            ("4096", 4096),
            ("64K", 65536),
            ("64k", 65536),
            ("2G", 2 << 30),
            ("2GiB", 2 << 30),
            ("1.5G", 3 << 29),
            ("512MB", 512 << 20),
            (" 7 B", 7),
        ] {
            assert_eq!(parse_size(text).unwrap(), want, "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in
            ["", "G", "-1", "1X", "1GG", "16E", "1.2.3M", "99999999999999999999", "1.0000000000001G", "é"]
        {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_shown_as_zfs_does() {
        for (bytes, want) in [
            (0, "0B"),
            (512, "512B"),
            (1023, "1023B"),
            (1024, "1K"),
            (98_304, "96K"),
            (1_500_000, "1.43M"),
            (15_000_000, "14.3M"),
            (150_000_000, "143M"),
            (2_093_796_557, "1.95G"),
            (u64::MAX, "16.0E"),
        ] {
            assert_eq!(human(bytes), want);
        }
        assert_eq!(ratio(100), "1.00x");
        assert_eq!(ratio(257), "2.57x");
    }
}
