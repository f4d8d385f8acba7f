//! Port-forward sessions by the thousand, each dropped without a word once it has carried one.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;

use super::Check;
use super::scene::{REPEATS, SILENT, Scene};
use super::standing::Standing;
use crate::client::Client;
use crate::session::{DATA, ERROR, Session};

const AT_ONCE: usize = 8;
/// For what the first ones make for all that follow.
const FIRST: usize = 200;
/// Every so many go where nobody listens.
const IN_VAIN: usize = 10;
const BOUND: Duration = Duration::from_secs(30);

pub(super) async fn measure(scene: &Scene, daemon: u32, times: usize) -> Result<Check> {
    sessions(&scene.client, &scene.pod, FIRST).await?;
    tokio::time::sleep(Duration::from_secs(12)).await;
    let before = Standing::now(daemon, Scene::name())?;
    let begun = Instant::now();
    sessions(&scene.client, &scene.pod, times).await?;
    let took = begun.elapsed();
    let (settled, after) = before.settled(daemon, Scene::name()).await?;
    let figures = format!("{:.1} s; {}", took.as_secs_f64(), before.told(after));
    Ok(Check::new(settled, &format!("{times} port-forward sessions"), &figures))
}

async fn sessions(client: &Client, pod: &str, times: usize) -> Result<()> {
    let mut running = JoinSet::new();
    for n in 0..times {
        if running.len() >= AT_ONCE {
            running.join_next().await.context("no session")???;
        }
        let (client, pod) = (client.clone(), pod.to_owned());
        running.spawn(async move {
            let session = async {
                if n % IN_VAIN == 0 {
                    in_vain(&client, &pod).await
                } else {
                    one(&client, &pod).await
                }
            };
            tokio::time::timeout(BOUND, session).await.context("a session hangs")?
        });
    }
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    Ok(())
}

async fn one(client: &Client, pod: &str) -> Result<()> {
    let mut session = Session::forward(client, pod, REPEATS).await?;
    session.send(DATA, b"word").await?;
    let said = of_channel(&mut session, DATA, REPEATS).await?;
    ensure!(said == b"word", "the pod said {said:?}");
    Ok(())
}

async fn in_vain(client: &Client, pod: &str) -> Result<()> {
    let mut session = Session::forward(client, pod, SILENT).await?;
    let said = of_channel(&mut session, ERROR, SILENT).await?;
    ensure!(String::from_utf8_lossy(&said).contains("refused"), "the error was {said:?}");
    Ok(())
}

/// What a channel says after its port.
async fn of_channel(session: &mut Session, channel: u8, port: u16) -> Result<Vec<u8>> {
    let mut heads = 0;
    while let Some((from, bytes)) = session.next().await? {
        if bytes == port.to_le_bytes() && heads < 2 {
            heads += 1;
        } else if from == channel && !bytes.is_empty() {
            return Ok(bytes);
        }
    }
    anyhow::bail!("the session ended")
}
