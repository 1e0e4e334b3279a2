//! What every Prometheus client tells of its process, and what every program of Kubernetes tells of its build.

use std::{fmt, fs};

use nix::unistd::{SysconfVar, sysconf};
use prometheus_client::{
    encoding::EncodeMetric as _,
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use super::{Encoder, gauge, gauges};

/// The process as the kernel has it.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
struct Process {
    cpu_seconds: f64,
    start_seconds: f64,
    virtual_bytes: u64,
    resident_bytes: u64,
}

/// Left out where /proc does not tell.
pub(super) fn encode(encoder: &mut Encoder<'_>) -> fmt::Result {
    build(encoder)?;
    let open = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let open = u64::try_from(open).unwrap_or(u64::MAX);
    let help = "Number of open file descriptors.";
    gauge(encoder, "process_open_fds", help, open)?;
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    if let Some(most) = most_files(&limits) {
        let help = "Maximum number of open file descriptors.";
        gauge(encoder, "process_max_fds", help, most)?;
    }
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let (stat, kernel) = (read("/proc/self/stat"), read("/proc/stat"));
    match process(
        &stat,
        &kernel,
        unit(SysconfVar::CLK_TCK),
        unit(SysconfVar::PAGE_SIZE),
    ) {
        Some(process) => usage(encoder, process),
        None => Ok(()),
    }
}

fn unit(of: SysconfVar) -> u64 {
    let value = sysconf(of).ok().flatten();
    value
        .and_then(|value| u64::try_from(value).ok())
        .unwrap_or(1)
}

fn usage(encoder: &mut Encoder<'_>, process: Process) -> fmt::Result {
    let help = "Total user and system CPU time spent in seconds.";
    let name = "process_cpu_seconds";
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    ConstCounter::new(process.cpu_seconds).encode(metric)?;
    let help = "Start time of the process since unix epoch in seconds.";
    let name = "process_start_time_seconds";
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    ConstGauge::new(process.start_seconds).encode(metric)?;
    let help = "Virtual memory size in bytes.";
    gauge(
        encoder,
        "process_virtual_memory_bytes",
        help,
        process.virtual_bytes,
    )?;
    let help = "Resident memory size in bytes.";
    gauge(
        encoder,
        "process_resident_memory_bytes",
        help,
        process.resident_bytes,
    )
}

/// Labels as Kubernetes' programs have them; those of Go are empty.
fn build(encoder: &mut Encoder<'_>) -> fmt::Result {
    let platform = format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH);
    let version = concat!("v", env!("CARGO_PKG_VERSION"));
    let labels = [
        ("build_date", ""),
        ("compiler", "rustc"),
        ("git_commit", ""),
        ("git_tree_state", ""),
        ("git_version", version),
        ("go_version", ""),
        ("major", env!("CARGO_PKG_VERSION_MAJOR")),
        ("minor", env!("CARGO_PKG_VERSION_MINOR")),
        ("platform", &platform),
    ];
    let help = "A metric with a constant '1' value labeled by the version of lb-agent";
    gauges(encoder, "kubernetes_build_info", help, [(labels, 1)])
}

/// `Max open files            1024                 4096                 files`
fn most_files(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

/// proc_pid_stat(5), fields counted from 1.
fn process(stat: &str, kernel: &str, ticks: u64, page: u64) -> Option<Process> {
    // The name is in brackets and may hold some itself.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field = |number: usize| fields.get(number.checked_sub(3)?)?.parse::<u64>().ok();
    let boot = kernel
        .lines()
        .find_map(|line| line.strip_prefix("btime "))?;
    let seconds = |in_ticks: u64| {
        let (whole, part) = (in_ticks / ticks, in_ticks % ticks);
        std::time::Duration::from_secs(whole).as_secs_f64()
            + std::time::Duration::from_nanos(part * 1_000_000_000 / ticks).as_secs_f64()
    };
    Some(Process {
        cpu_seconds: seconds(field(14)? + field(15)?),
        start_seconds: boot.trim().parse::<f64>().ok()? + seconds(field(22)?),
        virtual_bytes: field(23)?,
        resident_bytes: field(24)? * page,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_as_the_manual_counts_its_fields() {
        let stat =
            "77 (a ) b) S 1 77 77 0 -1 4194560 5 0 0 0 150 50 0 0 20 0 3 0 1000 409600 25 184 1";
        let found = process(stat, "cpu 1 2\nbtime 1700000000\n", 100, 4096);
        let want = Process {
            cpu_seconds: 2.0,
            start_seconds: 1_700_000_010.0,
            virtual_bytes: 409_600,
            resident_bytes: 102_400,
        };
        assert_eq!(found, Some(want));
        assert_eq!(process("77 (a) S 1", "", 100, 4096), None);
    }

    #[test]
    fn the_soft_limit_of_files_counts() {
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 4096                 files\n";
        assert_eq!(most_files(limits), Some(1024));
    }
}
