//! The leak oracle: what lies on the machine, to compare before and after.
//!
//! It looks at this network namespace (links, addresses, routes, rules, nftables, processes, sockets), at the pins of
//! network namespaces, and below the directories and cgroup parents it is told of: run it in a network namespace of
//! its own, so that nobody else's things are in sight.

mod kernel;
mod network;
mod planted;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Subcommand;
use serde::{Deserialize, Serialize};

use crate::report::{Verdict, say};

/// What the kernel ends in its own time (namespaces, sockets) has this long.
const SETTLE: Duration = Duration::from_secs(10);

/// Where to look.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Scope {
    /// Directories of the runtime (root, state): files, mounts and sockets below them.
    #[arg(long)]
    pub(crate) under: Vec<PathBuf>,
    /// Cgroups of the runtime, in every hierarchy: what is below them and which processes are in them.
    #[arg(long = "cgroup")]
    pub(crate) cgroups: Vec<String>,
}

/// `oracle …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write down what is there.
    Snapshot {
        /// The file to write.
        file: PathBuf,
        #[command(flatten)]
        scope: Scope,
    },
    /// Tell what is there and was not, or was and is not; waits a while for the kernel to clean up.
    Compare {
        /// The file that `snapshot` wrote.
        file: PathBuf,
        #[command(flatten)]
        scope: Scope,
    },
    /// Plant one leak of each kind and see whether it is found.
    SelfTest,
}

/// All that was found, by kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Snapshot(BTreeMap<Kind, BTreeSet<String>>);

/// What kinds of thing a pod can leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Kind {
    Mount,
    Netns,
    Link,
    Address,
    Route,
    Rule,
    Nft,
    Cgroup,
    Process,
    Socket,
    File,
}

pub(crate) fn run(command: &Command) -> Result<Verdict> {
    match command {
        Command::Snapshot { file, scope } => {
            write(file, &Snapshot::take(scope)?).map(|()| Verdict::Passed)
        }
        Command::Compare { file, scope } => {
            let differences = settled(&read(file)?, scope)?;
            differences.iter().for_each(say);
            Ok(Verdict::of(differences.is_empty()))
        }
        Command::SelfTest => {
            let missed = planted::missed()?;
            for kind in &missed {
                say(format_args!("a planted {kind:?} was not found"));
            }
            Ok(Verdict::of(missed.is_empty()))
        }
    }
}

/// The differences that are still there when the kernel has had its time.
pub(crate) fn settled(before: &Snapshot, scope: &Scope) -> Result<Vec<String>> {
    let begun = Instant::now();
    loop {
        let differences = before.differences(&Snapshot::take(scope)?);
        if differences.is_empty() || begun.elapsed() > SETTLE {
            return Ok(differences);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

impl Snapshot {
    pub(crate) fn take(scope: &Scope) -> Result<Self> {
        Ok(Self(BTreeMap::from([
            (Kind::Mount, kernel::mounts(scope)?),
            (Kind::Netns, network::pins()),
            (Kind::Link, network::links()?),
            (Kind::Address, network::addresses()?),
            (Kind::Route, network::routes()?),
            (Kind::Rule, network::rules()?),
            (Kind::Nft, network::nft()?),
            (Kind::Cgroup, kernel::cgroups(scope)?),
            (Kind::Process, kernel::processes(scope)?),
            (Kind::Socket, kernel::sockets(scope)?),
            (Kind::File, kernel::files(scope)),
        ])))
    }

    /// What the later one has more or has no more.
    fn differences(&self, later: &Self) -> Vec<String> {
        let more = later.minus(self).map(|(kind, what)| format!("leaked {kind:?}: {what}"));
        // Another's pin may go at any time.
        let less = self.minus(later).filter(|(kind, _)| *kind != Kind::Netns);
        more.chain(less.map(|(kind, what)| format!("lost {kind:?}: {what}"))).collect()
    }

    /// What is here and not there; a directory stands for all that is in it.
    fn minus<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (Kind, &'a str)> {
        self.0.iter().flat_map(move |(kind, all)| {
            let there = other.0.get(kind);
            let is_new = |what: &&str| !there.is_some_and(|there| there.contains(*what));
            let new: BTreeSet<&str> = all.iter().map(String::as_str).filter(is_new).collect();
            let above =
                |what: &str| what.rsplit_once('/').is_some_and(|(dir, _)| new.contains(dir));
            let told: Vec<_> = new.iter().copied().filter(|what| !above(what)).collect();
            told.into_iter().map(|what| (*kind, what))
        })
    }
}

fn write(file: &Path, snapshot: &Snapshot) -> Result<()> {
    let text = serde_json::to_string_pretty(snapshot)?;
    let mut out = std::fs::File::create(file).with_context(|| file.display().to_string())?;
    out.write_all(text.as_bytes()).with_context(|| file.display().to_string())
}

fn read(file: &Path) -> Result<Snapshot> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    serde_json::from_str(&text).with_context(|| file.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_more_and_what_is_less_is_told_apart() {
        let with = |kind, what: &str| Snapshot([(kind, BTreeSet::from([what.into()]))].into());
        let (a, b) = (with(Kind::Link, "a"), with(Kind::Link, "b"));
        assert_eq!(a.differences(&a), [""; 0]);
        assert_eq!(a.differences(&b), ["leaked Link: b", "lost Link: a"]);
        assert_eq!(with(Kind::Netns, "a").differences(&Snapshot::default()), [""; 0]);
    }

    #[test]
    fn each_planted_leak_is_found() {
        assert_eq!(planted::missed().unwrap(), []);
    }
}
