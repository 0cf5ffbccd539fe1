//! Running the programs that tests drive: the built `tarn`, and `zdb` as the judge.

use anyhow::{Context, Result};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

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
    let text = zdb(folder, "-bcc", pool)?;
    anyhow::ensure!(text.contains("No leaks"), "zdb did not say «No leaks»: {text}");
    Ok(text)
}

/// The same of a pool whose blocks are shared: what is allocated is not compared with what is referred to.
pub fn zdb_check_shared(folder: &Path, pool: &str) -> Result<String> {
    zdb(folder, "-bccL", pool)
}

fn zdb(folder: &Path, what: &str, pool: &str) -> Result<String> {
    let output = Command::new("zdb")
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
