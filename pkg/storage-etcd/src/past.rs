//! Watches of the past. From before what the hub holds: read from etcd up to where the hub begins, then from the hub. With
//! what was there before each change, which the hub does not know: read from etcd throughout.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt as _;
use storage::hub::PROGRESS_INTERVAL;
use storage::{Error, Event, Revision, WatchMessage, WatchStream};

use crate::engine::Inner;
use crate::feed::{self, Seen};

/// Wait before etcd is asked again after a failure.
const PAUSE: Duration = Duration::from_millis(200);

/// A watch that begins in the past.
pub(crate) struct Past {
    of: Wanted,
    stage: Stage,
}

/// What it is to show.
struct Wanted {
    inner: Arc<Inner>,
    prefix: String,
    with_prev: bool,
}

enum Stage {
    /// Reading etcd; everything up to the revision has been passed on.
    Direct(Option<Box<etcd::Watch>>, Revision),
    Hub(WatchStream),
    Ended,
}

impl Past {
    /// Opens it at etcd.
    pub(crate) fn open(inner: Arc<Inner>, prefix: String, start: Revision, with_prev: bool) -> WatchStream {
        let of = Wanted { inner, prefix, with_prev };
        let past = Self { of, stage: Stage::Direct(None, Revision(start.0 - 1)) };
        Box::pin(futures::stream::unfold(past, Self::next))
    }

    async fn next(mut self) -> Option<(Result<WatchMessage, Error>, Self)> {
        loop {
            let (message, stage) = match std::mem::replace(&mut self.stage, Stage::Ended) {
                Stage::Ended => return None,
                Stage::Hub(mut stream) => {
                    let message = stream.next().await?;
                    (Some(message), Stage::Hub(stream))
                }
                Stage::Direct(watch, position) => match self.of.direct(watch, position).await {
                    Ok((message, stage)) => (message.map(Ok), stage),
                    Err(Error::Unavailable(text) | Error::Timeout(text)) => {
                        tracing::debug!(text, "opening a watch of the past again");
                        tokio::time::sleep(PAUSE).await;
                        (None, Stage::Direct(None, position))
                    }
                    Err(error) => (Some(Err(error)), Stage::Ended),
                },
            };
            self.stage = stage;
            if let Some(message) = message {
                return Some((message, self));
            }
        }
    }
}

impl Wanted {
    /// One message of etcd, or the step to the hub.
    async fn direct(
        &self,
        watch: Option<Box<etcd::Watch>>,
        position: Revision,
    ) -> Result<(Option<WatchMessage>, Stage), Error> {
        let inner = &*self.inner;
        if !self.with_prev && position >= inner.hub.floor() {
            let stream = inner.hub.watch(&self.prefix, Revision(position.0 + 1))?;
            return Ok((None, Stage::Hub(stream)));
        }
        let all = inner.wishes.unreliable.load(Ordering::Acquire);
        let opened = watch.is_none();
        let mut watch = match watch {
            Some(watch) => watch,
            None => Box::new(feed::open(inner, Revision(position.0 + 1), all, self.with_prev).await?),
        };
        let failed = |e: etcd::Error| inner.error(&e, position);
        // who goes on to the hub is in a hurry; who stays asks now and then
        let patience = if opened || !self.with_prev { Duration::ZERO } else { PROGRESS_INTERVAL };
        let response = match tokio::time::timeout(patience, watch.message()).await {
            Ok(response) => response,
            Err(_) => {
                if !all {
                    watch.request_progress().map_err(failed)?;
                }
                watch.message().await
            }
        };
        let Some(response) = response.map_err(failed)? else {
            return Err(Error::Unavailable("etcd ended the watch".into()));
        };
        let (message, reached) = match Seen::of(response, all)? {
            Seen::Nothing => (None, position),
            Seen::Progress(revision) => (None, revision),
            Seen::Events(changes, revision) => {
                let ours = |event: &Event| event.kv.key.starts_with(&self.prefix);
                let events: Vec<_> = changes.into_iter().flat_map(|c| c.events).filter(ours).collect();
                ((!events.is_empty()).then_some(WatchMessage::Events(events)), revision)
            }
        };
        let reached = reached.max(position);
        // the hub tells of progress itself
        let progress = (self.with_prev && reached > position).then_some(WatchMessage::Progress(reached));
        Ok((message.or(progress), Stage::Direct(Some(watch), reached)))
    }
}
