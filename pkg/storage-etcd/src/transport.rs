//! The connections to etcd, with everything that belongs to them in one task.
//!
//! A request passes through five futures of tonic's and hyper's: a queue's worker, the connection's dispatcher, the response's
//! sender, the connection. As tasks of their own they wake each other over the threads, which costs a small request more
//! than everything else about it. In one task each is polled where the one before left off.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;

use etcd_client::{BalancedChannelBuilder, Channel};
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use http::Uri;
use tokio::sync::mpsc;
use tonic::transport::Endpoint;
use tonic::transport::channel::Change;

type Part = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Members of a cluster that are told of at once.
const CHANGES: usize = 16;

/// Makes channels whose parts share a task. It ends when they do.
pub(crate) struct InOneTask;

impl BalancedChannelBuilder for InOneTask {
    type Error = tonic::transport::Error;

    fn balanced_channel(
        self,
        buffer_size: usize,
    ) -> Result<(Channel, mpsc::Sender<Change<Uri, Endpoint>>), Self::Error> {
        let (new, parts) = mpsc::unbounded_channel();
        tokio::spawn(run(parts));
        let executor = Executor(new);
        let (channel, members) =
            tonic::transport::Channel::balance_channel_with_executor(buffer_size, executor.clone());
        // the connections of the members must be told as well
        let (updater, mut updates) = mpsc::channel(CHANGES);
        executor.add(Box::pin({
            let executor = executor.clone();
            async move {
                while let Some(change) = updates.recv().await {
                    let change = match change {
                        Change::Insert(uri, endpoint) => {
                            Change::Insert(uri, Endpoint::executor(endpoint, executor.clone()))
                        }
                        remove @ Change::Remove(_) => remove,
                    };
                    if members.send(change).await.is_err() {
                        break;
                    }
                }
            }
        }));
        Ok((Channel::Tonic(channel), updater))
    }
}

/// As many parts as there are members and requests under way.
#[derive(Clone)]
struct Executor(mpsc::UnboundedSender<Part>);

impl Executor {
    fn add(&self, part: Part) {
        // fails when the task is gone, which is when the runtime is
        let _ = self.0.send(part);
    }
}

impl hyper::rt::Executor<Part> for Executor {
    fn execute(&self, part: Part) {
        self.add(part);
    }
}

async fn run(mut parts: mpsc::UnboundedReceiver<Part>) {
    let mut running = FuturesUnordered::new();
    let mut open = true;
    while open || !running.is_empty() {
        tokio::select! {
            biased;
            part = parts.recv(), if open => match part {
                // a part that panics ends alone, as a task would
                Some(part) => running.push(AssertUnwindSafe(part).catch_unwind()),
                None => open = false,
            },
            Some(_) = running.next() => {}
        }
    }
}
