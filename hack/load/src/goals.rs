//! The figures to beat, as data.

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Milliseconds,
    Seconds,
    PerSecond,
    Mebibytes,
    MebibytesPerSecond,
    Count,
}

impl Unit {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::Seconds => "s",
            Self::PerSecond => "1/s",
            Self::Mebibytes => "MiB",
            Self::MebibytesPerSecond => "MiB/s",
            Self::Count => "",
        }
    }

    /// Of two figures of this unit, how many times worse the first one is.
    pub(crate) fn times_worse(self, figure: f64, goal: f64) -> f64 {
        match self {
            Self::PerSecond | Self::MebibytesPerSecond => goal / figure,
            Self::Milliseconds | Self::Seconds | Self::Mebibytes | Self::Count => figure / goal,
        }
    }
}

/// Whether a goal missed by more than twice fails a strict run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weight {
    Main,
    Detail,
}

/// One row of the table.
#[derive(Debug)]
pub(crate) struct Goal {
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    pub(crate) unit: Unit,
    pub(crate) bound: f64,
    pub(crate) weight: Weight,
}

const fn main(id: &'static str, title: &'static str, unit: Unit, bound: f64) -> Goal {
    Goal { id, title, unit, bound, weight: Weight::Main }
}

const fn detail(id: &'static str, title: &'static str, unit: Unit, bound: f64) -> Goal {
    Goal { id, title, unit, bound, weight: Weight::Detail }
}

use Unit::{Count, Mebibytes, MebibytesPerSecond, Milliseconds, PerSecond, Seconds};

/// Every row, in the order of the report.
pub(crate) const GOALS: &[Goal] = &[
    detail("run_pod", "RunPodSandbox", Milliseconds, 3.0),
    detail("create", "CreateContainer", Milliseconds, 5.0),
    detail("start", "StartContainer", Milliseconds, 1.0),
    main("to_running", "pod to running", Milliseconds, 10.0),
    main("exec", "ExecSync true", Milliseconds, 2.0),
    detail("container_status", "ContainerStatus", Milliseconds, 0.15),
    detail("pod_status", "PodSandboxStatus", Milliseconds, 0.15),
    detail("stop", "StopContainer (exits on TERM)", Milliseconds, 2.0),
    detail("stop_pod", "StopPodSandbox", Milliseconds, 2.0),
    detail("remove", "RemoveContainer", Milliseconds, 1.5),
    detail("remove_pod", "RemovePodSandbox", Milliseconds, 1.5),
    main("teardown", "teardown", Milliseconds, 8.0),
    // Ours: what a pod with a user namespace may take is half as much again.
    detail("volumes", "pod to running, 5 volumes", Milliseconds, 10.0),
    detail("mapped", "the same in a user namespace", Milliseconds, 15.0),
    detail("volumes_mounts", "5 volumes, 1000 other mounts", Milliseconds, 15.0),
    detail("mapped_mounts", "the same in a user namespace", Milliseconds, 20.0),
    main("to_running_8", "pod to running, 8 at once", Milliseconds, 40.0),
    main("cycles", "pod cycles per second, 8 at once", PerSecond, 80.0),
    main("cpu_per_cycle", "CPU seconds per pod cycle", Seconds, 0.02),
    detail("list_50", "ListContainers, 50 containers", Milliseconds, 0.4),
    detail("list_100", "ListContainers, 100 containers", Milliseconds, 0.4),
    detail("stats_50", "ListContainerStats, 50 containers", Milliseconds, 8.0),
    detail("stats_100", "ListContainerStats, 100 containers", Milliseconds, 8.0),
    detail("pod_stats_50", "ListPodSandboxStats, 50 pods", Milliseconds, 6.0),
    main("start_50", "start 50 pods, 8 at once", Seconds, 0.5),
    main("daemon_fresh", "daemon's PSS, fresh", Mebibytes, 8.0),
    main("daemon_50", "daemon's PSS, 50 pods", Mebibytes, 16.0),
    main("pod_fresh", "PSS per pod beyond its own, first 10 pods", Mebibytes, 0.15),
    main("pod_50", "PSS per pod beyond its own, 50 pods", Mebibytes, 0.15),
    main("pod_exec", "PSS per pod beyond its own, after 5 execs", Mebibytes, 0.15),
    detail("processes", "processes per one-container pod", Count, 2.0),
    // Ours: no figure of the peers is known, and a socket carries about a gigabyte a second here.
    detail("session", "exec session to first byte", Milliseconds, 5.0),
    detail("stream_out", "exec session, output", MebibytesPerSecond, 400.0),
    detail("stream_in", "exec session, input", MebibytesPerSecond, 400.0),
    main("daemon_sessions", "daemon's PSS, after 1000 sessions", Mebibytes, 16.0),
    main("ready", "daemon start to ready", Milliseconds, 15.0),
    main("pull_gzip", "pull and unpack, gzip", Seconds, 1.3),
    detail("pull_gzip_cpu", "pull and unpack, gzip: CPU", Seconds, 2.2),
    main("pull_zstd", "pull and unpack, zstd", Seconds, 0.8),
    detail("pull_zstd_cpu", "pull and unpack, zstd: CPU", Seconds, 1.3),
    detail("remove_image", "RemoveImage", Milliseconds, 5.0),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_a_name_of_its_own() {
        let mut ids: Vec<_> = GOALS.iter().map(|goal| goal.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), GOALS.len());
    }

    #[test]
    fn more_per_second_is_better_and_more_of_all_else_is_worse() {
        assert!(PerSecond.times_worse(40.0, 80.0) > 1.9);
        assert!(Milliseconds.times_worse(40.0, 80.0) < 0.6);
    }
}
