//! `tarn zfs`.

use super::{Disks, Listing, pair};
use crate::quantity;
use clap::{Args, Subcommand};

/// `tarn zfs --disk IMG… VERB`.
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Examples:\n  \
        tarn zfs --disk app.img list -t all\n  \
        tarn zfs --disk app.img get -H -o value compression tarn/root\n  \
        tarn zfs --disk app.img set compression=zstd tarn/root\n  \
        tarn zfs --disk app.img snapshot -r tarn@before\n  \
        tarn zfs --disk app.img diff tarn/root@before tarn/root\n  \
        tarn zfs --disk app.img create -V 1G tarn/volume\n  \
        tarn zfs --disk app.img bookmark tarn/root@before tarn/root#before\n  \
        tarn zfs --disk app.img rollback tarn/root@before\n  \
        tarn zfs --disk app.img destroy tarn/root@before"
)]
pub struct Zfs {
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
    /// Datasets and the space they use
    List(List),
    /// Properties of datasets
    Get(Get),
    /// Change properties
    Set(Set),
    /// Let properties be inherited again
    Inherit(Inherit),
    /// Make a file system or (with -V) a volume
    Create(Create),
    /// Make snapshots, all at once
    #[command(visible_alias = "snap")]
    Snapshot(Snapshot),
    /// Go back to a snapshot
    Rollback(Rollback),
    /// Destroy a dataset or snapshots
    Destroy(Destroy),
    /// Make a writable copy of a snapshot that shares its blocks
    Clone(Clone),
    /// Make a clone the owner of the snapshots that it shares with its origin
    Promote(Promote),
    /// Remember a snapshot for incremental sends, without its blocks
    Bookmark(Bookmark),
    /// Keep snapshots from being destroyed
    Hold(Hold),
    /// Release holds on snapshots
    Release(Release),
    /// Holds on snapshots
    Holds(Holds),
    /// Give a dataset or snapshot another name
    Rename(Rename),
    /// Space and objects of each user, and their quotas
    Userspace(Space),
    /// Space and objects of each group, and their quotas
    Groupspace(Space),
    /// Space and objects of each project, and their quotas
    Projectspace(Space),
    /// Projects of files and directories: list, check, set or clear them
    Project(Project),
    /// What differs between a snapshot and a later state
    Diff(Diff),
    /// Try a key; none stays loaded when tarn ends
    LoadKey(LoadKey),
    /// Says that no key stays loaded
    UnloadKey(UnloadKey),
}

/// `zfs list`.
#[derive(Debug, Args)]
pub struct List {
    /// How it is printed.
    #[command(flatten)]
    pub listing: Listing,
    /// Columns, in this order
    #[arg(short = 'o', value_delimiter = ',', value_name = "PROPERTY,…")]
    pub columns: Vec<String>,
    /// Types: filesystem, volume, snapshot, bookmark, all
    #[arg(short = 't', value_delimiter = ',', value_name = "TYPE,…")]
    pub types: Vec<String>,
    /// Children too
    #[arg(short = 'r')]
    pub recursive: bool,
    /// Children down to this depth
    #[arg(short = 'd', value_name = "DEPTH")]
    pub depth: Option<usize>,
    /// Sort by this property, smallest first
    #[arg(short = 's', value_name = "PROPERTY")]
    pub sort: Vec<String>,
    /// Sort by this property, largest first; `-s` and `-S` are repeatable, the first counts most
    #[arg(short = 'S', value_name = "PROPERTY")]
    pub sort_descending: Vec<String>,
    /// Datasets; without any, all
    pub datasets: Vec<String>,
}

/// `zfs get`.
#[derive(Debug, Args)]
pub struct Get {
    /// How it is printed.
    #[command(flatten)]
    pub listing: Listing,
    /// Columns: name, property, value, source
    #[arg(short = 'o', value_delimiter = ',', value_name = "COLUMN,…")]
    pub columns: Vec<String>,
    /// Only values from these: local, default, inherited, received, temporary, none
    #[arg(short = 's', value_delimiter = ',', value_name = "SOURCE,…")]
    pub sources: Vec<String>,
    /// Types: filesystem, volume, snapshot, all
    #[arg(short = 't', value_delimiter = ',', value_name = "TYPE,…")]
    pub types: Vec<String>,
    /// Children too
    #[arg(short = 'r')]
    pub recursive: bool,
    /// Children down to this depth
    #[arg(short = 'd', value_name = "DEPTH")]
    pub depth: Option<usize>,
    /// Properties with commas between, or all
    #[arg(value_name = "PROPERTY,…")]
    pub properties: String,
    /// Datasets; without any, all
    pub datasets: Vec<String>,
}

/// `zfs set`.
#[derive(Debug, Args)]
pub struct Set {
    /// PROPERTY=VALUE…, then the datasets
    #[arg(required = true, num_args = 2.., value_name = "PROPERTY=VALUE… DATASET")]
    pub words: Vec<String>,
}

/// `zfs inherit`.
#[derive(Debug, Args)]
pub struct Inherit {
    /// Children too
    #[arg(short = 'r')]
    pub recursive: bool,
    /// Back to the value that came with a received stream, if there is one
    #[arg(short = 'S')]
    pub received: bool,
    /// The property
    pub property: String,
    /// The datasets
    #[arg(required = true)]
    pub datasets: Vec<String>,
}

/// `zfs create`.
#[derive(Debug, Args)]
pub struct Create {
    /// Make missing parents
    #[arg(short = 'p')]
    pub parents: bool,
    /// A volume of this size
    #[arg(short = 'V', value_name = "SIZE", value_parser = |t: &str| quantity::parse_size(t).map_err(|e| e.to_string()))]
    pub volume: Option<u64>,
    /// Of a volume: reserve no space
    #[arg(short = 's', requires = "volume")]
    pub sparse: bool,
    /// Of a volume: its block size
    #[arg(short = 'b', value_name = "SIZE", requires = "volume", value_parser = |t: &str| quantity::parse_size(t).map_err(|e| e.to_string()))]
    pub block_size: Option<u64>,
    /// Only say what would be made
    #[arg(short = 'n')]
    pub dry_run: bool,
    /// Say what is made
    #[arg(short = 'v')]
    pub verbose: bool,
    /// Say it for scripts: keys and values with tabs between
    #[arg(short = 'P')]
    pub parsable: bool,
    /// Do not mount it (nothing is mounted here)
    #[arg(short = 'u')]
    pub unmounted: bool,
    /// Property; repeatable
    #[arg(short = 'o', value_name = "PROPERTY=VALUE", value_parser = pair)]
    pub properties: Vec<(String, String)>,
    /// Its name
    pub dataset: String,
}

/// `zfs snapshot`.
#[derive(Debug, Args)]
pub struct Snapshot {
    /// Of all children too
    #[arg(short = 'r')]
    pub recursive: bool,
    /// User property of the snapshots; repeatable
    #[arg(short = 'o', value_name = "PROPERTY=VALUE", value_parser = pair)]
    pub properties: Vec<(String, String)>,
    /// DATASET@NAME
    #[arg(required = true)]
    pub snapshots: Vec<String>,
}

/// `zfs rollback`.
#[derive(Debug, Args)]
pub struct Rollback {
    /// Destroy the snapshots and bookmarks that are newer
    #[arg(short = 'r')]
    pub destroy_newer: bool,
    /// The same, and the clones of these snapshots with all below them
    #[arg(short = 'R')]
    pub destroy_clones: bool,
    /// Unmount clones by force (nothing is mounted here)
    #[arg(short = 'f')]
    pub force: bool,
    /// DATASET@NAME
    pub snapshot: String,
}

/// `zfs destroy`.
#[derive(Debug, Args)]
pub struct Destroy {
    /// Children (of a snapshot: the snapshots of that name on all children) too
    #[arg(short = 'r')]
    pub recursive: bool,
    /// All that depends on it too: clones wherever they are, with all below them
    #[arg(short = 'R')]
    pub dependents: bool,
    /// Unmount by force (nothing is mounted here)
    #[arg(short = 'f')]
    pub force: bool,
    /// Say what is done, for scripts
    #[arg(short = 'p')]
    pub parsable: bool,
    /// Destroy a snapshot later, when its last clone or hold is gone
    #[arg(short = 'd')]
    pub defer: bool,
    /// Only say what would be done
    #[arg(short = 'n')]
    pub dry_run: bool,
    /// Say what is done
    #[arg(short = 'v')]
    pub verbose: bool,
    /// DATASET, DATASET@SNAP[%SNAP][,SNAP[%SNAP]]… or DATASET#BOOKMARK
    pub dataset: String,
}

/// `zfs clone`.
#[derive(Debug, Args)]
pub struct Clone {
    /// Make missing parents
    #[arg(short = 'p')]
    pub parents: bool,
    /// Property; repeatable
    #[arg(short = 'o', value_name = "PROPERTY=VALUE", value_parser = pair)]
    pub properties: Vec<(String, String)>,
    /// The snapshot
    pub snapshot: String,
    /// Name of the new dataset
    pub dataset: String,
}

/// `zfs rename`.
#[derive(Debug, Args)]
pub struct Rename {
    /// Snapshots of that name on all children too
    #[arg(short = 'r')]
    pub recursive: bool,
    /// Make missing parents
    #[arg(short = 'p')]
    pub parents: bool,
    /// Do not mount it anew (nothing is mounted here)
    #[arg(short = 'u')]
    pub unmounted: bool,
    /// Unmount by force (nothing is mounted here)
    #[arg(short = 'f')]
    pub force: bool,
    /// The name now
    pub from: String,
    /// The name to be
    pub to: String,
}

/// `zfs promote`.
#[derive(Debug, Args)]
pub struct Promote {
    /// The clone
    pub clone: String,
}

/// `zfs bookmark`.
#[derive(Debug, Args)]
pub struct Bookmark {
    /// DATASET@SNAP or DATASET#BOOKMARK
    pub source: String,
    /// DATASET#NAME
    pub bookmark: String,
}

/// `zfs hold`.
#[derive(Debug, Args)]
pub struct Hold {
    /// The snapshots of that name on all children too
    #[arg(short = 'r')]
    pub recursive: bool,
    /// Why they are held
    pub tag: String,
    /// DATASET@NAME
    #[arg(required = true)]
    pub snapshots: Vec<String>,
}

/// `zfs release`.
#[derive(Debug, Args)]
pub struct Release {
    /// The snapshots of that name on all children too
    #[arg(short = 'r')]
    pub recursive: bool,
    /// The hold's tag
    pub tag: String,
    /// DATASET@NAME
    #[arg(required = true)]
    pub snapshots: Vec<String>,
}

/// `zfs holds`.
#[derive(Debug, Args)]
pub struct Holds {
    /// How it is printed.
    #[command(flatten)]
    pub listing: Listing,
    /// The snapshots of that name on all children too
    #[arg(short = 'r')]
    pub recursive: bool,
    /// DATASET@NAME
    #[arg(required = true)]
    pub snapshots: Vec<String>,
}

/// `zfs userspace`, `groupspace`, `projectspace`.
#[derive(Debug, Args)]
pub struct Space {
    /// How it is printed.
    #[command(flatten)]
    pub listing: Listing,
    /// Numbers of users and groups instead of the names that this machine has for them
    #[arg(short = 'n')]
    pub numeric: bool,
    /// Columns: type, name, used, quota, objused, objquota
    #[arg(short = 'o', value_delimiter = ',', value_name = "COLUMN,…")]
    pub columns: Vec<String>,
    /// Sort by type, name, used or quota, smallest first
    #[arg(short = 's', value_name = "COLUMN")]
    pub sort: Vec<String>,
    /// Sort by that, largest first; `-s` and `-S` are repeatable, the first counts most
    #[arg(short = 'S', value_name = "COLUMN")]
    pub sort_descending: Vec<String>,
    /// Types: posixuser, smbuser, posixgroup, smbgroup, all
    #[arg(short = 't', value_delimiter = ',', value_name = "TYPE,…")]
    pub types: Vec<String>,
    /// The file system or snapshot
    pub dataset: String,
}

/// `zfs project`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    tarn zfs --disk app.img project tank/home:/alice          list\n  \
    tarn zfs --disk app.img project -p 7 -rs tank/home:/alice what is there and what comes belongs to project 7\n  \
    tarn zfs --disk app.img project -cr tank/home:/alice      what does not\n  \
    tarn zfs --disk app.img set projectquota@7=10G tank/home")]
pub struct Project {
    /// Only the directory itself
    #[arg(short = 'd')]
    pub directory_only: bool,
    /// Everything below directories, too
    #[arg(short = 'r')]
    pub recursive: bool,
    /// The project's id
    #[arg(short = 'p', value_name = "ID", value_parser = clap::value_parser!(u64).range(..u64::from(u32::MAX)))]
    pub id: Option<u64>,
    /// What is made in the directories gets their project
    #[arg(short = 's')]
    pub inherit: bool,
    /// Take files out of their projects
    #[arg(short = 'C')]
    pub clear: bool,
    /// With -C: keep the id, and only hand it on no more
    #[arg(short = 'k')]
    pub keep: bool,
    /// List what does not have the id, or does not hand it on
    #[arg(short = 'c', conflicts_with = "clear")]
    pub check: bool,
    /// With -c: end names by zero bytes, without a reason
    #[arg(short = '0')]
    pub null: bool,
    /// Files and directories
    #[arg(required = true, value_name = "DATASET:/PATH")]
    pub targets: Vec<String>,
}

/// `zfs diff`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct Diff {
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    pub help: Option<bool>,
    /// For scripts: tabs between columns
    #[arg(short = 'H')]
    pub script: bool,
    /// Show the type of each file
    #[arg(short = 'F')]
    pub classify: bool,
    /// Show when each change was made: the inode's change time
    #[arg(short = 't')]
    pub time: bool,
    /// Names as they are, without escapes
    #[arg(short = 'h')]
    pub raw_names: bool,
    /// Only how many were added, removed, modified and renamed
    #[arg(short = 'c', long)]
    pub count: bool,
    /// The older snapshot
    pub from: String,
    /// A later snapshot, or the file system (which is meant if nothing is given)
    pub to: Option<String>,
}

/// `tarn zfs load-key`.
#[derive(Debug, Args)]
#[command(
    after_help = "Nothing of tarn goes on running, so no key stays loaded: this only tells whether the key is right. To see encrypted \
    data, give the key to the verb that shows it.\n\nExamples:\n  \
    tarn zfs --disk pool.img load-key tank/secret\n  \
    tarn zfs --disk pool.img load-key -L file:///root/key tank/secret\n  \
    tarn ls --key tank/secret=prompt pool.img:tank/secret:/"
)]
pub struct LoadKey {
    /// Only try the key, and say nothing if it is right
    #[arg(short = 'n')]
    pub dry_run: bool,
    /// Where the key is, instead of the property keylocation: prompt, file:///PATH or hex:DIGITS
    #[arg(short = 'L', value_name = "KEYLOCATION")]
    pub location: Option<String>,
    /// The encryption root
    pub dataset: String,
}

/// `tarn zfs unload-key`.
#[derive(Debug, Args)]
pub struct UnloadKey {
    /// The encryption root
    pub dataset: String,
}
