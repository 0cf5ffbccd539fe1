//! `cargo xtask demo`: the main job from end to end, on real programs.
//!
//! A root file system with the machine's own SQLite becomes a ZFS image; a VM boots from it and commits rows; a snapshot is
//! taken inside the running guest; the data is changed; the host lists the snapshot, counts the differences and rolls back;
//! the next boot shows the old rows. Every claim it prints is checked: a wrong count ends the demo with an error.

use crate::build;
use crate::machine::{self, find, install_all, output, run, target};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use testkit::rootfs;

const POOL: &str = "tarn";
const DATASET: &str = "tarn/root";
const DATABASE: &str = "/data/demo.db";
const ROWS: u32 = 200;

/// What was shown, and how long it took.
struct Summary(Vec<(String, f64)>);

impl Summary {
    fn step<T>(&mut self, title: &str, work: impl FnOnce() -> Result<(String, T)>) -> Result<T> {
        println!("\n== {title}");
        let start = Instant::now();
        let (shown, value) = work().with_context(|| title.to_owned())?;
        self.0.push((shown, start.elapsed().as_secs_f64()));
        Ok(value)
    }

    fn print(&self) {
        println!("\nWhat this showed");
        for (i, (shown, seconds)) in self.0.iter().enumerate() {
            println!("{:3}. {shown} ({seconds:.1} s)", i + 1);
        }
    }
}

/// The demo.
pub(crate) fn run_demo() -> Result<()> {
    install_all()?;
    let mut summary = Summary(Vec::new());
    let tarn = summary.step("build the tool with the kernel inside", || {
        let tarn = build::tarn()?;
        let size = build::embedded_size(&build::kernel()?)?;
        Ok((format!("built tarn; the kernel inside is {size:.1} MiB"), tarn))
    })?;
    let folder = target().join("demo");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(folder.join("disk"))?;
    let guest = summary.step("collect a root file system", || {
        let guest = rootfs::sqlite(&folder.join("root"))?;
        Ok((format!("collected {} and the libraries it needs", guest.name), guest))
    })?;
    let demo = Demo { tarn, disk: folder.join("disk/tarn.img"), guest };
    demo.host_side(&mut summary, &folder)?;
    summary.print();
    Ok(())
}

struct Demo {
    tarn: PathBuf,
    disk: PathBuf,
    guest: rootfs::Sqlite,
}

impl Demo {
    fn host_side(&self, summary: &mut Summary, folder: &Path) -> Result<()> {
        summary.step("build the ZFS image", || {
            let mut create = self.tarn(&["create"]);
            create
                .arg(&self.disk)
                .arg("--from")
                .arg(folder.join("root"))
                .args(["--size", "1G", "--pool", POOL]);
            run(create.args(["-O", "compression=lz4"]))?;
            Ok(("built a ZFS root image without root or kernel modules".into(), ()))
        })?;
        self.zdb(summary, "as built")?;
        summary.step("boot, insert rows, take a snapshot inside the guest, change the data", || {
            self.first_boot()
        })?;
        self.zdb(summary, "after the guest wrote")?;
        summary.step("what the host sees: the snapshot and what changed since", || self.look())?;
        summary.step("roll back", || {
            run(self
                .tarn(&["zfs"])
                .arg("--disk")
                .arg(&self.disk)
                .args(["rollback", &format!("{DATASET}@before")]))?;
            Ok(("rolled the root file system back to the snapshot, offline".into(), ()))
        })?;
        summary.step("boot again: the old rows are back", || self.second_boot())?;
        self.zdb(summary, "after the rollback")
    }

    fn tarn(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.tarn);
        command.args(args);
        command
    }

    /// Boots the image with a command line; what it printed.
    fn boot(&self, command_line: &[String]) -> Result<String> {
        let mut boot = self.tarn(&["run"]);
        boot.arg(&self.disk).args(["--memory", "256M", "--cpus", "2", "--"]).args(command_line);
        let text = output(&mut boot)?;
        print!("{text}");
        Ok(text)
    }

    fn sql(&self, statements: &str) -> Vec<String> {
        vec![self.guest.program.clone(), DATABASE.into(), statements.into()]
    }

    fn first_boot(&self) -> Result<(String, ())> {
        let insert = format!(
            "PRAGMA synchronous=FULL; CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT); \
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{ROWS}) \
             INSERT INTO t SELECT i, 'original '||i FROM n; SELECT 'rows '||count(*) FROM t WHERE v LIKE 'original%'; \
             {snapshot} \
             UPDATE t SET v='changed' WHERE id%2=0; DELETE FROM t WHERE id%10=5; \
             SELECT 'left '||count(*)||' changed '||sum(v='changed') FROM t;",
            snapshot = self.guest.snapshot_statement("before"),
        );
        let text = self.boot(&self.sql(&insert))?;
        ensure!(text.contains(&format!("rows {ROWS}")), "the guest did not report its rows");
        let (left, changed) = (ROWS - ROWS / 10, ROWS / 2);
        ensure!(
            text.contains(&format!("left {left} changed {changed}")),
            "the guest did not report its changes"
        );
        Ok((
            format!(
                "booted; {ROWS} rows committed, a snapshot taken in the guest, then rows changed and deleted"
            ),
            (),
        ))
    }

    fn look(&self) -> Result<(String, ())> {
        let snapshot = format!("{DATASET}@before");
        let list =
            output(self.tarn(&["zfs"]).arg("--disk").arg(&self.disk).args(["list", "-t", "snapshot"]))?;
        print!("{list}");
        ensure!(list.contains(&snapshot), "the snapshot is not listed");
        let diff =
            output(self.tarn(&["zfs"]).arg("--disk").arg(&self.disk).args(["diff", &snapshot, DATASET]))?;
        print!("{diff}");
        ensure!(diff.contains("demo.db"), "the diff does not name the database");
        Ok((format!("listed {snapshot} on the host; {} paths differ from it", diff.lines().count()), ()))
    }

    fn second_boot(&self) -> Result<(String, ())> {
        let check = "PRAGMA integrity_check; SELECT 'rows '||count(*) FROM t WHERE v LIKE 'original%';";
        let text = self.boot(&self.sql(check))?;
        ensure!(text.lines().any(|l| l.trim() == "ok"), "integrity_check did not say ok");
        ensure!(text.contains(&format!("rows {ROWS}")), "the old rows are not back");
        Ok((format!("booted again: all {ROWS} original rows are back and integrity_check says ok"), ()))
    }

    /// Lets OpenZFS's own checker read the whole pool, where it is installed.
    fn zdb(&self, summary: &mut Summary, when: &str) -> Result<()> {
        if find("zdb").is_none() {
            println!(
                "note: zdb is not installed (Debian: zfsutils-linux, in contrib); not verified by OpenZFS"
            );
            return Ok(());
        }
        summary.step(&format!("OpenZFS's zdb verifies the pool {when}"), || {
            let folder = self.disk.parent().context("the disk lies in a folder")?;
            println!("{}", machine::zdb(folder, POOL)?.context("zdb is gone")?);
            Ok((format!("zdb -bcc {when}: no error, no leak"), ()))
        })
    }
}
