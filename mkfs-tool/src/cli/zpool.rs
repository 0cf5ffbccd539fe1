//! `tarn zpool`.

use super::{Disks, Listing, pair};
use clap::{Args, Subcommand, ValueHint};
use std::ffi::OsString;
use std::path::PathBuf;

/// `tarn zpool --disk IMG… VERB`.
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Examples:\n  \
        tarn zpool --disk app.img list\n  \
        tarn zpool --disk app.img status -v\n  \
        tarn zpool --disk app.img scrub\n  \
        tarn zpool --disk pool-folder/ get all"
)]
pub struct Zpool {
    /// The pool's images.
    #[command(flatten)]
    pub disks: Disks,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a pool on files or disks
    Create(Create),
    /// Size, allocation and health
    List(List),
    /// Devices, errors, features
    Status(Status),
    /// Read and check every copy of every block, and write good copies over bad ones
    Scrub(Scrub),
    /// Tell the devices what is free on them: image files get holes there
    Trim(Trim),
    /// Bring devices what they lack: new ones everything, others what they missed
    Resilver(Resilver),
    /// Put a device beside another, as a side of a mirror
    Attach(Attach),
    /// Take a device out of a mirror, or end a replacement
    Detach(Detach),
    /// Put a device, or a hot spare, in the place of another
    Replace(Replace),
    /// Take devices out of service: they miss what is written from now on
    Offline(Offline),
    /// Put devices into service again
    Online(Online),
    /// Add vdevs, hot spares or cache devices
    Add(Add),
    /// Take hot spares, cache devices or log vdevs out of the pool
    Remove(Remove),
    /// Forget the errors on record
    Clear(Clear),
    /// Keep the pool's state of now, to which import can rewind it; or give it up
    Checkpoint(Checkpoint),
    /// Give the pool another guid, so that it can stand beside a copy of itself
    Reguid(Reguid),
    /// What was done to the pool, and when
    History(History),
    /// Properties of the pool
    Get(Get),
    /// Change a property of the pool
    Set(Set),
    /// Show which features could be enabled, or enable them
    Upgrade(Upgrade),
    /// Show the pools that the given devices hold; or take one over: rename it, and forget which host used it
    Import(Import),
    /// Mark a pool as not in use, after replaying its intent logs
    Export(Export),
    /// Remove the labels of devices that are in no pool any more
    Labelclear(Labelclear),
}

/// How vdevs are written.
const VDEVS: &str = "Vdevs are written as zpool has them: devices alone are a stripe; mirror, raidz1 to raidz3 and draid[P][:Dd][:Cc][:Ss] \
    group those that follow; log, special, dedup, cache and spare say what those that follow are for.";

/// `zpool create`.
#[derive(Debug, Args)]
#[command(after_help = format!("{VDEVS}\n\nExamples:\n  \
    tarn zpool create --size 1G tank mirror a.img b.img\n  \
    tarn zpool create --size 4G -o ashift=12 -O compression=zstd tank raidz2 d0 d1 d2 d3 d4 log l0 spare s0\n  \
    tarn zpool create -n tank draid2:4d:1s d0 d1 d2 d3 d4 d5 d6 d7"))]
pub struct Create {
    /// Also if devices belong to another pool, or differ in size or redundancy; with --size, replace files that exist
    #[arg(short)]
    pub force: bool,
    /// Only show what would be made
    #[arg(short = 'n')]
    pub dry_run: bool,
    /// Enable no feature, but those asked for with -o feature@NAME=enabled
    #[arg(short = 'd')]
    pub no_features: bool,
    /// Property of the pool: ashift=12, comment=…, feature@NAME=disabled, compatibility=openzfs-2.3 (the features of a new pool of that
    /// OpenZFS; without it those of 2.1); repeatable
    #[arg(short = 'o', value_name = "PROPERTY=VALUE", value_parser = pair)]
    pub pool_properties: Vec<(String, String)>,
    /// Property of the root file system; repeatable
    #[arg(short = 'O', value_name = "PROPERTY=VALUE", value_parser = pair)]
    pub properties: Vec<(String, String)>,
    /// Mount point of the root file system
    #[arg(short = 'm', value_name = "PATH|none|legacy")]
    pub mountpoint: Option<String>,
    /// Make the devices: sparse files of this size
    #[arg(long, value_parser = super::size)]
    pub size: Option<u64>,
    /// Make guids and salts from this number instead of the system's randomness
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// The pool's name
    pub pool: String,
    /// What it is made of
    #[arg(value_name = "VDEV", value_hint = ValueHint::AnyPath)]
    pub vdevs: Vec<OsString>,
}

/// `zpool list`.
#[derive(Debug, Args)]
pub struct List {
    /// How it is printed.
    #[command(flatten)]
    pub listing: Listing,
    /// Columns, in this order
    #[arg(short = 'o', value_delimiter = ',', value_name = "PROPERTY,…")]
    pub columns: Vec<String>,
    /// The vdevs, too
    #[arg(short)]
    pub verbose: bool,
    /// Only this pool
    pub pool: Option<String>,
}

/// `zpool status`.
#[derive(Debug, Args)]
pub struct Status {
    /// List damaged files, and the features with their state
    #[arg(short)]
    pub verbose: bool,
    /// How far devices are trimmed
    #[arg(short = 't')]
    pub trim: bool,
    /// JSON
    #[arg(short = 'j', long)]
    pub json: bool,
    /// Only this pool
    pub pool: Option<String>,
}

/// `zpool scrub`.
#[derive(Debug, Args)]
pub struct Scrub {
    /// Only read: check every copy of every block and the space maps, and record nothing in the pool
    #[arg(long)]
    pub verify: bool,
    /// Pause the scrub on record: the next one goes on from there
    #[arg(short = 'p', conflicts_with_all = ["stop", "verify"])]
    pub pause: bool,
    /// Stop the scrub on record
    #[arg(short = 's', conflicts_with = "verify")]
    pub stop: bool,
    /// Wait for the end, as it always does
    #[arg(short = 'w', hide = true)]
    pub wait: bool,
    /// Show no progress bar
    #[arg(short, long)]
    pub quiet: bool,
    /// Only this pool
    pub pool: Option<String>,
}

/// `zpool trim`.
#[derive(Debug, Args)]
#[command(after_help = "A trim that was suspended, or cut off, goes on with the next one.\n\nExamples:\n  \
    tarn zpool --disk app.img trim tank\n  \
    tarn zpool --disk a.img --disk b.img trim -r 100M tank b.img")]
pub struct Trim {
    /// Make what was free unreadable for good: refused, as image files and virtio disks do not promise that
    #[arg(short = 'd')]
    pub secure: bool,
    /// At most that many bytes in a second on each device
    #[arg(short = 'r', value_parser = super::size, conflicts_with_all = ["cancel", "suspend"])]
    pub rate: Option<u64>,
    /// Give an unfinished trim up
    #[arg(short = 'c', conflicts_with = "suspend")]
    pub cancel: bool,
    /// Leave an unfinished trim to the next one
    #[arg(short = 's')]
    pub suspend: bool,
    /// Wait for the end, as it always does
    #[arg(short = 'w', hide = true)]
    pub wait: bool,
    /// Show no progress bar
    #[arg(short, long)]
    pub quiet: bool,
    /// The pool
    pub pool: String,
    /// Only these devices, by the names that status shows or by their guids
    pub devices: Vec<OsString>,
}

/// `zpool resilver`.
#[derive(Debug, Args)]
pub struct Resilver {
    /// Show no progress bar
    #[arg(short, long)]
    pub quiet: bool,
    /// Only this pool
    pub pool: Option<String>,
}

/// How a new device is brought its data.
#[derive(Debug, Args)]
pub struct NewDevice {
    /// Also if the new device belongs to another pool; with --size, replace a file that exists
    #[arg(short)]
    pub force: bool,
    /// Make the new device: a sparse file of this size
    #[arg(long, value_parser = super::size)]
    pub size: Option<u64>,
    /// Leave the resilver to zpool resilver
    #[arg(long)]
    pub later: bool,
    /// Wait for the end of the resilver, as it always does
    #[arg(short = 'w', hide = true)]
    pub wait: bool,
    /// Show no progress bar
    #[arg(short, long)]
    pub quiet: bool,
}

/// `zpool attach`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tarn zpool --disk a.img attach tank a.img b.img --size 2G")]
pub struct Attach {
    /// How the new one gets its data.
    #[command(flatten)]
    pub new: NewDevice,
    /// The pool
    pub pool: String,
    /// The device, by the name that status shows or by its guid
    pub device: OsString,
    /// The new one beside it
    #[arg(value_hint = ValueHint::FilePath)]
    pub new_device: OsString,
}

/// `zpool add`.
#[derive(Debug, Args)]
#[command(after_help = format!("{VDEVS}\n\nExample:\n  tarn zpool --disk folder/ add --size 1G tank mirror c.img d.img"))]
pub struct Add {
    /// Also if devices belong to another pool, or differ in size or redundancy; with --size, replace files that exist
    #[arg(short)]
    pub force: bool,
    /// Only show what would be added
    #[arg(short = 'n')]
    pub dry_run: bool,
    /// ashift=9 to 16, if not that of the pool's vdevs
    #[arg(short = 'o', value_name = "PROPERTY=VALUE", value_parser = pair)]
    pub properties: Vec<(String, String)>,
    /// Make the devices: sparse files of this size
    #[arg(long, value_parser = super::size)]
    pub size: Option<u64>,
    /// The pool
    pub pool: String,
    /// What is added
    #[arg(value_name = "VDEV", value_hint = ValueHint::AnyPath, required = true)]
    pub vdevs: Vec<OsString>,
}

/// `zpool remove`.
#[derive(Debug, Args)]
pub struct Remove {
    /// The pool
    pub pool: String,
    /// Spares, cache devices and log vdevs, by the names that status shows or by their guids
    #[arg(required = true)]
    pub devices: Vec<OsString>,
}

/// `zpool detach`.
#[derive(Debug, Args)]
pub struct Detach {
    /// The pool
    pub pool: String,
    /// The device, by the name that status shows or by its guid
    pub device: OsString,
}

/// `zpool replace`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    tarn zpool --disk a.img --disk b.img replace tank c.img d.img --size 2G\n  \
    tarn zpool --disk folder/ replace tank c.img spare.img")]
pub struct Replace {
    /// How the new one gets its data.
    #[command(flatten)]
    pub new: NewDevice,
    /// The pool
    pub pool: String,
    /// The device, by the name that status shows or by its guid
    pub device: OsString,
    /// What takes its place: a device or one of the pool's hot spares; without it, what is found now where the old one was
    #[arg(value_hint = ValueHint::FilePath)]
    pub new_device: Option<OsString>,
}

/// `zpool offline`.
#[derive(Debug, Args)]
pub struct Offline {
    /// Until the pool is exported: refused, as the pool is exported at the end of the command
    #[arg(short = 't')]
    pub temporary: bool,
    /// The pool
    pub pool: String,
    /// Devices, by the names that status shows or by their guids
    #[arg(required = true)]
    pub devices: Vec<OsString>,
}

/// `zpool online`.
#[derive(Debug, Args)]
pub struct Online {
    /// Make vdevs as large as their devices allow
    #[arg(short = 'e')]
    pub expand: bool,
    /// Leave the resilver to zpool resilver
    #[arg(long)]
    pub later: bool,
    /// Show no progress bar
    #[arg(short, long)]
    pub quiet: bool,
    /// The pool
    pub pool: String,
    /// Devices, by the names that status shows or by their guids
    #[arg(required = true)]
    pub devices: Vec<OsString>,
}

/// `zpool clear`.
#[derive(Debug, Args)]
pub struct Clear {
    /// Only this pool
    pub pool: Option<String>,
}

/// `zpool checkpoint`.
#[derive(Debug, Args)]
pub struct Checkpoint {
    /// Give the checkpoint up, and free what only it held
    #[arg(short, long)]
    pub discard: bool,
    /// Wait until it is given up (tarn always does)
    #[arg(short, long, hide = true)]
    pub wait: bool,
    /// The pool's name
    pub pool: Option<String>,
}

/// `zpool reguid`.
#[derive(Debug, Args)]
pub struct Reguid {
    /// The pool's name
    pub pool: Option<String>,
}

/// `zpool history`.
#[derive(Debug, Args)]
pub struct History {
    /// Internal events too
    #[arg(short = 'i')]
    pub internal: bool,
    /// User and host of each command
    #[arg(short = 'l')]
    pub long: bool,
    /// Only this pool
    pub pool: Option<String>,
}

/// `zpool get`.
#[derive(Debug, Args)]
pub struct Get {
    /// How it is printed.
    #[command(flatten)]
    pub listing: Listing,
    /// Columns: name, property, value, source
    #[arg(short = 'o', value_delimiter = ',', value_name = "COLUMN,…")]
    pub columns: Vec<String>,
    /// Properties with commas between, or all
    #[arg(value_name = "PROPERTY,…")]
    pub properties: String,
    /// Only this pool
    pub pool: Option<String>,
}

/// `zpool set`.
#[derive(Debug, Args)]
pub struct Set {
    /// The property and its value
    #[arg(value_name = "PROPERTY=VALUE", value_parser = pair)]
    pub property: (String, String),
    /// Only this pool
    pub pool: Option<String>,
}

/// `zpool import`.
#[derive(Debug, Args)]
#[command(
    after_help = "Each tarn command opens a pool and closes it again, so importing one means: do what the options ask for, \
    replay the intent logs, and leave the pool exported.\n\nExamples:\n  \
    tarn zpool import -d folder/\n  \
    tarn zpool import -d folder/ tank newtank"
)]
pub struct Import {
    /// Look for devices in this folder, or at this file; repeatable
    #[arg(short = 'd', value_name = "DIR|FILE", value_hint = ValueHint::AnyPath)]
    pub folders: Vec<PathBuf>,
    /// Also if another host used the pool last and did not export it
    #[arg(short)]
    pub force: bool,
    /// Only check that it can be imported, and in which state
    #[arg(short = 'n')]
    pub dry_run: bool,
    /// Where the newest state is damaged, go back to an older one: what was written since is gone
    #[arg(short = 'F')]
    pub rewind: bool,
    /// With -F: however old; what is found may have been overwritten in part since
    #[arg(short = 'X', requires = "rewind")]
    pub extreme: bool,
    /// Go back to the state of this txg or the last one before it
    #[arg(short = 'T', value_name = "TXG", conflicts_with = "rewind")]
    pub txg: Option<u64>,
    /// Go back to the checkpoint: what was written since is gone
    #[arg(long, conflicts_with_all = ["rewind", "txg"])]
    pub rewind_to_checkpoint: bool,
    /// Mount nothing (nothing is ever mounted)
    #[arg(short = 'N', hide = true)]
    pub no_mount: bool,
    /// The pool, by name or guid; without it, all that were found are shown
    pub pool: Option<String>,
    /// Its new name
    #[arg(value_name = "NEWNAME")]
    pub new_name: Option<String>,
}

/// `zpool export`.
#[derive(Debug, Args)]
pub struct Export {
    /// Also if another host used the pool last and did not export it
    #[arg(short)]
    pub force: bool,
    /// Only this pool
    pub pool: Option<String>,
}

/// `zpool labelclear`.
#[derive(Debug, Args)]
pub struct Labelclear {
    /// Also if the labels belong to a pool
    #[arg(short)]
    pub force: bool,
    /// Devices
    #[arg(required = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub devices: Vec<PathBuf>,
}

/// `zpool upgrade`.
#[derive(Debug, Args)]
pub struct Upgrade {
    /// List every feature that this tarn knows
    #[arg(short)]
    pub verbose: bool,
    /// Enable all features that this tarn can write
    #[arg(short, conflicts_with = "verbose")]
    pub all: bool,
    /// The pool: enable all features that this tarn can write
    pub pool: Option<String>,
}
