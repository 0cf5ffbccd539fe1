//! `tarn ls`, `cat`, `tree`, `stat`, `cp`.

use clap::{Args, ValueHint};
use std::ffi::OsString;
use std::path::PathBuf;

const PLACES: &str = "IMG is an image, or a directory that holds a pool's images. IMG:/path is in the pool's boot file \
    system; IMG:DATASET:/path and IMG:DATASET@SNAP:/path are in that dataset or snapshot.";

/// `tarn ls`.
#[derive(Debug, Args)]
#[command(after_help = format!("{PLACES}\n\nExamples:\n  tarn ls -l app.img:/etc\n  tarn ls app.img:tarn/root@before:/"))]
pub struct Ls {
    /// Modes, owners, sizes, times
    #[arg(short = 'l')]
    pub long: bool,
    /// Names that begin with a dot too
    #[arg(short = 'a')]
    pub all: bool,
    /// Subdirectories too
    #[arg(short = 'R')]
    pub recursive: bool,
    /// The directory itself, not what it holds
    #[arg(short = 'd')]
    pub directory: bool,
    /// Object numbers
    #[arg(short = 'i')]
    pub inode: bool,
    /// One name per line (always so)
    #[arg(short = '1', hide = true)]
    pub one: bool,
    /// Sizes as 1.5K, 2M
    #[arg(long)]
    pub human: bool,
    /// JSON
    #[arg(short = 'j', long)]
    pub json: bool,
    /// Places
    #[arg(required = true, value_name = "IMG[:DATASET[@SNAP]][:/PATH]", value_hint = ValueHint::AnyPath)]
    pub places: Vec<OsString>,
}

/// `tarn cat`.
#[derive(Debug, Args)]
#[command(after_help = format!("{PLACES}\n\nExample:\n  tarn cat app.img:/etc/hostname"))]
pub struct Cat {
    /// Files
    #[arg(required = true, value_name = "IMG[:DATASET[@SNAP]]:/PATH", value_hint = ValueHint::AnyPath)]
    pub places: Vec<OsString>,
}

/// `tarn tree`.
#[derive(Debug, Args)]
#[command(after_help = format!("{PLACES}\n\nExample:\n  tarn tree -L 2 app.img:/usr"))]
pub struct Tree {
    /// Names that begin with a dot too
    #[arg(short = 'a')]
    pub all: bool,
    /// At most this deep
    #[arg(short = 'L', value_name = "DEPTH")]
    pub depth: Option<usize>,
    /// Only directories
    #[arg(short = 'd')]
    pub directories: bool,
    /// The directory
    #[arg(value_name = "IMG[:DATASET[@SNAP]][:/PATH]", value_hint = ValueHint::AnyPath)]
    pub place: OsString,
}

/// `tarn stat`.
#[derive(Debug, Args)]
#[command(after_help = format!("{PLACES}\n\nExample:\n  tarn stat app.img:/etc/hostname"))]
pub struct Stat {
    /// JSON
    #[arg(short = 'j', long)]
    pub json: bool,
    /// Files
    #[arg(required = true, value_name = "IMG[:DATASET[@SNAP]]:/PATH", value_hint = ValueHint::AnyPath)]
    pub places: Vec<OsString>,
}

/// `tarn cp`.
#[derive(Debug, Args)]
#[command(after_help = format!(
    "{PLACES} A volume is copied as a sparse file by its name, IMG:POOL/VOLUME or IMG:POOL/VOLUME@SNAP. If the target is in an image, files \
     of this machine are copied into it.\n\nExamples:\n  \
     tarn cp app.img:/etc/hostname .\n  \
     tarn cp -a app.img:tarn/root@before:/ restored/\n  \
     tarn cp pool.img:tank/volume@snap volume.raw\n  \
     tarn cp -a site/ app.img:/srv"
))]
pub struct Cp {
    /// Whole trees, with modes, owners, times, links and extended attributes
    #[arg(short = 'a', long)]
    pub archive: bool,
    /// Whole trees
    #[arg(short = 'r', short_alias = 'R', long)]
    pub recursive: bool,
    /// Replace files that exist
    #[arg(short, long)]
    pub force: bool,
    /// Show no progress bar
    #[arg(short, long)]
    pub quiet: bool,
    /// Write to a pool although another host used it last and did not export it
    #[arg(long)]
    pub force_import: bool,
    /// What to copy: places in images, or files of this machine
    #[arg(required = true, value_name = "SOURCE", value_hint = ValueHint::AnyPath)]
    pub places: Vec<OsString>,
    /// Where to: on this machine, or a place in an image
    #[arg(value_name = "TARGET", value_hint = ValueHint::AnyPath)]
    pub target: PathBuf,
}
