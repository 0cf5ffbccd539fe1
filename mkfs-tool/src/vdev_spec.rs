//! The vdevs of a pool as people write them: `mirror a b raidz2 c d e f log mirror g h spare i`. Source: `zpoolconcepts(7)`,
//! `construct_spec` and `check_replication` (`cmd/zpool/zpool_vdev.c`).
//!
//! # Invariants
//! - Every group has as many devices as its kind needs, and no device is named twice.
//! - What parses may still be unwise: [`Spec::check_redundancy`] says so, and `-f` overrules it.

use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

/// How the devices of a vdev stand together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One device.
    Disk,
    /// Each device holds everything.
    Mirror,
    /// Parity of 1 to 3 devices.
    Raidz(u8),
    /// Parity groups and spare space over all devices.
    Draid {
        /// 1 to 3.
        parity: u8,
        /// Data devices of a group.
        data: Option<u8>,
        /// Distributed spares.
        spares: u8,
    },
}

impl Shape {
    /// How many of `devices` may be lost.
    #[must_use]
    pub fn redundancy(self, devices: usize) -> usize {
        match self {
            Shape::Disk => 0,
            Shape::Mirror => devices.saturating_sub(1),
            Shape::Raidz(parity) | Shape::Draid { parity, .. } => usize::from(parity),
        }
    }

    /// The word for its kind, without numbers.
    fn kind(self) -> &'static str {
        match self {
            Shape::Disk => "disk",
            Shape::Mirror => "mirror",
            Shape::Raidz(_) => "raidz",
            Shape::Draid { .. } => "draid",
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shape::Disk | Shape::Mirror => f.write_str(self.kind()),
            Shape::Raidz(parity) => write!(f, "raidz{parity}"),
            Shape::Draid { parity, .. } => write!(f, "draid{parity}"),
        }
    }
}

/// A top-level vdev.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vdev {
    /// How its devices stand together.
    pub shape: Shape,
    /// Its devices.
    pub devices: Vec<PathBuf>,
}

impl Vdev {
    fn redundancy(&self) -> usize {
        self.shape.redundancy(self.devices.len())
    }
}

/// What a top-level vdev is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Data and metadata.
    Data,
    /// Intent logs.
    Log,
    /// Metadata and small blocks.
    Special,
    /// Deduplication tables.
    Dedup,
}

impl Class {
    fn of_word(word: &str) -> Option<Self> {
        match word {
            "log" => Some(Class::Log),
            "special" => Some(Class::Special),
            "dedup" => Some(Class::Dedup),
            _ => None,
        }
    }

    /// The word that opens it on a command line; nothing for data.
    #[must_use]
    pub fn keyword(self) -> &'static str {
        if self == Class::Log { "log" } else { self.word() }
    }

    /// The heading of its vdevs in a status; nothing for data.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Class::Data => "",
            Class::Log => "logs",
            Class::Special => "special",
            Class::Dedup => "dedup",
        }
    }
}

/// All vdevs that were named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spec {
    /// Top-level vdevs in the order in which they were named.
    pub vdevs: Vec<(Class, Vdev)>,
    /// Hot spares.
    pub spares: Vec<PathBuf>,
    /// Devices of the second-level cache.
    pub caches: Vec<PathBuf>,
}

/// Where devices go while words are read.
#[derive(Clone, Copy)]
enum Mode {
    Class(Class),
    Spare,
    Cache,
}

impl Spec {
    /// Understands the words of a command line. A path that looks like a keyword is written `./mirror`.
    pub fn parse(words: &[OsString]) -> Result<Self> {
        let mut spec = Spec::default();
        let mut mode = Mode::Class(Class::Data);
        let mut rest = words;
        while let Some((word, after)) = rest.split_first() {
            let text = word.to_str().unwrap_or_default();
            rest = after;
            if let Some(class) = Class::of_word(text) {
                ensure!(!opens_nothing(rest), "{text}: names no device");
                mode = Mode::Class(class);
            } else if text == "spare" || text == "cache" {
                ensure!(!opens_nothing(rest), "{text}: names no device");
                mode = if text == "spare" { Mode::Spare } else { Mode::Cache };
            } else if let Some(group) = group(text)? {
                let Mode::Class(class) = mode else {
                    bail!("{text}: a spare or a cache is a single device");
                };
                let count = rest.iter().position(|w| is_keyword(w)).unwrap_or(rest.len());
                let devices: Vec<PathBuf> = rest[..count].iter().map(PathBuf::from).collect();
                rest = &rest[count..];
                group.check(text, &devices)?;
                ensure!(
                    class != Class::Log || group.shape == Shape::Mirror,
                    "{text}: a log is a disk or a mirror"
                );
                spec.vdevs.push((class, Vdev { shape: group.shape, devices }));
            } else {
                match mode {
                    Mode::Spare => spec.spares.push(word.into()),
                    Mode::Cache => spec.caches.push(word.into()),
                    Mode::Class(class) => {
                        spec.vdevs.push((class, Vdev { shape: Shape::Disk, devices: vec![word.into()] }));
                    }
                }
            }
        }
        let mut seen = BTreeSet::new();
        let twice = spec.devices().find(|device| !seen.insert(device.to_owned()));
        ensure!(twice.is_none(), "{}: named twice", twice.unwrap_or(Path::new("")).display());
        Ok(spec)
    }

    /// Every device, in the order of the topology: data, special, dedup, log, spares, caches.
    pub fn devices(&self) -> impl Iterator<Item = &Path> {
        let order = [Class::Data, Class::Special, Class::Dedup, Class::Log];
        let vdevs = order.into_iter().flat_map(|class| self.of(class)).flat_map(|vdev| &vdev.devices);
        vdevs.chain(&self.spares).chain(&self.caches).map(PathBuf::as_path)
    }

    /// The vdevs of a class.
    pub fn of(&self, class: Class) -> impl Iterator<Item = &Vdev> {
        self.vdevs.iter().filter(move |(of, _)| *of == class).map(|(_, vdev)| vdev)
    }

    /// Refuses pools whose parts do not stand losses alike: the weakest decides, and the rest is wasted. `existing` are the
    /// data vdevs that the pool has already.
    pub fn check_redundancy(&self, existing: &[(Shape, usize)]) -> Result<()> {
        let data = self.of(Class::Data).map(|vdev| (vdev.shape, vdev.devices.len()));
        let mut all = existing.iter().copied().chain(data);
        let Some((first, count)) = all.next() else { return Ok(()) };
        let least = first.redundancy(count);
        for (shape, count) in all {
            let same = shape.kind() == first.kind() && shape.redundancy(count) == least;
            ensure!(
                same,
                "mismatched replication level: {} (stands {least} losses) and {} (stands {}) in one pool; use -f if that is meant",
                first,
                shape,
                shape.redundancy(count)
            );
        }
        for (class, vdev) in
            self.vdevs.iter().filter(|(class, _)| matches!(class, Class::Special | Class::Dedup))
        {
            ensure!(
                vdev.redundancy() >= least,
                "mismatched replication level: the {} vdev stands {} losses and the data {least}, but the pool is lost with either; \
                 use -f if that is meant",
                class.word(),
                vdev.redundancy()
            );
        }
        Ok(())
    }
}

/// Nothing follows, or the next word opens something else.
fn opens_nothing(rest: &[OsString]) -> bool {
    rest.first()
        .and_then(|w| w.to_str())
        .is_none_or(|w| Class::of_word(w).is_some() || w == "spare" || w == "cache")
}

fn is_keyword(word: &OsStr) -> bool {
    let Some(text) = word.to_str() else { return false };
    // A group that cannot be is still a keyword: its own turn brings the error.
    Class::of_word(text).is_some() || text == "spare" || text == "cache" || !matches!(group(text), Ok(None))
}

/// What a word like `raidz2` or `draid1:4d:11c:1s` asks for.
struct Group {
    shape: Shape,
    /// Number of devices that draid's own words promise.
    children: Option<usize>,
}

impl Group {
    fn check(&self, word: &str, devices: &[PathBuf]) -> Result<()> {
        let count = devices.len();
        let least = match self.shape {
            Shape::Disk => 1,
            Shape::Mirror => 2,
            Shape::Raidz(parity) => usize::from(parity) + 1,
            Shape::Draid { parity, data, spares } => {
                usize::from(parity) + usize::from(data.unwrap_or(1)) + usize::from(spares)
            }
        };
        ensure!(count >= least, "{word}: needs {least} devices at least, found {count}");
        ensure!(count <= 255, "{word}: has 255 devices at most, found {count}");
        if let Some(children) = self.children {
            ensure!(count == children, "{word}: promises {children} devices, found {count}");
        }
        Ok(())
    }
}

/// A group's word; `None` if it is none, an error if it is one that cannot be.
fn group(word: &str) -> Result<Option<Group>> {
    let group = |shape| Ok(Some(Group { shape, children: None }));
    if word == "mirror" {
        return group(Shape::Mirror);
    }
    if let Some(parity) = word.strip_prefix("raidz") {
        return match parity {
            "" => group(Shape::Raidz(1)),
            "1" | "2" | "3" => group(Shape::Raidz(parity.parse()?)),
            _ if parity.bytes().all(|b| b.is_ascii_digit()) => bail!("{word}: the parity of raidz is 1 to 3"),
            _ => Ok(None),
        };
    }
    let Some(numbers) = word.strip_prefix("draid") else { return Ok(None) };
    let mut parts = numbers.split(':');
    let parity = match parts.next().unwrap_or_default() {
        "" => 1,
        digits if digits.bytes().all(|b| b.is_ascii_digit()) => digits
            .parse()
            .ok()
            .filter(|p| (1..=3).contains(p))
            .with_context(|| format!("{word}: the parity of draid is 1 to 3"))?,
        _ => return Ok(None),
    };
    let (mut data, mut children, mut spares) = (None, None, 0);
    for part in parts {
        let split = part.len().saturating_sub(1);
        let number = part.get(..split).and_then(|n| n.parse::<u8>().ok());
        let shown = || format!("{word}: {part:?} is not a number with d (data), c (children) or s (spares)");
        let number = number.with_context(shown)?;
        match part.get(split..) {
            Some("d") if number > 0 => data = Some(number),
            Some("c") => children = Some(usize::from(number)),
            Some("s") => spares = number,
            _ => bail!(shown()),
        }
    }
    Ok(Some(Group { shape: Shape::Draid { parity, data, spares }, children }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Spec> {
        Spec::parse(&text.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    fn shown(text: &str) -> String {
        let spec = parse(text).unwrap();
        let vdev =
            |(class, vdev): &(Class, Vdev)| format!("{}{}/{}", class.word(), vdev.shape, vdev.devices.len());
        let vdevs: Vec<String> = spec.vdevs.iter().map(vdev).collect();
        format!("{} {} {}", vdevs.join(" "), spec.spares.len(), spec.caches.len())
    }

    #[test]
    fn openzfs_words_are_understood() {
        assert_eq!(shown("a"), "disk/1 0 0");
        assert_eq!(shown("a b"), "disk/1 disk/1 0 0");
        assert_eq!(shown("mirror a b mirror c d e"), "mirror/2 mirror/3 0 0");
        assert_eq!(shown("raidz a b raidz c d"), "raidz1/2 raidz1/2 0 0");
        assert_eq!(shown("raidz3 a b c d"), "raidz3/4 0 0");
        assert_eq!(shown("draid2:3d:7c:1s a b c d e f g"), "draid2/7 0 0");
        assert_eq!(
            shown("mirror a b log mirror c d special mirror e f dedup g spare h i cache j"),
            "mirror/2 logsmirror/2 specialmirror/2 dedupdisk/1 2 1"
        );
        // The class holds until the next one.
        assert_eq!(shown("a log b c"), "disk/1 logsdisk/1 logsdisk/1 0 0");
        assert_eq!(shown("./mirror raidzfile draidx"), "disk/1 disk/1 disk/1 0 0");
        let draid = parse("draid:4d:2s a b c d e f g h").unwrap();
        assert_eq!(draid.vdevs[0].1.shape, Shape::Draid { parity: 1, data: Some(4), spares: 2 });
    }

    #[test]
    fn nonsense_is_named() {
        for (text, word) in [
            ("mirror a", "2 devices"),
            ("raidz2 a b", "3 devices"),
            ("raidz4 a b c d e", "1 to 3"),
            ("draid4 a b c d e", "1 to 3"),
            ("draid1:5c a b c d", "promises 5"),
            ("draid1:0d a b c", "\"0d\""),
            ("draid1:3q a b c", "3q"),
            ("draid1:4d:1s a b c d", "6 devices"),
            ("a log", "names no device"),
            ("a cache spare b", "names no device"),
            ("a spare mirror b c", "single device"),
            ("a log raidz b c d", "a disk or a mirror"),
            ("mirror a a", "twice"),
            ("a spare a", "twice"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn uneven_pools_need_force() {
        for even in [
            "a b",
            "mirror a b mirror c d",
            "raidz2 a b c d raidz2 e f g",
            "mirror a b log c",
            "raidz1 a b c special mirror d e",
            "raidz2 a b c special mirror d e f",
        ] {
            assert!(parse(even).unwrap().check_redundancy(&[]).is_ok(), "{even}");
        }
        for uneven in [
            "a mirror b c",
            "mirror a b mirror c d e",
            "raidz1 a b raidz2 c d e",
            "raidz2 a b c special mirror d e",
            "mirror a b dedup c",
        ] {
            let error = parse(uneven).unwrap().check_redundancy(&[]).unwrap_err().to_string();
            assert!(error.contains("mismatched replication level"), "{error}");
        }
        let more = parse("mirror a b").unwrap();
        assert!(more.check_redundancy(&[(Shape::Mirror, 2)]).is_ok());
        assert!(more.check_redundancy(&[(Shape::Raidz(1), 3)]).is_err());
        assert!(parse("log a").unwrap().check_redundancy(&[(Shape::Raidz(1), 3)]).is_ok());
        assert!(parse("special a").unwrap().check_redundancy(&[(Shape::Raidz(1), 3)]).is_err());
    }
}
