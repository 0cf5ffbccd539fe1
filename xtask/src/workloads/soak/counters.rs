//! The lines of `tarn run --stats`, and what they must look like for as long as a guest runs.

use anyhow::{Result, ensure};
use std::collections::BTreeMap;

/// What the kernel may hold more in the end than after the beginning, in KiB: slabs are never as full twice.
const TOLERANCE: u64 = 4096;
/// What goes up and down with the load, and how many more of it there may be in the end: servers keep some for later, and so does the
/// kernel of the threads that carry out asynchronous requests, 16 at most, which are started as the queue needs them.
const COUNTS: [(&str, u64); 6] = [
    ("processes", 0),
    ("threads", 16),
    ("descriptors", 4),
    ("futex_waiters", 4),
    ("timers", 4),
    ("sockets", 4),
];

/// The counters of one moment. Memory is in KiB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sample(BTreeMap<String, u64>);

impl Sample {
    /// What a line of the console says, behind whatever the application has left unfinished there.
    fn parse(line: &str) -> Option<Self> {
        let (_, said) = line.split_once("tarn: stats at=")?;
        let (at, rest) = said.trim_end().split_once(' ')?;
        let (seconds, thousandths) = at.split_once('.')?;
        let ms = seconds.parse::<u64>().ok()? * 1000 + thousandths.parse::<u64>().ok()?;
        let pair =
            |word: &str| word.split_once('=').and_then(|(name, n)| Some((name.to_owned(), n.parse().ok()?)));
        let mut values = rest.split(' ').map(pair).collect::<Option<BTreeMap<_, _>>>()?;
        // A line that is still being written lacks the last ones.
        COUNTS.iter().all(|(name, _)| values.contains_key(*name)).then_some(())?;
        values.insert("at".into(), ms);
        Some(Sample(values))
    }

    /// One of its figures.
    pub(super) fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// When it was taken, in milliseconds since the boot.
    pub(super) fn at(&self) -> u64 {
        self.get("at")
    }

    /// What the kernel holds for itself: neither free, nor pages of programs, nor data in the cache, which has its own limit.
    pub(super) fn held(&self) -> u64 {
        let parts: u64 =
            ["page_tables", "stacks", "slab", "large", "other"].iter().map(|name| self.get(name)).sum();
        parts.saturating_sub(self.get("cache"))
    }
}

impl std::fmt::Display for Sample {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "held={}", self.held())?;
        self.0.iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))
    }
}

/// All samples that a console shows.
pub(super) fn samples(console: &str) -> impl DoubleEndedIterator<Item = Sample> {
    console.lines().filter_map(Sample::parse)
}

/// Judges how a guest looked at the end of each round, when it had nothing to do. `rounds` holds the samples of each. The first third
/// is left to the servers and caches to settle; then the least that each figure is must be as small in the last rounds as it was in the ones
/// after that third. What comes and goes is smallest when it has gone; what is lost never comes back.
pub(super) fn judge(rounds: &[Vec<Sample>]) -> Result<()> {
    let count = rounds.len();
    ensure!(count >= 2, "{count} rounds are too few to compare");
    let first = count / 3;
    let base = rounds[first..(count / 2).max(first + 1)].concat();
    let end = rounds[count - (count / 6).max(1)..].concat();
    let least =
        |samples: &[Sample], what: &dyn Fn(&Sample) -> u64| samples.iter().map(what).min().unwrap_or(0);
    let held = |s: &Sample| s.held();
    let (before, after) = (least(&base, &held), least(&end, &held));
    ensure!(
        after <= before + TOLERANCE,
        "the kernel held {before} KiB in round {first} and holds {after} KiB in the last"
    );
    let other = |s: &Sample| s.get("other");
    let (before, after) = (least(&base, &other), least(&end, &other));
    ensure!(after <= before, "{} KiB of memory are lost", after - before);
    for (name, slack) in COUNTS {
        let value = |s: &Sample| s.get(name);
        let (before, after) = (base.iter().map(value).max().unwrap_or(0), least(&end, &value));
        ensure!(
            after <= before + slack,
            "{before} {name} in round {first}, {after} in the last, with nothing to do"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(at: u64, slab: u64, cache: u64, other: u64, threads: u64) -> String {
        format!(
            "tarn: stats at={at}.250 total=1000 free=0 page_tables=10 stacks=20 slab={slab} large={cache} cache={cache} anonymous=7 \
             shared=1 other={other} processes=1 threads={threads} descriptors=9 futex_waiters=4 timers=3 sockets=2"
        )
    }

    fn round(slab: u64, other: u64, threads: u64) -> Vec<Sample> {
        vec![Sample::parse(&line(1, slab, 500, other, threads)).expect("a line")]
    }

    #[test]
    fn lines_are_found_among_others() {
        let text = format!(
            "hello\nunfinished {}\ntarn: stats at=5.000 total=1\ntarn: booted\n",
            line(3, 30, 500, 4, 2)
        );
        let found: Vec<Sample> = samples(&text).collect();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].at(), found[0].held(), found[0].get("threads")), (3250, 64, 2));
    }

    #[test]
    fn growth_is_told_from_settling() {
        let steady: Vec<_> =
            [100, 4000, 5000, 5100, 4900, 5000, 5050, 5000].map(|slab| round(slab, 4, 9)).into();
        assert!(judge(&steady).is_ok());
        let growing: Vec<_> = (0..12).map(|n| round(5000 + 1000 * n, 4, 9)).collect();
        assert!(judge(&growing).unwrap_err().to_string().contains("the kernel held"));
        let leaking: Vec<_> = (0..12).map(|n| round(5000, 4 + 4 * n, 9)).collect();
        assert!(judge(&leaking).unwrap_err().to_string().contains("are lost"));
        let forgetful: Vec<_> = (0..12).map(|n| round(5000, 4, 9 + 5 * n)).collect();
        assert!(judge(&forgetful).unwrap_err().to_string().contains("threads"));
        assert!(judge(&steady[..1]).is_err());
    }
}
