//! Running the programs that tests drive: the built `tarn`, and `zdb` as the judge.

use anyhow::{Context, Result};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
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
    /// One that knows block cloning, 2.2 or later: that which `TARN_ZDB_NEWER` names. Where there is none, and for forms that are newer
    /// still, an old one reads every block, but does not compare what is allocated with what is referred to.
    Newer,
    /// None that there is knows how the pool's space is used.
    ContentOnly,
}

impl Zdb {
    /// The one that understands an open pool.
    #[must_use]
    pub fn of(pool: &Pool) -> Zdb {
        let active = |name: &str| {
            pool.get_property(&format!("feature@{name}")).is_ok_and(|(state, _)| state == "active")
        };
        match (active("block_cloning"), active("block_cloning_endian")) {
            (false, _) => Zdb::Old,
            (true, false) => Zdb::Newer,
            (true, true) => Zdb::ContentOnly,
        }
    }

    /// What it says of the pool on the disks in `folder`, which must hold nothing else. Fails on any error, leak or checksum failure.
    pub fn check(self, folder: &Path, pool: &str) -> Result<String> {
        match (self, std::env::var_os("TARN_ZDB_NEWER")) {
            (Zdb::Old, _) => zdb_check(folder, pool),
            (Zdb::Newer, Some(newer)) => without_leaks(&newer, folder, pool),
            (Zdb::Newer, None) | (Zdb::ContentOnly, _) => zdb(OsStr::new("zdb"), folder, "-bccL", pool),
        }
    }
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
