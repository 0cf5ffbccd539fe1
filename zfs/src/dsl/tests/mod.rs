//! The dataset layer on a pool in miniature: every operation, then the books are compared with what is on disk.

mod damage;
mod rig;

use super::*;
use crate::error::{Error, Result};
use crate::ondisk::dsl::Used;
use platform::random::{Random, Seeded};
use rig::{FILE, Rig, file_system};
use std::collections::BTreeMap;

/// Overwrites, extends and punches the test file.
fn scribble(rig: &Rig, name: &str, random: &Seeded) {
    let dataset = rig.dsl.lookup(name).unwrap();
    let os = dataset.objset().unwrap();
    let tx = os.begin(1 << 20).unwrap();
    let file = os.hold(FILE).unwrap();
    for _ in 0..1 + random.next_u64() % 4 {
        let at = random.next_u64() % 64 * 4096;
        if random.next_u64().is_multiple_of(4) {
            file.free_range(&tx, at, 4096 * (1 + random.next_u64() % 8)).unwrap();
        } else {
            let mut data = vec![0; 4096 * (1 + random.next_u64() % 3) as usize];
            random.fill(&mut data);
            file.write(&tx, at, &data).unwrap();
        }
    }
}

/// What the test file holds.
fn content(dsl: &DslPool, name: &str) -> Vec<u8> {
    let os = dsl.lookup(name).unwrap().objset().unwrap();
    let mut data = vec![0; 80 * 4096];
    let read = os.hold(FILE).unwrap().read(0, &mut data).unwrap();
    data[read..].fill(0);
    data
}

#[test]
fn a_new_pool_has_its_books_in_order() {
    let rig = Rig::new(1);
    rig.check();
    let root = rig.dsl.root().unwrap();
    assert_eq!((root.name().as_str(), root.kind().unwrap()), ("p", Kind::Filesystem));
    assert_eq!(rig.dsl.datasets().unwrap().len(), 1);
    assert_eq!(rig.dsl.lookup("p/nope").map(|d| d.name()), Err(Error::NotFound));
    assert_eq!(rig.dsl.lookup("q").map(|d| d.name()), Err(Error::NotFound));
}

#[test]
fn snapshots_keep_their_content_and_go_without_a_leak() {
    let rig = Rig::new(2);
    let random = Seeded::new(2);
    rig.dsl.create_dataset("p/a", file_system()).unwrap();
    let mut states = BTreeMap::new();
    for i in 0..6 {
        scribble(&rig, "p/a", &random);
        let name = format!("p/a@{i}");
        rig.dsl.create_snapshots(&[&name]).unwrap();
        states.insert(name, content(&rig.dsl, "p/a"));
        rig.check();
    }
    scribble(&rig, "p/a", &random);
    assert_eq!(rig.dsl.create_snapshots(&["p/a@3"]), Err(Error::Exists));
    assert_eq!(rig.dsl.destroy("p/a", false, false), Err(Error::NotEmpty));
    for i in [3, 0, 5, 1, 4, 2] {
        let dsl = rig.reopen();
        for (name, data) in &states {
            assert_eq!(&content(&dsl, name), data, "{name}");
        }
        let name = format!("p/a@{i}");
        rig.dsl.destroy(&name, false, false).unwrap();
        states.remove(&name);
        rig.check();
    }
    rig.dsl.destroy("p/a", false, false).unwrap();
    rig.settle();
    rig.check();
    assert_eq!(rig.dsl.lookup("p/a").map(|d| d.name()), Err(Error::NotFound));
}

#[test]
fn rollback_brings_the_old_content_back() {
    let rig = Rig::new(3);
    let random = Seeded::new(3);
    rig.dsl.create_dataset("p/a", file_system()).unwrap();
    let mut states = Vec::new();
    for i in 0..4 {
        scribble(&rig, "p/a", &random);
        rig.dsl.create_snapshots(&[&format!("p/a@{i}")]).unwrap();
        states.push(content(&rig.dsl, "p/a"));
    }
    scribble(&rig, "p/a", &random);
    let owned = rig.dsl.lookup("p/a").unwrap().own().unwrap();
    assert_eq!(rig.dsl.rollback("p/a", "3", false), Err(Error::Busy));
    drop(owned);
    rig.dsl.rollback("p/a", "3", false).unwrap();
    rig.check();
    assert_eq!(content(&rig.dsl, "p/a"), states[3]);
    assert_eq!(rig.dsl.rollback("p/a", "1", false), Err(Error::NotEmpty));
    scribble(&rig, "p/a", &random);
    rig.dsl.rollback("p/a", "1", true).unwrap();
    rig.check();
    assert_eq!(content(&rig.dsl, "p/a"), states[1]);
    assert_eq!(content(&rig.reopen(), "p/a"), states[1]);
    scribble(&rig, "p/a", &random);
    rig.run(None).unwrap();
    rig.check();
    rig.settle();
    rig.check();
}

#[test]
fn clones_and_promotion() {
    let rig = Rig::new(4);
    let random = Seeded::new(4);
    rig.dsl.create_dataset("p/a", file_system()).unwrap();
    for i in 0..4 {
        scribble(&rig, "p/a", &random);
        rig.dsl.create_snapshots(&[&format!("p/a@{i}")]).unwrap();
    }
    let clone = rig.dsl.clone_snapshot("p/a@2", "p/c", &[("compression", "off"), ("a:b", "text")]).unwrap();
    assert_eq!(clone.origin().unwrap().unwrap().name(), "p/a@2");
    assert_eq!(clone.get("a:b").unwrap().text, "text");
    rig.check();
    assert_eq!(content(&rig.dsl, "p/c"), content(&rig.dsl, "p/a@2"));
    scribble(&rig, "p/c", &random);
    rig.dsl.create_snapshots(&["p/c@x", "p/a@x4"]).unwrap();
    scribble(&rig, "p/c", &random);
    rig.check();
    assert!(rig.dsl.destroy("p/a@2", false, false).is_err());
    assert!(rig.dsl.destroy("p/a", true, false).is_err());
    rig.dsl.clone_snapshot("p/c@x", "p/cc", &[]).unwrap();
    scribble(&rig, "p/cc", &random);
    rig.run(None).unwrap();
    rig.check();
    let before = (content(&rig.dsl, "p/a"), content(&rig.dsl, "p/c"), content(&rig.dsl, "p/cc"));
    rig.dsl.promote("p/c").unwrap();
    rig.check();
    assert_eq!(rig.dsl.lookup("p/a").unwrap().origin().unwrap().unwrap().name(), "p/c@2");
    assert!(rig.dsl.lookup("p/c@0").is_ok() && rig.dsl.lookup("p/a@0").is_err());
    rig.dsl.promote("p/cc").unwrap();
    rig.check();
    assert_eq!((content(&rig.dsl, "p/a"), content(&rig.dsl, "p/c"), content(&rig.dsl, "p/cc")), before);
    rig.dsl.destroy("p/a", true, false).unwrap();
    rig.check();
    rig.dsl.destroy("p/cc@1", false, false).unwrap();
    rig.check();
    rig.dsl.destroy("p/c", true, false).unwrap();
    rig.check();
    rig.settle();
    rig.check();
}

#[test]
fn a_deferred_snapshot_goes_with_its_last_hold_or_clone() {
    let rig = Rig::new(5);
    rig.dsl.create_dataset("p/a", file_system()).unwrap();
    rig.dsl.create_snapshots(&["p/a@s"]).unwrap();
    rig.dsl.hold(&["p/a@s"], "keep").unwrap();
    assert_eq!(rig.dsl.hold(&["p/a@s"], "keep"), Err(Error::Exists));
    assert_eq!(rig.dsl.lookup("p/a@s").unwrap().holds().unwrap()[0].tag, "keep");
    assert_eq!(rig.dsl.destroy("p/a@s", false, false), Err(Error::Busy));
    rig.dsl.clone_snapshot("p/a@s", "p/c", &[]).unwrap();
    rig.dsl.destroy("p/a@s", false, true).unwrap();
    rig.dsl.release(&["p/a@s"], "keep").unwrap();
    assert_eq!(rig.dsl.lookup("p/a@s").unwrap().get("defer_destroy").unwrap().text, "on");
    rig.check();
    rig.dsl.destroy("p/c", false, false).unwrap();
    assert!(rig.dsl.lookup("p/a@s").is_err());
    rig.check();
}

#[test]
fn properties_are_inherited_set_and_refused() {
    let rig = Rig::new(6);
    rig.dsl.create_dataset("p/a", file_system()).unwrap();
    rig.dsl.create_dataset("p/a/b", file_system()).unwrap();
    let get = |name: &str, property: &str| rig.dsl.lookup(name).unwrap().get(property).unwrap();
    rig.dsl.set_properties("p/a", &[("compression", "gzip-3"), ("mountpoint", "/x"), ("my:p", "1")]).unwrap();
    assert_eq!(
        (get("p/a", "compression").text.as_str(), get("p/a", "compression").source),
        ("gzip-3", Source::Local)
    );
    let inherited = Source::Inherited("p/a".to_string());
    assert_eq!(get("p/a/b", "compression").source, inherited);
    assert_eq!((get("p/a/b", "mountpoint").text.as_str(), get("p/a/b", "my:p").source), ("/x/b", inherited));
    assert_eq!(get("p", "compression").source, Source::Default);
    rig.dsl.inherit_property("p/a", "compression", false, false).unwrap();
    assert_eq!(get("p/a/b", "compression").text, "off");
    let set = |p, v| rig.dsl.set_properties("p/a", &[(p, v)]);
    assert!(set("used", "1").is_err() && set("nonsense", "1").is_err() && set("copies", "4").is_err());
    assert!(set("recordsize", "1000").is_err() && set("casesensitivity", "mixed").is_err());
    assert!(set("encryption", "on").is_err());
    assert_eq!(set("quota", "1"), Err(Error::NoSpace));
    set("quota", "10M").unwrap();
    set("reservation", "5M").unwrap();
    rig.check();
    assert_eq!(get("p/a", "quota").human, "10M");
    rig.dsl.set_properties("p/a/b", &[("refreservation", "2M"), ("refquota", "3M")]).unwrap();
    rig.check();
    assert_eq!(rig.dsl.lookup("p/a/b").unwrap().check_space(4 << 20), Err(Error::QuotaExceeded));
    assert_eq!(rig.dsl.lookup("p/a").unwrap().check_space(11 << 20), Err(Error::QuotaExceeded));
    scribble(&rig, "p/a/b", &Seeded::new(1));
    rig.dsl.create_snapshots_recursive("p/a", "s").unwrap();
    rig.check();
    scribble(&rig, "p/a/b", &Seeded::new(2));
    rig.run(None).unwrap();
    rig.check();
    rig.dsl.rollback("p/a/b", "s", false).unwrap();
    rig.check();
    rig.dsl.destroy("p/a@s", true, false).unwrap();
    rig.check();
    rig.dsl.rename("p/a/b", "p/b", false).unwrap();
    rig.check();
    assert!(rig.dsl.lookup("p/b").unwrap().dir().phys().used_breakdown[Used::RefReservation as usize] > 0);
    rig.dsl.inherit_property("p/b", "refreservation", false, false).unwrap();
    rig.dsl.set_properties("p/a", &[("reservation", "none")]).unwrap();
    rig.check();
    let all: Vec<String> =
        rig.dsl.root().unwrap().properties().unwrap().into_iter().map(|p| p.name).collect();
    assert!(all.contains(&"special_small_blocks".to_string()) && !all.contains(&"origin".to_string()));
}

#[test]
fn diff_counts_objects() {
    let rig = Rig::new(7);
    rig.dsl.create_dataset("p/a", file_system()).unwrap();
    let os = rig.dsl.lookup("p/a").unwrap().objset().unwrap();
    let new = |count: usize| -> Vec<u64> {
        let tx = os.begin(1 << 20).unwrap();
        let what =
            crate::dmu::Allocate::plain(crate::ondisk::object_type::ObjectType::PLAIN_FILE_CONTENTS, 512);
        (0..count).map(|_| os.allocate(&tx, &what).unwrap().object()).collect()
    };
    let old = new(100);
    rig.dsl.create_snapshots(&["p/a@1"]).unwrap();
    let added = new(70);
    {
        let tx = os.begin(1 << 20).unwrap();
        for object in &old[..50] {
            os.free(&tx, *object).unwrap();
        }
        for object in &old[60..65] {
            os.hold(*object).unwrap().write(&tx, 0, b"changed").unwrap();
        }
    }
    rig.dsl.create_snapshots(&["p/a@2"]).unwrap();
    let diff = Diff { added: added.len() as u64, removed: 50, modified: 5 };
    assert_eq!(rig.dsl.diff("p/a@1", "p/a@2"), Ok(diff));
    assert_eq!(rig.dsl.diff("p/a@1", "p/a"), Ok(diff));
    assert_eq!(rig.dsl.diff("p/a@2", "p/a"), Ok(Diff::default()));
    assert!(rig.dsl.diff("p/a@2", "p/a@1").is_err());
}

/// Random operations; the books are checked after each.
fn campaign(seed: u64, steps: usize) {
    println!("seed {seed}");
    let rig = Rig::new(seed);
    let random = Seeded::new(seed);
    let pick = |n: usize| (random.next_u64() % n as u64) as usize;
    let mut counter = 0;
    for step in 0..steps {
        let heads: Vec<String> = rig.dsl.datasets().unwrap().iter().map(|d| d.name()).collect();
        let head = heads[pick(heads.len())].clone();
        let snapshots: Vec<String> =
            rig.dsl.lookup(&head).unwrap().snapshots().unwrap().iter().map(|d| d.name()).collect();
        let snapshot = (!snapshots.is_empty()).then(|| snapshots[pick(snapshots.len())].clone());
        counter += 1;
        let what = pick(17);
        let done: Result<()> = match (what, snapshot) {
            (0, _) if heads.len() < 8 => {
                rig.dsl.create_dataset(&format!("{head}/f{counter}"), file_system()).map(|_| ())
            }
            (1..=3, _) => rig.dsl.create_snapshots(&[&format!("{head}@s{counter}")]),
            (4, _) => rig.dsl.create_snapshots_recursive(&head, &format!("r{counter}")),
            (5, Some(s)) if heads.len() < 8 => {
                rig.dsl.clone_snapshot(&s, &format!("p/c{counter}"), &[]).map(|_| ())
            }
            (6 | 7, Some(s)) => rig.dsl.destroy(&s, pick(3) == 0, pick(3) == 0),
            (8, _) => rig.dsl.destroy(&head, pick(2) == 0, false),
            (9, Some(s)) => rig.dsl.rollback(&head, s.split_once('@').unwrap().1, pick(2) == 0),
            (10, _) => rig.dsl.promote(&head),
            (11, _) => rig.dsl.rename(&head, &format!("{}/n{counter}", heads[pick(heads.len())]), false),
            (14, Some(s)) => {
                let mark = format!("{head}#m{counter}");
                rig.dsl.create_bookmarks(&[(mark.as_str(), s.as_str())])
            }
            (15 | 16, _) => {
                let marks: Vec<String> =
                    rig.dsl.lookup(&head).unwrap().bookmarks().unwrap().into_iter().map(|b| b.name).collect();
                match marks.len() {
                    0 => Ok(()),
                    _ if what == 15 => rig.dsl.destroy_bookmarks(&[&marks[pick(marks.len())]]),
                    n => rig.dsl.create_bookmarks(&[(&format!("{head}#c{counter}"), &marks[pick(n)])]),
                }
            }
            (12, _) => {
                let size = (pick(4) * 100_000).to_string();
                let property = ["reservation", "refreservation"][pick(2)];
                rig.dsl.set_properties(&head, &[(property, &size)])
            }
            _ => {
                scribble(&rig, &head, &random);
                rig.run(None)
            }
        };
        println!("{step}: {what} {head} {done:?}");
        if !head.is_empty() && rig.dsl.lookup(&head).is_ok() {
            scribble(&rig, &head, &random);
        }
        rig.run(None).unwrap();
        rig.check();
    }
    rig.settle();
    rig.check();
}

#[test]
fn random_operations_keep_the_books() {
    for seed in 0..6 {
        campaign(seed, 80);
    }
}

#[test]
fn bookmarks_outlive_their_snapshot_and_count_what_was_written_since() {
    let rig = Rig::new(8);
    let random = Seeded::new(8);
    rig.dsl.create_dataset("p/a", file_system()).unwrap();
    for name in ["p/a@1", "p/a@2", "p/a@3"] {
        scribble(&rig, "p/a", &random);
        rig.dsl.create_snapshots(&[name]).unwrap();
    }
    rig.dsl.create_bookmarks(&[("p/a#1", "p/a@1"), ("p/a#2", "p/a@2"), ("p/a#3", "p/a@3")]).unwrap();
    assert_eq!(rig.dsl.create_bookmarks(&[("p/a#1", "p/a@2")]), Err(Error::Exists));
    assert_eq!(rig.dsl.create_bookmarks(&[("p/a#9", "p/a#8")]), Err(Error::NotFound));
    rig.dsl.create_bookmarks(&[("p/a#copy", "p/a#2")]).unwrap();
    rig.dsl.clone_snapshot("p/a@3", "p/c", &[]).unwrap();
    rig.dsl.create_bookmarks(&[("p/c#origin", "p/a@2")]).unwrap();
    assert!(rig.dsl.create_bookmarks(&[("p#other", "p/a@2")]).is_err());
    scribble(&rig, "p/a", &random);
    scribble(&rig, "p/c", &random);
    rig.run(None).unwrap();
    rig.check();
    for name in ["p/a@2", "p/a@1"] {
        rig.dsl.destroy(name, false, false).unwrap();
        scribble(&rig, "p/a", &random);
        rig.run(None).unwrap();
        rig.check();
    }
    rig.dsl.create_snapshots(&["p/a@4"]).unwrap();
    scribble(&rig, "p/a", &random);
    rig.run(None).unwrap();
    rig.check();
    rig.dsl.destroy_bookmarks(&["p/a#2"]).unwrap();
    rig.check();
    rig.dsl.destroy_bookmarks(&["p/a#copy", "p/a#1"]).unwrap();
    rig.check();
    assert_eq!(rig.dsl.destroy_bookmarks(&["p/a#1"]), Err(Error::NotFound));
    rig.dsl.promote("p/c").unwrap();
    rig.check();
    let names = |head: &str| -> Vec<String> {
        rig.dsl.lookup(head).unwrap().bookmarks().unwrap().into_iter().map(|b| b.name).collect()
    };
    assert_eq!((names("p/a"), names("p/c")), (vec![], vec!["p/c#origin".into(), "p/c#3".into()]));
    rig.dsl.create_bookmarks(&[("p/a#4", "p/a@4")]).unwrap();
    rig.dsl.destroy("p/a@4", false, false).unwrap();
    rig.check();
    rig.dsl.destroy("p/a", true, false).unwrap();
    rig.dsl.destroy_bookmarks(&["p/c#origin", "p/c#3"]).unwrap();
    rig.settle();
    rig.check();
}
