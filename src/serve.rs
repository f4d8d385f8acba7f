//! The daemon's outside: the sockets, the layers that every call passes through, the end.
//!
//! It listens only when it is given services that can answer, that is after recovery.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::service::Routes;
use tonic::transport::Server;
use tower_http::catch_panic::CatchPanicLayer;
use tracing::{info, warn};

use crate::config::Config;
use crate::cri::status;
use deadline::Deadline;
use layers::{Limit, Observe};
use notify::Notify;

mod deadline;
mod layers;
pub(crate) mod lock;
pub(crate) mod memory;
pub(crate) mod metrics;
mod notify;
pub(crate) mod place;
mod socket;
pub(crate) mod streams;
mod tls;

/// How long calls may go on after the daemon was told to stop. What they began goes on without them.
const DRAIN_FOR: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error("listen on {}", path.display())]
    Listen { path: PathBuf, source: io::Error },
    #[error("wait for signals")]
    Signals { source: io::Error },
    #[error("serve on {}", path.display())]
    Serve { path: PathBuf, source: tonic::transport::Error },
}

/// Serves until SIGTERM or SIGINT; `stop` is set then, so that streams end by themselves.
pub(crate) async fn serve(
    config: &Config,
    routes: Routes,
    stop: watch::Sender<bool>,
) -> Result<(), ServeError> {
    let path = config.socket();
    let listening = |source| ServeError::Listen { path: path.clone(), source };
    let told = told_to_stop().map_err(|source| ServeError::Signals { source })?;
    let listener = socket::bind(&path).map_err(listening)?;
    let notify = Notify::from_env();
    info!(socket = %path.display(), "serving");
    notify.ready();
    // Nobody waits for it, and it changes nothing but how much memory is shown.
    tokio::task::spawn_blocking(host::code::forget_start);
    tokio::spawn(memory::give_back());

    let mut stopping = stop.subscribe();
    let calls = Server::builder()
        .layer(Observe)
        .layer(CatchPanicLayer::custom(status::panicked))
        .layer(Limit::new(config.calls_at_once))
        .layer(Deadline)
        .add_routes(routes)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async move {
            // An error means that the sender is gone: then nobody serves any more either.
            drop(stopping.wait_for(|stop| *stop).await);
        });
    let end = async {
        told.await;
        notify.stopping();
        stop.send_replace(true);
        tokio::time::sleep(DRAIN_FOR).await;
    };
    // Each branch is polled to its end or dropped with the process's last work: none is resumed.
    let ended = tokio::select! {
        done = calls => done.map_err(|source| ServeError::Serve { path: path.clone(), source }),
        () = end => {
            warn!("calls were still under way");
            Ok(())
        }
        () = notify.watchdog() => Ok(()),
    };
    socket::remove(&path).map_err(listening)?;
    info!("stopped");
    ended
}

/// The handlers are installed before this returns: a signal that comes meanwhile is not lost.
fn told_to_stop() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        // Both are cancel-safe: a signal that was not received yet stays.
        tokio::select! {
            _ = terminate.recv() => info!("told to terminate"),
            _ = interrupt.recv() => info!("interrupted"),
        }
    })
}
