//! Power cuts: the VM is killed with SIGKILL while SQLite commits, at random moments, again and again on one image.
//!
//! A row counts as committed when the guest has printed so, which it does after the COMMIT returned. Every such row must be
//! there after the next boot, `PRAGMA integrity_check` must say ok, and `zdb -bcc` must find nothing wrong with the pool.
//! `TARN_POWERCUT_RUNS` sets how many kills there are (both journal modes together), `TARN_SEED` repeats a run.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use platform::random::{Random, Seeded};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use testkit::rootfs;
use tests::tool::{tarn, tarn_ok, zdb_check};

const DATABASE: &str = "/data/cut.db";
const POOL: &str = "cut";
/// Statements in the workload script: more than a machine can commit before it is killed.
const SCRIPT_ROWS: u32 = 20_000;
/// A kill comes after at most so many further commits, plus a random part of [`MAX_DELAY_MS`].
const MAX_COMMITS: u64 = 40;
const MAX_DELAY_MS: u64 = 60;

#[derive(Clone, Copy, Debug)]
enum Journal {
    Wal,
    Delete,
}

impl Journal {
    fn pragma(self) -> &'static str {
        match self {
            Journal::Wal => "WAL",
            Journal::Delete => "DELETE",
        }
    }

    /// With a rollback journal the commit *is* the removal of the journal, and SQLite syncs the directory after that only when
    /// asked for EXTRA: with FULL it promises consistency, not the last row.
    fn synchronous(self) -> &'static str {
        match self {
            Journal::Wal => "FULL",
            Journal::Delete => "EXTRA",
        }
    }
}

fn env_number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn no_committed_row_is_lost() {
    let seed = env_number("TARN_SEED").unwrap_or_else(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64 & 0xffff_ffff)
    });
    let runs = env_number("TARN_POWERCUT_RUNS").unwrap_or(25);
    println!("TARN_SEED={seed} TARN_POWERCUT_RUNS={runs}");
    let random = Seeded::new(seed);
    for (journal, runs) in [(Journal::Wal, runs.div_ceil(2)), (Journal::Delete, runs / 2)] {
        let folder = tempfile::tempdir().unwrap();
        let mut machine = Machine::build(folder.path(), journal);
        for run in 0..runs {
            let commits = random.next_u64() % MAX_COMMITS;
            let delay = Duration::from_millis(random.next_u64() % MAX_DELAY_MS);
            machine.commit_until_killed(commits, delay);
            println!("{journal:?} run {run}: killed {delay:?} after row {}", machine.committed);
            machine.check();
        }
        zdb_check(&machine.folder, POOL).unwrap();
    }
}

struct Machine {
    folder: PathBuf,
    image: PathBuf,
    program: String,
    committed: u64,
}

impl Machine {
    fn build(work: &Path, journal: Journal) -> Self {
        let root = work.join("root");
        let sqlite = rootfs::sqlite(&root).unwrap();
        let mut script = format!(
            "PRAGMA journal_mode={}; PRAGMA synchronous={};\n\
             CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, v TEXT);\n",
            journal.pragma(),
            journal.synchronous()
        );
        for _ in 0..SCRIPT_ROWS {
            script.push_str(
                "INSERT INTO t(v) SELECT 'row '||(coalesce(max(id),0)+1) FROM t;\n\
                 SELECT 'committed '||max(id) FROM t;\n",
            );
        }
        std::fs::write(root.join("work.sql"), script).unwrap();
        let folder = work.join("disk");
        std::fs::create_dir(&folder).unwrap();
        let image = folder.join("cut.img");
        let (image_arg, root_arg) = (image.to_string_lossy(), root.to_string_lossy());
        tarn_ok(&["create", &image_arg, "--from", &root_arg, "--size", "512M", "--pool", POOL]).unwrap();
        zdb_check(&folder, POOL).unwrap();
        Machine { folder, image, program: sqlite.program, committed: 0 }
    }

    fn boot(&self, statements: &str) -> Command {
        let mut boot = tarn();
        boot.arg("run").arg(&self.image).args(["--memory", "256M", "--cpus", "2", "--"]);
        boot.args([&self.program, DATABASE, statements]);
        boot
    }

    /// Lets the guest commit rows until `commits` more are reported and `delay` has passed, then kills the machine.
    fn commit_until_killed(&mut self, commits: u64, delay: Duration) {
        let mut boot = self.boot(".read /work.sql");
        // A process group of its own, so that one signal reaches the tool and its QEMU in the same moment.
        let mut child = boot.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut heard = Vec::new();
        let goal = self.committed + commits;
        while self.committed < goal || heard.is_empty() {
            let Some(Ok(line)) = lines.next() else {
                panic!("the guest ended before it was killed; it said:\n{}", heard.join("\n"));
            };
            self.note(&line);
            heard.push(line);
        }
        std::thread::sleep(delay);
        kill_group(&mut child);
        // What was printed before the cut counts, even if it was still on its way.
        for line in lines.map_while(Result::ok) {
            self.note(&line);
        }
    }

    fn note(&mut self, line: &str) {
        // A line that the cut tore off may hold a shortened number: only «committed N» after a newline counts, and lines()
        // gives the unterminated rest as a line, too. A shortened number is smaller, so it never claims too much.
        if let Some(id) = line.trim().strip_prefix("committed ").and_then(|n| n.parse().ok()) {
            self.committed = self.committed.max(id);
        }
    }

    fn check(&self) {
        let sql = format!(
            "PRAGMA integrity_check; SELECT 'kept '||count(*) FROM t WHERE id<={} AND v='row '||id;",
            self.committed
        );
        // The cut may come before the table exists.
        let sql = if self.committed == 0 { "PRAGMA integrity_check;".to_owned() } else { sql };
        let output = self.boot(&sql).stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "{}\n{text}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(text.lines().any(|l| l.trim() == "ok"), "integrity_check: {text}");
        if self.committed > 0 {
            let kept = format!("kept {}", self.committed);
            assert!(text.lines().any(|l| l.trim() == kept), "wanted «{kept}»: {text}");
        }
    }
}

fn kill_group(child: &mut Child) {
    let group = format!("-{}", child.id());
    let killed = Command::new("kill").args(["-KILL", "--", &group]).status().unwrap();
    assert!(killed.success(), "kill {group}: {killed}");
    child.wait().unwrap();
}
