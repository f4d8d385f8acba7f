//! The client's own deadline, answered as such.
//!
//! tonic ends a call at the `grpc-timeout` of its request too, but says `CANCELLED`; a kubelet and critest want `DEADLINE_EXCEEDED`.
//! So this layer, inside of that, is a moment earlier. What the call began goes on without it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use tower::{Layer, Service};

use crate::cri::status;

/// The clock of timers ticks in milliseconds.
const EARLIER: Duration = Duration::from_millis(2);

/// Answers a call whose time is over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline;

#[derive(Debug, Clone)]
pub(crate) struct Bounded<S> {
    inner: S,
}

impl<S> Layer<S> for Deadline {
    type Service = Bounded<S>;
    fn layer(&self, inner: S) -> Bounded<S> {
        Bounded { inner }
    }
}

impl<S, In, Out> Service<Request<In>> for Bounded<S>
where
    S: Service<Request<In>, Response = Response<Out>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    Out: Default + Send + 'static,
{
    type Response = Response<Out>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Out>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<In>) -> Self::Future {
        let within = timeout(request.headers());
        let answer = self.inner.call(request);
        let Some(within) = within else { return Box::pin(answer) };
        Box::pin(async move {
            match tokio::time::timeout(within.saturating_sub(EARLIER), answer).await {
                Ok(result) => result,
                Err(_over) => Ok(status::too_late().into_http()),
            }
        })
    }
}

/// At most eight digits and a unit, as the gRPC protocol has it.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let value: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    match unit {
        "H" => Some(Duration::from_hours(value)),
        "M" => Some(Duration::from_mins(value)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tower::{ServiceExt, service_fn};

    fn request(within: &str) -> Request<()> {
        Request::builder().header("grpc-timeout", within).body(()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_outlasts_its_client_is_answered_with_its_own_code() {
        let slow = Deadline.layer(service_fn(|_: Request<()>| async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            Ok::<_, std::convert::Infallible>(Response::new(String::new()))
        }));
        let late = slow.clone().oneshot(request("1000m")).await.unwrap();
        assert_eq!(late.headers()["grpc-status"], "4");
        let in_time = slow.oneshot(request("3S")).await.unwrap();
        assert!(!in_time.headers().contains_key("grpc-status"));
    }

    #[test]
    fn a_timeout_that_is_none_is_none() {
        let read = |text: &str| timeout(request(text).headers());
        assert_eq!(read("5M"), Some(Duration::from_mins(5)));
        assert_eq!(read("10u"), Some(Duration::from_micros(10)));
        for bad in ["", "S", "123456789S", "1x", "-1S"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
