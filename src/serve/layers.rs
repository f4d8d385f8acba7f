//! What every call passes through: a span and its metrics, a bound on the number under way.
//!
//! A panic is caught between the two by tower-http: one bad request must not take the node's runtime with it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use http::{Request, Response};
use metrics::{counter, gauge, histogram};
use tokio::sync::Semaphore;
use tower::{Layer, Service};
use tracing::{Instrument, Span, field::Empty, info_span, trace_span};

use crate::cri::status;

type Boxed<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

/// Puts every call in a span and counts it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Observe;

/// Refuses calls beyond a number under way: a node that is wedged answers so, rather than queue without end.
#[derive(Debug, Clone)]
pub(crate) struct Limit {
    places: Arc<Semaphore>,
}

#[derive(Debug, Clone)]
pub(crate) struct Observed<S> {
    inner: S,
}

#[derive(Debug, Clone)]
pub(crate) struct Limited<S> {
    inner: S,
    places: Arc<Semaphore>,
}

// === impl Observe ===

impl<S> Layer<S> for Observe {
    type Service = Observed<S>;
    fn layer(&self, inner: S) -> Observed<S> {
        Observed { inner }
    }
}

impl<S, In, Out> Service<Request<In>> for Observed<S>
where
    S: Service<Request<In>, Response = Response<Out>>,
    S::Future: Send + 'static,
{
    type Response = Response<Out>;
    type Error = S::Error;
    type Future = Boxed<Response<Out>, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<In>) -> Self::Future {
        let path = request.uri().path();
        let method = path.rsplit('/').next().unwrap_or_default().to_owned();
        let span = span(&method);
        let answer = self.inner.call(request).instrument(span);
        Box::pin(async move {
            let under_way = UnderWay::new();
            let result = answer.await;
            under_way.done(method, result.as_ref().map_or("2", |response| code(response)));
            result
        })
    }
}

/// The handler fills in the ids, which are in the message.
fn span(method: &str) -> Span {
    let reads = ["List", "Stream", "Get", "Version", "RuntimeConfig", "ImageFsInfo"];
    let reads = reads.iter().any(|prefix| method.starts_with(prefix))
        || method.ends_with("Status")
        || method.ends_with("Stats");
    if reads {
        trace_span!("rpc", method, sandbox = Empty, container = Empty, image = Empty)
    } else {
        info_span!("rpc", method, sandbox = Empty, container = Empty, image = Empty)
    }
}

/// An error has its code in the headers; a success has it in trailers, which are not waited for.
fn code<B>(response: &Response<B>) -> &str {
    response.headers().get("grpc-status").and_then(|code| code.to_str().ok()).unwrap_or("0")
}

/// Counts down also when the client has gone and the future is dropped.
struct UnderWay {
    since: Instant,
}

impl UnderWay {
    fn new() -> Self {
        gauge!("ferropod_calls_under_way").increment(1.0);
        Self { since: Instant::now() }
    }

    fn done(self, method: String, code: &str) {
        // A path that names no method is the client's text: it must not become a label.
        let method = if code == "12" { "other".to_owned() } else { method };
        let labels = [("method", method), ("code", code.to_owned())];
        counter!("ferropod_calls_total", &labels).increment(1);
        histogram!("ferropod_call_seconds", &labels).record(self.since.elapsed());
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        gauge!("ferropod_calls_under_way").decrement(1.0);
    }
}

// === impl Limit ===

impl Limit {
    pub(crate) fn new(calls: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(calls.min(Semaphore::MAX_PERMITS))) }
    }
}

impl<S> Layer<S> for Limit {
    type Service = Limited<S>;
    fn layer(&self, inner: S) -> Limited<S> {
        Limited { inner, places: Arc::clone(&self.places) }
    }
}

impl<S, In, Out> Service<Request<In>> for Limited<S>
where
    S: Service<Request<In>, Response = Response<Out>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    Out: Default + Send + 'static,
{
    type Response = Response<Out>;
    type Error = S::Error;
    type Future = Boxed<Response<Out>, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<In>) -> Self::Future {
        match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => {
                let answer = self.inner.call(request);
                Box::pin(async move {
                    let result = answer.await;
                    drop(place);
                    result
                })
            }
            Err(_full) => Box::pin(async { Ok(status::too_many().into_http()) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::Notify;
    use tower::{ServiceExt, service_fn};

    #[tokio::test]
    async fn one_call_too_many_is_refused_and_the_next_one_is_not() {
        let gate = Arc::new(Notify::new());
        let waits = Arc::clone(&gate);
        let service = Limit::new(1).layer(service_fn(move |_: Request<()>| {
            let waits = Arc::clone(&waits);
            async move {
                waits.notified().await;
                Ok::<_, std::convert::Infallible>(Response::new(String::new()))
            }
        }));
        let mut first = tokio::spawn(service.clone().oneshot(Request::new(())));
        while service.places.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let refused = service.clone().oneshot(Request::new(())).await.unwrap();
        assert_eq!(code(&refused), "8");
        gate.notify_one();
        let answered = (&mut first).await.unwrap().unwrap();
        assert_eq!(code(&answered), "0");
        gate.notify_one();
        let again = service.oneshot(Request::new(())).await.unwrap();
        assert_eq!(code(&again), "0");
    }
}
