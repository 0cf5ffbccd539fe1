//! Ranges of files that become the same as others, by sharing their blocks.

use super::{Promise, Story, World, mount};
use crate::model::{Model, Rng, resolve};
use anyhow::{Context, Result};
use std::sync::Arc;
use zfs::Error;
use zfs::zpl::{Durability, Filesystem};

impl World {
    /// Clones a range of a file of any file system or snapshot into a file of any file system. What must be copied instead is left alone.
    pub(super) fn clone_step(&mut self, rng: &mut Rng) -> Result<(Promise, Story)> {
        let to = self.pick_dataset(rng);
        let from = if rng.below(2) == 0 { to.clone() } else { self.pick_dataset(rng) };
        let snapshot = if rng.below(3) == 0 { self.pick_snapshot(&from, rng) } else { None };
        let (source, files, from): (Arc<Filesystem>, Model, String) = match snapshot {
            None => (self.fs(&from)?, self.state[&from].files.clone(), from),
            Some(at) => {
                let (name, files) = &self.state[&from].snapshots[at];
                let name = format!("{from}@{name}");
                (mount(&self.pool, &name, true)?, (**files).clone(), name)
            }
        };
        let nothing = |why: &str| Ok((Promise::Nothing, why.to_owned()));
        let Some(from_path) = files.pick_file(rng) else { return nothing("no file to clone") };
        let fs = self.fs(&to)?;
        let model = &mut self.state.get_mut(&to).context("it was just picked")?.files;
        let Some(path) = model.pick_file(rng) else { return nothing("no file to clone into") };
        let (from_object, object) = (resolve(&source, &from_path)?, resolve(&fs, &path)?);
        let content = &files.files()[&from_path].content;
        let block = u64::from(source.getattr(from_object)?.block_size);
        let blocks = |size: usize| size as u64 / block;
        let from_at = rng.below(blocks(content.len()) + 1) * block;
        let size = model.files()[&path].content.len();
        let at = if rng.below(3) == 0 { 0 } else { rng.below(blocks(size) + 2) * block };
        let len = if rng.below(3) == 0 { u64::MAX } else { (1 + rng.below(5)) * block };
        if at as usize + content.len() > model.file_size() {
            return nothing("too large to clone");
        }
        let durability = if rng.below(4) == 0 { Durability::Now } else { Durability::Later };
        let story = format!("clone {from}:{from_path} {from_at:#x}+{len:#x} to {to}:{path} {at:#x}");
        let done = match fs.clone_range((object, at), &source, (from_object, from_at), len, durability) {
            Ok(done) => done as usize,
            Err(Error::Invalid(why)) => return nothing(&format!("{story}: {why}")),
            Err(Error::CrossDataset) => return nothing(&format!("{story}: other properties")),
            Err(error) => return Err(error).context(story),
        };
        let (at, from_at) = (at as usize, from_at as usize);
        let part = content.get(from_at..from_at + done).context("more was cloned than there is")?;
        if done > 0 {
            model.change(&path, |n| {
                n.content.resize(n.content.len().max(at + done), 0);
                n.content[at..at + done].copy_from_slice(part);
            });
        }
        let identity = model.files()[&path].identity;
        let promise = match (durability, self.kept(&to)) {
            (Durability::Now, Promise::Dataset(_)) if done > 0 => Promise::File { dataset: to, identity },
            _ => self.kept_at_once(&to),
        };
        Ok((promise, format!("{story}: {done} bytes")))
    }
}
