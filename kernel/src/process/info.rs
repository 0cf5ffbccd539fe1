//! What `/proc` says about the machine and the process that asks.

use super::{Process, Task};
use crate::mm::{frame, large, page_table};
use crate::{arch, sched, time};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write;
use core::sync::atomic::Ordering;
use vfs::procfs::ProcSource;

/// Release that `uname` tells: programs ask for features by it.
pub const RELEASE: &str = "6.1.0-tarn";
/// Version string of `uname`.
pub const VERSION: &str = concat!("Tarn ", env!("CARGO_PKG_VERSION"));
/// Host name.
pub const HOSTNAME: &str = "tarn";

/// The kernel's answers for `/proc`.
pub struct Source;

fn process() -> Option<Arc<Process>> {
    match super::try_current() {
        Some(task) => Some(Arc::clone(&task.process)),
        None => super::all().pop(),
    }
}

fn joined(strings: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    for s in strings {
        out.extend_from_slice(s);
        out.push(0);
    }
    out
}

impl ProcSource for Source {
    fn pid(&self) -> u32 {
        process().map_or(1, |p| p.pid)
    }

    fn threads(&self) -> Vec<u32> {
        process().map_or(Vec::new(), |p| p.tasks.lock().keys().copied().collect())
    }

    fn descriptors(&self) -> Vec<(i32, Vec<u8>)> {
        let Some(process) = process() else { return Vec::new() };
        process.fds.list().into_iter().map(|(fd, file)| (fd, file.place.path())).collect()
    }

    fn system_file(&self, name: &str) -> Option<Vec<u8>> {
        Some(system_file(name)?.into_bytes())
    }

    fn process_file(&self, name: &str) -> Option<Vec<u8>> {
        let p = process()?;
        let program = p.program.lock().clone();
        let text = match name {
            "auxv" => return Some(program.auxv),
            "cmdline" => return Some(joined(&program.args)),
            "environ" => return Some(joined(&program.env)),
            "comm" => {
                let mut name = p.tasks.lock().values().next()?.name.lock().clone();
                name.push(b'\n');
                return Some(name);
            }
            "maps" => p.space().describe(),
            "smaps" => p.space().describe_pages(),
            "mounts" => super::vfs().tree.describe_mounts(),
            "mountinfo" => mountinfo(),
            "cgroup" => "0::/\n".into(),
            "oom_score_adj" => "0\n".into(),
            "io" => "rchar: 0\nwchar: 0\nsyscr: 0\nsyscw: 0\nread_bytes: 0\nwrite_bytes: 0\n".into(),
            "limits" => limits(&p),
            "stat" => stat(&p),
            "statm" => {
                let (size, resident) = p.space().size();
                format!("{} {} 0 0 0 {} 0\n", size / 4096, resident / 4096, size / 4096)
            }
            "status" => status(&p),
            _ => return None,
        };
        Some(text.into_bytes())
    }

    fn process_link(&self, name: &str) -> Option<Vec<u8>> {
        let p = process()?;
        match name {
            "exe" => Some(p.program.lock().path.clone()),
            "cwd" => Some(p.cwd.lock().path()),
            _ => Some(b"/".to_vec()),
        }
    }
}

fn system_file(name: &str) -> Option<String> {
    Some(match name {
        "cmdline" => format!("{}\n", crate::boot::info().cmdline().text()),
        "cpuinfo" => cpuinfo(),
        "filesystems" => "nodev\tsysfs\nnodev\tproc\nnodev\ttmpfs\nnodev\tdevtmpfs\n\tzfs\n".into(),
        "loadavg" => "0.00 0.00 0.00 1/1 1\n".into(),
        "meminfo" => super::counters::meminfo(),
        "mounts" => super::vfs().tree.describe_mounts(),
        "stat" => system_stat(),
        "uptime" => {
            let centis = time::monotonic_ns() / 10_000_000;
            format!("{0}.{1:02} {0}.{1:02}\n", centis / 100, centis % 100)
        }
        "version" => format!("Linux version {RELEASE} ({VERSION})\n"),
        "vmstat" => vmstat(),
        "spl/kstat/zfs/arcstats" => super::kstat::arc()?,
        "spl/kstat/zfs/dmu_tx" => super::kstat::dmu_tx()?,
        "spl/kstat/zfs/txgs" => super::kstat::txgs()?,
        "sys/fs/file-max" => "1048576\n".into(),
        "sys/fs/nr_open" => format!("{}\n", super::NOFILE.1),
        "sys/fs/pipe-max-size" => "65536\n".into(),
        "sys/kernel/cap_last_cap" => "40\n".into(),
        "sys/kernel/hostname" => format!("{HOSTNAME}\n"),
        "sys/kernel/ngroups_max" => "65536\n".into(),
        "sys/kernel/osrelease" => format!("{RELEASE}\n"),
        "sys/kernel/ostype" => "Linux\n".into(),
        "sys/kernel/pid_max" => "4194304\n".into(),
        "sys/kernel/threads-max" => "65536\n".into(),
        "sys/kernel/random/boot_id" | "sys/kernel/random/uuid" => uuid(name.ends_with("boot_id")),
        "sys/net/core/somaxconn" => "4096\n".into(),
        "sys/vm/max_map_count" => "1048576\n".into(),
        "sys/vm/overcommit_memory" => "1\n".into(),
        "sys/vm/swappiness" => "0\n".into(),
        "tarn/counters" => super::counters::file(),
        _ => return crate::network::proc_file(name.strip_prefix("net/")?),
    })
}

fn vmstat() -> String {
    let [taken, without_block, split] = large::counts();
    format!(
        "nr_free_pages {}\nnr_anon_transparent_hugepages {}\nthp_fault_alloc {taken}\nthp_fault_fallback \
         {without_block}\nthp_underused_split_page {split}\n",
        frame::free_count(),
        page_table::large_pages(),
    )
}

fn uuid(boot: bool) -> String {
    static BOOT: spin::Once<[u8; 16]> = spin::Once::new();
    let fresh = || {
        let mut bytes = [0; 16];
        arch::random::fill(&mut bytes);
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        bytes
    };
    let b = if boot { *BOOT.call_once(fresh) } else { fresh() };
    let mut text = String::new();
    for (i, byte) in b.iter().enumerate() {
        let dash = if matches!(i, 4 | 6 | 8 | 10) { "-" } else { "" };
        let _ = write!(text, "{dash}{byte:02x}");
    }
    text.push('\n');
    text
}

fn cpuinfo() -> String {
    let leaf = |n| arch::cpuid(n, 0);
    let v = leaf(0);
    let mut vendor = Vec::new();
    for r in [v.ebx, v.edx, v.ecx] {
        vendor.extend_from_slice(&r.to_le_bytes());
    }
    let mut model = Vec::new();
    for n in 0x8000_0002..=0x8000_0004u32 {
        let l = leaf(n);
        for r in [l.eax, l.ebx, l.ecx, l.edx] {
            model.extend_from_slice(&r.to_le_bytes());
        }
    }
    model.retain(|b| *b != 0);
    let mut text = String::new();
    for cpu in 0..arch::cpu::count() {
        let _ = write!(
            text,
            "processor\t: {cpu}\nvendor_id\t: {}\nmodel name\t: {}\ncpu MHz\t\t: {}.000\ncpu cores\t: {}\n\
             flags\t\t: fpu tsc msr pae cx8 apic cmov mmx fxsr sse sse2 syscall nx lm\n\n",
            String::from_utf8_lossy(&vendor),
            String::from_utf8_lossy(&model).trim(),
            time::tsc_frequency() / 1_000_000,
            arch::cpu::count()
        );
    }
    text
}

fn system_stat() -> String {
    let mut text = String::from("cpu  0 0 0 0 0 0 0 0 0 0\n");
    for cpu in 0..arch::cpu::count() {
        let _ = writeln!(text, "cpu{cpu} 0 0 0 0 0 0 0 0 0 0");
    }
    let boot = time::now().sec - (time::monotonic_ns() / 1_000_000_000) as i64;
    let _ = write!(text, "ctxt 0\nbtime {boot}\nprocesses 1\nprocs_running 1\nprocs_blocked 0\n");
    text
}

fn mountinfo() -> String {
    let mut text = String::new();
    for (i, m) in super::vfs().tree.mounts().iter().enumerate() {
        let (path, mode) = (String::from_utf8_lossy(&m.path), if m.fs.read_only() { "ro" } else { "rw" });
        let (kind, source) = (m.fs.type_name(), m.fs.source());
        let _ = writeln!(text, "{} 1 0:{} / {path} {mode} - {kind} {source} {mode}", i + 20, i + 1);
    }
    text
}

fn limits(p: &Process) -> String {
    const NAMES: [(&str, &str); 16] = [
        ("Max cpu time", "seconds"),
        ("Max file size", "bytes"),
        ("Max data size", "bytes"),
        ("Max stack size", "bytes"),
        ("Max core file size", "bytes"),
        ("Max resident set", "bytes"),
        ("Max processes", "processes"),
        ("Max open files", "files"),
        ("Max locked memory", "bytes"),
        ("Max address space", "bytes"),
        ("Max file locks", "locks"),
        ("Max pending signals", "signals"),
        ("Max msgqueue size", "bytes"),
        ("Max nice priority", ""),
        ("Max realtime priority", ""),
        ("Max realtime timeout", "us"),
    ];
    let show = |v: u64| if v == u64::MAX { "unlimited".into() } else { format!("{v}") };
    let mut text = format!("{:<26}{:<21}{:<21}{:<10}\n", "Limit", "Soft Limit", "Hard Limit", "Units");
    for ((soft, hard), (name, unit)) in p.limits.lock().iter().zip(NAMES) {
        let _ = writeln!(text, "{name:<26}{:<21}{:<21}{unit:<10}", show(*soft), show(*hard));
    }
    text
}

fn first_name(p: &Process) -> String {
    let tasks = p.tasks.lock();
    let name = |t: &Arc<Task>| String::from_utf8_lossy(&t.name.lock()).into_owned();
    tasks.values().next().map(name).unwrap_or_default()
}

fn stat(p: &Process) -> String {
    let (size, resident) = p.space().size();
    let ticks = p.cpu_ns() / 10_000_000;
    format!(
        "{0} ({1}) R {2} {0} {0} 0 -1 0 {3} 0 0 0 {ticks} 0 0 0 20 0 {4} 0 {5} {size} {6} 18446744073709551615 \
         0 0 0 0 0 0 0 0 0 0 0 0 17 {7} 0 0 0 0 0 0 0 0 0 0 0 0 0\n",
        p.pid,
        first_name(p),
        p.parent,
        p.space().faults.load(Ordering::Relaxed),
        p.tasks.lock().len(),
        p.started_ns / 10_000_000,
        resident / 4096,
        sched::cpu_index(),
    )
}

fn status(p: &Process) -> String {
    let (size, resident) = p.space().size();
    let (size, resident) = (size / 1024, resident / 1024);
    let large = u8::from(!p.space().has_only_small());
    let c = p.credentials.lock().clone();
    let ids = |i: [u32; 3]| format!("{}\t{}\t{}\t{}", i[0], i[1], i[2], i[1]);
    let (name, umask, pid, parent) = (first_name(p), p.umask.load(Ordering::Relaxed), p.pid, p.parent);
    let (uid, gid, fds, threads) = (ids(c.uid), ids(c.gid), p.fds.limit(), p.tasks.lock().len());
    let cpus = arch::cpu::count();
    let mask = (1u64 << cpus.min(63)) - 1;
    let last = cpus - 1;
    format!(
        "Name:\t{name}\nUmask:\t{umask:04o}\nState:\tR (running)\nTgid:\t{pid}\nPid:\t{pid}\nPPid:\t{parent}\n\
         TracerPid:\t0\nUid:\t{uid}\nGid:\t{gid}\nFDSize:\t{fds}\nVmPeak:\t{size:8} kB\nVmSize:\t{size:8} kB\n\
         VmLck:\t       0 kB\nVmHWM:\t{resident:8} kB\nVmRSS:\t{resident:8} kB\nTHP_enabled:\t{large}\nThreads:\t{threads}\n\
         Cpus_allowed:\t{mask:x}\nCpus_allowed_list:\t0-{last}\n"
    )
}
