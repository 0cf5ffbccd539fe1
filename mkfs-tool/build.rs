//! Builds the kernel and hands its path to the tool, which embeds it.
//!
//! The kernel is built by a cargo of its own, in a target folder of its own: one cargo invocation would unify the host's
//! features (`std`) with the kernel's, and wait for its own lock.
//!
//! `TARN_KERNEL=FILE` embeds a kernel that is already built; `TARN_KERNEL=` (empty) embeds none, which is quick and
//! enough for everything but `tarn run`.

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

include!("../kernel/tools/symbols.rs");

const TARGET: &str = "x86_64-unknown-linux-gnu";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-env-changed=TARN_KERNEL");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=../kernel/tools/symbols.rs");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("..");
    let kernel = match env::var_os("TARN_KERNEL") {
        Some(path) if path.is_empty() => None,
        Some(path) => {
            println!("cargo:rerun-if-changed={}", Path::new(&path).display());
            Some(PathBuf::from(path))
        }
        None if root.join("kernel/Cargo.toml").exists() => Some(build(&root, &out)?),
        None => None,
    };
    // A copy under one name: the source can say `include_bytes!` whether or not there is a kernel.
    let embedded = out.join("embedded-kernel");
    match kernel {
        Some(path) => {
            let elf = std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            // A kernel that has been through this already has no sections any more, and is embedded as it is.
            std::fs::write(&embedded, add_symbols(&elf).unwrap_or(elf))?;
        }
        None => std::fs::write(&embedded, [])?,
    }
    Ok(())
}

/// Builds `kernel/` in release mode; the path of its ELF file.
fn build(root: &Path, out: &Path) -> Result<PathBuf, Box<dyn Error>> {
    for layer in ["kernel", "platform", "zfs", "vfs", "net"] {
        println!("cargo:rerun-if-changed={}", root.join(layer).display());
    }
    println!("cargo:rerun-if-changed={}", root.join("Cargo.toml").display());
    let folder = out.join("kernel-target");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(root.join("kernel"))
        .args(["build", "--release", "--target", TARGET, "--target-dir"])
        .arg(&folder);
    for (name, _) in env::vars_os() {
        let name_text = name.to_string_lossy();
        let ours = ["CARGO_FEATURE_", "CARGO_CFG_", "CARGO_PKG_", "CARGO_BIN_", "CARGO_MANIFEST_"];
        let exact = ["CARGO_ENCODED_RUSTFLAGS", "RUSTFLAGS", "CARGO_TARGET_DIR", "RUSTC_WORKSPACE_WRAPPER"];
        if ours.iter().any(|prefix| name_text.starts_with(prefix)) || exact.contains(&&*name_text) {
            cargo.env_remove(&name);
        }
    }
    let status = cargo.status()?;
    if !status.success() {
        return Err(format!("building the kernel failed: {status}").into());
    }
    let release = folder.join(TARGET).join("release");
    let built = ["tarn.elf", "kernel"].map(|name| release.join(name)).into_iter().find(|path| path.is_file());
    built.ok_or_else(|| format!("the kernel's build left no tarn.elf in {}", release.display()).into())
}
