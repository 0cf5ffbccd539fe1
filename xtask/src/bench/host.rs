//! The tool beside its peers on the host: building images, verifying pools, copying a large file out.

use super::cachefile::cachefile;
use super::{Bench, Best, ROUNDS, copy_some, measure};
use crate::machine::{find, run};
use anyhow::{Context, Result, ensure};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// The tree must be at least so large, in bytes.
const TREE_MIN: u64 = 500_000_000;
/// The pool that is verified holds at least so many bytes of files.
const POOL_MIN: u64 = 1_000_000_000;
/// Real files to fill it with, until they are enough.
const REAL_FILES: [&str; 6] =
    ["/usr/bin", "/usr/include", "/usr/libexec", "/usr/sbin", "/usr/lib/x86_64-linux-gnu", "/usr/lib"];

impl Bench {
    /// Building an image of a real tree.
    pub(super) fn images(&self, tree: &Path) -> Result<String> {
        let (files, bytes) = measure(tree)?;
        ensure!(
            bytes >= TREE_MIN,
            "{} holds {} MB: too small, use --tree",
            tree.display(),
            bytes / 1_000_000
        );
        println!("== images of {} ({files} files, {} MB)", tree.display(), bytes / 1_000_000);
        // Read once, so that all builders find the tree in the page cache.
        run(Command::new("tar").arg("-C").arg(tree).args(["-cf", "/dev/zero", "."]).stderr(Stdio::null()))?;
        let size = image_size(bytes);
        let paths = ["lz4.img", "off.img", "tree.ext4", "tree.squashfs"].map(|name| self.folder.join(name));
        let [lz4, off, ext4, squash] = &paths;
        let mut best = [Best::NONE; 4];
        for _ in 0..ROUNDS {
            remove(&paths)?;
            best[0].time(|| self.create(lz4, tree, &size, "lz4", "bench"))?;
            best[1].time(|| self.create(off, tree, &size, "off", "benchoff"))?;
            if let Some(mke2fs) = find("mke2fs") {
                let mut command = Command::new(mke2fs);
                command.args(["-q", "-t", "ext4", "-d"]).arg(tree).arg(ext4).arg(&size);
                best[2].time(|| run(command.stdout(Stdio::null())))?;
            }
            if let Some(mksquashfs) = find("mksquashfs") {
                let mut command = Command::new(mksquashfs);
                command.arg(tree).arg(squash).args(["-comp", "lz4", "-quiet", "-no-progress"]);
                best[3].time(|| run(command.stdout(Stdio::null())))?;
            }
        }
        remove(&paths)?;
        let names = [
            "`tarn create`, lz4",
            "`tarn create`, compression off",
            "`mke2fs -d` (ext4, which does not compress)",
            "`mksquashfs -comp lz4` (read-only)",
        ];
        let mib = mib(bytes);
        let mut text = String::new();
        writeln!(text, "\n## Image build: {files} files, {mib:.0} MiB (`{}`)\n", tree.display())?;
        writeln!(
            text,
            "| builder | seconds | files/s | MiB/s | tarn lz4's time ÷ its |\n|---|--:|--:|--:|--:|"
        )?;
        for (name, Best(seconds)) in names.iter().zip(best).filter(|(_, b)| b.0.is_finite()) {
            let (rate, flow) = (files as f64 / seconds, mib / seconds);
            writeln!(text, "| {name} | {seconds:.2} | {rate:.0} | {flow:.0} | {:.2} |", best[0].0 / seconds)?;
        }
        Ok(text)
    }

    /// Verifying a pool of a gigabyte of real files.
    pub(super) fn verification(&self, tree: &Path) -> Result<String> {
        let corpus = self.folder.join("files");
        let bytes = Self::collect(tree, &corpus)?;
        println!("== verification of {} MB", bytes / 1_000_000);
        let pool = self.folder.join("pool");
        std::fs::create_dir_all(&pool)?;
        let image = pool.join("verify.img");
        self.create(&image, &corpus, &image_size(bytes), "lz4", "verify")?;
        std::fs::remove_dir_all(&corpus)?;
        let (mut ours, mut result, mut exit) = (Best::NONE, Best::NONE, Best::NONE);
        for _ in 0..ROUNDS {
            let mut scrub = Command::new(&self.tarn);
            scrub.arg("zpool").arg("--disk").arg(&image).args(["scrub", "--verify", "-q"]);
            ours.time(|| run(scrub.stdout(Stdio::null())))?;
            if let Some(zdb) = find("zdb") {
                let mut command = unbuffered(&zdb);
                command.args(["-e", "-p"]).arg(&pool).args(["-bcc", "verify"]);
                let (last_word, end) = times(&mut command)?;
                result.note(last_word);
                exit.note(end);
            }
        }
        remove(&[image])?;
        let mib = mib(bytes);
        let mut text = String::new();
        writeln!(text, "\n## Full verification of an lz4 pool with {mib:.0} MiB of real files\n")?;
        writeln!(
            text,
            "Every copy of every block is read and checked, and the space maps are compared with what is referred to.\n"
        )?;
        writeln!(text, "| verifier | seconds | MiB/s of the files | its time ÷ tarn's |\n|---|--:|--:|--:|")?;
        let rows = [
            ("`tarn zpool scrub --verify`", ours),
            ("`zdb -bcc`, until it has printed its result", result),
            ("`zdb -bcc`, until it ends (it lingers in its cache's end)", exit),
        ];
        for (name, Best(seconds)) in rows.iter().filter(|(_, b)| b.0.is_finite()) {
            writeln!(text, "| {name} | {seconds:.2} | {:.0} | {:.2} |", mib / seconds, seconds / ours.0)?;
        }
        Ok(text)
    }

    /// Gathers at least [`POOL_MIN`] bytes of the machine's files in `to`; how many there are.
    fn collect(tree: &Path, to: &Path) -> Result<u64> {
        let mut bytes = 0;
        for (n, from) in std::iter::once(tree).chain(REAL_FILES.map(Path::new)).enumerate() {
            if bytes >= POOL_MIN || !from.is_dir() {
                continue;
            }
            // A budget, not the whole folder: /usr/lib may be many times what is wanted.
            bytes += copy_some(from, &to.join(n.to_string()), POOL_MIN - bytes)?;
        }
        ensure!(bytes >= POOL_MIN, "this machine has only {bytes} bytes of files to verify");
        Ok(bytes)
    }

    /// Copying one large file out: a tar of the tree.
    pub(super) fn copying(&self, tree: &Path) -> Result<String> {
        let source = self.folder.join("large");
        std::fs::create_dir_all(&source)?;
        let file = source.join("tree.tar");
        run(Command::new("tar").arg("-C").arg(tree).arg("-cf").arg(&file).arg("."))?;
        let bytes = file.metadata()?.len();
        println!("== one file of {} MB", bytes / 1_000_000);
        let pool = self.folder.join("pool");
        std::fs::create_dir_all(&pool)?;
        let image = pool.join("copy.img");
        self.create(&image, &source, &image_size(bytes), "lz4", "copy")?;
        let out = self.folder.join("out");
        // `zdb -r` knows no `-e`: it wants a pool that is in use, and in a cachefile.
        let cache = self.folder.join("zpool.cache");
        cachefile(&image, &cache)?;
        let (mut ours, mut zdb) = (Best::NONE, Best::NONE);
        for _ in 0..ROUNDS {
            let mut cp = Command::new(&self.tarn);
            cp.args(["cp", "-q", "-f"]).arg(format!("{}:/tree.tar", image.display())).arg(&out);
            ours.time(|| run(&mut cp))?;
            same(&file, &out)?;
            if let Some(program) = find("zdb") {
                remove(std::slice::from_ref(&out))?;
                let mut command = Command::new(program);
                command.arg("-U").arg(&cache).args(["-r", "copy/root", "tree.tar"]).arg(&out);
                zdb.time(|| run(command.stdout(Stdio::null())))?;
                same(&file, &out)?;
            }
        }
        remove(&[image, out, cache])?;
        std::fs::remove_dir_all(&source)?;
        let mib = mib(bytes);
        let mut text = String::new();
        writeln!(text, "\n## One file of {mib:.0} MiB out of an lz4 pool\n")?;
        writeln!(text, "| program | seconds | MiB/s | its time ÷ tarn's |\n|---|--:|--:|--:|")?;
        for (name, Best(seconds)) in [("`tarn cp`", ours), ("`zdb -r`", zdb)] {
            if seconds.is_finite() {
                writeln!(text, "| {name} | {seconds:.2} | {:.0} | {:.2} |", mib / seconds, seconds / ours.0)?;
            }
        }
        Ok(text)
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Enough for files of so many bytes, as `--size` wants it.
fn image_size(bytes: u64) -> String {
    format!("{}M", (bytes >> 20) * 3 / 2 + 512)
}

/// Removes those of the files that there are.
fn remove(paths: &[PathBuf]) -> Result<()> {
    paths.iter().filter(|p| p.exists()).try_for_each(|p| std::fs::remove_file(p).map_err(Into::into))
}

fn same(want: &Path, found: &Path) -> Result<()> {
    run(Command::new("cmp").arg("--quiet").arg(want).arg(found))
}

/// A program that gives out each line at once although its output is a pipe.
fn unbuffered(program: &Path) -> Command {
    let mut command = Command::new("stdbuf");
    command.arg("-oL").arg(program);
    command
}

/// Runs a command: seconds until the last line that it printed, and until it ended.
fn times(command: &mut Command) -> Result<(f64, f64)> {
    let start = Instant::now();
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut last = 0.0;
    for line in BufReader::new(child.stdout.take().context("a pipe was asked for")?).lines() {
        line?;
        last = start.elapsed().as_secs_f64();
    }
    ensure!(child.wait()?.success(), "{} failed", command.get_program().to_string_lossy());
    Ok((last, start.elapsed().as_secs_f64()))
}
