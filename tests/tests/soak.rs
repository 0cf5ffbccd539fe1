//! Ten thousand random operations on whole pools against their models, with exports and imports between; see [`tests::soak`].
//! `cargo xtask soak` goes on for longer, on all layouts.

use tests::layout::Layout;
use tests::model::seed;
use tests::soak::Soak;

/// Layouts that differ in how they write: whole copies, parity, permuted parity, classes of vdevs.
const LAYOUTS: [Layout; 4] = [Layout::Single, Layout::Raidz1, Layout::Draid, Layout::Mixed];
const ROUNDS: u64 = 4;
const OPERATIONS: u64 = 640;

#[test]
fn ten_thousand_operations_leave_what_the_model_holds() {
    const { assert!(LAYOUTS.len() as u64 * ROUNDS * OPERATIONS >= 10_000) };
    let seed = seed();
    // The seed tells the features of the pool, too: each run has them all.
    for (layout, n) in LAYOUTS.into_iter().zip(0..) {
        let mut soak = Soak::new(layout, seed.wrapping_add(n)).unwrap();
        for _ in 0..ROUNDS {
            if let Err(error) = soak.round(OPERATIONS) {
                panic!("{error:#}");
            }
        }
    }
}
