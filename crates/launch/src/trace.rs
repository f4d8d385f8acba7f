//! libcontainer's errors lose their causes, and most of them are raised in processes it forks. Its ERROR events keep
//! them: they go into a pipe that all of them inherit, and are read when it fails.

use std::fmt::{self, Write as _};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use nix::fcntl::OFlag;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use process::failure::{At, Failure};

const STAGE: &str = "launch";
const MOST_TOLD: u64 = 4096;

/// The reading end of the pipe that error events go into.
#[derive(Debug)]
pub(crate) struct Causes(OwnedFd);

/// Starts to collect error events of this process and of those it forks.
pub(crate) fn collect() -> Result<Causes, Failure> {
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .at(STAGE, || "making the pipe for error events".into())?;
    tracing::subscriber::set_global_default(ErrorEvents(writer))
        .at(STAGE, || "collecting error events".into())?;
    Ok(Causes(reader))
}

impl Causes {
    /// What was told so far, on one line.
    pub(crate) fn told(self) -> String {
        let mut text = Vec::new();
        // The pipe never blocks: reading it ends with EAGAIN once it is empty.
        let _empty = std::fs::File::from(self.0).take(MOST_TOLD).read_to_end(&mut text);
        String::from_utf8_lossy(&text).trim_end_matches("; ").to_owned()
    }
}

struct ErrorEvents(OwnedFd);

impl Subscriber for ErrorEvents {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() == Level::ERROR
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(tracing::level_filters::LevelFilter::ERROR)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        line.0.push_str("; ");
        // A full pipe has told enough.
        let _full = WriteTo(&self.0).write_all(line.0.as_bytes());
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct WriteTo<'a>(&'a OwnedFd);

impl Write for WriteTo<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(nix::unistd::write(self.0, bytes)?)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let space = if self.0.is_empty() { "" } else { " " };
        // Writing into a String cannot fail.
        let _always = match field.name() {
            "message" => write!(self.0, "{space}{value:?}"),
            name => write!(self.0, "{space}{name}={value:?}"),
        };
    }
}
