//! The engine's lock (`src/lock.rs`): one holder at a time, and nobody who waits for it is forgotten.
//! Its orderings are the library's own here, and the cell inside it is watched by `loom`.

use super::run::{explore, must_fail};
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::sync::{Condvar, Mutex};
use std::sync::Arc;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    /// Who was woken takes the lock as if nobody else waited.
    ForgetsOthers,
    /// Who waits does not say so in the word.
    WaitsInSecret,
    /// Taking the lock orders nothing.
    NoAcquire,
    /// Giving it up orders nothing.
    NoRelease,
}

struct Lock {
    word: AtomicU32,
    /// The kernel's: makes FUTEX_WAIT's comparison and its sleep one step.
    bucket: Mutex<()>,
    sleepers: Condvar,
    inside: UnsafeCell<u32>,
    fault: Option<Fault>,
}

impl Lock {
    fn new(fault: Option<Fault>) -> Lock {
        Lock {
            word: AtomicU32::new(0),
            bucket: Mutex::new(()),
            sleepers: Condvar::new(),
            inside: UnsafeCell::new(0),
            fault,
        }
    }

    fn acquire(&self) -> Ordering {
        match self.fault {
            Some(Fault::NoAcquire) => Ordering::Relaxed,
            _ => Ordering::Acquire,
        }
    }

    fn lock(&self) {
        let taken = self.word.compare_exchange(0, 1, self.acquire(), Ordering::Relaxed);
        if taken.is_err() {
            self.lock_contended();
        }
    }

    /// One turn of the spinning loop: the others are the same again.
    fn lock_contended(&self) {
        if self.word.load(Ordering::Relaxed) == 0
            && self.word.compare_exchange(0, 1, self.acquire(), Ordering::Relaxed).is_ok()
        {
            return;
        }
        let mut mark = 2;
        if self.fault == Some(Fault::WaitsInSecret) {
            mark = 1;
        }
        while self.word.swap(mark, self.acquire()) != 0 {
            self.futex_wait(mark);
            if self.fault == Some(Fault::ForgetsOthers) {
                mark = 1;
            }
        }
    }

    fn unlock(&self) {
        let release = match self.fault {
            Some(Fault::NoRelease) => Ordering::Relaxed,
            _ => Ordering::Release,
        };
        if self.word.swap(0, release) == 2 {
            let _bucket = self.bucket.lock().unwrap();
            self.sleepers.notify_one();
        }
    }

    fn futex_wait(&self, expected: u32) {
        let bucket = self.bucket.lock().unwrap();
        // The kernel reads the word's newest value under its own lock.
        if self.word.fetch_add(0, Ordering::Relaxed) == expected {
            drop(self.sleepers.wait(bucket).unwrap());
        }
    }

    fn section(&self) {
        self.lock();
        // SAFETY: the lock is held; `loom` checks that nobody else is here, and has ordered us after who was.
        self.inside.with_mut(|inside| unsafe { *inside += 1 });
        self.unlock();
    }
}

fn sections(fault: Option<Fault>, threads: u32) {
    let lock = Arc::new(Lock::new(fault));
    let others: Vec<_> = (1..threads)
        .map(|_| {
            let lock = Arc::clone(&lock);
            loom::thread::spawn(move || lock.section())
        })
        .collect();
    lock.section();
    for other in others {
        other.join().unwrap();
    }
    lock.lock();
    // SAFETY: the lock is held.
    assert_eq!(lock.inside.with(|inside| unsafe { *inside }), threads);
    lock.unlock();
}

#[test]
fn the_lock_lets_one_in_and_forgets_nobody() {
    explore(None, || sections(None, 2));
    explore(Some(3), || sections(None, 3));
}

#[test]
fn a_lock_that_forgets_or_orders_nothing_is_found_out() {
    for fault in [Fault::ForgetsOthers, Fault::WaitsInSecret, Fault::NoAcquire, Fault::NoRelease] {
        must_fail(fault, Some(3), move || sections(Some(fault), 3));
    }
}
