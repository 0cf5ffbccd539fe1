//! `tarn zfs create`.

use super::request;
use super::select::dataset;
use crate::cli::zfs::Create;
use crate::commands::open::OpenPool;
use anyhow::{Context, Result, bail, ensure};
use zfs::Error;
use zfs::dsl::{CreateFs, InitFs, Kind};
use zfs::ondisk::nvlist::{NvList, Value};
use zfs::{zpl, zvol};

/// Block size of volumes if nobody says, in bytes (`ZVOL_DEFAULT_BLOCKSIZE` of OpenZFS 2.1).
const VOLUME_BLOCK_SIZE: u64 = 8 << 10;

/// What fills a new file system's objset. `fixed`: properties that are set for good.
fn file_system(opened: &OpenPool, fixed: Vec<(&'static str, u64)>) -> InitFs {
    let now = opened.pool.env().clock.now();
    Box::new(move |os, tx| {
        let fixed: Vec<(&str, u64)> = fixed.iter().map(|(name, value)| (*name, *value)).collect();
        zpl::init(os, tx, &fixed, now)
    })
}

/// Makes the missing ones of the file systems above a name.
pub(super) fn ancestors(opened: &OpenPool, name: &str) -> Result<()> {
    let Some((parent, _)) = name.rsplit_once('/') else { return Ok(()) };
    match opened.pool.dsl().lookup(parent) {
        Ok(_) => Ok(()),
        Err(Error::NotFound) => {
            ancestors(opened, parent)?;
            let init = file_system(opened, Vec::new());
            let create = CreateFs { kind: Kind::Filesystem, properties: Vec::new(), init, parents: None };
            let made = opened.pool.dsl().create_dataset(parent, create);
            made.map(|_| ()).with_context(|| format!("cannot create {parent}"))
        }
        Err(error) => Err(error).with_context(|| parent.to_owned()),
    }
}

/// What is to be made of a volume: size and block size in bytes, and its properties with the refreservation.
type Geometry = (u64, u32, Vec<(String, String)>);

fn volume(opened: &OpenPool, options: &Create, size: u64) -> Result<Geometry> {
    let mut properties = options.properties.clone();
    let mut take = |names: &[&str]| {
        let at = properties.iter().position(|(name, _)| names.contains(&name.as_str()))?;
        Some(properties.remove(at).1)
    };
    let block_size = match (take(&["volblocksize", "volblock"]), options.block_size) {
        (Some(_), Some(_)) => bail!("-b and -o volblocksize say the same: give one of them"),
        (Some(text), None) => crate::quantity::parse_size(&text)?,
        (None, size) => size.unwrap_or(VOLUME_BLOCK_SIZE),
    };
    ensure!(
        block_size.is_power_of_two() && (512..=1 << 20).contains(&block_size),
        "volblocksize: a power of 2 from 512 to 1M"
    );
    ensure!(take(&["volsize"]).is_none(), "give a volume's size with -V");
    ensure!(size > 0, "-V 0: a volume has a size");
    let size = size.checked_next_multiple_of(block_size).context("-V: too large")?;
    let reserved = properties.iter().any(|(name, _)| matches!(name.as_str(), "refreservation" | "refreserv"));
    if !options.sparse && !reserved {
        let copies = properties.iter().find(|(name, _)| name == "copies");
        let copies = copies.and_then(|(_, value)| value.parse().ok()).unwrap_or(1);
        let value = opened.pool.dsl().volume_reservation(size, block_size, copies);
        properties.push(("refreservation".to_owned(), value.to_string()));
    }
    properties.push(("volblocksize".to_owned(), block_size.to_string()));
    Ok((size, u32::try_from(block_size)?, properties))
}

/// `zfs create`.
pub(super) fn run(opened: &OpenPool, options: &Create) -> Result<Vec<NvList>> {
    let name = &options.dataset;
    for (index, (property, _)) in options.properties.iter().enumerate() {
        let twice = options.properties[..index].iter().any(|(other, _)| other == property);
        ensure!(!twice, "-o {property}: given twice");
    }
    let exists = opened.pool.dsl().lookup(name).is_ok();
    if options.parents && exists {
        return Ok(Vec::new());
    }
    ensure!(!exists, "cannot create {name}: it exists");
    let (kind, init, properties): (_, InitFs, _) = match options.volume {
        Some(size) => {
            let (size, block_size, properties) = volume(opened, options, size)?;
            let init = Box::new(move |os: &_, tx: &_| zvol::init(os, tx, size, block_size));
            (Kind::Volume, init, properties)
        }
        None => {
            let fixed = crate::commands::new_pool::fixed_properties(&options.properties);
            (Kind::Filesystem, file_system(opened, fixed), options.properties.clone())
        }
    };
    tell(options, &properties);
    if options.dry_run {
        let parent = name.rsplit_once('/').map(|(parent, _)| parent);
        let parent = parent.with_context(|| format!("cannot create {name}: it is no name below a pool"))?;
        return if options.parents { Ok(Vec::new()) } else { dataset(opened, parent).map(|_| Vec::new()) };
    }
    if options.parents {
        ancestors(opened, name)?;
    }
    let recorded = recorded(options, kind, &properties);
    let made = opened.pool.dsl().create_dataset(name, CreateFs { kind, properties, init, parents: None });
    made.map(|_| vec![recorded]).with_context(|| format!("cannot create {name}"))
}

/// The request as the history keeps it.
fn recorded(options: &Create, kind: Kind, properties: &[(String, String)]) -> NvList {
    // `dmu_objset_type_t`.
    let number = if kind == Kind::Volume { 3 } else { 2 };
    let mut list = request::properties(properties);
    if let (Some(size), Some(block)) = (options.volume, list.get_u64("volblocksize")) {
        list.insert("volsize", size.next_multiple_of(block));
    }
    request::request("create", NvList::new().with("type", Value::Int32(number)).with("props", list))
}

/// What is made, as `zfs create -v` and `-P` say it.
fn tell(options: &Create, properties: &[(String, String)]) {
    let name = &options.dataset;
    if options.parsable {
        if options.parents {
            println!("create_ancestors\t{name}");
        }
        println!("create\t{name}");
        properties.iter().for_each(|(name, value)| println!("property\t{name}\t{value}"));
    } else if options.verbose {
        let would = if options.dry_run { "would" } else { "will" };
        if options.parents {
            println!("{would} create ancestors of {name}");
        }
        println!("{would} create {name}");
        properties.iter().for_each(|(name, value)| println!("\t{name}={value}"));
    }
}
