//! A guest with one server: its image, its boot, its end.

use super::link::Link;
use crate::machine::{self, cargo, find, run, target};
use anyhow::{Context, Result, bail, ensure};
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use testkit::rootfs;

/// So long may a guest take to answer first, and to end.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

static TARN: OnceLock<PathBuf> = OnceLock::new();

/// Builds `tarn` with the kernel inside; `TARN_BIN` names another one.
pub(crate) fn build() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("TARN_BIN") {
        return Ok(path.into());
    }
    run(cargo().args(["build", "--release", "--quiet", "--package", "mkfs-tool"]))?;
    Ok(target().join("release/tarn"))
}

/// Which `tarn` all guests run with.
pub(crate) fn use_tarn(path: &Path) {
    TARN.get_or_init(|| path.to_owned());
}

fn tarn() -> Command {
    Command::new(TARN.get().map_or(Path::new("tarn"), PathBuf::as_path))
}

/// An image.
pub(crate) struct Image {
    folder: PathBuf,
    pool: String,
    /// Which of the links its guest uses.
    link: usize,
}

impl Image {
    /// An image with these programs, their libraries, and what `prepare` adds to the root folder.
    pub(crate) fn new(
        name: &str,
        programs: &[&str],
        prepare: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Self> {
        let folder = target().join("workloads").join(name);
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        let root = folder.join("root");
        for dir in ["data", "dev", "etc", "proc", "run", "tmp", "usr/bin", "var/log", "var/lib"] {
            std::fs::create_dir_all(root.join(dir))?;
        }
        std::fs::write(
            root.join("etc/passwd"),
            "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
        )?;
        std::fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
        for program in programs {
            let path = find(program).with_context(|| format!("{program} is not installed"))?;
            rootfs::program(&path, &root)?;
        }
        prepare(&root)?;
        std::fs::create_dir(folder.join("disk"))?;
        let image = Image { folder, pool: name.replace('-', "_"), link: 0 };
        let mut create = tarn();
        create.arg("create").arg(image.path()).arg("--from").arg(&root);
        run(create.args(["--size", "2G", "--pool", &image.pool]))?;
        Ok(image)
    }

    /// The same image, whose guest uses another link: for several guests at a time.
    pub(crate) fn on_link(mut self, link: usize) -> Self {
        self.link = link;
        self
    }

    /// A file beside the image, for what is taken out of the guest.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The image itself.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.join("disk/image.img")
    }

    /// `zdb -bcc`: every block is read and checked, and compared with the space maps.
    pub(crate) fn zdb(&self) -> Result<()> {
        if machine::zdb(&self.folder.join("disk"), &self.pool)?.is_none() {
            println!("note: zdb is not installed: the pool is not verified");
        }
        Ok(())
    }

    /// Boots it with `command`; `port` of the guest is reached by [`Guest::address`].
    pub(crate) fn boot(&self, memory: &str, cpus: u32, port: u16, command: &[&str]) -> Result<Guest> {
        self.boot_with(&["--memory", memory, "--cpus", &cpus.to_string()], port, command)
    }

    /// The same with these options of `tarn run`.
    pub(crate) fn boot_with(&self, options: &[&str], port: u16, command: &[&str]) -> Result<Guest> {
        let (link, address) = Link::get().options(self.link, port)?;
        let mut boot = tarn();
        boot.arg("run").arg(self.path()).args(options);
        Guest::start(boot.args(link).arg("--").args(command), address, self.folder.join("console.log"))
    }
}

/// A running guest. It ends when this is dropped, as by a power cut.
pub(crate) struct Guest {
    child: Child,
    /// Where the server is reached.
    pub(crate) address: SocketAddr,
    console: PathBuf,
}

impl Guest {
    /// Runs `boot`, whose server will be reached at `address`; its output goes to the file `console`.
    pub(crate) fn start(boot: &mut Command, address: SocketAddr, console: PathBuf) -> Result<Self> {
        let log = std::fs::File::create(&console)?;
        boot.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = boot.spawn().context("tarn run")?;
        Ok(Guest { child, address, console })
    }

    /// What the guest has printed.
    pub(crate) fn console(&self) -> String {
        std::fs::read_to_string(&self.console).unwrap_or_default()
    }

    /// Repeats `ask` until it gives an answer; how long that took.
    pub(crate) fn wait_for<T>(
        &mut self,
        mut ask: impl FnMut(SocketAddr) -> Option<T>,
    ) -> Result<(T, Duration)> {
        let start = Instant::now();
        loop {
            if let Some(answer) = ask(self.address) {
                return Ok((answer, start.elapsed()));
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the guest ended ({status}):\n{}", self.console());
            }
            ensure!(start.elapsed() < PATIENCE, "the guest does not answer:\n{}", self.console());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Cuts the power.
    pub(crate) fn cut(mut self) -> Result<()> {
        self.stop()
    }

    /// The same while somebody still has the guest.
    pub(crate) fn stop(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM; then the server ends, successfully or by the signal itself, as it likes. What the guest has printed.
    pub(crate) fn terminate(mut self, patience: Duration) -> Result<String> {
        run(Command::new("kill").args(["-TERM", &self.child.id().to_string()]))?;
        let status = self.wait_within(patience)?;
        // 128 + SIGTERM.
        let in_order = matches!(status.code(), Some(0 | 143));
        ensure!(in_order, "the guest ended with {status}:\n{}", self.console());
        Ok(self.console())
    }

    /// Waits until the server has ended by itself, successfully.
    pub(crate) fn end(self) -> Result<()> {
        self.end_within(PATIENCE).map(drop)
    }

    /// The same with another patience; what it has printed.
    pub(crate) fn end_within(mut self, patience: Duration) -> Result<String> {
        let status = self.wait_within(patience)?;
        ensure!(status.success(), "the guest ended with {status}:\n{}", self.console());
        Ok(self.console())
    }

    fn wait_within(&mut self, patience: Duration) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(start.elapsed() < patience, "the guest does not end:\n{}", self.console());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection with a time limit.
pub(crate) fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    open(address, Duration::from_secs(5), Duration::from_secs(30))
}

/// A connection to a guest that may not listen yet. Over a tap device nobody answers then, and a second SYN is sent only after a
/// second; QEMU's user network accepts it at once, and would try long to reach the guest.
pub(crate) fn probe(address: SocketAddr) -> std::io::Result<TcpStream> {
    open(address, Duration::from_millis(100), Duration::from_millis(500))
}

fn open(address: SocketAddr, until_connected: Duration, until_read: Duration) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, until_connected)?;
    stream.set_read_timeout(Some(until_read))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends `request` and reads exactly as much as `wanted` is long; whether that is what came.
pub(crate) fn exchange(stream: &mut TcpStream, request: &[u8], wanted: &[u8]) -> std::io::Result<bool> {
    std::io::Write::write_all(stream, request)?;
    let mut got = vec![0; wanted.len()];
    stream.read_exact(&mut got)?;
    Ok(got == wanted)
}

/// Numbers that look random and are the same for the same seed.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
