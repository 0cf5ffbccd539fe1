//! The image that both guests start from.

use super::super::set_recordsize;
use crate::machine::{find, output, run};
use crate::workloads::guest::Numbers;
use crate::workloads::{fio, mariadb};
use anyhow::{Context, Result};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use testkit::rootfs;

/// The pool's name; its root file system is `POOL/root`.
pub(super) const POOL: &str = "servers";
/// Programs that it holds.
const PROGRAMS: [&str; 5] = ["redis-server", "memcached", "mariadbd", "sqlite3", fio::PROGRAM];
/// Blocks of the files that fio reads and writes, and of what it writes.
pub(super) const FIO_RECORD: &str = "8K";
/// Blocks of InnoDB's tables: its pages.
pub(super) const INNODB_RECORD: &str = "16K";

/// An image, and the tree it was made of.
pub(super) struct Image {
    pub(super) path: PathBuf,
    root: PathBuf,
    tarn: PathBuf,
}

fn create(tarn: &Path, image: &Path, root: &Path, size: &str) -> Result<()> {
    let mut create = Command::new(tarn);
    create.arg("create").arg(image).arg("--force").arg("--from").arg(root).args(["--size", size, "-q"]);
    run(create.args(["--pool", POOL, "-O", "compression=lz4", "-O", "atime=off"]).stdout(Stdio::null()))
}

/// A root folder with `programs`, for either kernel.
fn root(root: &Path, programs: &[&str]) -> Result<()> {
    for folder in ["data", "dev", "etc", "proc", "run", "sys", "tmp", "bin", "usr/bin", "var/lib"] {
        std::fs::create_dir_all(root.join(folder))?;
    }
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n")?;
    std::fs::write(root.join("etc/group"), "root:x:0:\n")?;
    for program in programs {
        rootfs::program(&find(program).with_context(|| format!("{program} is not installed"))?, root)?;
    }
    // Linux's first program runs the command by its shell.
    std::fs::copy(find("busybox").context("busybox is not installed")?, root.join("bin/busybox"))?;
    Ok(())
}

impl Image {
    /// Builds it in `folder`. Each kind of data has the record size that is recommended for it.
    pub(super) fn build(tarn: &Path, folder: &Path) -> Result<Self> {
        let (tree, path) = (folder.join("root"), folder.join("servers.img"));
        root(&tree, &PROGRAMS)?;
        mariadb::prepare(&tree)?;
        for (name, statements) in super::storage::statements() {
            std::fs::write(tree.join("etc").join(name), statements)?;
        }
        for (name, jobs) in super::storage::jobs() {
            std::fs::write(tree.join("etc").join(name), jobs)?;
        }
        create(tarn, &path, &tree, "4G")?;
        let tables = folder.join("mysql");
        mariadb::fill(&tree, &tables)?;
        let files = folder.join("fio");
        std::fs::create_dir_all(&files)?;
        for (name, size) in super::storage::files() {
            random_file(&files.join(name), size)?;
        }
        for (from, record) in [(&tables, INNODB_RECORD), (&files, FIO_RECORD)] {
            set_recordsize(tarn, &path, POOL, record)?;
            let mut copy = Command::new(tarn);
            run(copy
                .args(["cp", "-a"])
                .arg(from)
                .arg(format!("{}:/data", path.display()))
                .stdout(Stdio::null()))?;
        }
        Ok(Image { path, root: tree, tarn: tarn.to_owned() })
    }

    /// Bytes that an image with nothing but redis takes.
    pub(super) fn redis(&self) -> Result<u64> {
        let (tree, image) = (self.root.with_file_name("redis"), self.path.with_file_name("redis.img"));
        root(&tree, &["redis-server"])?;
        std::fs::remove_file(tree.join("bin/busybox"))?;
        create(&self.tarn, &image, &tree, "256M")?;
        let mut list = Command::new(&self.tarn);
        let said = output(list.arg("zpool").arg("--disk").arg(&image).args([
            "get",
            "-Hp",
            "-o",
            "value",
            "allocated",
            POOL,
        ]))?;
        said.trim().parse().with_context(|| format!("the pool's size: {said}"))
    }
}

/// A file of bytes that no algorithm compresses.
fn random_file(path: &Path, size: u64) -> Result<()> {
    let mut numbers = Numbers(size ^ path.as_os_str().len() as u64);
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    for _ in 0..size / 8 {
        file.write_all(&numbers.next().to_le_bytes())?;
    }
    Ok(file.flush()?)
}
