//! Building: the kernel, then the tool that carries it.

use crate::machine::{bring_up_to_date, cargo, root, run, target};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// Builds the kernel on its own (its features must not be unified with the host tool's) and returns its path; `TARN_KERNEL`
/// names one that is built already.
pub(crate) fn kernel() -> Result<PathBuf> {
    if let Some(built) = std::env::var_os("TARN_KERNEL").filter(|path| !path.is_empty()) {
        return Ok(built.into());
    }
    let folder = target().join("kernel");
    let mut command = cargo();
    command
        .current_dir(root().join("kernel"))
        .args(["build", "--release", "--target", "x86_64-unknown-linux-gnu", "--target-dir"])
        .arg(&folder);
    run(&mut command)?;
    let built = folder.join("x86_64-unknown-linux-gnu/release/kernel");
    let elf = folder.join("tarn.elf");
    // Left as it is if nothing changed: a newer file would have the tool built again.
    bring_up_to_date(&built, &elf)?;
    Ok(elf)
}

/// How the tool's build strips a kernel and adds its symbols.
mod symbols {
    include!("../../kernel/tools/symbols.rs");

    /// The kernel as `tarn` carries it.
    pub(super) fn embedded(elf: &[u8]) -> Result<Vec<u8>, String> {
        add_symbols(elf)
    }
}

/// Size of a kernel as `tarn` carries it, in MiB: without line tables, with the functions' names for backtraces.
pub(crate) fn embedded_size(kernel: &Path) -> Result<f64> {
    let elf = std::fs::read(kernel).with_context(|| kernel.display().to_string())?;
    // A kernel that was stripped already has no sections left to do it by.
    let size = symbols::embedded(&elf).map_or(elf.len(), |embedded| embedded.len());
    Ok(size as f64 / f64::from(1 << 20))
}

/// Builds `tarn` in release mode with the kernel inside and returns its path; `TARN_BIN` names one that is built already.
pub(crate) fn tarn() -> Result<PathBuf> {
    if let Some(built) = std::env::var_os("TARN_BIN").filter(|path| !path.is_empty()) {
        return Ok(built.into());
    }
    let kernel = kernel()?;
    run(cargo().args(["build", "--release", "--package", "mkfs-tool"]).env("TARN_KERNEL", kernel))?;
    Ok(target().join("release/tarn"))
}
