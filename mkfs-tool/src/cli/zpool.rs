//! `tarn zpool`.

use super::{Disks, Listing, pair};
use clap::{Args, Subcommand};

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
    /// Size, allocation and health
    List(List),
    /// Devices, errors, features
    Status(Status),
    /// Read every copy of every block, check it, and print the result
    Scrub(Scrub),
    /// What was done to the pool, and when
    History(History),
    /// Properties of the pool
    Get(Get),
    /// Change a property of the pool
    Set(Set),
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
    /// Only this pool
    pub pool: Option<String>,
}

/// `zpool status`.
#[derive(Debug, Args)]
pub struct Status {
    /// List damaged files, and the features with their state
    #[arg(short)]
    pub verbose: bool,
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
    /// Show no progress bar
    #[arg(short, long)]
    pub quiet: bool,
    /// Only this pool
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
