//! The C programs under checkers of memory and of threads, which see into the library as well: it is built for each.
//!
//! - **AddressSanitizer and UndefinedBehaviorSanitizer**: the programs by the C compiler, the library by rustc, both
//!   with one AddressSanitizer (UndefinedBehaviorSanitizer is for C).
//! - **ThreadSanitizer**: the library with its cells made ordinary memory (`--cfg plain_cells`, `src/pool.rs`), so that every
//!   claim of "guarded by the lock" or "handed on by its state" is checked. The programs are not: they count
//!   what they saw in ways that C has no name for.
//! - **valgrind's memcheck**: the library as it is shipped, but that io_pgetevents, of which valgrind 3.19 knows nothing, is made
//!   of older calls (`--cfg emulated_pgetevents`, `src/sys/context.rs`).
//!
//! rustc's `-Zsanitizer` is not stable; RUSTC_BOOTSTRAP lets the stable compiler take it, whose toolchain has the runtimes. std
//! itself is not instrumented: for that it would have to be built, from sources that rustup does not install by
//! itself. Miri is not used: it comes with a nightly toolchain only.
//!
//! Tried by breaking the library: see each test. What may go wrong here and not elsewhere is listed with its reason.

mod common;

use common::process::{Ending, Outcome};
use common::program::{side_by_side, Case, Checker, Program, Surroundings, Way};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// Cases that a checker cannot run, or all of a program's (`"program/"`), and why.
type Exceptions = &'static [(&'static str, &'static str)];

/// The checkers slow everything down: one at a time.
static TURN: Mutex<()> = Mutex::new(());

/// One checker at work.
struct Check {
    name: &'static str,
    checker: Checker,
    wrapper: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    /// Where it says what it found: a helper thread has a descriptor table of its own, in which there is no stderr.
    log: Option<PathBuf>,
    /// How much longer everything takes.
    slower: u32,
    except: Exceptions,
}

impl Check {
    fn surroundings(&self, program: &Program) -> Surroundings {
        Surroundings {
            wrapper: self.wrapper.clone(),
            environment: self.environment.clone(),
            timeout: Some(program.timeout() * self.slower),
        }
    }

    fn exception(&self, program: &str, case: &str) -> Option<&'static str> {
        let is_it = |wanted: &str| wanted == format!("{program}/{case}") || wanted == format!("{program}/");
        self.except.iter().find(|(wanted, _)| is_it(wanted)).map(|(_, reason)| *reason)
    }

    /// Runs all cases of these programs; none may fail, nor be complained of.
    fn run(&self, names: &[String]) {
        let compile = |name: &String| {
            let compiled = Program::compile_for(name, &self.checker);
            compiled.map_err(|why| common::report(&format!("{}: {name}: skipped: {why}", self.name))).ok()
        };
        let programs: Vec<Program> = names.iter().filter_map(compile).collect();
        let all = programs.iter().flat_map(|program| program.cases.iter().map(move |case| (program, case)));
        let (held_back, cases): (Vec<_>, Vec<_>) =
            all.partition(|(program, case)| self.exception(&program.name, &case.name).is_some());
        for (program, case) in &held_back {
            let reason = self.exception(&program.name, &case.name).unwrap_or_default();
            common::report(&format!("{}: {}/{}: skipped: {reason}", self.name, program.name, case.name));
        }
        self.complain_of_strangers(&programs);
        let count = cases.len();
        let outcomes = side_by_side(cases.into_iter(), Way::Linked, |program| self.surroundings(program));
        let failures: Vec<_> = outcomes
            .iter()
            .filter(|(_, outcome)| !matches!(outcome.ending, Ending::Exit(0 | 77)))
            .map(|(name, outcome)| format!("{name}: {}\n{}", outcome.ending, beginning(&outcome.stderr)))
            .collect();
        let skipped = outcomes.iter().filter(|(_, outcome)| outcome.ending == Ending::Exit(77)).count();
        common::report(&format!(
            "{}: {} programs, {count} cases, {skipped} skipped themselves, {} held back, {} failed",
            self.name,
            programs.len(),
            held_back.len(),
            failures.len()
        ));
        let found = self.found();
        assert!(failures.is_empty(), "{}:\n{}\n{}", self.name, failures.join("\n"), beginning(&found));
    }

    /// What it wrote since it was last asked.
    fn found(&self) -> String {
        let Some(log) = &self.log else { return String::new() };
        let mut text = String::new();
        for entry in std::fs::read_dir(log).into_iter().flatten().flatten() {
            text += &std::fs::read_to_string(entry.path()).unwrap_or_default();
            let _ = std::fs::remove_file(entry.path());
        }
        text
    }

    /// An exception that names no case would outlive it.
    fn complain_of_strangers(&self, programs: &[Program]) {
        for (wanted, _) in self.except {
            let (name, case) = wanted.split_once('/').expect("an exception has a slash");
            let Some(program) = programs.iter().find(|program| program.name == name) else { continue };
            let known = case.is_empty() || program.cases.iter().any(|it| it.name == case);
            assert!(known, "{}: there is no case {wanted}", self.name);
        }
    }

    /// That the checker sees into the library: in this program of broken rules it finds this, in a function of the library's.
    fn finds(&self, case: &str, what: &str) {
        let program = Program::compile_for("tools/misuse", &self.checker).expect("misuse needs nothing");
        let case: &Case = program.cases.iter().find(|it| it.name == case).expect("the case is there");
        let Outcome { ending, stderr, .. } = program.run(case, Way::Linked, &self.surroundings(&program));
        let stderr = stderr + &self.found();
        assert_ne!(ending, Ending::Exit(0), "{} finds nothing", self.name);
        assert!(stderr.contains(what) && stderr.contains("aio_error"), "{}: {ending}\n{stderr}", self.name);
    }
}

/// An empty directory for what a checker finds, that every user may write to: some cases become another one.
fn log_directory(name: &str) -> PathBuf {
    let directory = common::work_directory().join(name);
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).expect("make the directory of the log");
    let anyone = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(&directory, anyone).expect("open the directory of the log");
    directory
}

/// As much of a complaint as anyone reads.
fn beginning(text: &str) -> String {
    text.lines().take(40).collect::<Vec<_>>().join("\n")
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn beside_this(name: &str) -> String {
    common::source_root().join("tests/checkers").join(name).display().to_string()
}

/// The archive of a sanitizer's runtime in the Rust toolchain.
fn runtime(name: &str) -> Result<PathBuf, String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let said =
        Command::new(rustc).args(["--print", "target-libdir"]).output().map_err(|error| error.to_string())?;
    let directory = PathBuf::from(String::from_utf8_lossy(&said.stdout).trim());
    let ending = format!("_rt.{name}.a");
    let found = std::fs::read_dir(&directory).into_iter().flatten().flatten().map(|entry| entry.path());
    found
        .into_iter()
        .find(|path| path.to_string_lossy().ends_with(&ending))
        .ok_or(format!("the Rust toolchain has no runtime *{ending}"))
}

/// Compiler flags for a sanitizer. std was built without: the flag says that we know.
fn sanitizing(name: &str) -> String {
    format!("-Zsanitizer={name} -Cunsafe-allow-abi-mismatch=sanitizer -Cstrip=none -Cdebuginfo=1")
}

/// A case's reason to be held back, where a sanitizer's own handlers or threads change what it looks at.
const ITS_OWN: &str = "the sanitizer has memory, threads and system calls of its own";

/// Seen to fail with `complete::end` changed so that it looks at the aiocb once more a millisecond after its status was stored:
/// heap-use-after-free in `error_return`, whose case takes the memory away at once.
#[test]
fn addresses_and_undefined_behaviour() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let product = match runtime("asan").and_then(|_| common::product_for("address", &sanitizing("address"))) {
        Ok(product) => product,
        Err(why) => return common::report(&format!("AddressSanitizer: skipped: {why}")),
    };
    // The C compiler's own runtime serves both. aio_suspend is declared never to get NULL, and POSIX lets it.
    let flags =
        "-fsanitize=address,undefined -fno-sanitize=nonnull-attribute -fno-sanitize-recover=undefined";
    // Signals are the programs' own affair; a case ends without freeing what it has.
    let log = log_directory("address-log");
    let options = format!(
        "detect_leaks=0:use_sigaltstack=0:handle_segv=0:handle_sigbus=0:handle_sigfpe=0:handle_sigill=0:handle_abort=0:\
         log_path={}/found",
        log.display()
    );
    let check = Check {
        name: "AddressSanitizer",
        checker: Checker { product, compiling: words(flags), linking: words(flags) },
        wrapper: Vec::new(),
        environment: vec![("ASAN_OPTIONS".into(), options.into())],
        log: Some(log),
        slower: 2,
        except: &[
            ("cancellation/", CANCELLED),
            ("waitcomplete/it_is_a_cancellation_point", CANCELLED),
            ("fork/", FORKS),
            ("fork_storm/", FORKS),
            ("notify_thread/a_cancellation_in_vain_is_not_the_next_callbacks", CANCELLED),
            ("notify_thread/a_child_of_a_callback_ends_with_it", FORKS),
            ("own_descriptors/what_a_child_has_its_parent_opened", FORKS),
            ("limits/memory_runs_out", ITS_OWN),
            ("scarce/", ITS_OWN),
            ("syscalls/unused_it_makes_no_system_call_of_its_own", ITS_OWN),
        ],
    };
    check.finds("a_freed_aiocb_is_asked", "heap-use-after-free");
    check.run(&Program::names());
}

const CANCELLED: &str =
    "the frames that a cancelled thread leaves stay marked, and its last calls stumble on the marks";
const FORKS: &str = "a fork beside other threads copies the sanitizer's allocator locked";

/// Seen to fail with `Relaxed` in place of each `Acquire` and `Release` of the engine's lock (`src/lock.rs`): 37 of the 54 cases
/// of `submit` and `pipe`. It is what found that waiters and aio_cancel look at members of requests that are not theirs
/// (now `pool::Open32`).
#[test]
fn data_races() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let flags = format!("{} --cfg plain_cells", sanitizing("thread"));
    let made = runtime("tsan").and_then(|archive| Ok((archive, common::product_for("thread", &flags)?)));
    let (archive, product) = match made {
        Ok(made) => made,
        Err(why) => return common::report(&format!("ThreadSanitizer: skipped: {why}")),
    };
    // Of the Rust toolchain: the C compiler's older one lacks functions that rustc calls.
    let archive = archive.display();
    let linking = format!("-rdynamic -Wl,--whole-archive {archive} -Wl,--no-whole-archive -lm -lrt");
    let log = log_directory("thread-log");
    // Suppressions go by the names of functions, which addr2line tells; it comes with every C compiler.
    let options = format!(
        "suppressions={}:external_symbolizer_path=/usr/bin/addr2line:die_after_fork=0:atexit_sleep_ms=0:\
         report_thread_leaks=0:report_signal_unsafe=0:log_path={}/found",
        beside_this("thread.supp"),
        log.display()
    );
    let check = Check {
        name: "ThreadSanitizer",
        checker: Checker { product, compiling: Vec::new(), linking: words(&linking) },
        wrapper: Vec::new(),
        environment: vec![("TSAN_OPTIONS".into(), options.into())],
        log: Some(log),
        slower: 3,
        except: &[
            ("exec_exit/", ITS_OWN),
            ("handlers/", HANDLERS),
            ("hung_filesystem/", "it is about time"),
            ("limits/", ITS_OWN),
            ("long_writes/", HANDLERS),
            ("own_descriptors/", ITS_OWN),
            ("scarce/", ITS_OWN),
            ("signal_queue/", ITS_OWN),
            ("lio_wait/a_handler_with_SA_RESTART_resumes_the_wait", HANDLERS),
            ("mixed_notify/every_notification_for_one_thread", HANDLERS),
            ("mixed_notify/every_notification_for_several_threads", HANDLERS),
            (
                "notify_thread/a_thread_limit_delays_the_callback",
                "as another user it cannot read the names of functions",
            ),
            ("overflow/waiting_request_costs_little_memory", ITS_OWN),
            ("suspend/a_handler_with_SA_RESTART_resumes_a_wait_without_time_out", HANDLERS),
            ("fork_storm/", ITS_OWN),
            ("sweep/", "it steps through every instruction, of which there are several times as many"),
            ("syscalls/", ITS_OWN),
            ("unused/", ITS_OWN),
        ],
    };
    check.finds("an_aiocb_is_overwritten_by_another_thread", "data race");
    check.run(&Program::names());
}

const HANDLERS: &str =
    "the sanitizer puts handlers off to a system call that it knows, and the library's it does not";

/// Programs of every kind of request, completion and end: all of them would take five minutes. Not those about descriptors
/// that change hands (`closed_fd`, `changing_fd`): valgrind knows no pidfd_open, without which the library is not quite sure of them.
const FOR_MEMCHECK: &[&str] = &[
    "cancel_basic",
    "cancellation",
    "error_return",
    "fork",
    "lio",
    "lio_wait",
    "notify",
    "notify_thread",
    "pipe",
    "submit",
    "suspend",
    "transfer",
    "vectored",
    "waitcomplete",
];

/// Seen to find the same late look at the aiocb (an invalid read), in a program that polls, and frees as `error_return`
/// does.
#[test]
fn memory_under_valgrind() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    if Command::new("valgrind").arg("--version").output().is_err() {
        return common::report("memcheck: skipped: no valgrind here");
    }
    let product = common::product_for("memcheck", "-Cstrip=none -Cdebuginfo=1 --cfg emulated_pgetevents")
        .unwrap_or_else(|said| panic!("the library does not build:\n{said}"));
    let wrapper = format!("valgrind -q --error-exitcode=99 --suppressions={}", beside_this("memcheck.supp"));
    let check = Check {
        name: "memcheck",
        checker: Checker { product, ..Checker::default() },
        wrapper: words(&wrapper).into_iter().map(Into::into).collect(),
        environment: Vec::new(),
        log: None,
        slower: 4,
        except: &[
            ("fork/a_handler_forks_on_top_of_aio_error", SIGNALS),
            ("transfer/bad_buffers_end_with_EFAULT", "its buffers are bad on purpose, and memcheck says so"),
            ("submit/the_last_realtime_signal_is_taken", "valgrind keeps that signal for itself"),
            ("notify/a_signal_tells_where_it_comes_from", SIGNALS),
            ("notify/signals_are_blocked_in_the_threads_of_the_implementation", SIGNALS),
            ("pipe/fifo_data_that_another_reader_takes_is_waited_for_anew", NO_PIDFD),
            ("pipe/fifo_a_hundred_waiting_writes_do_not_hold_up_a_file", NO_PIDFD),
            ("pipe/fifo_a_thousand_idle_reads_need_no_thread_each", NO_PIDFD),
        ],
    };
    check.finds("a_freed_aiocb_is_asked", "Invalid read");
    let names: Vec<String> = FOR_MEMCHECK.iter().map(|name| name.to_string()).collect();
    check.run(&names);
}

const SIGNALS: &str = "valgrind delivers signals itself, and says less of them";
const NO_PIDFD: &str = "valgrind knows no pidfd_open, so that each FIFO that waits keeps a helper";
