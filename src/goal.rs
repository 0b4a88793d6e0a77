//! What a thread waits for, and whether it has come.

use crate::abi::{Aiocb, AiocbRef};
use crate::engine::Engine;
use crate::pool::Number;
use crate::request::{find, flag, Request, BOUNCED, SUBMITTING};
use crate::wake::SEVERAL;
use core::sync::atomic::Ordering;

/// What is waited for: one of the list (`batch` 0), or the end of a batch. No aiocb of a batch is looked at: those that are
/// complete are the caller's again, and may be gone.
#[derive(Clone, Copy)]
pub struct Goal {
    list: *const *const Aiocb,
    count: usize,
    pub batch: Number,
    /// Any completion that nobody has returned (`finished`), whatever the list.
    pub any: bool,
}

impl Goal {
    /// # Safety
    /// `list` has `count` entries, each NULL or a valid aiocb, until the wait is over: the caller of
    /// aio_suspend guarantees it.
    pub unsafe fn one_of(list: *const *const Aiocb, count: usize) -> Goal {
        Goal { list, count, batch: 0, any: false }
    }

    /// All of a lio_listio call.
    pub fn all_of(batch: Number) -> Goal {
        Goal { list: core::ptr::null(), count: 0, batch, any: false }
    }

    /// The next completion of the process.
    pub fn any() -> Goal {
        Goal { list: core::ptr::null(), count: 0, batch: 0, any: true }
    }

    pub fn entries(self) -> impl Iterator<Item = AiocbRef> {
        // SAFETY: promised to `one_of`.
        (0..self.count).filter_map(move |at| unsafe { AiocbRef::new(*self.list.add(at)) })
    }

    pub fn reached(self, engine: &Engine) -> bool {
        if self.any {
            return engine.finished.any();
        }
        match engine.batches.get(self.batch) {
            Some(batch) => batch.pending.load(Ordering::SeqCst) == 0,
            None => self.entries().any(|aiocb| !aiocb.in_progress()),
        }
    }

    /// One look at all of it. `None`: no need to wait, or nothing to wait for: one is complete, or not known to be under
    /// way (a parent's, garbage, or one that a thread is just submitting, perhaps below this very signal
    /// handler), and the caller looks and decides. Else whether the ring has a part in what is left.
    pub fn look(self, engine: &Engine) -> Option<bool> {
        if self.any || self.batch != 0 {
            return if self.reached(engine) { None } else { Some(self.any || self.batch_needs_ring(engine)) };
        }
        let mut needs_ring = None;
        for aiocb in self.entries() {
            if !aiocb.in_progress() {
                return None;
            }
            let (_, request) = find(&engine.requests, aiocb)?;
            if matches!(request.state(), SUBMITTING | BOUNCED) {
                return None;
            }
            needs_ring = Some(needs_ring == Some(true) || !request.has(flag::OFF_RING));
        }
        needs_ring
    }

    fn batch_needs_ring(self, engine: &Engine) -> bool {
        engine.batches.get(self.batch).is_some_and(|batch| batch.by_ring.load(Ordering::Relaxed) != 0)
    }

    /// Whether it was reached since `Engine::ended` was `seen` and then a look found that it was not: spares another look
    /// at a long list where nothing has ended since. SeqCst: `wake`, rule 1.
    pub fn reached_since(self, engine: &Engine, seen: u64) -> bool {
        let counted = self.any || self.batch != 0 || engine.ending.load(Ordering::SeqCst) != seen;
        counted && self.reached(engine)
    }

    /// Whether the request is one of those waited for.
    pub fn includes(self, request: &Request) -> bool {
        if self.batch != 0 {
            return request.batch.get() == self.batch;
        }
        // SAFETY: promised to `one_of`.
        (0..self.count).any(|at| unsafe { *self.list.add(at) } as u64 == request.aiocb_address())
    }

    /// Puts the waiter's number where completions find it. SeqCst: `wake`, rule 1.
    pub fn register(self, engine: &Engine, number: Number) {
        if let Some(batch) = engine.batches.get(self.batch) {
            batch.waiter.store(number, Ordering::SeqCst);
            return;
        }
        if self.any {
            return engine.finished.register(number);
        }
        for aiocb in self.entries().filter(|aiocb| aiocb.in_progress()) {
            let Some((_, request)) = find(&engine.requests, aiocb) else {
                continue;
            };
            let before = request
                .waiter
                .compare_exchange(0, number, Ordering::SeqCst, Ordering::SeqCst)
                .unwrap_or_else(|w| w);
            if before != 0 && before != number {
                request.waiter.store(SEVERAL, Ordering::SeqCst);
            }
        }
    }

    pub fn unregister(self, engine: &Engine, number: Number) {
        if let Some(batch) = engine.batches.get(self.batch) {
            batch.waiter.store(0, Ordering::SeqCst);
        }
        if self.any {
            engine.finished.unregister(number);
        }
        for aiocb in self.entries().filter(|aiocb| aiocb.in_progress()) {
            if let Some((_, request)) = find(&engine.requests, aiocb) {
                let _ = request.waiter.compare_exchange(number, 0, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
    }
}
