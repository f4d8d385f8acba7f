//! Pods made and removed, and whether `GetContainerEvents` told of each container once and in order.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use cri_proto::cri::{ContainerEventResponse, ContainerEventType};
use tokio::task::JoinSet;
use tonic::Streaming;

use crate::client::Client;
use crate::process::settled;
use crate::report::{Verdict, say};
use crate::request::Template;

/// How long after the last call an event may still come.
const LATE: Duration = Duration::from_secs(5);

/// Arguments of `churn`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// unix:// address of the runtime.
    #[arg(long)]
    endpoint: String,
    /// How many pods.
    #[arg(long, default_value_t = 200)]
    pods: usize,
    /// How many of them at once.
    #[arg(long, default_value_t = 8)]
    at_once: usize,
    #[command(flatten)]
    template: Template,
}

/// What was told of each id, with the time of each event.
type Told = BTreeMap<String, Vec<i32>>;

/// What the event stream said so far.
#[derive(Debug, Default)]
struct Log {
    told: Told,
    faults: Vec<String>,
    last: i64,
}

pub(crate) async fn run(args: Args) -> Result<Verdict> {
    let client = Client::connect(&args.endpoint).await?;
    client.pull_when_missing(&args.template.image()).await?;
    let log = Arc::new(Mutex::new(Log::default()));
    let listener = tokio::spawn(listen(client.events().await?, Arc::clone(&log)));
    let begun = std::time::Instant::now();
    let containers = churn(&client, &args).await?;
    let took = begun.elapsed();
    let faults = settle(&containers, &log).await;
    listener.abort();
    faults.iter().for_each(say);
    let (pods, whole) = (args.pods, containers.len());
    say(format_args!(
        "{pods} pods and {whole} containers in {:.1} s, {} faults in the events",
        took.as_secs_f64(),
        faults.len()
    ));
    Ok(Verdict::of(faults.is_empty()))
}

async fn churn(client: &Client, args: &Args) -> Result<Vec<String>> {
    let mut running = JoinSet::new();
    let mut containers = Vec::new();
    for n in 0..args.pods {
        if running.len() >= args.at_once {
            containers.push(running.join_next().await.context("no worker")???);
        }
        running.spawn(life(client.clone(), args.template.clone(), format!("churn-{n}")));
    }
    while let Some(life) = running.join_next().await {
        containers.push(life??);
    }
    Ok(containers)
}

async fn life(client: Client, template: Template, name: String) -> Result<String> {
    let sandbox = template.sandbox(&name, 0);
    let pod = client.run_pod(&sandbox).await?;
    let container = client.create(&pod, &template.waiting(&name, "app"), &sandbox).await?;
    client.start(&container).await?;
    settled(&name).await;
    client.stop(&container, 10).await?;
    client.remove(&container).await?;
    client.stop_pod(&pod).await?;
    client.remove_pod(&pod).await?;
    Ok(container)
}

async fn listen(mut events: Streaming<ContainerEventResponse>, log: Arc<Mutex<Log>>) {
    loop {
        let event = events.message().await;
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Ok(Some(event)) => log.hear(event),
            Ok(None) => return log.faults.push("the stream of events ended".to_owned()),
            Err(status) => return log.faults.push(format!("the stream of events broke: {status}")),
        }
    }
}

impl Log {
    fn hear(&mut self, event: ContainerEventResponse) {
        let id = event.container_id;
        if event.created_at <= self.last {
            self.faults.push(format!("{id}: an event is not later than the one before"));
        }
        if event.pod_sandbox_status.is_none() {
            self.faults.push(format!("{id}: an event has no pod_sandbox_status"));
        }
        self.last = event.created_at;
        self.told.entry(id).or_default().push(event.container_event_type);
    }
}

/// Waits until each container's four events are there, or until they are late, and tells what is wrong.
async fn settle(containers: &[String], log: &Mutex<Log>) -> Vec<String> {
    let end = tokio::time::Instant::now() + LATE;
    loop {
        let faults = {
            let log = log.lock().unwrap_or_else(PoisonError::into_inner);
            let wrong = containers.iter().filter_map(|id| wrong_story(id, &log.told));
            log.faults.iter().cloned().chain(wrong).collect::<Vec<_>>()
        };
        if faults.is_empty() || tokio::time::Instant::now() > end {
            return faults;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn wrong_story(id: &str, told: &Told) -> Option<String> {
    use ContainerEventType::{
        ContainerCreatedEvent, ContainerDeletedEvent, ContainerStartedEvent, ContainerStoppedEvent,
    };
    let right = [
        ContainerCreatedEvent,
        ContainerStartedEvent,
        ContainerStoppedEvent,
        ContainerDeletedEvent,
    ]
    .map(i32::from);
    let story = told.get(id).map_or(&[][..], Vec::as_slice);
    (story != right).then(|| format!("{id}: the events were {story:?}, not {right:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_a_double_and_a_misplaced_event_are_wrong() {
        let told = |story: &[i32]| Told::from([("c".to_owned(), story.to_vec())]);
        assert_eq!(wrong_story("c", &told(&[0, 1, 2, 3])), None);
        for story in [&[0, 1, 3][..], &[0, 1, 2, 2, 3], &[1, 0, 2, 3], &[]] {
            assert!(wrong_story("c", &told(story)).is_some(), "{story:?}");
        }
        assert!(wrong_story("d", &told(&[0, 1, 2, 3])).is_some());
    }

    #[test]
    fn an_event_that_is_not_later_is_a_fault() {
        let mut log = Log::default();
        let event = |created_at| ContainerEventResponse {
            created_at,
            pod_sandbox_status: Some(cri_proto::cri::PodSandboxStatus::default()),
            ..Default::default()
        };
        log.hear(event(1));
        log.hear(event(2));
        assert_eq!(log.faults, [""; 0]);
        log.hear(event(2));
        assert_eq!(log.faults.len(), 1);
    }
}
