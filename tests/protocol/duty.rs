//! The completion thread: `src/completion_thread.rs`.

use super::engine::{Engine, Waiter, ASLEEP, AWAKE, COMPLETION_THREAD, END, IN_RING};
use super::fault::Fault;

impl Engine {
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
            // `hand_over` looks at `owed`, too.
            let keeps = self.has(Fault::KeepsUselessInvitation) || self.has(Fault::NoSecondLookAtOwed);
            if !owed_now && !keeps {
                self.hand_over();
            }
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
}
