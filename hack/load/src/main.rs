//! Load for a container runtime over its CRI socket, whichever runtime it is.
//!
//! * `bench`: the rows of the table of goals (`goals`), measured;
//! * `churn`: pods made and removed, and whether the events told it rightly;
//! * `crash`: pod churn while the daemon and its shims are killed, and whether all is accounted for;
//! * `streams`: sessions of crictl: what they carry, killed ones, thousands of them;
//! * `oracle`: what lies on the machine, to compare before and after.
//!
//! Beside these: `client` (the calls), `request` (a kubelet-like pod), `session` (streaming over WebSocket), `process` (what /proc says), `daemon` (starting and
//! killing one), `report` (tables and JSON), `random` (a seeded generator), `shell` (outside programs).
//!
//! It depends on the CRI's generated code only, so that it can judge Ferropod and its peers alike.

mod bench;
mod churn;
mod client;
mod crash;
mod daemon;
mod goals;
mod oracle;
mod process;
mod random;
mod report;
mod request;
mod session;
mod shell;
mod streams;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Load for a container runtime over its CRI socket.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure every row of the table of goals.
    Bench(bench::Args),
    /// Make and remove pods, and hold the events against it.
    Churn(churn::Args),
    /// Kill the daemon and its shims during pod churn, and account for every pod.
    Crash(crash::Args),
    /// Sessions of crictl: what they carry beside socat, killed ones, thousands of them.
    Streams(streams::Args),
    /// What lies on the machine.
    #[command(subcommand)]
    Oracle(oracle::Command),
}

#[tokio::main]
async fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Bench(args) => bench::run(args).await,
        Command::Churn(args) => churn::run(args).await,
        Command::Crash(args) => crash::run(args).await,
        Command::Streams(args) => streams::run(args).await,
        Command::Oracle(command) => oracle::run(&command),
    };
    match result {
        Ok(report::Verdict::Passed) => ExitCode::SUCCESS,
        Ok(report::Verdict::Failed) => ExitCode::from(1),
        Err(error) => {
            report::say(format_args!("error: {error:#}"));
            ExitCode::from(2)
        }
    }
}
