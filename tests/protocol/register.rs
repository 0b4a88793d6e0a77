//! Rule 1: a completion meets a waiter that is just registering. Rule 2: it meets a leader that sleeps in the ring.

use super::engine::{Engine, Kind};
use super::fault::Fault;
use super::kernel::SeqCst;
use super::run::{explore, must_fail, thread};
use super::waiting::Goal;
use std::sync::Arc;

const OFF_RING: Kind = Kind { off_ring: true, held: true, owed: false, notice: false, batch: false };
const HELD: Kind = Kind { off_ring: false, ..OFF_RING };
const IN_RING: Kind = Kind { held: false, ..HELD };

/// What `kernel` says of SeqCst, which everything here rests on.
#[test]
fn seq_cst_words_have_one_order() {
    explore(None, || {
        let words = Arc::new([SeqCst::new(0), SeqCst::new(0)]);
        let other = Arc::clone(&words);
        let there = loom::thread::spawn(move || {
            other[1].store(1);
            other[0].load()
        });
        words[0].store(1);
        let here = words[1].load();
        assert!(here == 1 || there.join().unwrap() == 1);
    });
}

/// One waiter, one request that a helper completes. No bound.
fn one_waiter(fault: Option<Fault>) {
    let engine = Arc::new(Engine::new(fault, 1, &[OFF_RING]));
    let waiter = thread(&engine, |engine| engine.wait(2, Goal::Any(&[0])));
    engine.complete(0);
    waiter.join().unwrap();
}

#[test]
fn a_completion_finds_the_waiter_or_is_seen_by_it() {
    explore(None, || one_waiter(None));
}

#[test]
fn a_waiter_that_looks_too_early_is_found_out() {
    for fault in [Fault::LooksBeforeWord, Fault::LooksBeforeRegistering, Fault::WaiterBeforeStatus] {
        must_fail(fault, None, move || one_waiter(Some(fault)));
    }
}

/// The counters stand for a second look at the list: each half of the rule in `wake` is needed.
#[test]
fn a_completion_that_is_counted_at_the_wrong_time_is_found_out() {
    for fault in [Fault::CountsOnlyAfter, Fault::CountsOnlyBefore, Fault::LooksBeforeCount] {
        must_fail(fault, None, move || one_waiter(Some(fault)));
    }
}

/// Two waiters for one request, one of them for another one too.
fn two_waiters(fault: Option<Fault>) {
    let engine = Arc::new(Engine::new(fault, 2, &[OFF_RING, OFF_RING]));
    let first = thread(&engine, |engine| engine.wait(2, Goal::Any(&[0])));
    let second = thread(&engine, |engine| engine.wait(3, Goal::Any(&[1, 0])));
    engine.complete(0);
    first.join().unwrap();
    second.join().unwrap();
}

#[test]
fn both_waiters_of_a_request_are_woken() {
    explore(Some(3), || two_waiters(None));
}

#[test]
fn a_waiter_that_is_overwritten_is_found_out() {
    let fault = Fault::OverwritesWaiter;
    must_fail(fault, Some(3), move || two_waiters(Some(fault)));
}

/// LIO_WAIT for two requests that two threads complete.
fn batch(fault: Option<Fault>) {
    const PART: Kind = Kind { batch: true, ..OFF_RING };
    let engine = Arc::new(Engine::new(fault, 1, &[PART, PART]));
    let waiter = thread(&engine, |engine| engine.wait(2, Goal::Batch(&[0, 1])));
    let helper = thread(&engine, |engine| engine.complete(1));
    engine.complete(0);
    waiter.join().unwrap();
    helper.join().unwrap();
}

#[test]
fn the_last_of_a_batch_wakes_its_waiter() {
    explore(Some(3), || batch(None));
}

#[test]
fn a_batch_waiter_that_looks_too_early_is_found_out() {
    for fault in [Fault::LooksBeforeWord, Fault::LooksBeforeRegistering] {
        must_fail(fault, Some(3), move || batch(Some(fault)));
    }
}

/// A leader waits for a request whose event never comes, and one that completes off the ring. No bound.
fn kicked_leader(fault: Option<Fault>) {
    let engine = Arc::new(Engine::new(fault, 1, &[IN_RING, HELD]));
    let leader = thread(&engine, |engine| engine.wait(2, Goal::Any(&[0, 1])));
    engine.complete(1);
    leader.join().unwrap();
}

#[test]
fn a_completion_off_the_ring_wakes_a_leader_in_it() {
    explore(None, || kicked_leader(None));
}

#[test]
fn a_leader_that_is_not_kicked_is_found_out() {
    for fault in [Fault::NoKick, Fault::LeaderNeverRegisters, Fault::LooksBeforeWord] {
        must_fail(fault, None, move || kicked_leader(Some(fault)));
    }
}

/// A leader waits for a request that a helper gives to the kernel, which refuses it. No bound.
fn refused(fault: Option<Fault>) {
    let engine = Arc::new(Engine::new(fault, 1, &[HELD]));
    let leader = thread(&engine, |engine| engine.wait(2, Goal::Any(&[0])));
    engine.submit_refused(0);
    leader.join().unwrap();
}

#[test]
fn what_the_kernel_refuses_still_finds_its_waiter() {
    explore(None, || refused(None));
}

#[test]
fn letting_a_request_go_before_it_is_refused_is_found_out() {
    let fault = Fault::LetsGoBeforeRefusal;
    must_fail(fault, None, move || refused(Some(fault)));
}

/// A leader waits for an event and for a completion off the ring, which race.
fn event_and_completion(fault: Option<Fault>) {
    let engine = Arc::new(Engine::new(fault, 1, &[IN_RING, HELD]));
    let leader = thread(&engine, |engine| {
        engine.wait(2, Goal::Any(&[0, 1]));
        engine.wait(2, Goal::Any(&[0]));
        engine.wait(2, Goal::Any(&[1]));
    });
    let helper = thread(&engine, |engine| engine.complete(1));
    engine.ring.put(0);
    leader.join().unwrap();
    helper.join().unwrap();
}

#[test]
fn an_event_and_a_kick_at_once_are_both_seen() {
    explore(Some(3), || event_and_completion(None));
}

/// LIO_WAIT for one request that may come from the ring, and that another thread cancels. No bound.
fn cancelled_batch(fault: Option<Fault>) {
    const PART: Kind = Kind { batch: true, ..HELD };
    let engine = Arc::new(Engine::new(fault, 1, &[PART]));
    let waiter = thread(&engine, |engine| engine.wait(2, Goal::Batch(&[0])));
    engine.complete(0);
    waiter.join().unwrap();
}

#[test]
fn a_batch_that_ends_off_the_ring_wakes_a_leader_in_it() {
    explore(None, || cancelled_batch(None));
}

#[test]
fn a_batch_whose_request_is_no_longer_held_too_early_is_found_out() {
    let fault = Fault::HeldFallsBeforeBatch;
    must_fail(fault, None, move || cancelled_batch(Some(fault)));
}
