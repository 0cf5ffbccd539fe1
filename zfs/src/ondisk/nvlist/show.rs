//! Display in the wording of zdb (`dump_nvlist`): one pair a line, nested lists indented by four.

use super::{NvList, Value};
use core::fmt;

/// An nvlist, shown from an indentation in columns.
pub struct Show<'a> {
    /// The list.
    pub list: &'a NvList,
    /// Columns before each line.
    pub indent: usize,
}

impl fmt::Display for NvList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Show { list: self, indent: 0 }.fmt(f)
    }
}

impl fmt::Display for Show<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.list.iter().try_for_each(|(name, value)| pair(f, name, value, self.indent))
    }
}

fn array<T>(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    values: &[T],
    indent: usize,
    mut show: impl FnMut(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    for (i, value) in values.iter().enumerate() {
        write!(f, "{:indent$}{name}[{i}]: ", "")?;
        show(f, value)?;
        writeln!(f)?;
    }
    Ok(())
}

fn pair(f: &mut fmt::Formatter<'_>, name: &str, value: &Value, indent: usize) -> fmt::Result {
    macro_rules! line {
        ($($arg:tt)*) => {{
            write!(f, "{:indent$}{name}", "")?;
            writeln!(f, $($arg)*)
        }};
    }
    match value {
        Value::Boolean => line!(""),
        Value::BooleanValue(v) => line!(": {v}"),
        Value::Byte(v) | Value::Uint8(v) => line!(": {v}"),
        Value::Int8(v) => line!(": {v}"),
        Value::Int16(v) => line!(": {v}"),
        Value::Uint16(v) => line!(": {v}"),
        Value::Int32(v) => line!(": {v}"),
        Value::Uint32(v) => line!(": {v}"),
        Value::Int64(v) => line!(": {v}"),
        Value::Uint64(v) => line!(": {v}"),
        Value::Hrtime(v) => line!(": {v:#x}"),
        Value::Double(v) => line!(": {v}"),
        Value::String(s) => line!(": '{s}'"),
        Value::NvList(list) => {
            line!(":")?;
            write!(f, "{}", Show { list, indent: indent + 4 })
        }
        Value::NvListArray(lists) => lists.iter().enumerate().try_for_each(|(i, list)| {
            line!("[{i}]:")?;
            write!(f, "{}", Show { list, indent: indent + 4 })
        }),
        Value::StringArray(v) => array(f, name, v, indent, |f, s| write!(f, "'{s}'")),
        Value::ByteArray(v) | Value::Uint8Array(v) => array(f, name, v, indent, |f, v| write!(f, "{v}")),
        Value::Int8Array(v) => array(f, name, v, indent, |f, v| write!(f, "{v}")),
        Value::Int16Array(v) => array(f, name, v, indent, |f, v| write!(f, "{v}")),
        Value::Uint16Array(v) => array(f, name, v, indent, |f, v| write!(f, "{v}")),
        Value::Int32Array(v) => array(f, name, v, indent, |f, v| write!(f, "{v}")),
        Value::Uint32Array(v) => array(f, name, v, indent, |f, v| write!(f, "{v}")),
        Value::Int64Array(v) => array(f, name, v, indent, |f, v| write!(f, "{v}")),
        Value::Uint64Array(v) => array(f, name, v, indent, |f, v| write!(f, "{v}")),
        Value::BooleanArray(v) => array(f, name, v, indent, |f, v| write!(f, "{v}")),
    }
}
