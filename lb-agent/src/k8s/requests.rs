//! Every request to the API server: not faster than `--kube-api-qps` and `--kube-api-burst` allow, and counted.

use std::{
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::{FutureExt as _, future::BoxFuture};
use http::{Request, Response};
use tower::{Layer, Service};

use crate::{config::ApiRate, observe::requests::Requests};

/// Requests that come in a burst, and then at a steady pace: a token bucket, as client-go has it.
#[derive(Debug)]
struct Pace {
    rate: ApiRate,
    /// When the bucket is full again.
    full_at: Mutex<Option<Instant>>,
}

impl Pace {
    /// How long a request that comes now must wait.
    fn reserve(&self, now: Instant) -> Duration {
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let from = full_at.map_or(now, |at| at.max(now));
        *full_at = Some(from + self.rate.every);
        let room = self.rate.every * self.rate.burst.saturating_sub(1);
        from.saturating_duration_since(now).saturating_sub(room)
    }
}

/// The layer.
#[derive(Clone, Debug)]
pub(super) struct Paced {
    pace: Option<Arc<Pace>>,
    requests: Arc<Requests>,
}

impl Paced {
    pub(super) fn new(rate: Option<ApiRate>, requests: Arc<Requests>) -> Self {
        let pace = rate.map(|rate| {
            Arc::new(Pace {
                rate,
                full_at: Mutex::default(),
            })
        });
        Self { pace, requests }
    }
}

impl<S> Layer<S> for Paced {
    type Service = PacedService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        PacedService {
            inner,
            paced: self.clone(),
        }
    }
}

/// What the layer makes of a client.
#[derive(Clone, Debug)]
pub(super) struct PacedService<S> {
    inner: S,
    paced: Paced,
}

impl<S, B, R> Service<Request<B>> for PacedService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let method = request.method().to_string();
        // Nothing is sent before the future is asked for its answer.
        let answer = self.inner.call(request);
        let Paced { pace, requests } = self.paced.clone();
        async move {
            if let Some(pace) = pace {
                tokio::time::sleep(pace.reserve(Instant::now())).await;
            }
            let begun = Instant::now();
            let answer = answer.await;
            let status = answer.as_ref().ok().map(|r| r.status().as_u16());
            requests.count(&method, status, begun.elapsed());
            answer
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_goes_at_once_and_the_rest_at_the_pace() {
        let pace = Pace {
            rate: ApiRate {
                every: Duration::from_millis(200),
                burst: 3,
            },
            full_at: Mutex::default(),
        };
        let begun = Instant::now();
        let waits: Vec<u128> = (0..5).map(|_| pace.reserve(begun).as_millis()).collect();
        assert_eq!(waits, [0, 0, 0, 200, 400]);
        let later = begun + Duration::from_secs(10);
        let waits: Vec<u128> = (0..4).map(|_| pace.reserve(later).as_millis()).collect();
        assert_eq!(
            waits,
            [0, 0, 0, 200],
            "the bucket is full again, and not fuller"
        );
    }
}
