//! Names of datasets and snapshots. Source: `module/zcommon/zfs_namecheck.c`.

use crate::error::{Error, Result};

/// Longest full name with its terminating zero (`ZFS_MAX_DATASET_NAME_LEN`).
pub(crate) const MAX_NAME: usize = 256;

/// One component of a name, or what follows an `@` or `#`.
pub(crate) fn component(name: &str) -> Result<()> {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || b"-_.: ".contains(&c);
    if name.is_empty() || name == "." || name == ".." || !name.bytes().all(allowed) {
        return Err(Error::Invalid("name: only letters, digits and -_.: are allowed"));
    }
    Ok(())
}

/// A file system's or volume's full name (`dataset_namecheck`).
pub(crate) fn check_dataset(name: &str) -> Result<()> {
    if name.len() >= MAX_NAME {
        return Err(Error::NameTooLong);
    }
    name.split('/').try_for_each(component)
}

/// The full name of a file system or volume that is there, be it one that a receive left unfinished (`fs/%recv`).
pub(crate) fn check_existing(name: &str) -> Result<()> {
    if name.len() >= MAX_NAME {
        return Err(Error::NameTooLong);
    }
    name.split('/').try_for_each(|part| component(part.strip_prefix('%').unwrap_or(part)))
}

/// A snapshot's full name; gives its two halves (`snapshot_namecheck`).
pub(crate) fn split_snapshot(name: &str) -> Result<(&str, &str)> {
    let (path, snap) = name.split_once('@').ok_or(Error::Invalid("name of a snapshot: it has no @"))?;
    check_dataset(path)?;
    component(snap)?;
    if name.len() >= MAX_NAME {
        return Err(Error::NameTooLong);
    }
    Ok((path, snap))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_and_bad_names() {
        assert!(check_dataset("tank/a-b_c.d:e/1").is_ok());
        assert!(check_existing("tank/a/%recv").is_ok() && check_existing("tank/a%/%").is_err());
        assert_eq!(split_snapshot("tank/a@s 1"), Ok(("tank/a", "s 1")));
        for bad in ["", "tank/", "/tank", "a//b", "a/../b", "a/%recv", "a/$MOS", "a@b", "a#b", "ü"] {
            assert!(check_dataset(bad).is_err(), "{bad}");
        }
        for bad in ["a", "a@", "a@b@c", "@s", "a@b/c"] {
            assert!(split_snapshot(bad).is_err(), "{bad}");
        }
        assert_eq!(check_dataset(&"x".repeat(256)), Err(Error::NameTooLong));
    }
}
