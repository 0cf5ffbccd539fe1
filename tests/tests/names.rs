//! Names under every combination of `casesensitivity` and `normalization`: found, refused, renamed and removed as by OpenZFS.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use platform::Env;
use platform::block::BlockDevice;
use platform::host::{OsRandom, SystemClock};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tests::fixtures;
use tests::manifest::{ALL, check_sections, mount};
use zfs::Error;
use zfs::spa::{ImportOptions, Pool};
use zfs::zpl::{FileKind, Filesystem, MountOptions, New, RenameFlags};

const FIXTURE: &str = "w-names";

fn import(options: ImportOptions) -> Arc<Pool> {
    let env = Env { clock: Arc::new(SystemClock), random: Arc::new(OsRandom::open().unwrap()) };
    let disks = fixtures::disks(FIXTURE).unwrap();
    Pool::import(disks.into_iter().map(|d| d as Arc<dyn BlockDevice>).collect(), env, options).unwrap()
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}

/// What OpenZFS found in directory `d` of each data set: spelling to object.
fn lookups() -> BTreeMap<String, BTreeMap<Vec<u8>, u64>> {
    let mut found: BTreeMap<String, BTreeMap<Vec<u8>, u64>> = BTreeMap::new();
    for line in fixtures::text(FIXTURE, ".lookups.txt").unwrap().lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [dataset, name, object] = words[..] else { panic!("{line}") };
        found.entry(dataset.to_owned()).or_default().insert(bytes(name), object.parse().unwrap());
    }
    found
}

#[test]
fn the_same_spellings_lead_to_the_same_files() {
    let pool = import(ImportOptions::read_only());
    let lookups = lookups();
    let spellings: BTreeSet<&Vec<u8>> = lookups.values().flat_map(BTreeMap::keys).collect();
    assert_eq!(lookups.len(), 15);
    for (dataset, found) in &lookups {
        let fs = mount(&pool, dataset);
        let dir = fs.lookup(fs.root(), b"d").unwrap();
        for &name in &spellings {
            let object = fs.lookup(dir, name);
            let wanted = found.get(name).copied().ok_or(Error::NotFound);
            assert_eq!(object, wanted, "{dataset}: {}", String::from_utf8_lossy(name).escape_unicode());
        }
    }
    check_sections(&pool, &fixtures::manifest(FIXTURE, ".files.jsonl").unwrap(), ALL);
}

/// Every spelling that leads to a file is taken; a rename to another spelling of the same name gives the file that one; any spelling
/// removes it.
#[test]
fn other_spellings_are_taken_renamed_and_removed() {
    let pool = import(ImportOptions::default());
    let file = New::new(FileKind::Regular, 0o644);
    for (dataset, found) in lookups() {
        let fs =
            Filesystem::mount(&pool, pool.dsl().lookup(&dataset).unwrap(), MountOptions::default()).unwrap();
        let dir = fs.lookup(fs.root(), b"d").unwrap();
        let mut spellings: BTreeMap<u64, Vec<&Vec<u8>>> = BTreeMap::new();
        for (name, object) in &found {
            assert_eq!(fs.create(dir, name, &file).err(), Some(Error::Exists), "{dataset}");
            spellings.entry(*object).or_default().push(name);
        }
        let stored = |object: u64| {
            let entries = fs.readdir(dir, 0, 10_000).unwrap();
            entries.into_iter().find(|e| e.object == object).map(|e| e.name)
        };
        for (object, names) in spellings {
            let (first, last) = (names[0], names[names.len() - 1]);
            fs.rename(dir, first, dir, last, RenameFlags::empty()).unwrap();
            assert_eq!(stored(object).as_ref(), Some(last), "{dataset}");
            assert_eq!(fs.lookup(dir, first), Ok(object), "{dataset}");
            fs.unlink(dir, first).unwrap();
            assert_eq!(fs.lookup(dir, last).err(), Some(Error::NotFound), "{dataset}");
        }
        // What is left are names that no spelling of the list finds; anew they can be made, in a ZAP that has grown.
        for (i, name) in found.keys().enumerate() {
            let made = fs.create(dir, name, &file);
            assert!(matches!(made, Ok(_) | Err(Error::Exists)), "{dataset} {i}: {made:?}");
            assert!(fs.lookup(dir, name).is_ok(), "{dataset} {i}");
        }
        fs.unmount().unwrap();
    }
    let mut progress = |_| {};
    let report = pool.verify(&mut progress).unwrap();
    assert!(report.is_clean(), "{report:?}");
    pool.export().unwrap();
}

#[test]
fn names_that_are_no_utf8_are_refused_where_the_property_says_so() {
    let pool = import(ImportOptions::default());
    let bad = b"a\xffb";
    for (dataset, allowed) in [("w_names/sensitive-none", true), ("w_names/sensitive-formD", false)] {
        let fs =
            Filesystem::mount(&pool, pool.dsl().lookup(dataset).unwrap(), MountOptions::default()).unwrap();
        let made = fs.create(fs.root(), bad, &New::new(FileKind::Regular, 0o644));
        assert_eq!(made.err(), (!allowed).then_some(Error::NotUtf8), "{dataset}");
        fs.unmount().unwrap();
    }
    // There are such names already, and they have folded forms.
    let fs = mount(&pool, "w_names/bytes");
    for (name, other) in [(&b"a\xffb"[..], &b"A\xffB"[..]), (b"A\xc3", b"a\xc3")] {
        assert_eq!(fs.lookup(fs.root(), other), fs.lookup(fs.root(), name));
        assert!(fs.lookup(fs.root(), name).is_ok());
    }
}
