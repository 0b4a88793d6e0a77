//! What `aio_waitcomplete` hands out: the requests that are complete and that nobody has returned yet.
//!
//! A program that never calls it must not pay for it, and a record of each completion that nobody fetches would grow
//! for ever. So records are kept from the first request on only where the program, or a loaded object that is linked
//! with this library, refers to aio_waitcomplete ([`is_referred_to`]), and else from its first call on. A record is reserved at
//! submission, so that no completion can fail for want of memory; it is in the list from completion until
//! aio_waitcomplete takes it, aio_return of its aiocb forgets it, or the aiocb is submitted again.
//!
//! The list is guarded by the engine's lock; `count` and `waiter` follow rule 1 of [`crate::wake`] with the
//! count in the status's place.

use crate::abi::AiocbRef;
use crate::engine::Engine;
use crate::errno::{Errno, Outcome};
use crate::lock::{Blocked, Guard};
use crate::pool::{Cell32, Cell64, Number, Pool, Slot};
use crate::sys::threads::never_had_threads;
use crate::wake::{wake_named, SEVERAL};
use core::sync::atomic::{AtomicU32, Ordering};

/// One completion.
#[derive(Default)]
struct Record {
    link: AtomicU32,
    next: Cell32,
    previous: Cell32,
    /// 1 while it is in the list.
    listed: Cell32,
    aiocb: Cell64,
    /// The same once somebody has its result, though it is not listed yet: then it never is.
    returned: Cell64,
    /// A count, or a negative error number.
    result: Cell64,
}

// SAFETY: every member is an atomic; zero is an unused record.
unsafe impl Slot for Record {
    fn free_link(&self) -> &AtomicU32 {
        &self.link
    }
}

pub struct Finished {
    /// 1: records are kept.
    wanted: AtomicU32,
    records: Pool<Record>,
    first: Cell32,
    last: Cell32,
    /// Records in the list, to be looked at without the lock.
    count: AtomicU32,
    /// Who sleeps until there is one: as `Request::waiter`.
    waiter: AtomicU32,
}

impl Finished {
    pub const fn new() -> Finished {
        Finished {
            wanted: AtomicU32::new(0),
            records: Pool::new(),
            first: Cell32::new(0),
            last: Cell32::new(0),
            count: AtomicU32::new(0),
            waiter: AtomicU32::new(0),
        }
    }

    /// Records are kept from now on.
    pub fn want(&self) {
        self.wanted.store(1, Ordering::Relaxed);
    }

    #[inline]
    pub fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed) != 0
    }

    /// Whether there is one to take. SeqCst: `wake`, rule 1.
    pub fn any(&self) -> bool {
        self.count.load(Ordering::SeqCst) != 0
    }

    /// Puts a waiter's number where `add` finds it. SeqCst: `wake`, rule 1.
    pub fn register(&self, number: Number) {
        let before = self
            .waiter
            .compare_exchange(0, number, Ordering::SeqCst, Ordering::SeqCst)
            .unwrap_or_else(|other| other);
        if before != 0 && before != number {
            self.waiter.store(SEVERAL, Ordering::SeqCst);
        }
    }

    pub fn unregister(&self, number: Number) {
        let _ = self.waiter.compare_exchange(number, 0, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn remove(&self, number: Number, record: &Record, _: &Guard) {
        let (previous, next) = (record.previous.get(), record.next.get());
        match self.records.get(previous) {
            Some(before) => before.next.set(next),
            None => self.first.set(next),
        }
        match self.records.get(next) {
            Some(after) => after.previous.set(previous),
            None => self.last.set(previous),
        }
        record.listed.set(0);
        self.count.fetch_sub(1, Ordering::SeqCst);
        self.records.give(number);
    }
}

/// A record for a request that is being submitted; 0 where none are kept. What an earlier request on the
/// same aiocb left is forgotten. EAGAIN: memory is out.
#[inline]
pub fn reserve(engine: &Engine, aiocb: AiocbRef) -> Result<Number, Errno> {
    if !engine.finished.is_wanted() {
        return Ok(0);
    }
    forget(engine, aiocb);
    take_record(engine, aiocb.address()).ok_or(Errno::AGAIN)
}

fn take_record(engine: &Engine, aiocb: u64) -> Option<Number> {
    let number = engine.finished.records.take()?;
    let record = engine.finished.records.get(number)?;
    record.listed.set(0);
    record.returned.set(0);
    record.aiocb.set(aiocb);
    Some(number)
}

/// Gives back a record that was reserved and is not needed; 0: none was.
pub fn give_back(engine: &Engine, number: Number) {
    engine.finished.records.give(number);
}

/// A request with a record is complete, its status stored; 0: it has none. Async-signal-safe.
#[inline]
pub fn add(engine: &Engine, number: Number, outcome: Outcome) {
    if number != 0 {
        list(engine, number, outcome);
    }
}

/// The record of a request that is about to be complete: one for those too that were submitted before records were
/// kept, named in the aiocb before its status is stored. 0: none is kept, or memory is out.
#[inline]
pub fn record_of(engine: &Engine, reserved: Number, aiocb: AiocbRef) -> Number {
    if reserved != 0 || !engine.finished.is_wanted() {
        return reserved;
    }
    let late = take_record(engine, aiocb.address()).unwrap_or(0);
    aiocb.set_record(late);
    late
}

fn list(engine: &Engine, number: Number, outcome: Outcome) {
    let finished = &engine.finished;
    let Some(record) = finished.records.get(number) else { return };
    record.result.set(match outcome {
        Ok(count) => count as u64,
        Err(errno) => -i64::from(errno.0) as u64,
    });
    let blocked = Blocked::new();
    let guard = engine.lock.lock(&blocked);
    if record.returned.get() == record.aiocb.get() {
        return finished.records.give(number);
    }
    let last = finished.last.get();
    record.previous.set(last);
    record.next.set(0);
    record.listed.set(1);
    match finished.records.get(last) {
        Some(before) => before.next.set(number),
        None => finished.first.set(number),
    }
    finished.last.set(number);
    finished.count.fetch_add(1, Ordering::SeqCst);
    drop(guard);
    wake_named(engine, finished.waiter.swap(0, Ordering::SeqCst));
}

/// Takes the oldest: whose aiocb it is, and its result.
pub fn take(engine: &Engine) -> Option<(u64, Outcome)> {
    let finished = &engine.finished;
    let blocked = Blocked::new();
    let guard = engine.lock.lock(&blocked);
    let number = finished.first.get();
    let record = finished.records.get(number)?;
    let taken = (record.aiocb.get(), crate::errno::from_kernel(record.result.get() as isize));
    finished.remove(number, record, &guard);
    Some(taken)
}

/// Somebody has the result of this aiocb's request. Also for garbage in an aiocb. Async-signal-safe.
pub fn forget(engine: &Engine, aiocb: AiocbRef) {
    let finished = &engine.finished;
    let number = aiocb.record();
    if number == 0 || !finished.is_wanted() {
        return;
    }
    let blocked = Blocked::new();
    let guard = engine.lock.lock(&blocked);
    if let Some(record) = finished.records.get(number) {
        if record.aiocb.get() != aiocb.address() {
            return;
        }
        if record.listed.get() != 0 {
            finished.remove(number, record, &guard);
        } else {
            // Complete, and just about to be listed by another thread; or over, where this means nothing.
            record.returned.set(aiocb.address());
        }
    }
}

/// Whether the program, or an object that is linked with this library, refers to aio_waitcomplete. Not async-signal-safe.
///
/// The dynamic loader's list of objects has a lock that glibc does not open in a forked child: another thread of the parent's may
/// have held it. So the list is asked for only where no other thread ever was, in the parents either; the program
/// itself is found without it, and a child has its parent's answer.
pub fn is_referred_to() -> bool {
    const YES: u32 = 1;
    const NO: u32 = 2;
    /// Not wiped in a child.
    static ANSWER: AtomicU32 = AtomicU32::new(0);
    match ANSWER.load(Ordering::Relaxed) {
        0 => {}
        answer => return answer == YES,
    }
    let mut found = program_refers();
    if !found && never_had_threads() {
        // SAFETY: the callback gets what it is given here, while this frame stands.
        unsafe { libc::dl_iterate_phdr(Some(look_at_object), (&raw mut found).cast()) };
    }
    ANSWER.store(if found { YES } else { NO }, Ordering::Relaxed);
    found
}

fn program_refers() -> bool {
    // SAFETY: the kernel's word on the program's headers, which stay mapped, or 0.
    let (first, count) =
        unsafe { (libc::getauxval(libc::AT_PHDR), libc::getauxval(libc::AT_PHNUM) as usize) };
    let headers = || {
        let headers = if first == 0 { 0..0 } else { 0..count };
        // SAFETY: the kernel says how many there are.
        headers.map(|at| unsafe { &*(first as *const libc::Elf64_Phdr).add(at) })
    };
    let base = headers()
        .find(|header| header.p_type == libc::PT_PHDR)
        .map_or(0, |header| first.wrapping_sub(header.p_vaddr));
    let dynamic = headers().find(|header| header.p_type == libc::PT_DYNAMIC);
    // SAFETY: the program's own load address and dynamic section.
    dynamic.is_some_and(|header| unsafe { refers(base, (base + header.p_vaddr) as *const _, true) })
}

const SONAME: &[u8] = b"libaio_posix.so";
const NAME: &[u8] = b"aio_waitcomplete";

unsafe extern "C" fn look_at_object(
    object: *mut libc::dl_phdr_info,
    _: usize,
    found: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: the loader's description of an object that is mapped while it walks.
    let object = unsafe { &*object };
    let headers = (0..object.dlpi_phnum as usize).map(|at| {
        // SAFETY: the loader says how many there are.
        unsafe { &*object.dlpi_phdr.add(at) }
    });
    let dynamic = headers.into_iter().find(|header| header.p_type == libc::PT_DYNAMIC);
    // SAFETY: the object's own dynamic section, and `found` is is_referred_to's.
    unsafe {
        // The program itself comes first, without a name: it may have us by LD_PRELOAD.
        let is_program = object.dlpi_name.is_null() || *object.dlpi_name == 0;
        if let Some(header) = dynamic {
            let dynamic = (object.dlpi_addr + header.p_vaddr) as *const [u64; 2];
            if refers(object.dlpi_addr, dynamic, is_program) {
                *found.cast::<bool>() = true;
                return 1;
            }
        }
    }
    0
}

/// Whether an object is the program, or needs this library, and has a relocation by the name: every reference has one, however
/// the object was linked.
///
/// # Safety
/// `base` and `dynamic` are a mapped object's load address and dynamic section.
unsafe fn refers(base: u64, dynamic: *const [u64; 2], is_program: bool) -> bool {
    // SAFETY: the section ends with DT_NULL. glibc relocates the addresses in it, others may not.
    unsafe {
        let entries = || (0..).map(|at| *dynamic.add(at)).take_while(|entry| entry[0] != 0);
        let value = |wanted| entries().find(|entry| entry[0] == wanted).map_or(0, |entry| entry[1]);
        let address = |wanted| match value(wanted) {
            0 => 0,
            value if value < base => base + value,
            value => value,
        };
        // elf.h: DT_STRTAB, DT_SYMTAB.
        let (names, symbols) = (address(5), address(6));
        if names == 0 || symbols == 0 {
            return false;
        }
        let starts = |offset: u64, with: &[u8]| {
            let text = (names + offset) as *const u8;
            with.iter().enumerate().all(|(at, &byte)| *text.add(at) == byte)
        };
        // DT_NEEDED.
        if !is_program && !entries().any(|[tag, value]| tag == 1 && starts(value, SONAME)) {
            return false;
        }
        // An Elf64_Rela is 24 bytes, and so is an Elf64_Sym.
        let names_it = |table: u64, bytes: u64, relative: u64| {
            table != 0
                && (relative..bytes / 24).any(|at| {
                    let symbol = *((table + at * 24 + 8) as *const u64) >> 32;
                    starts(u64::from(*((symbols + symbol * 24) as *const u32)), NAME)
                })
        };
        // DT_JMPREL, DT_PLTRELSZ; DT_RELA, DT_RELASZ, DT_RELACOUNT: so many at the beginning have no symbol.
        names_it(address(23), value(2), 0) || names_it(address(7), value(8), value(0x6fff_fff9))
    }
}
