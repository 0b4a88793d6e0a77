//! Notification: what a sigevent asks for, and its delivery after the status is stored.

use crate::abi::Sigevent;
use crate::engine::Engine;
use crate::errno::Errno;
use crate::lock::{Blocked, Guard};
use crate::observe;
use crate::pool::Number;
use crate::request::{Home, List, Request, ENDED};
use crate::sys::files;
use crate::sys::threads::queue_signal;
use crate::wake::{wake, COMPLETION_THREAD};
use libc::c_int;

/// How somebody is told. A copy: the caller's sigevent may change once the call has returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notice {
    None,
    /// SIGEV_SIGNAL, or SIGEV_THREAD_ID when `thread` is given.
    Signal {
        signo: c_int,
        thread: Option<c_int>,
        value: usize,
    },
    /// SIGEV_THREAD: function, its argument, and a `pthread_attr_t *` or NULL, which
    /// must stay valid until it is used (as glibc).
    Thread {
        function: usize,
        value: usize,
        attributes: usize,
    },
    /// SIGEV_AIO_EVENTFD: adds one to it.
    Eventfd {
        fd: c_int,
    },
}

/// `sigev_notify` for an eventfd in `sigev_signo`: far from the numbers of the system's headers.
pub const SIGEV_AIO_EVENTFD: c_int = 0x0a10;

const SIGRTMAX: c_int = 64;

impl Notice {
    /// EINVAL: a signal number below 0 or over SIGRTMAX. EBADF: an eventfd that is not open. Signal 0 (a zeroed sigevent; MPICH relies
    /// on it) and an unknown `sigev_notify` mean no notification, as with glibc.
    pub fn parse(sigevent: &Sigevent) -> Result<Notice, Errno> {
        let value = sigevent.value;
        match sigevent.notify {
            libc::SIGEV_SIGNAL | libc::SIGEV_THREAD_ID => {
                let signo = sigevent.signo;
                let thread =
                    (sigevent.notify == libc::SIGEV_THREAD_ID).then_some(sigevent.function as u32 as c_int);
                match signo {
                    0 => Ok(Notice::None),
                    1..=SIGRTMAX => Ok(Notice::Signal { signo, thread, value }),
                    _ => Err(Errno::INVAL),
                }
            }
            libc::SIGEV_THREAD if sigevent.function != 0 => {
                Ok(Notice::Thread { function: sigevent.function, value, attributes: sigevent.attributes })
            }
            SIGEV_AIO_EVENTFD => {
                files::status_flags(sigevent.signo).map(|_| Notice::Eventfd { fd: sigevent.signo })
            }
            _ => Ok(Notice::None),
        }
    }

    /// Whether libc's own implementation does not know of it.
    pub fn is_ours(self) -> bool {
        matches!(self, Notice::Eventfd { .. })
    }

    pub fn store(self, request: &Request) {
        match self {
            Notice::None => request.notice.set(0),
            Notice::Signal { signo, thread, value } => {
                request.notice.set(if thread.is_some() { 2 } else { 1 });
                request.signo.set(signo as u32);
                request.function.set(thread.unwrap_or(0) as u64);
                request.value.set(value as u64);
            }
            Notice::Thread { function, value, attributes } => {
                request.notice.set(3);
                request.function.set(function as u64);
                request.value.set(value as u64);
                request.attributes.set(attributes as u64);
            }
            Notice::Eventfd { fd } => {
                request.notice.set(4);
                request.signo.set(fd as u32);
            }
        }
    }

    pub fn load(request: &Request) -> Notice {
        let value = request.value.get() as usize;
        let signo = request.signo.get() as c_int;
        match request.notice.get() {
            1 => Notice::Signal { signo, thread: None, value },
            2 => Notice::Signal { signo, thread: Some(request.function.get() as c_int), value },
            3 => Notice::Thread {
                function: request.function.get() as usize,
                value,
                attributes: request.attributes.get() as usize,
            },
            4 => Notice::Eventfd { fd: signo },
            _ => Notice::None,
        }
    }
}

/// Notifications that only the completion thread can deliver: threads to start, signals that found the queue of
/// pending signals full, eventfds that found the ring full. Guarded by the engine's lock.
#[derive(Default)]
pub struct Outbox {
    waiting: List,
    /// Could not be delivered when last tried, by kind: while the first of a kind cannot be, nor can those behind it.
    refused: [List; KINDS],
}

const KINDS: usize = 3;

fn kind_of(notice: Notice) -> usize {
    match notice {
        Notice::None | Notice::Signal { .. } => 0,
        Notice::Thread { .. } => 1,
        Notice::Eventfd { .. } => 2,
    }
}

/// Delivers what the request carries and frees it, or leaves it to the completion thread.
/// Its status is stored: it is the library's alone. Async-signal-safe.
pub fn deliver(engine: &Engine, blocked: &Blocked, number: Number) {
    let request = engine.request(number);
    request.set_state(ENDED);
    observe::notified(Notice::load(request));
    let delivered = match Notice::load(request) {
        Notice::None => true,
        Notice::Signal { signo, thread, value } => try_signal(engine, signo, thread, value),
        Notice::Thread { .. } => false,
        // In a helper's own table the number is another file's, or nobody's.
        Notice::Eventfd { fd } => blocked.sees_descriptors() && try_eventfd(engine, fd),
    };
    if delivered {
        engine.free_request(number);
    } else {
        let guard = engine.lock.lock(blocked);
        engine.outbox.waiting.push_back(&engine.requests, number, Home::None);
        drop(guard);
        wake(engine, COMPLETION_THREAD);
    }
}

/// False: the queue of pending signals is full, try again later. A thread that is gone, or a signal that
/// may not be sent, is nobody to tell.
pub fn try_signal(engine: &Engine, signo: c_int, thread: Option<c_int>, value: usize) -> bool {
    queue_signal(engine.process, signo, thread, value) != Err(Errno::AGAIN)
}

/// Adds one to an eventfd. False: the ring has no place to do it by, try again later. What is no eventfd (any
/// more) is nobody to tell. Only where the program's descriptors are seen. Async-signal-safe.
pub fn try_eventfd(engine: &Engine, fd: c_int) -> bool {
    engine.ring.add_one(fd) != Err(Errno::AGAIN)
}

/// Whether nothing waits for the completion thread to be delivered. With the lock held.
pub fn is_outbox_empty(engine: &Engine, _: &Guard) -> bool {
    engine.outbox.waiting.is_empty()
}

/// For the completion thread: delivers what is in the outbox by `try_one`, which answers whether it could. False: some
/// could not be delivered yet; of these one of each kind was tried.
pub fn deliver_outbox(engine: &Engine, blocked: &Blocked, try_one: impl Fn(Notice) -> bool) -> bool {
    let outbox = &engine.outbox;
    let mut refused = [false; KINDS];
    loop {
        let guard = engine.lock.lock(blocked);
        // The older ones first.
        let oldest = (0..KINDS).find(|&kind| !refused[kind] && !outbox.refused[kind].is_empty());
        let from = oldest.map_or(&outbox.waiting, |kind| &outbox.refused[kind]);
        let Some(number) = from.pop_front(&engine.requests) else {
            return outbox.refused.iter().all(List::is_empty);
        };
        let notice = Notice::load(engine.request(number));
        let kind = kind_of(notice);
        if refused[kind] {
            outbox.refused[kind].push_back(&engine.requests, number, Home::None);
            continue;
        }
        drop(guard);
        if try_one(notice) {
            engine.free_request(number);
            continue;
        }
        refused[kind] = true;
        let _guard = engine.lock.lock(blocked);
        outbox.refused[kind].push_front(&engine.requests, number, Home::None);
    }
}
