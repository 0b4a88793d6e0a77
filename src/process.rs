//! Starting: at the first call a context, or libc's own implementation instead. Threads come later
//! (`threads`), with the first request that is not complete at once.

use crate::engine::Engine;
use crate::errno::Errno;
use crate::fork::{current, make_page, page, Page};
use crate::lock::Blocked;
use crate::observe;
use crate::ring::{Ring, DEFAULT_REQUESTS};
use crate::settings;
use crate::sys::context::io_destroy;
use crate::sys::threads::{map_zeroed, replace_zeroed, unmap};
use core::ffi::CStr;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// Who answers this process's calls.
pub enum Service {
    Engine(&'static Engine),
    /// The kernel refused a context: libc's own implementation.
    Libc,
}

/// Tells this process's engine from its parent's, which counted lower. Not wiped in a child.
static EPOCH: AtomicU32 = AtomicU32::new(0);

/// 1: the kernel wipes no page, so there is none, and libc's own implementation serves this process and its children.
static UNWIPED: AtomicU32 = AtomicU32::new(0);

/// `aio_init`'s hints; 0: none given.
static HINT_THREADS: AtomicU32 = AtomicU32::new(0);
static HINT_REQUESTS: AtomicU32 = AtomicU32::new(0);

const MOST_HELPERS: u32 = crate::worklist::PLACES as u32;

/// Hints for the engine, where it has not started yet: most helper threads, requests in flight.
pub fn hint(threads: i32, requests: i32) {
    HINT_THREADS.store(threads.max(0) as u32, Ordering::Relaxed);
    HINT_REQUESTS.store(requests.max(0) as u32, Ordering::Relaxed);
}

/// Who answers, starting the engine at the first call. EAGAIN: memory or threads are out; nothing
/// was decided, and the next call tries again.
#[inline]
pub fn service() -> Result<Service, Errno> {
    match current() {
        Some(engine) => Ok(Service::Engine(engine)),
        None => start(),
    }
}

/// Who answers, if that was decided already. Async-signal-safe.
#[inline]
pub fn decided() -> Option<Service> {
    let Some(page) = page() else {
        return (UNWIPED.load(Ordering::Acquire) != 0).then_some(Service::Libc);
    };
    match current() {
        Some(engine) => Some(Service::Engine(engine)),
        None => (page.refused.load(Ordering::Acquire) != 0).then_some(Service::Libc),
    }
}

#[cold]
fn start() -> Result<Service, Errno> {
    if let Some(service) = decided() {
        return Ok(service);
    }
    let page = match make_page() {
        Ok(page) => page,
        // Older than 4.14, or a seccomp filter's answer.
        Err(Errno::NOSYS) => {
            crate::libc_fallback::prepare();
            UNWIPED.store(1, Ordering::Release);
            return Ok(Service::Libc);
        }
        Err(errno) => return Err(errno),
    };
    // What may ask the dynamic loader comes before and after the start lock: the loader's own lock is held by who runs an
    // object's constructor, which may be about to start us, too.
    let _ = crate::finished::is_referred_to();
    if let Some(service) = start_engine(page)? {
        return Ok(service);
    }
    crate::libc_fallback::prepare();
    let blocked = Blocked::new();
    let _guard = page.start.lock(&blocked);
    // Another thread may have been given a context meanwhile.
    if let Some(service) = decided() {
        return Ok(service);
    }
    observe::context_refused();
    page.refused.store(1, Ordering::Release);
    Ok(Service::Libc)
}

/// The engine, or what another thread decided before us. `None`: the kernel refuses a context.
fn start_engine(page: &Page) -> Result<Option<Service>, Errno> {
    let blocked = Blocked::new();
    let _guard = page.start.lock(&blocked);
    if let Some(service) = decided() {
        return Ok(Some(service));
    }
    observe::start();
    let Some(engine) = new_engine()? else {
        return Ok(None);
    };
    observe::engine_started();
    page.engine.store(core::ptr::from_ref(engine).cast_mut(), Ordering::Release);
    Ok(Some(Service::Engine(engine)))
}

/// A new engine; its threads start with the first request that needs them. `None`: the kernel refuses a context.
fn new_engine() -> Result<Option<&'static Engine>, Errno> {
    let requests = hinted(c"AIO_POSIX_EVENTS", &HINT_REQUESTS).unwrap_or(DEFAULT_REQUESTS);
    let most_helpers =
        hinted(c"AIO_POSIX_THREADS", &HINT_THREADS).map_or(MOST_HELPERS, |hint| hint.clamp(2, MOST_HELPERS));
    let Ok(ring) = Ring::new(requests) else {
        return Ok(None);
    };
    let Some(memory) = map_zeroed(size_of::<Engine>()) else {
        let _ = io_destroy(ring.id());
        return Err(Errno::AGAIN);
    };
    let epoch = EPOCH.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
    let place = memory.cast::<Engine>();
    // SAFETY: a fresh page-aligned mapping of the engine's size, which nothing ever unmaps.
    let engine = unsafe {
        place.write(Engine::new(ring, epoch, most_helpers));
        place.as_ref()
    };
    // The completion thread's seat, before anyone can wait.
    if engine.waiters.take().is_none() {
        let _ = io_destroy(engine.ring.id());
        // SAFETY: nobody else has seen this engine.
        unsafe { unmap(memory, size_of::<Engine>()) };
        return Err(Errno::AGAIN);
    }
    forget_parents_ring(engine);
    if crate::finished::is_referred_to() {
        engine.finished.want();
    }
    Ok(Some(engine))
}

/// What who runs the program says, by a variable, or else the program itself, by aio_init. `None`: nothing, or 0, or no
/// number.
fn hinted(variable: &CStr, program: &AtomicU32) -> Option<u32> {
    let said = settings::variable(variable).and_then(settings::number);
    [said.unwrap_or(0), program.load(Ordering::Relaxed)].into_iter().find(|&hint| hint != 0)
}

/// Where the last ring of this line of forks is mapped, and its size. Not wiped in a child.
static RING_ADDRESS: AtomicUsize = AtomicUsize::new(0);
static RING_BYTES: AtomicUsize = AtomicUsize::new(0);

/// A child still has its parent's ring mapped, shared: it would see the parent's completions. Zeroes in
/// its place, not a hole: a frame of the parent's, with the handler that forked on top, may yet look there.
fn forget_parents_ring(engine: &Engine) {
    let parents = RING_ADDRESS.swap(engine.ring.id(), Ordering::Relaxed);
    let bytes = RING_BYTES.swap(engine.ring.bytes(), Ordering::Relaxed);
    if parents != 0 && parents != engine.ring.id() {
        // SAFETY: no context of this process lives there; its engine is not current any more.
        unsafe { replace_zeroed(parents, bytes) };
    }
}
