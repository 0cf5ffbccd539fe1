//! Servers and stores in a guest of Tarn and in one of Linux with OpenZFS: the same QEMU, the same memory, processors and devices, Debian's
//! same programs, the same clients here, turn by turn, on copies of one image, which `tarn create` built.
//!
//! Linux is the kernel that `interop` uses, booted by `tarn run` as Tarn's own, so that nothing but the kernel differs; its first file
//! system holds only what mounts the pool (`tests/oracle/build-servers`).

mod image;
mod loads;
mod storage;

use super::figures::{Comparison, Side};
use super::{Bench, set_recordsize};
use crate::build::embedded_size;
use crate::interop::Oracle;
use crate::machine::{copy_image, install_for, output, run};
use crate::workloads;
use crate::workloads::guest::Guest;
use crate::workloads::link::{self, Link};
use anyhow::{Context, Result, ensure};
use image::Image;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;

/// Memory of the machine where nothing else is said, in MiB.
const MEMORY: u32 = 1024;
const CPUS: &str = "2";
/// What Linux is told: to be quiet, to end with a panic, and to leave out what costs time only under an emulator.
const LINUX_OPTIONS: [&str; 8] = [
    "console=ttyS0",
    "quiet",
    "loglevel=4",
    "panic=-1",
    "mitigations=off",
    "tsc=reliable",
    "no_timer_check",
    "random.trust_cpu=on",
];
/// What all this needs of Debian: programs and their packages.
const PACKAGES: &[(&str, &str)] = &[
    ("memcached", "memcached"),
    ("sqlite3", "sqlite3"),
    ("fio", "fio"),
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("objdump", "binutils"),
];

/// Linux: its kernel and its first file system.
pub(super) struct Linux {
    kernel: PathBuf,
    initrd: PathBuf,
    /// The kernel as a boot loader would have it.
    compressed: PathBuf,
}

impl Linux {
    /// Builds it, and installs what else is needed. This asks registries, which are out of reach in a namespace: [`enter`] comes after it.
    pub(super) fn prepare() -> Result<Self> {
        for packages in [PACKAGES, workloads::REDIS, workloads::MARIADB] {
            install_for(packages)?;
        }
        let (kernel, initrd) = Oracle::prepare()?.servers()?;
        let compressed = kernel.with_file_name("vmlinuz");
        Ok(Linux { kernel, initrd, compressed })
    }
}

/// Goes on in a network namespace where that is possible; how that ended.
pub(super) fn enter(tarn: &Path, kernel: &Path) -> Result<Option<ExitStatus>> {
    link::enter(&[("TARN_BIN", tarn), ("TARN_KERNEL", kernel)])
}

/// All that the loads need.
struct Servers<'a> {
    bench: &'a Bench,
    linux: Linux,
    image: Image,
}

/// What is measured, in the order of the table, and the record size of what is written meanwhile.
const LOADS: [(&str, Load); 5] = [
    ("redis", loads::redis),
    ("memcached", loads::memcached),
    ("mariadb", loads::mariadb),
    ("sqlite", storage::sqlite),
    ("fio", storage::fio),
];

/// What is measured beside [`LOADS`].
const OTHERS: [&str; 3] = ["raw", "memory", "size"];

/// Whether `name` is something to measure.
pub(super) fn check_name(name: &str) -> Result<()> {
    let names: Vec<&str> = LOADS.iter().map(|(name, _)| *name).chain(OTHERS).collect();
    ensure!(names.contains(&name), "there is no load {name}: {}", names.join(", "));
    Ok(())
}

type Load = fn(&Servers, Side, &mut Comparison) -> Result<()>;

impl Bench {
    /// All figures, as a part of the page; those of `only` alone, where that names a load.
    pub(super) fn servers(&self, linux: Linux, rounds: usize, only: Option<&str>) -> Result<String> {
        println!("== one image for both");
        let image = Image::build(&self.tarn, &self.folder.join("servers"))?;
        let servers = Servers { bench: self, linux, image };
        let mut figures = Comparison::default();
        let chosen = |name: &str| only.is_none_or(|only| only == name);
        for round in 0..rounds {
            for (name, load) in LOADS.into_iter().filter(|(name, _)| chosen(name)) {
                for side in Side::BOTH {
                    let start = Instant::now();
                    load(&servers, side, &mut figures).with_context(|| format!("{name}, {side:?}"))?;
                    let took = start.elapsed().as_secs_f64();
                    println!("== round {} of {rounds}: {name}, {side:?}: {took:.0} s", round + 1);
                }
            }
            if chosen("raw") {
                storage::raw(&servers, &mut figures)?;
            }
        }
        if chosen("memory") {
            Side::BOTH.into_iter().try_for_each(|side| loads::least_memory(&servers, side, &mut figures))?;
        }
        if chosen("size") {
            servers.sizes(&mut figures)?;
        }
        Ok(format!(
            "## Servers in a guest: {CPUS} processors, {MEMORY} MiB, TCG, lz4\n\n\
             Debian's programs on copies of one image, their clients on the host. A ratio above 1: Tarn is faster or needs less. The raw device is \
             Linux's, below no file system. The best of {rounds} runs each.\n\n{}",
            figures.table()
        ))
    }
}

impl Servers<'_> {
    /// A copy of the image, to be written to, whose new files have this record size.
    fn copy(&self, recordsize: &str) -> Result<PathBuf> {
        let copy = self.bench.folder.join("servers-copy.img");
        copy_image(&self.image.path, &copy)?;
        set_recordsize(&self.bench.tarn, &copy, image::POOL, recordsize)?;
        Ok(copy)
    }

    /// How to boot `image` with `command`.
    fn machine(&self, side: Side, image: &Path, memory: u32, command: &[&str]) -> Machine {
        let mut boot = Command::new(&self.bench.tarn);
        boot.arg("run").arg(image).args(["--memory", &format!("{memory}M"), "--cpus", CPUS]);
        if side == Side::Linux {
            boot.arg("--kernel").arg(&self.linux.kernel).args(["--qemu-arg", "-initrd", "--qemu-arg"]);
            boot.arg(&self.linux.initrd).arg(format!("--append=pool={}", image::POOL));
            boot.args(LINUX_OPTIONS.map(|option| format!("--append={option}")));
        }
        Machine { boot, command: command.iter().map(|&word| word.to_owned()).collect() }
    }

    /// Boots a server that listens on `port`.
    fn serve(&self, machine: Machine, port: u16) -> Result<Guest> {
        let (link, address) = Link::get().options(0, port)?;
        let Machine { mut boot, command } = machine;
        boot.args(link).arg("--").args(command);
        Guest::start(&mut boot, address, self.bench.folder.join("console.log"))
    }

    /// What has to be loaded before the root is mounted.
    fn sizes(&self, figures: &mut Comparison) -> Result<()> {
        const NAME: &str = "kernel, and what else mounts the root, as on a disk";
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        figures.note(Side::Tarn, NAME, embedded_size(&self.bench.kernel)?, "MiB");
        let packed = self.bench.folder.join("initrd.xz");
        let pack = "exec xz -T0 -c \"$1\" > \"$2\"";
        run(Command::new("sh").args(["-c", pack, "sh"]).arg(&self.linux.initrd).arg(&packed))?;
        let linux = self.linux.compressed.metadata()?.len() + packed.metadata()?.len();
        figures.note(Side::Linux, NAME, mib(linux), "MiB");
        let image = self.image.redis()?;
        figures.note(
            Side::Tarn,
            "redis's image with all that boots it",
            mib(image) + embedded_size(&self.bench.kernel)?,
            "MiB",
        );
        figures.note(Side::Linux, "redis's image with all that boots it", mib(image + linux), "MiB");
        Ok(())
    }
}

/// A machine that has not been started.
struct Machine {
    boot: Command,
    command: Vec<String>,
}

impl Machine {
    /// Gives it another disk.
    fn disk(mut self, disk: &Path) -> Self {
        self.boot.arg("--disk").arg(disk);
        self
    }

    /// Runs it to its end; what was printed.
    fn run(self) -> Result<String> {
        let Machine { mut boot, command } = self;
        boot.args(["--timeout", "600", "--"]).args(command);
        output(boot.stdin(Stdio::null()))
    }
}
