//! Exec and attach: a client's ends and those of a process, until one of them has enough.

use std::future::Future;

use engine::world::{Ended, Session, World};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tracing::debug;

use super::activity::Activity;
use super::ends::{Client, Output};
use super::status::Verdict;
use super::{Ask, Server, pump, stopping};

impl<W: World> Server<W> {
    /// Serves a client whose ends are all there. Returns when it has been told how it ended, or is gone.
    pub(super) async fn command(
        &self,
        ask: &Ask,
        mut client: Client,
        gone: impl Future<Output = ()>,
    ) {
        // Not given up when the client goes: what was half begun has to become a session to be dropped as one.
        let opened = self.open(ask).await;
        let run = async {
            let verdict = match opened {
                Ok(session) => self.run(&mut client, session).await,
                Err(why) => Verdict::Failure(why),
            };
            debug!(?verdict, "session over");
            client.end(&verdict).await;
        };
        // Dropping the first drops the session: its process is killed. Neither is resumed.
        tokio::select! {
            () = run => {}
            () = gone => debug!("the client has gone"),
        }
    }

    async fn open(&self, ask: &Ask) -> Result<Session, String> {
        let (opened, doing) = match ask {
            Ask::Exec { container, command, ends } => {
                let opened = self.engine.open_exec(container, command.clone(), *ends).await;
                (opened, "error executing command in container")
            }
            Ask::Attach { container, ends } => {
                (self.engine.open_attach(container, *ends).await, "error attaching to container")
            }
            Ask::Forward { .. } => return Err("nothing to attach to".to_owned()),
        };
        opened.map_err(|error| format!("{doing}: {}", engine::record::chain(&error)))
    }

    async fn run(&self, client: &mut Client, session: Session) -> Verdict {
        let activity = Activity::new();
        let over = watch::Sender::new(false);
        let Session { stdin, stdout, stderr, terminal, ended } = session;
        // Dropped, it ends all that it holds.
        let mut inputs = JoinSet::new();
        match (client.stdin.take(), stdin) {
            (Some(from), Some(to)) => drop(inputs.spawn(pump::input(from, to, activity.clone()))),
            (Some(from), None) => drop(inputs.spawn(pump::discard(from))),
            (None, to) => drop(to),
        }
        match (client.resize.take(), terminal) {
            (Some(from), Some(to)) => drop(inputs.spawn(pump::resize(from, to))),
            (Some(from), None) => drop(inputs.spawn(pump::discard(from))),
            (None, to) => drop(to),
        }
        let stdout = Flow::start(stdout, &mut client.stdout, &activity, &over);
        let stderr = Flow::start(stderr, &mut client.stderr, &activity, &over);
        // None is resumed: the first that is ready decides.
        let ended: Ended = tokio::select! {
            ended = ended => ended,
            () = activity.ceased(self.patience.idle) => Ended::Lost("idle for too long".to_owned()),
            () = stopping(self.stop.clone()) => Ended::Lost("ferropod is stopping".to_owned()),
        };
        over.send_replace(true);
        (client.stdout, client.stderr) = tokio::join!(stdout.finish(), stderr.finish());
        ended.into()
    }
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
