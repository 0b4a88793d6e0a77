//! Program after program until the time is up; the first failure is shrunk, printed, and ends the test.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::check::check;
use super::generate::{programs, Features};
use super::log::Kind;
use super::plan::Plan;
use super::program::Program;
use super::run::{run as run_child, Library};
use crate::common;

/// How often a program that failed is run again to learn how often it fails.
const TRIES: usize = 20;
const SHRINKING: Duration = Duration::from_secs(150);
/// How long a request may take: only a hang detector, far above what a busy machine needs.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// The same while a program is shrunk that has already failed.
const IMPATIENCE: Duration = Duration::from_secs(2);

#[derive(Default)]
struct Counts {
    programs: AtomicU64,
    operations: AtomicU64,
    requests: AtomicU64,
    cancelled: AtomicU64,
    notifications: AtomicU64,
    forks: AtomicU64,
}

struct Session<'a> {
    library: &'a Library,
    counts: Counts,
    stop: AtomicBool,
    failure: Mutex<Option<String>>,
}

fn number(name: &str, default: u64) -> u64 {
    let Ok(text) = std::env::var(name) else {
        return default;
    };
    text.parse().unwrap_or_else(|_| panic!("{name} must be a number"))
}

fn seed() -> (u64, u64) {
    let Ok(text) = std::env::var("AIO_MODEL_SEED") else {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        return (since.map_or(0, |since| since.as_nanos() as u64 & 0xffff_ffff), 0);
    };
    let (seed, first) = text.split_once(':').unwrap_or((&text, "0"));
    let parse = |part: &str| part.parse().expect("AIO_MODEL_SEED must be a number, or two with a colon");
    (parse(seed), parse(first))
}

pub fn run(library: &Library) {
    let seconds = number("AIO_MODEL_SECONDS", 20);
    let jobs = number("AIO_MODEL_JOBS", 2).max(1);
    let (seed, first) = seed();
    println!("model test: seed {seed}, {library:?}");
    let session = Session {
        library,
        counts: Counts::default(),
        stop: AtomicBool::new(false),
        failure: Mutex::new(None),
    };
    let next = AtomicU64::new(first);
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let fixed = std::env::var("AIO_MODEL_PROGRAM").ok().map(|path| {
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        text.parse::<Program>().unwrap_or_else(|error| panic!("{path}: {error}"))
    });
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                let directory = common::scratch_directory();
                while Instant::now() < deadline && !session.stop.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    match &fixed {
                        Some(program) => session.one(program, directory.path()),
                        None => session.random(seed, index, directory.path()),
                    }
                }
            });
        }
    });
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let counts = &session.counts;
    println!(
        "model test: {} programs, {} operations, {} requests, {} cancelled, {} notifications, {} forks (seed {seed})",
        count(&counts.programs),
        count(&counts.operations),
        count(&counts.requests),
        count(&counts.cancelled),
        count(&counts.notifications),
        count(&counts.forks),
    );
    if let Some(failure) = session.failure.into_inner().expect("no thread panicked") {
        panic!("{failure}");
    }
    assert!(count(&counts.requests) > 0, "no program ran");
}

/// The first complaints; one fault may give hundreds.
fn shown(complaints: &[String]) -> String {
    const SHOWN: usize = 12;
    let more = complaints.len().saturating_sub(SHOWN);
    let first = complaints[..complaints.len() - more].join("\n");
    if more == 0 {
        first
    } else {
        format!("{first}\nand {more} more")
    }
}

impl Session<'_> {
    /// Runs a program; the complaints about it, if any.
    fn attempt(&self, program: &Program, directory: &Path, patience: Duration) -> Vec<String> {
        let plan = Plan::new(program);
        let seen = match run_child(program, &plan, self.library, directory, patience) {
            Ok(seen) => seen,
            Err(error) => return vec![format!("the test itself failed: {error}")],
        };
        let of = |kind| seen.records.iter().filter(move |record| record.kind == kind);
        let add = |counter: &AtomicU64, count: usize| counter.fetch_add(count as u64, Ordering::Relaxed);
        add(&self.counts.programs, 1);
        add(&self.counts.operations, program.operations());
        add(&self.counts.requests, of(Kind::Submit).count());
        add(&self.counts.notifications, of(Kind::Notify).count());
        add(&self.counts.forks, of(Kind::Fork).count());
        let mut cancelled: Vec<u32> = of(Kind::Status)
            .filter(|record| record.error == libc::ECANCELED)
            .map(|record| record.subject)
            .collect();
        cancelled.sort_unstable();
        cancelled.dedup();
        add(&self.counts.cancelled, cancelled.len());
        check(&plan, &seen, matches!(self.library, Library::Libc))
    }

    fn fail(&self, failure: String) {
        self.stop.store(true, Ordering::Relaxed);
        self.failure.lock().expect("no thread panicked").get_or_insert(failure);
    }

    fn one(&self, program: &Program, directory: &Path) {
        let complaints = self.attempt(program, directory, PATIENCE);
        if !complaints.is_empty() {
            self.fail(format!("{program}\n{}", shown(&complaints)));
        }
    }

    fn random(&self, seed: u64, index: u64, directory: &Path) {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        bytes[8..16].copy_from_slice(&index.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let mut runner = TestRunner::new_with_rng(Config::default(), rng);
        let features = Features { beyond_libc: !matches!(self.library, Library::Libc) };
        let mut tree = programs(features).new_tree(&mut runner).expect("strategies that reject nothing");
        let complaints = self.attempt(&tree.current(), directory, PATIENCE);
        if complaints.is_empty() {
            return;
        }
        self.stop.store(true, Ordering::Relaxed);
        eprintln!("AIO_MODEL_SEED={seed}:{index} fails, shrinking it\n{}", shown(&complaints));
        let (program, complaints) = self.shrink(&mut tree, complaints, directory);
        self.fail(format!(
            "AIO_MODEL_SEED={seed}:{index}; the smallest program found that fails:\n\n{program}\n{}",
            shown(&complaints)
        ));
    }

    fn shrink(
        &self,
        tree: &mut impl ValueTree<Value = Program>,
        complaints: Vec<String>,
        directory: &Path,
    ) -> (Program, Vec<String>) {
        let start = Instant::now();
        let mut smallest = (tree.current(), complaints);
        // A failure need not come back at every run; a smaller program gets as many chances as this one needs.
        let fails = |_: &usize| !self.attempt(&smallest.0, directory, IMPATIENCE).is_empty();
        let failed = (0..TRIES).take_while(|_| start.elapsed() < SHRINKING / 4).filter(fails).count();
        let tries = 3 * TRIES / failed.max(1);
        eprintln!("it fails {failed} times in {TRIES} runs");
        let mut simpler = tree.simplify();
        while simpler && start.elapsed() < SHRINKING {
            let program = tree.current();
            let attempts = (0..tries).map(|_| self.attempt(&program, directory, IMPATIENCE));
            match attempts.into_iter().find(|complaints| !complaints.is_empty()) {
                Some(complaints) => {
                    smallest = (program, complaints);
                    simpler = tree.simplify();
                }
                None => simpler = tree.complicate(),
            }
        }
        smallest
    }
}
