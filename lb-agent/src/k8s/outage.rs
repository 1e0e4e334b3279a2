//! Says once when the API server stops answering, and once when it answers again.
//!
//! kube's watchers tell of failures only, each of its own: a watch that is taken up again tells
//! nothing until some object changes. So this looks at the requests of all watches instead.

use std::{
    error::Error,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use futures::{FutureExt, future::Inspect};
use http::Response;
use tower::{BoxError, util::MapFutureLayer};
use tracing::{info, warn};

type Answer<B> = Result<Response<B>, BoxError>;
type Look<B> = Box<dyn FnOnce(&Answer<B>) + Send>;
type Looked<F, B> = Inspect<F, Look<B>>;

/// Whether one API server answers.
#[derive(Clone, Debug)]
pub(super) struct Outage {
    server: Arc<str>,
    since: Arc<Mutex<Option<Instant>>>,
}

impl Outage {
    pub(super) fn of(server: String) -> Self {
        Self {
            server: server.into(),
            since: Arc::default(),
        }
    }

    /// Looks at every request of a client.
    pub(super) fn layer<F, B>(
        &self,
    ) -> MapFutureLayer<impl Fn(F) -> Looked<F, B> + Clone + use<F, B>>
    where
        F: Future<Output = Answer<B>>,
    {
        let this = self.clone();
        MapFutureLayer::new(move |request: F| {
            let this = this.clone();
            let look: Look<B> = Box::new(move |answer| this.look(answer));
            request.inspect(look)
        })
    }

    fn look<B>(&self, answer: &Answer<B>) {
        match answer {
            Ok(response) if response.status().is_server_error() => {}
            Ok(_) => self.is_over(),
            Err(error) => self.goes_on(&**error),
        }
    }

    fn goes_on(&self, error: &(dyn Error + 'static)) {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        if since.is_none() {
            *since = Some(Instant::now());
            let (server, error) = (&*self.server, chain(error));
            warn!(
                server,
                error, "the API server does not answer; the last state stays in force"
            );
        }
    }

    fn is_over(&self) {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(since) = since.take() {
            let (server, seconds) = (&*self.server, since.elapsed().as_secs());
            info!(server, seconds, "the API server answers again");
        }
    }
}

/// The error with its causes: `client error (Connect): tcp connect error: Connection refused`.
fn chain(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    let texts: Vec<_> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}
