//! One pod at a time: back to back, and after quiet before each call.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Bench, timed};
use crate::process::settled;
use crate::request::strings;

/// Long enough for the kernel's cheap path to cgroup.procs to be over.
const QUIET: Duration = Duration::from_millis(200);

/// Where a sample goes, and whether the call waits for quiet first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// Not counted.
    Warmup,
    Warm,
    Idle,
}

pub(super) async fn measure(bench: &mut Bench) -> Result<()> {
    for n in 0..3 {
        cycle(bench, Pace::Warmup, &format!("warmup-{n}")).await?;
    }
    for n in 0..bench.times(100) {
        cycle(bench, Pace::Warm, &format!("warm-{n}")).await?;
    }
    for n in 0..bench.times(18) {
        cycle(bench, Pace::Idle, &format!("idle-{n}")).await?;
    }
    Ok(())
}

async fn cycle(bench: &mut Bench, pace: Pace, name: &str) -> Result<()> {
    let client = bench.client.clone();
    let sandbox = bench.template.sandbox(name, 0);
    let config = bench.template.waiting(name, "app");
    let (pod, run) = step(bench, pace, "run_pod", client.run_pod(&sandbox)).await?;
    let (container, create) =
        step(bench, pace, "create", client.create(&pod, &config, &sandbox)).await?;
    let ((), start) = step(bench, pace, "start", client.start(&container)).await?;
    record(bench, pace, "to_running", run + create + start);
    let (done, _) = step(bench, pace, "exec", client.exec(&container, strings(&["true"]))).await?;
    ensure!(done.exit_code == 0, "true exits with {}", done.exit_code);
    step(bench, pace, "container_status", client.container_status(&container)).await?;
    step(bench, pace, "pod_status", client.pod_status(&pod)).await?;
    settled(name).await;
    let ((), stop) = step(bench, pace, "stop", client.stop(&container, 10)).await?;
    let ((), remove) = step(bench, pace, "remove", client.remove(&container)).await?;
    let ((), stop_pod) = step(bench, pace, "stop_pod", client.stop_pod(&pod)).await?;
    let ((), remove_pod) = step(bench, pace, "remove_pod", client.remove_pod(&pod)).await?;
    record(bench, pace, "teardown", stop + remove + stop_pod + remove_pod);
    Ok(())
}

async fn step<T>(
    bench: &mut Bench,
    pace: Pace,
    id: &'static str,
    call: impl Future<Output = Result<T>>,
) -> Result<(T, Duration)> {
    if pace == Pace::Idle {
        tokio::time::sleep(QUIET).await;
    }
    let (value, took) = timed(call).await?;
    record(bench, pace, id, took);
    Ok((value, took))
}

fn record(bench: &mut Bench, pace: Pace, id: &'static str, took: Duration) {
    match pace {
        Pace::Warmup => {}
        Pace::Warm => bench.figures.time(id, took),
        Pace::Idle => bench.figures.idle_time(id, took),
    }
}
