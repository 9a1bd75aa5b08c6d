//! One question for all who ask: etcd is asked for its revision once for everyone who wanted to know before the question
//! was put. Where many ask, those who have just had their answer are about to ask again: the next question waits for
//! them a moment, or two halves of the crowd would ask in turn.

use std::future::Future;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use storage::{Error, Revision};
use tokio::sync::{Mutex, Notify};

/// So many make a crowd; fewer are not waited for.
const CROWD: usize = 4;
/// A question waits for a crowd this long at most.
const PATIENCE: Duration = Duration::from_millis(1);

/// The questions so far.
#[derive(Default)]
pub(crate) struct Flights {
    begun: AtomicU64,
    /// How many want an answer.
    waiting: AtomicUsize,
    /// How many the next question waits for, 0 when none does.
    wanted: AtomicUsize,
    arrived: Notify,
    last: Mutex<Last>,
}

/// The last question that was answered.
#[derive(Default)]
struct Last {
    number: u64,
    revision: Revision,
    /// How many wanted an answer when this one came, whether theirs or a later one.
    crowd: usize,
}

/// Counts who wants an answer, until it has it or gives up.
struct Waiting<'f>(&'f AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl Flights {
    /// The answer to a question that is put after this call.
    pub(crate) async fn ask(
        &self,
        question: impl Future<Output = Result<Revision, Error>>,
    ) -> Result<Revision, Error> {
        let ticket = self.begun.load(SeqCst);
        let waiting = self.waiting.fetch_add(1, SeqCst) + 1;
        let _waiting = Waiting(&self.waiting);
        let wanted = self.wanted.load(SeqCst);
        if wanted > 0 && waiting >= wanted {
            self.arrived.notify_one();
        }
        let mut last = self.last.lock().await;
        if last.number > ticket {
            return Ok(last.revision);
        }
        if last.crowd >= CROWD {
            self.gather(last.crowd).await;
        }
        let number = self.begun.fetch_add(1, SeqCst) + 1;
        let revision = question.await?;
        *last = Last { number, revision, crowd: self.waiting.load(SeqCst) };
        Ok(revision)
    }

    /// Waits for as many as there were.
    async fn gather(&self, crowd: usize) {
        self.wanted.store(crowd, SeqCst);
        let gathered = async {
            while self.waiting.load(SeqCst) < crowd {
                self.arrived.notified().await;
            }
        };
        // fewer have come: they are not held up any longer
        let _ = tokio::time::timeout(PATIENCE, gathered).await;
        self.wanted.store(0, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::future::join_all;

    use super::*;

    /// An etcd that counts questions and whose revision is their number.
    #[derive(Default)]
    struct Asked {
        flights: Flights,
        questions: AtomicU64,
    }

    impl Asked {
        async fn ask(&self) -> i64 {
            let question = async {
                let n = self.questions.fetch_add(1, SeqCst) + 1;
                tokio::time::sleep(Duration::from_millis(3)).await;
                Ok(Revision(n as i64))
            };
            self.flights.ask(question).await.expect("an answer").0
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_to_a_question_put_later() {
        let asked = Arc::new(Asked::default());
        let first = tokio::spawn({
            let asked = Arc::clone(&asked);
            async move { asked.ask().await }
        });
        tokio::task::yield_now().await;
        assert_eq!(asked.questions.load(SeqCst), 1, "under way");
        // those who come meanwhile share the next
        let later = join_all((0..3).map(|_| asked.ask())).await;
        assert_eq!((first.await.expect("no panic"), later), (1, vec![2; 3]));
        assert_eq!(asked.ask().await, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_that_asks_again_and_again_asks_together() {
        let asked = Asked::default();
        let half = |late: bool| {
            let asked = &asked;
            join_all((0..8).map(move |_| async move {
                if late {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                for _ in 0..10 {
                    asked.ask().await;
                }
            }))
        };
        futures::join!(half(false), half(true));
        // two questions before it is known to be a crowd
        assert_eq!(asked.questions.load(SeqCst), 11);
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_holds_up_nobody() {
        let asked = Asked::default();
        join_all((0..8).map(|_| asked.ask())).await;
        let begun = tokio::time::Instant::now();
        let gone = tokio::time::timeout(Duration::from_millis(1), asked.ask()).await;
        assert!(gone.is_err() && asked.ask().await > 0);
        assert!(begun.elapsed() < Duration::from_millis(20));
        assert_eq!(asked.flights.waiting.load(SeqCst), 0);
    }
}
