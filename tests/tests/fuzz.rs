//! Damaged bytes: each of the engine's fuzz targets for a moment; `cargo xtask fuzz` goes on for as long as one likes.

use tests::fuzz::{Fuzzer, TARGETS};
use tests::model::seed;

/// Inputs of a parser, and of a whole pool.
const INPUTS: u64 = 400;
const POOLS: u64 = 10;

#[test]
fn parsers_and_pools_bear_damaged_bytes() {
    let seed = seed();
    for target in &TARGETS {
        let fuzzer = Fuzzer::new(target, seed).unwrap();
        let count = if target.name.starts_with("pool") { POOLS } else { INPUTS };
        for n in 0..count {
            if let Err(error) = fuzzer.run(n) {
                panic!(
                    "cargo xtask fuzz --target {} --seed {seed} --from {n} --count 1: {error:#}",
                    target.name
                );
            }
        }
    }
}
