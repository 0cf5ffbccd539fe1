//! Printing: tables as `zfs` prints them, JSON, and file names that no terminal can be harmed by.

use serde_json::{Map, Value};
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

/// How a column is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A column's heading and alignment.
#[derive(Debug, Clone)]
pub struct Column {
    /// As people read it: `USED`.
    pub heading: String,
    /// The key in JSON: `used`.
    pub key: String,
    /// Left or right.
    pub align: Align,
}

impl Column {
    /// A column whose heading is its key in capitals.
    #[must_use]
    pub fn new(key: &str, align: Align) -> Self {
        Column { heading: key.to_ascii_uppercase(), key: key.to_owned(), align }
    }

    /// The same with another heading.
    #[must_use]
    pub fn headed(mut self, heading: &str) -> Self {
        heading.clone_into(&mut self.heading);
        self
    }
}

/// How tables are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Aligned, with headings.
    Human,
    /// `-H`: tabs, no headings.
    Script,
    /// `--json`: an array of objects.
    Json,
}

/// Rows under columns.
#[derive(Debug, Clone)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    #[must_use]
    pub fn new(columns: Vec<Column>) -> Self {
        Table { columns, rows: Vec::new() }
    }

    /// Adds a row; it has as many cells as there are columns.
    pub fn push(&mut self, row: Vec<String>) {
        debug_assert_eq!(row.len(), self.columns.len());
        self.rows.push(row);
    }

    /// Whether there is nothing to show.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Prints it on standard output: what a verb that lists ends with.
    pub fn show(&self, style: Style) -> anyhow::Result<ExitCode> {
        let mut out = BufWriter::new(io::stdout().lock());
        self.print(style, &mut out)?;
        out.flush()?;
        Ok(ExitCode::SUCCESS)
    }

    /// Prints it.
    pub fn print(&self, style: Style, out: &mut dyn Write) -> io::Result<()> {
        match style {
            Style::Script => self.rows.iter().try_for_each(|row| writeln!(out, "{}", row.join("\t"))),
            Style::Json => self.json(out),
            Style::Human => self.human(out),
        }
    }

    fn json(&self, out: &mut dyn Write) -> io::Result<()> {
        let object = |row: &Vec<String>| {
            let cells = self.columns.iter().zip(row).map(|(c, v)| (c.key.clone(), json_value(v)));
            Value::Object(cells.collect::<Map<_, _>>())
        };
        let rows = Value::Array(self.rows.iter().map(object).collect());
        writeln!(out, "{rows:#}")
    }

    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut widths: Vec<usize> = self.columns.iter().map(|c| c.heading.chars().count()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let headings: Vec<String> = self.columns.iter().map(|c| c.heading.clone()).collect();
        for row in std::iter::once(&headings).chain(&self.rows) {
            let cells =
                row.iter().zip(&widths).zip(&self.columns).map(|((cell, &width), column)| {
                    match column.align {
                        Align::Left => format!("{cell:<width$}"),
                        Align::Right => format!("{cell:>width$}"),
                    }
                });
            writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
        }
        Ok(())
    }
}

/// Numbers stay numbers, a dash is nothing, all else is text.
fn json_value(cell: &str) -> Value {
    match cell {
        "-" => Value::Null,
        _ => cell.parse::<u64>().map_or_else(|_| Value::from(cell), Value::from),
    }
}

/// A name from an image, with control characters and bytes that are not UTF-8 written as `\ooo`.
#[must_use]
pub fn show_name(name: &[u8]) -> String {
    let mut shown = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || c == '\\' {
                let mut bytes = [0; 4];
                c.encode_utf8(&mut bytes).bytes().for_each(|b| shown.push_str(&format!("\\{b:03o}")));
            } else {
                shown.push(c);
            }
        }
        chunk.invalid().iter().for_each(|b| shown.push_str(&format!("\\{b:03o}")));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(vec![
            Column::new("name", Align::Left),
            Column::new("used", Align::Right),
            Column::new("mountpoint", Align::Left),
        ]);
        table.push(vec!["tarn".into(), "96K".into(), "none".into()]);
        table.push(vec!["tarn/root".into(), "1024".into(), "-".into()]);
        table
    }

    fn printed(style: Style) -> String {
        let mut out = Vec::new();
        table().print(style, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn people_get_aligned_columns() {
        let want = "NAME       USED  MOUNTPOINT\ntarn        96K  none\ntarn/root  1024  -\n";
        assert_eq!(printed(Style::Human), want);
    }

    #[test]
    fn scripts_get_tabs_and_programs_json() {
        assert_eq!(printed(Style::Script), "tarn\t96K\tnone\ntarn/root\t1024\t-\n");
        let value: Value = serde_json::from_str(&printed(Style::Json)).unwrap();
        assert_eq!(value[1]["used"], 1024);
        assert!(value[1]["mountpoint"].is_null());
    }

    #[test]
    fn names_cannot_harm_a_terminal() {
        assert_eq!(show_name(b"plain \xc3\xbc"), "plain \u{fc}");
        assert_eq!(show_name(b"a\x1b[2J\n\xff\\"), "a\\033[2J\\012\\377\\134");
    }
}
