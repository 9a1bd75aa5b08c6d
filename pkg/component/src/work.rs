//! Work that takes long for the few threads of the runtime ([`crate::runtime`]): whoever computes for milliseconds on one of
//! them keeps other connections waiting. Such work steps aside: another thread takes over what the runtime's thread was
//! about to do, for the price of waking it and of what both find cold, some tens of microseconds.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor};

/// Work that is worth the price.
pub const LONG: Duration = Duration::from_millis(4);

/// Calls `work`, which takes about as long as `estimate`, and lets other tasks of this thread go on elsewhere meanwhile if
/// that is long.
pub fn taking<T>(estimate: Duration, work: impl FnOnce() -> T) -> T {
    // a runtime of one thread, as tests have, cannot be left
    let can = || Handle::try_current().is_ok_and(|h| h.runtime_flavor() == RuntimeFlavor::MultiThread);
    if estimate >= LONG && can() { tokio::task::block_in_place(work) } else { work() }
}

/// A future each of whose turns takes about as long as `estimate`; see [`taking`].
pub fn turns_taking<F: Future>(estimate: Duration, future: F) -> TurnsTaking<F> {
    TurnsTaking { estimate, future }
}

pin_project_lite::pin_project! {
    /// See [`turns_taking`].
    pub struct TurnsTaking<F> {
        estimate: Duration,
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for TurnsTaking<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        taking(*this.estimate, || this.future.poll(cx))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::task::Waker;

    use super::*;

    /// Runs a task that can only end when another one runs meanwhile, on a runtime of one thread.
    fn others_go_on(work: impl FnOnce(mpsc::Receiver<()>) -> bool + Send + 'static) -> bool {
        let runtime = crate::runtime(1).expect("a runtime");
        let (sender, receiver) = mpsc::channel();
        runtime.block_on(async {
            let first = tokio::spawn(async move {
                tokio::spawn(async move { sender.send(()) });
                work(receiver)
            });
            first.await.expect("no panic")
        })
    }

    fn wait(receiver: &mpsc::Receiver<()>) -> bool {
        receiver.recv_timeout(Duration::from_secs(1)).is_ok()
    }

    #[test]
    fn others_go_on_while_work_is_long() {
        assert!(others_go_on(|receiver| taking(LONG, || wait(&receiver))));
        assert!(others_go_on(|receiver| {
            let mut turn = std::pin::pin!(turns_taking(LONG, async { wait(&receiver) }));
            turn.as_mut().poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(true)
        }));
        assert!(!others_go_on(|receiver| taking(LONG / 2, || wait(&receiver))), "what is short stays");
    }

    #[test]
    fn work_is_done_where_it_cannot_step_aside() {
        assert_eq!(taking(LONG, || 1), 1);
        let alone = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        assert_eq!(alone.block_on(async { turns_taking(LONG, async { 1 }).await }), 1);
    }
}
