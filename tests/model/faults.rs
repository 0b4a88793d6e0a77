//! The checker itself: an honest observation of a fixed program has no complaint, and each fault put into it has one.
//! The program runs on libc's own implementation, which does these things right.

use std::sync::OnceLock;

use super::check::check;
use super::log::{problems, Kind, Record};
use super::plan::{initial, Plan, INITIAL_SIZE};
use super::program::What;
use super::run::{run, Library, Observation};
use super::session::PATIENCE;
use crate::common;
use crate::common::process::Ending;

const PROGRAM: &str = "
restart true
cancelatend false
object buffered
object append
object stream
object packets
thread
submit write slot 0 block 0 blocks 1 skew 0 priority 0 notify signal
suspend -1 0
submit read slot 0 block 0 blocks 2 skew 0 priority 0 notify thread
suspend -1 0
submit write slot 2 block 0 blocks 1 skew 0 priority 0 notify none
submit write slot 2 block 0 blocks 1 skew 0 priority 0 notify none
suspend -1 0
submit read slot 2 block 7 blocks 2 skew 0 priority 0 notify none
suspend -1 0
submit read slot 5 block 0 blocks 0 skew 200 priority 0 notify none
suspend 0 0
submit read slot 5 block 0 blocks 0 skew 200 priority 0 notify none
submit write slot 4 block 0 blocks 0 skew 200 priority 0 notify none
submit write slot 4 block 0 blocks 0 skew 200 priority 0 notify none
suspend -1 2
suspend -1 3
submit write slot 6 block 0 blocks 0 skew 40 priority 0 notify none
submit write slot 6 block 0 blocks 0 skew 40 priority 0 notify none
submit read slot 7 block 0 blocks 0 skew 100 priority 0 notify none
submit read slot 7 block 0 blocks 0 skew 100 priority 0 notify none
suspend -1 0
submit read slot 5 block 0 blocks 0 skew 200 priority 0 notify none
submit read slot 5 block 0 blocks 0 skew 200 priority 0 notify signal
cancel 0
submit write slot 1 block 4 blocks 1 skew 0 priority 0 notify none
submit sync slot 1 block 0 blocks 0 skew 0 priority 0 notify none
suspend -1 0
list wait notify none
  element write slot 0 block 9 blocks 1 skew 0 priority 0 notify none
  element read slot 0 block 2 blocks 1 skew 0 priority 0 notify none
list nowait notify signal
  element write slot 0 block 10 blocks 1 skew 0 priority 0 notify none
";

struct Honest {
    plan: Plan,
    seen: Observation,
}

fn honest() -> &'static Honest {
    static HONEST: OnceLock<Honest> = OnceLock::new();
    HONEST.get_or_init(|| {
        let program = PROGRAM.parse().expect("the program above");
        let plan = Plan::new(&program);
        let directory = common::scratch_directory();
        let mut seen =
            run(&program, &plan, &Library::Libc, directory.path(), PATIENCE).expect("run the program");
        // Room between the ticks, for events that did not happen.
        for record in &mut seen.records {
            record.before *= 100;
            record.after *= 100;
        }
        Honest { plan, seen }
    })
}

/// Puts a fault into the honest observation; one of the complaints must speak of it.
fn finds(complaint: &str, fault: impl FnOnce(&Plan, &mut Observation)) {
    let Honest { plan, seen } = honest();
    let mut seen = seen.clone();
    fault(plan, &mut seen);
    let complaints = check(plan, &seen, true);
    assert!(
        complaints.iter().any(|found| found.contains(complaint)),
        "no \"{complaint}\" in {complaints:#?}"
    );
}

/// The requests of one kind through one slot, in order.
fn requests(plan: &Plan, what: What, slot: u32) -> Vec<u32> {
    let here = |id: &u32| {
        let request = plan.request(*id);
        request.what == what && request.target == super::plan::Target::Slot(slot)
    };
    (0..plan.first_spare).filter(here).collect()
}

fn records_of(seen: &mut Observation, kind: Kind, subject: u32) -> impl Iterator<Item = &mut Record> {
    seen.records.iter_mut().filter(move |record| record.kind == kind && record.subject == subject)
}

fn first(seen: &mut Observation, kind: Kind) -> &mut Record {
    seen.records.iter_mut().find(|record| record.kind == kind).expect("the program does that")
}

/// Moves bytes out of a buffer into another one, and back.
fn swap_buffers(seen: &mut Observation, one: u32, other: u32, length: usize) {
    let mut taken = seen.buffers[one as usize][..length].to_vec();
    seen.buffers[other as usize][..length].swap_with_slice(&mut taken);
    seen.buffers[one as usize][..length].copy_from_slice(&taken);
}

#[test]
fn checker_accepts_what_happened() {
    let Honest { plan, seen } = honest();
    assert_eq!(check(plan, seen, true), Vec::<String>::new());
    // The faults below need these to have happened.
    let cancelled = seen.records.iter().any(|record| record.error == libc::ECANCELED);
    let timed_out =
        seen.records.iter().any(|record| record.kind == Kind::Suspend && record.error == libc::EAGAIN);
    assert!(cancelled && timed_out, "cancelled: {cancelled}, timed out: {timed_out}");
}

#[test]
fn checker_finds_a_dropped_completion() {
    finds("never completes", |plan, seen| {
        let id = requests(plan, What::Read, 0)[0];
        seen.records
            .retain(|record| !(matches!(record.kind, Kind::Status | Kind::Notify) && record.subject == id));
    });
}

#[test]
fn checker_finds_a_request_that_ends_twice() {
    finds("ended twice", |plan, seen| {
        let id = requests(plan, What::Write, 0)[0];
        let last = records_of(seen, Kind::Status, id).last().expect("it was looked at");
        last.value -= 1;
    });
}

#[test]
fn checker_finds_a_status_that_goes_back() {
    finds("in progress again", |plan, seen| {
        let id = requests(plan, What::Write, 0)[0];
        let last = *records_of(seen, Kind::Status, id).last().expect("it was looked at");
        let (before, after) = (last.after + 10, last.after + 20);
        seen.records.push(Record { before, after, error: libc::EINPROGRESS, value: 0, ..last });
    });
}

#[test]
fn checker_finds_a_short_write() {
    finds("no legal order explains it", |plan, seen| {
        let id = requests(plan, What::Write, 0)[0];
        records_of(seen, Kind::Status, id).for_each(|record| record.value -= 1);
    });
}

#[test]
fn checker_finds_stale_data() {
    finds("is from before the program", |plan, seen| {
        let id = requests(plan, What::Read, 0)[0];
        for at in 0..4096 {
            seen.buffers[id as usize][at] = initial(0, at);
        }
    });
}

#[test]
fn checker_finds_one_wrong_byte_of_a_read() {
    finds("is from somewhere else", |plan, seen| {
        let id = requests(plan, What::Read, 0)[0];
        seen.buffers[id as usize][5000] ^= 1;
    });
}

#[test]
fn checker_finds_one_wrong_byte_of_a_file() {
    finds("file 0 afterwards", |_, seen| seen.files[0][100] ^= 1);
}

#[test]
fn checker_finds_a_file_that_lost_its_end() {
    finds("file 0 ends with", |_, seen| {
        let length = seen.files[0].len();
        seen.files[0].truncate(length - 1);
    });
}

#[test]
fn checker_finds_appends_out_of_order() {
    finds("append file 1: no legal order", |_, seen| {
        seen.files[1][INITIAL_SIZE..].rotate_left(4096);
    });
}

#[test]
fn checker_finds_an_append_that_is_there_twice() {
    finds("append file 1: no legal order", |_, seen| {
        let again = seen.files[1][INITIAL_SIZE..INITIAL_SIZE + 4096].to_vec();
        seen.files[1].extend(again);
    });
}

#[test]
fn checker_finds_swapped_reads_of_a_stream() {
    finds("from end 4 to end 5: no legal order", |plan, seen| {
        let reads = requests(plan, What::Read, 5);
        swap_buffers(seen, reads[0], reads[1], 200);
    });
}

#[test]
fn checker_finds_swapped_messages() {
    finds("from end 6 to end 7: no legal order", |plan, seen| {
        let reads = requests(plan, What::Read, 7);
        swap_buffers(seen, reads[0], reads[1], 40);
    });
}

#[test]
fn checker_finds_lost_bytes_of_a_stream() {
    finds("from end 4 to end 5: no legal order", |plan, seen| {
        let id = requests(plan, What::Read, 5)[0];
        records_of(seen, Kind::Status, id)
            .filter(|record| record.error == 0)
            .for_each(|record| record.value = 199);
    });
}

#[test]
fn checker_finds_a_cancelled_request_that_nobody_cancelled() {
    finds("no legal order explains it", |plan, seen| {
        let id = requests(plan, What::Read, 0)[0];
        for record in seen.records.iter_mut().filter(|record| record.subject == id) {
            if matches!(record.kind, Kind::Status | Kind::Notify) && record.error != libc::EINPROGRESS {
                (record.error, record.value) = (libc::ECANCELED, -1);
            }
        }
    });
}

#[test]
fn checker_finds_data_in_a_cancelled_read() {
    finds("of its buffer was touched", |plan, seen| {
        let id = *requests(plan, What::Read, 5).last().expect("it reads");
        seen.buffers[id as usize][0] = 1;
    });
}

#[test]
fn checker_finds_a_write_past_a_buffer() {
    finds("of its buffer was touched", |plan, seen| {
        let id = requests(plan, What::Read, 0)[0];
        let length = plan.request(id).length;
        seen.buffers[id as usize][length] = 0;
    });
}

#[test]
fn checker_finds_cancel_answers_that_are_not_so() {
    for answer in [libc::AIO_NOTCANCELED, libc::AIO_ALLDONE] {
        finds("no legal order explains it", |_, seen| first(seen, Kind::Cancel).value = i64::from(answer));
    }
    finds("errno 22", |_, seen| {
        let cancel = first(seen, Kind::Cancel);
        (cancel.value, cancel.error) = (-1, libc::EINVAL);
    });
}

#[test]
fn checker_finds_a_double_notification() {
    for kind in [What::Write, What::List] {
        finds(": 2 notifications", |plan, seen| {
            let is_it =
                |record: &&Record| record.kind == Kind::Notify && plan.request(record.subject).what == kind;
            let again = *seen.records.iter().find(is_it).expect("it notifies");
            seen.records.push(again);
        });
    }
}

#[test]
fn checker_finds_a_lost_notification() {
    for kind in [What::Write, What::Read, What::List] {
        finds(": 0 notifications", |plan, seen| {
            seen.records
                .retain(|record| record.kind != Kind::Notify || plan.request(record.subject).what != kind);
        });
    }
}

#[test]
fn checker_finds_a_notification_before_the_status() {
    finds("notified before its status", |plan, seen| {
        let id = requests(plan, What::Write, 0)[0];
        let submitted = records_of(seen, Kind::Submit, id).next().expect("it was submitted").after;
        let notice = records_of(seen, Kind::Notify, id).next().expect("it notifies");
        (notice.before, notice.after, notice.error) = (submitted + 1, submitted + 2, libc::EINPROGRESS);
    });
    finds("1 elements in progress", |plan, seen| {
        let of_list = |record: &&mut Record| {
            record.kind == Kind::Notify && plan.request(record.subject).what == What::List
        };
        seen.records.iter_mut().find(of_list).expect("the list notifies").value = 1;
    });
}

#[test]
fn checker_finds_an_fsync_before_its_write() {
    finds("completed while", |plan, seen| {
        let (sync, write) = (requests(plan, What::Sync, 1)[0], requests(plan, What::Write, 1)[0]);
        let submitted = records_of(seen, Kind::Submit, sync).next().expect("it was submitted").after;
        let done = |record: &&mut Record| record.error == 0;
        let early = *records_of(seen, Kind::Status, sync).find(done).expect("it completes");
        let pending = Record { subject: write, error: libc::EINPROGRESS, value: 0, ..early };
        seen.records.push(Record { before: submitted + 1, after: submitted + 2, ..early });
        seen.records.push(Record { before: submitted + 3, after: submitted + 4, group: 0, ..pending });
    });
}

#[test]
fn checker_finds_suspend_results_that_are_not_so() {
    finds("nothing is complete", |_, seen| {
        let timed_out = |record: &&mut Record| record.kind == Kind::Suspend && record.error == libc::EAGAIN;
        let suspend = seen.records.iter_mut().find(timed_out).expect("one times out");
        (suspend.value, suspend.error) = (0, 0);
    });
    finds("EAGAIN without a time-out", |_, seen| {
        let suspend = first(seen, Kind::Suspend);
        (suspend.value, suspend.error) = (-1, libc::EAGAIN);
    });
    finds("timed out too early", |_, seen| {
        let timed_out = |record: &&mut Record| record.kind == Kind::Suspend && record.error == libc::EAGAIN;
        let suspend = seen.records.iter_mut().find(timed_out).expect("one times out");
        (suspend.extra, suspend.subject) = (5, 4999);
    });
    finds("errno 22", |_, seen| {
        let suspend = first(seen, Kind::Suspend);
        (suspend.value, suspend.error) = (-1, libc::EINVAL);
    });
}

#[test]
fn checker_finds_list_results_that_are_not_so() {
    finds("no element failed", |_, seen| {
        let list = first(seen, Kind::ListReturn);
        (list.value, list.error) = (-1, libc::EIO);
    });
}

#[test]
fn checker_finds_refused_calls() {
    finds("the call failed with errno 11", |plan, seen| {
        let id = requests(plan, What::Read, 0)[0];
        let others =
            |record: &Record| !(record.subject == id && matches!(record.kind, Kind::Status | Kind::Notify));
        seen.records.retain(others);
        let submit = records_of(seen, Kind::Submit, id).next().expect("it was submitted");
        (submit.value, submit.error) = (-1, libc::EAGAIN);
    });
}

#[test]
fn checker_finds_what_a_forked_child_should_not_see() {
    let view = |plan: &Plan, seen: &mut Observation, error| {
        let id = requests(plan, What::Write, 0)[0];
        let done = *records_of(seen, Kind::Status, id).last().expect("it completes");
        let (before, after) = (done.after + 10, done.after + 20);
        let fork = Record { kind: Kind::Fork, group: 9999, before, after, ..done };
        let seen_there = Record { kind: Kind::View, process: 9999, error, ..fork };
        seen.records.extend([fork, seen_there]);
    };
    finds("a forked child sees error 125", |plan, seen| view(plan, seen, libc::ECANCELED));
    finds("a forked child sees error 115", |plan, seen| view(plan, seen, libc::EINPROGRESS));
}

#[test]
fn checker_finds_hangs_crashes_and_problems() {
    finds("did not end in time", |_, seen| seen.ending = Ending::TimedOut);
    finds("killed by signal 11", |_, seen| seen.ending = Ending::Signal(11));
    finds("the child", |_, seen| seen.records.retain(|record| record.kind != Kind::End));
    finds("an aiocb changed", |_, seen| {
        let any = seen.records[0];
        seen.records.push(Record { kind: Kind::Problem, value: problems::TOUCHED_AIOCB, ..any });
    });
}

#[test]
fn programs_survive_their_text_form() {
    let program: super::program::Program = PROGRAM.parse().expect("the program above");
    assert_eq!(program.to_string().parse(), Ok(program));
}
