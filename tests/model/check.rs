//! The reference model, as rules over what was seen: whatever some legal order of events explains is right.
//! Each rule says what it found in words; no complaint means that the program ran correctly.

use std::collections::{BTreeSet, HashMap};

use crate::common::process::Ending;

use super::files;
use super::history::{History, Life};
use super::log::{problems, Kind, Record, NOTHING};
use super::plan::{is_file, is_read, is_sync, is_write, Plan, Request, CANARY, UNTOUCHED};
use super::program::{Notify, Object, What};
use super::run::Observation;
use super::streams;

const HIGHEST_PRIORITY: i32 = 20;

pub fn check(plan: &Plan, seen: &Observation, libc: bool) -> Vec<String> {
    let mut complaints = Vec::new();
    ending(seen, &mut complaints);
    let history = History::new(plan, seen, libc, &mut complaints);
    if !complaints.is_empty() {
        // What follows takes for granted that every request ended, once.
        return complaints;
    }
    for (request, life) in history.complete() {
        if let Err(why) = result(&history, request, life) {
            complaints.push(format!(
                "{}: error {} value {}: {why}",
                history.name(request.id),
                life.error,
                life.value
            ));
        }
        buffer(&history, request, life, &mut complaints);
    }
    refusals(&history, &mut complaints);
    cancels(&history, &mut complaints);
    suspends(&history, &mut complaints);
    lists(&history, &mut complaints);
    notifications(&history, &mut complaints);
    served(&history, &mut complaints);
    barriers(&history, &mut complaints);
    forks(&history, &mut complaints);
    files::check(&history, &mut complaints);
    streams::check(&history, &mut complaints);
    complaints
}

fn ending(seen: &Observation, complaints: &mut Vec<String>) {
    for record in seen.records.iter().filter(|record| record.kind == Kind::Problem) {
        let what = problems::describe(record.value);
        let subject =
            if record.subject == NOTHING { String::new() } else { format!(" ({})", record.subject) };
        complaints.push(format!("{what}{subject}, process {}, {}", record.process, record.extra));
    }
    let finished = seen.records.iter().any(|record| record.kind == Kind::End && record.process == 0);
    if seen.ending != Ending::Exit(0) || !finished {
        complaints.push(format!("the child: {}\n{}", seen.ending, seen.stderr));
    }
}

/// Whether error and value are something that the request may end with.
fn result(history: &History, request: &Request, life: &Life) -> Result<(), String> {
    let ends = history.ends(request, life);
    if life.error != 0 && life.value != -1 {
        return Err("a failed request returns -1".to_string());
    }
    let bad = request.priority > HIGHEST_PRIORITY || request.what == What::BadOpcode;
    let explained = match life.error {
        libc::ECANCELED => {
            // glibc queues what has no such opcode.
            (!bad || (history.libc && request.what == What::BadOpcode))
                && (history.cancelled(request, life)
                    || history.rebound(request, life.submit.before, life.done))
        }
        libc::EINVAL if bad => true,
        _ if bad => false,
        0 => ends.iter().flatten().any(|end| transferred(history, request, life, *end)),
        libc::EBADF => {
            ends.iter().any(|end| end.is_none_or(|end| !permitted(history.plan, request.what, end)))
        }
        libc::EINVAL => ends.iter().flatten().any(|end| {
            let file = is_file(history.plan.object_of(*end));
            if is_sync(request.what) {
                !file
            } else {
                request.offset < 0
            }
        }),
        // The number led to something that cannot seek while the call looked at it.
        libc::ESPIPE => ends.len() > 1,
        libc::EPIPE => {
            ends.iter().flatten().any(|end| is_write(request.what) && history.shut(*end, life.done))
        }
        _ => false,
    };
    if explained || (is_sync(request.what) && inherits(history, request, life)) {
        return Ok(());
    }
    Err(format!("no legal order explains it; the descriptor led to {ends:?}"))
}

fn permitted(plan: &Plan, what: What, end: u32) -> bool {
    (!is_read(what) || plan.reads_from(end)) && (!is_write(what) || plan.writes_to(end))
}

/// Whether a successful request may have moved this many bytes at this end.
fn transferred(history: &History, request: &Request, life: &Life, end: u32) -> bool {
    let plan = history.plan;
    let Ok(moved) = usize::try_from(life.value) else {
        return false;
    };
    let file = is_file(plan.object_of(end));
    if is_sync(request.what) {
        return file && moved == 0;
    }
    if !permitted(plan, request.what, end) || moved > request.length || (file && request.offset < 0) {
        return false;
    }
    if is_read(request.what) {
        let at_end = request.length == 0 || history.shut(Plan::other_end(end), life.done);
        return if file { files::length_is_right(history, request, life, end) } else { moved > 0 || at_end };
    }
    // A write is whole, unless it had to stop in the middle.
    moved == request.length
        || life.submit.kind == Kind::Transfer
        || (plan.object_of(end) == Object::Stream
            && moved > 0
            && (history.shut(end, life.done) || history.rebound(request, life.submit.before, life.done)))
        || (plan.object_of(end) == Object::Pipe
            && moved > 0
            && history.rebound(request, life.submit.before, life.done))
}

/// An fsync fails with the error of a write that it covers.
fn inherits(history: &History, request: &Request, life: &Life) -> bool {
    covered(history, request, life, true)
        .any(|(_, write)| write.error == life.error && write.done > life.submit.before)
}

/// The writes that an fsync waits for: queued before it on the same file.
fn covered<'a>(
    history: &'a History,
    sync: &'a Request,
    life: &'a Life,
    perhaps: bool,
) -> impl Iterator<Item = (&'a Request, &'a Life)> {
    let file = move |request: &Request, life: &Life| {
        let ends = history.ends(request, life);
        let objects: BTreeSet<_> = ends.iter().map(|end| end.map(|end| end / 2)).collect();
        if perhaps || objects.len() == 1 {
            objects
        } else {
            BTreeSet::new()
        }
    };
    let mine = file(sync, life);
    history.complete().filter(move |(request, write)| {
        request.what == What::Write
            && write.submit.process == life.submit.process
            && if perhaps {
                write.submit.before < life.submit.after
            } else {
                write.submit.after < life.submit.before
            }
            // glibc orders by descriptor and priority alone.
            && (!history.libc || (request.target == sync.target && request.priority == sync.priority))
            && file(request, write).intersection(&mine).any(Option::is_some)
    })
}

/// What was not read is not touched: after the end, and after a request that took nothing.
fn buffer(history: &History, request: &Request, life: &Life, complaints: &mut Vec<String>) {
    let bytes = &history.seen.buffers[request.id as usize];
    if bytes.is_empty() {
        return;
    }
    let moved = usize::try_from(life.value).unwrap_or(0).min(request.length);
    // The kernel may clear the rest of a block after the end of a file, and copy from one before it fails.
    let streams_only =
        history.ends(request, life).iter().flatten().all(|end| !is_file(history.plan.object_of(*end)));
    let from = if is_read(request.what) && streams_only { moved } else { request.length };
    let rest = &bytes[from..request.length + CANARY];
    if let Some(position) = rest.iter().position(|byte| *byte != UNTOUCHED) {
        let position = from + position;
        complaints.push(format!("{}: byte {position} of its buffer was touched", history.name(request.id)));
    }
    if is_write(request.what) {
        let whole = (0..request.length).all(|at| bytes[at] == super::plan::content(request.id, at));
        if !whole {
            complaints.push(format!("{}: what it writes was changed", history.name(request.id)));
        }
    }
}

/// Calls that returned -1.
fn refusals(history: &History, complaints: &mut Vec<String>) {
    for record in &history.refused {
        let request = history.plan.request(record.subject);
        let ends = match request.target {
            super::plan::Target::Slot(slot) => history.slot_ends(slot, record.before, record.after),
            super::plan::Target::End(end) => vec![Some(end)],
        };
        let legal = match record.error {
            libc::EINVAL if is_sync(request.what) => {
                ends.iter().flatten().any(|end| !is_file(history.plan.object_of(*end)))
            }
            libc::EINVAL => request.priority > HIGHEST_PRIORITY,
            libc::EBADF => is_sync(request.what) && ends.contains(&None),
            _ => false,
        };
        if !legal {
            complaints.push(format!(
                "{}: the call failed with errno {}",
                history.name(request.id),
                record.error
            ));
        }
    }
    for (request, life) in history.complete() {
        if request.list.is_none() && request.priority > HIGHEST_PRIORITY && life.submit.kind == Kind::Submit {
            complaints.push(format!("{}: a wrong priority was taken", history.name(request.id)));
        }
    }
}

fn cancels(history: &History, complaints: &mut Vec<String>) {
    for cancel in &history.cancels {
        let slot = cancel.extra as u32;
        let ends = history.slot_ends(slot, cancel.before, cancel.after);
        let empty = Vec::new();
        let after = history.groups.get(&cancel.group).unwrap_or(&empty);
        let whom =
            if cancel.subject == NOTHING { format!("slot {slot}") } else { history.name(cancel.subject) };
        let mut complain = |what: String| complaints.push(format!("aio_cancel of {whom}: {what}"));
        if cancel.value < 0 {
            if !(cancel.error == libc::EBADF && ends.contains(&None)) {
                complain(format!("errno {}", cancel.error));
            }
            continue;
        }
        if ends.iter().all(Option::is_none) {
            complain(format!("{} on a closed descriptor", cancel.value));
        }
        let answer = cancel.value as i32;
        let pending = |record: &&Record| record.error == libc::EINPROGRESS;
        if cancel.subject == NOTHING {
            // What was submitted through the slot before it led elsewhere may or may not count.
            let counts = |record: &&Record| {
                let life = history.lives[record.subject as usize].as_ref();
                let from = life.map_or(0, |life| life.submit.before);
                !history.rebound(history.plan.request(record.subject), from, cancel.after)
            };
            // Only the known ones that were submitted before the call.
            if answer != libc::AIO_NOTCANCELED {
                if let Some(record) = after.iter().filter(pending).find(counts) {
                    complain(format!("said {answer}, but left request {} in progress", record.subject));
                }
            }
            continue;
        }
        let Some(life) = &history.lives[cancel.subject as usize] else {
            continue;
        };
        let complete_before = life.done < cancel.before;
        match answer {
            libc::AIO_CANCELED if life.error != libc::ECANCELED => {
                complain("said cancelled, but it is not".into())
            }
            libc::AIO_CANCELED | libc::AIO_ALLDONE if after.iter().any(|record| pending(&record)) => {
                complain(format!("said {answer}, but left it in progress"));
            }
            libc::AIO_CANCELED | libc::AIO_NOTCANCELED if complete_before => {
                complain(format!("said {answer}, but it was complete before"));
            }
            libc::AIO_NOTCANCELED if !history.libc && waits_for_data(history, cancel) => {
                complain("said not cancelled, but it was waiting for data".into());
            }
            _ => {}
        }
    }
}

/// Whether a read on a pipe or socket surely had nothing to read yet when aio_cancel was called.
fn waits_for_data(history: &History, cancel: &Record) -> bool {
    let request = history.plan.request(cancel.subject);
    let Some(life) = &history.lives[cancel.subject as usize] else {
        return false;
    };
    if request.what != What::Read || request.length == 0 || history.rebound(request, 0, cancel.after) {
        return false;
    }
    history.ends(request, life).iter().all(|end| {
        let Some(end) = *end else { return false };
        let source = Plan::other_end(end);
        let may_bring = |(writer, write): (&Request, &Life)| {
            is_write(writer.what)
                && write.submit.before < cancel.after
                && history.ends(writer, write).contains(&Some(source))
        };
        !is_file(history.plan.object_of(end))
            && history.plan.reads_from(end)
            && !history.shut(source, cancel.after)
            && !history.complete().any(may_bring)
    })
}

/// Whether a waiting call without time-out may have failed with EINTR.
fn may_be_interrupted(plan: &Plan, timed: bool) -> bool {
    plan.has_signals() && (timed || !plan.restart)
}

fn suspends(history: &History, complaints: &mut Vec<String>) {
    for record in history.seen.records.iter().filter(|record| record.kind == Kind::Suspend) {
        let empty = Vec::new();
        let targets = history.groups.get(&record.group).unwrap_or(&empty);
        let ids: Vec<u32> = targets.iter().map(|target| target.subject).collect();
        let complete_before = ids
            .iter()
            .any(|id| history.lives[*id as usize].as_ref().is_some_and(|life| life.done < record.before));
        let timeout = record.extra;
        let mut complain =
            |what: &str| complaints.push(format!("aio_suspend on {ids:?}, time-out {timeout} ms: {what}"));
        match (record.value, record.error) {
            (0, _) => {
                if !ids.is_empty() && targets.iter().all(|target| target.error == libc::EINPROGRESS) {
                    complain("returned 0, but nothing is complete");
                }
            }
            _ if ids.is_empty() => complain("failed with nothing to wait for"),
            _ if complete_before => complain("failed, though a request was complete before"),
            (_, libc::EAGAIN) if timeout < 0 => complain("EAGAIN without a time-out"),
            (_, libc::EAGAIN) if i64::from(record.subject) < i64::from(timeout) * 1000 => {
                complain("timed out too early");
            }
            (_, libc::EAGAIN) => {}
            (_, libc::EINTR) if may_be_interrupted(history.plan, timeout >= 0) => {}
            (_, error) => complain(&format!("errno {error}")),
        }
    }
}

fn lists(history: &History, complaints: &mut Vec<String>) {
    for record in history.seen.records.iter().filter(|record| record.kind == Kind::ListReturn) {
        let list = record.subject;
        let elements: Vec<&Life> = history
            .complete()
            .filter(|(request, _)| request.list == Some(list))
            .map(|(_, life)| life)
            .collect();
        let refused = history.plan.requests.iter().any(|request| {
            request.list == Some(list)
                && request.what != What::Nop
                && (request.priority > HIGHEST_PRIORITY || request.what == What::BadOpcode)
        });
        let mut complain = |what: &str| {
            complaints
                .push(format!("lio_listio {list}: result {} errno {}: {what}", record.value, record.error));
        };
        if history.lists.get(&list) != Some(&true) {
            // POSIX leaves open how LIO_NOWAIT reports an element that is refused.
            let refusal = matches!(record.error, libc::EIO | libc::EINVAL);
            let failed = record.value == -1 && refusal && refused;
            if record.value != 0 && !failed {
                complain("LIO_NOWAIT failed");
            }
            continue;
        }
        let empty = Vec::new();
        let after = history.groups.get(&record.group).unwrap_or(&empty);
        let pending = after.iter().any(|element| element.error == libc::EINPROGRESS);
        let failed = elements.iter().any(|life| life.error != 0);
        match (record.value, record.error) {
            (0, _) if failed => complain("an element failed"),
            (0, _) | (-1, libc::EIO) if pending => complain("an element is in progress"),
            (0, _) => {}
            (-1, libc::EIO) if !failed => complain("no element failed"),
            (-1, libc::EIO) => {}
            // glibc, when nothing was left to wait for.
            (-1, libc::EINVAL) if history.libc && refused => {}
            (-1, libc::EINTR) if may_be_interrupted(history.plan, false) => {}
            _ => complain("no such result"),
        }
    }
}

fn notifications(history: &History, complaints: &mut Vec<String>) {
    let mut counts: HashMap<(u32, u32), usize> = HashMap::new();
    // What the kernel counts of a direct request that it would not start at once is taken back; who reads the eventfd in
    // just that moment keeps it (aio_posix(7)).
    let may_count_twice =
        |id: u32| history.plan.aligned() && history.plan.request(id).notify == Notify::Event;
    for record in history.seen.records.iter().filter(|record| record.kind == Kind::Notify) {
        *counts.entry((record.subject, record.process)).or_default() += 1;
        if may_count_twice(record.subject) {
            continue;
        }
        if record.error == libc::EINPROGRESS || record.value != 0 {
            let name = history.name(record.subject);
            let pending = record.value;
            complaints
                .push(format!("{name}: notified before its status was set ({pending} elements in progress)"));
        }
    }
    let submitted = history.complete().map(|(request, life)| (request, life.submit.process));
    let returned = history.seen.records.iter().filter(|record| record.kind == Kind::ListReturn);
    let returned = returned.map(|record| (history.plan.request(record.subject), record.process));
    for (request, process) in submitted.chain(returned) {
        let expected = usize::from(request.notify != Notify::None);
        let count = counts.remove(&(request.id, process)).unwrap_or(0);
        if count != expected && !(count == 2 && may_count_twice(request.id)) {
            complaints.push(format!("{}: {count} notifications", history.name(request.id)));
        }
    }
    for ((id, process), count) in counts {
        complaints.push(format!("{}: {count} stray notifications in process {process}", history.name(id)));
    }
}

/// aio_waitcomplete gives each request once, and none whose result was surely returned before. Seen to complain of an
/// aio_return that does not strike out what it gave.
fn served(history: &History, complaints: &mut Vec<String>) {
    let of = |kind| history.seen.records.iter().filter(move |record| record.kind == kind);
    let mut seen = BTreeSet::new();
    for next in of(Kind::Next) {
        let Some(Some(life)) = history.lives.get(next.subject as usize) else {
            complaints.push(format!("aio_waitcomplete gives number {}, which is no request", next.subject));
            continue;
        };
        let name = history.name(next.subject);
        if !seen.insert((next.subject, next.process)) || life.submit.process != next.process {
            complaints.push(format!("{name}: aio_waitcomplete gives it again, or in another process"));
        }
        // The record of what it gave comes after it.
        let returned = |status: &&Record| {
            status.subject == next.subject && status.error != libc::EINPROGRESS && status.after < next.before
        };
        if of(Kind::Status).any(|status| returned(&status)) {
            complaints.push(format!("{name}: aio_waitcomplete gives it, though it was returned before"));
        }
    }
}

/// An fsync that succeeded came after the writes before it.
fn barriers(history: &History, complaints: &mut Vec<String>) {
    for (request, life) in history.complete().filter(|(request, _)| is_sync(request.what)) {
        if life.error != 0 {
            continue;
        }
        for (write, other) in covered(history, request, life, false) {
            if other.last_pending > life.done {
                let (sync, write) = (history.name(request.id), history.name(write.id));
                complaints.push(format!("{sync} completed while {write} was in progress"));
            }
        }
    }
}

/// What forked children saw of their parent's requests, and how they ended.
fn forks(history: &History, complaints: &mut Vec<String>) {
    let records = &history.seen.records;
    let forks: HashMap<u32, &Record> =
        records.iter().filter(|record| record.kind == Kind::Fork).map(|fork| (fork.group, fork)).collect();
    for record in records {
        let Some(fork) = forks.get(&record.group) else {
            continue;
        };
        if record.kind == Kind::Reaped && record.value != 0 {
            complaints
                .push(format!("forked child {} ended with wait status {:#x}", record.group, record.value));
        }
        if record.kind != Kind::View {
            continue;
        }
        let Some(life) = &history.lives[record.subject as usize] else {
            continue;
        };
        let inherited = (record.error, record.value) == (life.error, life.value);
        let dropped = (record.error, record.value) == (libc::ECANCELED, -1);
        let legal = if life.done < fork.before {
            inherited
        } else if life.last_pending > fork.after {
            dropped
        } else {
            inherited || dropped
        };
        if !legal {
            complaints.push(format!(
                "{}: a forked child sees error {} value {}",
                history.name(record.subject),
                record.error,
                record.value
            ));
        }
    }
}
