//! What the pool's history keeps of a verb besides its line: the requests that `zfs` makes of the kernel for it.

use zfs::dsl::{Value as Stored, stored_value};
use zfs::ondisk::nvlist::{NvList, Value};

/// A request as a record of the history, still without time and user.
pub(super) fn request(name: &str, input: NvList) -> NvList {
    NvList::new().with("ioctl", name).with("in_nvl", input)
}

/// Names as keys without values.
pub(super) fn set<'a>(names: impl IntoIterator<Item = &'a str>) -> NvList {
    names.into_iter().fold(NvList::new(), |list, name| list.with(name, Value::Boolean))
}

/// Properties as they are stored.
pub(super) fn properties<'a>(given: impl IntoIterator<Item = &'a (String, String)>) -> NvList {
    given.into_iter().fold(NvList::new(), |list, (name, text)| match stored_value(name, text) {
        Ok(Stored::Number(number)) => list.with(name, number),
        _ => list.with(name, text.as_str()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_recorded_as_stored() {
        let given = [("compression", "lz4"), ("a:b", "c")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        let list = properties(&given);
        assert_eq!((list.get_u64("compression"), list.get_str("a:b")), (Some(15), Some("c")));
    }
}
