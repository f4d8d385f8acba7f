//! What a cgroup uses.
//!
//! A [`Reader`] keeps the files of one cgroup open and reads them by pread. What only metrics want is read by
//! [`Cgroups::detail`], which opens its files each time.
//!
//! A file that the node lacks, or that went with its cgroup, is an absent number: never an error.

mod detail;
mod parse;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{CgroupPath, Cgroups, Layout};
use parse::{key, lines, max, pressure, whole};

pub use detail::{Detail, DeviceIo, HugePages, Limits, Throttling};

/// memory.stat is the longest, with 2 KiB.
const LONGEST: usize = 8 << 10;

/// The files of one cgroup, held open.
#[derive(Debug)]
pub struct Reader {
    layout: Layout,
    cpu: Option<File>,
    memory: Option<File>,
    memory_stat: Option<File>,
    memory_limit: Option<File>,
    swap: Option<File>,
    pids: Option<File>,
    pressures: [Option<File>; 3],
}

/// What a cgroup used, at one time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sample {
    /// Wall clock, nanoseconds.
    pub at: i64,
    /// Nanoseconds of CPU time since it was made.
    pub cpu_ns: Option<u64>,
    /// Memory.
    pub memory: Option<Memory>,
    /// Processes and threads now.
    pub pids: Option<u64>,
    /// Stalls for want of CPU.
    pub cpu_pressure: Option<Pressure>,
    /// Of memory.
    pub memory_pressure: Option<Pressure>,
    /// Of input and output.
    pub io_pressure: Option<Pressure>,
}

/// Memory, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// All that is charged, page cache too.
    pub usage: u64,
    /// Usage without inactive file pages: what eviction goes by.
    pub working_set: u64,
    /// Anonymous memory.
    pub rss: u64,
    /// Page cache.
    pub cache: u64,
    /// Mapped files.
    pub mapped_file: u64,
    /// Swapped out.
    pub swap: u64,
    /// Minor and major faults, a count.
    pub page_faults: u64,
    /// Those that read from disk.
    pub major_page_faults: u64,
    /// `None` is unlimited.
    pub limit: Option<u64>,
}

/// Pressure stall information of one resource.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// Some of its tasks waited.
    pub some: Stall,
    /// All of them did.
    pub full: Stall,
}

/// How much of the time, in percent, and for how long in all.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stall {
    /// Over ten seconds.
    pub avg10: f64,
    /// Over a minute.
    pub avg60: f64,
    /// Over five.
    pub avg300: f64,
    /// Microseconds since it was made.
    pub total_us: u64,
}

impl Cgroups {
    /// Opens the files of a cgroup. Blocks.
    pub fn reader(&self, path: &CgroupPath) -> Reader {
        Reader::open(self, path)
    }

    /// How often the kernel killed for want of memory in this cgroup: 0 when it is gone. Blocks.
    pub fn oom_kills(&self, path: &CgroupPath) -> u64 {
        let file = match self.layout() {
            Layout::V2 => "memory.events",
            Layout::V1 | Layout::Hybrid => "memory.oom_control",
        };
        let dir = self.controller_dir("memory", path);
        dir.and_then(|dir| key(&once(&dir, file)?, "oom_kill")).unwrap_or_default()
    }
}

impl Reader {
    /// Opens what is there.
    pub fn open(cgroups: &Cgroups, path: &CgroupPath) -> Self {
        let open = |controller: &str, v1: &str, v2: &str| {
            let name = if cgroups.layout() == Layout::V2 { v2 } else { v1 };
            let dir = cgroups.controller_dir(controller, path).filter(|_| !name.is_empty())?;
            File::open(dir.join(name)).ok()
        };
        let unified = cgroups.unified().map(|unified| path.under(unified));
        let pressure = |name: &str| File::open(unified.as_deref()?.join(name)).ok();
        Self {
            layout: cgroups.layout(),
            cpu: open("cpuacct", "cpuacct.usage", "cpu.stat"),
            memory: open("memory", "memory.usage_in_bytes", "memory.current"),
            memory_stat: open("memory", "memory.stat", "memory.stat"),
            memory_limit: open("memory", "memory.limit_in_bytes", "memory.max"),
            // v1 tells it in memory.stat.
            swap: open("memory", "", "memory.swap.current"),
            pids: open("pids", "pids.current", "pids.current"),
            pressures: ["cpu.pressure", "memory.pressure", "io.pressure"].map(pressure),
        }
    }

    /// Reads it all. Blocks.
    pub fn read(&self) -> Sample {
        let [cpu_pressure, memory_pressure, io_pressure] =
            self.pressures.each_ref().map(|file| read(file.as_ref(), pressure));
        Sample {
            at: crate::proc::now(),
            cpu_ns: self.cpu_ns(),
            memory: self.memory(),
            pids: read(self.pids.as_ref(), whole),
            cpu_pressure,
            memory_pressure,
            io_pressure,
        }
    }

    /// Only the CPU time: what a rate is made of. Blocks.
    pub fn cpu_ns(&self) -> Option<u64> {
        match self.layout {
            Layout::V2 => {
                read(self.cpu.as_ref(), |text| key(text, "usage_usec")).map(|us| us * 1000)
            }
            Layout::V1 | Layout::Hybrid => read(self.cpu.as_ref(), whole),
        }
    }

    fn memory(&self) -> Option<Memory> {
        let usage = read(self.memory.as_ref(), whole)?;
        let (found, inactive) = read(self.memory_stat.as_ref(), |text| Some(self.parse(text)))?;
        Some(Memory {
            usage,
            working_set: usage.saturating_sub(inactive),
            limit: read(self.memory_limit.as_ref(), max),
            swap: read(self.swap.as_ref(), whole).unwrap_or(found.swap),
            ..found
        })
    }

    /// memory.stat, and the inactive file pages in it.
    fn parse(&self, text: &str) -> (Memory, u64) {
        let (mut memory, mut inactive) = (Memory::default(), 0);
        let v2 = self.layout == Layout::V2;
        for (name, value) in lines(text) {
            // v1 counts a cgroup with all below it under names of their own.
            match if v2 { Some(name) } else { name.strip_prefix("total_") } {
                Some("rss" | "anon") => memory.rss = value,
                Some("cache" | "file") => memory.cache = value,
                Some("mapped_file" | "file_mapped") => memory.mapped_file = value,
                Some("swap") => memory.swap = value,
                Some("pgfault") => memory.page_faults = value,
                Some("pgmajfault") => memory.major_page_faults = value,
                Some("inactive_file") => inactive = value,
                _ => {}
            }
        }
        (memory, inactive)
    }
}

/// One pread of a held file; `None` when its cgroup is gone.
fn read<T>(file: Option<&File>, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
    let mut buffer = [0; LONGEST];
    let length = file?.read_at(&mut buffer, 0).ok()?;
    parse(std::str::from_utf8(buffer.get(..length)?).ok()?)
}

/// The text of a file that is opened for this one reading.
fn once(dir: &Path, name: &str) -> Option<String> {
    std::fs::read_to_string(dir.join(name)).ok()
}
