//! The leader/follower and completion protocol, step by step as the library has it; each function here bears the name of
//! the one in `src` that it stands for. What is left out: time-outs (see `kernel`), handlers, cancellation, and
//! taking a stalled leader's place, which rests on time.
//!
//! A [`Fault`] puts one known mistake in, to show that the models can fail.

use super::kernel::{Event, Futex, Ring, SeqCst, KICK};
use loom::sync::{Condvar, Mutex};

pub const AWAKE: u32 = 0;
pub const ASLEEP: u32 = 1;
pub const IN_RING: u32 = 2;
pub const WOKEN: u32 = 3;
pub const SEVERAL: u32 = u32::MAX;
pub const COMPLETION_THREAD: u32 = 1;

/// In the outbox: not a notification, but the end of the model.
const END: u32 = 1 << 16;

/// A mistake to be found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A waiter looks at the statuses, and then sets its word.
    LooksBeforeWord,
    /// A waiter looks at the statuses, and then registers.
    LooksBeforeRegistering,
    /// A completer takes the waiter's number, and then stores the status.
    WaiterBeforeStatus,
    /// The second waiter of a request puts its number over the first one's.
    OverwritesWaiter,
    /// Who wakes a thread that sleeps in the ring does not kick.
    NoKick,
    /// A leader registers nowhere, whatever else is held.
    LeaderNeverRegisters,
    /// A request that the kernel then refuses was let go before.
    LetsGoBeforeRefusal,
    /// `held` falls when the request's waiter was looked for, but not yet its batch's.
    HeldFallsBeforeBatch,
    /// A follower looks at `leader`, and then sets its word.
    LeaderBeforeWord,
    /// A waiter that is satisfied does not pass its invitation on.
    NoHandOver,
    /// A waiter that needs the ring no more goes to sleep without passing the leadership on.
    KeepsInvitation,
    /// A submitter looks at `leader`, and then counts `owed` up.
    LeaderBeforeOwed,
    /// A leaving leader looks at `owed`, and then stores 0 in `leader`.
    OwedBeforeLeaving,
    /// The completion thread does not look at `owed` again after setting its word.
    NoSecondLookAtOwed,
    /// The completion thread does not look into the outbox again after setting its word.
    NoSecondLookAtOutbox,
    /// A leaving leader does not look whether an event came that somebody else could not take.
    NoLookBehind,
    /// A submitter gets in line and does not look whether room came meanwhile.
    NoLookForRoom,
}

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
    in_progress: SeqCst,
    waiter: SeqCst,
    kind: Kind,
}

pub struct Waiter {
    word: Futex,
    may_lead: SeqCst,
}

pub struct Engine {
    pub ring: Ring,
    leader: SeqCst,
    owed: SeqCst,
    followers: SeqCst,
    held: SeqCst,
    requests: Vec<Request>,
    waiters: Vec<Waiter>,
    /// The one batch: requests pending, and who waits for its end.
    pending: SeqCst,
    batch_waiter: SeqCst,
    outbox: SeqCst,
    /// How many requests are over, for who watches the model from outside.
    over: Mutex<usize>,
    one_over: Condvar,
    /// The line before the ring (`direct::drain_line`): how many stand in it, and places in the ring.
    overflowing: SeqCst,
    room: SeqCst,
    fault: Option<Fault>,
}

/// `wait::Goal`.
#[derive(Clone, Copy)]
pub enum Goal {
    /// aio_suspend: one of these.
    Any(&'static [usize]),
    /// LIO_WAIT: the batch's end; its requests are these.
    Batch(&'static [usize]),
}

impl Goal {
    fn list(self) -> &'static [usize] {
        match self {
            Goal::Any(list) | Goal::Batch(list) => list,
        }
    }

    /// `Goal::reached`
    fn reached(self, engine: &Engine) -> bool {
        match self {
            Goal::Any(list) => list.iter().any(|&at| engine.requests[at].in_progress.load() == 0),
            Goal::Batch(_) => engine.pending.load() == 0,
        }
    }

    /// `Goal::needs_ring`
    fn needs_ring(self, engine: &Engine) -> bool {
        let requests = self.list().iter().map(|&at| &engine.requests[at]);
        requests.filter(|request| !request.kind.off_ring).any(|request| request.in_progress.load() != 0)
    }

    /// `Goal::register`
    fn register(self, engine: &Engine, number: u32) {
        let Goal::Any(list) = self else {
            return engine.batch_waiter.store(number);
        };
        for request in list.iter().map(|&at| &engine.requests[at]) {
            if request.in_progress.load() == 0 {
                continue;
            }
            if engine.has(Fault::OverwritesWaiter) {
                request.waiter.store(number);
                continue;
            }
            let before = request.waiter.compare_exchange(0, number).unwrap_or_else(|waiter| waiter);
            if before != 0 && before != number {
                request.waiter.store(SEVERAL);
            }
        }
    }

    /// `Goal::unregister`
    fn unregister(self, engine: &Engine, number: u32) {
        for request in self.list().iter().map(|&at| &engine.requests[at]) {
            if request.in_progress.load() != 0 {
                let _ = request.waiter.compare_exchange(number, 0);
            }
        }
    }
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

    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    fn waiter(&self, number: u32) -> &Waiter {
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

    fn hand_over(&self) {
        self.hand_over_owing(None);
    }

    /// As `hand_over`; `seen` is what a faulty leader saw of `owed` before it left.
    fn hand_over_owing(&self, seen: Option<u32>) {
        if self.leader.load() != 0 {
            return;
        }
        let invited = self.followers.load() != 0
            && (COMPLETION_THREAD + 1..=self.waiters.len() as u32).any(|number| self.invite(number));
        if seen.unwrap_or_else(|| self.owed.load()) == 0 {
            // A submitter whose request bounced may have found us leading, when we had looked already.
            if !invited && !self.has(Fault::NoLookBehind) && self.ring.has_events() {
                self.reap_now(u32::MAX);
            }
            return;
        }
        let on_duty = self.waiter(COMPLETION_THREAD).may_lead.load() == 1;
        if !invited || !on_duty {
            self.wake(COMPLETION_THREAD);
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

    fn stop_leading(&self, me: u32) {
        assert_eq!(self.leader.compare_exchange(me, 0), Ok(me), "two leaders");
    }

    // ---- src/wait.rs

    /// `wait`: `number` is the waiter's slot, and its thread's name as leader.
    pub fn wait(&self, number: u32, goal: Goal) {
        if goal.reached(self) {
            return;
        }
        self.wait_as(number, goal);
        goal.unregister(self, number);
        if !self.has(Fault::NoHandOver) {
            self.hand_over();
        }
        assert!(goal.reached(self), "returned without its goal");
    }

    fn wait_as(&self, number: u32, goal: Goal) {
        loop {
            self.waiter(number).word.store(AWAKE);
            if goal.reached(self) {
                return;
            }
            let needs_ring = goal.needs_ring(self);
            if !(needs_ring && self.lead(number, goal)) {
                if !needs_ring && !self.has(Fault::KeepsInvitation) {
                    // It may have led, or was invited, and will do neither any more.
                    self.hand_over();
                }
                self.follow(number, goal, needs_ring);
            }
            if goal.reached(self) {
                return;
            }
        }
    }

    /// False: somebody else leads.
    fn lead(&self, number: u32, goal: Goal) -> bool {
        if !self.try_lead(number) {
            return false;
        }
        loop {
            let findable = self.held.load() != 0 && !self.has(Fault::LeaderNeverRegisters);
            let before_word = self.has(Fault::LooksBeforeWord) && goal.reached(self);
            if findable {
                goal.register(self, number);
            }
            self.waiter(number).word.store(IN_RING);
            let reached = match self.has(Fault::LooksBeforeWord) {
                true => before_word,
                false => goal.reached(self),
            };
            if reached {
                break;
            }
            let events = self.ring.wait();
            self.waiter(number).word.store(AWAKE);
            // `process_inbox`
            events.into_iter().for_each(|event| self.process(event));
            self.drain_line();
            if goal.reached(self) || !goal.needs_ring(self) {
                break;
            }
        }
        self.waiter(number).word.store(AWAKE);
        self.stop_leading(number);
        true
    }

    fn follow(&self, number: u32, goal: Goal, may_lead: bool) {
        let waiter = self.waiter(number);
        let early = self.has(Fault::LooksBeforeRegistering) && goal.reached(self);
        goal.register(self, number);
        if may_lead {
            waiter.may_lead.store(1);
            self.followers.fetch_add(1);
        }
        let before = self.has(Fault::LooksBeforeWord) && goal.reached(self);
        let led_before = self.has(Fault::LeaderBeforeWord) && self.leader.load() != 0;
        waiter.word.store(ASLEEP);
        let reached = match self.fault {
            Some(Fault::LooksBeforeWord) => before,
            Some(Fault::LooksBeforeRegistering) => early,
            _ => goal.reached(self),
        };
        let led = || match self.has(Fault::LeaderBeforeWord) {
            true => led_before,
            false => self.leader.load() != 0,
        };
        if !reached && !(may_lead && !led()) {
            waiter.word.wait(ASLEEP);
        }
        if may_lead {
            waiter.may_lead.store(0);
            self.followers.fetch_sub(1);
        }
    }

    // ---- src/reap.rs

    fn process(&self, event: Event) {
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
        assert_eq!(request.in_progress.swap(0), 1, "completed twice");
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
    fn drain_line(&self) {
        while self.overflowing.load() != 0 && self.reserve() {
            if self.overflowing.swap(0) == 0 {
                self.room.fetch_add(1);
                return;
            }
            self.held.fetch_sub(1); // let_go
            self.ring.put(1);
        }
    }

    // ---- src/completion_thread.rs

    pub fn completion_thread(&self) {
        let seat = self.waiter(COMPLETION_THREAD);
        let me = COMPLETION_THREAD;
        loop {
            seat.word.store(AWAKE);
            if self.deliver() {
                return;
            }
            let owed = self.owed.load() != 0;
            if owed && self.try_lead(me) {
                self.lead_while_owed(seat);
                self.stop_leading(me);
                self.hand_over();
                continue;
            }
            seat.may_lead.store(u32::from(owed));
            seat.word.store(ASLEEP);
            let owed_now = match self.has(Fault::NoSecondLookAtOwed) {
                true => owed,
                false => self.owed.load() != 0,
            };
            let may_lead_now = owed_now && self.leader.load() == 0;
            let nothing_to_deliver = self.has(Fault::NoSecondLookAtOutbox) || self.outbox.load() == 0;
            if !may_lead_now && owed == owed_now && nothing_to_deliver {
                seat.word.wait(ASLEEP);
            }
            seat.may_lead.store(0);
        }
    }

    /// `lead`
    fn lead_while_owed(&self, seat: &Waiter) {
        loop {
            seat.word.store(IN_RING);
            let nothing_owed = self.owed.load() == 0 && !self.ring.has_events();
            if nothing_owed || self.outbox.load() != 0 {
                seat.word.store(AWAKE);
                return;
            }
            let events = self.ring.wait();
            seat.word.store(AWAKE);
            events.into_iter().for_each(|event| self.process(event));
            self.drain_line();
            if self.deliver() {
                // The end of the model: `completion_thread` must see it too.
                self.outbox.fetch_add(END);
                return;
            }
        }
    }

    /// True: the model ends.
    fn deliver(&self) -> bool {
        let waiting = self.outbox.swap(0);
        (0..waiting % END).for_each(|_| self.note_over());
        waiting >= END
    }

    // ---- outside the library

    fn note_over(&self) {
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
