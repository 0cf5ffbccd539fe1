//! A whole pool in memory, that a real one is compared with: file systems, snapshots, clones; and random operations on both.
//!
//! [`World::step`] does one operation and says what it promised: what of everything done so far must survive a power cut from
//! now on. [`World::check`] compares all of the real pool with the model.

mod clone;
mod dsl;

use crate::model::{Limits, Model, Rng, compare, read_all, resolve, step, write_through};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::sync::Arc;
use zfs::spa::Pool;
use zfs::zpl::{Filesystem, MountOptions};

/// What survives a power cut from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Promise {
    /// Nothing more than before.
    Nothing,
    /// All names of a file system, and all that was done to one file.
    File {
        /// The file system.
        dataset: String,
        /// The file's number in the model.
        identity: u64,
    },
    /// Everything done to a file system.
    Dataset(String),
    /// Everything.
    Pool,
}

/// A file system of the model.
#[derive(Debug, Clone, Default)]
pub struct Dataset {
    /// Its files.
    pub files: Model,
    /// Its snapshots, oldest first.
    pub snapshots: Vec<(String, Arc<Model>)>,
    /// The snapshot that it is a clone of.
    pub origin: Option<String>,
    /// Properties that were set on it.
    pub properties: BTreeMap<&'static str, String>,
}

/// All file systems by name. Cloning is cheap.
pub type State = BTreeMap<String, Dataset>;

/// What an operation did, for people who read a failure.
pub type Story = String;

/// A pool and its model.
pub struct World {
    pool: Arc<Pool>,
    state: State,
    mounts: BTreeMap<String, Arc<Filesystem>>,
    limits: Limits,
    /// For names that are never used twice.
    next: u64,
}

/// Whether a pool has a feature.
fn has(pool: &Pool, feature: &str) -> bool {
    pool.get_property(&format!("feature@{feature}")).is_ok_and(|(state, _)| state != "disabled")
}

impl World {
    /// A pool that holds nothing but its empty root file system.
    #[must_use]
    pub fn new(pool: Arc<Pool>, limits: Limits) -> Self {
        let limits = Limits { long_names: has(&pool, "longname"), ..limits };
        let root = Dataset { files: Model::new(limits), ..Dataset::default() };
        let state = State::from([(pool.name(), root)]);
        World { pool, state, mounts: BTreeMap::new(), limits, next: 0 }
    }

    /// A pool whose content is `state`: it was imported anew, say.
    #[must_use]
    pub fn resume(pool: Arc<Pool>, state: State, limits: Limits, next: u64) -> Self {
        let limits = Limits { long_names: has(&pool, "longname"), ..limits };
        World { pool, state, mounts: BTreeMap::new(), limits, next }
    }

    /// The pool as it is found: its content is read and believed.
    pub fn adopt(pool: Arc<Pool>, limits: Limits, next: u64) -> Result<Self> {
        let mut state = State::new();
        for dataset in pool.dsl().datasets()? {
            let name = dataset.name();
            let mut snapshots = Vec::new();
            for snapshot in dataset.snapshots()? {
                let short =
                    snapshot.name().split_once('@').context("a snapshot's name has an @")?.1.to_owned();
                snapshots.push((short, Arc::new(adopt_files(&pool, &snapshot.name(), limits)?)));
            }
            let files = adopt_files(&pool, &name, limits)?;
            let origin = dataset.origin()?.map(|o| o.name());
            state.insert(name, Dataset { files, snapshots, origin, properties: BTreeMap::new() });
        }
        Ok(World { pool, state, mounts: BTreeMap::new(), limits, next })
    }

    /// The pool.
    #[must_use]
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// What the pool should hold.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Numbers below this were used for names.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Unmounts everything; the pool can be exported then.
    pub fn unmount_all(&mut self) -> Result<()> {
        for (_, fs) in core::mem::take(&mut self.mounts) {
            fs.unmount()?;
        }
        Ok(())
    }

    fn fs(&mut self, dataset: &str) -> Result<Arc<Filesystem>> {
        if let Some(fs) = self.mounts.get(dataset) {
            return Ok(Arc::clone(fs));
        }
        let fs = mount(&self.pool, dataset, false)?;
        self.mounts.insert(dataset.to_owned(), Arc::clone(&fs));
        Ok(fs)
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// One random operation. An error says where the pool and the model do not agree.
    pub fn step(&mut self, rng: &mut Rng) -> Result<(Promise, Story)> {
        match rng.below(100) {
            0..=5 => self.dsl_step(rng),
            6..=8 => {
                self.pool.sync()?;
                Ok((Promise::Pool, "sync the pool".into()))
            }
            9..=11 => {
                let dataset = self.pick_dataset(rng);
                self.fs(&dataset)?.sync()?;
                Ok((self.kept(&dataset), format!("syncfs {dataset}")))
            }
            12..=24 => self.fsync(rng),
            25..=36 if self.pool.clones_blocks() => self.clone_step(rng),
            _ => {
                let dataset = self.pick_dataset(rng);
                let fs = self.fs(&dataset)?;
                let files = &mut self.state.get_mut(&dataset).context("it was just picked")?.files;
                step(&fs, files, rng);
                Ok((self.kept_at_once(&dataset), format!("files of {dataset}")))
            }
        }
    }

    fn fsync(&mut self, rng: &mut Rng) -> Result<(Promise, Story)> {
        let dataset = self.pick_dataset(rng);
        let fs = self.fs(&dataset)?;
        let files = &mut self.state.get_mut(&dataset).context("it was just picked")?.files;
        let Some(path) = files.pick_file(rng) else { return Ok((Promise::Nothing, "no file".into())) };
        let identity = files.files()[&path].identity;
        let through = rng.below(3) == 0;
        match through {
            true => write_through(&fs, files, &path, rng),
            false => fs.fsync(resolve(&fs, &path)?)?,
        }
        let promise = match self.kept(&dataset) {
            Promise::Nothing => Promise::Nothing,
            _ => Promise::File { dataset: dataset.clone(), identity },
        };
        let how = if through { "write through" } else { "fsync" };
        Ok((promise, format!("{how} {dataset}:{path}")))
    }

    /// With `sync=disabled` nothing is promised.
    fn kept(&self, dataset: &str) -> Promise {
        match self.property(dataset, "sync").as_deref() {
            Some("disabled") => Promise::Nothing,
            _ => Promise::Dataset(dataset.to_owned()),
        }
    }

    /// With `sync=always` everything that is done is.
    fn kept_at_once(&self, dataset: &str) -> Promise {
        match self.property(dataset, "sync").as_deref() {
            Some("always") => Promise::Dataset(dataset.to_owned()),
            _ => Promise::Nothing,
        }
    }

    /// A property as the model knows it: of the dataset or of the nearest parent where it is set.
    fn property(&self, dataset: &str, name: &str) -> Option<String> {
        let mut at = Some(dataset);
        while let Some(dataset) = at {
            if let Some(value) = self.state.get(dataset).and_then(|d| d.properties.get(name)) {
                return Some(value.clone());
            }
            at = dataset.rsplit_once('/').map(|(parent, _)| parent);
        }
        None
    }

    fn pick_dataset(&self, rng: &mut Rng) -> String {
        let names: Vec<&String> = self.state.keys().collect();
        names[rng.below(names.len() as u64) as usize].clone()
    }

    /// Everything in the pool is as the model says: names, files, snapshots, properties.
    pub fn check(&mut self) -> Result<()> {
        let found: Vec<String> = names(&self.pool)?;
        let want = names_of(&self.state);
        ensure!(found == want, "datasets: found {found:?}, wanted {want:?}");
        for (name, dataset) in self.state.clone() {
            let fs = match self.pool.is_read_only() {
                true => mount(&self.pool, &name, true)?,
                false => self.fs(&name)?,
            };
            compare(&fs, &dataset.files).with_context(|| name.clone())?;
            for (snapshot, files) in &dataset.snapshots {
                let full = format!("{name}@{snapshot}");
                let fs = mount(&self.pool, &full, true)?;
                compare(&fs, files).with_context(|| full)?;
            }
            let real = self.pool.dsl().lookup(&name)?;
            for (property, value) in &dataset.properties {
                let found = real.get(property)?;
                ensure!(found.text == *value, "{name}: {property} is {}, not {value}", found.text);
            }
        }
        Ok(())
    }
}

/// Mounts a dataset or snapshot.
pub fn mount(pool: &Arc<Pool>, dataset: &str, read_only: bool) -> zfs::Result<Arc<Filesystem>> {
    Filesystem::mount(pool, pool.dsl().lookup(dataset)?, MountOptions { read_only, no_atime: true })
}

/// All names of a pool, sorted: `DATASET`, `CLONE<ORIGIN`, `DATASET@SNAPSHOT`.
pub fn names(pool: &Arc<Pool>) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for dataset in pool.dsl().datasets()? {
        names.push(label(&dataset.name(), dataset.origin()?.map(|o| o.name())));
        for snapshot in dataset.snapshots()? {
            names.push(snapshot.name());
        }
    }
    names.sort();
    Ok(names)
}

/// The same of a model.
#[must_use]
pub fn names_of(state: &State) -> Vec<String> {
    let mut names = Vec::new();
    for (name, dataset) in state {
        names.push(label(name, dataset.origin.clone()));
        names.extend(dataset.snapshots.iter().map(|(s, _)| format!("{name}@{s}")));
    }
    names.sort();
    names
}

fn label(name: &str, origin: Option<String>) -> String {
    match origin {
        Some(origin) => format!("{name}<{origin}"),
        None => name.to_owned(),
    }
}

/// What a file system of another's pool holds; what comes gets numbers of its own.
fn adopt_files(pool: &Arc<Pool>, name: &str, limits: Limits) -> Result<Model> {
    let mut files = read_all(&*mount(pool, name, true)?)?;
    files.set_limits(limits);
    files.number_on();
    Ok(files)
}
