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

/// Adds to `differences` what a dataset's properties differ in.
pub fn compare(dataset: &Dataset, want: &[Answer], differences: &mut Vec<String>) {
    let name = dataset.name();
    // Of an encrypted dataset only what the pool itself knows can be shown.
    if want.iter().any(|[property, value, _]| property == "encryption" && value != "off") {
        for [property, value, _] in want {
            if matches!(property.as_str(), "guid" | "used" | "referenced" | "written" | "compressratio") {
                let got = dataset.get(property).unwrap().text;
                if got != *value {
                    differences.push(format!("{name}: {property} {got}, but OpenZFS says {value}"));
                }
            }
        }
        return;
    }
    let keep = |p: &Answer| !of_the_machine(&p[0]);
    let got: Vec<Answer> = dataset
        .properties()
        .unwrap_or_else(|e| panic!("{name}: {e}"))
        .into_iter()
        .map(|p| [p.name, p.text, source(&p.source)])
        .filter(keep)
        .collect();
    let want: Vec<_> = want.iter().filter(|p| keep(p)).cloned().collect();
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
