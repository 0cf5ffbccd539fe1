//! `tarn create`: a source tree becomes a pool image.

mod size;

use super::fill::{self, How, Into};
use super::new_pool;
use super::open::environment;
use crate::cli;
use crate::image::NewImage;
use crate::source::{self, Tree};
use anyhow::{Result, ensure};
use platform::Env;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;
use zfs::dsl::{CreateFs, Kind};
use zfs::spa::{CreateOptions, Pool};
use zfs::zpl::{Filesystem, MountOptions};

/// The root file system's name below the pool.
const ROOT: &str = "root";

/// Builds the images. They get their names only when everything is in them and durable.
pub(crate) fn run(options: &cli::Create) -> Result<ExitCode> {
    let started = Instant::now();
    new_pool::check_name(&options.pool)?;
    check_properties(options)?;
    let tree = match &options.from {
        Some(path) => source::open(path)?,
        None => source::empty(),
    };
    let tree = Arc::new(tree);
    for note in &tree.notes {
        eprintln!("tarn: note: {note}");
    }
    let totals = tree.totals();
    let size = options.size.unwrap_or_else(|| size::automatic(&tree, options));
    let mut images = Vec::new();
    for path in &options.images {
        images.push(NewImage::new(path, size, options.force)?);
    }
    let devices = images.iter().map(NewImage::device).collect::<Result<Vec<_>>>()?;
    let env = environment(options.seed)?;
    let built = build(options, &tree, devices, &env);
    let written = built.map_err(|e| match e.downcast_ref::<zfs::Error>() {
        Some(zfs::Error::NoSpace) if options.size.is_some() => e.context(format!(
            "{}: the files do not fit into {}: choose a larger --size",
            options.images[0].display(),
            crate::quantity::human(size)
        )),
        _ => e.context(options.images[0].display().to_string()),
    })?;
    for image in images {
        image.commit()?;
    }
    if !options.quiet {
        let seconds = started.elapsed().as_secs_f64().max(0.001);
        let megabytes = written as f64 / f64::from(1 << 20);
        println!(
            "{}: pool {}, {} files, {megabytes:.1} MiB of data in {seconds:.1} s ({:.0} files/s, {:.1} MiB/s)",
            options.images[0].display(),
            options.pool,
            totals.entries - 1,
            (totals.entries - 1) as f64 / seconds,
            megabytes / seconds
        );
    }
    Ok(ExitCode::SUCCESS)
}

type Devices = Vec<Arc<dyn platform::block::BlockDevice>>;

fn build(options: &cli::Create, tree: &Arc<Tree>, devices: Devices, env: &Env) -> Result<u64> {
    let pool = Pool::create(devices, env.clone(), pool_options(options, env)?)?;
    let name = format!("{}/{ROOT}", options.pool);
    let properties = [("mountpoint", "/"), ("canmount", "noauto")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    let create = CreateFs {
        kind: Kind::Filesystem,
        properties: properties.to_vec(),
        init: new_pool::init_fs(&options.properties, env),
        parents: None,
    };
    let dataset = pool.dsl().create_dataset(&name, create)?;
    let fs = Filesystem::mount(&pool, dataset, MountOptions { read_only: false, no_atime: true })?;
    let how = How {
        verb: "building",
        quiet: options.quiet,
        preserve: true,
        all_root: options.all_root,
        into: Into::New,
    };
    let filled = fill::fill(&fs, tree, how, env);
    // Also after an error: a mounted file system keeps the pool from being closed.
    let unmounted = fs.unmount();
    let written = filled?;
    unmounted?;
    drop(fs);
    let mut user: Vec<(&str, String)> = Vec::new();
    if let Some(command) = &options.cmd {
        user.push(("tarn:cmd", command.clone()));
    }
    if !options.env.is_empty() {
        let lines: Vec<String> = options.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        user.push(("tarn:env", lines.join("\n")));
    }
    if let Some(folder) = &options.cwd {
        user.push(("tarn:cwd", folder.clone()));
    }
    if !user.is_empty() {
        let pairs: Vec<(&str, &str)> = user.iter().map(|(k, v)| (*k, v.as_str())).collect();
        pool.dsl().set_properties(&name, &pairs)?;
    }
    pool.set_property("bootfs", &name)?;
    pool.export()?;
    Ok(written)
}

fn pool_options(options: &cli::Create, env: &Env) -> Result<CreateOptions> {
    let mut pool = new_pool::options(&options.pool, &options.pool_properties, &options.properties, env)?;
    pool.root_properties = root_properties(options);
    // As the guest will find them. No path of this machine gets into the image.
    pool.device_paths = ('a'..='z').take(options.images.len()).map(|disk| format!("/dev/vd{disk}")).collect();
    pool.command = Some(history(options));
    Ok(pool)
}

fn history(options: &cli::Create) -> String {
    let end = format!("--pool {}", options.pool);
    new_pool::history("tarn create", &options.pool_properties, &options.properties, &end)
}

/// What all datasets inherit. The user's word comes last and so wins.
fn root_properties(options: &cli::Create) -> Vec<(String, String)> {
    // As Linux mounts: without `relatime` every reading of a file would become a write.
    let defaults = [
        ("canmount", "off"),
        ("mountpoint", "none"),
        ("compression", "lz4"),
        ("xattr", "sa"),
        ("relatime", "on"),
    ];
    let ours = defaults.iter().filter(|(name, _)| !options.properties.iter().any(|(given, _)| given == name));
    let ours = ours.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    ours.chain(options.properties.iter().cloned()).collect()
}

/// Finds mistakes before any file is made.
fn check_properties(options: &cli::Create) -> Result<()> {
    for (name, _) in &options.env {
        ensure!(!name.contains('\n'), "--env {name:?}: a name on one line");
    }
    for (_, value) in &options.env {
        ensure!(!value.contains('\n'), "--env: a value on one line");
    }
    new_pool::check_properties(&options.properties)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn options(args: &[&str]) -> cli::Create {
        let cli = cli::Cli::try_parse_from(["tarn", "create", "a.img"].iter().chain(args)).unwrap();
        let cli::Verb::Create(create) = cli.verb else { panic!("another verb") };
        create
    }

    #[test]
    fn the_users_property_wins() {
        let list = root_properties(&options(&["-O", "compression=zstd", "-O", "recordsize=16K"]));
        let text: Vec<String> = list.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(
            text,
            [
                "canmount=off",
                "mountpoint=none",
                "xattr=sa",
                "relatime=on",
                "compression=zstd",
                "recordsize=16K"
            ]
        );
    }

    #[test]
    fn history_tells_nothing_of_this_machine() {
        let line = history(&options(&["--from", "/home/me/secret", "-O", "compression=off"]));
        assert_eq!(line, "tarn create -O compression=off --pool tarn");
    }
}
