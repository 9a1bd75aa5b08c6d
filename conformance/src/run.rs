//! Running batches: worker threads that start the suite's binary, with limits on time, and collect what it left.

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::junit::{self, Case, Verdict};
use crate::plan::Phase;
use crate::results::{PhaseTime, Results, Status, Test, sig};
use crate::suite::Suite;
use crate::target::Target;

/// How often a worker looks whether its batch is done.
const POLL: Duration = Duration::from_millis(200);
/// What a suite gets to clean up and write its report when its time is over.
const GRACE: Duration = Duration::from_secs(60);
/// Times a test is tried whose batch ended without a verdict about it: the second time in a batch of its own.
const ATTEMPTS: u8 = 2;

/// Limits of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Of one batch.
    pub(crate) batch: Duration,
    /// When everything must have ended.
    pub(crate) deadline: Instant,
}

/// Tests that run in one process, one after the other.
#[derive(Debug, Clone)]
struct Batch {
    tests: Vec<String>,
    attempt: u8,
}

/// Everything that workers share.
pub(crate) struct Runner<'a> {
    pub(crate) suite: &'a Suite,
    pub(crate) target: &'a Target,
    pub(crate) out: &'a Path,
    pub(crate) limits: Limits,
    /// Number of this run.
    pub(crate) run: u32,
    state: Mutex<State>,
}

struct State {
    results: Results,
    queue: VecDeque<Batch>,
    batches: usize,
    done: usize,
    total: usize,
}

/// How a process ended.
enum End {
    Exited(ExitStatus),
    /// Its time, or that of the whole run, was over.
    Stopped,
}

/// Waits for a process group's leader; stops the group when its time is over.
fn wait(child: &mut Child, until: Instant) -> anyhow::Result<End> {
    let group = Pid::from_raw(child.id() as i32);
    let wait_until = |child: &mut Child, until: Instant| -> anyhow::Result<Option<ExitStatus>> {
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() >= until {
                return Ok(None);
            }
            thread::sleep(POLL);
        }
    };
    if let Some(status) = wait_until(child, until)? {
        return Ok(End::Exited(status));
    }
    for signal in [Signal::SIGINT, Signal::SIGKILL] {
        // It fails only when the group has ended, which is the aim.
        let _ = killpg(group, signal);
        if wait_until(child, Instant::now() + GRACE)?.is_some() {
            break;
        }
    }
    Ok(End::Stopped)
}

/// Name of a test as part of a file name.
fn file_name(test: &str) -> String {
    /// Longest name; what file systems take is 255 bytes.
    const LONGEST: usize = 180;
    let plain = test.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' });
    plain.take(LONGEST).collect()
}

/// What a batch's cases say about its tests, and the tests they say nothing about.
fn verdicts(tests: &[String], cases: Vec<Case>) -> (Vec<Case>, Vec<String>) {
    let mut without: BTreeSet<&String> = tests.iter().collect();
    let mut of_tests: Vec<Case> = Vec::new();
    for case in cases {
        // A suite's set-up is a case too, and all that was left out.
        if without.remove(&case.name) {
            of_tests.push(case);
        }
    }
    (of_tests, tests.iter().filter(|name| without.contains(name)).cloned().collect())
}

/// Why a batch says nothing about a test.
fn no_verdict(end: &End, set_up: Option<&str>) -> String {
    match (end, set_up) {
        (_, Some(message)) => format!("the suite's set-up failed: {message}"),
        (End::Stopped, None) => "stopped when its time was over".into(),
        (End::Exited(status), None) => format!("the suite ended without a report: {status}"),
    }
}

impl<'a> Runner<'a> {
    pub(crate) fn new(
        suite: &'a Suite,
        target: &'a Target,
        out: &'a Path,
        limits: Limits,
        results: Results,
        total: usize,
    ) -> Self {
        let run = results.next_run();
        let state = State { results, queue: VecDeque::new(), batches: 0, done: 0, total };
        Self { suite, target, out, limits, run, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known so far.
    pub(crate) fn results(&self) -> Results {
        self.lock().results.clone()
    }

    /// Records how long a phase took.
    pub(crate) fn timed(&self, time: PhaseTime) {
        self.lock().results.phases.push(time);
    }

    /// Runs a phase's batches with `workers` processes at a time; gives how long it took.
    pub(crate) fn phase(
        &self,
        phase: Phase,
        batches: Vec<Vec<String>>,
        workers: usize,
    ) -> anyhow::Result<Duration> {
        let started = Instant::now();
        self.lock().queue = batches.into_iter().map(|tests| Batch { tests, attempt: 1 }).collect();
        let outcomes: Vec<anyhow::Result<()>> = thread::scope(|scope| {
            let handles: Vec<_> =
                (1..=workers).map(|worker| scope.spawn(move || self.work(phase, worker))).collect();
            handles
                .into_iter()
                .map(|handle| handle.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a worker panicked"))))
                .collect()
        });
        outcomes.into_iter().collect::<anyhow::Result<()>>()?;
        let rest: Vec<Batch> = self.lock().queue.drain(..).collect();
        for test in rest.into_iter().flat_map(|batch| batch.tests) {
            self.put(phase, &test, Status::Missing, 0.0, "the run's time was over before its turn")?;
        }
        Ok(started.elapsed())
    }

    fn work(&self, phase: Phase, worker: usize) -> anyhow::Result<()> {
        while Instant::now() < self.limits.deadline {
            let (batch, number) = {
                let mut state = self.lock();
                let Some(batch) = state.queue.pop_front() else { return Ok(()) };
                state.batches += 1;
                (batch, state.batches)
            };
            self.batch(phase, worker, number, &batch)?;
        }
        Ok(())
    }

    fn batch(&self, phase: Phase, worker: usize, number: usize, batch: &Batch) -> anyhow::Result<()> {
        let directory: PathBuf =
            self.out.join("batches").join(format!("{}-{}-{number:04}", self.run, phase.name()));
        std::fs::create_dir_all(&directory)?;
        let log = File::create(directory.join("log.txt"))?;
        let mut command = self.suite.run(self.target, &directory, &batch.tests);
        command.stdout(log.try_clone()?).stderr(log).process_group(0);
        let until = (Instant::now() + self.limits.batch).min(self.limits.deadline);
        let mut child = command.spawn().context("cannot start the suite")?;
        let end = wait(&mut child, until)?;
        // What a process that was stopped wrote may be cut off.
        let cases = junit::read_directory(&directory).unwrap_or_default();
        let set_up = cases.iter().find(|case| case.verdict == Verdict::Fail && junit::is_set_up(&case.name));
        let why = no_verdict(&end, set_up.map(|case| case.message.as_str()));
        let (cases, without) = verdicts(&batch.tests, cases);
        for case in cases {
            let status = match case.verdict {
                Verdict::Pass => Status::Pass,
                Verdict::Fail => Status::Fail,
                Verdict::Skip => Status::Skip,
            };
            if status == Status::Fail {
                let failures = self.out.join("failures");
                std::fs::create_dir_all(&failures)?;
                let path = failures.join(format!("{}.log", file_name(&case.name)));
                std::fs::write(path, format!("{}\n{}", case.name, case.output))?;
            }
            self.put(phase, &case.name, status, case.seconds, &case.message)?;
        }
        let again = batch.attempt < ATTEMPTS && Instant::now() < self.limits.deadline;
        for test in without {
            if again {
                say(&format!("worker {worker}: {why}; again alone: {test}"));
                self.lock().queue.push_back(Batch { tests: vec![test], attempt: batch.attempt + 1 });
            } else {
                self.put(phase, &test, Status::Fail, 0.0, &format!("{why} (see {})", directory.display()))?;
            }
        }
        Ok(())
    }

    /// Records a verdict, tells it, and writes the results so that they are there whatever happens next.
    fn put(
        &self,
        phase: Phase,
        name: &str,
        status: Status,
        seconds: f64,
        message: &str,
    ) -> anyhow::Result<()> {
        let mut state = self.lock();
        state.done += 1;
        let word = match status {
            Status::Pass => "ok",
            Status::Fail => "FAILED",
            Status::Skip => "skipped",
            Status::Missing => "not run",
        };
        say(&format!("[{:>4}/{}] {word:<7} {seconds:>6.1} s  {name}", state.done, state.total));
        if matches!(status, Status::Fail | Status::Missing) {
            say(&format!("            {message}"));
        }
        state.results.put(Test {
            name: name.to_owned(),
            sig: sig(name),
            phase: phase.name().to_owned(),
            status,
            duration_s: (seconds * 100.0).round() / 100.0,
            run: self.run,
            failure: message.to_owned(),
        });
        state.results.write(&self.out.join("results.json"))
    }
}

/// Tells the person who watches.
#[allow(clippy::print_stdout, reason = "the progress of a run of an hour")]
pub(crate) fn say(line: &str) {
    println!("{line}");
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn verdicts_are_taken_for_the_tests_of_the_batch_only() {
        let case = |name: &str, verdict| Case {
            name: name.into(),
            verdict,
            seconds: 0.0,
            message: String::new(),
            output: String::new(),
        };
        let tests = ["a".to_owned(), "b".to_owned(), "c".to_owned()];
        let cases = vec![
            case("BeforeSuite", Verdict::Fail),
            case("a", Verdict::Pass),
            case("x", Verdict::Skip),
            case("c", Verdict::Skip),
        ];
        let (of_tests, without) = verdicts(&tests, cases);
        let names: Vec<_> = of_tests.iter().map(|case| case.name.as_str()).collect();
        assert_eq!((names, without), (vec!["a", "c"], vec!["b".to_owned()]));
    }

    #[test]
    fn file_names_are_plain() {
        assert_eq!(file_name("[sig-x] a/b (c) é"), "_sig-x__a_b__c___");
        assert_eq!(file_name(&"x".repeat(500)).len(), 180);
    }

    #[test]
    fn processes_are_stopped_with_their_children_when_time_is_over() {
        let start = |script: &str| {
            Command::new("sh").args(["-c", script]).process_group(0).spawn().expect("sh starts")
        };
        let mut quick = start("exit 3");
        let far = Instant::now() + Duration::from_secs(60);
        assert!(matches!(wait(&mut quick, far), Ok(End::Exited(status)) if status.code() == Some(3)));
        let mut slow = start("sleep 600 & sleep 600");
        let group = Pid::from_raw(slow.id() as i32);
        assert!(matches!(wait(&mut slow, Instant::now()), Ok(End::Stopped)));
        // The child that was left behind dies of the same signal, if not at the same moment.
        let gone = (0..100).any(|_| {
            thread::sleep(Duration::from_millis(20));
            killpg(group, None).is_err()
        });
        assert!(gone);
    }
}
