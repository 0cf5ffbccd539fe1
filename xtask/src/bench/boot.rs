//! The guest's boot: time to the application's first instruction and to its exit, kernel size, least memory.

use super::{Bench, Best, ROUNDS};
use crate::build::embedded_size;
use crate::machine::output;
use anyhow::{Context, Result, ensure};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use testkit::rootfs;

/// Memory sizes to try, in MiB, downwards until one does not boot.
const MEMORY: [u32; 20] = [512, 256, 192, 128, 96, 80, 64, 56, 48, 40, 36, 32, 28, 24, 20, 16, 14, 12, 10, 8];

impl Bench {
    /// All figures of the boot, as a part of the page.
    pub(super) fn boot(&self) -> Result<String> {
        println!("== boot");
        let tree = self.folder.join("root");
        let guest = rootfs::sqlite(&tree)?;
        let image = self.folder.join("boot.img");
        self.create(&image, &tree, "256M", "lz4", "boot")?;
        let arguments = [guest.program.as_str(), ":memory:", "SELECT 'hello';"];
        let mut text = String::new();
        writeln!(text, "\n## Boot of `sqlite3` from a ZFS root, 256 MiB, 1 CPU\n")?;
        writeln!(
            text,
            "| machine | kernel entry → application's first instruction | tool start → exit |\n|---|--:|--:|"
        )?;
        for machine in ["q35", "pc", "microvm"] {
            let (mut first, mut wall) = (Best::NONE, Best::NONE);
            for _ in 0..ROUNDS {
                let said = wall.time(|| self.run(&image, machine, 256, &arguments))?;
                first.note(
                    first_instruction(&said).context("the kernel did not say when the application began")?,
                );
            }
            writeln!(text, "| {machine} | {:.0} ms | {:.2} s |", first.0, wall.0)?;
        }
        let fits = |memory: &&u32| self.run(&image, "q35", **memory, &arguments).is_ok();
        let least = MEMORY.iter().take_while(fits).last().context("it boots with no size of memory")?;
        let (whole, embedded) =
            (self.kernel.metadata()?.len() as f64 / f64::from(1 << 20), embedded_size(&self.kernel)?);
        writeln!(
            text,
            "\nKernel inside `tarn`, with the functions' names: {embedded:.2} MiB (as linked, with line tables: {whole:.2} MiB). Least \
             memory that boots it: {least} MiB."
        )?;
        Ok(text)
    }

    fn run(&self, image: &Path, machine: &str, memory: u32, arguments: &[&str]) -> Result<String> {
        let mut boot = Command::new(&self.tarn);
        boot.arg("run").arg(image).args([
            "--machine",
            machine,
            "--cpus",
            "1",
            "--verbose",
            "--timeout",
            "60",
        ]);
        boot.args(["--memory", &format!("{memory}M"), "--"]).args(arguments);
        let text = output(&mut boot)?;
        ensure!(text.contains("hello"), "the guest did not say hello");
        Ok(text)
    }
}

/// Milliseconds since the kernel's own first instruction: «tarn: first instruction of /usr/bin/sqlite3 after 123.4 ms».
fn first_instruction(said: &str) -> Option<f64> {
    let after = said.lines().find_map(|l| l.split("first instruction").nth(1)?.split("after ").nth(1))?;
    after.split(' ').next()?.parse().ok()
}
