//! A guest that serves `guest-checks`' echo service at port 7000.

use crate::tool::{tarn, tarn_ok};
use anyhow::{Context, Result, ensure};
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::thread::JoinHandle;
use tempfile::TempDir;
use testkit::rootfs;

/// The program in the guest.
pub const CHECKS: &str = "/usr/bin/guest-checks";

/// A folder with an image in it whose only program is `guest-checks`.
pub fn image() -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    let root = folder.path().join("root");
    for dir in ["usr/bin", "tmp", "etc", "dev", "proc", "run"] {
        std::fs::create_dir_all(root.join(dir))?;
    }
    std::fs::copy(rootfs::workload("guest-checks")?, root.join(&CHECKS[1..]))?;
    std::fs::create_dir(folder.path().join("disk"))?;
    let root = root.to_string_lossy();
    tarn_ok(&["create", &path(&folder), "--from", &root, "--pool", "guest", "--size", "256M"])?;
    Ok(folder)
}

/// The image; it is alone in its folder.
#[must_use]
pub fn path(folder: &TempDir) -> String {
    folder.path().join("disk/guest.img").to_string_lossy().into_owned()
}

/// A running guest.
pub struct Server {
    child: Child,
    /// What it printed until it served.
    pub boot: String,
    /// Shows what the guest prints, and gives it at the guest's end.
    console: JoinHandle<String>,
}

impl Server {
    /// Boots the image with further options of `tarn run`, until it serves.
    pub fn boot(folder: &TempDir, options: &[&str]) -> Result<Self> {
        let mut run = tarn();
        run.args(["run", &path(folder), "--memory", "128M", "--timeout", "120"])
            .args(options)
            .args(["--", CHECKS, "serve"]);
        let mut child = run.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let mut console = BufReader::new(child.stdout.take().context("no console")?);
        let (mut line, mut boot) = (String::new(), String::new());
        while line.trim() != "serving" {
            boot.push_str(&line);
            line.clear();
            if console.read_line(&mut line)? == 0 {
                anyhow::bail!("the guest ended: {}", child.wait()?);
            }
            print!("guest: {line}");
        }
        let console = std::thread::spawn(move || {
            let mut all = String::new();
            for line in console.lines().map_while(Result::ok) {
                println!("guest: {line}");
                all.push_str(&line);
                all.push('\n');
            }
            all
        });
        Ok(Server { child, boot, console })
    }

    /// Waits for the end, which must be a good one; what the guest has printed since it served.
    pub fn finish(mut self) -> Result<String> {
        let rest = self.console.join().unwrap_or_default();
        let status = self.child.wait()?;
        ensure!(status.success() && rest.contains("serve: ok"), "the guest ended with {status}: {rest}");
        Ok(rest)
    }
}
