//! A waiting thread: `src/wait.rs`.

use super::engine::{Engine, ASLEEP, AWAKE, IN_RING, SEVERAL};
use super::fault::Fault;

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

    /// `Goal::reached_since`
    fn reached_since(self, engine: &Engine, seen: u32) -> bool {
        match self {
            Goal::Any(_) => engine.ending.load() != seen && self.reached(engine),
            Goal::Batch(_) => self.reached(engine),
        }
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
            let before = self.ended.load();
            if goal.reached(self) {
                return;
            }
            let seen = if self.has(Fault::LooksBeforeCount) { self.ended.load() } else { before };
            let needs_ring = goal.needs_ring(self);
            if !(needs_ring && self.lead(number, goal, seen)) {
                if !needs_ring && !self.has(Fault::KeepsInvitation) {
                    // It may have led, or was invited, and will do neither any more.
                    self.hand_over();
                }
                self.follow(number, goal, needs_ring, seen);
            }
            if goal.reached(self) {
                return;
            }
        }
    }

    /// False: somebody else leads.
    fn lead(&self, number: u32, goal: Goal, mut seen: u32) -> bool {
        if !self.try_lead(number) {
            return false;
        }
        loop {
            let findable = self.held.load() != 0 && !self.has(Fault::LeaderNeverRegisters);
            let before_word = self.has(Fault::LooksBeforeWord) && goal.reached_since(self, seen);
            if findable {
                goal.register(self, number);
            }
            self.waiter(number).word.store(IN_RING);
            let reached = match self.has(Fault::LooksBeforeWord) {
                true => before_word,
                false => goal.reached_since(self, seen),
            };
            if reached {
                break;
            }
            let events = self.ring.wait();
            self.waiter(number).word.store(AWAKE);
            // `process_inbox`
            events.into_iter().for_each(|event| self.process(event));
            self.drain_line();
            seen = self.ended.load();
            if goal.reached(self) || !goal.needs_ring(self) {
                break;
            }
        }
        self.waiter(number).word.store(AWAKE);
        self.stop_leading(number);
        true
    }

    fn follow(&self, number: u32, goal: Goal, may_lead: bool, seen: u32) {
        let waiter = self.waiter(number);
        let early = self.has(Fault::LooksBeforeRegistering) && goal.reached_since(self, seen);
        goal.register(self, number);
        if may_lead {
            waiter.may_lead.store(1);
            self.followers.fetch_add(1);
        }
        let before = self.has(Fault::LooksBeforeWord) && goal.reached_since(self, seen);
        let led_before = self.has(Fault::LeaderBeforeWord) && self.leader.load() != 0;
        waiter.word.store(ASLEEP);
        let reached = match self.fault {
            Some(Fault::LooksBeforeWord) => before,
            Some(Fault::LooksBeforeRegistering) => early,
            _ => goal.reached_since(self, seen),
        };
        let led = || match self.has(Fault::LeaderBeforeWord) {
            true => led_before,
            false => self.leader.load() != 0,
        };
        if !reached && (!may_lead || led()) {
            waiter.word.wait(ASLEEP);
        }
        if may_lead {
            waiter.may_lead.store(0);
            self.followers.fetch_sub(1);
        }
    }
}
