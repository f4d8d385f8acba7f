//! Every row of the table of goals that can be measured over the socket.

mod figures;
mod isolation;
mod life;
mod load;
mod memory;
mod pull;
mod sessions;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::client::Client;
use crate::daemon::{Daemon, Recipe};
use crate::report::{Verdict, say};
use crate::request::Template;
use figures::Figures;

/// Arguments of `bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// unix:// address of the runtime.
    #[arg(long)]
    endpoint: String,
    /// Write the figures here as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// The daemon's processes, for CPU and memory; found by itself with --start-cmd.
    #[arg(long)]
    pid: Vec<u32>,
    /// Shell command that starts the daemon in the foreground: it is then started and stopped here.
    #[arg(long)]
    start_cmd: Option<String>,
    /// Where the daemon's output goes.
    #[arg(long)]
    log: Option<PathBuf>,
    /// Image whose tags `gzip` and `zstd` are pulled; without it pulls are not measured.
    #[arg(long)]
    big: Option<String>,
    /// Fewer repetitions.
    #[arg(long)]
    quick: bool,
    /// Measure these parts alone.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Fail when a main goal is missed by more than twice.
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    template: Template,
}

/// What can be measured without the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Ready,
    OneAtATime,
    Isolation,
    EightAtOnce,
    FiftyPods,
    Streams,
    Pulls,
}

/// What every measurement needs.
#[derive(Debug)]
struct Bench {
    client: Client,
    template: Template,
    /// The daemon's processes.
    pids: BTreeSet<u32>,
    quick: bool,
    figures: Figures,
}

impl Args {
    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}

impl Bench {
    /// Repetitions: the whole number, or a sixth when quick.
    fn times(&self, whole: usize) -> usize {
        if self.quick { (whole / 6).max(3) } else { whole }
    }

    /// A part that broke off is told, its pods are removed, and the other parts are measured all the same.
    async fn settle(&self, part: &str, result: Result<()>, broken: &mut Vec<String>) -> Result<()> {
        if let Err(error) = result {
            broken.push(format!("{part}: {error:#}"));
            self.client.remove_all().await?;
        }
        Ok(())
    }
}

pub(crate) async fn run(args: Args) -> Result<Verdict> {
    let recipe = args.start_cmd.clone().map(|command| Recipe {
        command,
        endpoint: args.endpoint.clone(),
        log: args.log.clone(),
    });
    let mut figures = Figures::default();
    let mut daemon = None;
    if let Some(recipe) = &recipe {
        if args.wants(Part::Ready) {
            starts(recipe, if args.quick { 3 } else { 10 }, &mut figures).await?;
        }
        daemon = Some(recipe.start().await?);
    }
    let client = match &daemon {
        Some(daemon) => daemon.client.clone(),
        None => Client::connect(&args.endpoint).await?,
    };
    let pids = daemon.iter().map(|daemon| daemon.pid).chain(args.pid.iter().copied()).collect();
    if !client.pods().await?.is_empty() {
        bail!("there are pods already: measure on a node without");
    }
    let template = args.template.clone();
    let mut bench = Bench { client, template, pids, quick: args.quick, figures };
    bench.client.pull_when_missing(&bench.template.image()).await?;
    let broken = measure(&mut bench, &args, recipe.as_ref(), &mut daemon).await?;
    if let Some(daemon) = daemon {
        daemon.stop().await?;
    }
    finish(&args, &bench.figures, &broken)
}

async fn measure(
    bench: &mut Bench,
    args: &Args,
    recipe: Option<&Recipe>,
    daemon: &mut Option<Daemon>,
) -> Result<Vec<String>> {
    let mut broken = Vec::new();
    if args.wants(Part::OneAtATime) {
        let lives = life::measure(bench).await;
        bench.settle("one at a time", lives, &mut broken).await?;
    }
    if args.wants(Part::Isolation) {
        let isolation = isolation::measure(bench).await;
        bench.settle("isolation", isolation, &mut broken).await?;
    }
    if args.wants(Part::EightAtOnce) {
        let cycles = load::cycles(bench).await;
        bench.settle("eight at once", cycles, &mut broken).await?;
    }
    // A fresh daemon, so that its memory is that of its pods.
    if let (Some(recipe), Some(old)) = (recipe, daemon.take()) {
        old.stop().await?;
        let new = recipe.start().await?;
        bench.client = new.client.clone();
        bench.pids = [new.pid].into();
        *daemon = Some(new);
    }
    if args.wants(Part::FiftyPods) {
        let fifty = memory::measure(bench).await;
        bench.settle("fifty pods", fifty, &mut broken).await?;
    }
    if args.wants(Part::Streams) {
        let streams = sessions::measure(bench).await;
        bench.settle("streams", streams, &mut broken).await?;
    }
    if let Some(big) = args.big.as_deref().filter(|_| args.wants(Part::Pulls)) {
        let pulls = pull::measure(bench, big).await;
        bench.settle("pulls", pulls, &mut broken).await?;
    }
    Ok(broken)
}

async fn starts(recipe: &Recipe, times: usize, figures: &mut Figures) -> Result<()> {
    for _ in 0..times {
        let daemon = recipe.start().await?;
        figures.time("ready", daemon.ready_after);
        daemon.stop().await?;
    }
    Ok(())
}

fn finish(args: &Args, figures: &Figures, broken: &[String]) -> Result<Verdict> {
    say(figures.table());
    broken.iter().for_each(say);
    if let Some(path) = &args.json {
        figures.write_json(path)?;
    }
    let missed = figures.missed_by_twice();
    if !missed.is_empty() {
        say(format_args!("main goals missed by more than twice: {}", missed.join("; ")));
    }
    Ok(Verdict::of(broken.is_empty() && (!args.strict || missed.is_empty())))
}

/// How long the future took, when it succeeded.
async fn timed<T>(call: impl Future<Output = Result<T>>) -> Result<(T, Duration)> {
    let begun = Instant::now();
    let value = call.await?;
    Ok((value, begun.elapsed()))
}
