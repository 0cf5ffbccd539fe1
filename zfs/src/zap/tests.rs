//! ZAPs against a model in memory: growth from micro to fat, splits, growth of the pointer table, iteration.

use super::leaf::{EntryHead, Leaf};
use super::*;
use crate::dmu::testing::{Below, TestPool};
use crate::ondisk::objset::ObjsetKind;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use platform::random::{Random, Seeded};

const DIR: ObjectType = ObjectType::DIRECTORY_CONTENTS;

fn pool() -> (TestPool, Arc<Objset>) {
    let pool = TestPool::new(256 << 20);
    let tx = pool.txgs.begin(0).unwrap();
    let os = pool.create(54, ObjsetKind::Zfs, &tx);
    drop(tx);
    (pool, os)
}

fn reopened(pool: &TestPool, zap: &Arc<Dnode>) -> Arc<Dnode> {
    let os = zap.objset();
    let os = Objset::open(pool.fresh_zio(), Arc::clone(&pool.txgs), os.id(), os.root()).unwrap();
    os.hold(zap.object()).unwrap()
}

fn compare(zap: &Arc<Dnode>, model: &BTreeMap<Vec<u8>, Value>) {
    assert_eq!(count(zap).unwrap(), model.len() as u64);
    let found: BTreeMap<Vec<u8>, Value> =
        entries(zap).unwrap().into_iter().map(|e| (e.name, e.value)).collect();
    assert!(found == *model, "entries differ");
    for (name, value) in model.iter().step_by(7) {
        assert_eq!(lookup(zap, &name[..]).unwrap(), *value);
    }
}

/// Adds names with numbers, to the model as well.
fn add_all(
    zap: &Arc<Dnode>,
    tx: &Tx,
    model: &mut BTreeMap<Vec<u8>, Value>,
    entries: impl Iterator<Item = (String, u64)>,
) {
    for (name, i) in entries {
        add_u64(zap, tx, name.as_str(), i).unwrap();
        model.insert(name.into_bytes(), Value::words(&[i]));
    }
}

/// The names of many files.
fn files(numbers: core::ops::Range<u64>) -> impl Iterator<Item = (String, u64)> {
    numbers.map(|i| (format!("file-{i}"), i))
}

#[test]
fn a_micro_zap_grows_in_steps_and_becomes_fat() {
    let (pool, os) = pool();
    let tx = pool.txgs.begin(0).unwrap();
    let zap = create(&os, &tx, DIR, &CreateOptions::default()).unwrap();
    let mut model = BTreeMap::new();
    add_all(&zap, &tx, &mut model, files(0..2047));
    assert_eq!((stats(&zap).unwrap().micro, zap.block_size()), (true, 131_072));
    assert_eq!(add_u64(&zap, &tx, "file-3", 1), Err(Error::Exists));
    compare(&zap, &model);
    drop(tx);
    pool.sync();
    compare(&reopened(&pool, &zap), &model);
    let tx = pool.txgs.begin(0).unwrap();
    add_all(&zap, &tx, &mut model, [("one more".to_owned(), 5)].into_iter());
    assert_eq!((stats(&zap).unwrap().micro, zap.block_size()), (false, 16_384));
    drop(tx);
    pool.sync();
    compare(&zap, &model);
    compare(&reopened(&pool, &zap), &model);
    pool.check(&[&os]);
}

#[test]
fn a_long_name_or_a_string_value_makes_it_fat() {
    let (pool, os) = pool();
    let tx = pool.txgs.begin(0).unwrap();
    for fat in [true, false] {
        let zap = create(&os, &tx, DIR, &CreateOptions::default()).unwrap();
        let name = "n".repeat(if fat { 50 } else { 49 });
        add_u64(&zap, &tx, name.as_str(), 5).unwrap();
        assert_eq!((stats(&zap).unwrap().micro, lookup_u64(&zap, name.as_str()).unwrap()), (!fat, 5));
    }
    let zap = create(&os, &tx, ObjectType::DSL_PROPS, &CreateOptions::default()).unwrap();
    update_u64(&zap, &tx, "compression", 15).unwrap();
    update(&zap, &tx, "tarn:cmd", &Value::bytes(b"/bin/true\0")).unwrap();
    assert!(!stats(&zap).unwrap().micro);
    assert_eq!(lookup(&zap, "tarn:cmd").unwrap().to_bytes(), b"/bin/true\0");
    assert_eq!(lookup_u64(&zap, "compression").unwrap(), 15);
    assert_eq!(add_u64(&zap, &tx, "x".repeat(256).as_str(), 1), Err(Error::NameTooLong));
    assert_eq!(lookup(&zap, "none").err(), Some(Error::NotFound));
}

#[test]
fn directories_take_names_of_1023_bytes() {
    let (pool, os) = pool();
    let tx = pool.txgs.begin(0).unwrap();
    let zap = create(&os, &tx, DIR, &CreateOptions::default()).unwrap();
    let mut model = BTreeMap::new();
    let long = |i: u64| (format!("{i:0>width$}", width = 200 + (i as usize * 13) % 824), i);
    add_all(&zap, &tx, &mut model, (0..300).map(long));
    add_u64(&zap, &tx, "y".repeat(1023).as_str(), 1).unwrap();
    assert_eq!(add_u64(&zap, &tx, "x".repeat(1024).as_str(), 1), Err(Error::NameTooLong));
    remove(&zap, &tx, "y".repeat(1023).as_str()).unwrap();
    drop(tx);
    pool.sync();
    compare(&zap, &model);
    compare(&reopened(&pool, &zap), &model);
    pool.check(&[&os]);
}

/// As OpenZFS makes them where `large_microzap` is enabled and it is told to.
#[test]
fn a_micro_zap_of_256_kib_is_filled_and_becomes_fat() {
    let (pool, os) = pool();
    let tx = pool.txgs.begin(0).unwrap();
    let zap = create(&os, &tx, DIR, &CreateOptions::default()).unwrap();
    let mut model = BTreeMap::new();
    add_all(&zap, &tx, &mut model, files(0..1));
    zap.set_block_size(&tx, 256 << 10).unwrap();
    drop(tx);
    pool.sync();
    let zap = reopened(&pool, &zap);
    let tx = pool.txgs.begin(0).unwrap();
    add_all(&zap, &tx, &mut model, files(1..4095));
    assert_eq!((stats(&zap).unwrap().micro, zap.block_size()), (true, 256 << 10));
    drop(tx);
    pool.sync();
    let tx = pool.txgs.begin(0).unwrap();
    add_all(&zap, &tx, &mut model, files(4095..4096));
    assert_eq!((stats(&zap).unwrap().micro, zap.block_size()), (false, 16 << 10));
    drop(tx);
    pool.sync();
    compare(&zap, &model);
    compare(&reopened(&pool, &zap), &model);
    pool.check(&[&zap.objset()]);
}

#[test]
fn a_hundred_thousand_names() {
    let (pool, os) = pool();
    let tx = pool.txgs.begin(0).unwrap();
    let zap = create(&os, &tx, DIR, &CreateOptions::default()).unwrap();
    let mut model = BTreeMap::new();
    let names = (0..100_000).map(|i| (format!("a rather long name of a file, number {i:06}"), i));
    add_all(&zap, &tx, &mut model, names);
    drop(tx);
    pool.sync();
    compare(&zap, &model);
    let back = reopened(&pool, &zap);
    compare(&back, &model);
    // The pointer table has left the header.
    assert!(stats(&back).unwrap().leaves > 600 && back.info().levels > 1);
    let tx = pool.txgs.begin(0).unwrap();
    for name in model.keys().step_by(2).map(|n| n.to_vec()).collect::<Vec<_>>() {
        remove(&zap, &tx, &name[..]).unwrap();
        model.remove(&name);
    }
    drop(tx);
    pool.sync();
    compare(&reopened(&pool, &zap), &model);
    pool.check(&[&os]);
}

#[test]
fn random_changes_match_the_model() {
    for seed in 0..4 {
        println!("seed {seed}");
        let random = Seeded::new(seed);
        let (pool, os) = pool();
        let tx = pool.txgs.begin(0).unwrap();
        let zap = create(&os, &tx, ObjectType::ZAP_OTHER, &CreateOptions::default()).unwrap();
        drop(tx);
        let mut model: BTreeMap<Vec<u8>, Value> = BTreeMap::new();
        for _ in 0..12 {
            let tx = pool.txgs.begin(0).unwrap();
            for _ in 0..random.below(400) {
                let len = 1 + random.below(if random.below(3) == 0 { 200 } else { 20 }) as usize;
                let name: Vec<u8> = (0..len).map(|_| b'a' + random.below(3) as u8).collect();
                let size = 1u8 << random.below(4);
                let n = random.below(if random.below(9) == 0 { 300 } else { 5 });
                let mask = if size == 8 { u64::MAX } else { (1 << (size * 8)) - 1 };
                let ints = (0..n).map(|_| random.next_u64() & mask).collect();
                let value = if seed < 2 { Value { int_size: size, ints } } else { Value::words(&[n]) };
                match random.below(4) {
                    0 => {
                        let added = add(&zap, &tx, &name[..], &value);
                        assert_eq!(added.is_ok(), !model.contains_key(&name));
                        model.entry(name).or_insert(value);
                    }
                    1 => {
                        let removed = remove(&zap, &tx, &name[..]);
                        assert_eq!(removed.is_ok(), model.remove(&name).is_some());
                    }
                    _ => {
                        update(&zap, &tx, &name[..], &value).unwrap();
                        model.insert(name, value);
                    }
                }
            }
            drop(tx);
            compare(&zap, &model);
            pool.sync();
            compare(&zap, &model);
            compare(&reopened(&pool, &zap), &model);
        }
        pool.check(&[&os]);
    }
}

#[test]
fn words_as_keys_and_increments() {
    let (pool, os) = pool();
    let tx = pool.txgs.begin(0).unwrap();
    let o = CreateOptions { flags: FLAG_HASH64 | FLAG_UINT64_KEY, ..CreateOptions::default() };
    let zap = create(&os, &tx, ObjectType::DDT_ZAP, &o).unwrap();
    for i in 0..5000u64 {
        add(&zap, &tx, &[i, i * 7][..], &Value { int_size: 1, ints: vec![i & 0xff; 3] }).unwrap();
    }
    drop(tx);
    pool.sync();
    let back = reopened(&pool, &zap);
    assert_eq!(lookup(&back, &[4999u64, 34_993][..]).unwrap().ints, vec![4999 & 0xff; 3]);
    assert_eq!(lookup(&back, &[4999u64, 1][..]).err(), Some(Error::NotFound));
    assert!(matches!(lookup(&back, "name"), Err(Error::Invalid(_))));
    let keys: BTreeMap<u64, u64> =
        entries(&back).unwrap().iter().map(|e| (e.key_words()[0], e.key_words()[1])).collect();
    assert_eq!((keys.len(), keys[&11]), (5000, 77));
    let tx = pool.txgs.begin(0).unwrap();
    let refs = create(&os, &tx, ObjectType::ZAP_OTHER, &CreateOptions::default()).unwrap();
    assert_eq!(increment(&refs, &tx, int_name(255).as_str(), 2).unwrap(), 2);
    assert_eq!(increment(&refs, &tx, "ff", -1).unwrap(), 1);
    assert_eq!((increment(&refs, &tx, "ff", -1).unwrap(), count(&refs).unwrap()), (0, 0));
}

#[test]
fn iteration_goes_on_from_any_cookie_while_entries_come_and_go() {
    let (pool, os) = pool();
    for total in [300u64, 5000] {
        let tx = pool.txgs.begin(0).unwrap();
        let zap = create(&os, &tx, DIR, &CreateOptions::default()).unwrap();
        for i in 0..total {
            add_u64(&zap, &tx, format!("f{i}").as_str(), i).unwrap();
        }
        let mut seen: Vec<String> = Vec::new();
        let mut cookie = COOKIE_START;
        let mut step = 0;
        loop {
            let batch: Vec<Entry> = iterate(&zap, cookie).take(17).map(Result::unwrap).collect();
            let Some(last) = batch.last() else { break };
            cookie = last.cookie;
            for entry in &batch {
                seen.push(String::from_utf8(entry.name.clone()).unwrap());
            }
            // What was seen goes, something new comes: neither disturbs the rest.
            remove(&zap, &tx, &batch[0].name[..]).unwrap();
            add_u64(&zap, &tx, format!("new{step}").as_str(), 1).unwrap();
            step += 1;
        }
        seen.retain(|n| n.starts_with('f'));
        seen.sort();
        let mut expected: Vec<String> = (0..total).map(|i| format!("f{i}")).collect();
        expected.sort();
        assert!(seen == expected);
        assert!(iterate(&zap, COOKIE_END).next().is_none());
    }
}

#[test]
fn case_is_folded_where_the_zap_says_so() {
    let (pool, os) = pool();
    let tx = pool.txgs.begin(0).unwrap();
    let o = CreateOptions { normalization: NORMALIZE_TO_UPPER, ..CreateOptions::default() };
    for fat in [false, true] {
        let zap = create(&os, &tx, DIR, &o).unwrap();
        if fat {
            add_u64(&zap, &tx, "l".repeat(100).as_str(), 1).unwrap();
        }
        add_u64(&zap, &tx, "ReadMe", 7).unwrap();
        assert_eq!(lookup_name(&zap, b"README", Match::Folded).unwrap(), (b"ReadMe".to_vec(), 7));
        assert_eq!(lookup_name(&zap, b"README", Match::Exact).err(), Some(Error::NotFound));
        add_u64(&zap, &tx, "README", 8).unwrap();
        assert_eq!((lookup_u64(&zap, "README").unwrap(), lookup_u64(&zap, "ReadMe").unwrap()), (8, 7));
    }
}

#[test]
fn damaged_blocks_are_errors() {
    let random = Seeded::new(9);
    let (pool, os) = pool();
    let tx = pool.txgs.begin(0).unwrap();
    let zap = create(&os, &tx, DIR, &CreateOptions::default()).unwrap();
    for i in 0..3000u64 {
        add_u64(&zap, &tx, format!("name {i}").as_str(), i).unwrap();
    }
    let blocks = zap.info().maxblkid + 1;
    for _ in 0..300 {
        let blkid = random.below(blocks);
        let old = zap.read_block(blkid).unwrap();
        let mut bad = old.to_vec();
        for _ in 0..4 {
            let at = if random.below(2) == 0 { random.below(64) } else { random.below(16_384) } as usize;
            bad[at] = random.next_u64() as u8;
        }
        zap.write_block(&tx, blkid, bad.into()).unwrap();
        *zap.zap.write() = Cache::default();
        // Whatever comes back: no panic, and an end.
        let _ = entries(&zap);
        for i in (0..3000u64).step_by(250) {
            let _ = lookup(&zap, format!("name {i}").as_str());
        }
        zap.write_block(&tx, blkid, old).unwrap();
        *zap.zap.write() = Cache::default();
    }
    assert_eq!(entries(&zap).unwrap().len(), 3000);
}

fn long_name(i: u64) -> String {
    format!("{i} is a name that is so long that a ZAP with it is a fat one")
}

/// A fat ZAP with so many entries, whose form is read anew after `damage` of one of its blocks.
fn damaged(entries: u64, block: u64, damage: impl FnOnce(&mut [u8])) -> (TestPool, Arc<Dnode>, Tx) {
    let (pool, os) = pool();
    let tx = pool.txgs.begin(0).unwrap();
    let zap = create(&os, &tx, DIR, &CreateOptions::default()).unwrap();
    for i in 0..entries {
        add_u64(&zap, &tx, long_name(i).as_str(), i).unwrap();
    }
    zap.modify_block(&tx, block, damage).unwrap();
    zap.zap.write().form = None;
    (pool, zap, tx)
}

fn set_word(block: &mut [u8], word: usize, value: u64) {
    block[word * 8..word * 8 + 8].copy_from_slice(&value.to_le_bytes());
}

#[test]
fn a_header_that_points_beyond_the_object_is_refused() {
    // First block and length of the pointer table with its shift, the next table, the free block, the number of leaves.
    let damages: [&[(usize, u64)]; 6] = [
        &[(2, u64::MAX), (3, 1), (4, 11)],
        &[(2, 1), (3, 1 << 30), (4, 41)],
        &[(5, u64::MAX)],
        &[(7, u64::MAX)],
        &[(7, 1 << 40)],
        &[(8, u64::MAX)],
    ];
    for words in damages {
        let damage = |b: &mut [u8]| words.iter().for_each(|&(word, value)| set_word(b, word, value));
        let (_pool, zap, tx) = damaged(20, 0, damage);
        assert!(matches!(lookup(&zap, "x"), Err(Error::Corrupt { .. })), "{words:?}");
        assert!(matches!(add_u64(&zap, &tx, "x", 1), Err(Error::Corrupt { .. })), "{words:?}");
    }
}

/// It can be read, but not become a fat one: nothing of it is lost, and nothing of what it was is remembered.
#[test]
fn a_micro_zap_with_a_name_twice_stays_as_it_is() {
    let (pool, os) = pool();
    let tx = pool.txgs.begin(0).unwrap();
    let zap = create(&os, &tx, DIR, &CreateOptions::default()).unwrap();
    for i in 0..500u64 {
        add_u64(&zap, &tx, format!("name {i}").as_str(), i).unwrap();
    }
    zap.modify_block(&tx, 0, |b| b.copy_within(64..128, 128)).unwrap();
    zap.zap.write().form = None;
    let before = (zap.block_size(), zap.read_block(0).unwrap());
    assert!(matches!(add_u64(&zap, &tx, long_name(1).as_str(), 1), Err(Error::Corrupt { .. })));
    assert_eq!((zap.block_size(), zap.read_block(0).unwrap()), before);
    assert_eq!(lookup_u64(&zap, "name 499"), Ok(499));
    assert_eq!(entries(&zap).unwrap().len(), 499);
}

/// A leaf that claims the hashes of others must not take their pointers when it is split.
#[test]
fn a_leaf_with_a_wrong_prefix_is_not_split() {
    // Several leaves: the first is that of the lowest hashes no more.
    let (_pool, zap, tx) = damaged(900, 1, |leaf| leaf[32..34].copy_from_slice(&0u16.to_le_bytes()));
    let mut refused = 0;
    for i in 0..3000 {
        refused += u32::from(add_u64(&zap, &tx, format!("another-{i}").as_str(), i).is_err());
    }
    assert!(refused > 0);
    let left = (0..900).filter(|&i| lookup_u64(&zap, long_name(i).as_str()) == Ok(i)).count();
    assert!(left > 500, "{left} of 900 entries are left");
}

/// A leaf of 16 KiB with the entries `name-0`, `name-1`, … Of each third, the name takes more than one chunk.
fn leaf_with(entries: u64) -> Vec<u8> {
    let mut block = vec![0; 16_384];
    Leaf::init(&mut block, 0, 0, false);
    let rules = Rules { salt: 5, flags: 0, normalization: 0 };
    for i in 0..entries {
        let name = format!("name-{i}{}", if i % 3 == 2 { "-and-more-than-a-chunk-holds" } else { "" });
        let query = Query::new(&rules, Key::Name(name.as_bytes()), Match::Exact).unwrap();
        Leaf::new(&mut block[..]).unwrap().create(&query, None, &Value::words(&[i])).unwrap();
    }
    block
}

/// An entry as iteration gives it: its position and its name.
type Named = ((u64, u32), Vec<u8>);

/// What iteration gives from a position on.
fn seen_from(leaf: &Leaf<&[u8]>, from: (u64, u32)) -> std::result::Result<Vec<Named>, &'static str> {
    let mut seen = Vec::new();
    let all = leaf.visit_from(from, 1, &mut |entry| {
        seen.push((entry.at, entry.name.to_vec()));
        true
    })?;
    assert!(all);
    Ok(seen)
}

/// As iteration takes them: from each position on, in order, with their names.
#[test]
fn a_leaf_gives_its_entries_in_order() {
    let block = leaf_with(150);
    let leaf = Leaf::new(&block[..]).unwrap();
    let key = |e: &EntryHead| (e.hash, e.cd);
    let mut all: Vec<_> = leaf.entries();
    all.sort_unstable_by_key(key);
    let named: Vec<_> = all.iter().map(|e| (key(e), leaf.name(e, 1).unwrap())).collect();
    for (i, head) in all.iter().enumerate() {
        assert_eq!(seen_from(&leaf, key(head)).unwrap(), named[i..]);
        assert_eq!(seen_from(&leaf, (head.hash, head.cd + 1)).unwrap(), named[i + 1..]);
    }
    let names: BTreeSet<_> = named.iter().map(|(_, name)| name).collect();
    assert_eq!((all.len(), names.len()), (150, 150));
    let mut left = 7;
    let more = leaf.visit_from((0, 0), 1, &mut |_| {
        left -= 1;
        left > 0
    });
    assert_eq!((more, left), (Ok(false), 0));
}

/// Else a cookie could lead back, and a program that reads the directory would never end.
#[test]
fn an_entry_in_the_chain_of_another_hash_is_refused() {
    let mut block = leaf_with(50);
    let heads = Leaf::new(&block[..]).unwrap().entries();
    let last = heads.iter().max_by_key(|e| e.hash).unwrap();
    let at = 48 + 2 * (16_384 / 32) + usize::from(last.chunk) * 24;
    block[at + 16..at + 24].copy_from_slice(&heads.iter().map(|e| e.hash).min().unwrap().to_le_bytes());
    assert!(seen_from(&Leaf::new(&block[..]).unwrap(), (0, 0)).is_err());
}

#[test]
fn a_leaf_that_cannot_be_split_stays_as_it_is() {
    let mut block = leaf_with(50);
    // The name of the first entry is nowhere.
    let first = Leaf::new(&block[..]).unwrap().entries()[0].chunk;
    let at = 48 + 2 * (16_384 / 32) + usize::from(first) * 24;
    block[at + 4..at + 6].copy_from_slice(&9000u16.to_le_bytes());
    let before = block.clone();
    assert!(Leaf::new(&mut block[..]).unwrap().split(false).is_err());
    assert!(block == before);
}

/// Two transactions change the same ZAP, that of the older txg last: as files lose their names, and wait in the delete queue.
#[test]
fn an_entry_of_an_older_txg_is_not_lost_behind_a_newer_one() {
    for before in [0, 2040, 3000] {
        let (pool, os) = pool();
        let tx = pool.txgs.begin(0).unwrap();
        let zap = create(&os, &tx, ObjectType::UNLINKED_SET, &CreateOptions::default()).unwrap();
        // A micro ZAP, one that becomes fat meanwhile, and a fat one.
        let name = |n: u64| int_name(n);
        for n in 0..before {
            add_u64(&zap, &tx, name(n).as_str(), n).unwrap();
        }
        drop(tx);
        pool.sync();
        pool.with_two_txgs(|older, newer| {
            for n in 10_000..10_010 {
                add_u64(&zap, newer, name(n).as_str(), n).unwrap();
                add_u64(&zap, older, name(n + 10_000).as_str(), n).unwrap();
            }
            remove(&zap, newer, name(20_000).as_str()).unwrap();
            remove(&zap, older, name(10_000).as_str()).unwrap();
        });
        let wanted: BTreeSet<u64> = (0..before).chain((10_001..10_010).flat_map(|n| [n, n])).collect();
        for zap in [Arc::clone(&zap), reopened(&pool, &zap)] {
            let entries = entries(&zap).unwrap();
            assert_eq!(entries.len() as u64, before + 18);
            assert_eq!(entries.iter().map(|e| e.value.first()).collect::<BTreeSet<u64>>(), wanted);
            assert!(lookup_u64(&zap, name(20_001).as_str()).is_ok());
        }
        pool.check(&[&os]);
    }
}
