//! One watch: lists, watches, and never gives up.

use std::time::{Duration, Instant};

use backon::ExponentialBuilder;
use futures::{StreamExt as _, stream::BoxStream};
use kube::{
    Api, Client,
    core::Status,
    runtime::{
        utils::ResetTimerBackoff,
        watcher::{self, Config, ExponentialBackoff, watcher},
    },
};
use tokio::{sync::mpsc, time::sleep};
use tracing::{debug, info, warn};

use super::{follow::Follower, guard::Guarded, kind::Watched};
use crate::model::{Event, Kind};

/// Between failures, doubled up to [`MAX_PAUSE`], and somewhat random: all nodes lose an API server
/// at one time.
const MIN_PAUSE: Duration = Duration::from_millis(500);
/// An API server that is back is noticed after this time.
const MAX_PAUSE: Duration = Duration::from_secs(3);
/// After this time without failure the next one is a first one.
const CALM: Duration = Duration::from_secs(60);
/// An API server that has just started refuses for a moment what its roles allow: it has not read
/// them yet.
const GRACE: Duration = Duration::from_secs(5);
/// For what the cluster does not have, or keeps from us.
const LONG_PAUSE: Duration = Duration::from_secs(30);

type Words<K> = BoxStream<'static, watcher::Result<watcher::Event<Guarded<K>>>>;

/// Watches what `config` selects, which becomes `kind`, until nobody listens to `events`.
pub(super) async fn run<K: Watched>(
    client: Client,
    config: Config,
    kind: Kind,
    events: mpsc::Sender<Event>,
) {
    let mut watch = Watch::<K> {
        words: begin(&client, &config),
        follower: Follower::new(kind),
        has_list: false,
        refused_since: None,
        is_outdated: false,
    };
    let mut pauses = pauses();
    loop {
        let word = tokio::select! {
            word = watch.words.next() => word,
            () = events.closed() => return,
        };
        let (news, pause) = match word {
            Some(Ok(word)) => (watch.take(word), None),
            Some(Err(error)) => {
                let trouble = Trouble::of(&error);
                if trouble.needs_list(&error) {
                    watch.words = begin(&client, &config);
                }
                let pause = pauses.next().unwrap_or(MAX_PAUSE);
                watch.fail(trouble, pause)
            }
            None => {
                watch.words = begin(&client, &config);
                (Vec::new(), pauses.next())
            }
        };
        for event in news {
            if events.send(event).await.is_err() {
                return;
            }
        }
        if let Some(pause) = pause {
            sleep(pause).await;
        }
    }
}

fn begin<K: Watched>(client: &Client, config: &Config) -> Words<K> {
    watcher(Api::<Guarded<K>>::all(client.clone()), config.clone()).boxed()
}

fn pauses() -> ResetTimerBackoff<ExponentialBackoff> {
    let pauses = ExponentialBuilder::default()
        .with_min_delay(MIN_PAUSE)
        .with_max_delay(MAX_PAUSE)
        .with_factor(2.0)
        .with_jitter()
        .without_max_times();
    ResetTimerBackoff::new(pauses.into(), CALM)
}

struct Watch<K> {
    words: Words<K>,
    follower: Follower,
    has_list: bool,
    refused_since: Option<Instant>,
    /// Since the last complete list.
    is_outdated: bool,
}

impl<K: Watched> Watch<K> {
    fn take(&mut self, word: watcher::Event<Guarded<K>>) -> Vec<Event> {
        // the beginning of a list is told before anything has been asked
        if !matches!(word, watcher::Event::Init) && self.refused_since.take().is_some() {
            info!(kind = %K::kind(&()), "the API server lets us watch again");
        }
        if matches!(word, watcher::Event::InitDone) {
            self.has_list = true;
            self.is_outdated = false;
        }
        self.follower.take(word)
    }

    fn fail(&mut self, trouble: Trouble, pause: Duration) -> (Vec<Event>, Option<Duration>) {
        let kind = K::kind(&());
        match trouble {
            Trouble::Lost(error) => debug!(%kind, error, "a watch was lost"),
            Trouble::Outdated => {
                debug!(%kind, "the API server has forgotten where we were: list again");
                // usual after its restart, and the first time no reason to wait
                let is_first = !std::mem::replace(&mut self.is_outdated, true);
                return (Vec::new(), (!is_first).then_some(pause));
            }
            Trouble::Absent(reason) if K::IS_OPTIONAL => {
                return (self.do_without(&reason), Some(LONG_PAUSE));
            }
            Trouble::Forbidden(reason) if K::IS_OPTIONAL && self.is_refused_for_good() => {
                return (self.do_without(&reason), Some(LONG_PAUSE));
            }
            Trouble::Absent(reason) | Trouble::Forbidden(reason) | Trouble::Refused(reason) => {
                self.refuse(&reason);
            }
        }
        (Vec::new(), Some(pause))
    }

    fn is_refused_for_good(&self) -> bool {
        self.refused_since
            .is_some_and(|since| since.elapsed() > GRACE)
    }

    fn refuse(&mut self, reason: &str) {
        let kind = K::kind(&());
        if self.refused_since.is_some() {
            debug!(%kind, reason, "the API server still refuses a watch");
            return;
        }
        self.refused_since = Some(Instant::now());
        warn!(%kind, reason, "the API server refuses a watch; the last state stays in force");
    }

    /// Nothing is known, and nobody should wait for it.
    fn do_without(&mut self, reason: &str) -> Vec<Event> {
        if self.has_list {
            self.refuse(reason);
            return Vec::new();
        }
        self.has_list = true;
        self.refused_since.get_or_insert_with(Instant::now);
        info!(kind = %K::kind(&()), reason, "done without; asked again every 30 s");
        vec![Event::Replace(K::KIND, Vec::new())]
    }
}

/// Why a watch fails.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Trouble {
    /// No answer, or the connection broke off: [`super::outage`] tells.
    Lost(String),
    /// 410 Gone.
    Outdated,
    /// 404.
    Absent(String),
    /// 403.
    Forbidden(String),
    /// Any other answer.
    Refused(String),
}

impl Trouble {
    fn of(error: &watcher::Error) -> Self {
        match error {
            watcher::Error::WatchError(status) => Self::answered(status),
            watcher::Error::InitialListFailed(error)
            | watcher::Error::WatchStartFailed(error)
            | watcher::Error::WatchFailed(error) => Self::asked(error),
            watcher::Error::NoResourceVersion => Self::Refused(error.to_string()),
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "kube has many errors, and few mean a lost connection"
    )]
    fn asked(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::answered(status),
            kube::Error::Service(_) | kube::Error::HyperError(_) | kube::Error::ReadEvents(_) => {
                Self::Lost(error.to_string())
            }
            other => Self::Refused(other.to_string()),
        }
    }

    fn answered(status: &Status) -> Self {
        let reason = format!("{} ({})", status.message, status.code);
        match status.code {
            410 => Self::Outdated,
            403 => Self::Forbidden(reason),
            404 => Self::Absent(reason),
            _ => Self::Refused(reason),
        }
    }

    /// kube would ask for the same watch for ever; a list may be answered, and shows when it is.
    fn needs_list(&self, error: &watcher::Error) -> bool {
        let is_start = matches!(error, watcher::Error::WatchStartFailed(_));
        is_start && matches!(self, Self::Outdated | Self::Absent(_) | Self::Forbidden(_))
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
