//! Figures of Tarn beside those of Linux with OpenZFS, taken turn by turn.

use anyhow::{Context, Result, ensure};
use std::fmt::Write;

/// Whose guest it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// Tarn's.
    Tarn,
    /// That of Linux with OpenZFS.
    Linux,
}

impl Side {
    /// Both, in the order of the table's columns.
    pub(super) const BOTH: [Side; 2] = [Side::Tarn, Side::Linux];
}

/// The best figures of both, by their names, in the order in which these were first heard of.
#[derive(Clone, Default)]
pub(super) struct Comparison(Vec<Figure>);

#[derive(Clone)]
struct Figure {
    name: String,
    unit: String,
    best: [Option<f64>; 2],
}

/// Whether less is better: times, and what is needed of something.
fn less_is_better(unit: &str) -> bool {
    matches!(unit, "ms" | "s" | "MiB")
}

impl Comparison {
    /// Notes a figure: an amount per second, or a time or size. The better one is kept.
    pub(super) fn note(&mut self, side: Side, name: &str, figure: f64, unit: &str) {
        println!("{side:?}: {name}: {} {unit}", show(figure));
        let at = self.0.iter().position(|f| f.name == name).unwrap_or_else(|| {
            self.0.push(Figure { name: name.to_owned(), unit: unit.to_owned(), best: [None; 2] });
            self.0.len() - 1
        });
        let best = &mut self.0[at].best[side as usize];
        let better = if less_is_better(unit) { f64::min } else { f64::max };
        *best = Some(best.map_or(figure, |known| better(known, figure)));
    }

    /// Notes the lines `NAME<tab>FIGURE<tab>UNIT` of what a guest printed.
    pub(super) fn collect(&mut self, side: Side, text: &str) -> Result<()> {
        let mut found = 0;
        for line in text.lines() {
            let mut fields = line.trim().split('\t');
            let (Some(name), Some(figure), Some(unit)) = (fields.next(), fields.next(), fields.next()) else {
                continue;
            };
            self.note(side, name, figure.parse().with_context(|| line.to_owned())?, unit);
            found += 1;
        }
        ensure!(found > 0, "the guest printed no figure:\n{text}");
        Ok(())
    }

    /// A table with the ratios. Above 1, Tarn is faster or needs less.
    pub(super) fn table(&self) -> String {
        let mut text =
            String::from("| workload | unit | Tarn | Linux + OpenZFS | ratio |\n|---|---|--:|--:|--:|\n");
        for Figure { name, unit, best } in &self.0 {
            let [ours, theirs] = best.map(|figure| figure.map_or_else(|| "–".to_owned(), show));
            let ratio = match *best {
                [Some(a), Some(b)] if less_is_better(unit) => format!("{:.2}", b / a),
                [Some(a), Some(b)] => format!("{:.2}", a / b),
                _ => "–".to_owned(),
            };
            let _ = writeln!(text, "| {name} | {unit} | {ours} | {theirs} | {ratio} |");
        }
        text
    }
}

/// With as many digits as say something.
fn show(figure: f64) -> String {
    if figure < 20.0 && figure.fract() != 0.0 { format!("{figure:.1}") } else { format!("{figure:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_of_each_is_kept_in_the_order_of_the_program() {
        let mut comparison = Comparison::default();
        for text in ["noise\nwrite\t10.5\tMB/s\nimport\t30\tms\n", "import\t20.0\tms\r\nwrite\t9\tMB/s\n"] {
            comparison.collect(Side::Tarn, text).unwrap();
        }
        comparison.note(Side::Linux, "write", 21.0, "MB/s");
        comparison.note(Side::Linux, "raw", 5.0, "MB/s");
        comparison.note(Side::Linux, "import", 10.0, "ms");
        let table = comparison.table();
        let rows: Vec<&str> = table.lines().skip(2).collect();
        assert_eq!(
            rows,
            [
                "| write | MB/s | 10.5 | 21 | 0.50 |",
                "| import | ms | 20 | 10 | 0.50 |",
                "| raw | MB/s | – | 5 | – |"
            ]
        );
        assert!(comparison.collect(Side::Tarn, "nothing").is_err());
    }
}
