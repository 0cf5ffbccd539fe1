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
    /// Give a dataset or snapshot another name
    Rename(Rename),
    /// What differs between a snapshot and a later state
    Diff(Diff),
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
    pub sort: Option<String>,
    /// Sort by this property, largest first
    #[arg(short = 'S', value_name = "PROPERTY", conflicts_with = "sort")]
    pub sort_descending: Option<String>,
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
    /// Only values from these: local, default, inherited, none
    #[arg(short = 's', value_delimiter = ',', value_name = "SOURCE,…")]
    pub sources: Vec<String>,
    /// Types: filesystem, volume, snapshot, all
    #[arg(short = 't', value_delimiter = ',', value_name = "TYPE,…")]
    pub types: Vec<String>,
    /// Children too
    #[arg(short = 'r')]
    pub recursive: bool,
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
    #[arg(short = 'V', value_parser = |t: &str| quantity::parse_size(t).map_err(|e| e.to_string()))]
    pub volume: Option<u64>,
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
    /// DATASET@NAME
    #[arg(required = true)]
    pub snapshots: Vec<String>,
}

/// `zfs rollback`.
#[derive(Debug, Args)]
pub struct Rollback {
    /// Destroy the snapshots that are newer
    #[arg(short = 'r')]
    pub destroy_newer: bool,
    /// DATASET@NAME
    pub snapshot: String,
}

/// `zfs destroy`.
#[derive(Debug, Args)]
pub struct Destroy {
    /// Children (of a snapshot: the snapshots of that name on all children) too
    #[arg(short = 'r')]
    pub recursive: bool,
    /// Destroy a snapshot later, when its last clone or hold is gone
    #[arg(short = 'd')]
    pub defer: bool,
    /// Only say what would be done
    #[arg(short = 'n')]
    pub dry_run: bool,
    /// Say what is done
    #[arg(short = 'v')]
    pub verbose: bool,
    /// DATASET, or DATASET@SNAP[,SNAP…][%SNAP]
    pub dataset: String,
}

/// `zfs clone`.
#[derive(Debug, Args)]
pub struct Clone {
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
    /// The name now
    pub from: String,
    /// The name to be
    pub to: String,
}

/// `zfs diff`.
#[derive(Debug, Args)]
pub struct Diff {
    /// For scripts: tabs between columns
    #[arg(short = 'H')]
    pub script: bool,
    /// Show the type of each file
    #[arg(short = 'F')]
    pub classify: bool,
    /// Only how many were added, removed, modified and renamed
    #[arg(short = 'c', long)]
    pub count: bool,
    /// The older snapshot
    pub from: String,
    /// A later snapshot, or the file system (which is meant if nothing is given)
    pub to: Option<String>,
}
