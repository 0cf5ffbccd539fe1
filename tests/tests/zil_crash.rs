//! Power cuts: what was synced is there after the next import, whatever the disk lost of the rest.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use platform::block::{BlockDevice, BlockInfo, Op, Request};
use platform::mem::MemDisk;
use platform::sync::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use tests::model::{Model, Rng, compare_except, create_pool, import_pool, mount_root, step};

enum Event {
    Write(u64, bytes::Bytes),
    Flush,
}

/// A disk that remembers what was done to it, in order.
struct Recorder {
    disk: MemDisk,
    events: Mutex<Vec<Event>>,
}

impl BlockDevice for Recorder {
    fn info(&self) -> BlockInfo {
        self.disk.info()
    }

    fn submit(&self, request: Request) {
        match &request.op {
            Op::Write { offset, data } => self.events.lock().push(Event::Write(*offset, data.clone())),
            Op::Flush => self.events.lock().push(Event::Flush),
            _ => {}
        }
        self.disk.submit(request);
    }
}

/// The disk as it may be if the power goes after `cut` events: of what was not flushed, some writes are lost and some torn.
fn cut_image(base: &[u8], events: &[Event], cut: usize, rng: &mut Rng) -> Vec<u8> {
    let mut image = base.to_vec();
    let flushed = events[..cut].iter().rposition(|e| matches!(e, Event::Flush)).unwrap_or(0);
    for (i, event) in events[..cut].iter().enumerate() {
        let Event::Write(offset, data) = event else { continue };
        let mut len = data.len();
        if i > flushed {
            match rng.below(4) {
                0 => len = 0,
                1 => len = rng.below(data.len() as u64 / 512 + 1) as usize * 512,
                _ => {}
            }
        }
        let at = *offset as usize;
        image[at..at + len].copy_from_slice(&data[..len]);
    }
    image
}

fn run(seed: u64, properties: &[(&str, &str)], operations: usize, cuts: usize) {
    println!("TARN_SEED={seed}");
    let mut rng = Rng::new(seed);
    let recorder = Arc::new(Recorder { disk: MemDisk::new(96 << 20), events: Mutex::new(Vec::new()) });
    let device: Arc<dyn BlockDevice> = Arc::<Recorder>::clone(&recorder);
    let pool = create_pool(vec![device], "crash", properties);
    let fs = mount_root(&pool);
    let mut model = Model::default();
    for _ in 0..30 {
        step(&fs, &mut model, &mut rng);
    }
    fs.sync().unwrap();
    pool.sync().unwrap();
    let base = recorder.disk.contents();
    recorder.events.lock().clear();
    // After which event which state was promised.
    let mut promises = vec![(0, model.clone())];
    for i in 0..operations {
        step(&fs, &mut model, &mut rng);
        fs.sync().unwrap();
        promises.push((recorder.events.lock().len(), model.clone()));
        if i % 25 == 24 {
            pool.sync().unwrap();
        }
    }
    let events = recorder.events.lock();
    println!("{} events", events.len());
    for i in 0..cuts {
        // Right behind a promise, or anywhere.
        let cut = if i % 2 == 0 {
            promises[rng.below(promises.len() as u64) as usize].0
        } else {
            rng.below(events.len() as u64 + 1) as usize
        };
        let image = cut_image(&base, &events, cut, &mut rng);
        let promised = promises.iter().rposition(|(at, _)| *at <= cut).unwrap();
        check(image, cut, &promises[promised..(promised + 2).min(promises.len())]);
    }
}

/// The file system must be in the last state that was promised; but what was being done may be done, or half done.
fn check(image: Vec<u8>, cut: usize, states: &[(usize, Model)]) {
    let disk = Arc::new(MemDisk::from_vec(image));
    let device: Arc<dyn BlockDevice> = Arc::<MemDisk>::clone(&disk);
    let pool = import_pool(vec![Arc::clone(&device)]);
    let fs = mount_root(&pool);
    let at_work = match states {
        [(at, promised), (_, next)] if *at < cut => promised.differing(next),
        _ => BTreeSet::new(),
    };
    if let Err(e) = compare_except(&fs, &states[0].1, &at_work) {
        panic!("cut after {cut} events (promised at {}): {e}", states[0].0);
    }
    fs.unmount().unwrap();
    pool.export().unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("disk0.img"), disk.contents()).unwrap();
    tests::tool::zdb_check(folder.path(), "crash").unwrap();
}

fn seed() -> u64 {
    std::env::var("TARN_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64
    })
}

#[test]
fn every_sync_survives_power_cuts() {
    run(seed(), &[], 80, 12);
}

#[test]
fn every_sync_survives_power_cuts_with_sa_xattrs() {
    run(seed() + 1, &[("xattr", "sa"), ("recordsize", "8K")], 60, 8);
}
