//! The cache's promises: bounded, adaptive, one fill for many.

use super::*;
use platform::random::{Random, Seeded};

fn key(offset: u64) -> Key {
    Key { vdev: 0, offset, birth: 1 }
}

fn block(byte: u8, len: usize) -> Bytes {
    Bytes::from(alloc::vec![byte; len])
}

#[test]
fn it_never_holds_more_than_its_limit() {
    let seed = 0xa2c;
    let random = Seeded::new(seed);
    let cache = Cache::new(100_000);
    for step in 0..50_000 {
        let k = key(random.next_u64() % 500);
        match cache.lookup(k, Reader::Demand) {
            Lookup::Hit(data) => assert_eq!(u64::from(data[0]), k.offset % 251, "seed {seed:#x}"),
            Lookup::Mine(claim) => {
                let len = 512 + random.next_u64() as usize % 4096;
                claim.tell(&Ok(block((k.offset % 251) as u8, len)), true);
            }
            Lookup::Wait(_) => panic!("nobody else reads"),
        }
        assert!(cache.stats().size <= 100_000);
        if step == 25_000 {
            cache.set_max(10_000);
            assert!(cache.stats().size <= 10_000);
            cache.set_max(100_000);
        }
    }
    let stats = cache.stats();
    assert!(stats.hits > 0 && stats.evictions > 0 && stats.hits + stats.misses == 50_000);
}

#[test]
fn blocks_used_twice_survive_a_scan() {
    let cache = Cache::new(100 * 1000);
    for offset in 0..40 {
        cache.insert(key(offset), block(1, 1000));
        assert!(cache.get(&key(offset)).is_some());
    }
    for offset in 1000..3000 {
        cache.insert(key(offset), block(2, 1000));
    }
    let left = (0..40).filter(|&o| cache.get(&key(o)).is_some()).count();
    assert_eq!(left, 40);
}

#[test]
fn one_reads_and_all_who_wait_are_told() {
    let cache = Cache::new(1 << 20);
    let Lookup::Mine(claim) = cache.lookup(key(1), Reader::Demand) else { panic!("the first reads") };
    let waiters: Vec<_> = (0..4)
        .map(|_| {
            let Lookup::Wait(fill) = cache.lookup(key(1), Reader::Demand) else { panic!("the others wait") };
            std::thread::spawn(move || fill.wait())
        })
        .collect();
    claim.tell(&Ok(block(9, 512)), true);
    for waiter in waiters {
        assert_eq!(waiter.join().unwrap(), Ok(block(9, 512)));
    }
    assert_eq!(cache.get(&key(1)), Some(block(9, 512)));
}

#[test]
fn a_claim_that_is_dropped_fails_the_waiters() {
    let cache = Cache::new(1 << 20);
    let Lookup::Mine(claim) = cache.lookup(key(1), Reader::Demand) else { panic!("the first reads") };
    let Lookup::Wait(fill) = cache.lookup(key(1), Reader::Demand) else { panic!("the second waits") };
    drop(claim);
    assert_eq!(fill.wait(), Err(Error::Io { cause: BlockError::Gone, at: None }));
    assert!(matches!(cache.lookup(key(1), Reader::Demand), Lookup::Mine(_)));
}

#[test]
fn a_read_does_not_replace_what_was_written_meanwhile() {
    let cache = Cache::new(1 << 20);
    let Lookup::Mine(claim) = cache.lookup(key(1), Reader::Demand) else { panic!("the first reads") };
    cache.insert(key(1), block(2, 512));
    claim.tell(&Ok(block(1, 512)), true);
    assert_eq!(cache.get(&key(1)), Some(block(2, 512)));
    cache.remove(&key(1));
    assert_eq!(cache.get(&key(1)), None);
}

#[test]
fn a_block_larger_than_the_cache_is_not_kept() {
    let cache = Cache::new(1000);
    cache.insert(key(1), block(1, 2000));
    assert_eq!((cache.get(&key(1)), cache.stats().size), (None, 0));
}

#[test]
fn a_block_read_ahead_is_seen_once_when_it_is_used_first() {
    let cache = Cache::new(1 << 20);
    let Lookup::Mine(claim) = cache.lookup(key(1), Reader::Prefetch) else { panic!("nobody reads it yet") };
    claim.tell(&Ok(block(7, 512)), true);
    assert!(cache.knows(&key(1)) && !cache.knows(&key(2)));
    assert!(matches!(cache.lookup(key(1), Reader::Prefetch), Lookup::Hit(_)));
    let of = |cache: &Cache| (cache.stats().mru_size, cache.stats().mfu_size, cache.stats().prefetch_hits);
    assert_eq!(of(&cache), (512, 0, 0));
    assert!(matches!(cache.lookup(key(1), Reader::Demand), Lookup::Hit(_)));
    assert_eq!(of(&cache), (512, 0, 1));
    assert!(matches!(cache.lookup(key(1), Reader::Demand), Lookup::Hit(_)));
    assert_eq!(of(&cache), (0, 512, 1));
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.misses, stats.prefetches), (2, 0, 1));
}

#[test]
fn ghosts_that_are_read_again_are_counted() {
    let cache = Cache::new(10 * 512);
    (0..20).for_each(|offset| cache.insert(key(offset), block(1, 512)));
    assert_eq!(cache.stats().evictions, 10);
    cache.insert(key(3), block(1, 512));
    let stats = cache.stats();
    assert_eq!((stats.mru_ghost_hits, stats.mfu_size, stats.target), (1, 512, stats.max / 2 + 512));
}

#[test]
fn what_primarycache_keeps() {
    let kept = |raw| (PrimaryCache::from_raw(raw).keeps(false), PrimaryCache::from_raw(raw).keeps(true));
    assert_eq!([kept(0), kept(1), kept(2)], [(false, false), (false, true), (true, true)]);
}
