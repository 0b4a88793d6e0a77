//! A FUSE file system in memory with a gate: while the gate is closed it takes requests and answers none, as a file
//! server that has gone away. It is told what to do by the files that are made in it:
//!
//! * `close-data`: reads, writes and fsyncs are answered no more;
//! * `close-all`: nor are questions about files and the file system (GETATTR, STATFS);
//! * `open`: everything is answered again, what has been waiting first.
//!
//! A process that waits for an answer cannot even be killed. So the gate opens by itself after [`PATIENCE`], and remembers
//! that it had to: then somebody waited who should not have.

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, OpenFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request,
    TimeOrNow, WriteFlags,
};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long the gate may stay closed: less than the C suite's deadline for one request.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Nothing may be remembered by the kernel: what it asks, it must ask anew.
const NO_CACHING: Duration = Duration::ZERO;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Gate {
    Open,
    DataClosed,
    AllClosed,
}

/// An answer that waits for the gate.
type Answer = Box<dyn FnOnce(&mut Files) + Send>;

#[derive(Default)]
struct Files {
    numbers: HashMap<OsString, u64>,
    contents: HashMap<u64, Vec<u8>>,
}

struct State {
    files: Files,
    gate: Gate,
    closed_at: Option<Instant>,
    waiting: Vec<Answer>,
    was_forced: bool,
}

/// The file system's inside, shared with the test that mounts it.
#[derive(Clone)]
pub struct Shared(Arc<Mutex<State>>);

impl Shared {
    pub fn new() -> Shared {
        Shared(Arc::new(Mutex::new(State {
            files: Files::default(),
            gate: Gate::Open,
            closed_at: None,
            waiting: Vec::new(),
            was_forced: false,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no thread panics with the state locked")
    }

    /// To be called every now and then: opens a gate that was closed for too long.
    pub fn watch(&self) {
        let mut state = self.lock();
        if state.closed_at.is_some_and(|at| at.elapsed() > PATIENCE) {
            state.was_forced = true;
            state.set_gate(Gate::Open);
        }
    }

    /// Whether the gate had to be opened by force.
    pub fn was_forced(&self) -> bool {
        self.lock().was_forced
    }

    pub fn open_gate(&self) {
        self.lock().set_gate(Gate::Open);
    }
}

impl State {
    fn set_gate(&mut self, gate: Gate) {
        self.gate = gate;
        self.closed_at = (gate != Gate::Open).then(Instant::now);
        if gate == Gate::Open {
            for answer in std::mem::take(&mut self.waiting) {
                answer(&mut self.files);
            }
        }
    }

    /// Answers now, unless the gate is closed as far as that, then later.
    fn answer_unless(&mut self, closed: Gate, answer: impl FnOnce(&mut Files) + Send + 'static) {
        if self.gate >= closed {
            self.waiting.push(Box::new(answer));
        } else {
            answer(&mut self.files);
        }
    }
}

impl Files {
    fn attributes(&self, number: u64) -> Option<FileAttr> {
        let is_root = number == INodeNo::ROOT.0;
        let size = match is_root {
            true => 0,
            false => self.contents.get(&number)?.len() as u64,
        };
        Some(FileAttr {
            ino: INodeNo(number),
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if is_root { FileType::Directory } else { FileType::RegularFile },
            perm: if is_root { 0o755 } else { 0o600 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    fn read(&self, number: u64, offset: u64, size: u32) -> &[u8] {
        let data = self.contents.get(&number).map_or(&[][..], Vec::as_slice);
        let start = data.len().min(offset as usize);
        let end = data.len().min(start + size as usize);
        &data[start..end]
    }

    fn write(&mut self, number: u64, offset: u64, bytes: &[u8]) {
        let data = self.contents.entry(number).or_default();
        let end = offset as usize + bytes.len();
        if data.len() < end {
            data.resize(end, 0);
        }
        data[offset as usize..end].copy_from_slice(bytes);
    }
}

pub struct GatedFs(pub Shared);

impl Filesystem for GatedFs {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let state = self.0.lock();
        let found = state.files.numbers.get(name).and_then(|&number| state.files.attributes(number));
        match found {
            Some(attributes) => reply.entry(&NO_CACHING, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.0.lock().answer_unless(Gate::AllClosed, move |files| match files.attributes(number.0) {
            Some(attributes) => reply.attr(&NO_CACHING, &attributes),
            None => reply.error(Errno::ENOENT),
        });
    }

    fn setattr(
        &self,
        _: &Request,
        number: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut state = self.0.lock();
        if let (Some(size), Some(data)) = (size, state.files.contents.get_mut(&number.0)) {
            data.resize(size as usize, 0);
        }
        match state.files.attributes(number.0) {
            Some(attributes) => reply.attr(&NO_CACHING, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn create(
        &self,
        _: &Request,
        _parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let mut state = self.0.lock();
        let number = INodeNo::ROOT.0 + 1 + state.files.numbers.len() as u64;
        let order = match name.to_str() {
            Some("close-data") => Some(Gate::DataClosed),
            Some("close-all") => Some(Gate::AllClosed),
            Some("open") => Some(Gate::Open),
            _ => None,
        };
        // A name that gives an order may be given again.
        let number = *state.files.numbers.entry(name.to_owned()).or_insert(number);
        state.files.contents.entry(number).or_default();
        let attributes = state.files.attributes(number).expect("it was made just now");
        reply.created(&NO_CACHING, &attributes, Generation(0), FileHandle(0), FopenFlags::FOPEN_NOFLUSH);
        if let Some(gate) = order {
            state.files.numbers.remove(name);
            state.set_gate(gate);
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_NOFLUSH);
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.0
            .lock()
            .answer_unless(Gate::DataClosed, move |files| reply.data(files.read(number.0, offset, size)));
    }

    fn write(
        &self,
        _: &Request,
        number: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _how: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let data = data.to_vec();
        self.0.lock().answer_unless(Gate::DataClosed, move |files| {
            files.write(number.0, offset, &data);
            reply.written(data.len() as u32);
        });
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _data_only: bool, reply: ReplyEmpty) {
        self.0.lock().answer_unless(Gate::DataClosed, move |_| reply.ok());
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        self.0.lock().answer_unless(Gate::AllClosed, move |_| {
            reply.statfs(1 << 20, 1 << 20, 1 << 20, 1 << 20, 1 << 20, 4096, 255, 4096)
        });
    }
}
