//! Between the containers' outputs and the log thread.

use wire::v1::Failure;
use wire::v1::envelope::Body;
use wire::v1::failure::Kind;

use super::Pod;
use super::request::no_container;
use crate::container::{Log, Phase, Ticket};
use crate::failure::failure;
use crate::line::Stream;
use crate::log::{Done, Job, What};
use crate::output::{Found, Output, READ, WIDE};

/// What a container may have in the queue. Over it, the container is not read, and blocks when its pipe is full.
const SHARE: usize = 256 << 10;

impl Pod {
    /// Reads a stream once. Gives whether there may be more.
    pub(super) fn read_output(&mut self, number: u32, stream: Stream) -> bool {
        let mut narrow = [0; READ];
        let mut wide = std::mem::take(&mut self.wide);
        let more = match wide.get_mut(..WIDE) {
            Some(buffer) => self.read_into(number, stream, buffer),
            None => self.read_into(number, stream, &mut narrow),
        };
        self.wide = wide;
        more
    }

    fn read_into(&mut self, number: u32, stream: Stream, buffer: &mut [u8]) -> bool {
        let Some(container) = self.containers.iter_mut().find(|c| c.number == number) else {
            return false;
        };
        let logged = matches!(container.log, Log::Opening | Log::Open);
        let held = container.in_flight > SHARE
            || container.alive().is_some()
                && self.attachers.iter().any(|attacher| attacher.holds(number, stream));
        let slot = container.output(stream);
        let Some(output) = slot.as_mut() else { return false };
        if held {
            output.pause(&self.poll);
            return false;
        }
        match output.read(buffer) {
            Found::Nothing => false,
            Found::Bytes(count) => {
                let bytes = buffer.get(..count).unwrap_or_default();
                let records = if logged { output.records(bytes) } else { Vec::new() };
                self.hand_on(number, stream, bytes);
                self.write(number, records);
                true
            }
            Found::End => {
                if let Some(output) = slot.take() {
                    let records = output.finish(&self.poll);
                    self.write(number, records);
                }
                self.stream_ended(number, stream);
                false
            }
        }
    }

    fn write(&mut self, number: u32, records: Vec<u8>) {
        if records.is_empty() {
            return;
        }
        if let Some(container) = self.container(number) {
            container.in_flight += records.len();
            self.logs.submit(Job::Write(number, records));
        }
    }

    /// The log thread has done something.
    pub(super) fn logged(&mut self) {
        for Done { log, what } in self.logs.done() {
            match what {
                What::Opened(result) => self.log_opened(log, result),
                What::Wrote { bytes, dropped } => self.log_written(log, bytes, dropped),
                What::Reopened(result) => self.log_reopened(log, result),
                What::Closed => self.remove(log),
            }
        }
    }

    fn log_opened(&mut self, number: u32, result: Result<(), String>) {
        let Some(container) = self.container(number) else { return };
        container.log = match result {
            Ok(()) => Log::Open,
            Err(message) => Log::Failed(message),
        };
        self.answer_create(number);
    }

    fn log_written(&mut self, number: u32, bytes: usize, dropped: u64) {
        let Some(container) = self.containers.iter_mut().find(|c| c.number == number) else {
            return;
        };
        container.in_flight = container.in_flight.saturating_sub(bytes);
        container.dropped = container.dropped.saturating_add(dropped);
        if container.in_flight <= SHARE {
            container.outputs().for_each(|output| output.resume(&self.poll));
        }
        if container.in_flight == 0 && matches!(container.phase, Phase::Exited(_)) {
            self.caught_up(number);
        }
    }

    /// The disk has caught up with a container that has ended: what waited for its log goes on.
    fn caught_up(&mut self, number: u32) {
        self.drain(number);
        self.conclude_if_read(number);
        let Some(container) = self.container(number) else { return };
        let (telling, forgetting) = (container.telling, container.forgetting);
        match container.in_flight {
            0 if telling.is_some() => self.tell_exit(number),
            0 if forgetting.is_some() => self.bury(number),
            _ => {}
        }
    }

    fn log_reopened(&mut self, number: u32, result: Result<(), String>) {
        let Some(container) = self.container(number) else { return };
        let Some(ticket) = container.reopening.take() else { return };
        match result {
            Ok(()) => self.answer(ticket, Body::Done(wire::v1::Done {}), Vec::new()),
            Err(message) => self.refuse(ticket, failure(Kind::Internal, "log", message)),
        }
    }

    pub(super) fn reopen_log(&mut self, ticket: Ticket, id: &str) -> Result<(), Failure> {
        let container = self.container_by_id(id).ok_or_else(no_container)?;
        let refused = |text| Err(failure(Kind::Refused, "log", text));
        if container.alive().is_none() {
            return refused("the container is not running");
        }
        if container.log != Log::Open || container.reopening.is_some() {
            return refused("the container has no log that is open");
        }
        container.reopening = Some(ticket);
        let number = container.number;
        self.logs.submit(Job::Reopen(number));
        Ok(())
    }

    /// Lets go of a container that has ended: its pipes, then its log, then itself.
    pub(super) fn bury(&mut self, number: u32) {
        self.drain(number);
        let Some(container) = self.container(number) else { return };
        if !container.failed && container.outputs().any(|output| output.paused()) {
            // It has written more than the disk has taken; this comes again when that has caught up.
            return;
        }
        container.phase = Phase::Leaving;
        container.telling = None;
        let logged = matches!(container.log, Log::Opening | Log::Open);
        if let Some(pipe) = container.start.take() {
            self.poll.forget(&pipe.fd);
        }
        let Some(container) = self.container(number) else { return };
        let outputs = [container.stdout.take(), container.stderr.take()];
        for output in outputs.into_iter().flatten() {
            self.finish(number, output);
        }
        self.conclude(number);
        if logged {
            self.logs.submit(Job::Close(number));
        } else {
            self.remove(number);
        }
    }

    /// The unterminated end of a stream that something still holds open.
    fn finish(&mut self, number: u32, output: Output) {
        let records = output.finish(&self.poll);
        self.write(number, records);
    }

    fn remove(&mut self, number: u32) {
        let Some(at) = self.containers.iter().position(|c| c.number == number) else { return };
        let container = self.containers.swap_remove(at);
        self.containers.shrink_to_fit();
        if let Some(ticket) = container.forgetting {
            self.answer(ticket, Body::Done(wire::v1::Done {}), Vec::new());
        }
    }
}
