//! Metrics of the daemon itself, for Prometheus. (Those of pods go to the kubelet, by the CRI.)

use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tracing::debug;

/// Seconds: from a list out of memory to a container that takes its whole grace.
const BUCKETS: [f64; 14] =
    [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 120.0, 600.0];

#[derive(Debug, thiserror::Error)]
pub(crate) enum MetricsError {
    #[error("record metrics")]
    Record(#[from] metrics_exporter_prometheus::BuildError),
    #[error("listen for Prometheus on {address}")]
    Listen { address: String, source: io::Error },
}

/// Installs the recorder and, where an address is given, serves it until the runtime ends.
pub(crate) async fn start(address: &str) -> Result<(), MetricsError> {
    if address.is_empty() {
        return Ok(());
    }
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &BUCKETS)?
        .install_recorder()?;
    tokio::spawn(keep_up(recorder.clone()));
    let failed = |source| MetricsError::Listen { address: address.to_owned(), source };
    if let Some(path) = address.strip_prefix("unix:") {
        let listener = super::socket::bind(&PathBuf::from(path)).map_err(failed)?;
        tokio::spawn(serve_unix(listener, recorder));
    } else {
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        tokio::spawn(serve_tcp(listener, recorder));
    }
    Ok(())
}

/// Histograms gather samples until somebody folds them: without this, until Prometheus asks.
async fn keep_up(recorder: PrometheusHandle) {
    let mut tick = tokio::time::interval(Duration::from_secs(5));
    loop {
        tick.tick().await;
        recorder.run_upkeep();
    }
}

async fn serve_tcp(listener: TcpListener, recorder: PrometheusHandle) {
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, recorder.clone()));
        }
    }
}

async fn serve_unix(listener: UnixListener, recorder: PrometheusHandle) {
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, recorder.clone()));
        }
    }
}

async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin, recorder: PrometheusHandle) {
    let service = service_fn(|request: Request<Incoming>| {
        let response = match request.uri().path() {
            "/metrics" => Response::new(Full::new(Bytes::from(recorder.render()))),
            _ => not_found(),
        };
        async { Ok::<_, Infallible>(response) }
    });
    let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    if let Err(error) = served {
        debug!(%error, "metrics client left");
    }
}

fn not_found() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(b"see /metrics\n")));
    *response.status_mut() = http::StatusCode::NOT_FOUND;
    response
}
