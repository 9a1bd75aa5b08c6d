//! What a server does by itself while it runs: compaction.

use std::sync::Arc;
use std::time::Duration;

use storage::Storage;
use storage::compaction::Compactor;
use tokio_util::sync::CancellationToken;

/// Forgets history older than one interval, every interval, unless another server over the store does.
pub(crate) async fn compact(storage: Arc<dyn Storage>, interval: Duration, shutdown: CancellationToken) {
    if interval.is_zero() {
        return;
    }
    let mut compactor = Compactor::default();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(interval) => {}
        }
        if let Err(error) = compactor.round(&*storage).await {
            tracing::warn!(%error, "compaction failed");
        }
    }
}
