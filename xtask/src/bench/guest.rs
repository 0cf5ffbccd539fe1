//! File-system workloads in a guest of Tarn and in one of Linux with OpenZFS: the same QEMU, the same memory and processors, the
//! same static program (`tests/workloads/guest-bench`), turn by turn.

use super::{Bench, ROUNDS};
use crate::interop::Oracle;
use crate::machine::output;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use testkit::rootfs;

const MEMORY: &str = "1024";
const CPUS: &str = "2";
/// Seconds for each figure of the workload that runs for a while.
const SECONDS: &str = "4";
const PROGRAM: &str = "guest-bench";

/// What each workload did, by its name: operations (or MB) per second, and the unit.
type Figures = BTreeMap<String, (f64, String)>;

/// The lines `NAME<tab>FIGURE<tab>UNIT` of a run, the better of each and what is known already.
fn collect(text: &str, into: &mut Figures, order: &mut Vec<String>) -> Result<()> {
    let mut found = 0;
    for line in text.lines() {
        let mut fields = line.trim().split('\t');
        let (Some(name), Some(figure), Some(unit)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let figure: f64 = figure.parse().with_context(|| line.to_owned())?;
        if !order.iter().any(|n| n == name) {
            order.push(name.to_owned());
        }
        let best = into.entry(name.to_owned()).or_insert((0.0, unit.to_owned()));
        best.0 = best.0.max(figure);
        found += 1;
    }
    ensure!(found > 0, "the guest printed no figure:\n{text}");
    Ok(())
}

impl Bench {
    pub(super) fn guest(&self) -> Result<String> {
        let oracle = Oracle::prepare()?;
        let root = self.folder.join("guest-root");
        for folder in ["usr/bin", "data/8k", "dev", "proc", "tmp"] {
            std::fs::create_dir_all(root.join(folder))?;
        }
        let program = rootfs::workload(PROGRAM)?;
        std::fs::copy(&program, root.join("usr/bin").join(PROGRAM))?;
        let share = self.folder.join("share");
        std::fs::create_dir_all(&share)?;
        std::fs::copy(&program, share.join(PROGRAM))?;
        let (mut ours, mut theirs, mut order) = (Figures::new(), Figures::new(), Vec::new());
        for round in 0..ROUNDS {
            println!("== guests, round {} of {ROUNDS}", round + 1);
            for (record, parts) in [("128K", &["sequential", "files"][..]), ("8K", &["random"])] {
                collect(&self.in_tarn(&root, record, parts)?, &mut ours, &mut order)?;
            }
            collect(&self.in_linux(&oracle, &share)?, &mut theirs, &mut order)?;
        }
        Ok(table(&ours, &theirs, &order))
    }

    fn in_tarn(&self, root: &Path, record: &str, parts: &[&str]) -> Result<String> {
        let image = self.folder.join("guest.img");
        let mut create = Command::new(&self.tarn);
        create.arg("create").arg(&image).arg("--force").arg("--from").arg(root).args(["--size", "1G", "-q"]);
        create.args(["-O", "compression=off", "-O", "atime=off", "-O", &format!("recordsize={record}")]);
        output(&mut create)?;
        let mut run = Command::new(&self.tarn);
        run.arg("run").arg(&image).args(["--memory", &format!("{MEMORY}M"), "--cpus", CPUS, "--"]);
        run.args([&format!("/usr/bin/{PROGRAM}"), "/data", SECONDS]).args(parts);
        output(run.stdin(Stdio::null()))
    }

    fn in_linux(&self, oracle: &Oracle, share: &Path) -> Result<String> {
        let image = self.folder.join("linux.img");
        std::fs::File::create(&image)?.set_len(1 << 30)?;
        let script = share.join("bench.sh");
        let text = format!(
            ". lib.sh\nset -e\nzpool create -O atime=off -O compression=off bench $D/vda\n\
             zfs create -o recordsize=8K bench/random\ncp /share/{PROGRAM} /{PROGRAM}\n\
             /{PROGRAM} /bench {SECONDS} sequential files\n/{PROGRAM} /bench/random {SECONDS} random\nzpool destroy bench\n"
        );
        std::fs::write(&script, text)?;
        oracle.run(&["-m", MEMORY, "-c", CPUS, "-C", "writeback"], share, &script, &image)
    }
}

fn table(ours: &Figures, theirs: &Figures, order: &[String]) -> String {
    let mut text = format!(
        "| in a guest ({CPUS} processors, {MEMORY} MiB, compression off) | unit | Tarn | Linux + OpenZFS | ratio |\n|---|---|--:|--:|--:|\n"
    );
    for name in order {
        let (Some((a, unit)), Some((b, _))) = (ours.get(name), theirs.get(name)) else { continue };
        let _ = writeln!(text, "| {name} | {unit} | {a:.0} | {b:.0} | {:.2} |", a / b);
    }
    text + "\n8 KiB workloads use 8 KiB records; everything else the default of 128 KiB.\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_of_each_is_kept_in_the_order_of_the_program() {
        let (mut figures, mut order) = (Figures::new(), Vec::new());
        for text in ["noise\nwrite\t10.5\tMB/s\nstat\t3\top/s\n", "stat\t4.0\top/s\r\nwrite\t9\tMB/s\n"] {
            collect(text, &mut figures, &mut order).unwrap();
        }
        assert_eq!(order, ["write", "stat"]);
        assert_eq!((figures["write"].0, figures["stat"].0), (10.5, 4.0));
        let text = table(&figures, &figures, &order);
        assert!(text.contains("| stat | op/s | 4 | 4 | 1.00 |"), "{text}");
        assert!(collect("nothing", &mut figures, &mut order).is_err());
    }
}
