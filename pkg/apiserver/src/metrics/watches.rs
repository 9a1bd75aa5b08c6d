//! What watches have sent.

use component::metrics::Metrics;
use jiff::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use super::Histograms;
use crate::context::RequestContext;

/// Upper bounds of the sizes of events in bytes: upstream's, 1 KiB to 128 KiB.
const SIZES: (f64, f64, u16) = (1024.0, 2.0, 8);
/// Upper bounds of the seconds until a watch has sent what there was: upstream's.
const DURATIONS: [f64; 17] =
    [0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    group: String,
    version: String,
    resource: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ListLabels {
    #[prometheus(flatten)]
    labels: Labels,
    scope: &'static str,
}

/// The server's metrics of watches.
#[derive(Debug)]
pub(crate) struct WatchesMetrics {
    events: Family<Labels, Counter>,
    sizes: Histograms<Labels>,
    lists: Histograms<ListLabels>,
}

/// What one watch counts in.
pub(crate) struct WatchMetrics {
    events: Counter,
    sizes: Histogram,
    lists: Family<ListLabels, Histogram, fn() -> Histogram>,
    labels: ListLabels,
    began: Timestamp,
}

impl WatchesMetrics {
    /// Registered with the process's metrics.
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let made = Self {
            events: Family::default(),
            sizes: Family::new_with_constructor(|| {
                let (start, factor, count) = SIZES;
                Histogram::new(exponential_buckets(start, factor, count))
            }),
            lists: Family::new_with_constructor(|| Histogram::new(DURATIONS)),
        };
        metrics.register(|registry| {
            registry.register("apiserver_watch_events", "Changes sent to watchers", made.events.clone());
            registry.register(
                "apiserver_watch_events_sizes",
                "Bytes of the changes sent to watchers",
                made.sizes.clone(),
            );
            registry.register(
                "apiserver_watch_list_duration_seconds",
                "Seconds from a watch's request to the bookmark that ends its initial objects",
                made.lists.clone(),
            );
        });
        made
    }

    /// What a watch counts in.
    pub(crate) fn of(&self, context: &RequestContext) -> WatchMetrics {
        let info = &context.info;
        let labels = Labels {
            group: info.group.clone(),
            version: info.version.clone(),
            resource: info.resource.clone(),
        };
        WatchMetrics {
            events: self.events.get_or_create(&labels).clone(),
            sizes: self.sizes.get_or_create(&labels).clone(),
            lists: self.lists.clone(),
            labels: ListLabels { labels, scope: info.scope() },
            began: context.now,
        }
    }
}

impl WatchMetrics {
    /// An event of this many bytes goes out.
    pub(crate) fn sends(&self, bytes: usize) {
        self.events.inc();
        self.sizes.observe(bytes as f64);
    }

    /// The objects that were there when the watch began have gone out.
    pub(crate) fn sent_initial_objects(&self) {
        let took = Timestamp::now().duration_since(self.began);
        self.lists.get_or_create(&self.labels).observe(took.as_secs_f64().max(0.0));
    }
}
