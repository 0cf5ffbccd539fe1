//! What `tarn create` and `tarn zpool create` share: names, properties, and the file system that a new pool begins with.

use anyhow::{Context, Result, bail, ensure};
use platform::Env;
use zfs::dsl::InitFs;
use zfs::spa::CreateOptions;
use zfs::zpl;

/// A property and its value.
pub(crate) type Pair = (String, String);

/// Names that OpenZFS refuses, or takes for a vdev (`zpool_name_valid`).
pub(crate) fn check_name(name: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_-.: ".contains(c);
    ensure!(!name.is_empty() && name.len() < 256, "a pool's name has 1 to 255 characters");
    ensure!(
        name.starts_with(|c: char| c.is_ascii_alphabetic()),
        "pool name {name:?}: it begins with a letter"
    );
    ensure!(
        name.chars().all(allowed) && !name.ends_with(' '),
        "pool name {name:?}: only letters, digits and _ - . :"
    );
    for reserved in ["mirror", "raidz", "draid", "spare", "log"] {
        let word = name == reserved || (reserved != "log" && name.starts_with(reserved));
        if word {
            bail!("pool name {name:?}: names that begin with {reserved} are reserved");
        }
    }
    Ok(())
}

/// Finds what no new file system can have, before any file is made.
pub(crate) fn check_properties(properties: &[Pair]) -> Result<()> {
    for name in ["encryption", "keyformat", "keylocation"] {
        let asked = |(given, value): &Pair| given == name && value != "off" && value != "none";
        ensure!(!properties.iter().any(asked), "-O {name}: encrypted datasets can be read but not made yet");
    }
    Ok(())
}

/// The options of a pool whose root file system has `properties`, with the pool's own properties in place.
pub(crate) fn options(
    name: &str,
    pool_properties: &[Pair],
    properties: &[Pair],
    env: &Env,
) -> Result<CreateOptions> {
    let mut pool = CreateOptions::new(name, init_fs(properties, env));
    for (name, value) in pool_properties {
        if name == "ashift" {
            // 0 is OpenZFS's word for «as the disks want it».
            let ashift = value.parse::<u8>().ok().filter(|a| *a == 0 || (9..=16).contains(a));
            let ashift = ashift.with_context(|| format!("ashift={value}: it is 9 to 16"))?;
            pool.ashift = Some(ashift).filter(|a| *a > 0);
        } else {
            pool.properties.push((name.clone(), value.clone()));
        }
    }
    pool.arc_max = super::open::ARC_MAX;
    pool.dirty_max = super::open::DIRTY_MAX;
    Ok(pool)
}

/// Makes the empty file system. Properties that are fixed at creation are its own.
pub(crate) fn init_fs(properties: &[Pair], env: &Env) -> InitFs {
    let fixed = fixed_properties(properties);
    let now = env.clock.now();
    Box::new(move |os, tx| {
        let fixed: Vec<(&str, u64)> = fixed.iter().map(|(name, value)| (*name, *value)).collect();
        zpl::init(os, tx, &fixed, now)
    })
}

/// Properties that the file system keeps in itself.
pub(crate) fn fixed_properties(properties: &[Pair]) -> Vec<(&'static str, u64)> {
    let mut fixed = Vec::new();
    for (name, value) in properties {
        match (name.as_str(), value.as_str()) {
            ("utf8only", "on") => fixed.push(("utf8only", 1)),
            ("casesensitivity", "insensitive") => fixed.push(("casesensitivity", 1)),
            ("casesensitivity", "mixed") => fixed.push(("casesensitivity", 2)),
            ("normalization", form) => {
                let forms = [("formC", 0x50), ("formD", 0x10), ("formKC", 0x60), ("formKD", 0x20)];
                if let Some((_, number)) = forms.iter().find(|(name, _)| *name == form) {
                    fixed.push(("normalization", *number));
                }
            }
            _ => {}
        }
    }
    fixed
}

/// The first line of the pool's history: what matters for the pool, and nothing of this machine.
pub(crate) fn history(verb: &str, pool_properties: &[Pair], properties: &[Pair], end: &str) -> String {
    let mut line = verb.to_owned();
    for (flag, list) in [("-o", pool_properties), ("-O", properties)] {
        for (name, value) in list {
            line.push_str(&format!(" {flag} {name}={value}"));
        }
    }
    format!("{line} {end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pool_names_follow_openzfs() {
        for good in ["tarn", "a1", "a-b_c.d:e", "logs"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "1a", "a/b", "a@b", "mirror", "mirror1", "raidz2", "log", "spare", "draid", "a ", "ü"]
        {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn encryption_is_refused_by_name() {
        let asked = |value: &str| check_properties(&[("encryption".to_owned(), value.to_owned())]);
        assert!(asked("on").unwrap_err().to_string().contains("encryption"));
        assert!(asked("off").is_ok());
    }
}
