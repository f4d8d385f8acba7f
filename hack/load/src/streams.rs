//! Sessions as people have them: crictl's, each a process. Three questions, asked in this order:
//!
//! * [`carry`]: a GiB through each kind of session, each way, its hash, and how long socat takes for the same;
//! * [`kills`]: clients killed in the middle;
//! * [`many`]: thousands of port-forward sessions, dropped without a word.
//!
//! After the last two the daemon and the shim must stand as before ([`standing`]).

mod carry;
mod crictl;
mod kills;
mod many;
mod scene;
mod standing;

use std::path::PathBuf;

use anyhow::Result;

use crate::client::Client;
use crate::report::{Verdict, say};
use crate::request::Template;
use crictl::Crictl;
use scene::Scene;

/// Arguments of `streams`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// unix:// address of the runtime.
    #[arg(long)]
    endpoint: String,
    /// The crictl program.
    #[arg(long)]
    crictl: PathBuf,
    /// spdy or websocket, for what is carried.
    #[arg(long, default_value = "spdy")]
    transport: String,
    /// The daemon's process.
    #[arg(long)]
    pid: u32,
    /// A directory, best in memory, for what is carried.
    #[arg(long)]
    scratch: PathBuf,
    /// How much is carried each way; 0 leaves it out.
    #[arg(long, default_value_t = 1024)]
    mebibytes: usize,
    /// How many clients are killed.
    #[arg(long, default_value_t = 1000)]
    kills: usize,
    /// How many port-forward sessions are dropped.
    #[arg(long, default_value_t = 10_000)]
    sessions: usize,
    #[command(flatten)]
    template: Template,
}

pub(crate) async fn run(args: Args) -> Result<Verdict> {
    let client = Client::connect(&args.endpoint).await?;
    client.pull_when_missing(&args.template.image()).await?;
    let crictl = Crictl::new(&args.crictl, &args.endpoint);
    let scene = Scene::make(client, args.template.clone(), &args.scratch).await?;
    let mut checks = Vec::new();
    if args.mebibytes > 0 {
        checks.extend(
            carry::measure(&scene, &crictl, (&args.transport, args.pid), args.mebibytes).await?,
        );
    }
    if args.kills > 0 {
        checks.push(kills::measure(&scene, &crictl, args.pid, args.kills).await?);
    }
    if args.sessions > 0 {
        checks.push(many::measure(&scene, args.pid, args.sessions).await?);
    }
    scene.end().await?;
    for check in &checks {
        say(&check.line);
    }
    let failed = checks.iter().filter(|check| !check.holds).count();
    say(format_args!("{} passed, {failed} failed, 0 skipped", checks.len() - failed));
    Ok(Verdict::of(failed == 0))
}

/// One thing that must hold.
#[derive(Debug)]
struct Check {
    holds: bool,
    line: String,
}

impl Check {
    fn new(holds: bool, what: &str, figures: &str) -> Self {
        let word = if holds { "ok    " } else { "FAILED" };
        Self { holds, line: format!("{word}  {what:<28}  {figures}") }
    }
}
