//! The memory that the parent shares with the child: the child's log of what it saw, and the buffers of its
//! requests. It outlives a child that crashes or hangs, and a forked child of the child writes to it as well.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::plan::Plan;

/// What a record tells. The comments say which fields mean what; `before` and `after` always enclose the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// A submitting call: subject request, value and error its result.
    Submit = 1,
    /// lio_listio came back: subject list, value and error its result.
    ListReturn,
    /// aio_error said `error`, and when that was final aio_return said `value`: subject request.
    Status,
    /// aio_suspend: value and error its result, extra its time-out, subject the microseconds it took.
    /// What it waited for follows as Status records of the same group.
    Suspend,
    /// aio_cancel: subject request or NOTHING, extra slot, value and error its result; Status records follow.
    Cancel,
    /// close or dup2: subject slot, value the end that it now leads to or -1.
    Rebind,
    /// A sync read or write: subject request, extra end, value and error its result.
    Transfer,
    /// shutdown(SHUT_WR): subject end.
    Shutdown,
    /// fork: group the child's number.
    Fork,
    /// The forked child was waited for: group the child's number, value the wait status.
    Reaped,
    /// Status of an inherited request in a forked child: subject request, value and error as in Status.
    View,
    /// A signal or callback came: subject request or list, error its status at that moment, value the number of
    /// a list's elements not complete at that moment.
    Notify,
    /// Something that the child could judge by itself: value a code of `problems`, subject what it is about.
    Problem,
    /// aio_waitcomplete gave this request: subject request; a Status record with its result follows.
    Next,
    /// The child came to its end.
    End,
}

const KINDS: [Kind; 15] = [
    Kind::Submit,
    Kind::ListReturn,
    Kind::Status,
    Kind::Suspend,
    Kind::Cancel,
    Kind::Rebind,
    Kind::Transfer,
    Kind::Shutdown,
    Kind::Fork,
    Kind::Reaped,
    Kind::View,
    Kind::Notify,
    Kind::Problem,
    Kind::Next,
    Kind::End,
];

pub const NOTHING: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Record {
    pub kind: Kind,
    /// 0 for the child, the number of the fork for one of its own children.
    pub process: u32,
    pub subject: u32,
    pub group: u32,
    pub before: u64,
    pub after: u64,
    pub value: i64,
    /// As aio_error says it, or `NOT_LOOKED`.
    pub error: i32,
    pub extra: i32,
}

/// What a notification that says nothing of the status has for an error.
pub const NOT_LOOKED: i32 = i32::MIN;

/// A record as it lies in the memory; `kind` is stored last, with Release, and 0 until then.
#[repr(C)]
struct Cell {
    kind: AtomicU32,
    words: [AtomicU32; 3],
    longs: [AtomicU64; 4],
}

#[repr(C)]
struct Header {
    /// Ticks at every look, in all threads and processes: what happened before what.
    clock: AtomicU64,
    records: AtomicU64,
    groups: AtomicU32,
}

const CAPACITY: usize = 60_000;
const NOTIFIED: usize = 4096;

/// The mapping. It is never unmapped in the child, and in the parent when dropped.
pub struct Shared {
    base: *mut u8,
    length: usize,
    cells: usize,
    data: usize,
    data_size: usize,
    file: File,
}

// SAFETY: all of the memory but the data is atomics, and the data is handed out as raw pointers only.
unsafe impl Sync for Shared {}
// SAFETY: the mapping belongs to no thread.
unsafe impl Send for Shared {}

impl Shared {
    pub fn create(plan: &Plan) -> io::Result<Shared> {
        // SAFETY: the name is a C string; the descriptor is new and owned by the File alone.
        let file = unsafe {
            let descriptor = libc::memfd_create(c"aio-model".as_ptr(), libc::MFD_CLOEXEC);
            if descriptor < 0 {
                return Err(io::Error::last_os_error());
            }
            File::from_raw_fd(descriptor)
        };
        Shared::map(file, plan, true)
    }

    pub fn open(path: &Path, plan: &Plan) -> io::Result<Shared> {
        Shared::map(OpenOptions::new().read(true).write(true).open(path)?, plan, false)
    }

    /// How another process opens it, as long as this one lives.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    fn map(file: File, plan: &Plan, new: bool) -> io::Result<Shared> {
        let cells = NOTIFIED + (plan.requests.len() * 4).next_multiple_of(4096);
        let data = cells + (CAPACITY * size_of::<Cell>()).next_multiple_of(4096);
        let length = data + plan.data_size;
        if new {
            file.set_len(length as u64)?;
        }
        // SAFETY: a new mapping of a file that is as long as the mapping.
        let base = unsafe {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Shared { base: base.cast(), length, cells, data, data_size: plan.data_size, file })
    }

    fn header(&self) -> &Header {
        // SAFETY: the mapping starts with the header, page aligned, all atomics.
        unsafe { &*self.base.cast() }
    }

    fn cell(&self, index: usize) -> &Cell {
        assert!(index < CAPACITY);
        // SAFETY: inside the mapping, aligned to 48 bytes from a page, all atomics.
        unsafe { &*self.base.add(self.cells).cast::<Cell>().add(index) }
    }

    /// How often request or list `id` has notified, in all processes.
    pub fn notified(&self, id: u32) -> &AtomicU32 {
        // SAFETY: there is room for one counter for each request of the plan, and ids are below their number.
        unsafe { &*self.base.add(NOTIFIED).cast::<AtomicU32>().add(id as usize) }
    }

    pub fn tick(&self) -> u64 {
        self.header().clock.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// The clock as it stands.
    pub fn now(&self) -> u64 {
        self.header().clock.load(Ordering::SeqCst)
    }

    pub fn new_group(&self) -> u32 {
        self.header().groups.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Async-signal-safe. Records beyond the capacity are counted but not kept; `records` fails then.
    pub fn add(&self, record: Record) {
        let index = self.header().records.fetch_add(1, Ordering::Relaxed) as usize;
        if index >= CAPACITY {
            return;
        }
        let cell = self.cell(index);
        let words = [record.process, record.subject, record.group];
        let last = u64::from(record.error as u32) << 32 | u64::from(record.extra as u32);
        let longs = [record.before, record.after, record.value as u64, last];
        cell.words.iter().zip(words).for_each(|(to, from)| to.store(from, Ordering::Relaxed));
        cell.longs.iter().zip(longs).for_each(|(to, from)| to.store(from, Ordering::Relaxed));
        // Release: the parent that sees the kind (Acquire in `records`) sees the rest.
        cell.kind.store(record.kind as u32, Ordering::Release);
    }

    pub fn records(&self) -> Result<Vec<Record>, String> {
        let count = self.header().records.load(Ordering::Acquire) as usize;
        if count > CAPACITY {
            return Err(format!("{count} records do not fit the log"));
        }
        let cells = (0..count).map(|index| self.cell(index));
        Ok(cells.filter_map(decode).collect())
    }

    /// Where a request's buffer lies. Valid for its length and canary, as the plan reserved it.
    pub fn buffer(&self, position: usize) -> *mut u8 {
        assert!(position < self.data_size);
        // SAFETY: inside the mapping.
        unsafe { self.base.add(self.data + position) }
    }

    /// What lies in a buffer now.
    pub fn copy_of(&self, position: usize, length: usize) -> Vec<u8> {
        assert!(position + length <= self.data_size);
        let mut copy = vec![0; length];
        // SAFETY: inside the mapping; raw, because a child killed late may still write.
        unsafe { std::ptr::copy_nonoverlapping(self.buffer(position), copy.as_mut_ptr(), length) };
        copy
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `map`; references into it borrow self.
        unsafe { libc::munmap(self.base.cast(), self.length) };
    }
}

fn decode(cell: &Cell) -> Option<Record> {
    // A thread that was killed between taking a cell and filling it leaves zero.
    let number = cell.kind.load(Ordering::Acquire);
    let kind = *KINDS.get(number.checked_sub(1)? as usize)?;
    let [process, subject, group] = [0, 1, 2].map(|index: usize| cell.words[index].load(Ordering::Relaxed));
    let [before, after, value, last] =
        [0, 1, 2, 3].map(|index: usize| cell.longs[index].load(Ordering::Relaxed));
    let (error, extra) = ((last >> 32) as i32, last as i32);
    Some(Record { kind, process, subject, group, before, after, value: value as i64, error, extra })
}

/// What a Problem record's value means.
pub mod problems {
    pub const WRONG_LIBRARY: i64 = 1;
    pub const SIGNAL_FIELDS: i64 = 2;
    pub const LIBRARY_TOOK_SIGPIPE: i64 = 3;
    pub const TOUCHED_AIOCB: i64 = 4;
    pub const TOUCHED_BUFFER: i64 = 5;
    pub const STUCK: i64 = 6;
    pub const CHILD_SUSPEND: i64 = 7;
    pub const CHILD_PIPE: i64 = 8;
    pub const HARNESS: i64 = 9;
    pub const UNKNOWN_NOTIFICATION: i64 = 10;
    pub const RETURN_DIFFERS: i64 = 11;
    pub const NEXT: i64 = 12;

    pub fn describe(code: i64) -> &'static str {
        match code {
            WRONG_LIBRARY => "aio_read resolves to the wrong library",
            SIGNAL_FIELDS => "wrong si_code, si_pid or si_uid in a signal",
            LIBRARY_TOOK_SIGPIPE => "SIGPIPE reached a thread of the program",
            TOUCHED_AIOCB => "an aiocb changed after its completion",
            TOUCHED_BUFFER => "a buffer changed after its completion",
            STUCK => "a request does not complete",
            CHILD_SUSPEND => "aio_suspend in a forked child on inherited requests failed",
            CHILD_PIPE => "a forked child's own pipe request went wrong",
            HARNESS => "a call of the test itself failed",
            UNKNOWN_NOTIFICATION => "a notification with an unknown value",
            RETURN_DIFFERS => "aio_error changed between two calls after completion",
            NEXT => "aio_waitcomplete gives no request, and a strange errno",
            _ => "unknown problem",
        }
    }
}
