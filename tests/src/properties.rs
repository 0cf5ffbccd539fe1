//! Properties of datasets compared with what `zfs get -Hp all` of OpenZFS answered.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::missing_panics_doc, reason = "an answer that makes no sense is a panic; nothing else is")]

use std::collections::BTreeMap;
use zfs::dsl::{Dataset, Source};

/// A property: name, value, source.
pub type Answer = [String; 3];

/// What `zfs get` answered, by dataset, in its order.
#[must_use]
pub fn answers(text: &str) -> BTreeMap<String, Vec<Answer>> {
    let mut all: BTreeMap<String, Vec<Answer>> = BTreeMap::new();
    for line in text.lines() {
        let mut fields = line.split('\t').map(str::to_string);
        let mut next = || fields.next().unwrap();
        all.entry(next()).or_default().push([next(), next(), next()]);
    }
    all
}

fn source(source: &Source) -> String {
    match source {
        Source::None => "-".to_string(),
        Source::Default => "default".to_string(),
        Source::Local => "local".to_string(),
        Source::Inherited(from) => format!("inherited from {from}"),
        Source::Received => "received".to_string(),
    }
}

/// What depends on the machine that asks: its mounts and the pool's free space.
fn of_the_machine(property: &str) -> bool {
    matches!(property, "mounted" | "readonly" | "available")
}

/// The clones of a snapshot are listed in no particular order.
fn sorted(mut answer: Answer) -> Answer {
    if answer[0] == "clones" {
        let mut names: Vec<&str> = answer[1].split(',').collect();
        names.sort_unstable();
        answer[1] = names.join(",");
    }
    answer
}

/// Space in bytes, and what is computed of it. Mounting a file system for writing changes these.
#[must_use]
pub fn is_space(property: &str) -> bool {
    property.contains("used")
        || property.contains("referenced")
        || property.contains("ratio")
        || property.starts_with("written")
}

/// Adds to `differences` what a dataset's properties differ in.
pub fn compare(dataset: &Dataset, want: &[Answer], differences: &mut Vec<String>) {
    compare_those(dataset, want, |_| true, differences);
}

/// The same of those properties for which `which` says so.
pub fn compare_those(
    dataset: &Dataset,
    want: &[Answer],
    which: impl Fn(&str) -> bool,
    differences: &mut Vec<String>,
) {
    let name = dataset.name();
    let keep = |p: &Answer| !of_the_machine(&p[0]) && which(&p[0]);
    let got: Vec<Answer> = dataset
        .properties()
        .unwrap_or_else(|e| panic!("{name}: {e}"))
        .into_iter()
        .map(|p| sorted([p.name, p.text, source(&p.source)]))
        .filter(keep)
        .collect();
    let want: Vec<_> = want.iter().filter(|p| keep(p)).cloned().map(sorted).collect();
    for (got, want) in got.iter().zip(&want) {
        if got != want {
            differences.push(format!("{name}: {got:?}, but OpenZFS says {want:?}"));
            if got[0] != want[0] {
                break;
            }
        }
    }
    if got.len() != want.len() {
        differences.push(format!("{name}: {} properties, but OpenZFS says {}", got.len(), want.len()));
    }
}
