//! Web servers: nginx as a single process, Python's `http.server`, WEBrick, the JDK's, and two static programs, of Rust and of Go.

use super::guest::{Guest, Image, Numbers, PATIENCE, probe};
use super::link::Link;
use super::{Options, Row};
use super::{java, package};
use crate::machine::{self, output};
use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;
use std::time::Instant;
use testkit::rootfs;

/// Debian's, whatever else is in the path.
pub(super) const PYTHON: &str = "/usr/bin/python3";
/// Debian's Ruby, and a file of its WEBrick.
pub(super) const RUBY: &str = "/usr/bin/ruby";
pub(super) const WEBRICK: &str = "/usr/share/rubygems-integration/all/specifications/webrick-1.8.1.gemspec";
const PORT: u16 = 8080;
/// Sizes of the files that are served.
const SIZES: [usize; 3] = [100, 20_000, 1_500_000];

fn content(size: usize) -> Vec<u8> {
    let mut numbers = Numbers(size as u64);
    (0..size).map(|_| numbers.next() as u8).collect()
}

fn add_files(root: &Path) -> Result<()> {
    std::fs::create_dir_all(root.join("srv"))?;
    for size in SIZES {
        std::fs::write(root.join(format!("srv/{size}")), content(size))?;
    }
    Ok(())
}

fn first_answer(guest: &mut Guest) -> Result<Row> {
    let (_, took) = guest.wait_for(|address| {
        let mut stream = probe(address).ok()?;
        stream.write_all(b"GET /100 HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        answer.ends_with(&content(100)).then_some(())
    })?;
    Ok(Row::new("first answer", format!("{} ms", took.as_millis())))
}

/// Every file is fetched by curl and compared, some times over.
fn fetch(guest: &Guest, times: u32) -> Result<Row> {
    let start = Instant::now();
    for _ in 0..times {
        for size in SIZES {
            let url = format!("http://{}/{size}", guest.address);
            let got =
                Command::new("curl").args(["-sS", "--max-time", "30", &url]).output().context("curl")?;
            ensure!(got.status.success(), "curl: {}", String::from_utf8_lossy(&got.stderr));
            ensure!(got.stdout == content(size), "{url}: other bytes");
        }
    }
    let each = start.elapsed() / (times * SIZES.len() as u32);
    Ok(Row::new("curl, a file by a connection of its own", format!("{:.1} ms", each.as_secs_f64() * 1000.0)))
}

/// wrk's requests per second; any error of a socket or a status fails.
fn wrk(guest: &Guest, connections: u32, size: usize) -> Result<Row> {
    let url = format!("http://{}/{size}", guest.address);
    let text = output(Command::new("wrk").args([
        "-t",
        "2",
        "-c",
        &connections.to_string(),
        "-d",
        "5s",
        "--timeout",
        "10s",
        &url,
    ]))?;
    ensure!(!text.contains("Non-2xx") && !text.contains("Socket errors"), "wrk:\n{text}");
    let rate =
        text.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:")).context("wrk's rate")?;
    let rate: f64 = rate.trim().parse()?;
    Ok(Row::new(format!("wrk, {size} bytes, {connections} connections"), format!("{rate:.0}/s")))
}

/// WEBrick on Debian's Ruby, a thread for each connection.
pub(super) fn ruby(_options: &Options) -> Result<Vec<Row>> {
    let image = Image::new("ruby", &[RUBY], |root| {
        add_files(root)?;
        package::add(root, &["libruby3.1", "rubygems-integration", "ruby-webrick"])
    })?;
    let script = format!(
        "server = WEBrick::HTTPServer.new(Port: {PORT}, BindAddress: '0.0.0.0', DocumentRoot: '/srv', AccessLog: [], \
         DoNotReverseLookup: true); server.start"
    );
    let guest = image.boot("512M", 2, PORT, &[RUBY, "-rwebrick", "-e", &script])?;
    serves(&image, guest, 10)
}

/// The JDK's `HttpServer` with a pool of threads.
pub(super) fn java(_options: &Options) -> Result<Vec<Row>> {
    let image = java::image("java-http", add_files)?;
    let guest =
        image.boot(java::MEMORY, 2, PORT, &[java::JAVA, "-cp", java::CLASSES, "Http", &PORT.to_string()])?;
    serves(&image, guest, 10)
}

/// The files as curl and wrk see them; then it is asked to end.
fn serves(image: &Image, mut guest: Guest, times: u32) -> Result<Vec<Row>> {
    let mut rows = vec![first_answer(&mut guest)?, fetch(&guest, times)?];
    for &connections in &Link::get().connections()[1..2] {
        rows.push(wrk(&guest, connections, 100)?);
    }
    guest.terminate(PATIENCE)?;
    image.zdb()?;
    Ok(rows)
}

/// A static program of Rust, without a crate (`tests/workloads/http-static`).
pub(super) fn rust(_options: &Options) -> Result<Vec<Row>> {
    static_program("rust-http", |to| Ok(std::fs::copy(rootfs::workload("http-static")?, to).map(drop)?))
}

/// A static program of Go with its `net/http` (`tests/workloads/go`).
pub(super) fn go(_options: &Options) -> Result<Vec<Row>> {
    static_program("go-http", |to| {
        let source = machine::root().join("tests/workloads/go/http.go");
        let mut build = Command::new("go");
        build.args(["build", "-trimpath", "-o"]).arg(to).arg(source);
        // Nothing is fetched, and the cache is ours.
        build.env("CGO_ENABLED", "0").env("GOTOOLCHAIN", "local").env("GOFLAGS", "-mod=mod");
        machine::run(build.env("GOCACHE", machine::target().join("go")))
    })
}

/// A program that serves `/srv` by itself, at all numbers of connections.
fn static_program(name: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<Vec<Row>> {
    let image = Image::new(name, &[], |root| {
        add_files(root)?;
        build(&root.join("usr/bin/http"))
    })?;
    let mut guest = image.boot("256M", 2, PORT, &["/usr/bin/http", &format!("0.0.0.0:{PORT}"), "/srv"])?;
    let mut rows = vec![first_answer(&mut guest)?, fetch(&guest, 20)?];
    for &connections in &Link::get().connections()[1..] {
        rows.push(wrk(&guest, connections, 100)?);
        rows.push(wrk(&guest, connections, 20_000)?);
    }
    rows.push(fetch(&guest, 5)?);
    guest.terminate(PATIENCE)?;
    image.zdb()?;
    Ok(rows)
}

/// nginx without its master process.
pub(super) fn nginx(_options: &Options) -> Result<Vec<Row>> {
    let image = Image::new("nginx", &["nginx"], |root| {
        add_files(root)?;
        for dir in ["var/log/nginx", "var/lib/nginx", "etc/nginx"] {
            std::fs::create_dir_all(root.join(dir))?;
        }
        let config = format!(
            "daemon off; master_process off; worker_processes 1; user root; pid /run/nginx.pid; error_log stderr;\n\
             events {{ worker_connections 1024; }}\n\
             http {{ access_log off; sendfile on; tcp_nopush on; default_type application/octet-stream;\n\
             server {{ listen {PORT} backlog=1024; root /srv; }} }}\n"
        );
        Ok(std::fs::write(root.join("etc/nginx/tarn.conf"), config)?)
    })?;
    let mut guest = image.boot("256M", 2, PORT, &["/usr/sbin/nginx", "-c", "/etc/nginx/tarn.conf"])?;
    let mut rows = vec![first_answer(&mut guest)?, fetch(&guest, 20)?];
    for &connections in &Link::get().connections()[1..] {
        rows.push(wrk(&guest, connections, 100)?);
        rows.push(wrk(&guest, connections, 20_000)?);
    }
    guest.terminate(PATIENCE)?;
    image.zdb()?;
    Ok(rows)
}

/// `python3 -m http.server`, a thread for each connection.
pub(super) fn python(_options: &Options) -> Result<Vec<Row>> {
    let version =
        output(Command::new(PYTHON).args(["-c", "import sysconfig; print(sysconfig.get_path('stdlib'))"]))?;
    let library = Path::new(version.trim()).to_owned();
    let image = Image::new("python", &[PYTHON], |root| {
        add_files(root)?;
        let to = root.join(library.strip_prefix("/")?);
        copy_modules(&library, &to)
    })?;
    let port = PORT.to_string();
    let command = [PYTHON, "-m", "http.server", "--directory", "/srv", &port];
    let mut guest = image.boot("256M", 2, PORT, &command)?;
    let rows = vec![first_answer(&mut guest)?, fetch(&guest, 10)?];
    guest.terminate(PATIENCE)?;
    image.zdb()?;
    Ok(rows)
}

/// Python's library without its tests and caches; its extension modules need no library that the program does not.
fn copy_modules(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        let skipped = [
            "__pycache__",
            "test",
            "tests",
            "idlelib",
            "tkinter",
            "lib2to3",
            "ensurepip",
            "dist-packages",
            "site-packages",
        ];
        let path = entry.path();
        if path.is_dir() {
            let config = name.to_string_lossy().starts_with("config-");
            if !config && !skipped.iter().any(|skip| name == *skip) {
                copy_modules(&path, &to.join(&name))?;
            }
        } else if path.is_file() {
            std::fs::copy(&path, to.join(&name))?;
        }
    }
    Ok(())
}
