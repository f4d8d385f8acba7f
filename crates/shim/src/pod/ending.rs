//! The end of a pod: everything killed and reaped, the logs flushed, Done.

use std::time::{Duration, Instant};

use wire::v1::Done;
use wire::v1::envelope::Body;
use wire::v1::failure::Kind;

use super::Pod;
use crate::container::{Phase, Ticket};
use crate::failure::failure;
use crate::raw;
use crate::tree;

/// A process that does not die for so long waits for a device; a log, for a disk.
const LIMIT: Duration = Duration::from_secs(8);
/// A child may have been born while we looked.
const AGAIN: Duration = Duration::from_millis(50);
/// Attached clients hold up the end of the pod no longer.
const SESSIONS: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Ending {
    ticket: Option<Ticket>,
    limit: Instant,
    next: Instant,
    /// Until then what attached clients have not taken waits for them.
    sessions: Instant,
}

// === impl Ending ===

impl Ending {
    pub(super) fn next(&self) -> Instant {
        self.next
    }
}

impl Pod {
    /// Begins to end.
    pub(super) fn end(&mut self, ticket: Option<Ticket>) {
        let now = Instant::now();
        self.ending.get_or_insert({
            let (limit, sessions) = (now + LIMIT, now + SESSIONS);
            Ending { ticket, limit, next: now, sessions }
        });
        let launches: Vec<u32> = self.launches.iter().map(|launch| launch.number).collect();
        for number in launches {
            self.kill_launch(number, "the pod ends");
        }
        let execs: Vec<u32> = self.execs.iter().map(|exec| exec.number).collect();
        for number in execs {
            self.kill_exec_tree(number);
        }
    }

    pub(super) fn go_on_ending(&mut self) {
        let Some(ending) = &mut self.ending else { return };
        let (now, limit, sessions) = (Instant::now(), ending.limit, ending.sessions);
        ending.next = now + AGAIN;
        let children = tree::children();
        for pid in &children {
            raw::kill(*pid, 9).ok();
        }
        self.reap_children();
        if children.is_empty() {
            let ended = self.containers.iter().filter(|c| !matches!(c.phase, Phase::Leaving));
            let ended: Vec<u32> = ended.map(|container| container.number).collect();
            for number in ended {
                self.bury(number);
            }
        }
        if now >= sessions {
            self.cut_all();
        }
        let clean = children.is_empty() && self.containers.is_empty();
        if (clean && self.attachers.is_empty()) || now >= limit {
            self.cut_all();
            self.finish_ending(clean);
        }
    }

    fn finish_ending(&mut self, clean: bool) {
        self.record_again();
        if let Some(ticket) = self.ending.as_ref().and_then(|ending| ending.ticket) {
            if clean {
                self.answer(ticket, Body::Done(Done {}), Vec::new());
            } else {
                let text = "a process or a log did not end in time";
                self.refuse(ticket, failure(Kind::TimedOut, "shutdown", text));
            }
        }
        self.flush_last();
        self.over = true;
    }
}
