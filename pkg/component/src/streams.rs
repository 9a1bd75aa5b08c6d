//! The streams of an HTTP/2 connection, run by the connection's own task.
//!
//! hyper gives each stream to an executor. As tasks of their own, streams and connection wake each other: a frame of a watch
//! would take three turns of the scheduler, each with everything it touches cold. Here one turn polls the streams that were
//! woken and then the connection, which writes what they made. What takes long on a processor does not belong in a stream:
//! the other streams of the connection wait for it.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures::stream::FuturesUnordered;
use futures::task::AtomicWaker;
use futures::{FutureExt as _, StreamExt as _};
use parking_lot::Mutex;

/// Rounds of streams and connection in one turn; then others have theirs.
const MAX_ROUNDS: usize = 16;

type Stream = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The executor to give to hyper.
#[derive(Clone, Default)]
pub(crate) struct Streams(Arc<Mutex<Vec<Stream>>>);

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        // a stream that panics is reset, as one in a task would be
        let contained = AssertUnwindSafe(stream).catch_unwind().map(drop);
        self.0.lock().push(Box::pin(contained));
    }
}

/// What the executor was given, under way.
pub(crate) struct Running {
    new: Streams,
    streams: FuturesUnordered<Stream>,
    turn: Arc<Turn>,
    waker: Waker,
}

/// Who is woken while the connection has its turn need not wake its task.
struct Turn {
    woken: AtomicBool,
    at_work: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Turn {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // in one order with what `Running::poll` does: either this sees that the turn is over, or that sees this
        self.woken.store(true, Ordering::SeqCst);
        if !self.at_work.load(Ordering::SeqCst) {
            self.task.wake();
        }
    }
}

impl Running {
    /// Runs what comes to an executor.
    pub(crate) fn new(new: Streams) -> Self {
        let turn = Arc::new(Turn {
            woken: AtomicBool::new(false),
            at_work: AtomicBool::new(false),
            task: AtomicWaker::new(),
        });
        let waker = Waker::from(Arc::clone(&turn));
        Self { new, streams: FuturesUnordered::new(), turn, waker }
    }

    /// Polls streams and connection as long as they wake each other.
    pub(crate) fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut connection: Pin<&mut impl Future<Output = T>>,
    ) -> Poll<T> {
        self.turn.task.register(cx.waker());
        let mut inner = Context::from_waker(&self.waker);
        for _ in 0..MAX_ROUNDS {
            self.turn.at_work.store(true, Ordering::SeqCst);
            self.turn.woken.store(false, Ordering::SeqCst);
            while let Poll::Ready(Some(())) = self.streams.poll_next_unpin(&mut inner) {}
            let polled = connection.as_mut().poll(&mut inner);
            self.turn.at_work.store(false, Ordering::SeqCst);
            if polled.is_ready() {
                return polled;
            }
            let new = std::mem::take(&mut *self.new.0.lock());
            let none_new = new.is_empty();
            self.streams.extend(new);
            if none_new && !self.turn.woken.load(Ordering::SeqCst) {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use hyper::rt::Executor as _;
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn streams_and_connection_wake_each_other_within_a_turn() {
        // the connection hands out a number, the stream answers with the next one, until there were ten
        let (to_stream, mut asked) = mpsc::channel::<u32>(1);
        let (answer, mut answers) = mpsc::channel::<u32>(1);
        let streams = Streams::default();
        let mut running = Running::new(streams.clone());
        let mut connection = std::pin::pin!(async move {
            streams.execute(async move {
                while let Some(number) = asked.recv().await {
                    let _ = answer.send(number + 1).await;
                }
            });
            let mut number = 0;
            while number < 10 {
                to_stream.send(number).await.expect("the stream listens");
                number = answers.recv().await.expect("the stream answers");
            }
            number
        });
        let polls = AtomicUsize::new(0);
        let all = std::future::poll_fn(|cx| {
            polls.fetch_add(1, Ordering::Relaxed);
            running.poll(cx, connection.as_mut())
        });
        assert_eq!(all.await, 10);
        assert_eq!(polls.into_inner(), 1, "the task had to be woken");
    }

    #[tokio::test]
    async fn a_stream_that_panics_ends_alone() {
        let streams = Streams::default();
        let mut running = Running::new(streams.clone());
        let (done, mut finished) = mpsc::channel(1);
        streams.execute(async { panic!("a panic of a test") });
        streams.execute(async move { done.send("done").await.expect("the connection listens") });
        let mut connection = std::pin::pin!(finished.recv());
        let all = std::future::poll_fn(|cx| running.poll(cx, connection.as_mut()));
        assert_eq!(all.await, Some("done"));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_wake_from_another_thread_is_lost() {
        const WAKES: u32 = 20_000;
        let streams = Streams::default();
        let (send, mut receive) = mpsc::channel(1);
        let (done, mut finished) = mpsc::channel(1);
        streams.execute(async move {
            for expected in 0..WAKES {
                assert_eq!(receive.recv().await, Some(expected));
            }
            done.send(()).await.expect("the connection listens");
        });
        let writer = tokio::spawn(async move {
            for number in 0..WAKES {
                send.send(number).await.expect("the stream listens");
            }
        });
        let mut running = Running::new(streams);
        let all = async {
            let mut connection = std::pin::pin!(finished.recv());
            std::future::poll_fn(|cx| running.poll(cx, connection.as_mut())).await
        };
        let outcome = tokio::time::timeout(std::time::Duration::from_secs(30), all).await;
        assert_eq!(outcome, Ok(Some(())), "asleep with something to do");
        writer.await.expect("no panic");
    }
}
