//! ZAPs made of any bytes, as the object's own blocks: they are iterated, asked, changed and counted.
//!
//! The input is the block size in units of 512 bytes (two bytes), then the blocks. Of several blocks the size is a power of two, as of
//! every object.

use crate::layout::Layout;
use anyhow::{Context, Result, ensure};
use platform::block::BlockDevice;
use platform::sim::{Image, SimDisk, SimLog};
use std::cell::RefCell;
use std::sync::Arc;
use zfs::dmu::{Allocate, Dnode, Objset, Tx};
use zfs::ondisk::object_type::ObjectType;
use zfs::spa::Pool;
use zfs::zap::{self, Key, Value};

/// Size of the disk below, in bytes.
const DISK: u64 = 128 << 20;
/// Inputs after which the pool writes what they left.
const SYNC_EVERY: u64 = 500;
/// Entries that are looked at one by one.
const ENTRIES_MAX: usize = 64;

struct Bench {
    pool: Arc<Pool>,
    os: Arc<Objset>,
    inputs: u64,
}

impl Bench {
    fn new() -> Result<Bench> {
        let disk: Arc<dyn BlockDevice> = Arc::new(SimDisk::new(&SimLog::new(), 0, Image::new(DISK)));
        let pool = Layout::Single.create(vec![disk], "zap")?;
        let os = pool.dsl().root()?.objset()?;
        Ok(Bench { pool, os, inputs: 0 })
    }

    fn run(&mut self, block_size: u32, content: &[u8]) -> Result<()> {
        let tx = self.os.begin(8 << 20)?;
        let object =
            self.os.allocate(&tx, &Allocate::plain(ObjectType::DIRECTORY_CONTENTS, block_size))?.object();
        // Held anew, so that nothing is remembered of its first state.
        let made = self.os.hold(object)?;
        if !content.is_empty() {
            made.write(&tx, 0, content)?;
        }
        let outcome = exercise(&made, &tx);
        drop(made);
        self.os.free(&tx, object)?;
        drop(tx);
        self.inputs += 1;
        if self.inputs.is_multiple_of(SYNC_EVERY) {
            self.pool.sync().context("the pool that held the ZAPs")?;
        }
        outcome
    }
}

thread_local! {
    static BENCH: RefCell<Option<Bench>> = const { RefCell::new(None) };
}

pub(super) fn run(input: &[u8]) -> Result<()> {
    let Some((head, content)) = input.split_first_chunk::<2>() else { return Ok(()) };
    let mut block_size = (u32::from(u16::from_le_bytes(*head)) % 256 + 1) * 512;
    if content.len() > block_size as usize {
        block_size = block_size.next_power_of_two();
    }
    BENCH.with_borrow_mut(|bench| {
        let bench = match bench {
            Some(bench) => bench,
            none => none.insert(Bench::new()?),
        };
        bench.run(block_size, content)
    })
}

/// What is in it may be nonsense or an error; what is put in must be found again.
fn exercise(zap: &Arc<Dnode>, tx: &Tx) -> Result<()> {
    let words = zap::stats(zap).is_ok_and(|s| s.flags & zap::FLAG_UINT64_KEY != 0);
    let entries: Vec<_> = zap::iterate(zap, zap::COOKIE_START).take(1 << 16).collect();
    for entry in entries.iter().take(ENTRIES_MAX).flatten() {
        let key_words = entry.key_words();
        let key = if words { Key::Words(&key_words) } else { Key::Name(&entry.name) };
        let _ = (zap::lookup(zap, key), zap::lookup_name(zap, &entry.name, zap::Match::Folded));
        let _ = zap::iterate(zap, entry.cookie).next();
    }
    let _ = (zap::count(zap), zap::lookup(zap, "no such name"));
    for i in 0..8u64 {
        let (name, key_words) = (format!("added-{i}"), [i, 1]);
        let key = if words { Key::Words(&key_words) } else { Key::Name(name.as_bytes()) };
        let value = if i == 5 { Value::bytes(&[7; 300]) } else { Value::words(&[i + 1]) };
        if zap::add(zap, tx, key, &value).is_ok() {
            let key = if words { Key::Words(&key_words) } else { Key::Name(name.as_bytes()) };
            let found = zap::lookup(zap, key);
            ensure!(found.as_ref() == Ok(&value), "{name} was added and is {found:?}");
        }
    }
    for entry in entries.iter().take(ENTRIES_MAX).flatten().step_by(2) {
        let key_words = entry.key_words();
        let key = || if words { Key::Words(&key_words) } else { Key::Name(&entry.name) };
        let _ = (zap::update(zap, tx, key(), &Value::words(&[1])), zap::increment(zap, tx, key(), 1));
        let _ = zap::remove(zap, tx, key());
    }
    let _ = zap::entries(zap);
    Ok(())
}
