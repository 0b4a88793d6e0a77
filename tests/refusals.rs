//! System calls refused, one kind at a time: by seccomp filters that do not know them, by limits, by a kernel that is short of
//! memory. The C programs run on the preloaded library as ever; `c-tests/tools/refuse.c` refuses. Whatever is refused,
//! the results are right, and nothing hangs or is lost. Where kernel AIO itself is refused for good libc's own
//! implementation serves, so that there only what libc can do is asked for.
//!
//! Found, and put back once to see these tests fail: EAGAIN for an io_submit of no requests, taken for a refusal for good;
//! an epoll instance that could not be armed and was never tried again; no fstat where statx is refused.
//!
//! Where memory or threads are refused now and then a call may say EAGAIN; the programs then make it again (`AIO_TEST_PATIENT`,
//! see check.h), and what was refused must not have been done. What is refused for long is in `c-tests/limits.c` and `scarce.c`.
//!
//! Each test runs the programs that meet what is refused. `AIO_REFUSALS_WHOLE=all cargo test --test refusals -- --nocapture
//! --test-threads 1` runs every case of every program under each refusal instead, but for those in `UNFIT` and the tests'
//! own exceptions, and prints how many: a minute or two for each refusal. A rule (`AIO_REFUSALS_WHOLE=preadv2=38`) in the
//! place of "all" leaves out the refusals that do not begin with it.

mod common;

use common::process::Ending;
use common::program::{side_by_side, Case, Kind, Program, Surroundings, Way};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Programs of every kind of request, completion and order, none of which is slow.
const USUAL: &[&str] = &[
    "submit",
    "transfer",
    "suspend",
    "lio",
    "lio_wait",
    "notify",
    "mixed_notify",
    "fsync_basic",
    "pipe",
    "order",
];

/// `refuse`, built once, or why it cannot be used.
fn refuse() -> Result<&'static Path, String> {
    static TOOL: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let tool = TOOL.get_or_init(|| {
        let binary = common::work_directory().join("refuse");
        let source = common::source_root().join("c-tests/tools/refuse.c");
        let output = common::c_compiler(false).arg(source).arg("-o").arg(&binary).output();
        let output = output.expect("run the C compiler");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said = says(&binary, &["io_setup=38"]);
        (said == "1 1 1 1 1 1").then_some(binary).ok_or(format!("no seccomp filter here: {said}"))
    });
    tool.as_deref().map_err(Clone::clone)
}

/// Which of six calls got the error, of each kind.
fn says(tool: &Path, rules: &[&str]) -> String {
    let output = Command::new(tool).args(rules).output().expect("run refuse");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Programs that no refusal can be put to, and why not.
const UNFIT: &[(&str, &str)] = &[
    ("kernel_aio", "it tests the kernel, without any library"),
    ("three_ways", "it uses the kernel's calls itself"),
    ("syscalls", "it counts system calls"),
    (
        "never_blocks",
        "it counts how often a call sleeps, which one does until the tool has decided whether to refuse",
    ),
    ("hung_filesystem", "tests/slow_fuse.rs has to mount its file system"),
];

/// In a whole run: "all", or the rule that is wanted.
fn whole_run() -> Option<String> {
    std::env::var("AIO_REFUSALS_WHOLE").ok()
}

/// Runs the cases of these programs, or in a whole run of all, under a refusal, some side by side. `except`: cases, or in
/// a whole run programs, that cannot hold, and why not.
fn under(rules: &[&str], programs: &[&str], kinds: &[Kind], except: &[(&str, &str)]) {
    let whole = whole_run();
    if whole.as_ref().is_some_and(|wanted| wanted != "all" && wanted != rules[0]) {
        return;
    }
    let tool = match refuse() {
        Ok(tool) => tool,
        Err(reason) => return common::report(&format!("{rules:?}: skipped: {reason}")),
    };
    let mut wrapper = vec![tool.into()];
    wrapper.extend(rules.iter().map(Into::into));
    wrapper.push("--".into());
    let lean = rules.iter().any(|rule| rule.starts_with("memory=") || rule.starts_with("threads="));
    let environment = if lean { vec![("AIO_TEST_PATIENT".into(), "1".into())] } else { Vec::new() };
    let surroundings = Surroundings { wrapper, environment, timeout: None };
    let names = match whole {
        Some(_) => Program::names(),
        None => programs.iter().map(|name| (*name).to_owned()).collect(),
    };
    let excepted = |name: &str| except.iter().chain(UNFIT).any(|(other, _)| *other == name);
    let programs: Vec<_> = names
        .iter()
        .filter(|name| !excepted(name))
        .filter_map(|name| {
            Program::compile(name).map_err(|why| common::report(&format!("{name}: skipped: {why}"))).ok()
        })
        .collect();
    let cases: Vec<(&Program, &Case)> = programs
        .iter()
        .flat_map(|program| program.cases.iter().map(move |case| (program, case)))
        .filter(|(_, case)| kinds.contains(&case.kind) && !excepted(&case.name))
        .collect();
    let count = cases.len();
    assert!(count > 10, "{count} cases are left");
    let outcomes = side_by_side(cases.into_iter(), Way::Preloaded, |program| Surroundings {
        // What asks the supervisor takes its time.
        timeout: Some(program.timeout() * 2),
        ..surroundings.clone()
    });
    let skipped = outcomes.iter().filter(|(_, outcome)| matches!(outcome.ending, Ending::Exit(77))).count();
    common::report(&format!(
        "{rules:?}: {count} cases of {} programs, {skipped} of them skipped",
        programs.len()
    ));
    let failures: Vec<_> = outcomes
        .into_iter()
        .filter(|(_, outcome)| !matches!(outcome.ending, Ending::Exit(0 | 77)))
        .map(|(name, outcome)| format!("{name}: {}\n{}", outcome.ending, outcome.stderr))
        .collect();
    assert!(failures.is_empty(), "with {rules:?}:\n{}", failures.join("\n"));
}

const ALL: &[Kind] = &[Kind::Same, Kind::Defect, Kind::Differs];

/// What libc's implementation does right.
const ORDINARY: &[Kind] = &[Kind::Same];

/// What of a list was refused is submitted again later, or cannot be where the list has a notification.
const LISTS: &[(&str, &str)] = &[
    ("lio", "lists with notifications"),
    ("lio_wait", "its lists are on stacks that threads leave"),
    ("mixed_notify", "lists with notifications"),
    ("appends_of_a_list_keep_its_order", "what is submitted again comes later"),
    ("the_names_with_64_do_the_same", "lio_listio64 is not made again"),
    ("a_list_counts_once_at_its_end", "a list with a notification"),
    ("cancelled_elements_end_their_list", "a list with a notification"),
    ("vectored", "extensions are not made again"),
    ("position", "extensions are not made again"),
    ("mlock", "extensions are not made again"),
    ("waitcomplete", "extensions are not made again"),
    ("exec_exit", "it loads programs, which need memory"),
    ("loading", "it loads an object, which needs memory"),
    ("other_programs_are_run_with_requests_in_flight", "they need memory"),
    ("smallest_stacks", "it begins anew, and needs memory"),
    ("without_memory_from_the_start", "what is refused for long is not to be asked for again and again"),
];

/// Where the kernel tells nobody when a terminal or a FIFO is ready a helper waits in each transfer.
const WAITING: &[(&str, &str)] = &[
    ("fifo_a_thousand_idle_reads_need_no_thread_each", "each FIFO that waits keeps a helper"),
    ("fifo_a_hundred_waiting_writes_do_not_hold_up_a_file", "each FIFO that waits keeps a helper"),
    ("waiting_fifo_read_is_cancelled_without_taking_data", "a helper waits in the read"),
    ("waiting_terminal_read_is_cancelled_without_taking_data", "a helper waits in the read"),
    ("cancelling_one_direction_leaves_the_other", "a helper waits in the read"),
    ("thirty_idle_terminals_do_not_hold_up_a_file", "each terminal that waits keeps a helper"),
    ("seventy_idle_masters_hold_up_neither_a_file_nor_each_other", "each terminal that waits keeps a helper"),
    ("a_hundred_stuck_writes_do_not_hold_up_a_file", "each terminal that waits keeps a helper"),
    ("idle_fifos_read_is_always_cancelled", "a helper waits in the read"),
    ("idle_terminals_read_is_always_cancelled", "a helper waits in the read"),
    ("cancelled_and_closed_fifo_leaves_the_read_of_another_opening", "a helper waits in the read"),
];

#[test]
fn refusals_take_effect() {
    match refuse() {
        Err(reason) => common::report(&format!("refusals: skipped: {reason}")),
        Ok(tool) => {
            assert_eq!(says(tool, &["io_submit=11:2"]), "0 1 0 1 0 1");
            assert_eq!(says(tool, &["io_submit=11:3", "preadv2=38"]), "0 0 1 0 0 11 1 1 1 1 1");
            for rule in ["threads=11:2", "memory=12:2", "batches=14:2"] {
                assert_eq!(says(tool, &[rule]), "0 1 0 1 0 1", "{rule}");
            }
        }
    }
}

#[test]
fn kernel_aio_is_refused_for_good() {
    let except = &[
        ("without_memory_from_the_start", "libc's own hangs for some amounts of memory"),
        (
            "a_constructor_waits_for_a_thread_that_does_io_for_the_first_time",
            "libc's functions are found by dlsym, which waits for the constructor",
        ),
    ];
    for rule in ["io_setup=38", "io_setup=1", "io_submit=38", "io_pgetevents=38", "madvise=22"] {
        under(&[rule], USUAL, ORDINARY, except);
    }
    for rule in ["io_setup=11", "io_setup=12", "io_submit=1"] {
        under(&[rule], &["submit", "lio_wait"], ORDINARY, except);
    }
}

#[test]
fn io_submit_has_no_memory_now_and_then() {
    let more = ["notify_thread", "socket", "cancel", "vectored", "eventfd", "waitcomplete", "tty"];
    under(&["io_submit=11:2"], &[USUAL, &more].concat(), ALL, &[]);
    under(&["io_submit=11:3"], USUAL, ALL, &[]);
}

/// The kernel takes the first of a batch, and stops at the second.
#[test]
fn io_submit_takes_part_of_a_batch() {
    under(
        &["batches=14"],
        &["lio", "lio_wait", "reqprio", "vectored", "waitcomplete", "filesystems"],
        ALL,
        &[],
    );
    under(&["batches=14:2", "io_submit=11:3"], &["lio", "lio_wait"], ALL, &[]);
}

/// Not every second time: a start that maps twice would never come to its end.
#[test]
fn there_is_no_memory_now_and_then() {
    under(&["memory=12:3"], USUAL, ALL, LISTS);
    under(&["memory=12:5"], &["notify_thread", "socket", "cancel", "eventfd"], ALL, LISTS);
}

#[test]
fn there_is_no_thread_now_and_then() {
    let programs = ["submit", "suspend", "notify", "mixed_notify", "notify_thread", "pipe", "order"];
    let except = &[
        ("without_memory_from_the_start", "libc's own, which serves it at times, hangs"),
        ("a_list_counts_once_at_its_end", "a list with a notification"),
        ("lists_have_vectored_elements", "extensions are not made again"),
        ("asking_in_vain_leaves_no_context_behind", "libc's own serves, and has its threads refused"),
        ("contexts", "libc's own serves what has no context, and has its threads refused"),
    ];
    under(&["threads=11:2"], &programs, ALL, except);
    under(&["threads=11:3"], &["mixed_notify", "notify_thread"], ALL, except);
}

/// io_pgetevents takes them then, also without a wait.
#[test]
fn taking_completions_without_a_wait_is_refused() {
    under(&["io_getevents=1"], USUAL, ORDINARY, &[]);
}

/// A handler and nothing else gives EINTR in io_pgetevents, so every wait with a time-out may end with it.
#[test]
fn taking_completions_is_interrupted() {
    under(&["io_getevents=4:2"], USUAL, ALL, &[]);
    let except = [
        "NULL_entries_are_ignored",
        "a_time_out_gives_EAGAIN_and_not_too_soon",
        "a_completion_ends_a_wait_with_time_out",
        "a_time_out_beyond_all_clocks_waits",
        "an_ignored_signal_does_not_interrupt",
        "a_blocked_signal_does_not_interrupt",
        "waiters_that_time_out_strand_nobody",
        "handlers",
        "stress_waiters",
        "sweep",
        "waitcomplete",
    ]
    .map(|case| (case, "it waits with a time-out or has handlers, and EINTR is what one looks like"));
    under(&["io_pgetevents=4:3"], USUAL, ALL, &except);
}

#[test]
fn transfers_that_do_not_wait_are_unknown() {
    let except = [
        "copies_are_given_back",
        "what_is_cancelled_wakes_its_waiter",
        "what_waits_for_data_is_canceled",
        "waiters_wake_when_no_descriptor_is_free",
        "cleanup_handlers_cancel_their_request",
        "all_waiting_requests_of_a_descriptor_are_cancelled",
        "waiting_eventfd_read_is_cancelled_without_taking_data",
        "waiting_datagram_read_is_cancelled_without_taking_data",
        "waiting_socket_read_is_cancelled_without_taking_data",
    ]
    .map(|case| (case, "a helper waits in the read, which cannot be cancelled then"));
    let more = [
        ("asking_in_vain_leaves_no_context_behind", "a cached read needs more, too"),
        (
            "what_a_helper_finishes_is_counted_once",
            "such a read takes back what the kernel counted too early",
        ),
        ("stream_write_ends_when_the_reader_reads_no_more", "nobody can try without waiting"),
        ("stream_write_ends_when_no_more_is_to_be_written", "nobody can try without waiting"),
        ("packet_write_ends_when_the_reader_reads_no_more", "nobody can try without waiting"),
        ("packet_write_ends_when_no_more_is_to_be_written", "nobody can try without waiting"),
        (
            "a_write_that_cannot_be_notified_yet_is_done_once",
            "a helper writes then, and no thread is to be had",
        ),
    ];
    let except = [&except[..], &more].concat();
    for rule in ["preadv2=38", "preadv2=95", "pwritev2=38", "pwritev2=95"] {
        under(&[rule], &["submit", "transfer", "suspend", "lio_wait", "pipe", "order"], ALL, &except);
    }
}

#[test]
fn the_status_of_files_is_asked_in_the_old_way() {
    under(&["statx=38"], USUAL, ALL, &[]);
    under(&["statx=1"], &["submit", "transfer", "order"], ALL, &[]);
}

#[test]
fn read_ahead_is_unknown() {
    under(&["fadvise64=38"], &["submit", "transfer", "suspend", "order"], ALL, &[]);
}

/// What goes by the number where no copy is to be had.
const RACES: &[(&str, &str)] = &[
    ("socket_replaced_after_data_came_is_not_read", WINDOW),
    ("socket_replaced_after_shutdown_is_not_read", WINDOW),
    ("partly_cached_read_is_from_one_file_while_its_number_changes_hands", WINDOW),
    ("write_goes_to_one_socket_while_its_number_changes_hands", WINDOW),
    ("buffered_writes_never_reach_the_file_that_took_the_number", WINDOW),
    ("buffered_reads_never_see_the_file_that_took_the_number", WINDOW),
    ("direct_writes_never_reach_the_file_that_took_the_number", WINDOW),
    ("direct_reads_never_see_the_file_that_took_the_number", WINDOW),
];
const WINDOW: &str = "it meets the window that src/pins.rs tells of";

/// Helpers then share the program's descriptors, and cannot open FIFOs anew: each that waits keeps one.
#[test]
fn helpers_cannot_have_descriptors_of_their_own() {
    let except = &[WAITING, RACES].concat();
    for rule in ["close_range=38", "pidfd_open=38", "pidfd_getfd=1"] {
        under(&[rule], &["submit", "transfer", "pipe", "order"], ALL, except);
    }
}

/// Helpers have tables of their own, and find now and then that no copy is to be had.
#[test]
fn copies_of_descriptors_fail_now_and_then() {
    let fifos = [
        ("fifo_nonblocking_read_without_data_gives_EAGAIN", "where it cannot look it says so"),
        ("fifo_data_that_another_reader_takes_is_waited_for_anew", "nobody may wait in the read"),
    ];
    let except = &[WAITING, RACES, &fifos].concat();
    under(&["pidfd_getfd=24:3"], &["submit", "transfer", "order", "fsync_basic"], ALL, except);
}

#[test]
fn open_files_cannot_be_compared() {
    under(&["kcmp=1"], &["submit", "transfer", "pipe", "order"], ALL, &[]);
}

/// What the ring has no place for keeps a helper each then.
#[test]
fn no_epoll_instance_is_to_be_had() {
    let pipes = [
        ("pipe_a_thousand_idle_reads_need_no_thread_each", "each pipe beyond half the ring keeps a helper"),
        ("hundred_thousand_requests_of_every_kind", "each pipe beyond half the ring keeps a helper"),
        (
            "cleanup_handlers_cancel_their_request",
            "a pipe that the ring has no place for just then keeps a helper",
        ),
    ];
    let except = &[WAITING, &pipes].concat();
    under(&["epoll_create1=24"], &["submit", "suspend", "pipe"], ALL, except);
}

/// A sleeping leader is then woken by a descriptor of the program's that happens to be ready.
#[test]
fn no_eventfd_is_to_be_had() {
    under(&["eventfd2=24"], &["submit", "suspend", "lio_wait", "notify", "mixed_notify", "order"], ALL, &[]);
}

#[test]
fn the_queue_of_signals_is_full_now_and_then() {
    let rules = ["rt_sigqueueinfo=11:2", "rt_tgsigqueueinfo=11:2"];
    under(&rules, &["notify", "mixed_notify", "lio"], ALL, &[]);
}

/// `aio-posix check` says who refuses.
#[cfg(feature = "cli")]
#[test]
fn check_says_so() {
    let Ok(tool) = refuse() else { return common::report("check: skipped: no seccomp filter here") };
    for (rule, wanted) in [("io_setup=38", "io_setup"), ("io_pgetevents=1", "io_pgetevents")] {
        let output = Command::new(tool)
            .args([rule, "--", env!("CARGO_BIN_EXE_aio-posix"), "check"])
            .output()
            .expect("run aio-posix check");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains(wanted), "{rule}: {said}");
        assert!(!output.status.success(), "{rule}: {said}");
    }
}
