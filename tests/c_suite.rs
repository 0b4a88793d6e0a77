//! The C programs of c-tests/, each case on the C library's own implementation, on the library linked in, and on
//! the library preloaded. What they do must be the same, but for the cases that name a defect of libc's.
//!
//! `cargo test --test c_suite NAME` runs one program.

mod common;

use common::process::{Ending, Outcome};
use common::program::{Case, Kind, Program, Surroundings, Way};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Once;
use std::time::Duration;

/// One test for each program, and the list of them, which `every_program_is_listed` compares with the directory.
macro_rules! programs {
    ($($name:ident)*) => {
        const LISTED: &[&str] = &[$(stringify!($name)),*];
        $(#[test] fn $name() { run_program(stringify!($name)); })*
    };
}

programs! {
    abi
    cancel
    cancel_basic
    cancel_race
    cancellation
    changing_fd
    chardev
    closed_fd
    contexts
    error_return
    eventfd
    eventfd_seen
    exec_exit
    filesystems
    fork
    fork_storm
    fsync
    fsync_basic
    handlers
    hung_filesystem
    kernel_aio
    hints
    late_leader
    limits
    lio
    lio_wait
    loading
    long_writes
    mixed_notify
    mlock
    never_blocks
    notify
    notify_thread
    order
    other_files
    own_descriptors
    overflow
    pipe
    position
    reqprio
    scarce
    signal_queue
    socket
    stress_waiters
    submit
    suspend
    sweep
    syscalls
    three_ways
    transfer
    tty
    unused
    vectored
    waitcomplete
}

/// libc's defects that are hangs are waited for no longer than this.
const DEFECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Exit statuses with a meaning of their own (see check.h).
const PASSED: Ending = Ending::Exit(0);
const SKIPPED: Ending = Ending::Exit(77);
const NO_SUCH_CASE: Ending = Ending::Exit(2);
const WRONG_IMPLEMENTATION: Ending = Ending::Exit(3);

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Passed,
    Skipped(String),
    Failed(String),
}

fn run_program(name: &str) {
    let program = match Program::compile(name) {
        Ok(program) => program,
        Err(reason) => {
            common::report(&format!("{name}: skipped: {reason}"));
            count(0, 1);
            return;
        }
    };
    let mut failures = Vec::new();
    let mut skipped = 0;
    for case in &program.cases {
        match judge_case(&program, case) {
            Verdict::Passed => {}
            Verdict::Skipped(reason) => {
                common::report(&format!("{name}/{}: {reason}", case.name));
                skipped += 1;
            }
            Verdict::Failed(reason) => failures.push(format!("{name}/{}: {reason}", case.name)),
        }
    }
    count(program.cases.len(), skipped);
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
}

fn judge_case(program: &Program, case: &Case) -> Verdict {
    let plain = Surroundings::default();
    let libc = match case.kind {
        Kind::Same => Some(program.run(case, Way::Libc, &plain)),
        Kind::Defect => {
            let short = Surroundings { timeout: Some(DEFECT_TIMEOUT), ..Surroundings::default() };
            Some(program.run(case, Way::Libc, &short))
        }
        Kind::Differs => None,
    };
    let ours = [Way::Linked, Way::Preloaded].map(|way| (way, program.run(case, way, &plain)));
    judge(case, libc.as_ref(), &ours)
}

/// Compares what libc's implementation did (where it ran) with what ours did, each way.
fn judge(case: &Case, libc: Option<&Outcome>, ours: &[(Way, Outcome)]) -> Verdict {
    let failed = |way: Way, outcome: &Outcome, what: &str| {
        let (stdout, stderr) = (outcome.stdout.trim_end(), outcome.stderr.trim_end());
        Verdict::Failed(format!("{way:?}: {}, {what}\n{stdout}\n{stderr}", outcome.ending))
    };
    let all = libc.map(|outcome| (Way::Libc, outcome)).into_iter();
    let all: Vec<_> = all.chain(ours.iter().map(|(way, outcome)| (*way, outcome))).collect();
    for &(way, outcome) in &all {
        if outcome.ending == NO_SUCH_CASE || outcome.ending == WRONG_IMPLEMENTATION {
            return failed(way, outcome, "the case did not run");
        }
        if outcome.ending == SKIPPED {
            // A skip on one way alone would hide that it was never compared.
            return match all.iter().find(|(_, other)| other.ending != SKIPPED) {
                Some((other_way, other)) => failed(*other_way, other, "another way was skipped"),
                None => Verdict::Skipped(outcome.stdout.trim_end().to_owned()),
            };
        }
        let is_defect_on_libc = way == Way::Libc && case.kind == Kind::Defect;
        match (is_defect_on_libc, outcome.ending == PASSED) {
            (true, true) => return failed(way, outcome, "the defect does not show"),
            (false, false) => return failed(way, outcome, "it should pass"),
            _ => {}
        }
    }
    if let (Kind::Same, Some(libc)) = (case.kind, libc) {
        if let Some((way, outcome)) = ours.iter().find(|(_, outcome)| outcome.stdout != libc.stdout) {
            return failed(*way, outcome, &format!("libc's says:\n{}but this says:", libc.stdout));
        }
    }
    Verdict::Passed
}

static PROGRAMS: AtomicUsize = AtomicUsize::new(0);
static CASES: AtomicUsize = AtomicUsize::new(0);
static SKIPS: AtomicUsize = AtomicUsize::new(0);

/// Counts one program, for the summary at exit.
fn count(cases: usize, skipped: usize) {
    static AT_EXIT: Once = Once::new();
    // SAFETY: the function is static, and touches only atomics and stderr, which outlive main.
    AT_EXIT.call_once(|| assert_eq!(unsafe { libc::atexit(print_summary) }, 0));
    PROGRAMS.fetch_add(1, Ordering::Relaxed);
    CASES.fetch_add(cases, Ordering::Relaxed);
    SKIPS.fetch_add(skipped, Ordering::Relaxed);
}

extern "C" fn print_summary() {
    let [programs, cases, skipped] =
        [&PROGRAMS, &CASES, &SKIPS].map(|counter| counter.load(Ordering::Relaxed));
    common::report(&format!("{programs} programs, {cases} cases, {skipped} skipped"));
}

#[test]
fn every_program_is_listed() {
    let mut listed: Vec<String> = LISTED.iter().map(|name| name.to_string()).collect();
    listed.sort();
    assert_eq!(listed, Program::names(), "c_suite.rs lists other programs than c-tests/ has");
}

/// Without this, a preload that the dynamic linker ignores would look like success.
#[test]
fn a_wrong_implementation_is_noticed() {
    let program = Program::compile("kernel_aio").expect("kernel_aio needs nothing");
    let pretend = Surroundings {
        environment: vec![("AIO_TEST_IMPLEMENTATION".into(), "libaio_posix.so".into())],
        ..Surroundings::default()
    };
    let outcome = program.run(&program.cases[0], Way::Libc, &pretend);
    assert_eq!(outcome.ending, WRONG_IMPLEMENTATION, "{}", outcome.stderr);
}

#[test]
fn a_hang_is_noticed() {
    let mut command = std::process::Command::new("sleep");
    let outcome = common::process::run(command.arg("60"), Duration::from_millis(300)).expect("run sleep");
    assert_eq!(outcome.ending, Ending::TimedOut);
}

#[cfg(test)]
mod judging {
    use super::*;

    fn outcome(ending: Ending, stdout: &str) -> Outcome {
        Outcome { ending, stdout: stdout.to_owned(), stderr: String::new() }
    }

    fn verdict(kind: Kind, libc: Option<Outcome>, linked: Outcome, preloaded: Outcome) -> Verdict {
        let case = Case { kind, name: "name".to_owned(), reason: String::new() };
        judge(&case, libc.as_ref(), &[(Way::Linked, linked), (Way::Preloaded, preloaded)])
    }

    fn fails(verdict: Verdict) -> bool {
        matches!(verdict, Verdict::Failed(_))
    }

    #[test]
    fn same_output_passes_and_other_output_fails() {
        let good = || outcome(PASSED, "1\n");
        assert_eq!(verdict(Kind::Same, Some(good()), good(), good()), Verdict::Passed);
        assert!(fails(verdict(Kind::Same, Some(good()), good(), outcome(PASSED, "2\n"))));
        assert!(fails(verdict(Kind::Same, Some(outcome(PASSED, "")), good(), good())));
    }

    #[test]
    fn a_failure_on_any_side_fails() {
        let good = || outcome(PASSED, "");
        for bad in [Ending::Exit(1), Ending::Signal(11), Ending::TimedOut, NO_SUCH_CASE, WRONG_IMPLEMENTATION]
        {
            assert!(fails(verdict(Kind::Same, Some(outcome(bad, "")), good(), good())));
            assert!(fails(verdict(Kind::Same, Some(good()), outcome(bad, ""), good())));
            assert!(fails(verdict(Kind::Differs, None, good(), outcome(bad, ""))));
        }
    }

    #[test]
    fn a_defect_must_show_on_libc() {
        let good = || outcome(PASSED, "");
        for bad in [Ending::Exit(1), Ending::Signal(11), Ending::TimedOut] {
            assert_eq!(verdict(Kind::Defect, Some(outcome(bad, "")), good(), good()), Verdict::Passed);
        }
        for not_shown in [PASSED, NO_SUCH_CASE, WRONG_IMPLEMENTATION] {
            assert!(fails(verdict(Kind::Defect, Some(outcome(not_shown, "")), good(), good())));
        }
    }

    #[test]
    fn a_skip_must_be_everywhere() {
        let skip = || outcome(SKIPPED, "skip: no disk\n");
        let good = || outcome(PASSED, "");
        assert_eq!(
            verdict(Kind::Same, Some(skip()), skip(), skip()),
            Verdict::Skipped("skip: no disk".into())
        );
        assert!(fails(verdict(Kind::Same, Some(skip()), good(), good())));
        assert!(fails(verdict(Kind::Same, Some(good()), good(), skip())));
    }
}
