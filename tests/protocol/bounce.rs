//! The handshake between a submitting thread and who reaps the request's event (`src/direct.rs`, `src/reap.rs`, and
//! the states in `src/request.rs`): exactly one of them takes a request back that bounced, and it completes once, also
//! when its slot is in other hands by then. The orderings are the library's own here.

use super::run::{explore, must_fail};
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::Arc;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    /// The submitter takes the request back without asking whether it was bounced.
    NeverAsks,
    /// The submitter looks whose slot it is, and then, with another load, at the state.
    AsksTwice,
    /// The reaper takes the request back though its submitter has not let go of it.
    ReaperNeverWaits,
    /// States are stored without Release.
    NoRelease,
}

const FREE: u64 = 0;
const SUBMITTING: u64 = 1;
const BOUNCED: u64 = 2;
const RING: u64 = 3;
const HELD: u64 = 4;
const ENDED: u64 = 6;
const STATE: u64 = 0xffff_ffff;

/// One slot. `loom` watches `identity`: it belongs to the one party that the states name.
struct Slot {
    tag: AtomicU64,
    identity: UnsafeCell<u64>,
    /// By generation: how often it was taken back.
    taken_back: [AtomicU32; 3],
    /// By generation: how often it was completed.
    completed: [AtomicU32; 3],
    fault: Option<Fault>,
}

impl Slot {
    fn new(fault: Option<Fault>) -> Slot {
        Slot {
            tag: AtomicU64::new(0),
            identity: UnsafeCell::new(0),
            taken_back: Default::default(),
            completed: Default::default(),
            fault,
        }
    }

    /// `Request::begin`: a new generation, SUBMITTING.
    fn begin(&self) -> u64 {
        let generation = (self.tag.load(Ordering::Relaxed) >> 32) + 1;
        self.identity.with_mut(|identity| {
            // SAFETY: the slot was FREE and is ours; `loom` checks it.
            unsafe { *identity = generation }
        });
        self.tag.swap(generation << 32 | SUBMITTING, Ordering::Release);
        generation << 32
    }

    /// The library's is a store. `loom` leaves the order of a store and another thread's compare_exchange open, though
    /// the one that found the older value came first; not so with a swap.
    fn set_state(&self, state: u64) {
        let tag = self.tag.load(Ordering::Relaxed);
        let order = match self.fault {
            Some(Fault::NoRelease) => Ordering::Relaxed,
            _ => Ordering::Release,
        };
        self.tag.swap(tag & !STATE | state, order);
    }

    fn move_state(&self, handle: u64, from: u64, to: u64) -> bool {
        let success = match self.fault {
            Some(Fault::NoRelease) => Ordering::Relaxed,
            _ => Ordering::AcqRel,
        };
        self.tag.compare_exchange(handle | from, handle | to, success, Ordering::Acquire).is_ok()
    }

    /// `direct::take_back` up to the errand: HELD, in a list of ours.
    fn take_back(&self) {
        let generation = self.tag.load(Ordering::Relaxed) >> 32;
        // SAFETY: only one party takes it back; `loom` checks it.
        self.identity.with_mut(|identity| unsafe { *identity += 10 });
        self.taken_back[generation as usize].fetch_add(1, Ordering::Relaxed);
        self.set_state(HELD);
    }

    /// `complete::end`: with a notification it stays for a while as ENDED. Then the slot is free.
    fn complete(&self, noticed: bool) {
        let generation = self.tag.load(Ordering::Relaxed) >> 32;
        let before = self.completed[generation as usize].fetch_add(1, Ordering::Relaxed);
        assert_eq!(before, 0, "completed twice");
        // SAFETY: only one party completes it; `loom` checks it.
        self.identity.with(|identity| unsafe { *identity });
        if noticed {
            self.set_state(ENDED);
        }
        self.set_state(FREE);
    }

    /// `reap::process` for an event that says EAGAIN.
    fn process_bounce(&self, handle: u64) {
        if self.fault == Some(Fault::ReaperNeverWaits) || !self.move_state(handle, SUBMITTING, BOUNCED) {
            self.take_back();
        }
    }

    /// `direct::after_submit`. `came_back`: the submitter saw its own event in the ring.
    fn after_submit(&self, handle: u64, came_back: bool) {
        if came_back {
            // `identify`: as long as it is SUBMITTING or BOUNCED it is the submitter's.
            // SAFETY: as above.
            self.identity.with_mut(|identity| unsafe { *identity += 1 });
        }
        if self.move_state(handle, SUBMITTING, RING) {
            return;
        }
        let bounced = match self.fault {
            Some(Fault::NeverAsks) => true,
            Some(Fault::AsksTwice) => {
                let tag = self.tag.load(Ordering::Acquire);
                let is = tag & !STATE == handle && tag & STATE != FREE;
                is && self.tag.load(Ordering::Acquire) & STATE == BOUNCED
            }
            _ => self.tag.load(Ordering::Acquire) == handle | BOUNCED,
        };
        if bounced {
            self.take_back();
        }
    }
}

/// The event says EAGAIN; submitter and reaper meet.
fn bounced(fault: Option<Fault>, came_back: bool) {
    let slot = Arc::new(Slot::new(fault));
    let handle = slot.begin();
    let there = Arc::clone(&slot);
    let reaper = loom::thread::spawn(move || there.process_bounce(handle));
    slot.after_submit(handle, came_back);
    reaper.join().unwrap();
    assert_eq!(slot.taken_back[1].load(Ordering::Relaxed), 1);
    assert_eq!(slot.tag.load(Ordering::Relaxed) & STATE, HELD);
    slot.complete(false);
}

#[test]
fn one_of_submitter_and_reaper_takes_a_bounced_request_back() {
    explore(None, || bounced(None, false));
    explore(None, || bounced(None, true));
}

#[test]
fn taking_back_without_the_handshake_is_found_out() {
    for fault in [Fault::ReaperNeverWaits, Fault::NoRelease] {
        must_fail(fault, None, move || bounced(Some(fault), true));
    }
}

/// The request completes while its submitter is still at work, its slot is used again, and that one bounces.
fn reused(fault: Option<Fault>, noticed: bool) {
    let slot = Arc::new(Slot::new(fault));
    let first = slot.begin();
    let there = Arc::clone(&slot);
    let others = loom::thread::spawn(move || {
        there.complete(noticed);
        // Another submitter, and a reaper, whom the slot's next life belongs to.
        let second = there.begin();
        let reaper = Arc::clone(&there);
        let reaper = loom::thread::spawn(move || reaper.process_bounce(second));
        there.after_submit(second, false);
        reaper.join().unwrap();
    });
    slot.after_submit(first, false);
    others.join().unwrap();
    assert_eq!(slot.taken_back[1].load(Ordering::Relaxed), 0);
    assert_eq!(slot.taken_back[2].load(Ordering::Relaxed), 1);
    assert_eq!(slot.tag.load(Ordering::Relaxed), 2 << 32 | HELD);
}

#[test]
fn a_submitter_leaves_the_next_user_of_the_slot_alone() {
    explore(None, || reused(None, false));
    explore(None, || reused(None, true));
}

#[test]
fn asking_for_the_slot_and_its_state_apart_is_found_out() {
    for fault in [Fault::AsksTwice, Fault::NeverAsks] {
        must_fail(fault, None, move || reused(Some(fault), true));
    }
}
