//! Running a model, and asking that it fails.

use super::engine::Engine;
use loom::thread::JoinHandle;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;

/// Explores every execution with at most `preemptions` switches away from a thread that could go on (switches where a
/// thread blocks or ends are not counted, and all are explored). Nearly all concurrency mistakes
/// show with two; `None` is no bound.
pub fn explore(preemptions: Option<usize>, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.max_branches = 20_000;
    builder.check(model);
}

/// The model with a mistake in it must fail: a deadlock, or an assertion.
pub fn must_fail(
    mistake: impl core::fmt::Debug,
    preemptions: Option<usize>,
    model: impl Fn() + Sync + Send + 'static,
) {
    let outcome = catch_unwind(AssertUnwindSafe(|| explore(preemptions, model)));
    assert!(outcome.is_err(), "the model does not notice {mistake:?}");
}

/// A thread of the model.
pub fn thread(engine: &Arc<Engine>, body: impl FnOnce(&Engine) + 'static) -> JoinHandle<()> {
    let engine = Arc::clone(engine);
    loom::thread::spawn(move || body(&engine))
}
