//! File-system workloads in a guest of Tarn and in one of Linux with OpenZFS: the same QEMU, the same memory and processors, the
//! same static program (`tests/workloads/guest-bench`), turn by turn, on copies of the same image, which `tarn create` built.
//!
//! All of it is done twice: on a pool with a tenth of a real tree in it, and on one with all of the tree. Taking and destroying snapshots,
//! a txg and its flushes each, takes longer than the rest together, and is done in the first round only.

use super::figures::{Comparison, Side};
use super::{Bench, copy_some, measure, set_recordsize};
use crate::interop::Oracle;
use crate::machine::{copy_image, output, run};
use anyhow::{Context, Result};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use testkit::rootfs;

const MEMORY: &str = "1024";
const CPUS: &str = "2";
/// Seconds for each figure of the workload that runs for a while.
const SECONDS: &str = "4";
const PROGRAM: &str = "guest-bench";
const POOL: &str = "bench";
/// Seconds after which one run of a guest is given up.
const PATIENCE: &str = "1200";
/// Bytes of the tree that are used at most.
const TREE_MAX: u64 = 300_000_000;
/// File systems, and snapshots of each, in the pool with 10,000 snapshots.
const MANY: (usize, usize) = (100, 100);

/// What is done in one boot after the other, and the record size of what is written in it.
fn boots(snapshots: usize) -> [(&'static str, String); 3] {
    let snapshots = if snapshots > 0 { format!("snapshots={snapshots} ") } else { String::new() };
    [
        ("128K", format!("sequential files {snapshots}leave")),
        ("128K", "cold".to_owned()),
        ("8K", "random".to_owned()),
    ]
}

/// How often, and how much.
#[derive(Clone, Copy)]
pub(super) struct Counts {
    /// Turns of each guest.
    pub(super) rounds: usize,
    /// Snapshots that are taken and destroyed.
    pub(super) snapshots: usize,
}

impl Default for Counts {
    fn default() -> Self {
        Counts { rounds: 2, snapshots: 1000 }
    }
}

/// Milliseconds that Tarn's kernel says it took: «tarn: pool bench imported in 12.3 ms».
fn import_time(said: &str) -> Option<f64> {
    said.lines().find_map(|l| l.split(" imported in ").nth(1)?.split(' ').next()?.parse().ok())
}

impl Bench {
    pub(super) fn guest(&self, tree: &Path, counts: Counts) -> Result<String> {
        let oracle = Oracle::prepare()?;
        let program = rootfs::workload(PROGRAM)?;
        let share = self.folder.join("share");
        std::fs::create_dir_all(&share)?;
        std::fs::copy(&program, share.join(PROGRAM))?;
        let all = measure(tree)?.1.min(TREE_MAX);
        let mut sizes = Vec::new();
        for budget in [all / 10, all] {
            println!("== guests on a pool with {} MB in it", budget / 1_000_000);
            let image = self.image(tree, budget, &program)?;
            let mut figures = Comparison::default();
            for round in 0..counts.rounds {
                println!("== round {} of {}", round + 1, counts.rounds);
                let boots = boots(if round == 0 { counts.snapshots } else { 0 });
                let copy = self.copy(&image)?;
                for (record, parts) in &boots {
                    set_recordsize(&self.tarn, &copy, POOL, record)?;
                    figures.collect(Side::Tarn, &self.in_tarn(&copy, parts)?)?;
                }
                let copy = self.copy(&image)?;
                figures.collect(Side::Linux, &self.in_linux(&oracle, &share, &copy, &boots)?)?;
            }
            sizes.push((budget, figures));
        }
        if let Some((_, figures)) = sizes.last_mut() {
            self.many_snapshots(&oracle, &share, counts.rounds, figures)?;
        }
        Ok(page(&sizes, counts))
    }

    /// Builds the image that both start from.
    fn image(&self, tree: &Path, budget: u64, program: &Path) -> Result<PathBuf> {
        let root = self.folder.join("guest-root");
        if root.exists() {
            std::fs::remove_dir_all(&root)?;
        }
        for folder in ["usr/bin", "data", "dev", "proc", "tmp"] {
            std::fs::create_dir_all(root.join(folder))?;
        }
        std::fs::copy(program, root.join("usr/bin").join(PROGRAM))?;
        copy_some(tree, &root.join("tree"), budget)?;
        let image = self.folder.join("guest.img");
        let mut create = Command::new(&self.tarn);
        create.arg("create").arg(&image).arg("--force").arg("--from").arg(&root).args(["--size", "3G", "-q"]);
        output(create.args(["--pool", POOL, "-O", "compression=off", "-O", "atime=off"]))?;
        std::fs::remove_dir_all(&root)?;
        Ok(image)
    }

    fn copy(&self, image: &Path) -> Result<PathBuf> {
        let copy = self.folder.join("guest-copy.img");
        copy_image(image, &copy)?;
        Ok(copy)
    }

    fn in_tarn(&self, image: &Path, parts: &str) -> Result<String> {
        let mut boot = Command::new(&self.tarn);
        boot.arg("run").arg(image).args(["--memory", &format!("{MEMORY}M"), "--cpus", CPUS, "--verbose"]);
        boot.args(["--timeout", PATIENCE, "--", &format!("/usr/bin/{PROGRAM}"), "/data", SECONDS])
            .args(parts.split_whitespace());
        output(boot.stdin(Stdio::null()))
    }

    /// What Linux does before the program runs: the pool is imported and mounted at `/bench`.
    fn linux_script(&self, body: &str) -> String {
        format!(
            ". lib.sh\nset -e\ncp /share/{PROGRAM} /{PROGRAM}\n\
             up() {{ zpool import -f -N -d $D {POOL}; zfs set mountpoint=/bench {POOL}/root; \
             zfs mount {POOL}/root 2>/dev/null || mountpoint -q /bench; }}\nup\n{body}\nzpool export {POOL}\n"
        )
    }

    fn linux(&self, oracle: &Oracle, share: &Path, image: &Path, body: &str) -> Result<String> {
        let script = share.join("bench.sh");
        std::fs::write(&script, self.linux_script(body))?;
        let options =
            ["-m", MEMORY, "-c", CPUS, "-C", "writeback", "-t", PATIENCE, "-z", "zfs_admin_snapshot=1"];
        oracle.run(&options, share, &script, image)
    }

    fn in_linux(
        &self,
        oracle: &Oracle,
        share: &Path,
        image: &Path,
        boots: &[(&str, String)],
    ) -> Result<String> {
        let boots: Vec<String> = boots
            .iter()
            .map(|(record, parts)| {
                format!("zfs set recordsize={record} {POOL}/root\n/{PROGRAM} /bench/data {SECONDS} {parts}")
            })
            .collect();
        self.linux(oracle, share, image, &boots.join(&format!("\nzpool export {POOL}\nup\n")))
    }

    /// Import of a pool with 10,000 snapshots, beside the import of one without.
    fn many_snapshots(
        &self,
        oracle: &Oracle,
        share: &Path,
        rounds: usize,
        figures: &mut Comparison,
    ) -> Result<()> {
        println!("== import of a pool with 10,000 snapshots");
        let image = self.folder.join("guest.img");
        for name in ["import", "import with 10,000 snapshots"] {
            if name != "import" {
                self.take_many(&image)?;
            }
            for _ in 0..rounds {
                let said = self.in_tarn(&image, "")?;
                let took = import_time(&said).context("the kernel did not say how long it took")?;
                figures.note(Side::Tarn, name, took, "ms");
                let copy = self.copy(&image)?;
                let clock = "$(awk '{print int($1 * 1000)}' /proc/uptime)";
                let body = format!(
                    "zpool export {POOL}\na={clock}\nzpool import -f -N -d $D {POOL}\n\
                     printf '{name}\\t%d\\tms\\n' $(({clock} - a))"
                );
                figures.collect(Side::Linux, &self.linux(oracle, share, &copy, &body)?)?;
            }
        }
        Ok(())
    }
}

impl Bench {
    /// Makes the pool one with many snapshots: of many file systems, as one has at most one snapshot in a txg.
    fn take_many(&self, image: &Path) -> Result<()> {
        let zfs = |words: &[&str]| {
            run(Command::new(&self.tarn)
                .arg("zfs")
                .arg("--disk")
                .arg(image)
                .args(words)
                .stdout(Stdio::null()))
        };
        let many = format!("{POOL}/many");
        zfs(&["create", "-o", "canmount=off", &many])?;
        for i in 1..MANY.0 {
            zfs(&["create", "-o", "canmount=off", &format!("{many}/fs{i:03}")])?;
        }
        (0..MANY.1).try_for_each(|i| zfs(&["snapshot", "-r", &format!("{many}@s{i:03}")]))
    }
}

fn page(sizes: &[(u64, Comparison)], counts: Counts) -> String {
    let mut text = format!(
        "## File systems in a guest: {CPUS} processors, {MEMORY} MiB, TCG, compression off\n\n\
         A ratio above 1: Tarn is faster. 8 KiB workloads use 8 KiB records, everything else the default of 128 KiB. The better of {} runs each; \
         {} snapshots, once.\n",
        counts.rounds, counts.snapshots
    );
    for (bytes, figures) in sizes {
        let _ = write!(
            text,
            "\n### On a pool that holds {} MB of files\n\n{}",
            bytes / 1_000_000,
            figures.table()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_how_long_the_import_took() {
        assert_eq!(import_time("x\n[info] pool bench imported in 12.5 ms\n"), Some(12.5));
    }
}
