//! `cargo xtask bench`: each figure beside its peer, taken in the same run; written to `docs/benchmarks.md`.
//!
//! Nothing here passes or fails by a time. Every figure is the best of [`ROUNDS`] runs, the peers taking turns, so that a busy
//! moment of the machine does not fall on one of them alone. Each group of figures has its own section of the page, and a run
//! replaces only the sections that it took.

mod boot;
mod cachefile;
mod figures;
mod guest;
mod host;
mod servers;

use crate::build;
use crate::machine::{install_all, install_peers, output, root, run, target};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

const ROUNDS: usize = 3;
const TITLE: &str = "# Benchmarks\n\nWritten by `cargo xtask bench`. The accelerator of the virtual machines is TCG where the CPU has no \
                     virtualisation: compare only within a table.\n";

/// New files of the pool's root file system get this record size.
fn set_recordsize(tarn: &Path, image: &Path, pool: &str, size: &str) -> Result<()> {
    let mut set = Command::new(tarn);
    set.arg("zfs").arg("--disk").arg(image).args(["set", &format!("recordsize={size}")]);
    run(set.arg(format!("{pool}/root")).stdout(Stdio::null()))
}

/// What the groups share.
struct Bench {
    tarn: PathBuf,
    kernel: PathBuf,
    folder: PathBuf,
}

/// The benchmarks.
pub(crate) fn run_bench(rest: &[String]) -> Result<()> {
    let mut tree = PathBuf::from("/usr/share");
    let (mut host, mut boot, mut guest, mut servers) = (false, false, false, false);
    let (mut rounds, mut only) = (None, None);
    let mut counts = guest::Counts::default();
    let mut words = rest.iter();
    while let Some(word) = words.next() {
        match (word.as_str(), words.as_slice().first()) {
            ("--tree", Some(dir)) => {
                tree = PathBuf::from(dir);
                words.next();
            }
            ("--rounds", Some(n)) => {
                rounds = Some(n.parse::<usize>().context("--rounds")?.max(1));
                words.next();
            }
            ("--snapshots", Some(n)) => {
                counts.snapshots = n.parse().context("--snapshots")?;
                words.next();
            }
            ("--host", _) => host = true,
            ("--boot", _) => boot = true,
            ("--guest", _) => guest = true,
            ("--servers", _) => servers = true,
            ("--only", Some(load)) => {
                servers::check_name(load)?;
                (servers, only) = (true, Some(load.as_str()));
                words.next();
            }
            _ => bail!(
                "usage: cargo xtask bench [--host] [--boot] [--guest [--snapshots N]] [--servers [--only LOAD]] [--rounds N] [--tree DIR]"
            ),
        }
    }
    counts.rounds = rounds.unwrap_or(counts.rounds);
    // The guests need a Linux with OpenZFS, which takes 10 minutes to build: only when asked for.
    let all = !host && !boot && !guest && !servers;
    install_all()?;
    install_peers()?;
    let kernel = build::kernel()?;
    let tarn = build::tarn()?;
    let linux = servers.then(servers::Linux::prepare).transpose()?;
    if servers && let Some(status) = servers::enter(&tarn, &kernel)? {
        ensure!(status.success(), "bench failed");
        return Ok(());
    }
    let folder = target().join("bench");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    let bench = Bench { tarn, kernel, folder };
    if all || host {
        publish("build", &bench.images(&tree)?, ROUNDS)?;
        publish("verification", &bench.verification(&tree)?, ROUNDS)?;
        publish("copying", &bench.copying(&tree)?, ROUNDS)?;
    }
    if all || boot {
        publish("boot", &bench.boot()?, ROUNDS)?;
    }
    if guest {
        publish("guest", &bench.guest(&tree, counts)?, counts.rounds)?;
    }
    if let Some(linux) = linux {
        let rounds = rounds.unwrap_or(ROUNDS);
        let text = bench.servers(linux, rounds, only)?;
        match only {
            Some(_) => println!("{text}"),
            None => publish("servers", &text, rounds)?,
        }
    }
    std::fs::remove_dir_all(&bench.folder)?;
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
        self.note(start.elapsed().as_secs_f64());
        Ok(value)
    }

    fn note(&mut self, seconds: f64) {
        self.0 = self.0.min(seconds);
    }
}

impl Bench {
    /// Builds an image of `tree` without a word.
    fn create(&self, image: &Path, tree: &Path, size: &str, compression: &str, pool: &str) -> Result<()> {
        let mut create = Command::new(&self.tarn);
        create.arg("create").arg(image).arg("--from").arg(tree).args(["--size", size, "--pool", pool, "-q"]);
        run(create.args(["-O", &format!("compression={compression}")]).stdout(Stdio::null()))
    }
}

/// What was measured, and where.
fn provenance(runs: usize) -> Result<String> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|l| l.strip_prefix("model name"))
        .unwrap_or("")
        .trim_start_matches([' ', '\t', ':']);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let git = |args: &[&str]| output(Command::new("git").current_dir(root()).args(args));
    let commit = git(&["describe", "--always"])?;
    // The page that this is written to changes with each section.
    let changed = git(&["status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs/benchmarks.md"])?;
    let dirty = if changed.trim().is_empty() { "" } else { "-dirty" };
    Ok(format!(
        "\nTaken at commit {}{dirty} on {cores} cores ({model}); each figure is the best of {runs} runs.\n",
        commit.trim()
    ))
}

/// Regular files of a tree and their bytes.
fn measure(tree: &Path) -> Result<(u64, u64)> {
    let list = output(Command::new("find").arg(tree).args(["-xdev", "-type", "f", "-printf", "%s\\n"]))?;
    let sizes = list.lines().map(|l| l.parse::<u64>().context("find's answer"));
    sizes.into_iter().try_fold((0, 0), |(n, sum), size| Ok((n + 1, sum + size?)))
}

/// Copies files of `from` to `to`, one after the other as `find` lists them, until there are `budget` bytes; how many there are.
fn copy_some(from: &Path, to: &Path, budget: u64) -> Result<u64> {
    std::fs::create_dir_all(to)?;
    let list = output(Command::new("find").arg(from).args(["-xdev", "-type", "f", "-printf", "%s %P\\0"]))?;
    let (mut names, mut bytes) = (Vec::new(), 0);
    for entry in list.split('\0').filter(|e| !e.is_empty()) {
        let (size, name) = entry.split_once(' ').context("find's answer")?;
        bytes += size.parse::<u64>().context("find's answer")?;
        names.push(name);
        if bytes >= budget {
            break;
        }
    }
    let list = to.join(".list");
    std::fs::write(&list, names.join("\0"))?;
    let script = "cd \"$1\" && xargs -0 cp -a --parents --reflink=auto -t \"$2\" < \"$3\"";
    run(Command::new("sh").args(["-c", script, "sh"]).arg(from).arg(to).arg(&list))?;
    std::fs::remove_file(list)?;
    Ok(bytes)
}

/// Puts a section into the page, in the place of its predecessor: at once, so that a failure costs no figures.
fn publish(section: &str, text: &str, runs: usize) -> Result<()> {
    let text = format!("{}{}", text.trim_start(), provenance(runs)?);
    let path = root().join("docs/benchmarks.md");
    let page = std::fs::read_to_string(&path).unwrap_or_default();
    std::fs::write(&path, replace_section(&page, section, &text))?;
    println!("{text}\nwritten to {}", path.display());
    Ok(())
}

fn replace_section(page: &str, section: &str, text: &str) -> String {
    let (begin, end) = (format!("<!-- {section} -->\n"), format!("<!-- end of {section} -->\n"));
    let new = format!("{begin}\n{text}\n{end}");
    let page = if page.starts_with(TITLE) { page } else { TITLE };
    match (page.split_once(&begin), page.split_once(&end)) {
        (Some((before, _)), Some((_, after))) => format!("{before}{new}{after}"),
        _ => format!("{page}\n{new}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_replaces_only_its_predecessor() {
        let page = replace_section("an older page", "a", "one\n");
        let page = replace_section(&page, "b", "two\n");
        assert!(page.starts_with(TITLE) && page.contains("one") && page.contains("two"));
        let page = replace_section(&page, "a", "three\n");
        assert!(!page.contains("one") && page.contains("two") && page.contains("three"), "{page}");
        assert!(page.find("three") < page.find("two"));
        assert_eq!(page, replace_section(&page, "a", "three\n"));
    }
}
