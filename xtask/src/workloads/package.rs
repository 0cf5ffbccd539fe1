//! Files of installed Debian packages.

use crate::machine::output;
use anyhow::{Context, Result};
use std::path::Path;
use std::process::Command;
use testkit::rootfs;

/// What only people read.
const LEFT_OUT: [&str; 4] = ["/usr/share/doc", "/usr/share/man", "/usr/share/lintian", "/usr/share/locale"];

/// Copies all files of `packages` to where they lie on this machine, links as the files they lead to, and the libraries
/// that the packages' own libraries need.
pub(super) fn add(root: &Path, packages: &[&str]) -> Result<()> {
    for package in packages {
        let list = output(Command::new("dpkg").args(["-L", package]))?;
        let files = list.lines().filter(|line| !LEFT_OUT.iter().any(|folder| line.starts_with(folder)));
        for path in files.map(Path::new).filter(|path| path.is_file()) {
            if path.extension().is_some_and(|end| end == "so") {
                rootfs::program(path, root)?;
            } else {
                let to = root.join(path.strip_prefix("/")?);
                std::fs::create_dir_all(to.parent().context("a file lies in a folder")?)?;
                std::fs::copy(path, &to).with_context(|| path.display().to_string())?;
            }
        }
    }
    Ok(())
}
