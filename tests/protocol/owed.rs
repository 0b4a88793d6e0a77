//! Rule 4: what is owed happens though nobody waits for it.

use super::engine::{Engine, Kind};
use super::fault::Fault;
use super::run::{explore, must_fail, thread};
use super::waiting::Goal;
use std::sync::Arc;

const IN_RING: Kind = Kind { off_ring: false, held: false, owed: false, notice: false, batch: false };
const OWED: Kind = Kind { owed: true, notice: true, ..IN_RING };
/// What these models are explored with; without a bound they take hours.
const PREEMPTIONS: Option<usize> = Some(2);

/// A request with a notification is submitted and completes, while another thread stops leading.
fn submitted(fault: Option<Fault>) {
    let engine = Arc::new(Engine::new(fault, 0, &[OWED]));
    assert!(engine.try_lead(9));
    let duty = thread(&engine, Engine::completion_thread);
    let submitter = thread(&engine, |engine| {
        engine.owe();
        engine.ring.put(0);
    });
    engine.leave(9);
    engine.watch(1);
    submitter.join().unwrap();
    engine.end();
    duty.join().unwrap();
}

#[test]
fn the_completion_thread_takes_what_is_owed() {
    explore(PREEMPTIONS, || submitted(None));
}

#[test]
fn owing_in_the_wrong_order_is_found_out() {
    for fault in [Fault::LeaderBeforeOwed, Fault::OwedBeforeLeaving, Fault::NoSecondLookAtOwed] {
        must_fail(fault, PREEMPTIONS, move || submitted(Some(fault)));
    }
}

/// A waiter leads, gets what it wants and leaves, while another thread submits what is owed.
fn beside_a_waiter(fault: Option<Fault>) {
    let engine = Arc::new(Engine::new(fault, 1, &[OWED, IN_RING]));
    let duty = thread(&engine, Engine::completion_thread);
    let waiter = thread(&engine, |engine| engine.wait(2, Goal::Any(&[1])));
    engine.ring.put(1);
    engine.owe();
    engine.ring.put(0);
    engine.watch(2);
    waiter.join().unwrap();
    engine.end();
    duty.join().unwrap();
}

#[test]
fn a_waiter_that_leaves_hands_what_is_owed_to_the_completion_thread() {
    explore(PREEMPTIONS, || beside_a_waiter(None));
}

#[test]
fn a_waiter_that_leaves_in_silence_is_found_out() {
    let fault = Fault::NoHandOver;
    must_fail(fault, PREEMPTIONS, move || beside_a_waiter(Some(fault)));
}

/// A leader leaves what is owed to the completion thread, just when it ends without the ring: as a read of a pipe does that is
/// cancelled. A follower still needs the ring.
fn owed_no_more(fault: Option<Fault>) {
    const PIPE: Kind = Kind { held: true, off_ring: true, notice: false, ..OWED };
    let engine = Arc::new(Engine::new(fault, 1, &[PIPE, IN_RING]));
    assert!(engine.try_lead(9));
    engine.owe();
    let duty = thread(&engine, Engine::completion_thread);
    let follower = thread(&engine, |engine| engine.wait(2, Goal::Any(&[1])));
    engine.leave(9);
    engine.complete(0);
    engine.ring.put(1);
    follower.join().unwrap();
    engine.end();
    duty.join().unwrap();
}

#[test]
fn a_follower_leads_when_the_completion_thread_need_not() {
    explore(PREEMPTIONS, || owed_no_more(None));
}

#[test]
fn a_completion_thread_that_keeps_its_invitation_is_found_out() {
    let fault = Fault::KeepsUselessInvitation;
    must_fail(fault, PREEMPTIONS, move || owed_no_more(Some(fault)));
}

/// A helper completes a request whose notification only the completion thread can deliver.
fn notified(fault: Option<Fault>) {
    const HELD: Kind = Kind { held: true, off_ring: true, ..OWED };
    let engine = Arc::new(Engine::new(fault, 0, &[HELD]));
    let duty = thread(&engine, Engine::completion_thread);
    engine.owe();
    engine.complete(0);
    engine.watch(1);
    engine.end();
    duty.join().unwrap();
}

#[test]
fn a_notification_is_delivered() {
    explore(PREEMPTIONS, || notified(None));
}

#[test]
fn a_notification_that_is_overlooked_is_found_out() {
    for fault in [Fault::NoSecondLookAtOutbox, Fault::NoKick] {
        must_fail(fault, Some(3), move || notified(Some(fault)));
    }
}

/// A request bounces, which its submitter sees; it reaps, or else the leader that kept it from that. Nobody
/// waits and nothing is owed.
fn bounced(fault: Option<Fault>) {
    let engine = Arc::new(Engine::new(fault, 1, &[IN_RING, IN_RING]));
    let waiter = thread(&engine, |engine| engine.wait(2, Goal::Any(&[1])));
    engine.ring.put(1);
    engine.ring.put(0);
    engine.reap_if_any(9);
    engine.watch(2);
    waiter.join().unwrap();
}

#[test]
fn a_submitter_that_cannot_reap_leaves_it_to_the_leader() {
    explore(PREEMPTIONS, || bounced(None));
}

#[test]
fn a_leader_that_does_not_look_behind_is_found_out() {
    let fault = Fault::NoLookBehind;
    must_fail(fault, Some(3), move || bounced(Some(fault)));
}

/// The ring is full; a request gets in line while another thread makes room.
fn overflow(fault: Option<Fault>) {
    let engine = Arc::new(Engine::new(fault, 0, &[IN_RING, OWED]));
    assert!(engine.reserve());
    let duty = thread(&engine, Engine::completion_thread);
    engine.ring.put(0);
    engine.owe();
    match engine.reserve() {
        true => engine.ring.put(1),
        false => engine.wait_for_room(),
    }
    engine.watch(2);
    engine.end();
    duty.join().unwrap();
}

#[test]
fn who_gets_in_line_while_room_is_made_gets_in() {
    explore(PREEMPTIONS, || overflow(None));
}

#[test]
fn getting_in_line_without_another_look_for_room_is_found_out() {
    let fault = Fault::NoLookForRoom;
    must_fail(fault, Some(3), move || overflow(Some(fault)));
}
