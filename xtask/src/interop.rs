//! `cargo xtask interop`: real OpenZFS, in a Linux guest, judges what Tarn wrote.
//!
//! **Images.** A tree of at least [`FILES_MIN`] real files becomes an lz4 image. OpenZFS imports a copy of it, mounts and hashes every
//! file, and scrubs it; every hash must equal the source's. Then Tarn's own guest boots from the image and writes to it, and
//! OpenZFS judges again: what was not touched must still equal the source, what was written must equal what `tarn cat` reads.
//!
//! **Turns.** On each vdev layout Tarn and OpenZFS take turns in writing to one pool, with random operations; each time the other
//! side, and `zdb`, must find nothing wrong and read the same (`tests::interop`).

use crate::build;
use crate::machine::{bring_up_to_date, cargo, copy_image, install_all, is_root, output, root, run, target};
use anyhow::{Context, Result, anyhow, bail, ensure};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};
use testkit::rootfs;
use testkit::sums::{SPARSE_LIMIT, sparse_sha256};

const FILES_MIN: usize = 20_000;
const POOL: &str = "interop";
const DATASET: &str = "interop/root";

/// SHA-256 of regular files by their path from the root, `/usr/share/…`.
type Sums = BTreeMap<String, String>;

/// The layouts on which turns are taken (`tests::layout`).
const LAYOUTS: [&str; 9] =
    ["single", "stripe", "mirror", "raidz1", "raidz2", "raidz3", "draid", "log", "special"];
/// Turns on each.
const ROUNDS: u64 = 10;
/// Turns on each in `cargo xtask test` …
const ROUNDS_IN_TEST: u64 = 2;
/// … and their seed: always the same, as the campaign is there to try others.
const SEED_IN_TEST: u64 = 1;

/// Seconds that the guest may take to be built.
const BUILD_LIMIT: &str = "1500";

/// What was asked for.
struct Options {
    tree: PathBuf,
    images: bool,
    layouts: Vec<String>,
    rounds: u64,
    seed: u64,
}

impl Options {
    /// Without `--layout` and `--images` everything is done.
    fn parse(words: &[String]) -> Result<Self> {
        const USAGE: &str =
            "usage: cargo xtask interop [--images [--tree DIR]] [--layout LAYOUT]… [--rounds N] [--seed N]";
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |d| d.as_secs());
        let tree = PathBuf::from("/usr/share");
        let mut options = Options { tree, images: false, layouts: Vec::new(), rounds: ROUNDS, seed: now };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().context(USAGE);
            match word.as_str() {
                "--images" => options.images = true,
                "--tree" => (options.tree, options.images) = (PathBuf::from(value()?), true),
                "--layout" => options.layouts.push(value()?.clone()),
                "--rounds" => options.rounds = value()?.parse().context("--rounds")?,
                "--seed" => options.seed = value()?.parse().context("--seed")?,
                _ => bail!(USAGE),
            }
        }
        if !options.images && options.layouts.is_empty() {
            options.images = true;
            options.layouts = LAYOUTS.map(str::to_owned).to_vec();
        }
        Ok(options)
    }
}

/// The campaign.
pub(crate) fn run_interop(rest: &[String]) -> Result<()> {
    let options = Options::parse(rest)?;
    install_all()?;
    let oracle = Oracle::prepare()?;
    let folder = empty_folder()?;
    if options.images {
        images(&options.tree, &oracle, &folder)?;
    }
    turns(&options, &oracle, &folder)
}

/// The part of the campaign that belongs to `cargo xtask test`. Where OpenZFS's guest cannot be had, for want of root, of the package
/// archive or of time, it says so and leaves the turns out.
pub(crate) fn run_in_test() -> Result<()> {
    let built = cached_guest().is_some() || target().join("oracle/cache").join(GUEST).is_file();
    let oracle = match built || is_root() {
        true => Oracle::prepare(),
        false => Err(anyhow!("building it installs packages, for which this is not root")),
    };
    let oracle = match oracle {
        Ok(oracle) => oracle,
        Err(error) => {
            println!("LEFT OUT: OpenZFS checks nothing in this run, its guest could not be built: {error:#}");
            return Ok(());
        }
    };
    let (rounds, seed) = (ROUNDS_IN_TEST, SEED_IN_TEST);
    turns(&Options { images: false, rounds, seed, ..Options::parse(&[])? }, &oracle, &empty_folder()?)
}

/// Where the pools are made.
fn empty_folder() -> Result<PathBuf> {
    let folder = target().join("interop");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Tarn and OpenZFS take turns. A layout that fails does not keep the others from being tried.
fn turns(options: &Options, oracle: &Oracle, folder: &Path) -> Result<()> {
    if options.layouts.is_empty() {
        return Ok(());
    }
    // With the features that the whole workspace asks for: else what the tests were built of is built again.
    run(cargo().args(["build", "--quiet", "--workspace", "--bin", "interop"]))?;
    let next = AtomicUsize::new(0);
    // As many at a time as there are cores: a guest is one process of one processor.
    let work = || {
        let mut failed = Vec::new();
        while let Some(layout) = options.layouts.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut campaign = Command::new(target().join("debug/interop"));
            campaign.arg(&oracle.0).arg(folder.join(layout)).arg(layout);
            let outcome = run(campaign.args([options.rounds.to_string(), options.seed.to_string()]));
            // What failed stays to be looked at.
            if outcome.and_then(|()| Ok(std::fs::remove_dir_all(folder.join(layout))?)).is_err() {
                failed.push(layout.as_str());
            }
        }
        failed
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let failed: Vec<&str> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap_or_else(|_| vec!["a panic"])).collect()
    });
    ensure!(failed.is_empty(), "failed on {}; the disks are in {}", failed.join(", "), folder.display());
    println!("== {} layouts, {} rounds each: all equal on both sides", options.layouts.len(), options.rounds);
    Ok(())
}

/// A large tree as an image, and what the guest wrote to it.
fn images(tree: &Path, oracle: &Oracle, folder: &Path) -> Result<()> {
    let tarn = build::tarn()?;
    let source = folder.join("root");
    let sqlite = rootfs::sqlite(&source)?;
    std::fs::create_dir_all(source.join("tree"))?;
    run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(tree.join(".")).arg(source.join("tree")))?;
    let want = sums(&source)?;
    ensure!(
        want.len() >= FILES_MIN,
        "{} files in {}: at least {FILES_MIN} are needed",
        want.len(),
        tree.display()
    );

    let image = folder.join("interop.img");
    let mut create = Command::new(&tarn);
    create.arg("create").arg(&image).arg("--from").arg(&source).args(["--pool", POOL, "--size", "3G"]);
    run(create.args(["-O", "compression=lz4"]))?;
    println!("== OpenZFS judges the image of {} files as built", want.len());
    let found = oracle.judge(&image, &folder.join("built"))?;
    compare(&want, &found, &[])?;
    println!("== all {} SHA-256 sums equal the source", want.len());

    println!("== Tarn's guest writes");
    let sql = "PRAGMA synchronous=FULL; CREATE TABLE t(v); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE \
               i<5000) INSERT INTO t SELECT hex(randomblob(100)) FROM n; SELECT count(*) FROM t; PRAGMA integrity_check;";
    let mut boot = Command::new(&tarn);
    boot.arg("run").arg(&image).args([
        "--memory",
        "256M",
        "--cpus",
        "2",
        "--",
        &sqlite.program,
        "/data/interop.db",
        sql,
    ]);
    let said = output(boot.stdin(Stdio::null()))?;
    ensure!(said.contains("5000") && said.lines().any(|l| l.trim() == "ok"), "the guest said:\n{said}");
    println!("== OpenZFS judges the image after the guest wrote");
    let found = oracle.judge(&image, &folder.join("written"))?;
    compare(&want, &found, &["/data/interop.db"])?;
    let ours = sha256_of(&tarn, &image, "/data/interop.db")?;
    ensure!(
        found.get("/data/interop.db") == Some(&ours),
        "the database as OpenZFS reads it differs from what tarn reads"
    );
    println!("== all sums equal the source, and the database that the guest wrote equals on both sides");
    Ok(())
}

/// Every file of `want` is in `found` with the same sum, and `found` has nothing else but `written`.
fn compare(want: &Sums, found: &Sums, written: &[&str]) -> Result<()> {
    for (path, sum) in want {
        ensure!(
            found.get(path) == Some(sum),
            "{path}: the source has {sum}, OpenZFS reads {:?}",
            found.get(path)
        );
    }
    for path in found.keys() {
        ensure!(
            want.contains_key(path) || written.contains(&path.as_str()),
            "{path} is in the image but not in the source"
        );
    }
    Ok(())
}

fn sums(folder: &Path) -> Result<Sums> {
    // One process at a time: two would write into the middle of each other's lines.
    let find = "find . -type f -print0 | xargs -0 sha256sum -z";
    let text = output(Command::new("sh").arg("-c").arg(find).current_dir(folder))?;
    let line = |l: &str| {
        let (sum, path) = l.split_once("  ").context("sha256sum's answer")?;
        Ok((path.trim_start_matches('.').to_owned(), sum.to_owned()))
    };
    let mut sums: Sums = text.split('\0').filter(|l| !l.is_empty()).map(line).collect::<Result<_>>()?;
    // Of large files OpenZFS's guest says another sum.
    for (path, sum) in &mut sums {
        let file = folder.join(path.trim_start_matches('/'));
        if file.metadata()?.len() > SPARSE_LIMIT {
            *sum = sparse_sha256(&file)?;
        }
    }
    Ok(sums)
}

fn sha256_of(tarn: &Path, image: &Path, path: &str) -> Result<String> {
    let mut cat = Command::new(tarn);
    let mut cat = cat.arg("cat").arg(format!("{}:{path}", image.display())).stdout(Stdio::piped()).spawn()?;
    let content = cat.stdout.take().context("a pipe was asked for")?;
    let text = output(Command::new("sha256sum").stdin(content))?;
    ensure!(cat.wait()?.success(), "tarn cat failed");
    Ok(text.split_whitespace().next().unwrap_or_default().to_owned())
}

/// The result of an earlier build of OpenZFS's guest.
const GUEST: &str = "oracle-guest.tar.zst";

/// An earlier build of the guest: a file, or the folder it lies in, that `TARN_ORACLE_CACHE` names.
fn cached_guest() -> Option<PathBuf> {
    let cache = std::env::var_os("TARN_ORACLE_CACHE").filter(|path| !path.is_empty()).map(PathBuf::from)?;
    let file = if cache.is_dir() { cache.join(GUEST) } else { cache };
    file.is_file().then_some(file)
}

/// The Linux guest with OpenZFS.
pub(crate) struct Oracle(PathBuf);

impl Oracle {
    /// Builds it, unless it is built already. What is as it should be is left alone: another run may be using it.
    pub(crate) fn prepare() -> Result<Self> {
        let home = target().join("oracle");
        bring_up_to_date(&root().join("tests/oracle"), &home)?;
        std::fs::create_dir_all(home.join("cache"))?;
        if let Some(cache) = cached_guest() {
            bring_up_to_date(&cache, &home.join("cache").join(GUEST))?;
        }
        println!("== preparing OpenZFS's guest (about 10 minutes the first time)");
        run(Command::new("timeout").arg(BUILD_LIMIT).arg(home.join("build-oracle")))?;
        Ok(Oracle(home))
    }

    /// The same kernel with an initial file system that mounts the root of a pool and runs a server from it (`build-servers`): the kernel,
    /// and that file system.
    pub(crate) fn servers(&self) -> Result<(PathBuf, PathBuf)> {
        run(Command::new("timeout").arg(BUILD_LIMIT).arg(self.0.join("build-servers")))?;
        let guest = self.0.join("guest");
        Ok((guest.join("vmlinux"), guest.join("servers.cpio")))
    }

    /// Runs a script in the guest, with `image` as its disk and `share` at `/share`; what it printed.
    pub(crate) fn run(&self, options: &[&str], share: &Path, script: &Path, image: &Path) -> Result<String> {
        let mut oracle = Command::new(self.0.join("oracle"));
        oracle.current_dir(&self.0).arg("run").args(options).arg("-s").arg(share);
        output(oracle.arg(script).arg(image).stdin(Stdio::null()))
    }

    /// Lets `zdb` and then the real OpenZFS check a copy of `image`; the sums of all files it found.
    fn judge(&self, image: &Path, out: &Path) -> Result<Sums> {
        std::fs::create_dir_all(out)?;
        // The guest writes to what it imports.
        let copy = out.join("copy.img");
        copy_image(image, &copy)?;
        let mut check = Command::new(self.0.join("check-pool"));
        run(check.arg(out).arg(&copy).env("ORACLE_OPTS", "-t 3000"))?;
        std::fs::remove_file(&copy)?;
        let status = std::fs::read_to_string(out.join(format!("check/{POOL}.zpool-status.txt")))?;
        ensure!(
            status.contains("scrub repaired 0B") && status.contains("with 0 errors"),
            "OpenZFS's scrub:\n{status}"
        );
        manifest(&std::fs::read_to_string(out.join(format!("check/{POOL}.files.jsonl")))?)
    }
}

/// The sums of a manifest's regular files in [`DATASET`].
fn manifest(text: &str) -> Result<Sums> {
    let mut sums = Sums::new();
    let mut inside = false;
    for line in text.lines() {
        let value: serde_json::Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        if let Some(dataset) = value["dataset"].as_str() {
            inside = dataset == DATASET;
        } else if let (true, Some(path), Some(sum)) =
            (inside, value["path"].as_str(), value["sha256"].as_str().or(value["sparse_sha256"].as_str()))
        {
            sums.insert(path.to_owned(), sum.to_owned());
        }
    }
    Ok(sums)
}
