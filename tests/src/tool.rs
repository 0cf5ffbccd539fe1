//! Running the programs that tests drive: the built `tarn`, and `zdb` as the judge.

use anyhow::{Context, Result};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use zfs::ondisk::features::{FEATURES, Feature, LATER};
use zfs::spa::Pool;

/// The `tarn` to test: `TARN_BIN`, else the one beside the test binaries' target folder.
#[must_use]
pub fn tarn_path() -> PathBuf {
    if let Some(path) = std::env::var_os("TARN_BIN") {
        return path.into();
    }
    // target/<profile>/deps/<test> → target/<profile>/tarn
    let mut path = std::env::current_exe().unwrap_or_default();
    path.pop();
    path.pop();
    path.join("tarn")
}

/// A command that runs the built `tarn`.
#[must_use]
pub fn tarn() -> Command {
    Command::new(tarn_path())
}

/// Runs `tarn` and returns what it printed; an error, with its stderr, if it failed.
pub fn tarn_ok<S: AsRef<OsStr>>(args: &[S]) -> Result<String> {
    let output = tarn().args(args).output().with_context(|| format!("{}", tarn_path().display()))?;
    ok(&output, "tarn")
}

fn ok(output: &Output, what: &str) -> Result<String> {
    anyhow::ensure!(
        output.status.success(),
        "{what}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `zdb -e -p FOLDER -bcc POOL`: traverses and checksums everything and compares it with the space maps. `folder` must hold
/// nothing but the pool's disks. Fails on any error, leak or checksum failure.
pub fn zdb_check(folder: &Path, pool: &str) -> Result<String> {
    without_leaks(OsStr::new("zdb"), folder, pool)
}

fn without_leaks(program: &OsStr, folder: &Path, pool: &str) -> Result<String> {
    let text = zdb(program, folder, "-bcc", pool)?;
    anyhow::ensure!(text.contains("No leaks"), "{} did not say «No leaks»: {text}", program.display());
    Ok(text)
}

/// Which `zdb` understands a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zdb {
    /// That of OpenZFS 2.1, and every later one.
    Old,
    /// One that knows block cloning, 2.2 or later: that which `TARN_ZDB_NEWER` names. Where there is none, an old one reads every block, if
    /// it knows the rest, but does not compare what is allocated with what is referred to.
    Newer {
        /// Whether an old one can open it.
        old_opens: bool,
    },
    /// None that there is knows how the pool's space is used.
    ContentOnly {
        /// Whether an old one can open it.
        old_opens: bool,
    },
}

impl Zdb {
    /// The one that understands an open pool.
    #[must_use]
    pub fn of(pool: &Pool) -> Zdb {
        let active: Vec<&str> = FEATURES
            .iter()
            .map(|feature| feature.name)
            .filter(|name| {
                pool.get_property(&format!("feature@{name}")).is_ok_and(|(state, _)| state == "active")
            })
            .collect();
        let later = |f: &&Feature| f.flags & LATER != 0 && active.contains(&f.name);
        let old_opens = FEATURES.iter().filter(later).all(Feature::read_only_compatible);
        match (active.contains(&"block_cloning"), active.contains(&"block_cloning_endian")) {
            (true, true) => Zdb::ContentOnly { old_opens },
            (false, _) if old_opens => Zdb::Old,
            _ => Zdb::Newer { old_opens },
        }
    }

    /// What it says of the pool on the disks in `folder`, which must hold nothing else. Fails on any error, leak or checksum failure.
    pub fn check(self, folder: &Path, pool: &str) -> Result<String> {
        match (self, newer_zdb()) {
            (Zdb::Old, _) => zdb_check(folder, pool),
            (Zdb::Newer { .. }, Some(newer)) => without_leaks(&newer, folder, pool),
            // Not by one of 2.2 or 2.3: they stop at tables of references in a form that they do not know.
            (Zdb::Newer { old_opens: true }, None) | (Zdb::ContentOnly { old_opens: true }, _) => {
                zdb(OsStr::new("zdb"), folder, "-bccL", pool)
            }
            (Zdb::Newer { .. }, None) | (Zdb::ContentOnly { .. }, _) => {
                println!("LEFT OUT: there is no zdb that can open {pool} (TARN_ZDB_NEWER)");
                Ok(String::new())
            }
        }
    }

    /// `zdb -d`: no object of the MOS is there that nothing refers to.
    pub fn check_mos(self, folder: &Path, pool: &str) -> Result<()> {
        let program = match (self, newer_zdb()) {
            (Zdb::Old, _) => "zdb".into(),
            (_, Some(newer)) => newer,
            (_, None) => return Ok(()),
        };
        let output = Command::new(&program).args(["-e", "-p"]).arg(folder).args(["-d", pool]).output()?;
        let text = ok(&output, "zdb -d")? + &String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(!text.contains("leaked"), "zdb -d: {text}");
        Ok(())
    }
}

/// The `zdb` that `TARN_ZDB_NEWER` names.
fn newer_zdb() -> Option<OsString> {
    std::env::var_os("TARN_ZDB_NEWER")
}

fn zdb(program: &OsStr, folder: &Path, what: &str, pool: &str) -> Result<String> {
    let output = Command::new(program)
        .args(["-e", "-p"])
        .arg(folder)
        .args([what, pool])
        .output()
        .context("zdb (Debian package zfsutils-linux)")?;
    let text = ok(&output, "zdb")?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    for bad in ["leaked space", "block traversal size", "checksum error", "errored", "ASSERT", "unreachable"]
    {
        anyhow::ensure!(!errors.contains(bad) && !text.contains(&format!("{bad}:")), "zdb: {text}\n{errors}");
    }
    Ok(text)
}
