//! Power cuts by the thousand on simulated disks; see [`tests::sim`]. `cargo xtask sim` does many more.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{SystemTime, UNIX_EPOCH};
use tests::layout::Layout;
use tests::sim::{Plan, Run, campaign};

/// `TARN_SEED` repeats a run.
fn seed() -> u64 {
    let seed = std::env::var("TARN_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
    });
    println!("TARN_SEED={seed}");
    seed
}

#[test]
fn no_promise_is_broken_by_a_power_cut() {
    for layout in Layout::available().unwrap() {
        match campaign(layout, 60, seed(), 30, 120) {
            Ok((runs, cuts)) => println!("{}: {runs} runs, {cuts} cuts", layout.name()),
            Err(failure) => panic!("{failure}"),
        }
    }
}

/// The same seed gives the same writes.
#[test]
fn a_run_can_be_repeated() {
    let plan = Plan { reorder: false, ..Plan::new(1, Layout::Single, 60) };
    let moments: Vec<usize> = (0..2).map(|_| Run::record(&plan).unwrap().moments()).collect();
    assert_eq!(moments[0], moments[1]);
}
