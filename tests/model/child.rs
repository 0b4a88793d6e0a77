//! The child process: runs the threads of a program against whatever `aio_read` resolves to, and logs what it sees.
//! It judges nothing but what only it can see; `check.rs` judges the log in the parent.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use super::beyond;
use super::calls::{self, errno};
use super::drain;
use super::forked;
use super::log::{problems, Kind, Record, Shared, NOTHING};
use super::notice;
use super::plan::{content, is_read, is_sync, is_write, Plan, Request, Step, Target, CANARY, UNTOUCHED};
use super::program::{Object, What};

/// Descriptor numbers far from those that anything else opens.
const FIRST_SLOT: i32 = 100;
const FIRST_ANCHOR: i32 = 300;

pub struct World {
    pub shared: Shared,
    pub plan: Plan,
    /// One for each request, in memory of the process's own: a fork must not share it.
    aiocbs: *mut libc::aiocb,
    /// Elements of each list that will have a status.
    pub elements: Vec<Vec<u32>>,
    /// What was submitted, in order, as far as its submitting call came back.
    pub submitted: Mutex<Vec<u32>>,
    pub next_spare: AtomicU32,
    /// The step that each thread is at, for the report about a hang.
    pub places: Vec<AtomicUsize>,
    /// How long a request may take.
    pub patience: Duration,
}

// SAFETY: the aiocbs are touched by one submitting thread, and from then on only given to the functions under test.
unsafe impl Sync for World {}
// SAFETY: nothing in it belongs to a thread.
unsafe impl Send for World {}

static WORLD: OnceLock<World> = OnceLock::new();
/// 0, or the number of the fork that made this process.
pub static PROCESS: AtomicU32 = AtomicU32::new(0);

pub fn world() -> &'static World {
    WORLD.get().expect("the world is made before anything runs")
}

pub fn slot_descriptor(slot: u32) -> i32 {
    FIRST_SLOT + slot as i32
}

/// A descriptor of an end that stays open to the last.
pub fn anchor(end: u32) -> i32 {
    FIRST_ANCHOR + end as i32
}

impl World {
    pub fn aiocb(&self, id: u32) -> *mut libc::aiocb {
        assert!((id as usize) < self.plan.requests.len());
        // SAFETY: inside the array allocated for that many requests.
        unsafe { self.aiocbs.add(id as usize) }
    }

    /// The number of the request that an aiocb is of; of none there is a number that no request has.
    pub fn id_of(&self, cb: *const libc::aiocb) -> u32 {
        let distance = (cb as usize).wrapping_sub(self.aiocbs as usize);
        let id = distance / size_of::<libc::aiocb>();
        if distance % size_of::<libc::aiocb>() == 0 && id < self.plan.requests.len() {
            id as u32
        } else {
            NOTHING
        }
    }

    pub fn log(&self, kind: Kind, subject: u32, fields: Record) {
        self.shared.add(Record { kind, subject, process: PROCESS.load(Ordering::Relaxed), ..fields });
    }

    pub fn problem(&self, subject: u32, code: i64, extra: i32) {
        self.log(Kind::Problem, subject, Record { value: code, extra, ..blank() });
    }

    /// Asks for a request's status, logs it, and returns what aio_error said.
    pub fn look(&self, id: u32, group: u32) -> i32 {
        let cb = self.aiocb(id);
        let before = self.shared.tick();
        // SAFETY: the aiocb was submitted and lives as long as the process.
        let (error, value, again) = unsafe {
            let error = libc::aio_error(cb);
            if error == libc::EINPROGRESS {
                (error, 0, error)
            } else {
                (error, libc::aio_return(cb), libc::aio_error(cb))
            }
        };
        let after = self.shared.tick();
        if error != again {
            self.problem(id, problems::RETURN_DIFFERS, again);
        }
        self.log(Kind::Status, id, Record { before, after, group, error, value: value as i64, ..blank() });
        error
    }

    /// Like `look`; where an fsync is seen complete, also logs which writes are not.
    fn look_around(&self, id: u32, group: u32) {
        let complete = self.look(id, group) != libc::EINPROGRESS;
        if complete && is_sync(self.plan.request(id).what) {
            for other in self.all_submitted() {
                if self.plan.request(other).what == What::Write && other < id {
                    self.look(other, 0);
                }
            }
        }
    }

    /// The requests counted back from the newest.
    fn picked(&self, picks: &[u16]) -> Vec<u32> {
        let submitted = self.submitted.lock().expect("no thread panics with it");
        if submitted.is_empty() {
            return Vec::new();
        }
        picks
            .iter()
            .map(|pick| submitted[submitted.len() - 1 - usize::from(*pick) % submitted.len()])
            .collect()
    }

    pub fn all_submitted(&self) -> Vec<u32> {
        self.submitted.lock().expect("no thread panics with it").clone()
    }
}

pub fn blank() -> Record {
    Record {
        kind: Kind::End,
        process: 0,
        subject: NOTHING,
        group: 0,
        before: 0,
        after: 0,
        value: 0,
        error: 0,
        extra: 0,
    }
}

/// Runs the program of `directory` to its end. Does not come back when a request never completes.
pub fn run(plan: Plan, shared: Shared, directory: &Path, wanted_library: &str, patience: Duration) {
    let aiocbs = vec![0u128; plan.requests.len() * size_of::<libc::aiocb>().div_ceil(16)];
    let mut elements = vec![Vec::new(); plan.requests.len()];
    for request in plan.requests.iter().filter(|request| request.what != What::Nop) {
        if let Some(list) = request.list {
            elements[list as usize].push(request.id);
        }
    }
    let places = plan.threads.iter().map(|_| AtomicUsize::new(0)).collect();
    let world = World {
        shared,
        plan,
        aiocbs: Box::leak(aiocbs.into_boxed_slice()).as_mut_ptr().cast(),
        elements,
        submitted: Mutex::new(Vec::new()),
        next_spare: AtomicU32::new(0),
        places,
        patience,
    };
    let world = WORLD.get_or_init(|| world);
    world.next_spare.store(world.plan.first_spare, Ordering::Relaxed);
    let library = calls::library_of_aio_read();
    if !library.contains(wanted_library) {
        eprintln!("aio_read is in {library}, not in {wanted_library}");
        world.problem(NOTHING, problems::WRONG_LIBRARY, 0);
    }
    open_objects(world, directory);
    for request in &world.plan.requests[..world.plan.first_spare as usize] {
        fill(world, request);
    }
    notice::install(world.plan.restart);
    beyond::watch(world);
    run_threads(world);
    drain::finish(world);
    world.log(Kind::End, NOTHING, blank());
}

/// Gives a buffer what its request writes, or the pattern that shows what was read.
pub fn fill(world: &World, request: &Request) {
    let buffer = world.shared.buffer(request.buffer);
    let byte = |position| {
        if is_write(request.what) && position < request.length {
            content(request.id, position)
        } else {
            UNTOUCHED
        }
    };
    if is_read(request.what) || is_write(request.what) {
        for position in 0..request.length + CANARY {
            // SAFETY: the plan reserved length and canary, and nobody reads the buffer yet.
            unsafe { buffer.add(position).write(byte(position)) };
        }
    }
}

fn open_objects(world: &World, directory: &Path) {
    for (number, object) in world.plan.objects.iter().enumerate() {
        let path = directory.join(format!("object{number}"));
        let [first, second] = match object {
            Object::Buffered => [calls::open_file(&path, 0), calls::open_file(&path, 0)],
            Object::Append => [libc::O_APPEND; 2].map(|flags| calls::open_file(&path, flags)),
            Object::Direct => [libc::O_DIRECT; 2].map(|flags| calls::open_file(&path, flags)),
            Object::Pipe => calls::pipe(),
            Object::Stream => calls::socket_pair(libc::SOCK_STREAM),
            Object::Packets => calls::socket_pair(libc::SOCK_SEQPACKET),
        };
        for (end, descriptor) in [(2 * number as u32, first), (2 * number as u32 + 1, second)] {
            calls::move_to(descriptor, &[slot_descriptor(end), anchor(end)]);
        }
    }
}

fn run_threads(world: &'static World) {
    let threads = &world.plan.threads;
    let running: &'static [AtomicBool] =
        threads.iter().map(|_| AtomicBool::new(true)).collect::<Vec<_>>().leak();
    let handles: Vec<_> = threads
        .iter()
        .zip(running)
        .zip(&world.places)
        .map(|((steps, running), place)| {
            std::thread::spawn(move || {
                for (number, step) in steps.iter().enumerate() {
                    place.store(number, Ordering::Relaxed);
                    take_step(world, step);
                }
                place.store(steps.len(), Ordering::Relaxed);
                running.store(false, Ordering::Release);
            })
        })
        .collect();
    // A thread may wait for data that no request brings: once nothing moves any more, bring some.
    let mut last = (world.shared.now(), Instant::now());
    let mut next = Duration::from_millis(15);
    while running.iter().any(|running| running.load(Ordering::Acquire)) {
        std::thread::sleep(Duration::from_micros(200));
        if world.shared.now() != last.0 {
            last = (world.shared.now(), Instant::now());
            next = Duration::from_millis(15);
        } else if last.1.elapsed() > next {
            drain::unblock(world);
            last.0 = world.shared.now();
            next = last.1.elapsed() + Duration::from_millis(3);
        }
        if last.1.elapsed() > world.patience {
            drain::give_up(world);
        }
    }
    handles.into_iter().for_each(|handle| handle.join().expect("a thread of the program"));
}

fn take_step(world: &'static World, step: &Step) {
    match step {
        Step::Submit(id) => {
            if submit(world, *id) {
                world.submitted.lock().expect("no thread panics with it").push(*id);
            }
        }
        Step::List { list, wait, elements } => submit_list(world, *list, *wait, elements),
        Step::Suspend { timeout, picks } => suspend(world, *timeout, &world.picked(picks)),
        Step::Poll { pick } => world.picked(&[*pick]).into_iter().for_each(|id| world.look_around(id, 0)),
        Step::Next { timeout } => beyond::next(world, *timeout),
        Step::Cancel { pick } => {
            for id in world.picked(&[*pick]) {
                if let Target::Slot(slot) = world.plan.request(id).target {
                    cancel(world, slot, Some(id));
                }
            }
        }
        Step::CancelAll { slot } => cancel(world, *slot, None),
        Step::Close { slot } => {
            let before = world.shared.tick();
            // SAFETY: close() touches no memory; the number is one of the program's own.
            let result = unsafe { libc::close(slot_descriptor(*slot)) };
            let after = world.shared.tick();
            if result == 0 {
                world.log(Kind::Rebind, *slot, Record { before, after, value: -1, ..blank() });
            }
        }
        Step::Rebind { end, slot } => {
            let before = world.shared.tick();
            // SAFETY: dup2() touches no memory; both numbers are the program's own.
            let result = unsafe { libc::dup2(anchor(*end), slot_descriptor(*slot)) };
            let after = world.shared.tick();
            if result < 0 {
                world.problem(*slot, problems::HARNESS, errno());
            }
            world.log(Kind::Rebind, *slot, Record { before, after, value: i64::from(*end), ..blank() });
        }
        Step::Fork { requests } => forked::fork(world, requests),
        Step::Feed(id) | Step::Take(id) => {
            if let Target::End(end) = world.plan.request(*id).target {
                drain::transfer(world, *id, end);
            }
        }
        Step::Evict { slot } => {
            if world.plan.object_of(*slot) == Object::Buffered {
                calls::evict(anchor(*slot));
            }
        }
        Step::Shutdown { end } => {
            if matches!(world.plan.object_of(*end), Object::Stream | Object::Packets) {
                let before = world.shared.tick();
                // SAFETY: shutdown() touches no memory.
                unsafe { libc::shutdown(anchor(*end), libc::SHUT_WR) };
                let after = world.shared.tick();
                world.log(Kind::Shutdown, *end, Record { before, after, ..blank() });
            }
        }
    }
}

/// Submits one request; says whether it was taken.
pub fn submit(world: &World, id: u32) -> bool {
    let request = world.plan.request(id);
    let cb = world.aiocb(id);
    let buffer = world.shared.buffer(request.buffer);
    calls::prepare(cb, request, buffer);
    let mut parts = beyond::cut(cb, request, buffer, world.plan.aligned());
    let before = world.shared.tick();
    // SAFETY: the aiocb and its buffer live as long as the process, the parts as long as the call.
    let result = unsafe {
        match request.what {
            What::Read | What::Write if request.parts != 0 || request.at_position => {
                beyond::submit(cb, request)
            }
            What::Read => libc::aio_read(cb),
            What::Sync => libc::aio_fsync(libc::O_SYNC, cb),
            What::DataSync => libc::aio_fsync(libc::O_DSYNC, cb),
            _ => libc::aio_write(cb),
        }
    };
    let error = errno();
    beyond::forget(&mut parts);
    let after = world.shared.tick();
    world.log(Kind::Submit, id, Record { before, after, value: i64::from(result), error, ..blank() });
    result == 0
}

fn submit_list(world: &World, list: u32, wait: bool, elements: &[u32]) {
    let mut pointers: Vec<*mut libc::aiocb> = Vec::new();
    let mut parts = Vec::new();
    for id in elements {
        let request = world.plan.request(*id);
        let buffer = world.shared.buffer(request.buffer);
        calls::prepare(world.aiocb(*id), request, buffer);
        parts.push(beyond::cut(world.aiocb(*id), request, buffer, world.plan.aligned()));
        pointers.push(world.aiocb(*id));
        // NULL entries count for nothing.
        if id % 4 == 0 {
            pointers.push(std::ptr::null_mut());
        }
    }
    let mut event = calls::sigevent(list, world.plan.request(list).notify);
    let mode = if wait { libc::LIO_WAIT } else { libc::LIO_NOWAIT };
    let before = world.shared.tick();
    // SAFETY: the aiocbs and buffers live as long as the process; list and event are copied by the call.
    let result = unsafe { libc::lio_listio(mode, pointers.as_ptr(), pointers.len() as i32, &mut event) };
    let error = errno();
    // Nothing of these may be looked at after the call.
    pointers.fill(std::ptr::dangling_mut());
    parts.iter_mut().for_each(|parts| beyond::forget(parts));
    // SAFETY: a plain C structure of our own.
    unsafe { std::ptr::write_bytes(&mut event, 0x99, 1) };
    let after = world.shared.tick();
    let fields = Record { before, after, value: i64::from(result), error, ..blank() };
    for id in &world.elements[list as usize] {
        world.log(Kind::Submit, *id, fields);
    }
    let group = world.shared.new_group();
    world.log(Kind::ListReturn, list, Record { group, ..fields });
    if wait {
        for id in &world.elements[list as usize] {
            world.look(*id, group);
        }
    }
    world.submitted.lock().expect("no thread panics with it").extend(&world.elements[list as usize]);
}

fn suspend(world: &World, timeout: i32, ids: &[u32]) {
    let mut pointers: Vec<*const libc::aiocb> = ids.iter().map(|id| world.aiocb(*id).cast_const()).collect();
    if pointers.len() % 2 == 1 {
        pointers.insert(0, std::ptr::null());
    }
    let limit =
        libc::timespec { tv_sec: i64::from(timeout) / 1000, tv_nsec: i64::from(timeout) % 1000 * 1_000_000 };
    let limit_pointer = if timeout < 0 { std::ptr::null() } else { &limit };
    let group = world.shared.new_group();
    let before = world.shared.tick();
    let start = Instant::now();
    // SAFETY: the aiocbs live as long as the process, list and time-out as long as the call.
    let result = unsafe { libc::aio_suspend(pointers.as_ptr(), pointers.len() as i32, limit_pointer) };
    let error = errno();
    let took = start.elapsed().as_micros().min(u128::from(u32::MAX)) as u32;
    let after = world.shared.tick();
    let value = i64::from(result);
    world.log(Kind::Suspend, took, Record { before, after, group, value, error, extra: timeout, ..blank() });
    for id in ids {
        world.look_around(*id, group);
    }
}

/// aio_cancel of one request, or of all that the slot has.
pub fn cancel(world: &World, slot: u32, one: Option<u32>) {
    // What was submitted before: its status is looked at after the call.
    let known = match one {
        Some(id) => vec![id],
        None => world.all_submitted(),
    };
    let cb = one.map_or(std::ptr::null_mut(), |id| world.aiocb(id));
    let group = world.shared.new_group();
    let before = world.shared.tick();
    // SAFETY: the aiocb, if any, was submitted and lives as long as the process.
    let result = unsafe { libc::aio_cancel(slot_descriptor(slot), cb) };
    let error = errno();
    let after = world.shared.tick();
    let fields =
        Record { before, after, group, value: i64::from(result), error, extra: slot as i32, ..blank() };
    world.log(Kind::Cancel, one.unwrap_or(NOTHING), fields);
    for id in known {
        if world.plan.request(id).target == Target::Slot(slot) {
            world.look(id, group);
        }
    }
}
