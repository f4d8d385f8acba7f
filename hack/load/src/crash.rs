//! Pod churn while the daemon is killed, and whether every promise outlives it.
//!
//! ```text
//! workers: ask, ask, ask ...........X  (wait)              ask, ask ...
//! killer:  (random pause) kill -9 --+  restart, look, judge  (next round)
//! ```
//!
//! `book` is what was promised, `judge` holds what is shown against it, `worker` churns, `shims` finds what else to kill.

mod book;
mod judge;
mod shims;
mod worker;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cri_proto::cri::{Container, ContainerState, PodSandbox, PodSandboxState};
use tokio::task::JoinSet;

use crate::client::Client;
use crate::daemon::{Daemon, Recipe};
use crate::oracle::{Scope, Snapshot, settled};
use crate::random::Random;
use crate::report::{Verdict, say};
use crate::request::Template;
use judge::{Seen, SeenContainer, SeenPod, judge};
use worker::{Shared, work};

/// How long what is not as promised may take to become so (an exit that is on its way).
const PATIENCE: Duration = Duration::from_secs(5);
const END: Duration = Duration::from_mins(2);

/// Arguments of `crash`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// unix:// address of the runtime.
    #[arg(long)]
    endpoint: String,
    /// How often the daemon is killed.
    #[arg(long, default_value_t = 1000)]
    rounds: u32,
    /// Shell command that starts the daemon in the foreground.
    #[arg(long)]
    daemon_cmd: String,
    /// Where the daemon's output goes.
    #[arg(long)]
    log: Option<PathBuf>,
    /// The same seed asks and kills alike, as far as timing allows.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many pods at once.
    #[arg(long, default_value_t = 8)]
    workers: usize,
    /// Do not look for leaks at the end.
    #[arg(long)]
    no_oracle: bool,
    #[command(flatten)]
    template: Template,
    #[command(flatten)]
    scope: Scope,
}

/// How the rounds went.
#[derive(Debug, Default)]
struct Score {
    passed: u32,
    failed: u32,
    shims: u32,
}

pub(crate) async fn run(args: Args) -> Result<Verdict> {
    let recipe = Recipe {
        command: args.daemon_cmd.clone(),
        endpoint: args.endpoint.clone(),
        log: args.log.clone(),
    };
    let daemon = recipe.start().await?;
    warm_up(&daemon.client, &args).await?;
    let before = Snapshot::take(&args.scope)?;
    let mut killer = Killer {
        shared: Arc::new(Shared::new(daemon.client.clone(), args.template.clone())),
        recipe,
        random: Random::new(args.seed),
        score: Score::default(),
    };
    let workers = killer.workers(args.workers);
    let mut faults = Vec::new();
    match killer.rounds(daemon, args.rounds).await {
        Ok(daemon) => {
            faults.extend(killer.end(&daemon, workers).await?);
            if !args.no_oracle {
                let scope = args.scope.clone();
                faults
                    .extend(tokio::task::spawn_blocking(move || settled(&before, &scope)).await??);
            }
            daemon.stop().await?;
        }
        Err(error) => faults.push(format!("{error:#}")),
    }
    faults.iter().for_each(say);
    Ok(close(&args, &killer, faults.len()))
}

/// What the first pod makes for all that follow is there before the oracle looks.
async fn warm_up(client: &Client, args: &Args) -> Result<()> {
    let template = &args.template;
    if !client.pods().await?.is_empty() {
        bail!("there are pods already");
    }
    client.pull_when_missing(&template.image()).await?;
    let sandbox = template.sandbox("warm-up", 0);
    let pod = client.run_pod(&sandbox).await?;
    let container = client.create(&pod, &template.waiting("warm-up", "app"), &sandbox).await?;
    client.start(&container).await?;
    client.stop_pod(&pod).await?;
    client.remove_pod(&pod).await
}

fn close(args: &Args, killer: &Killer, faults: usize) -> Verdict {
    let Score { passed, failed, shims } = killer.score;
    let lives = killer.shared.lives.load(Ordering::Relaxed);
    say(format_args!(
        "seed {}: {lives} pods lived to their end, {shims} shims killed, {faults} faults at the end",
        args.seed
    ));
    let skipped = args.rounds - passed - failed;
    say(format_args!(
        "{passed} passed, {} failed, {skipped} skipped",
        failed + u32::from(faults > 0)
    ));
    Verdict::of(failed == 0 && faults == 0 && skipped == 0)
}

#[derive(Debug)]
struct Killer {
    shared: Arc<Shared>,
    recipe: Recipe,
    random: Random,
    score: Score,
}

impl Killer {
    fn workers(&mut self, count: usize) -> JoinSet<()> {
        let mut workers = JoinSet::new();
        for number in 0..count {
            let random = Random::new(self.random.next());
            workers.spawn(work(Arc::clone(&self.shared), number, random));
        }
        workers
    }

    /// The daemon that runs at the end; an error when it does not start any more.
    async fn rounds(&mut self, mut daemon: Daemon, rounds: u32) -> Result<Daemon> {
        for round in 1..=rounds {
            let pause = Duration::from_micros(self.random.below(120_000));
            tokio::time::sleep(pause).await;
            match self.round(daemon).await {
                Ok(next) => daemon = next,
                Err(error) => {
                    self.score.failed += 1;
                    return Err(error.context(format!("round {round}")));
                }
            }
            let faults = self.shared.take_faults();
            if faults.is_empty() {
                self.score.passed += 1;
            } else {
                self.score.failed += 1;
                for fault in &faults {
                    say(format_args!("round {round}: {fault}"));
                }
            }
            if round.is_multiple_of(100) {
                let Score { passed, failed, .. } = self.score;
                say(format_args!("... {passed} passed, {failed} failed"));
            }
        }
        Ok(daemon)
    }

    /// One kill, one restart, one look.
    async fn round(&mut self, daemon: Daemon) -> Result<Daemon> {
        let (shim_first, shim_later) = (self.random.one_in(10), self.random.one_in(10));
        self.kill_shim(shim_first);
        daemon.kill().await?;
        let shared = Arc::clone(&self.shared);
        let mut gate = shared.gate.write().await;
        self.kill_shim(shim_later);
        if self.random.one_in(8) {
            // Death in the middle of the recovery.
            let after = Duration::from_micros(self.random.below(20_000));
            self.recipe.start_and_kill(after).await?;
        }
        let daemon = self.recipe.start().await.context("restart")?;
        *gate = daemon.client.clone();
        self.look(&daemon.client).await?;
        Ok(daemon)
    }

    fn kill_shim(&mut self, really: bool) {
        if really && shims::kill_one(&self.shared, &mut self.random).is_some() {
            self.score.shims += 1;
        }
    }

    /// Judges what is shown; what is still wrong after a while is told.
    async fn look(&self, client: &Client) -> Result<()> {
        let begun = Instant::now();
        loop {
            let seen = see(client).await.context("look at all pods")?;
            let faults = judge(&mut self.shared.book(), &seen);
            if faults.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                for fault in faults {
                    self.shared.tell(fault);
                }
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Lets the workers finish and tells what is left.
    async fn end(&self, daemon: &Daemon, mut workers: JoinSet<()>) -> Result<Vec<String>> {
        self.shared.stopping.store(true, Ordering::Relaxed);
        let all = async { while workers.join_next().await.is_some() {} };
        let mut faults = Vec::new();
        if tokio::time::timeout(END, all).await.is_err() {
            faults.push(format!("the last pods were not gone after {END:?}"));
        }
        faults.extend(self.shared.take_faults());
        let seen = see(&daemon.client).await?;
        faults.extend(seen.pods.iter().map(|pod| format!("{} {}: left", pod.name, pod.id)));
        faults.extend(seen.containers.iter().map(|c| format!("{} {}: left", c.name, c.id)));
        Ok(faults)
    }
}

async fn see(client: &Client) -> Result<Seen> {
    let mut seen = Seen::default();
    for PodSandbox { id, .. } in client.pods().await? {
        let status = client.pod_status(&id).await?;
        seen.pods.push(SeenPod {
            ready: status.state == i32::from(PodSandboxState::SandboxReady),
            name: status.metadata.map(|metadata| metadata.name).unwrap_or_default(),
            ip: status.network.map(|network| network.ip).unwrap_or_default(),
            id,
        });
    }
    for Container { id, pod_sandbox_id, .. } in client.containers().await? {
        let status = client.container_status(&id).await?;
        seen.containers.push(SeenContainer {
            state: ContainerState::try_from(status.state)
                .unwrap_or(ContainerState::ContainerUnknown),
            name: status.metadata.map(|metadata| metadata.name).unwrap_or_default(),
            pod_id: pod_sandbox_id,
            code: status.exit_code,
            reason: status.reason,
            id,
        });
    }
    Ok(seen)
}
