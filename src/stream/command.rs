//! Exec and attach: a client's ends and those of a process, until one of them has enough.

use std::future::Future;
use std::time::Duration;

use engine::world::{Ended, Session, World};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tracing::debug;

use super::activity::Activity;
use super::ends::{Client, Output};
use super::resize::{Size, Window};
use super::status::Verdict;
use super::{Ask, Server, pump, stopping};

/// How long a client that has had its time may take to read the rest. Longer than [`pump::QUIET_FOR`].
const PARTING: Duration = Duration::from_secs(5);
/// How long a command with a terminal waits for its window's size: clients tell it as soon as they may.
const SIZE_WITHIN: Duration = Duration::from_millis(200);

impl<W: World> Server<W> {
    /// Serves a client whose ends are all there. Returns when it has been told how it ended, or is gone.
    pub(super) async fn command(
        &self,
        ask: &Ask,
        mut client: Client,
        gone: impl Future<Output = ()>,
    ) {
        let run = async {
            let opened = self.open(ask, client.resize.as_mut());
            let opened = tokio::time::timeout(self.patience.idle, opened).await;
            let (verdict, patience) = match opened {
                Ok(Ok(session)) => self.run(&mut client, session).await,
                Ok(Err(why)) => (Verdict::Failure(why), self.patience.idle),
                Err(_) => (lost("idle for too long").into(), PARTING),
            };
            debug!(?verdict, "session over");
            // An error means that it takes nothing any more.
            drop(tokio::time::timeout(patience, client.end(&verdict)).await);
        };
        // Dropping the first drops the session, or what is to become one: its process is killed. Neither is resumed.
        tokio::select! {
            () = run => {}
            () = gone => debug!("the client has gone"),
        }
    }

    async fn open(&self, ask: &Ask, window: Option<&mut Window>) -> Result<Session, String> {
        let (opened, doing) = match ask {
            Ask::Exec { container, command, ends } => {
                let size = first(window).await.map(|size| (size.width, size.height));
                let opened = self.engine.open_exec(container, command.clone(), *ends, size).await;
                (opened, "error executing command in container")
            }
            Ask::Attach { container, ends } => {
                (self.engine.open_attach(container, *ends).await, "error attaching to container")
            }
            Ask::Forward { .. } => return Err("nothing to attach to".to_owned()),
        };
        opened.map_err(|error| format!("{doing}: {}", engine::record::chain(&error)))
    }

    /// Gives how it ended, and how long the client may take to hear of it.
    async fn run(&self, client: &mut Client, session: Session) -> (Verdict, Duration) {
        let activity = Activity::new();
        let over = watch::Sender::new(false);
        let Session { stdin, stdout, stderr, terminal, leaves_with_input, mut ended } = session;
        // Dropped, it ends all that it holds.
        let mut inputs = JoinSet::new();
        let (saying, said) = oneshot::channel::<()>();
        match (client.stdin.take(), stdin) {
            (Some(from), Some(to)) => {
                let input = pump::input(from, to, activity.clone());
                drop(inputs.spawn(async move {
                    input.await;
                    drop(saying);
                }));
            }
            (Some(from), None) => drop(inputs.spawn(pump::discard(from))),
            (None, to) => drop(to),
        }
        match (client.resize.take(), terminal) {
            (Some(from), Some(to)) => drop(inputs.spawn(pump::resize(from, to))),
            (Some(mut from), None) => {
                drop(inputs.spawn(async move { while from.size().await.is_some() {} }));
            }
            (None, to) => drop(to),
        }
        let stdout = Flow::start(stdout, &mut client.stdout, &activity, &over);
        let stderr = Flow::start(stderr, &mut client.stderr, &activity, &over);
        // None is resumed: the first that is ready decides.
        let (how, patience): (Ended, _) = tokio::select! {
            how = &mut ended => (how, self.patience.idle),
            // An error is all that comes.
            _ = said, if leaves_with_input => (Ended::Detached, self.patience.idle),
            () = activity.ceased(self.patience.idle) => (lost("idle for too long"), PARTING),
            () = stopping(self.stop.clone()) => (lost("ferropod is stopping"), PARTING),
        };
        // Who leaves hears what is answered at once to its last words; dropped, this ends the outputs too.
        let _heard = (how == Ended::Detached).then_some(ended);
        over.send_replace(true);
        activity.note();
        let flows = async { tokio::join!(stdout.finish(), stderr.finish()) };
        // Neither is resumed.
        tokio::select! {
            both = flows => {
                (client.stdout, client.stderr) = both;
                (how.into(), patience)
            }
            () = activity.ceased(patience) => (how.into(), Duration::ZERO),
        }
    }
}

/// The size that a window has from the beginning: a program may ask before the client can tell it.
async fn first(window: Option<&mut Window>) -> Option<Size> {
    let window = window?;
    // An error means that the client has not told it.
    tokio::time::timeout(SIZE_WITHIN, window.size()).await.ok().flatten()
}

fn lost(why: &str) -> Ended {
    Ended::Lost(why.to_owned())
}

/// An output on its way. Dropped, it stops.
#[derive(Debug)]
struct Flow(Option<Task>);

#[derive(Debug)]
struct Task(JoinHandle<Output>);

impl Flow {
    fn start(
        from: Option<Box<dyn tokio::io::AsyncRead + Send + Unpin>>,
        to: &mut Option<Output>,
        activity: &Activity,
        over: &watch::Sender<bool>,
    ) -> Self {
        let Some(from) = from else { return Self(None) };
        let Some(to) = to.take() else { return Self(None) };
        let pump = pump::output(from, to, activity.clone(), over.subscribe());
        Self(Some(Task(tokio::spawn(pump))))
    }

    /// Waits for its end.
    async fn finish(self) -> Option<Output> {
        let mut task = self.0?;
        // An error means that it panicked.
        (&mut task.0).await.ok()
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}
