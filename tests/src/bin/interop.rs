//! `cargo xtask interop`'s second part on one layout: started by xtask, which has OpenZFS's guest ready.
//!
//! `interop ORACLE FOLDER LAYOUT ROUNDS SEED`

use anyhow::{Context, Result, bail};
use std::process::ExitCode;
use tests::interop::Campaign;
use tests::layout::Layout;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match campaign(&args).and_then(|campaign| campaign.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("interop: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn campaign(args: &[String]) -> Result<Campaign> {
    let [oracle, folder, layout, rounds, seed] = args else {
        bail!("usage: interop ORACLE FOLDER LAYOUT ROUNDS SEED")
    };
    Ok(Campaign {
        layout: Layout::parse(layout)?,
        rounds: rounds.parse().context("ROUNDS")?,
        seed: seed.parse().context("SEED")?,
        oracle: oracle.into(),
        folder: folder.into(),
    })
}
