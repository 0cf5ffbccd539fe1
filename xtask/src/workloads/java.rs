//! OpenJDK 17: a program that needs threads, signals and the collector; H2 over JDBC. Its web server: [`super::http`].

use super::guest::Image;
use super::{Options, Row, package};
use crate::machine::{root, run};
use anyhow::{Result, ensure};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Debian's virtual machine.
pub(super) const JAVA: &str = "/usr/lib/jvm/java-17-openjdk-amd64/bin/java";
/// Debian's H2.
pub(super) const H2: &str = "/usr/share/java/h2.jar";
/// Where classes are in the guest.
pub(super) const CLASSES: &str = "/classes:/usr/share/java/h2.jar";
pub(super) const MEMORY: &str = "1G";
const PATIENCE: Duration = Duration::from_secs(300);

/// An image with the virtual machine, H2, and the classes of `tests/workloads/java`.
pub(super) fn image(name: &str, prepare: impl FnOnce(&Path) -> Result<()>) -> Result<Image> {
    Image::new(name, &[JAVA], |to| {
        package::add(to, &["openjdk-17-jre-headless"])?;
        let jar = to.join(&H2[1..]);
        std::fs::create_dir_all(jar.with_file_name(""))?;
        std::fs::copy(H2, jar)?;
        let mut javac = Command::new("javac");
        javac.args(["--release", "17", "-d"]).arg(to.join("classes"));
        for class in ["Hello", "Http", "Records"] {
            javac.arg(root().join("tests/workloads/java").join(class).with_extension("java"));
        }
        run(&mut javac)?;
        prepare(to)
    })
}

/// Hello with each collector; a database that is filled, and found again after a reboot.
pub(super) fn run_java(_options: &Options) -> Result<Vec<Row>> {
    let image = image("java", |_| Ok(()))?;
    let mut rows = Vec::new();
    for collector in ["-XX:+UseSerialGC", "-XX:+UseG1GC"] {
        let start = Instant::now();
        let guest = image.boot(MEMORY, 2, 1, &[JAVA, collector, "-cp", CLASSES, "Hello"])?;
        let said = guest.end_within(PATIENCE)?;
        ensure!(said.contains("hello: 17.") && said.contains("collected 3000000"), "Hello said:\n{said}");
        rows.push(Row::new(format!("hello, {collector}"), format!("{} ms", start.elapsed().as_millis())));
    }
    for (boot, wanted) in
        ["before 0, after 2000, sum 1999000", "before 2000, after 2000, sum 1999000"].iter().enumerate()
    {
        let start = Instant::now();
        let said = image
            .boot(MEMORY, 2, 1, &[JAVA, "-cp", CLASSES, "Records", "/data/records"])?
            .end_within(PATIENCE)?;
        ensure!(said.contains(wanted), "boot {boot}: H2 answered:\n{said}");
        rows.push(Row::new(
            format!("H2, 2000 statements, boot {}", boot + 1),
            format!("{} ms", start.elapsed().as_millis()),
        ));
        image.zdb()?;
    }
    Ok(rows)
}
