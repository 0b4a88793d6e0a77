//! The table of what is measured. A cell is one kind of work; each depth of it is measured on its own.

/// Whose asynchronous I/O does the work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// POSIX AIO as libc implements it.
    Libc,
    /// POSIX AIO with libaio_posix preloaded.
    Library,
    /// io_setup, io_submit and io_getevents called directly, as libaio does.
    Libaio,
    /// io_uring through the io-uring crate.
    Uring,
}

impl Side {
    pub const ALL: [Side; 4] = [Side::Libc, Side::Library, Side::Libaio, Side::Uring];

    pub fn name(self) -> &'static str {
        match self {
            Side::Libc => "libc",
            Side::Library => "library",
            Side::Libaio => "libaio",
            Side::Uring => "io_uring",
        }
    }

    pub fn from_name(name: &str) -> Option<Side> {
        Side::ALL.into_iter().find(|side| side.name() == name)
    }

    /// Is this one of the kernel's own interfaces, which the library is held against?
    pub fn is_raw(self) -> bool {
        matches!(self, Side::Libaio | Side::Uring)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    Read,
    Write,
    /// Every second operation is a write.
    Mixed,
}

/// How the file is opened, and what of it is in the page cache when the work starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    Direct,
    /// Through the page cache, which holds all that is touched.
    Cached,
    /// Through the page cache, which holds nothing: each block is read once, then the file is evicted.
    Cold,
    /// O_DIRECT on a tmpfs: no device, so only the interface's own cost is left.
    Tmpfs,
}

/// How a program on POSIX AIO learns that its requests are complete.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Learn {
    Suspend,
    Poll,
    Signal,
    Thread,
    LioWait,
    LioNowait,
    /// An eventfd in an epoll instance. An extension, and on the raw side IOCB_FLAG_RESFD.
    Epoll,
    /// aio_waitcomplete. An extension.
    WaitComplete,
}

/// Requests of one size, kept in flight at one depth for as long as the measurement lasts.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    pub action: Action,
    pub way: Way,
    pub block: usize,
    pub sequential: bool,
    pub threads: usize,
    /// After that many writes comes an fsync, as one of the requests in flight.
    pub fsync_every: Option<u32>,
    pub learn: Learn,
    /// Each request has the two halves of its buffer as parts of an array: aio_readv, an extension.
    pub vectored: bool,
}

/// A large request whose submission must not wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Large {
    ColdRead,
    BufferedWrite,
    ExtendingDirectWrite,
    EmptyPipeRead,
}

#[derive(Clone, Copy, Debug)]
pub enum Work {
    Flow(Flow),
    /// The longest that a submitting call takes.
    LongestSubmission(Large),
    /// Two threads hand a message to and fro over a socket pair.
    PingPong,
    /// As many requests as the depth says are submitted before the first is reaped.
    Burst,
}

pub struct Cell {
    pub name: &'static str,
    pub title: &'static str,
    pub work: Work,
    pub depths: &'static [u32],
    /// The depths that a run without options measures.
    pub short: &'static [u32],
    pub sides: &'static [Side],
}

impl Cell {
    pub fn find(name: &str) -> Option<&'static Cell> {
        CELLS.iter().find(|cell| cell.name == name)
    }

    /// Operations a second, where more is better; otherwise nanoseconds, where less is.
    pub fn is_rate(&self) -> bool {
        matches!(self.work, Work::Flow(_) | Work::PingPong)
    }

    /// Does it mean anything to do this at another depth than its own?
    pub fn has_depth(&self) -> bool {
        matches!(self.work, Work::Flow(_) | Work::Burst)
    }

    pub fn needs_direct(&self) -> bool {
        match self.work {
            Work::Flow(flow) => flow.way == Way::Direct,
            Work::LongestSubmission(large) => large == Large::ExtendingDirectWrite,
            Work::PingPong => false,
            Work::Burst => true,
        }
    }

    pub fn needs_tmpfs(&self) -> bool {
        matches!(self.work, Work::Flow(Flow { way: Way::Tmpfs, .. }))
    }
}

const READ: Flow = Flow {
    action: Action::Read,
    way: Way::Direct,
    block: 4096,
    sequential: false,
    threads: 1,
    fsync_every: None,
    learn: Learn::Suspend,
    vectored: false,
};
const WRITE: Flow = Flow { action: Action::Write, ..READ };
const CACHED: Flow = Flow { way: Way::Cached, ..READ };
const BUFFERED: Flow = Flow { way: Way::Cached, ..WRITE };

const EVERY: &[Side] = &Side::ALL;
const POSIX: &[Side] = &[Side::Libc, Side::Library];
/// Plain io_submit would do the whole work, or wait for ever, inside the call.
const NO_LIBAIO: &[Side] = &[Side::Libc, Side::Library, Side::Uring];
const fn flow(
    name: &'static str,
    title: &'static str,
    flow: Flow,
    depths: &'static [u32],
    short: &'static [u32],
    sides: &'static [Side],
) -> Cell {
    Cell { name, title, work: Work::Flow(flow), depths, short, sides }
}

const fn other(
    name: &'static str,
    title: &'static str,
    work: Work,
    depths: &'static [u32],
    sides: &'static [Side],
) -> Cell {
    Cell { name, title, work, depths, short: &[], sides }
}

/// Beside a list that libaio submits in one call and waits for in another.
const LISTS: &[Side] = &[Side::Libc, Side::Library, Side::Libaio];

/// What libc has not, beside the kernel's own.
const EXTENSION: &[Side] = &[Side::Library, Side::Libaio];

const fn learnt(name: &'static str, title: &'static str, way: Way, learn: Learn) -> Cell {
    let sides = if matches!(learn, Learn::LioWait | Learn::LioNowait) { LISTS } else { POSIX };
    flow(name, title, Flow { way, learn, ..READ }, &[16], &[], sides)
}

pub static CELLS: &[Cell] = &[
    flow("direct-read", "direct read", READ, &[1, 16, 64, 256], &[1, 16, 64], EVERY),
    flow("direct-write", "direct write", WRITE, &[64], &[], EVERY),
    flow(
        "direct-mixed",
        "mixed, 4 threads",
        Flow { action: Action::Mixed, threads: 4, ..READ },
        &[16],
        &[],
        EVERY,
    ),
    flow(
        "direct-128k",
        "sequential 128 KiB",
        Flow { block: 128 << 10, sequential: true, ..READ },
        &[16],
        &[],
        EVERY,
    ),
    flow("cached-read", "cached read", CACHED, &[1, 16], &[1, 16], EVERY),
    flow("cold-read", "cold read", Flow { way: Way::Cold, ..READ }, &[1, 16, 64], &[], EVERY),
    flow("buffered-write", "buffered write", BUFFERED, &[1, 16, 64], &[], EVERY),
    flow("write-fsync", "write and fsync", Flow { fsync_every: Some(16), ..BUFFERED }, &[16], &[], POSIX),
    flow("tmpfs-read", "tmpfs direct read", Flow { way: Way::Tmpfs, ..READ }, &[1, 16], &[], EVERY),
    learnt("direct-poll", "direct, polling", Way::Direct, Learn::Poll),
    learnt("direct-signal", "direct, signal", Way::Direct, Learn::Signal),
    learnt("direct-thread", "direct, callback", Way::Direct, Learn::Thread),
    learnt("direct-lio-wait", "direct, LIO_WAIT", Way::Direct, Learn::LioWait),
    learnt("direct-lio-nowait", "direct, LIO_NOWAIT", Way::Direct, Learn::LioNowait),
    learnt("cached-signal", "cached, signal", Way::Cached, Learn::Signal),
    learnt("cached-thread", "cached, callback", Way::Cached, Learn::Thread),
    flow("direct-readv", "direct readv", Flow { vectored: true, ..READ }, &[16], &[], EXTENSION),
    flow("direct-epoll", "direct, epoll", Flow { learn: Learn::Epoll, ..READ }, &[16], &[], EXTENSION),
    flow(
        "direct-waitcomplete",
        "direct, waitcomplete",
        Flow { learn: Learn::WaitComplete, ..READ },
        &[16],
        &[],
        EXTENSION,
    ),
    other("socket", "socket ping-pong", Work::PingPong, &[1], NO_LIBAIO),
    other("submit-cold", "cold read 64 MiB", Work::LongestSubmission(Large::ColdRead), &[1], EVERY),
    other(
        "submit-write",
        "buffered write 64 MiB",
        Work::LongestSubmission(Large::BufferedWrite),
        &[1],
        EVERY,
    ),
    other(
        "submit-extend",
        "extending 64 MiB",
        Work::LongestSubmission(Large::ExtendingDirectWrite),
        &[1],
        EVERY,
    ),
    other("submit-pipe", "empty pipe read", Work::LongestSubmission(Large::EmptyPipeRead), &[1], NO_LIBAIO),
    other("burst", "reads at once", Work::Burst, &[1_000, 20_000], EVERY),
];
