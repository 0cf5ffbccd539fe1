//! Power cuts by the thousand on simulated disks; see [`tests::sim`]. `cargo xtask sim` does many more.

use tests::layout::Layout;
use tests::model::seed;
use tests::sim::{Plan, Run, campaign};

#[test]
fn no_promise_is_broken_by_a_power_cut() {
    let seed = seed();
    for layout in [Layout::Single, Layout::Stripe] {
        match campaign(layout, 40, seed, 20, 100) {
            Ok((runs, cuts)) => println!("{}: {runs} runs, {cuts} cuts", layout.name()),
            Err(failure) => panic!("{failure}"),
        }
    }
}

/// Disks change places all the time, one step after the other: every moment of it is cut.
#[test]
fn devices_change_places_under_power_cuts() {
    let seed = seed();
    for layout in [Layout::Single, Layout::Mirror, Layout::Raidz1] {
        let plan = Plan { swap: true, ..Plan::new(seed, layout, 40) };
        let run = Run::record(&plan).unwrap_or_else(|e| panic!("seed {seed}, {}: {e:#}", layout.name()));
        match run.check(30, seed) {
            Ok(cuts) => println!("{}: {cuts} cuts", layout.name()),
            Err(failure) => panic!("{failure}"),
        }
    }
}

/// Disks forget what they are told to be free: that must never be what a state on them refers to.
#[test]
fn free_space_is_trimmed_under_power_cuts() {
    let seed = seed();
    for layout in [Layout::Single, Layout::Raidz2, Layout::Draid] {
        let plan = Plan { trim: true, swap: false, ..Plan::new(seed, layout, 40) };
        let run = Run::record(&plan).unwrap_or_else(|e| panic!("seed {seed}, {}: {e:#}", layout.name()));
        match run.check(30, seed) {
            Ok(cuts) => println!("{}: {cuts} cuts", layout.name()),
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
