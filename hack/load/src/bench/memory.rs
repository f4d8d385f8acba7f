//! Fifty pods with one container, then two: memory, lists and stats.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::load::{Made, add, at_once, end, start};
use super::{Bench, timed};
use crate::client::Client;
use crate::process::{all, is_shim, pod_of, pss, tree};
use crate::request::strings;

const PODS: usize = 50;
const FEW: usize = 10;

pub(super) async fn measure(bench: &mut Bench) -> Result<()> {
    daemon(bench, "daemon_fresh");
    let before: BTreeSet<u32> = all().into_keys().collect();
    let first = pods(bench, FEW, "few").await?;
    // Not of one pod: the pages that all shims share are counted by their share.
    per_pod(bench, "pod_fresh", &before, FEW);
    for made in &first {
        end(&bench.client, made).await?;
    }
    let begun = Instant::now();
    let mut pods = pods(bench, PODS, "fifty").await?;
    bench.figures.time("start_50", begun.elapsed());
    let overhead = per_pod(bench, "pod_50", &before, PODS);
    daemon(bench, "daemon_50");
    if !bench.pids.is_empty() {
        bench.figures.value("processes", number(overhead + PODS) / number(PODS));
    }
    execs(&bench.client, &pods).await?;
    per_pod(bench, "pod_exec", &before, PODS);
    lists(bench, "list_50", "stats_50").await?;
    pod_stats(bench).await?;
    for made in &mut pods {
        add(&bench.client, &bench.template, made, "second").await?;
    }
    lists(bench, "list_100", "stats_100").await?;
    for made in &pods {
        end(&bench.client, made).await?;
    }
    Ok(())
}

async fn pods(bench: &Bench, count: usize, prefix: &'static str) -> Result<Vec<Made>> {
    let started = at_once(count, bench, prefix, |client, template, name| async move {
        Ok((Duration::ZERO, start(&client, &template, &name).await?))
    });
    Ok(started.await?.into_iter().map(|(_, made)| made).collect())
}

/// Memory of the daemon itself.
pub(super) fn daemon(bench: &mut Bench, id: &'static str) {
    let kib: u32 = bench.pids.iter().filter_map(|pid| pss(*pid)).sum();
    if kib > 0 {
        bench.figures.value(id, f64::from(kib) / 1024.0);
    }
}

/// Memory of what serves the pods and is not the daemon, and how many processes that is.
fn per_pod(bench: &mut Bench, id: &'static str, before: &BTreeSet<u32>, pods: usize) -> usize {
    let serving = overhead(&bench.pids, before);
    let kib: u32 = serving.iter().filter_map(|pid| pss(*pid)).sum();
    if !bench.pids.is_empty() {
        bench.figures.value(id, f64::from(kib) / 1024.0 / number(pods));
    }
    serving.len()
}

/// Processes that came since, below the daemon or below something that calls itself a shim, and that are none of ours.
fn overhead(daemon: &BTreeSet<u32>, before: &BTreeSet<u32>) -> Vec<u32> {
    let all = all();
    let came = all.values().filter(|process| !before.contains(&process.pid));
    let shims = came.filter(|process| is_shim(process)).map(|process| process.pid);
    let roots = shims.chain(daemon.iter().copied()).collect();
    let came = tree(&all, &roots).into_iter().filter(|pid| !before.contains(pid));
    came.filter(|pid| pod_of(*pid).is_none()).collect()
}

async fn execs(client: &Client, pods: &[Made]) -> Result<()> {
    for container in pods.iter().flat_map(|made| &made.containers) {
        for _ in 0..5 {
            client.exec(container, strings(&["true"])).await?;
        }
    }
    Ok(())
}

async fn lists(bench: &mut Bench, list: &'static str, stats: &'static str) -> Result<()> {
    for _ in 0..bench.times(200) {
        let (_, took) = timed(bench.client.containers()).await?;
        bench.figures.time(list, took);
    }
    for _ in 0..bench.times(50) {
        let (_, took) = timed(bench.client.container_stats()).await?;
        bench.figures.time(stats, took);
    }
    Ok(())
}

async fn pod_stats(bench: &mut Bench) -> Result<()> {
    for _ in 0..bench.times(50) {
        let (_, took) = timed(bench.client.pod_stats()).await?;
        bench.figures.time("pod_stats_50", took);
    }
    Ok(())
}

fn number(n: usize) -> f64 {
    f64::from(u32::try_from(n).unwrap_or(u32::MAX))
}
