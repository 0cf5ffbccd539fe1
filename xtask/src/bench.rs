//! `cargo xtask bench`: each figure beside its peer, taken in the same run; written to `docs/benchmarks.md`.
//!
//! Nothing here passes or fails by a time. Every figure is the best of [`ROUNDS`] runs, the peers taking turns, so that a busy
//! moment of the machine does not fall on one of them alone.

use crate::build;
use crate::machine::{find, install_all, output, root, run, target};
use anyhow::{Context, Result, bail, ensure};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;
use testkit::rootfs;

const ROUNDS: usize = 3;
/// The tree must be at least so large, in bytes.
const TREE_MIN: u64 = 500 << 20;

struct Bench {
    tarn: PathBuf,
    folder: PathBuf,
    report: String,
}

/// The benchmarks.
pub(crate) fn run_bench(rest: &[String]) -> Result<()> {
    install_all()?;
    let kernel = build::kernel()?;
    let tarn = build::tarn()?;
    let folder = target().join("bench");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    let mut bench = Bench { tarn, folder, report: String::new() };
    bench.preface()?;
    let tree = match rest {
        [flag, tree] if flag == "--tree" => PathBuf::from(tree),
        [] => PathBuf::from("/usr/share"),
        _ => bail!("usage: cargo xtask bench [--tree DIR]"),
    };
    bench.images(&tree)?;
    bench.boot(&kernel)?;
    let path = root().join("docs/benchmarks.md");
    std::fs::write(&path, &bench.report)?;
    println!("{}\nwritten to {}", bench.report, path.display());
    Ok(())
}

/// Seconds of the fastest of the runs so far.
#[derive(Clone, Copy)]
struct Best(f64);

impl Best {
    const NONE: Best = Best(f64::INFINITY);

    fn time<T>(&mut self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let start = Instant::now();
        let value = work()?;
        self.0 = self.0.min(start.elapsed().as_secs_f64());
        Ok(value)
    }
}

impl Bench {
    fn preface(&mut self) -> Result<()> {
        let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpu
            .lines()
            .find_map(|l| l.strip_prefix("model name"))
            .unwrap_or("")
            .trim_start_matches([' ', '\t', ':']);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let commit =
            output(Command::new("git").current_dir(root()).args(["describe", "--always", "--dirty"]))?;
        write!(
            self.report,
            "# Benchmarks\n\nWritten by `cargo xtask bench` at commit {}. {cores} cores ({model}). Each figure is the best of {ROUNDS} \
             runs, the peers taking turns in the same run.\n",
            commit.trim()
        )?;
        Ok(())
    }

    /// Building an image of a real tree, and verifying the whole of it.
    fn images(&mut self, tree: &Path) -> Result<()> {
        let (files, bytes) = measure(tree)?;
        ensure!(bytes >= TREE_MIN, "{} holds {} MiB: too small, use --tree", tree.display(), bytes >> 20);
        println!("== images of {} ({files} files, {} MiB)", tree.display(), bytes >> 20);
        // Read once, so that all builders find the tree in the page cache.
        run(Command::new("tar").arg("-C").arg(tree).args(["-cf", "/dev/null", "--checkpoint=1000000", "."]))?;
        let pool = self.folder.join("pool");
        std::fs::create_dir_all(&pool)?;
        let size = format!("{}M", (bytes >> 20) * 3 / 2 + 512);
        let (ours, off) = (pool.join("tree.img"), self.folder.join("off.img"));
        let (ext4, squash) = (self.folder.join("tree.ext4"), self.folder.join("tree.squashfs"));
        let mut best = [Best::NONE; 4];
        for _ in 0..ROUNDS {
            for path in [&ours, &off, &ext4, &squash] {
                if path.exists() {
                    std::fs::remove_file(path)?;
                }
            }
            best[0].time(|| self.create(&ours, tree, &size, "lz4", "bench"))?;
            best[1].time(|| self.create(&off, tree, &size, "off", "benchoff"))?;
            if let Some(mke2fs) = find("mke2fs") {
                best[2].time(|| {
                    let mut command = Command::new(mke2fs);
                    run(command
                        .args(["-q", "-t", "ext4", "-d"])
                        .arg(tree)
                        .arg(&ext4)
                        .arg(&size)
                        .stdout(Stdio::null()))
                })?;
            }
            if let Some(mksquashfs) = find("mksquashfs") {
                best[3].time(|| {
                    let mut command = Command::new(mksquashfs);
                    let command =
                        command.arg(tree).arg(&squash).args(["-comp", "lz4", "-quiet", "-no-progress"]);
                    run(command.stdout(Stdio::null()))
                })?;
            }
        }
        let names = [
            "tarn create, lz4",
            "tarn create, compression off",
            "mke2fs -d (ext4, no compression)",
            "mksquashfs -comp lz4",
        ];
        writeln!(
            self.report,
            "\n## Image build: {files} files, {:.0} MiB (`{}`)\n",
            bytes as f64 / 1048576.0,
            tree.display()
        )?;
        writeln!(
            self.report,
            "| builder | seconds | files/s | MiB/s | tarn lz4's time ÷ its |\n|---|--:|--:|--:|--:|"
        )?;
        for (name, Best(seconds)) in names.iter().zip(best).filter(|(_, b)| b.0.is_finite()) {
            let (rate, mib) = (files as f64 / seconds, bytes as f64 / 1048576.0 / seconds);
            writeln!(
                self.report,
                "| {name} | {seconds:.2} | {rate:.0} | {mib:.0} | {:.2} |",
                best[0].0 / seconds
            )?;
        }
        self.verify(&pool, &ours, bytes)
    }

    fn create(&self, image: &Path, tree: &Path, size: &str, compression: &str, pool: &str) -> Result<()> {
        let mut create = Command::new(&self.tarn);
        create.arg("create").arg(image).arg("--from").arg(tree).args(["--size", size, "--pool", pool]);
        run(create
            .args(["-O", &format!("compression={compression}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null()))
    }

    fn verify(&mut self, pool: &Path, image: &Path, bytes: u64) -> Result<()> {
        println!("== verification");
        let (mut ours, mut zdb) = (Best::NONE, Best::NONE);
        for _ in 0..ROUNDS {
            ours.time(|| {
                let mut scrub = Command::new(&self.tarn);
                scrub.args(["zpool"]).arg("--disk").arg(image).args(["scrub", "--verify"]);
                run(scrub.stdout(Stdio::null()))
            })?;
            if let Some(program) = find("zdb") {
                zdb.time(|| {
                    let mut command = Command::new(program);
                    command.args(["-e", "-p"]).arg(pool).args(["-bcc", "bench"]);
                    run(command.stdout(Stdio::null()).stderr(Stdio::null()))
                })?;
            }
        }
        writeln!(
            self.report,
            "\n## Full verification of that lz4 pool (every copy of every block, and the space maps)\n"
        )?;
        writeln!(
            self.report,
            "| verifier | seconds | MiB/s of the tree | zdb's time ÷ its |\n|---|--:|--:|--:|"
        )?;
        for (name, Best(seconds)) in [("tarn zpool scrub --verify", ours), ("zdb -bcc", zdb)] {
            if seconds.is_finite() {
                let mib = bytes as f64 / 1048576.0 / seconds;
                writeln!(self.report, "| {name} | {seconds:.2} | {mib:.0} | {:.2} |", zdb.0 / seconds)?;
            }
        }
        Ok(())
    }

    /// Boot time to the application's first instruction and to its exit, kernel size, least memory.
    fn boot(&mut self, kernel: &Path) -> Result<()> {
        println!("== boot");
        let tree = self.folder.join("root");
        let guest = rootfs::sqlite(&tree)?;
        let image = self.folder.join("boot.img");
        self.create(&image, &tree, "256M", "lz4", "boot")?;
        let arguments = [guest.program.as_str(), ":memory:", "SELECT 'hello';"];
        let mut rows = Vec::new();
        for machine in ["q35", "pc", "microvm"] {
            let (mut first, mut wall) = (f64::INFINITY, Best::NONE);
            for _ in 0..ROUNDS {
                let text = wall.time(|| self.run(&image, machine, 256, &arguments))?;
                // «tarn: first instruction of /usr/bin/sqlite3 after 123.4 ms», since the kernel's first instruction.
                let after =
                    text.lines().find_map(|l| l.split("first instruction").nth(1)?.split("after ").nth(1));
                if let Some(ms) = after.and_then(|a| a.split(' ').next()?.parse::<f64>().ok()) {
                    first = first.min(ms);
                }
            }
            rows.push((machine, first, wall.0));
        }
        let mut least = 1024;
        for memory in [512, 256, 192, 128, 96, 64, 56, 48, 40, 32, 28, 24, 20, 16] {
            if self.run(&image, "q35", memory, &arguments).is_err() {
                break;
            }
            least = memory;
        }
        let size = kernel.metadata()?.len();
        writeln!(self.report, "\n## Boot of `sqlite3` from a ZFS root, 256 MiB, 1 CPU\n")?;
        writeln!(
            self.report,
            "| machine | kernel entry → application's first instruction | tool start → exit |\n|---|--:|--:|"
        )?;
        for (machine, first, wall) in rows {
            writeln!(self.report, "| {machine} | {first:.0} ms | {wall:.2} s |")?;
        }
        writeln!(
            self.report,
            "\nKernel `tarn.elf` with symbols: {:.2} MiB. Least memory that boots it: {least} MiB.",
            size as f64 / 1048576.0
        )?;
        writeln!(
            self.report,
            "\nThe accelerator is TCG where the CPU has no virtualisation: compare only within a table."
        )?;
        Ok(())
    }

    fn run(&self, image: &Path, machine: &str, memory: u32, arguments: &[&str]) -> Result<String> {
        let mut boot = Command::new("timeout");
        boot.arg("60").arg(&self.tarn).arg("run").arg(image).args([
            "--machine",
            machine,
            "--cpus",
            "1",
            "--verbose",
        ]);
        boot.args(["--memory", &format!("{memory}M"), "--"]).args(arguments);
        let text = output(&mut boot)?;
        ensure!(text.contains("hello"), "the guest did not say hello");
        Ok(text)
    }
}

/// Regular files and their bytes.
fn measure(tree: &Path) -> Result<(u64, u64)> {
    let list = output(Command::new("find").arg(tree).args(["-xdev", "-type", "f", "-printf", "%s\\n"]))?;
    let sizes = list.lines().map(|l| l.parse::<u64>().context("find's answer"));
    sizes.into_iter().try_fold((0, 0), |(n, sum), size| Ok((n + 1, sum + size?)))
}
