//! The leader/follower and completion protocol, step by step as the library has it; each function here bears the name of
//! the one in `src` that it stands for. What is left out: time-outs (see `kernel`), handlers, cancellation, and
//! taking a stalled leader's place, which rests on time.
//!
//! `waiting` is the part of a thread that waits, `duty` the completion thread's. A [`Fault`] puts one known mistake in, to show that the models can fail.

use super::fault::Fault;
use super::kernel::{Event, Futex, Ring, SeqCst, KICK};
use loom::sync::{Condvar, Mutex};

pub const AWAKE: u32 = 0;
pub const ASLEEP: u32 = 1;
pub const IN_RING: u32 = 2;
pub const WOKEN: u32 = 3;
pub const SEVERAL: u32 = u32::MAX;
pub const COMPLETION_THREAD: u32 = 1;

/// In the outbox: not a notification, but the end of the model.
pub(super) const END: u32 = 1 << 16;

/// What a request is, as far as the protocol cares.
#[derive(Clone, Copy, Default)]
pub struct Kind {
    /// `flag::OFF_RING`: a helper or a waiter transfers it.
    pub off_ring: bool,
    /// `flag::COUNTED` in `held`.
    pub held: bool,
    /// `flag::OWED`: but not yet counted; `Engine::owe` does that.
    pub owed: bool,
    /// Its notification takes the completion thread.
    pub notice: bool,
    /// Belongs to the one batch of the model.
    pub batch: bool,
}

pub struct Request {
    pub(super) in_progress: SeqCst,
    pub(super) waiter: SeqCst,
    pub(super) kind: Kind,
}

pub struct Waiter {
    pub(super) word: Futex,
    pub(super) may_lead: SeqCst,
}

pub struct Engine {
    pub ring: Ring,
    pub(super) leader: SeqCst,
    pub(super) owed: SeqCst,
    pub(super) followers: SeqCst,
    pub(super) held: SeqCst,
    /// Completions begun, and done with the status.
    pub(super) ending: SeqCst,
    pub(super) ended: SeqCst,
    pub(super) requests: Vec<Request>,
    pub(super) waiters: Vec<Waiter>,
    /// The one batch: requests pending, and who waits for its end.
    pub(super) pending: SeqCst,
    pub(super) batch_waiter: SeqCst,
    pub(super) outbox: SeqCst,
    /// How many requests are over, for who watches the model from outside.
    over: Mutex<usize>,
    one_over: Condvar,
    /// The line before the ring (`direct::drain_line`): how many stand in it, and places in the ring.
    overflowing: SeqCst,
    room: SeqCst,
    pub(super) fault: Option<Fault>,
}

impl Engine {
    /// An engine with these requests in flight, and `waiters` waiters besides the completion thread's.
    pub fn new(fault: Option<Fault>, waiters: usize, kinds: &[Kind]) -> Engine {
        let count = |wanted: fn(&Kind) -> bool| kinds.iter().filter(|kind| wanted(kind)).count() as u32;
        let waiter = || Waiter { word: Futex::new(AWAKE), may_lead: SeqCst::new(0) };
        let request = |&kind: &Kind| Request { in_progress: SeqCst::new(1), waiter: SeqCst::new(0), kind };
        Engine {
            ring: Ring::new(),
            leader: SeqCst::new(0),
            owed: SeqCst::new(0),
            followers: SeqCst::new(0),
            held: SeqCst::new(count(|kind| kind.held)),
            ending: SeqCst::new(0),
            ended: SeqCst::new(0),
            requests: kinds.iter().map(request).collect(),
            waiters: (0..=waiters).map(|_| waiter()).collect(),
            pending: SeqCst::new(count(|kind| kind.batch)),
            batch_waiter: SeqCst::new(0),
            outbox: SeqCst::new(0),
            over: Mutex::new(0),
            one_over: Condvar::new(),
            overflowing: SeqCst::new(0),
            room: SeqCst::new(1),
            fault,
        }
    }

    pub(super) fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    pub(super) fn waiter(&self, number: u32) -> &Waiter {
        &self.waiters[number as usize - 1]
    }

    // ---- src/wake.rs

    fn wake(&self, number: u32) {
        let waiter = self.waiter(number);
        match waiter.word.swap(WOKEN) {
            ASLEEP => waiter.word.wake(),
            IN_RING if !self.has(Fault::NoKick) => self.ring.put(KICK),
            _ => {}
        }
    }

    fn wake_named(&self, named: u32) {
        match named {
            0 => {}
            SEVERAL => (1..=self.waiters.len() as u32).for_each(|number| self.wake(number)),
            number => self.wake(number),
        }
    }

    pub(super) fn hand_over(&self) {
        self.hand_over_owing(None);
    }

    /// As `hand_over`; `seen` is what a faulty leader saw of `owed` before it left.
    fn hand_over_owing(&self, seen: Option<u32>) {
        if self.leader.load() != 0 {
            return;
        }
        if seen.unwrap_or_else(|| self.owed.load()) != 0 {
            return self.wake(COMPLETION_THREAD);
        }
        let invited = self.followers.load() != 0
            && (COMPLETION_THREAD + 1..=self.waiters.len() as u32).any(|number| self.invite(number));
        // A submitter whose request bounced may have found us leading, when we had looked already.
        if !invited && !self.has(Fault::NoLookBehind) && self.ring.has_events() {
            self.reap_now(u32::MAX);
        }
    }

    fn invite(&self, number: u32) -> bool {
        let waiter = self.waiter(number);
        let asleep = waiter.may_lead.load() == 1 && waiter.word.compare_exchange(ASLEEP, WOKEN).is_ok();
        if asleep {
            waiter.word.wake();
        }
        asleep
    }

    /// A submitter's part of an owed request.
    pub fn owe(&self) {
        if self.has(Fault::LeaderBeforeOwed) {
            let nobody_leads = self.leader.load() == 0;
            if self.owed.fetch_add(1) == 0 && nobody_leads {
                self.wake(COMPLETION_THREAD);
            }
            return;
        }
        if self.owed.fetch_add(1) == 0 && self.leader.load() == 0 {
            self.wake(COMPLETION_THREAD);
        }
    }

    fn settle(&self) {
        self.owed.fetch_sub(1);
    }

    pub fn try_lead(&self, me: u32) -> bool {
        self.leader.load() == 0 && self.leader.compare_exchange(0, me).is_ok()
    }

    pub(super) fn stop_leading(&self, me: u32) {
        assert_eq!(self.leader.compare_exchange(me, 0), Ok(me), "two leaders");
    }

    // ---- src/reap.rs

    pub(super) fn process(&self, event: Event) {
        if event != KICK {
            self.room.fetch_add(1);
            self.complete(event);
        }
    }

    /// aio_error and submitters. `me` names the thread, apart from waiters' numbers.
    pub fn reap_if_any(&self, me: u32) {
        if self.ring.has_events() {
            self.reap_now(me);
        }
    }

    fn reap_now(&self, me: u32) {
        if !self.try_lead(me) {
            return;
        }
        while self.ring.has_events() {
            self.ring.take().into_iter().for_each(|event| self.process(event));
            self.drain_line();
        }
        self.leave(me);
    }

    /// The end of `reap_now`.
    pub fn leave(&self, me: u32) {
        let seen = self.has(Fault::OwedBeforeLeaving).then(|| self.owed.load());
        self.stop_leading(me);
        self.hand_over_owing(seen);
    }

    // ---- src/complete.rs

    /// `complete`, and `end` in it.
    pub fn complete(&self, at: usize) {
        let request = &self.requests[at];
        let early = self.has(Fault::WaiterBeforeStatus).then(|| request.waiter.swap(0));
        if !self.has(Fault::CountsOnlyAfter) {
            self.ending.fetch_add(1);
        }
        if self.has(Fault::CountsOnlyBefore) {
            self.ended.fetch_add(1);
        }
        assert_eq!(request.in_progress.swap(0), 1, "completed twice");
        if self.has(Fault::CountsOnlyAfter) {
            self.ending.fetch_add(1);
        }
        if !self.has(Fault::CountsOnlyBefore) {
            self.ended.fetch_add(1);
        }
        let waiter = early.unwrap_or_else(|| request.waiter.swap(0));
        if request.kind.held && self.has(Fault::HeldFallsBeforeBatch) {
            self.held.fetch_sub(1);
        }
        if request.kind.owed {
            self.settle();
        }
        if request.kind.notice {
            // `notify::deliver`
            self.outbox.fetch_add(1);
            self.wake(COMPLETION_THREAD);
        } else {
            self.note_over();
        }
        if request.kind.batch && self.pending.fetch_sub(1) == 1 {
            // `batch_less_one`
            let waiter = self.batch_waiter.swap(0);
            self.wake_named(waiter);
        }
        // After every waiter was looked for: a leader that finds nothing held registers nowhere.
        if request.kind.held && !self.has(Fault::HeldFallsBeforeBatch) {
            self.held.fetch_sub(1);
        }
        self.wake_named(waiter);
    }

    // ---- src/admission.rs, src/direct.rs

    /// A helper gives a held request to the kernel, which refuses it, so that the helper transfers it
    /// itself (`submit_waiting`, `run_errand`).
    pub fn submit_refused(&self, at: usize) {
        if self.has(Fault::LetsGoBeforeRefusal) {
            self.held.fetch_sub(1); // let_go
            self.held.fetch_add(1); // hold
        }
        self.complete(at);
    }

    /// A request that found no room gets in line: `wait_for_room`, `line_up`. Request 1 in these models.
    pub fn wait_for_room(&self) {
        self.held.fetch_add(1); // hold
        self.overflowing.store(1);
        if !self.has(Fault::NoLookForRoom) {
            // Who made room meanwhile saw no line.
            self.drain_line();
        }
    }

    /// The place in the ring that a request takes; false: none.
    pub fn reserve(&self) -> bool {
        self.room.compare_exchange(1, 0).is_ok()
    }

    /// `call_for_line`, and the helper that it calls. The kernel completes what leaves the line at once.
    pub(super) fn drain_line(&self) {
        while self.overflowing.load() != 0 && self.reserve() {
            if self.overflowing.swap(0) == 0 {
                self.room.fetch_add(1);
                return;
            }
            self.held.fetch_sub(1); // let_go
            self.ring.put(1);
        }
    }

    // ---- outside the library

    pub(super) fn note_over(&self) {
        *self.over.lock().unwrap() += 1;
        self.one_over.notify_all();
    }

    /// Waits, without any part in the protocol, until so many requests are over and notified.
    pub fn watch(&self, requests: usize) {
        let mut over = self.over.lock().unwrap();
        while *over < requests {
            over = self.one_over.wait(over).unwrap();
        }
    }

    /// Ends the completion thread when all is over.
    pub fn end(&self) {
        self.outbox.fetch_add(END);
        self.wake(COMPLETION_THREAD);
    }
}
