//! Random operations on datasets. Each is one sync task: when it returns, everything done before it is on disk.

use super::{Dataset, Promise, Story, World};
use crate::model::{Model, Rng, env};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::sync::Arc;
use zfs::dsl::{CreateFs, InitFs, Kind};

/// File systems are not made beyond that number, snapshots of one neither.
const DATASETS_MAX: usize = 6;
const SNAPSHOTS_MAX: usize = 5;

/// What new file systems get, one of each list.
const PROPERTIES: [(&str, &[&str]); 7] = [
    ("recordsize", &["512", "4096", "16384", "131072", "1048576"]),
    ("compression", &["off", "lz4", "lzjb", "zle", "gzip-1", "zstd-3", "on"]),
    ("checksum", &["on", "fletcher2", "sha256"]),
    ("logbias", &["latency", "throughput"]),
    ("xattr", &["sa", "on"]),
    ("copies", &["1", "2", "3"]),
    ("sync", &["standard", "standard", "always", "disabled"]),
];
/// Of these, what may change while a file system lives.
const CHANGEABLE: usize = 4;

fn init() -> InitFs {
    let now = env().clock.now();
    Box::new(move |os, tx| zfs::zpl::init(os, tx, &[], now))
}

impl World {
    pub(super) fn dsl_step(&mut self, rng: &mut Rng) -> Result<(Promise, Story)> {
        let dataset = self.pick_dataset(rng);
        let story = match rng.below(16) {
            0 | 1 => self.create(&dataset, rng)?,
            2..=5 => self.snapshot(&dataset, rng)?,
            6 | 7 => self.destroy_snapshot(&dataset, rng)?,
            8 | 9 => self.clone_snapshot(&dataset, rng)?,
            10 => self.promote(&dataset)?,
            11 | 12 => self.roll_back(&dataset, rng)?,
            13 => self.rename(&dataset, rng)?,
            14 => self.set_property(&dataset, rng)?,
            _ => self.destroy(&dataset)?,
        };
        // Refused is not done: nothing was synced.
        let promise = if story.is_some() { Promise::Pool } else { Promise::Nothing };
        Ok((promise, story.unwrap_or_else(|| "nothing to do".into())))
    }

    fn new_child(&mut self, rng: &mut Rng, except: &str) -> String {
        let below = format!("{except}/");
        let parents: Vec<&String> =
            self.state.keys().filter(|n| *n != except && !n.starts_with(&below)).collect();
        let parent = parents[rng.below(parents.len() as u64) as usize].clone();
        format!("{parent}/d{}", self.number())
    }

    /// What a property may become: more in pools that know more.
    fn values_of(&self, property: &str, values: &[&'static str]) -> Vec<&'static str> {
        let strong = property == "checksum" && super::has(&self.pool, "blake3");
        values.iter().copied().chain(strong.then_some("blake3")).collect()
    }

    fn create(&mut self, _: &str, rng: &mut Rng) -> Result<Option<Story>> {
        if self.state.len() >= DATASETS_MAX {
            return Ok(None);
        }
        let name = self.new_child(rng, "");
        let mut properties = BTreeMap::new();
        for (property, values) in PROPERTIES {
            if rng.below(2) == 0 {
                let values = self.values_of(property, values);
                properties.insert(property, values[rng.below(values.len() as u64) as usize].to_owned());
            }
        }
        let text = properties.iter().map(|(n, v)| ((*n).to_owned(), v.clone())).collect();
        let new = CreateFs { kind: Kind::Filesystem, properties: text, init: init(), parents: None };
        self.pool
            .dsl()
            .create_dataset(&name, new)
            .with_context(|| format!("create {name} {properties:?}"))?;
        let story = format!("create {name} {properties:?}");
        let dataset = Dataset { files: Model::new(self.limits), properties, ..Dataset::default() };
        self.state.insert(name, dataset);
        Ok(Some(story))
    }

    fn snapshot(&mut self, dataset: &str, rng: &mut Rng) -> Result<Option<Story>> {
        let recursive = rng.below(3) == 0;
        let below = format!("{dataset}/");
        let taken: Vec<String> = match recursive {
            true => self.state.keys().filter(|n| *n == dataset || n.starts_with(&below)).cloned().collect(),
            false => vec![dataset.to_owned()],
        };
        if taken.iter().any(|n| self.state[n].snapshots.len() >= SNAPSHOTS_MAX) {
            return Ok(None);
        }
        let short = format!("s{}", self.number());
        let story = format!("snapshot{} {dataset}@{short}", if recursive { " -r" } else { "" });
        match recursive {
            true => self.pool.dsl().create_snapshots_recursive(dataset, &short),
            false => self.pool.dsl().create_snapshots(&[&format!("{dataset}@{short}")]),
        }
        .with_context(|| story.clone())?;
        for name in taken {
            let dataset = self.state.get_mut(&name).context("listed")?;
            let files = Arc::new(dataset.files.clone());
            dataset.snapshots.push((short.clone(), files));
        }
        Ok(Some(story))
    }

    pub(super) fn pick_snapshot(&self, dataset: &str, rng: &mut Rng) -> Option<usize> {
        let count = self.state[dataset].snapshots.len() as u64;
        (count > 0).then(|| rng.below(count) as usize)
    }

    fn has_clones(&self, snapshot: &str) -> bool {
        self.state.values().any(|d| d.origin.as_deref() == Some(snapshot))
    }

    fn destroy_snapshot(&mut self, dataset: &str, rng: &mut Rng) -> Result<Option<Story>> {
        let Some(at) = self.pick_snapshot(dataset, rng) else { return Ok(None) };
        let name = format!("{dataset}@{}", self.state[dataset].snapshots[at].0);
        let destroyed = self.pool.dsl().destroy(&name, false, false);
        if self.has_clones(&name) {
            ensure!(destroyed.is_err(), "{name} has clones and was destroyed");
            return Ok(None);
        }
        destroyed.with_context(|| format!("destroy {name}"))?;
        self.state.get_mut(dataset).context("picked")?.snapshots.remove(at);
        Ok(Some(format!("destroy {name}")))
    }

    fn clone_snapshot(&mut self, dataset: &str, rng: &mut Rng) -> Result<Option<Story>> {
        if self.state.len() >= DATASETS_MAX {
            return Ok(None);
        }
        let Some(at) = self.pick_snapshot(dataset, rng) else { return Ok(None) };
        let (short, files) = self.state[dataset].snapshots[at].clone();
        let (origin, name) = (format!("{dataset}@{short}"), self.new_child(rng, ""));
        let story = format!("clone {origin} {name}");
        self.pool.dsl().clone_snapshot(&origin, &name, &[]).with_context(|| story.clone())?;
        let mut files = (*files).clone();
        files.number_after(&self.state[dataset].files);
        let clone = Dataset { files, origin: Some(origin), ..Dataset::default() };
        self.state.insert(name, clone);
        Ok(Some(story))
    }

    fn promote(&mut self, _: &str) -> Result<Option<Story>> {
        let clone = self.state.iter().find(|(_, d)| d.origin.is_some()).map(|(name, _)| name.clone());
        let Some(name) = clone else { return Ok(None) };
        let origin = self.state[&name].origin.clone().context("it is a clone")?;
        let (parent, short) = origin.split_once('@').context("an origin is a snapshot")?;
        self.pool.dsl().promote(&name).with_context(|| format!("promote {name}"))?;
        // The snapshots up to the origin move, and the two change roles.
        let old = self.state.get_mut(parent).context("the origin's file system")?;
        let upto = old.snapshots.iter().position(|(s, _)| s == short).context("the origin")? + 1;
        let moved: Vec<_> = old.snapshots.drain(..upto).collect();
        let grandparent = old.origin.replace(format!("{name}@{short}"));
        let renamed: Vec<(String, String)> =
            moved.iter().map(|(s, _)| (format!("{parent}@{s}"), format!("{name}@{s}"))).collect();
        let new = self.state.get_mut(&name).context("picked")?;
        new.origin = grandparent;
        new.snapshots.splice(0..0, moved);
        for (from, to) in renamed {
            let of_it = self.state.values_mut().filter(|d| d.origin.as_ref() == Some(&from));
            of_it.for_each(|d| d.origin = Some(to.clone()));
        }
        Ok(Some(format!("promote {name} (was a clone of {origin})")))
    }

    fn roll_back(&mut self, dataset: &str, rng: &mut Rng) -> Result<Option<Story>> {
        let Some(at) = self.pick_snapshot(dataset, rng) else { return Ok(None) };
        let newer: Vec<String> =
            self.state[dataset].snapshots[at + 1..].iter().map(|(s, _)| format!("{dataset}@{s}")).collect();
        if newer.iter().any(|s| self.has_clones(s)) {
            return Ok(None);
        }
        if let Some(fs) = self.mounts.remove(dataset) {
            fs.unmount()?;
        }
        let (short, files) = self.state[dataset].snapshots[at].clone();
        let story = format!("rollback -r {dataset}@{short}");
        self.pool.dsl().rollback(dataset, &short, true).with_context(|| story.clone())?;
        let state = self.state.get_mut(dataset).context("picked")?;
        let mut files = (*files).clone();
        files.number_after(&state.files);
        state.files = files;
        state.snapshots.truncate(at + 1);
        Ok(Some(story))
    }

    /// Unmounts a file system and all below it.
    fn unmount_below(&mut self, dataset: &str) -> Result<()> {
        let below = format!("{dataset}/");
        let mounted: Vec<String> =
            self.mounts.keys().filter(|n| *n == dataset || n.starts_with(&below)).cloned().collect();
        for name in mounted {
            self.mounts.remove(&name).context("listed")?.unmount()?;
        }
        Ok(())
    }

    fn rename(&mut self, dataset: &str, rng: &mut Rng) -> Result<Option<Story>> {
        if !dataset.contains('/') {
            return Ok(None);
        }
        self.unmount_below(dataset)?;
        let to = self.new_child(rng, dataset);
        self.pool.dsl().rename(dataset, &to, false).with_context(|| format!("rename {dataset} {to}"))?;
        let below = format!("{dataset}/");
        let moves = |name: &str| name == dataset || name.starts_with(&below);
        let renamed = |name: &str| format!("{to}{}", &name[dataset.len()..]);
        for (name, mut state) in core::mem::take(&mut self.state) {
            if let Some(origin) = &state.origin
                && moves(origin.split('@').next().unwrap_or(origin))
            {
                state.origin = Some(renamed(origin));
            }
            let name = if moves(&name) { renamed(&name) } else { name };
            self.state.insert(name, state);
        }
        Ok(Some(format!("rename {dataset} {to}")))
    }

    fn set_property(&mut self, dataset: &str, rng: &mut Rng) -> Result<Option<Story>> {
        let (property, values) = PROPERTIES[rng.below(CHANGEABLE as u64) as usize];
        let values = self.values_of(property, values);
        let value = values[rng.below(values.len() as u64) as usize];
        let story = format!("set {property}={value} {dataset}");
        self.pool.dsl().set_properties(dataset, &[(property, value)]).with_context(|| story.clone())?;
        self.state.get_mut(dataset).context("picked")?.properties.insert(property, value.to_owned());
        Ok(Some(story))
    }

    fn destroy(&mut self, dataset: &str) -> Result<Option<Story>> {
        let below = format!("{dataset}/");
        let refused = !dataset.contains('/')
            || !self.state[dataset].snapshots.is_empty()
            || self.state.keys().any(|n| n.starts_with(&below));
        if !refused && let Some(fs) = self.mounts.remove(dataset) {
            fs.unmount()?;
        }
        let destroyed = self.pool.dsl().destroy(dataset, false, false);
        if refused {
            ensure!(destroyed.is_err(), "{dataset} has snapshots or children and was destroyed");
            return Ok(None);
        }
        destroyed.with_context(|| format!("destroy {dataset}"))?;
        self.state.remove(dataset);
        Ok(Some(format!("destroy {dataset}")))
    }
}
