//! Where a file is: `IMG:/path`, `IMG:DATASET:/path`, `IMG:DATASET@SNAP:/path`, or `IMG` alone.

use anyhow::{Result, bail, ensure};
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A place inside an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The image file, or a directory that holds all images of one pool.
    pub image: PathBuf,
    /// Dataset, or snapshot (with `@`). None is the pool's default: its `bootfs`, else its root dataset.
    pub dataset: Option<String>,
    /// Path inside the dataset; starts with `/`. None if only a dataset was named, which for a volume is its content.
    pub path: Option<Vec<u8>>,
}

impl Location {
    /// Splits what was typed. The image is the shortest part before a colon that exists; so a colon in its name does no
    /// harm.
    pub fn parse(text: &OsStr) -> Result<Self> {
        Self::split(text.as_bytes(), |image| image.exists())
    }

    /// The path, `/` if none was given.
    #[must_use]
    pub fn path_or_root(&self) -> &[u8] {
        self.path.as_deref().unwrap_or(b"/")
    }

    fn split(text: &[u8], exists: impl Fn(&Path) -> bool) -> Result<Self> {
        let ends = text.iter().enumerate().filter(|(_, b)| **b == b':').map(|(i, _)| i).chain([text.len()]);
        let found =
            ends.into_iter().find(|&end| end > 0 && exists(Path::new(OsStr::from_bytes(&text[..end]))));
        let Some(end) = found else {
            let first = text.split(|b| *b == b':').next().unwrap_or_default();
            bail!("{}: no such image", Path::new(OsStr::from_bytes(first)).display());
        };
        let image = PathBuf::from(OsStr::from_bytes(&text[..end]));
        let rest = text.get(end + 1..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(Location { image, dataset: None, path: None });
        }
        if rest[0] == b'/' {
            return Ok(Location { image, dataset: None, path: Some(rest.to_vec()) });
        }
        let (dataset, path) = match rest.iter().position(|b| *b == b':') {
            None => (rest, None),
            Some(colon) => (&rest[..colon], Some(rest[colon + 1..].to_vec()).filter(|p| !p.is_empty())),
        };
        let Ok(dataset) = std::str::from_utf8(dataset) else { bail!("a dataset's name is ASCII") };
        if let Some(path) = &path {
            ensure!(
                path[0] == b'/',
                "a path inside an image starts with /: {}",
                String::from_utf8_lossy(path)
            );
        }
        Ok(Location { image, dataset: Some(dataset.to_owned()), path })
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.image.display())?;
        if let Some(dataset) = &self.dataset {
            write!(f, ":{dataset}")?;
        }
        if let Some(path) = &self.path {
            write!(f, ":{}", String::from_utf8_lossy(path))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Result<Location> {
        Location::split(text.as_bytes(), |p| ["a.img", "b:c.img", "dir/"].iter().any(|e| Path::new(e) == p))
    }

    fn parts(text: &str) -> (String, Option<String>, Option<String>) {
        let l = split(text).unwrap();
        let path = l.path.map(|p| String::from_utf8(p).unwrap());
        (l.image.display().to_string(), l.dataset, path)
    }

    #[test]
    fn all_forms_are_understood() {
        let some = |s: &str| Some(s.to_owned());
        assert_eq!(parts("a.img"), ("a.img".into(), None, None));
        assert_eq!(parts("a.img:"), ("a.img".into(), None, None));
        assert_eq!(parts("a.img:/"), ("a.img".into(), None, some("/")));
        assert_eq!(parts("a.img:/x:/y"), ("a.img".into(), None, some("/x:/y")));
        assert_eq!(parts("a.img:p/d"), ("a.img".into(), some("p/d"), None));
        assert_eq!(parts("a.img:p/d@s:/x"), ("a.img".into(), some("p/d@s"), some("/x")));
        assert_eq!(parts("b:c.img:/x"), ("b:c.img".into(), None, some("/x")));
        assert_eq!(parts("dir:p:/"), ("dir".into(), some("p"), some("/")));
    }

    #[test]
    fn a_missing_image_is_named() {
        assert_eq!(split("gone.img:/x").unwrap_err().to_string(), "gone.img: no such image");
        assert!(split("").is_err());
        assert!(split("a.img:p:x").unwrap_err().to_string().contains("starts with /"));
    }

    #[test]
    fn it_is_shown_as_typed() {
        for text in ["a.img", "a.img:/x", "a.img:p@s:/x", "a.img:p"] {
            assert_eq!(split(text).unwrap().to_string(), text);
        }
    }
}
