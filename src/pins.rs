//! What a helper holds a request's file by, while it works on it.
//!
//! A request that waits in the library has only a descriptor number, and the program may close it or
//! give it to another file at any moment, also between a check and the use. So a helper does not
//! use the program's descriptors at all: it has a descriptor table of its own (`CLOSE_RANGE_UNSHARE`),
//! gets its own copy of the descriptor (`pidfd_getfd`), and looks at *the copy*: is it the file that the request was
//! submitted for? What it then reads or writes is that file and no other. Closing the copy does
//! not drop the program's fcntl locks, which belong to the program's table; and a program without a free
//! descriptor does not matter, nor does one that closes all it does not know.
//!
//! Where that is refused (before Linux 5.9, or by seccomp) a helper shares the program's table and looks at the
//! descriptor itself just before it uses it: a window of some hundred nanoseconds remains. Where copies were to be had once and
//! are not any more, the completion thread does the same in the helper's place ([`crate::stand_in`]).
//!
//! A copy is kept from one request to the next of the same file, as long as the kernel says that it is what the number stands
//! for (`kcmp`): the same file opened anew may be open in another way, for appending, say.

use crate::engine::Engine;
use crate::errno::Errno;
use crate::request::Request;
use crate::sys::files::{self, Identity};
use crate::sys::tables;
use core::sync::atomic::Ordering;
use libc::c_int;

/// `Engine::own_tables`: nobody knows yet; helpers have descriptor tables of their own; they have, but could not put a
/// copy there; they cannot have any. Relaxed: it only says which way to try first, and each way finds out by itself.
const UNKNOWN: u32 = 0;
const OWN_TABLES: u32 = 1;
const NO_COPIES: u32 = 2;
const NO_OWN_TABLES: u32 = 3;

/// Whether helpers have, or will have, copies of the program's descriptors.
pub fn have_copies(engine: &Engine) -> bool {
    engine.own_tables.load(Ordering::Relaxed) < NO_COPIES
}

/// Whether helpers once could have copies, and cannot any more.
pub fn lost_copies(engine: &Engine) -> bool {
    engine.own_tables.load(Ordering::Relaxed) == NO_COPIES
}

/// A helper could have none: what waits for data is tried by number from now on, where that is in sight.
pub fn found_no_copy(engine: &Engine) {
    let _ = engine.own_tables.compare_exchange(OWN_TABLES, NO_COPIES, Ordering::Relaxed, Ordering::Relaxed);
}

/// Transfers of more bytes take long enough that somebody notices.
const LONG: usize = 1 << 20;

/// Looks, with a rest after each, at who is the completion thread: there is one, or it is just starting.
const LOOKS: usize = 10_000;

/// The thread by which the program's table is reached: one of the library's own that shares it.
fn completion_thread(engine: &Engine) -> c_int {
    for _ in 0..LOOKS {
        let thread = engine.completion_thread.load(Ordering::Relaxed);
        if thread != 0 {
            return thread as c_int;
        }
        std::thread::yield_now();
    }
    0
}

/// A helper thread's hold on files: at most one, kept while work on it goes on.
pub struct Pins {
    /// By which the program's table is reached; `None`: this thread shares it. Closed in the end, for a thread that could not leave the
    /// table that it began in.
    table: Option<c_int>,
    held: Option<Held>,
}

#[derive(Clone, Copy)]
struct Held {
    /// The number in the program's table, and what it was open on.
    fd: c_int,
    identity: Identity,
    /// Our copy.
    copy: c_int,
}

impl Pins {
    /// For the calling thread, a new helper: a table of its own, if it may have one. The first helper is a thread of
    /// the program's table and finds out; later ones may come from a helper, whose table is not the program's.
    pub fn new(engine: &Engine) -> Pins {
        let thread = completion_thread(engine);
        let tables = engine.own_tables.load(Ordering::Relaxed);
        let is_alone = if tables == UNKNOWN {
            let may = tables::may_copy_descriptors() && tables::leave_shared_table().is_ok();
            engine.own_tables.store(if may { OWN_TABLES } else { NO_OWN_TABLES }, Ordering::Relaxed);
            may
        } else {
            // A copy of a helper's table would hold its files open. What was allowed once may not be any more, where the
            // program has put itself under a filter since: copies go into whosever table this thread began in, then.
            tables != NO_OWN_TABLES && tables::leave_shared_table().is_ok()
        };
        let own = engine.own_tables.load(Ordering::Relaxed) != NO_OWN_TABLES;
        if is_alone {
            // To wake others by, for as long as the thread is there (`Ring::kick`).
            let _ = files::open_ready();
        }
        Pins { table: own.then(|| tables::open_process(thread).unwrap_or(-1)), held: None }
    }

    /// Whether this thread has a table of its own.
    pub fn own_table(&self) -> bool {
        self.table.is_some()
    }

    /// A descriptor for this thread to use, open on the request's file. ECANCELED: the request's own was closed. Any other
    /// error: no copy is to be had; the number itself still leads there, in the program's table.
    pub fn pin(&mut self, engine: &Engine, request: &Request) -> Result<c_int, Errno> {
        if request.rest().bytes > LONG {
            // We were perhaps woken on the submitter's processor, in its place: its call must return first, not
            // when a tick finds us still copying (4 ms later).
            std::thread::yield_now();
        }
        let (fd, identity) = (request.fd(), request.identity());
        if let Some(held) = self.held {
            // Closed and opened anew meanwhile it may be one for other transfers: at other places, or ways.
            let thread = engine.completion_thread.load(Ordering::Relaxed) as c_int;
            if held.fd == fd
                && held.identity == identity
                && tables::is_same_description(held.copy, thread, fd)
            {
                return Ok(held.copy);
            }
        }
        self.release();
        let copy = match self.table {
            Some(table) => self.copy(engine, table, fd).map_err(Errno::of_accepted)?,
            None => fd,
        };
        let right = files::status(copy).is_ok_and(|status| status.identity == identity);
        if self.table.is_some() {
            if right {
                self.held = Some(Held { fd, identity, copy });
            } else {
                files::close(copy);
            }
        }
        if right {
            Ok(copy)
        } else {
            Err(Errno::CANCELED)
        }
    }

    /// A copy of the program's `fd`. EBADF: it is closed. ESRCH: its table cannot be reached.
    fn copy(&mut self, engine: &Engine, mut table: c_int, fd: c_int) -> Result<c_int, Errno> {
        for _ in 0..LOOKS {
            match tables::copy_descriptor(table, fd) {
                Err(Errno::BADF) if table >= 0 => {
                    let reached = tables::reaches_table_of(completion_thread(engine));
                    return Err(if reached { Errno::BADF } else { Errno::SRCH });
                }
                Err(Errno::SRCH | Errno::BADF) => {}
                copied => return copied,
            }
            // The thread by which the table was reached has ended: another has its part now.
            files::close(table);
            table = tables::open_process(completion_thread(engine)).unwrap_or(-1);
            self.table = Some(table);
        }
        Err(Errno::SRCH)
    }

    /// Lets go of what is held: it must not keep a file open that nobody works on.
    pub fn release(&mut self) {
        if let Some(held) = self.held.take() {
            files::close(held.copy);
        }
    }

    /// A second open file description of the same pipe or terminal, which does not block: for what
    /// knows no RWF_NOWAIT. Only where the table is our own; `None` for what opens anew each time (/dev/ptmx).
    pub fn open_nonblocking(&self, copy: c_int, flags: c_int) -> Option<c_int> {
        self.table?;
        tables::reopen(copy, flags | libc::O_NONBLOCK | libc::O_NOCTTY).ok()
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        self.release();
        if let Some(table) = self.table {
            files::close(table);
        }
    }
}
