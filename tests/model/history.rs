//! The log, sorted by request: when each was surely not yet complete, when it surely was, and where its
//! descriptor may have led. All times are ticks of one clock that every look at anything moves on, so that
//! "a.after < b.before" means that a was over before b began.

use std::collections::HashMap;

use super::log::{Kind, Record, NOTHING, NOT_LOOKED};
use super::plan::{Plan, Request, Step, Target};
use super::program::What;
use super::run::Observation;

/// What is known of one request, or of one sync transfer.
#[derive(Clone, Debug)]
pub struct Life {
    /// Its submitting call.
    pub submit: Record,
    /// From this tick on it was surely complete.
    pub done: u64,
    /// At this tick it was surely in progress; 0 if never seen so.
    pub last_pending: u64,
    /// What aio_error and aio_return say after completion.
    pub error: i32,
    pub value: i64,
}

pub struct History<'a> {
    pub plan: &'a Plan,
    pub seen: &'a Observation,
    /// None for what never ran, or was refused by its call.
    pub lives: Vec<Option<Life>>,
    /// Calls that were refused.
    pub refused: Vec<Record>,
    pub rebinds: Vec<Record>,
    pub cancels: Vec<Record>,
    pub shutdowns: Vec<Record>,
    pub groups: HashMap<u32, Vec<Record>>,
    /// Whether each list waits, by its number.
    pub lists: HashMap<u32, bool>,
    /// libc's own implementation is looked at: where it orders and promises less, less is asked for.
    pub libc: bool,
}

impl<'a> History<'a> {
    pub fn new(
        plan: &'a Plan,
        seen: &'a Observation,
        libc: bool,
        complaints: &mut Vec<String>,
    ) -> History<'a> {
        let mut history = History {
            plan,
            seen,
            lives: vec![None; plan.requests.len()],
            refused: Vec::new(),
            rebinds: Vec::new(),
            cancels: Vec::new(),
            shutdowns: Vec::new(),
            groups: HashMap::new(),
            lists: HashMap::new(),
            libc,
        };
        for step in plan.threads.iter().flatten() {
            if let Step::List { list, wait, .. } = step {
                history.lists.insert(*list, *wait);
            }
        }
        for record in &seen.records {
            history.take(record);
        }
        for record in &seen.records {
            history.take_status(record, complaints);
        }
        history.seen_first_or_last(complaints);
        history
    }

    fn take(&mut self, record: &Record) {
        match record.kind {
            Kind::Submit => {
                let in_list = self.plan.request(record.subject).list.is_some();
                if record.value == 0 || in_list {
                    self.lives[record.subject as usize] = Some(Life {
                        submit: *record,
                        done: u64::MAX,
                        last_pending: 0,
                        error: libc::EINPROGRESS,
                        value: 0,
                    });
                } else {
                    self.refused.push(*record);
                }
            }
            Kind::Transfer => {
                self.lives[record.subject as usize] = Some(Life {
                    submit: *record,
                    done: record.after,
                    last_pending: 0,
                    error: 0,
                    value: record.value,
                });
            }
            Kind::Rebind => self.rebinds.push(*record),
            Kind::Cancel => self.cancels.push(*record),
            Kind::Shutdown => self.shutdowns.push(*record),
            _ => {}
        }
    }

    fn take_status(&mut self, record: &Record, complaints: &mut Vec<String>) {
        if record.kind == Kind::Status && record.group != 0 {
            self.groups.entry(record.group).or_default().push(*record);
        }
        if !matches!(record.kind, Kind::Status | Kind::Notify) || record.subject == NOTHING {
            return;
        }
        if record.error == NOT_LOOKED {
            return;
        }
        if self.plan.request(record.subject).what == What::List {
            return;
        }
        let name = self.name(record.subject);
        let Some(life) = &mut self.lives[record.subject as usize] else {
            complaints.push(format!("{name} was not submitted, but has {:?} {}", record.kind, record.error));
            return;
        };
        if record.error == libc::EINPROGRESS {
            life.last_pending = life.last_pending.max(record.before);
            return;
        }
        if life.error == libc::EINPROGRESS {
            life.error = record.error;
            life.value = if record.kind == Kind::Status { record.value } else { i64::MIN };
        }
        if record.kind == Kind::Status && life.value == i64::MIN {
            life.value = record.value;
        }
        if life.error != record.error || (record.kind == Kind::Status && life.value != record.value) {
            complaints.push(format!(
                "{name} ended twice: error {} value {}, and error {} value {}",
                life.error, life.value, record.error, record.value
            ));
        }
        life.done = life.done.min(record.after);
    }

    /// Nothing is in progress again once it was complete, and everything ends.
    fn seen_first_or_last(&self, complaints: &mut Vec<String>) {
        for (id, life) in self.lives.iter().enumerate() {
            let Some(life) = life else { continue };
            if life.done == u64::MAX {
                complaints.push(format!("{} never completes", self.name(id as u32)));
            } else if life.last_pending > life.done {
                complaints.push(format!("{} is in progress again after completion", self.name(id as u32)));
            }
        }
    }

    pub fn name(&self, id: u32) -> String {
        let Request { what, target, offset, length, list, .. } = self.plan.request(id);
        let list = list.map_or(String::new(), |list| format!(" of list {list}"));
        format!("request {id} ({what:?} {target:?} offset {offset} length {length}{list})")
    }

    /// Complete requests and transfers.
    pub fn complete(&self) -> impl Iterator<Item = (&Request, &Life)> {
        self.plan.requests.iter().zip(&self.lives).filter_map(|(request, life)| {
            life.as_ref().filter(|life| life.done != u64::MAX).map(|life| (request, life))
        })
    }

    /// Where a slot may have led at some time between two ticks; None is a closed slot.
    pub fn slot_ends(&self, slot: u32, from: u64, to: u64) -> Vec<Option<u32>> {
        let changes: Vec<&Record> = self.rebinds.iter().filter(|change| change.subject == slot).collect();
        let replaced = |since: u64| changes.iter().any(|later| since < later.before && later.after < from);
        let mut ends = Vec::new();
        if !replaced(0) {
            ends.push(Some(slot));
        }
        for change in &changes {
            if change.before < to && !replaced(change.after) {
                ends.push(u32::try_from(change.value).ok());
            }
        }
        ends.sort();
        ends.dedup();
        ends
    }

    /// Where a request may have gone. A request belongs to what was open when it was submitted.
    pub fn ends(&self, request: &Request, life: &Life) -> Vec<Option<u32>> {
        match request.target {
            _ if life.submit.kind == Kind::Transfer => vec![Some(life.submit.extra as u32)],
            Target::End(end) => vec![Some(end)],
            Target::Slot(slot) => self.slot_ends(slot, life.submit.before, life.submit.after),
        }
    }

    /// Whether the request's slot may have been closed or replaced while it was in flight.
    pub fn rebound(&self, request: &Request, from: u64, to: u64) -> bool {
        let Target::Slot(slot) = request.target else {
            return false;
        };
        self.rebinds.iter().any(|change| change.subject == slot && change.after > from && change.before < to)
    }

    /// Whether an aio_cancel explains that this request was cancelled.
    pub fn cancelled(&self, request: &Request, life: &Life) -> bool {
        let Target::Slot(slot) = request.target else {
            return false;
        };
        self.cancels.iter().any(|cancel| {
            let covers = match cancel.value as i32 {
                _ if cancel.value < 0 || cancel.process != life.submit.process => false,
                libc::AIO_CANCELED => cancel.subject == request.id || cancel.subject == NOTHING,
                libc::AIO_NOTCANCELED => cancel.subject == NOTHING,
                _ => false,
            };
            covers
                && cancel.extra as u32 == slot
                && cancel.after > life.submit.before
                && cancel.before < life.done
        })
    }

    /// Whether SHUT_WR on an end was called before a tick.
    pub fn shut(&self, end: u32, before: u64) -> bool {
        self.shutdowns.iter().any(|shutdown| shutdown.subject == end && shutdown.before < before)
    }

    /// Whether the effect of one surely came before that of another: it had ended when the other began, or both
    /// were asked for in this order on the same slot (or file, for O_APPEND), where the order of the calls counts.
    pub fn ordered(&self, first: u32, second: u32, by_file: bool) -> bool {
        let (Some(a), Some(b)) = (&self.lives[first as usize], &self.lives[second as usize]) else {
            return false;
        };
        if a.done < b.submit.before {
            return true;
        }
        let (first, second) = (self.plan.request(first), self.plan.request(second));
        let (Target::Slot(slot), Target::Slot(other)) = (first.target, second.target) else {
            return false;
        };
        // glibc sorts by priority, and looks at descriptors, not files.
        let comparable = slot == other && (!self.libc || first.priority == second.priority);
        if !(comparable || (by_file && !self.libc)) {
            return false;
        }
        let in_order = a.submit.after < b.submit.before
            || (first.list.is_some() && first.list == second.list && first.id < second.id);
        in_order
            && !self.rebound(first, a.submit.before, b.submit.after)
            && !self.rebound(second, a.submit.before, b.submit.after)
    }
}
