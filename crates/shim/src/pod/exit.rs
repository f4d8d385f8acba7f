//! Ends: reaped, drained, recorded, told, in this order.

use std::time::{Duration, Instant};

use nix::unistd::Pid;
use wire::exits;
use wire::v1::Exited;
use wire::v1::envelope::Body;

use super::Pod;
use crate::container::Phase;
use crate::line::Stream;
use crate::output::now;
use crate::raw::{self, Status};

/// How long the telling of an exit waits until its log is written: who reads the log right after finds it whole, as a kubelet that
/// takes its last lines for the reason of a failure, and a frozen disk holds nobody up. Nearly always it is written at once; on a
/// node without a free processor the thread that writes may come late.
const LOG_GRACE: Duration = Duration::from_millis(200);
/// Reads of a pipe of the usual size, and as many again.
const DRAIN: u32 = 16;
/// As the kubelet knows it.
const START_ERROR: i32 = 128;

impl Pod {
    /// While a launch is at work, a process that nobody knows may be the one that it is about to name: those wait.
    pub(super) fn reap_children(&mut self) {
        let starting = self.containers.iter().any(super::Container::is_starting_outside);
        if self.launches.is_empty() && !starting {
            while let Some((pid, status)) = raw::reap(None) {
                self.ended(pid, status);
            }
        } else {
            for pid in self.known() {
                if let Some((pid, status)) = raw::reap(Some(pid)) {
                    self.ended(pid, status);
                }
            }
        }
    }

    fn known(&self) -> Vec<Pid> {
        let settled = self.containers.iter().filter(|c| !c.is_starting_outside());
        let containers = settled.filter_map(super::Container::alive);
        let execs = self.execs.iter().filter_map(|exec| exec.pid);
        let launches = self.launches.iter().map(|launch| launch.pid);
        let init = self.namespaces.iter().filter_map(|namespaces| namespaces.init);
        containers.chain(execs).chain(launches).chain(init).collect()
    }

    fn ended(&mut self, pid: Pid, status: Status) {
        let (code, signal) = match status {
            Status::Code(code) => (code, 0),
            Status::Signal(signal) => (128 + signal, signal),
        };
        if let Some(launch) = self.launches.iter().find(|launch| launch.pid == pid) {
            let how = match status {
                Status::Code(code) => format!("exit status {code}"),
                Status::Signal(signal) => format!("killed by signal {signal}"),
            };
            return self.launch_ended(launch.number, &how);
        }
        if let Some(container) = self.containers.iter().find(|c| c.alive() == Some(pid)) {
            return self.container_ended(container.number, code, signal);
        }
        if let Some(exec) = self.execs.iter().find(|exec| exec.pid == Some(pid)) {
            return self.exec_ended(exec.number, code, signal);
        }
        if let Some(namespaces) = self.namespaces.as_mut().filter(|n| n.init == Some(pid)) {
            namespaces.init = None;
        }
    }

    fn container_ended(&mut self, number: u32, code: i32, signal: i32) {
        self.start_news(number);
        let Some(container) = self.containers.iter_mut().find(|c| c.number == number) else {
            return;
        };
        let start_error = container.start_error.take().unwrap_or_default();
        let code = if start_error.is_empty() { code } else { START_ERROR };
        let id = container.id.clone();
        let exited = Exited { container_id: id, code, signal, at: now(), start_error };
        container.phase = Phase::Exited(exited.clone());
        if container.failed {
            return self.bury(number);
        }
        // From now on no client holds it up: what one has not taken waits here.
        container.outputs().for_each(|output| output.resume(&self.poll));
        self.drain(number);
        self.conclude_if_read(number);
        let Some(container) = self.container(number) else { return };
        let written = container.in_flight == 0;
        container.telling = Instant::now().checked_add(LOG_GRACE);
        self.unrecorded.push(exited);
        self.record_again();
        if written {
            self.tell_exit(number);
        }
    }

    /// Reads what the process has written before it ended. What its children write later is logged, but not waited for.
    pub(super) fn drain(&mut self, number: u32) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            // Bounded: a child that lives on may write for ever.
            for _ in 0..DRAIN {
                if !self.read_output(number, stream) {
                    break;
                }
            }
        }
    }

    /// Appends what the exit file has not taken yet.
    pub(super) fn record_again(&mut self) {
        while let Some(exited) = self.unrecorded.first() {
            if exits::append(&self.exits, exited).is_err() {
                return;
            }
            self.unrecorded.remove(0);
        }
    }

    pub(super) fn tell_exit(&mut self, number: u32) {
        let Some(container) = self.container(number) else { return };
        container.telling = None;
        let forgotten = container.forgetting.is_some();
        if let Phase::Exited(exited) = &container.phase {
            let exited = exited.clone();
            self.tell(Body::Exited(exited));
        }
        if forgotten {
            self.bury(number);
        }
    }
}
