//! Several pods at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::task::JoinSet;

use super::{Bench, timed};
use crate::client::Client;
use crate::process::{cpu_seconds, settled};
use crate::request::Template;

/// How many pods are worked on at once.
pub(super) const AT_ONCE: usize = 8;

/// Whole lives of pods: latency of the start, cycles per second, CPU per cycle.
pub(super) async fn cycles(bench: &mut Bench) -> Result<()> {
    let cycles = bench.times(240);
    let (before, begun) = (cpu_seconds(&bench.pids), Instant::now());
    let starts = at_once(cycles, bench, "cycle", |client, template, name| async move {
        let (made, took) = timed(start(&client, &template, &name)).await?;
        settled(&made.name).await;
        end(&client, &made).await?;
        Ok((took, ()))
    })
    .await?;
    let elapsed = begun.elapsed();
    let cpu = cpu_seconds(&bench.pids) - before;
    for (took, ()) in &starts {
        bench.figures.time("to_running_8", *took);
    }
    let count = f64::from(u32::try_from(cycles).unwrap_or(u32::MAX));
    bench.figures.value("cycles", count / elapsed.as_secs_f64());
    if !bench.pids.is_empty() {
        bench.figures.value("cpu_per_cycle", cpu / count);
    }
    Ok(())
}

/// A pod with its containers.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) name: String,
    pub(super) pod: String,
    pub(super) containers: Vec<String>,
}

pub(super) async fn start(client: &Client, template: &Template, name: &str) -> Result<Made> {
    let pod = client.run_pod(&template.sandbox(name, 0)).await?;
    let mut made = Made { name: name.to_owned(), pod, containers: Vec::new() };
    add(client, template, &mut made, "app").await?;
    Ok(made)
}

/// One more running container in the pod.
pub(super) async fn add(
    client: &Client,
    template: &Template,
    made: &mut Made,
    container: &str,
) -> Result<()> {
    let sandbox = template.sandbox(&made.name, 0);
    let config = template.waiting(&made.name, container);
    let id = client.create(&made.pod, &config, &sandbox).await?;
    client.start(&id).await?;
    made.containers.push(id);
    Ok(())
}

pub(super) async fn end(client: &Client, made: &Made) -> Result<()> {
    for container in &made.containers {
        client.stop(container, 10).await?;
        client.remove(container).await?;
    }
    client.stop_pod(&made.pod).await?;
    client.remove_pod(&made.pod).await
}

/// Does the work this many times, eight at once.
pub(super) async fn at_once<T: Send + 'static, W>(
    times: usize,
    bench: &Bench,
    prefix: &'static str,
    work: impl Fn(Client, Template, String) -> W + Clone + Send + 'static,
) -> Result<Vec<(Duration, T)>>
where
    W: Future<Output = Result<(Duration, T)>> + Send + 'static,
{
    let next = Arc::new(AtomicUsize::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (next, work) = (Arc::clone(&next), work.clone());
        let (client, template) = (bench.client.clone(), bench.template.clone());
        workers.spawn(async move {
            let mut done = Vec::new();
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= times {
                    return anyhow::Ok(done);
                }
                done.push(work(client.clone(), template.clone(), format!("{prefix}-{n}")).await?);
            }
        });
    }
    let mut all = Vec::new();
    while let Some(worker) = workers.join_next().await {
        all.extend(worker??);
    }
    Ok(all)
}
