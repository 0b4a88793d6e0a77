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

/// What a model says when it fails: `loom` of a thread that sleeps for ever or of unordered accesses, or the model itself.
const FAILURES: [&str; 5] =
    ["deadlock;", "Causality violation", "assertion", "two leaders", "completed twice"];

/// The model with a mistake in it must fail, and not because it grew too large for `loom`.
pub fn must_fail(
    mistake: impl core::fmt::Debug,
    preemptions: Option<usize>,
    model: impl Fn() + Sync + Send + 'static,
) {
    let Err(panic) = catch_unwind(AssertUnwindSafe(|| explore(preemptions, model))) else {
        panic!("the model does not notice {mistake:?}");
    };
    let said = panic.downcast_ref::<String>().map(String::as_str);
    let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default();
    assert!(FAILURES.iter().any(|failure| said.contains(failure)), "{mistake:?}: {said}");
}

/// A thread of the model.
pub fn thread(engine: &Arc<Engine>, body: impl FnOnce(&Engine) + 'static) -> JoinHandle<()> {
    let engine = Arc::clone(engine);
    loom::thread::spawn(move || body(&engine))
}
