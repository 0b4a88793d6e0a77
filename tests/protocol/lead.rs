//! Rule 3: the leadership passes from hand to hand while anybody needs it.

use super::engine::{Engine, Kind};
use super::fault::Fault;
use super::run::{explore, must_fail, thread};
use super::waiting::Goal;
use std::sync::Arc;

const IN_RING: Kind = Kind { off_ring: false, held: false, owed: false, notice: false, batch: false };
/// What these models are explored with; without a bound they take hours.
const PREEMPTIONS: Option<usize> = Some(2);

/// Two waiters, one request each; the kernel completes one after the other.
fn two(fault: Option<Fault>) {
    let engine = Arc::new(Engine::new(fault, 2, &[IN_RING, IN_RING]));
    let first = thread(&engine, |engine| engine.wait(2, Goal::Any(&[0])));
    let second = thread(&engine, |engine| engine.wait(3, Goal::Any(&[1])));
    engine.ring.put(0);
    engine.ring.put(1);
    first.join().unwrap();
    second.join().unwrap();
}

#[test]
fn a_leaving_leader_is_followed_by_a_waiter() {
    explore(Some(3), || two(None));
}

#[test]
fn a_follower_that_looks_for_a_leader_too_early_is_found_out() {
    for fault in [Fault::LeaderBeforeWord, Fault::NoHandOver] {
        must_fail(fault, Some(3), move || two(Some(fault)));
    }
}

/// Three waiters; a leaving leader may invite one whose request it has just completed.
fn three(fault: Option<Fault>) {
    let engine = Arc::new(Engine::new(fault, 3, &[IN_RING, IN_RING, IN_RING]));
    let waiters = [
        thread(&engine, |engine| engine.wait(2, Goal::Any(&[0]))),
        thread(&engine, |engine| engine.wait(3, Goal::Any(&[1]))),
        thread(&engine, |engine| engine.wait(4, Goal::Any(&[2]))),
    ];
    engine.ring.put(0);
    engine.ring.put(1);
    engine.ring.put(2);
    for waiter in waiters {
        waiter.join().unwrap();
    }
}

#[test]
fn an_invitation_reaches_who_needs_it() {
    explore(PREEMPTIONS, || three(None));
}

/// A follower whose request completes off the ring is invited at the same moment, and is satisfied.
fn satisfied(fault: Option<Fault>) {
    const HELD: Kind = Kind { held: true, ..IN_RING };
    let engine = Arc::new(Engine::new(fault, 3, &[IN_RING, HELD, IN_RING]));
    let waiters = [
        thread(&engine, |engine| engine.wait(2, Goal::Any(&[0]))),
        thread(&engine, |engine| engine.wait(3, Goal::Any(&[1]))),
        thread(&engine, |engine| engine.wait(4, Goal::Any(&[2]))),
    ];
    engine.ring.put(0);
    engine.complete(1);
    engine.ring.put(2);
    for waiter in waiters {
        waiter.join().unwrap();
    }
}

#[test]
fn a_satisfied_waiter_passes_its_invitation_on() {
    explore(PREEMPTIONS, || satisfied(None));
}

#[test]
fn a_satisfied_waiter_that_keeps_its_invitation_is_found_out() {
    let fault = Fault::NoHandOver;
    must_fail(fault, PREEMPTIONS, move || satisfied(Some(fault)));
}

/// LIO_WAIT for a request in the ring and a write in a helper's hands that takes longer than anything else: once the
/// first is complete, this waiter needs the ring no more, but the other one does.
fn turns_away(fault: Option<Fault>) {
    const PART: Kind = Kind { batch: true, ..IN_RING };
    const WRITE: Kind = Kind { batch: true, off_ring: true, held: true, ..IN_RING };
    let engine = Arc::new(Engine::new(fault, 2, &[PART, WRITE, IN_RING]));
    let batch = thread(&engine, |engine| engine.wait(2, Goal::Batch(&[0, 1])));
    let other = thread(&engine, |engine| engine.wait(3, Goal::Any(&[2])));
    engine.ring.put(0);
    engine.ring.put(2);
    other.join().unwrap();
    engine.complete(1);
    batch.join().unwrap();
}

#[test]
fn a_leader_that_needs_the_ring_no_more_is_replaced() {
    explore(PREEMPTIONS, || turns_away(None));
}

#[test]
fn a_leader_that_turns_away_from_the_ring_in_silence_is_found_out() {
    let fault = Fault::KeepsInvitation;
    must_fail(fault, PREEMPTIONS, move || turns_away(Some(fault)));
}
