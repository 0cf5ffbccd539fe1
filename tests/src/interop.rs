//! Taking turns with OpenZFS: Tarn writes to a pool with random operations, OpenZFS in its guest checks it and writes more, and so on.
//!
//! # One round
//! 1. A random world ([`World`]) goes on in the pool; its content is compared with the model, and the pool is exported.
//! 2. `zdb -bcc` finds nothing wrong.
//! 3. The guest imports the pool, hashes everything, scrubs it, writes to it, and hashes everything again
//!    (`tests/oracle/interop.sh`).
//! 4. A copy of the disks from before 3 and the disks as they are now are each compared with what OpenZFS read: content, attributes,
//!    properties. What OpenZFS left is the next round's beginning.

use crate::fixtures::sections;
use crate::layout::Layout;
use crate::manifest::{ALL, Options, check_sections};
use crate::model::{Limits, Rng, env, import_pool};
use crate::properties;
use crate::tool::zdb_check;
use crate::world::World;
use anyhow::{Context, Result, ensure};
use platform::block::BlockDevice;
use platform::host::FileDisk;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use zfs::spa::{ImportOptions, Pool};

/// Seconds that one turn of the guest may take, and the status by which the script says that it took longer.
const TURN_MAX: &str = "900";
const TIMED_OUT: i32 = 124;
/// Size of each disk, in bytes.
const DISK: u64 = 320 << 20;
/// Random operations of one round.
const OPERATIONS: usize = 150;
/// The pool's name.
const POOL: &str = "interop";

/// A campaign on one layout.
pub struct Campaign {
    /// The layout.
    pub layout: Layout,
    /// Rounds.
    pub rounds: u64,
    /// Everything random comes from it.
    pub seed: u64,
    /// The folder of OpenZFS's guest (`tests/oracle`, built).
    pub oracle: PathBuf,
    /// An empty folder to work in.
    pub folder: PathBuf,
}

impl Campaign {
    /// All rounds. Says what it does; an error says what did not hold, and in which round.
    pub fn run(&self) -> Result<()> {
        let name = self.layout.name();
        std::fs::create_dir_all(self.disks())?;
        for n in 0..self.layout.disks() {
            drop(FileDisk::create(&self.disk(&self.disks(), n), DISK)?);
        }
        let mut rng = Rng::new(self.seed);
        let mut next = 0;
        for round in 1..=self.rounds {
            println!("== {name}, round {round} of {}, seed {}", self.rounds, self.seed);
            next = self
                .round(round, next, &mut rng)
                .with_context(|| format!("{name}, round {round}, seed {}", self.seed))?;
        }
        Ok(())
    }

    fn disks(&self) -> PathBuf {
        self.folder.join("disks")
    }

    fn disk(&self, folder: &Path, n: usize) -> PathBuf {
        folder.join(format!("disk{n}.img"))
    }

    fn open(&self, folder: &Path, write: bool) -> Result<Vec<Arc<dyn BlockDevice>>> {
        let disk = |n| Ok(Arc::new(FileDisk::open(&self.disk(folder, n), write)?) as Arc<dyn BlockDevice>);
        (0..self.layout.disks()).map(disk).collect()
    }

    /// One round; numbers from which new names may be made.
    fn round(&self, round: u64, next: u64, rng: &mut Rng) -> Result<u64> {
        let next = self.write(round, next, rng)?;
        zdb_check(&self.disks(), POOL).context("zdb, of what Tarn wrote")?;
        let before = self.folder.join("before");
        std::fs::create_dir_all(&before)?;
        for n in 0..self.layout.disks() {
            let mut copy = Command::new("cp");
            copy.args(["--sparse=always", "--reflink=auto"]).arg(self.disk(&self.disks(), n)).arg(&before);
            ensure!(copy.status()?.success(), "the disks could not be copied");
        }
        self.guest(self.seed.wrapping_add(round))?;
        zdb_check(&self.disks(), POOL).context("zdb, of what OpenZFS wrote")?;
        self.compare(&before, "check-before").context("what Tarn wrote")?;
        self.compare(&self.disks(), "check-after").context("what OpenZFS wrote")?;
        Ok(next)
    }

    /// Tarn's turn.
    fn write(&self, round: u64, next: u64, rng: &mut Rng) -> Result<u64> {
        let devices = self.open(&self.disks(), true)?;
        let limits = Limits { file_size: 1 << 20, ..Limits::default() };
        let mut world = match round {
            1 => World::new(self.layout.create(devices, POOL)?, limits),
            _ => World::adopt(import_pool(devices), limits, next).context("adopting what OpenZFS left")?,
        };
        for operation in 0..OPERATIONS {
            world.step(rng).with_context(|| format!("operation {operation}"))?;
        }
        world.check().context("after Tarn's operations")?;
        let next = world.next();
        world.unmount_all()?;
        let pool = Arc::clone(world.pool());
        drop(world);
        pool.export()?;
        Ok(next)
    }

    /// OpenZFS's turn. The guest reads and writes the same disks, and leaves its manifests in the folder. One that hung while it booted,
    /// as Linux now and then does in an emulator, has not seen the pool, and is started again, once.
    fn guest(&self, seed: u64) -> Result<()> {
        if self.guest_once(seed)? {
            let hung_again = self.guest_once(seed)?;
            ensure!(!hung_again, "OpenZFS's guest hung twice while it booted");
        }
        Ok(())
    }

    /// Whether the guest hung before it looked at the pool.
    fn guest_once(&self, seed: u64) -> Result<bool> {
        let share = self.folder.join("share");
        if share.exists() {
            std::fs::remove_dir_all(&share)?;
        }
        std::fs::create_dir_all(&share)?;
        std::fs::copy(self.oracle.join("check-pool.sh"), share.join("check-pool.sh"))?;
        let mut oracle = Command::new(self.oracle.join("oracle"));
        oracle.args(["run", "-t", TURN_MAX, "-s"]).arg(&share).args(["-a", &format!("{POOL} {seed}")]);
        oracle.arg(self.oracle.join("interop.sh"));
        oracle.args((0..self.layout.disks()).map(|n| self.disk(&self.disks(), n)));
        let output = oracle.output().context("OpenZFS's guest")?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        std::fs::write(share.join("console.txt"), &said)?;
        if output.status.code() == Some(TIMED_OUT) && !share.join("check-before").exists() {
            println!("OpenZFS's guest hung while it booted");
            return Ok(true);
        }
        let end: Vec<&str> = said.lines().rev().take(60).collect();
        ensure!(
            output.status.success(),
            "OpenZFS's guest: {}\n{}",
            output.status,
            end.into_iter().rev().collect::<Vec<_>>().join("\n")
        );
        for part in ["check-before", "check-after"] {
            let status = std::fs::read_to_string(share.join(part).join(format!("{POOL}.zpool-status.txt")))?;
            ensure!(
                status.contains("scrub repaired 0B") && status.contains("with 0 errors"),
                "{part}: OpenZFS's scrub:\n{status}"
            );
        }
        Ok(false)
    }

    /// The pool on the disks in `folder` is what OpenZFS read.
    fn compare(&self, folder: &Path, part: &str) -> Result<()> {
        let options = ImportOptions::read_only();
        let pool = Pool::import(self.open(folder, false)?, env(), options)?;
        let read = |suffix: &str| {
            let path = self.folder.join("share").join(part).join(format!("{POOL}.{suffix}"));
            std::fs::read_to_string(&path).with_context(|| path.display().to_string())
        };
        let sections = sections(&read("files.jsonl")?)?;
        let entries = check_sections(&pool, &sections, Options { dir_sizes: false, ..ALL });
        let mut want = properties::answers(&read("zfs-get.tsv")?);
        let mut differences = Vec::new();
        for head in pool.dsl().datasets()? {
            let mut all = head.snapshots()?;
            all.insert(0, head);
            for dataset in all {
                let is_root = dataset.name() == POOL;
                // Before, OpenZFS was asked when it had mounted everything for writing, which wrote a little. And what the pool's root
                // uses has the pool's own objects in it, which changed when it was scrubbed and exported after the answer.
                let comparable = |name: &str| match part {
                    "check-after" => {
                        !is_root
                            || !matches!(name, "used" | "usedbychildren" | "logicalused" | "compressratio")
                    }
                    _ => !properties::is_space(name),
                };
                match want.remove(&dataset.name()) {
                    Some(want) => properties::compare_those(&dataset, &want, comparable, &mut differences),
                    None => differences.push(format!("{}: OpenZFS knows it not", dataset.name())),
                }
            }
        }
        want.retain(|name, _| !name.contains('#'));
        differences.extend(want.keys().map(|name| format!("{name}: not found")));
        ensure!(differences.is_empty(), "properties:\n{}", differences.join("\n"));
        println!(
            "{}, {part}: {} file systems and snapshots, {entries} files, all properties equal",
            self.layout.name(),
            sections.len()
        );
        Ok(())
    }
}
