//! What the child does beyond POSIX: vectored requests, those at a descriptor's position, eventfds, aio_waitcomplete. The
//! functions are looked up by name, as libc has none of them.

use std::ffi::{c_int, c_void, CStr};
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::calls::{self, errno};
use super::child::{blank, World};
use super::log::{problems, Kind, Record, NOTHING};
use super::notice;
use super::plan::{Request, BLOCK};
use super::program::{Notify, What};

pub const SIGEV_AIO_EVENTFD: c_int = 0x0a10;
const LIO_VECTORED: c_int = 0x10;
const LIO_FOFFSET: c_int = 0x40;
const AIO_OP2_FOFFSET: c_int = 1;
const AIO_OP2_VECTORED: c_int = 2;
/// Beyond all numbers that a program's slots and ends have.
const FIRST_EVENTFD: c_int = 400;

type Start = extern "C" fn(*mut libc::aiocb) -> c_int;
type Start2 = extern "C" fn(*mut libc::aiocb, c_int) -> c_int;
type WaitComplete = extern "C" fn(*mut *mut libc::aiocb, *const libc::timespec) -> isize;

fn find(name: &CStr) -> *mut c_void {
    // SAFETY: a C string.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    assert!(!address.is_null(), "the library has no {name:?}");
    address
}

/// Makes a prepared aiocb a vectored one, where its request is: the parts are to live as long as the call.
pub fn cut(cb: *mut libc::aiocb, request: &Request, buffer: *mut u8, aligned: bool) -> Vec<libc::iovec> {
    let unit = if aligned { BLOCK } else { 1 };
    let place = |part: usize| match part {
        part if part == request.parts => request.length,
        part => request.length * part / request.parts / unit * unit,
    };
    let mut parts: Vec<libc::iovec> = (0..request.parts)
        .map(|part| libc::iovec {
            iov_base: buffer.wrapping_add(place(part)).cast(),
            iov_len: place(part + 1) - place(part),
        })
        .collect();
    // SAFETY: the aiocb is the caller's own and not in flight.
    unsafe {
        if request.parts != 0 {
            (*cb).aio_buf = parts.as_mut_ptr().cast();
            (*cb).aio_nbytes = parts.len();
            (*cb).aio_lio_opcode |= LIO_VECTORED;
        }
        if request.at_position {
            (*cb).aio_lio_opcode |= LIO_FOFFSET;
            // Ignored.
            (*cb).aio_offset = -77;
        }
    }
    parts
}

/// The call has returned: nothing may look at the parts any more.
pub fn forget(parts: &mut [libc::iovec]) {
    parts.fill(libc::iovec { iov_base: std::ptr::dangling_mut(), iov_len: 1 << 40 });
}

/// Submits such a request: what is only vectored in either of the ways.
///
/// # Safety
///
/// The aiocb was prepared; it and the buffer live until the request is complete.
pub unsafe fn submit(cb: *mut libc::aiocb, request: &Request) -> c_int {
    let writes = request.what == What::Write;
    if !request.at_position && request.id % 2 == 0 {
        let name = if writes { c"aio_writev" } else { c"aio_readv" };
        // SAFETY: the library's functions of these names have this type.
        return unsafe { std::mem::transmute::<*mut c_void, Start>(find(name)) }(cb);
    }
    let flags = if request.at_position { AIO_OP2_FOFFSET } else { 0 }
        | if request.parts != 0 { AIO_OP2_VECTORED } else { 0 };
    let name = if writes { c"aio_write2" } else { c"aio_read2" };
    // SAFETY: the library's functions of these names have this type.
    let start = unsafe { std::mem::transmute::<*mut c_void, Start2>(find(name)) };
    start(cb, flags)
}

/// aio_waitcomplete, and what it gave.
pub fn next(world: &World, timeout: u8) {
    // SAFETY: the library's function of this name has this type.
    let wait = unsafe { std::mem::transmute::<*mut c_void, WaitComplete>(find(c"aio_waitcomplete")) };
    let limit = libc::timespec { tv_sec: 0, tv_nsec: i64::from(timeout) * 1_000_000 };
    let mut cb = std::ptr::null_mut();
    let before = world.shared.tick();
    let value = wait(&mut cb, &limit) as i64;
    let error = if value == -1 { errno() } else { 0 };
    let after = world.shared.tick();
    if cb.is_null() {
        if value != -1 || !matches!(error, libc::EAGAIN | libc::EINTR) {
            world.problem(NOTHING, problems::NEXT, error);
        }
        return;
    }
    let id = world.id_of(cb);
    world.log(Kind::Next, id, Record { before, after, ..blank() });
    if id != NOTHING {
        world.log(Kind::Status, id, Record { before, after, error, value, ..blank() });
    }
}

pub fn eventfd_of(id: u32) -> c_int {
    FIRST_EVENTFD + id as c_int
}

/// Opens the eventfds, and has a thread wait for them to the end of the process.
pub fn watch(world: &'static World) {
    let requests = &world.plan.requests[..world.plan.first_spare as usize];
    let ids: Vec<u32> =
        requests.iter().filter(|request| request.notify == Notify::Event).map(|request| request.id).collect();
    let Some(last) = ids.last() else { return };
    calls::allow_descriptors(eventfd_of(*last) + 1);
    // SAFETY: plain descriptors, and events that are copied.
    let instance = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    for id in ids {
        // SAFETY: as above.
        unsafe {
            let counter = libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK);
            calls::move_to(counter, &[eventfd_of(id)]);
            let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: u64::from(id) };
            assert_eq!(libc::epoll_ctl(instance, libc::EPOLL_CTL_ADD, eventfd_of(id), &mut event), 0);
        }
    }
    // Signals are the program's threads' business.
    std::thread::spawn(move || {
        // SAFETY: a set of our own; room for one event.
        unsafe {
            let mut all = std::mem::zeroed();
            libc::sigfillset(&mut all);
            libc::pthread_sigmask(libc::SIG_BLOCK, &all, std::ptr::null_mut());
            loop {
                let mut event: libc::epoll_event = std::mem::zeroed();
                if libc::epoll_wait(instance, &mut event, 1, -1) == 1 {
                    counted(world, event.u64 as u32);
                }
            }
        }
    });
}

fn counted(world: &World, id: u32) {
    let list = world.plan.request(id).what == What::List;
    // SAFETY: aiocbs live as long as the process, and this one was submitted.
    let early = || !list && unsafe { libc::aio_error(world.aiocb(id)) } == libc::EINPROGRESS;
    if world.plan.aligned() && early() {
        // A direct request that the kernel would not start at once is counted, and that is taken back.
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut count = 0u64;
    // SAFETY: room for the count.
    if unsafe { libc::read(eventfd_of(id), (&raw mut count).cast(), 8) } == 8 {
        for _ in 0..count {
            if world.plan.aligned() && world.shared.notified(id).load(Ordering::Acquire) != 0 {
                notice::counted_again(id);
            } else {
                notice::notified(notice::value_of(id));
            }
        }
    }
}
