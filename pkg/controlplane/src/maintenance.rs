//! What a server does by itself while it runs: compaction.

use std::sync::Arc;
use std::time::Duration;

use storage::Storage;
use tokio_util::sync::CancellationToken;

/// Forgets history older than one interval, every interval.
pub(crate) async fn compact(storage: Arc<dyn Storage>, interval: Duration, shutdown: CancellationToken) {
    if interval.is_zero() {
        return;
    }
    let mut last = None;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(interval) => {}
        }
        if let Some(revision) = last
            && let Err(error) = storage.compact(revision).await
        {
            tracing::warn!(%error, "compaction failed");
        }
        last = storage.current_revision().await.ok();
    }
}
