//! `tarn zpool create`.

use crate::cli::zpool::Create;
use crate::commands::new_pool;
use crate::commands::open::environment;
use crate::image::{self, NewImage};
use crate::vdev_spec::{Class, Shape, Spec, Vdev};
use anyhow::{Context, Result, bail, ensure};
use platform::block::BlockDevice;
use platform::host::FileDisk;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use zfs::ondisk::features::FEATURES;
use zfs::spa::{NewDevice, NewVdev, Pool, Topology};
use zfs::vdev::partition;

/// How much the devices of one vdev may differ in size without `-f`, in bytes (`ZPOOL_FUZZ`).
const SIZE_FUZZ: u64 = 16 << 20;
/// `pool_state_t`: a pool that was destroyed; its devices are free.
pub(super) const STATE_DESTROYED: u64 = 2;

/// Makes a pool. Devices that were made for it get their names only when it is complete.
pub(super) fn run(options: &Create, disks: &[PathBuf]) -> Result<ExitCode> {
    new_pool::check_name(&options.pool)?;
    new_pool::check_properties(&options.properties)?;
    let words: Vec<OsString> = match (options.vdevs.is_empty(), disks.is_empty()) {
        (false, true) => options.vdevs.clone(),
        (true, false) => disks.iter().map(|disk| disk.clone().into_os_string()).collect(),
        (true, true) => {
            bail!("no device given: name the vdevs, as in zpool create {} mirror a.img b.img", options.pool)
        }
        (false, false) => bail!("the devices are named with --disk or as vdevs, not both"),
    };
    let spec = Spec::parse(&words)?;
    ensure!(spec.of(Class::Data).next().is_some(), "a pool needs a device for data");
    if !options.force {
        spec.check_redundancy(&[])?;
    }
    if options.dry_run {
        println!(
            "would create '{}' with the following layout:\n\n{}",
            options.pool,
            layout(&options.pool, &spec)
        );
        return Ok(ExitCode::SUCCESS);
    }
    let devices = Devices::open(&spec, options.size, options.force)?;
    if !options.force {
        devices.check_sizes(&spec)?;
    }
    let env = environment(options.seed)?;
    let mut properties = options.properties.clone();
    if let Some(mountpoint) = &options.mountpoint {
        properties.push(("mountpoint".to_owned(), mountpoint.clone()));
    }
    let mut pool_properties = options.pool_properties.clone();
    if options.no_features {
        let given = |name: &str| options.pool_properties.iter().any(|(given, _)| given == name);
        let off = FEATURES.iter().map(|f| format!("feature@{}", f.name)).filter(|name| !given(name));
        pool_properties.extend(off.map(|name| (name, "disabled".to_owned())));
    }
    let mut new = new_pool::options(&options.pool, &pool_properties, &properties, &env)?;
    new.root_properties = properties;
    let end = format!("{} {}", options.pool, words_of(&spec));
    new.command =
        Some(new_pool::history("zpool create", &options.pool_properties, &options.properties, &end));
    let topology = devices.topology(&spec);
    let pool = Pool::create(topology, env, new).with_context(|| asked(options))?;
    pool.export().with_context(|| options.pool.clone())?;
    drop(pool);
    devices.commit()?;
    Ok(ExitCode::SUCCESS)
}

/// What was asked for, for an error that does not say which property it means.
fn asked(options: &Create) -> String {
    let all = [("-o", &options.pool_properties), ("-O", &options.properties)];
    let words = all
        .iter()
        .flat_map(|(flag, list)| list.iter().map(move |(name, value)| format!(" {flag} {name}={value}")));
    options.pool.clone() + &words.collect::<String>()
}

/// The devices of a new pool or of an addition to one.
pub(super) struct Devices {
    by_path: BTreeMap<PathBuf, Arc<dyn BlockDevice>>,
    new: Vec<NewImage>,
    _locks: Vec<File>,
}

impl Devices {
    /// Opens those that are there, and makes the others if a size is given. `force` takes what belongs to another pool, and
    /// replaces files where new ones are to be made.
    pub(super) fn open(spec: &Spec, size: Option<u64>, force: bool) -> Result<Self> {
        let mut devices = Devices { by_path: BTreeMap::new(), new: Vec::new(), _locks: Vec::new() };
        for path in spec.devices() {
            devices.add(path, size, force)?;
        }
        Ok(devices)
    }

    fn add(&mut self, path: &Path, size: Option<u64>, force: bool) -> Result<()> {
        let shown = || path.display().to_string();
        let device: Arc<dyn BlockDevice> = if let Some(size) = size {
            let new = NewImage::new(path, size, force)?;
            let device = new.device()?;
            self.new.push(new);
            device
        } else {
            ensure!(path.exists(), "{}: no such file; with --size it would be made", path.display());
            image::check_image(path)?;
            self._locks.push(image::lock(path)?);
            if !force {
                check_unused(FileDisk::open(path, false).with_context(shown)?).with_context(shown)?;
            }
            Arc::new(FileDisk::open(path, true).with_context(shown)?)
        };
        self.by_path.insert(path.to_owned(), device);
        Ok(())
    }

    /// Devices of one vdev are as large as its smallest.
    pub(super) fn check_sizes(&self, spec: &Spec) -> Result<()> {
        for (_, vdev) in &spec.vdevs {
            let sizes: Vec<u64> = vdev.devices.iter().map(|path| self.device(path).info().size).collect();
            let (least, most) =
                (sizes.iter().min().copied().unwrap_or(0), sizes.iter().max().copied().unwrap_or(0));
            ensure!(
                most - least <= SIZE_FUZZ,
                "{} contains devices of different sizes, and the smallest decides; use -f if that is meant",
                vdev.shape
            );
        }
        Ok(())
    }

    fn device(&self, path: &Path) -> &Arc<dyn BlockDevice> {
        self.by_path.get(path).expect("every device of the specification was opened")
    }

    /// One device for the engine. Labels name it by its file name: the folder is this machine's affair.
    pub(super) fn new_device(&self, path: &Path) -> NewDevice {
        let name = path.file_name().unwrap_or(path.as_os_str());
        NewDevice {
            device: Arc::clone(self.device(path)),
            path: Some(format!("/dev/{}", name.to_string_lossy())),
        }
    }

    /// The same for the engine.
    pub(super) fn topology(&self, spec: &Spec) -> Topology {
        let vdev = |vdev: &Vdev| {
            let mut devices: Vec<NewDevice> = vdev.devices.iter().map(|path| self.new_device(path)).collect();
            match vdev.shape {
                Shape::Disk => NewVdev::Disk(devices.remove(0)),
                Shape::Mirror => NewVdev::Mirror(devices),
                Shape::Raidz(parity) => NewVdev::Raidz { parity, devices },
                Shape::Draid { parity, data, spares } => NewVdev::Draid { parity, data, spares, devices },
            }
        };
        let class = |class| spec.of(class).map(vdev).collect();
        let single = |paths: &[PathBuf]| paths.iter().map(|path| self.new_device(path)).collect();
        Topology {
            data: class(Class::Data),
            logs: class(Class::Log),
            specials: class(Class::Special),
            dedups: class(Class::Dedup),
            spares: single(&spec.spares),
            caches: single(&spec.caches),
        }
    }

    /// Gives new files their names.
    pub(super) fn commit(self) -> Result<()> {
        self.new.into_iter().try_for_each(NewImage::commit)
    }
}

/// Refuses a device that belongs to a pool, or one of whose partitions does.
fn check_unused(device: FileDisk) -> Result<()> {
    let device: Arc<dyn BlockDevice> = Arc::new(device);
    let Ok((label, _)) = partition::find(&device) else { return Ok(()) };
    if label.config.get_u64("state") == Some(STATE_DESTROYED) {
        return Ok(());
    }
    match label.config.get_str("name") {
        Some(name) => bail!("is part of pool '{name}': with -f that pool is overwritten"),
        None => bail!("is a spare or cache device of another pool: with -f it is taken"),
    }
}

/// The words of a specification without this machine's folders.
pub(super) fn words_of(spec: &Spec) -> String {
    let mut words: Vec<String> = Vec::new();
    let name = |path: &Path| path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let mut class_now = Class::Data;
    for (class, vdev) in &spec.vdevs {
        if *class != class_now {
            words.push(class.keyword().to_owned());
            class_now = *class;
        }
        if vdev.shape != Shape::Disk {
            words.push(vdev.shape.to_string());
        }
        words.extend(vdev.devices.iter().map(|path| name(path)));
    }
    for (word, paths) in [("cache", &spec.caches), ("spare", &spec.spares)] {
        if !paths.is_empty() {
            words.push(word.to_owned());
            words.extend(paths.iter().map(|path| name(path)));
        }
    }
    words.join(" ")
}

/// What would be made, as `zpool create -n` draws it.
pub(super) fn layout(pool: &str, spec: &Spec) -> String {
    let mut text = format!("\t{pool}\n");
    for class in [Class::Data, Class::Dedup, Class::Special, Class::Log] {
        for (n, vdev) in spec.of(class).enumerate() {
            if n == 0 && class != Class::Data {
                let _ = writeln!(text, "\t{}", class.word());
            }
            let deep = if vdev.shape == Shape::Disk { "" } else { "  " };
            if !deep.is_empty() {
                let _ = writeln!(text, "\t  {}", vdev.shape);
            }
            for device in &vdev.devices {
                let _ = writeln!(text, "\t  {deep}{}", device.display());
            }
        }
    }
    for (word, paths) in [("cache", &spec.caches), ("spares", &spec.spares)] {
        if !paths.is_empty() {
            let _ = writeln!(text, "\t{word}");
            for path in paths {
                let _ = writeln!(text, "\t  {}", path.display());
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> Spec {
        Spec::parse(&text.split_whitespace().map(OsString::from).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn a_layout_is_drawn_as_zpool_draws_it() {
        let drawn = layout("tank", &spec("mirror a b mirror c d log e special mirror f g spare h cache i"));
        assert_eq!(
            drawn,
            "\ttank\n\t  mirror\n\t    a\n\t    b\n\t  mirror\n\t    c\n\t    d\n\tspecial\n\t  mirror\n\t    f\n\t    g\n\tlogs\n\t  e\n\
             \tcache\n\t  i\n\tspares\n\t  h\n"
        );
    }

    #[test]
    fn history_has_no_folders() {
        let text = words_of(&spec("raidz2 /x/a /x/b y/c log mirror d e f spare /z/g"));
        assert_eq!(text, "raidz2 a b c log mirror d e f spare g");
    }
}
