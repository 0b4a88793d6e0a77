//! The exact meaning of a program: every request with its number, range and buffer. The parent and the child
//! both work it out, so that only the short text form passes between them.
//!
//! Slots are the descriptor numbers that the program uses; slot s starts out on end s. Ends are the open file
//! descriptions: end 2k and 2k+1 belong to object k. Close and dup2 change which end a slot leads to.

use super::program::{Io, Notify, Object, Op, Program, What};

/// Bytes in a file before the program runs; more than the reads of a small list, less than all writes reach.
pub const INITIAL_SIZE: usize = 32 * 1024;
/// Direct I/O needs offsets, lengths and buffers in multiples of the device's block.
pub const BLOCK: usize = 4096;
/// Highest block that a request starts at, beyond the initial size.
const BLOCKS: i8 = 14;
/// Sync transfers at hand for keeping the program going, feeding and taking in turn.
const SPARES: usize = 6000;
pub const FEED_SIZE: usize = 512;
pub const TAKE_SIZE: usize = 4096;
/// Bytes after a buffer that nobody may write to.
pub const CANARY: usize = 16;

/// Which descriptor a request names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Slot(u32),
    /// An end itself, through a descriptor that is never closed: in forked children, and for sync transfers.
    End(u32),
}

#[derive(Clone, Debug)]
pub struct Request {
    pub id: u32,
    pub what: What,
    pub target: Target,
    pub offset: i64,
    pub length: usize,
    pub priority: i32,
    pub notify: Notify,
    /// Where its buffer starts in the shared data.
    pub buffer: usize,
    /// The list it is an element of.
    pub list: Option<u32>,
    /// In how many parts it gives its buffer; 0: as one.
    pub parts: usize,
    /// Through the descriptor's own position: on what has no other place only.
    pub at_position: bool,
}

/// Each has a descriptor of its own.
const MOST_EVENTS: usize = 200;

#[derive(Clone, Debug)]
pub enum Step {
    Submit(u32),
    List { list: u32, wait: bool, elements: Vec<u32> },
    Suspend { timeout: i32, picks: Vec<u16> },
    Poll { pick: u16 },
    Next { timeout: u8 },
    Cancel { pick: u16 },
    CancelAll { slot: u32 },
    Close { slot: u32 },
    Rebind { end: u32, slot: u32 },
    Fork { requests: Vec<u32> },
    Feed(u32),
    Take(u32),
    Evict { slot: u32 },
    Shutdown { end: u32 },
}

pub struct Plan {
    pub restart: bool,
    pub cancel_at_end: bool,
    pub objects: Vec<Object>,
    pub threads: Vec<Vec<Step>>,
    pub requests: Vec<Request>,
    /// Requests from here on are spare transfers, feeding and taking in turn.
    pub first_spare: u32,
    pub data_size: usize,
}

impl Plan {
    /// The number of no request.
    pub const END_OF_REQUESTS: u32 = u32::MAX - 1;

    pub fn new(program: &Program) -> Plan {
        let mut plan = Plan {
            restart: program.restart,
            cancel_at_end: program.cancel_at_end,
            objects: if program.objects.is_empty() {
                vec![Object::Buffered]
            } else {
                program.objects.clone()
            },
            threads: Vec::new(),
            requests: Vec::new(),
            first_spare: 0,
            data_size: 0,
        };
        for ops in &program.threads {
            let steps = ops.iter().map(|op| plan.step(op)).collect();
            plan.threads.push(steps);
        }
        plan.first_spare = plan.requests.len() as u32;
        for spare in 0..SPARES {
            let (what, length) =
                if spare % 2 == 0 { (What::Feed, FEED_SIZE) } else { (What::Take, TAKE_SIZE) };
            plan.transfer(what, 0, length);
        }
        plan
    }

    pub fn ends(&self) -> u32 {
        2 * self.objects.len() as u32
    }

    pub fn object_of(&self, end: u32) -> Object {
        self.objects[end as usize / 2]
    }

    pub fn request(&self, id: u32) -> &Request {
        &self.requests[id as usize]
    }

    /// All requests of a program with a direct file are aligned, as dup2 may lead any of them there.
    pub fn aligned(&self) -> bool {
        self.objects.contains(&Object::Direct)
    }

    pub fn reads_from(&self, end: u32) -> bool {
        self.object_of(end) != Object::Pipe || end % 2 == 0
    }

    pub fn writes_to(&self, end: u32) -> bool {
        self.object_of(end) != Object::Pipe || end % 2 == 1
    }

    /// Where what is written to this end is read.
    pub fn other_end(end: u32) -> u32 {
        end ^ 1
    }

    /// Whether any request of the program asks for a signal.
    pub fn has_signals(&self) -> bool {
        self.requests.iter().any(|request| request.notify == Notify::Signal)
    }

    /// The smallest request that a descriptor gets: an empty message would look like the end of the file.
    fn smallest(&self, what: What) -> usize {
        match what == What::Write && self.objects.contains(&Object::Packets) {
            true if self.aligned() => BLOCK,
            true => 1,
            false => 0,
        }
    }

    fn step(&mut self, op: &Op) -> Step {
        let ends = self.ends();
        match op {
            Op::Submit(io) => Step::Submit(self.add(io, None)),
            Op::List { wait, notify, elements } => self.list(*wait, *notify, elements),
            Op::Crowd { wait, count, first } => {
                let element = |number: u16| {
                    let what = if number % 3 == 0 { What::Write } else { What::Read };
                    Io { what, block: (number % 12) as i8, blocks: 1, skew: 0, priority: 0, ..*first }
                };
                let elements: Vec<Io> = (0..*count).map(element).collect();
                self.list(*wait, first.notify, &elements)
            }
            Op::Suspend { timeout, picks } => Step::Suspend { timeout: *timeout, picks: picks.clone() },
            Op::Poll { pick } => Step::Poll { pick: *pick },
            Op::Next { timeout } => Step::Next { timeout: *timeout },
            Op::Cancel { pick } => Step::Cancel { pick: *pick },
            Op::CancelAll { slot } => Step::CancelAll { slot: u32::from(*slot) % ends },
            Op::Close { slot } => Step::Close { slot: u32::from(*slot) % ends },
            Op::Rebind { end, slot } => {
                Step::Rebind { end: u32::from(*end) % ends, slot: u32::from(*slot) % ends }
            }
            Op::Fork { requests } => {
                let first = self.requests.len();
                for io in requests {
                    self.add(io, None);
                }
                // A child reads and writes files only: nobody would feed its pipes.
                for id in first..self.requests.len() {
                    let file = self.file_end(self.requests[id].target);
                    self.requests[id].target = Target::End(file);
                    // Nobody in the child watches eventfds.
                    if self.requests[id].notify == Notify::Event {
                        self.requests[id].notify = Notify::None;
                    }
                }
                let all = first as u32..self.requests.len() as u32;
                Step::Fork { requests: if self.has_file() { all.collect() } else { Vec::new() } }
            }
            Op::Feed { end, skew } => Step::Feed(self.transfer(
                What::Feed,
                u32::from(*end) % ends,
                1 + usize::from(*skew) % FEED_SIZE,
            )),
            Op::Take { end, skew } => Step::Take(self.transfer(
                What::Take,
                u32::from(*end) % ends,
                1 + usize::from(*skew) % TAKE_SIZE,
            )),
            Op::Evict { slot } => Step::Evict { slot: u32::from(*slot) % ends },
            Op::Shutdown { end } => Step::Shutdown { end: u32::from(*end) % ends },
        }
    }

    fn list(&mut self, wait: bool, notify: Notify, elements: &[Io]) -> Step {
        let list = self.requests.len() as u32;
        // LIO_WAIT has no notification of the list.
        let notify = if wait { Notify::None } else { self.affordable(notify) };
        self.requests.push(Request {
            id: list,
            what: What::List,
            target: Target::Slot(0),
            offset: 0,
            length: 0,
            priority: 0,
            notify,
            buffer: 0,
            list: None,
            parts: 0,
            at_position: false,
        });
        let elements = elements.iter().map(|io| self.add(io, Some(list))).collect();
        Step::List { list, wait, elements }
    }

    /// Whether a request at its descriptor's own position goes where it would go anyway, wherever dup2 leads it.
    fn has_no_other_place(&self, what: What) -> bool {
        let places =
            |object: &Object| is_file(*object) && !(what == What::Write && *object == Object::Append);
        !self.objects.iter().any(places)
    }

    fn affordable(&self, notify: Notify) -> Notify {
        let events = || self.requests.iter().filter(|request| request.notify == Notify::Event).count();
        if notify == Notify::Event && events() >= MOST_EVENTS {
            return Notify::None;
        }
        notify
    }

    fn has_file(&self) -> bool {
        self.objects.iter().any(|object| is_file(*object))
    }

    fn file_end(&self, target: Target) -> u32 {
        let Target::Slot(slot) = target else { return 0 };
        let near = (0..self.ends()).map(|step| (slot + step) % self.ends());
        near.into_iter().find(|end| is_file(self.object_of(*end))).unwrap_or(0)
    }

    /// One AIO request, at home on the object that its slot names.
    fn add(&mut self, io: &Io, list: Option<u32>) -> u32 {
        let what = match io.what {
            // Only aio_fsync may flush, only a list may do nothing.
            What::Sync | What::DataSync if list.is_some() => What::Write,
            What::Nop | What::BadOpcode if list.is_none() => What::Read,
            what => what,
        };
        let mut slot = u32::from(io.slot) % self.ends();
        let contrary = io.skew % 16 == 15;
        match (self.object_of(slot), what, contrary) {
            (Object::Pipe, What::Read, false) => slot &= !1,
            (Object::Pipe, What::Write, false) => slot |= 1,
            _ => {}
        }
        let aligned = self.aligned();
        let skew = if aligned { 0 } else { usize::from(io.skew) % 1000 };
        let length = usize::from(io.blocks % 5) * BLOCK + skew;
        let block = io.block.clamp(-1, BLOCKS);
        let offset = if block < 0 {
            // An error on a file; on a pipe, which has no offsets, there is nothing to complain about.
            if is_file(self.object_of(slot)) {
                -1
            } else {
                0
            }
        } else {
            i64::from(block) * BLOCK as i64 + if aligned { 0 } else { i64::from(io.skew) / 7 % 500 }
        };
        // What fails at once in the call has no notification to count.
        let fails = (io.priority > 20 && !is_sync(what)) || matches!(what, What::Nop | What::BadOpcode);
        let transfers = matches!(what, What::Read | What::Write);
        let at_position = transfers && io.form & 4 != 0 && self.has_no_other_place(what);
        let id = self.requests.len() as u32;
        let misalignment = if aligned { 0 } else { usize::from(io.skew) % 3 };
        let request = Request {
            id,
            what,
            target: Target::Slot(slot),
            offset: if at_position { 0 } else { offset },
            length: if transfers { length.max(self.smallest(what)) } else { 0 },
            priority: if is_sync(what) { 0 } else { i32::from(io.priority) },
            notify: if fails { Notify::None } else { self.affordable(io.notify) },
            buffer: self.data_size + misalignment,
            list,
            parts: if transfers && io.form & 3 != 0 { 1 + usize::from(io.form & 3) } else { 0 },
            at_position,
        };
        self.reserve(request.length + misalignment);
        self.requests.push(request);
        id
    }

    fn transfer(&mut self, what: What, end: u32, length: usize) -> u32 {
        let id = self.requests.len() as u32;
        self.requests.push(Request {
            id,
            what,
            target: Target::End(end),
            offset: 0,
            length,
            priority: 0,
            notify: Notify::None,
            buffer: self.data_size,
            list: None,
            parts: 0,
            at_position: false,
        });
        self.reserve(length);
        id
    }

    fn reserve(&mut self, length: usize) {
        self.data_size += (length + CANARY).next_multiple_of(BLOCK);
    }
}

pub fn is_file(object: Object) -> bool {
    matches!(object, Object::Buffered | Object::Direct | Object::Append)
}

pub fn is_write(what: What) -> bool {
    matches!(what, What::Write | What::Feed)
}

pub fn is_read(what: What) -> bool {
    matches!(what, What::Read | What::Take)
}

pub fn is_sync(what: What) -> bool {
    matches!(what, What::Sync | What::DataSync)
}

/// Byte number `position` of what request `id` writes: no two requests write the same sequence, nor one of zeroes, of which
/// the holes of files are.
pub fn content(id: u32, position: usize) -> u8 {
    let word = ((u64::from(id) + 1) << 32 | (position as u64 / 8)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ word >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (word >> (8 + 6 * (position % 8))) as u8
}

/// Byte number `position` of object `object` before the program runs.
pub fn initial(object: u32, position: usize) -> u8 {
    content(u32::MAX - object, position)
}

/// What a reading buffer holds before anything is read.
pub const UNTOUCHED: u8 = 0xee;
