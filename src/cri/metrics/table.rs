//! The metrics, one row each: critest's list, in its order.
//!
//! Values are whole numbers, as the interface has it: seconds are cut. Without a limit the value is 0.

use cri_proto::cri::{self, MetricType};
use host::cgroup::stats::{Detail, DeviceIo, Memory, Pressure};
use network::InterfaceCounters;

use super::{LABELS, Source, Value};

const NANOS: u64 = 1_000_000_000;
const MICROS: u64 = 1_000_000;

/// What a metric is, and how its values are found.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    kind: MetricType,
    /// Labels beyond those of every metric.
    labels: &'static [&'static str],
    values: fn(&Source<'_>) -> Vec<Value>,
}

impl Row {
    pub(super) fn descriptor(&self) -> cri::MetricDescriptor {
        let keys = LABELS.iter().chain(self.labels);
        cri::MetricDescriptor {
            name: self.name.to_owned(),
            help: self.help.to_owned(),
            label_keys: keys.map(|key| (*key).to_owned()).collect(),
        }
    }

    pub(super) fn metrics<'a>(&'a self, of: &'a Source<'_>) -> impl Iterator<Item = cri::Metric> {
        let metric = move |(labels, value): Value| cri::Metric {
            name: self.name.to_owned(),
            timestamp: of.sample.at,
            metric_type: self.kind.into(),
            label_values: of.labels.iter().cloned().chain(labels).collect(),
            value: Some(cri::UInt64Value { value }),
        };
        (self.values)(of).into_iter().map(metric)
    }
}

const fn counter(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    values: fn(&Source<'_>) -> Vec<Value>,
) -> Row {
    Row { name, help, kind: MetricType::Counter, labels, values }
}

const fn gauge(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    values: fn(&Source<'_>) -> Vec<Value>,
) -> Row {
    Row { name, help, kind: MetricType::Gauge, labels, values }
}

pub(super) const TABLE: [Row; 56] = [
    counter(
        "container_blkio_device_usage_total",
        &["device", "major", "minor", "operation"],
        "Bytes that went to and from a block device",
        |s| devices(s, |d| vec![("Read", d.read_bytes), ("Write", d.write_bytes)]),
    ),
    counter("container_cpu_cfs_periods_total", &[], "Scheduling periods that passed", |s| {
        detail(s, |d| d.throttling.periods)
    }),
    counter(
        "container_cpu_cfs_throttled_periods_total",
        &[],
        "Scheduling periods in which the quota ran out",
        |s| detail(s, |d| d.throttling.throttled_periods),
    ),
    counter(
        "container_cpu_cfs_throttled_seconds_total",
        &[],
        "Time stopped because the quota had run out",
        |s| detail(s, |d| d.throttling.throttled_ns / NANOS),
    ),
    counter("container_cpu_system_seconds_total", &[], "CPU time in the kernel", |s| {
        detail(s, |d| d.cpu_system_ns / NANOS)
    }),
    counter("container_cpu_usage_seconds_total", &["cpu"], "CPU time", |s| {
        s.sample.cpu_ns.map(|ns| (vec!["total".to_owned()], ns / NANOS)).into_iter().collect()
    }),
    counter("container_cpu_user_seconds_total", &[], "CPU time outside the kernel", |s| {
        detail(s, |d| d.cpu_user_ns / NANOS)
    }),
    gauge("container_file_descriptors", &[], "Open file descriptors", |s| {
        one(s.processes.map(|p| p.descriptors))
    }),
    gauge("container_fs_inodes_free", &["device"], "Free inodes of the file system", |s| {
        disk(s, |d| d.space.inodes_free)
    }),
    gauge("container_fs_inodes_total", &["device"], "Inodes of the file system", |s| {
        disk(s, |d| d.space.inodes)
    }),
    gauge("container_fs_limit_bytes", &["device"], "Size of the file system", |s| {
        disk(s, |d| d.space.bytes)
    }),
    counter("container_fs_reads_bytes_total", &["device"], "Bytes read", |s| {
        by_device(s, |d| d.read_bytes)
    }),
    counter("container_fs_reads_total", &["device"], "Reads", |s| by_device(s, |d| d.reads)),
    gauge("container_fs_usage_bytes", &["device"], "Bytes of the writable layer", |s| {
        disk(s, |d| d.used.bytes)
    }),
    counter("container_fs_writes_bytes_total", &["device"], "Bytes written", |s| {
        by_device(s, |d| d.write_bytes)
    }),
    counter("container_fs_writes_total", &["device"], "Writes", |s| by_device(s, |d| d.writes)),
    gauge("container_hugetlb_max_usage_bytes", &["pagesize"], "Most huge pages ever", |s| {
        huge_pages(s, |pages| pages.max_usage)
    }),
    gauge("container_hugetlb_usage_bytes", &["pagesize"], "Huge pages", |s| {
        huge_pages(s, |pages| pages.usage)
    }),
    gauge("container_last_seen", &[], "When it was measured, in seconds since 1970", |s| {
        one(seconds(s.sample.at))
    }),
    gauge("container_memory_cache", &[], "Page cache", |s| memory(s, |m| m.cache)),
    counter("container_memory_failcnt", &[], "Times that the memory limit was met", |s| {
        detail(s, |d| d.memory_failures)
    }),
    counter("container_memory_failures_total", &["failure_type", "scope"], "Page faults", faults),
    gauge("container_memory_kernel_usage", &[], "Memory of the kernel", |s| {
        detail(s, |d| d.memory_kernel)
    }),
    gauge("container_memory_mapped_file", &[], "Mapped files", |s| memory(s, |m| m.mapped_file)),
    gauge("container_memory_max_usage_bytes", &[], "Most memory ever", |s| {
        detail(s, |d| d.memory_max_usage)
    }),
    gauge("container_memory_rss", &[], "Anonymous memory", |s| memory(s, |m| m.rss)),
    gauge("container_memory_swap", &[], "Swap", |s| memory(s, |m| m.swap)),
    gauge("container_memory_usage_bytes", &[], "All memory, page cache included", |s| {
        memory(s, |m| m.usage)
    }),
    gauge(
        "container_memory_working_set_bytes",
        &[],
        "Memory that cannot be taken away at once",
        |s| memory(s, |m| m.working_set),
    ),
    counter("container_network_receive_bytes_total", &["interface"], "Bytes received", |s| {
        interfaces(s, |i| i.rx_bytes)
    }),
    counter("container_network_receive_errors_total", &["interface"], "Receive errors", |s| {
        interfaces(s, |i| i.rx_errors)
    }),
    counter(
        "container_network_receive_packets_dropped_total",
        &["interface"],
        "Packets received and dropped",
        |s| interfaces(s, |i| i.rx_dropped),
    ),
    counter("container_network_receive_packets_total", &["interface"], "Packets received", |s| {
        interfaces(s, |i| i.rx_packets)
    }),
    counter("container_network_transmit_bytes_total", &["interface"], "Bytes sent", |s| {
        interfaces(s, |i| i.tx_bytes)
    }),
    counter("container_network_transmit_errors_total", &["interface"], "Send errors", |s| {
        interfaces(s, |i| i.tx_errors)
    }),
    counter(
        "container_network_transmit_packets_dropped_total",
        &["interface"],
        "Packets to send that were dropped",
        |s| interfaces(s, |i| i.tx_dropped),
    ),
    counter("container_network_transmit_packets_total", &["interface"], "Packets sent", |s| {
        interfaces(s, |i| i.tx_packets)
    }),
    counter("container_oom_events_total", &[], "Kills for want of memory", |s| {
        detail(s, |d| d.oom_kills)
    }),
    counter(
        "container_pressure_cpu_stalled_seconds_total",
        &[],
        "Time in which all tasks waited for CPU",
        |s| stalled(s.sample.cpu_pressure),
    ),
    counter(
        "container_pressure_cpu_waiting_seconds_total",
        &[],
        "Time in which a task waited for CPU",
        |s| waiting(s.sample.cpu_pressure),
    ),
    counter(
        "container_pressure_io_stalled_seconds_total",
        &[],
        "Time in which all tasks waited for input and output",
        |s| stalled(s.sample.io_pressure),
    ),
    counter(
        "container_pressure_io_waiting_seconds_total",
        &[],
        "Time in which a task waited for input and output",
        |s| waiting(s.sample.io_pressure),
    ),
    counter(
        "container_pressure_memory_stalled_seconds_total",
        &[],
        "Time in which all tasks waited for memory",
        |s| stalled(s.sample.memory_pressure),
    ),
    counter(
        "container_pressure_memory_waiting_seconds_total",
        &[],
        "Time in which a task waited for memory",
        |s| waiting(s.sample.memory_pressure),
    ),
    gauge("container_processes", &[], "Processes", |s| one(s.processes.map(|p| p.count))),
    gauge("container_sockets", &[], "Open sockets", |s| one(s.processes.map(|p| p.sockets))),
    gauge("container_spec_cpu_period", &[], "Scheduling period in microseconds", |s| {
        detail(s, |d| d.limits.cpu_period)
    }),
    gauge("container_spec_cpu_quota", &[], "CPU time per period in microseconds", |s| {
        one(s.detail.and_then(|d| d.limits.cpu_quota))
    }),
    gauge("container_spec_cpu_shares", &[], "Weight among others", |s| {
        detail(s, |d| d.limits.cpu_shares)
    }),
    gauge("container_spec_memory_limit_bytes", &[], "Memory limit", |s| {
        detail(s, |d| d.limits.memory.unwrap_or_default())
    }),
    gauge(
        "container_spec_memory_reservation_limit_bytes",
        &[],
        "Memory that is kept for it when there is little",
        |s| detail(s, |d| d.limits.memory_reservation.unwrap_or_default()),
    ),
    gauge("container_spec_memory_swap_limit_bytes", &[], "Swap limit", |s| {
        detail(s, |d| d.limits.memory_swap.unwrap_or_default())
    }),
    gauge("container_start_time_seconds", &[], "When it began, in seconds since 1970", |s| {
        one(s.started_at.and_then(seconds))
    }),
    gauge("container_threads", &[], "Threads", |s| one(s.sample.pids)),
    gauge("container_threads_max", &[], "Threads that it may have", |s| {
        detail(s, |d| d.limits.pids.unwrap_or_default())
    }),
    gauge("container_ulimits_soft", &["ulimit"], "Soft limits of the main process", |s| {
        let files = s.processes.and_then(|p| p.open_files_soft);
        files.map(|limit| (vec!["max_open_files".to_owned()], limit)).into_iter().collect()
    }),
];

fn one(value: Option<u64>) -> Vec<Value> {
    value.map(|value| (Vec::new(), value)).into_iter().collect()
}

fn seconds(nanos: i64) -> Option<u64> {
    u64::try_from(nanos).ok().map(|nanos| nanos / NANOS)
}

fn detail(of: &Source<'_>, value: fn(&Detail) -> u64) -> Vec<Value> {
    one(of.detail.map(value))
}

fn memory(of: &Source<'_>, value: fn(&Memory) -> u64) -> Vec<Value> {
    one(of.sample.memory.as_ref().map(value))
}

fn faults(of: &Source<'_>) -> Vec<Value> {
    let Some(memory) = &of.sample.memory else { return Vec::new() };
    let minor = memory.page_faults.saturating_sub(memory.major_page_faults);
    [("pgfault", minor), ("pgmajfault", memory.major_page_faults)]
        .map(|(kind, value)| (vec![kind.to_owned(), "container".to_owned()], value))
        .to_vec()
}

fn disk(of: &Source<'_>, value: fn(&super::Disk) -> u64) -> Vec<Value> {
    of.disk.map(|disk| (vec![disk.mountpoint.clone()], value(disk))).into_iter().collect()
}

fn by_device(of: &Source<'_>, value: fn(&DeviceIo) -> u64) -> Vec<Value> {
    let io = of.detail.map(|detail| detail.io.as_slice()).unwrap_or_default();
    io.iter().map(|device| (vec![name(device)], value(device))).collect()
}

fn devices(of: &Source<'_>, values: fn(&DeviceIo) -> Vec<(&'static str, u64)>) -> Vec<Value> {
    let io = of.detail.map(|detail| detail.io.as_slice()).unwrap_or_default();
    let labels = |device: &DeviceIo, operation: &str| {
        let (major, minor) = (device.major.to_string(), device.minor.to_string());
        vec![name(device), major, minor, operation.to_owned()]
    };
    let of_one = |device| values(device).into_iter().map(move |(op, n)| (labels(device, op), n));
    io.iter().flat_map(of_one).collect()
}

fn name(device: &DeviceIo) -> String {
    format!("{}:{}", device.major, device.minor)
}

fn huge_pages(of: &Source<'_>, value: fn(&host::cgroup::stats::HugePages) -> u64) -> Vec<Value> {
    let pages = of.detail.map(|detail| detail.huge_pages.as_slice()).unwrap_or_default();
    pages.iter().map(|pages| (vec![pages.size.clone()], value(pages))).collect()
}

fn interfaces(of: &Source<'_>, value: fn(&InterfaceCounters) -> u64) -> Vec<Value> {
    of.interfaces.iter().map(|interface| (vec![interface.name.clone()], value(interface))).collect()
}

fn stalled(pressure: Option<Pressure>) -> Vec<Value> {
    one(pressure.map(|pressure| pressure.full.total_us / MICROS))
}

fn waiting(pressure: Option<Pressure>) -> Vec<Value> {
    one(pressure.map(|pressure| pressure.some.total_us / MICROS))
}
