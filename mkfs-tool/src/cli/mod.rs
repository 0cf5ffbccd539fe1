//! What can be asked of the tool: clap's definitions, nothing else.

pub mod files;
pub mod zfs;
pub mod zpool;

use crate::quantity;
use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use std::ffi::OsString;
use std::path::PathBuf;

/// Build, run and manage ZFS images for Tarn.
#[derive(Debug, Parser)]
#[command(
    name = "tarn",
    version,
    about,
    arg_required_else_help = true,
    after_help = "Examples:\n  \
        tarn create app.img --from rootfs/ --cmd '/usr/bin/redis-server --save 60 1' -O compression=zstd\n  \
        tarn run app.img --memory 512M --cpus 2\n  \
        tarn zfs --disk app.img snapshot tarn/root@before\n  \
        tarn zfs --disk app.img rollback tarn/root@before\n  \
        tarn cp -a app.img:tarn/root@before:/etc ./etc-before"
)]
pub struct Cli {
    /// Key of an encrypted dataset, for this run: of an encryption root, from its keylocation or as given: prompt, file:///PATH, hex:DIGITS;
    /// repeatable
    #[arg(long = "key", global = true, value_name = "DATASET[=KEYLOCATION]", value_parser = key)]
    pub keys: Vec<Key>,
    /// The verb.
    #[command(subcommand)]
    pub verb: Verb,
}

/// A dataset's key, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The encryption root.
    pub dataset: String,
    /// Where its key is, if not where its property `keylocation` says.
    pub location: Option<String>,
}

fn key(text: &str) -> Result<Key, String> {
    let (dataset, location) = match text.split_once('=') {
        Some((dataset, location)) => (dataset, Some(location.to_owned())),
        None => (text, None),
    };
    if dataset.is_empty() || location.as_deref() == Some("") {
        return Err("it is DATASET=KEYLOCATION, or DATASET".to_owned());
    }
    Ok(Key { dataset: dataset.to_owned(), location })
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Build a pool image from a directory or a tar
    Create(Create),
    /// Boot an image in QEMU
    Run(Run),
    /// Look at and manage the pool on an image
    Zpool(zpool::Zpool),
    /// Look at and manage the datasets on an image
    Zfs(zfs::Zfs),
    /// List files of an image
    Ls(files::Ls),
    /// Print files of an image
    Cat(files::Cat),
    /// Show a directory tree of an image
    Tree(files::Tree),
    /// Show everything about files of an image
    Stat(files::Stat),
    /// Copy files, trees or volumes out of an image, and files and trees into one
    Cp(files::Cp),
    /// Show the structures on disk: labels, uberblocks, objects, block pointers
    Inspect(Inspect),
    /// Print completions for a shell
    #[command(after_help = "Example:\n  tarn completions bash > /etc/bash_completion.d/tarn")]
    Completions(Completions),
    /// Ends with its parent: what `run` starts QEMU through.
    #[command(name = run_helper::NAME, hide = true)]
    ExecWithParent(run_helper::ExecWithParent),
}

/// The hidden verb that keeps QEMU from outliving `tarn run`.
pub mod run_helper {
    use super::{Args, OsString};

    /// Its name.
    pub const NAME: &str = "exec-with-parent";

    /// Its arguments.
    #[derive(Debug, Args)]
    pub struct ExecWithParent {
        /// Process id that the parent must still have.
        pub parent: i32,
        /// Program and arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        pub command: Vec<OsString>,
    }
}

/// `tarn create`.
#[derive(Debug, Args)]
#[command(
    after_help = "The image holds a pool with a root file system, POOL/root, which the pool's property bootfs names. \
        --cmd is stored as its user property tarn:cmd. With --seed and SOURCE_DATE_EPOCH the image is the same byte for \
        byte each time.\n\nExamples:\n  \
        tarn create app.img --from rootfs/ --cmd '/bin/app --port 80'\n  \
        tarn create app.img --from rootfs.tar.zst --size 4G -O compression=zstd -O recordsize=16K\n  \
        SOURCE_DATE_EPOCH=0 tarn create app.img --from rootfs/ --seed 1"
)]
pub struct Create {
    /// Image files to write; they must not exist
    #[arg(required = true, value_name = "IMG", value_hint = ValueHint::FilePath)]
    pub images: Vec<PathBuf>,
    /// A directory, or a .tar, .tar.gz or .tar.zst, that becomes the root file system
    #[arg(long, value_name = "DIR|TAR", value_hint = ValueHint::AnyPath)]
    pub from: Option<PathBuf>,
    /// Size of the image (sparse); without it, about twice what the files need
    #[arg(long, value_parser = size)]
    pub size: Option<u64>,
    /// Name of the pool
    #[arg(long, default_value = "tarn", value_name = "NAME")]
    pub pool: String,
    /// Command that the guest runs
    #[arg(long, value_name = "COMMAND")]
    pub cmd: Option<String>,
    /// Environment variable for the guest's command; repeatable
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub env: Vec<(String, String)>,
    /// Working directory of the guest's command
    #[arg(long, value_name = "PATH")]
    pub cwd: Option<String>,
    /// Property of the pool: ashift=12, comment=…; repeatable
    #[arg(short = 'o', value_name = "PROPERTY=VALUE", value_parser = pair)]
    pub pool_properties: Vec<(String, String)>,
    /// Property of the pool's root dataset, inherited by all: compression=zstd, recordsize=16K, …; repeatable
    #[arg(short = 'O', value_name = "PROPERTY=VALUE", value_parser = pair)]
    pub properties: Vec<(String, String)>,
    /// Make guids and salts from this number instead of the system's randomness
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// All files belong to root, whoever owns them here
    #[arg(long)]
    pub all_root: bool,
    /// Replace images that exist
    #[arg(short, long)]
    pub force: bool,
    /// Show no progress bar and no summary
    #[arg(short, long)]
    pub quiet: bool,
}

/// Which accelerator QEMU uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Accel {
    /// KVM if this machine really has it, else TCG
    Auto,
    /// Hardware virtualisation
    Kvm,
    /// Emulation
    Tcg,
}

/// QEMU's machine types that the kernel boots on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Machine {
    /// PCI Express
    Q35,
    /// PCI (i440FX)
    Pc,
    /// No PCI, virtio over MMIO: boots fastest
    Microvm,
}

/// What carries the guest's standard input and output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ConsoleKind {
    /// COM1, from the kernel's first word on
    Serial,
    /// virtio-console: much output at once; what the kernel says before its drivers have started is not seen
    Virtio,
}

/// `tarn run`.
#[derive(Debug, Args)]
#[command(
    after_help = "Without a command the image's own is run (its property tarn:cmd). The exit status is the \
        application's; 125 if the machine ended without one. SIGTERM asks the application to end, and the \
        machine ends in order; a second one stops the machine at once (status 137).\n\nExamples:\n  \
        tarn run app.img\n  \
        tarn run app.img --memory 1G --cpus 4 --forward 127.0.0.1:6379:6379\n  \
        tarn run app.img -- /usr/bin/sqlite3 /data/app.db 'SELECT count(*) FROM t'"
)]
pub struct Run {
    /// The image to boot from
    #[arg(value_name = "IMG", value_hint = ValueHint::FilePath)]
    pub image: PathBuf,
    /// Memory of the machine
    #[arg(short, long, default_value = "512M", value_parser = size)]
    pub memory: u64,
    /// Limit of the guest's cache of blocks (half of its memory if not given)
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub arc_max: Option<u64>,
    /// Print a line of what the kernel holds (memory, threads, descriptors …) every so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub stats: Option<u64>,
    /// Processors of the machine
    #[arg(short, long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=255))]
    pub cpus: u32,
    /// Forward a port of this machine to the guest; repeatable
    #[arg(long, value_name = "[ADDR:]PORT:GUEST_PORT[/udp]")]
    pub forward: Vec<String>,
    /// Network: none, user (QEMU's own, with --forward), tap:INTERFACE, or socket:OPTIONS as QEMU's -netdev socket takes
    /// them; user if a port is forwarded, else none
    #[arg(long, value_name = "KIND")]
    pub net: Option<String>,
    /// Fixed address instead of DHCP
    #[arg(long, value_name = "ADDR/PREFIX[,gw=ADDR][,dns=ADDR]")]
    pub address: Option<String>,
    /// Another disk, writable; repeatable
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub disk: Vec<PathBuf>,
    /// Accelerator
    #[arg(long, value_enum, default_value_t = Accel::Auto)]
    pub accel: Accel,
    /// Machine type
    #[arg(long, value_enum, default_value_t = Machine::Q35)]
    pub machine: Machine,
    /// Console
    #[arg(long, value_enum, default_value_t = ConsoleKind::Serial)]
    pub console: ConsoleKind,
    /// Root dataset, instead of the pool's bootfs
    #[arg(long, value_name = "DATASET")]
    pub root: Option<String>,
    /// Give up after this many seconds (status 124)
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
    /// When asked to end (SIGTERM), give the guest so many seconds, then stop it (status 137); as long as it needs if not given
    #[arg(long, value_name = "SECONDS")]
    pub grace: Option<u64>,
    /// Boot this kernel instead of the one inside tarn
    #[arg(long, value_name = "ELF", value_hint = ValueHint::FilePath)]
    pub kernel: Option<PathBuf>,
    /// Discard what the guest writes
    #[arg(long)]
    pub snapshot: bool,
    /// Kernel option, such as tarn.arc_max=64M; repeatable
    #[arg(long, value_name = "OPTION")]
    pub append: Vec<String>,
    /// Show the kernel's log too
    #[arg(short, long)]
    pub verbose: bool,
    /// Print the QEMU command instead of running it
    #[arg(long)]
    pub dry_run: bool,
    /// Argument for QEMU; repeatable
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub qemu_arg: Vec<OsString>,
    /// Command to run in the guest, instead of the image's own
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// `tarn inspect`.
#[derive(Debug, Args)]
#[command(
    after_help = "With only an image: its labels, the active uberblock and the pool's structure.\n\nExamples:\n  \
        tarn inspect app.img\n  \
        tarn inspect app.img --labels --uberblocks\n  \
        tarn inspect app.img tarn/root 34 -v\n  \
        tarn inspect app.img mos\n  \
        tarn inspect app.img --verify"
)]
pub struct Inspect {
    /// An image, or a directory that holds a pool's images
    #[arg(value_name = "IMG", value_hint = ValueHint::AnyPath)]
    pub image: PathBuf,
    /// A dataset or snapshot, or `mos` for the pool's own objects
    #[arg(value_name = "DATASET")]
    pub dataset: Option<String>,
    /// Object numbers; without them, all
    #[arg(value_name = "OBJECT")]
    pub objects: Vec<u64>,
    /// Show the four labels
    #[arg(short, long)]
    pub labels: bool,
    /// Show every valid uberblock
    #[arg(short, long)]
    pub uberblocks: bool,
    /// Show the pool's configuration from its MOS
    #[arg(short = 'C', long)]
    pub config: bool,
    /// Read and check every copy of every block, and compare with the space maps
    #[arg(long)]
    pub verify: bool,
    /// More detail; with an object, its block pointers; twice: what the cache did, too
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// `tarn completions`.
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// How a listing is printed.
#[derive(Debug, Clone, Copy, Args)]
pub struct Listing {
    /// For scripts: tabs between columns, no headings
    #[arg(short = 'H')]
    pub script: bool,
    /// Exact numbers
    #[arg(short = 'p')]
    pub parsable: bool,
    /// JSON, with exact numbers
    #[arg(short = 'j', long, conflicts_with = "script")]
    pub json: bool,
}

impl Listing {
    /// How the table is printed.
    #[must_use]
    pub fn style(self) -> crate::output::Style {
        match self {
            Listing { json: true, .. } => crate::output::Style::Json,
            Listing { script: true, .. } => crate::output::Style::Script,
            _ => crate::output::Style::Human,
        }
    }

    /// Whether numbers are exact.
    #[must_use]
    pub fn exact(self) -> bool {
        self.parsable || self.json
    }
}

/// The images of one pool.
#[derive(Debug, Clone, Args)]
pub struct Disks {
    /// Image of the pool, or a directory that holds all of them; repeatable
    #[arg(long = "disk", value_name = "IMG", global = true, value_hint = ValueHint::AnyPath)]
    pub disks: Vec<PathBuf>,
    /// Open the pool for writing although another host used it last and did not export it
    #[arg(long, global = true)]
    pub force_import: bool,
}

fn size(text: &str) -> Result<u64, String> {
    quantity::parse_size(text).map_err(|e| e.to_string())
}

/// `name=value`.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not NAME=VALUE")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_guest_command_keeps_its_hyphens() {
        let cli = Cli::try_parse_from(["tarn", "run", "a.img", "--cpus", "1", "--", "/bin/ls", "-l", "--x"])
            .unwrap();
        let Verb::Run(run) = cli.verb else { panic!("another verb") };
        assert_eq!(run.command, ["/bin/ls", "-l", "--x"]);
        assert_eq!((run.cpus, run.memory), (1, 512 << 20));
    }

    #[test]
    fn disks_may_be_named_before_or_after_the_verb() {
        for args in [["--disk", "a.img", "list"], ["list", "--disk", "a.img"]] {
            let cli = Cli::try_parse_from(["tarn", "zfs"].into_iter().chain(args)).unwrap();
            let Verb::Zfs(zfs) = cli.verb else { panic!("another verb") };
            assert_eq!(zfs.disks.disks, [PathBuf::from("a.img")]);
        }
    }

    #[test]
    fn pairs_need_a_name_and_an_equals_sign() {
        assert_eq!(pair("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(pair("=b").is_err());
        assert!(pair("ab").is_err());
    }
}
