//! The C calls of the child that need no world: opening, preparing aiocbs, transfers that do not wait.

use std::ffi::{c_int, c_void, CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::child::{anchor, slot_descriptor};
use super::notice;
use super::plan::{Request, Target};
use super::program::{Notify, Object, What};

pub fn errno() -> i32 {
    // SAFETY: always valid for the calling thread.
    unsafe { *libc::__errno_location() }
}

/// The file that `aio_read` comes from.
pub fn library_of_aio_read() -> String {
    library_of(libc::aio_read as *const () as usize)
}

/// The file that holds an address of code, and how far in.
pub fn library_of(place: usize) -> String {
    // SAFETY: the structure is filled by dladdr, whose strings live as long as the library is loaded.
    unsafe {
        let mut found: libc::Dl_info = std::mem::zeroed();
        if libc::dladdr(place as *const c_void, &mut found) == 0 || found.dli_fname.is_null() {
            return format!("{place:#x}");
        }
        let name = CStr::from_ptr(found.dli_fname).to_string_lossy();
        format!("{name}+{:#x}", place - found.dli_fbase as usize)
    }
}

/// Where an interrupted thread was, and what lies on its stack near the top that may be return addresses.
///
/// # Safety
///
/// `context` is what the kernel gave to a signal handler.
#[cfg(target_arch = "x86_64")]
pub unsafe fn places_of(context: *mut c_void) -> Vec<usize> {
    // SAFETY: the caller's; the words above the stack pointer belong to the thread's own frames.
    unsafe {
        let registers = &(*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        let stack = registers[libc::REG_RSP as usize] as *const usize;
        let mut found: libc::Dl_info = std::mem::zeroed();
        let words = (0..64).map(|word| *stack.add(word));
        let code = words.filter(|word| libc::dladdr(*word as *const c_void, &mut found) != 0);
        std::iter::once(registers[libc::REG_RIP as usize] as usize).chain(code).collect()
    }
}

/// Other processors' registers have other names.
///
/// # Safety
///
/// None: nothing is looked at.
#[cfg(not(target_arch = "x86_64"))]
pub unsafe fn places_of(_: *mut c_void) -> Vec<usize> {
    Vec::new()
}

fn checked(result: c_int, what: &str) -> c_int {
    assert!(result >= 0, "{what}: {}", std::io::Error::last_os_error());
    result
}

pub fn open_file(path: &Path, flags: c_int) -> c_int {
    let name = CString::new(path.as_os_str().as_bytes()).expect("no NUL in a path of our own");
    // SAFETY: a C string.
    checked(unsafe { libc::open(name.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC | flags) }, "open")
}

/// The reading end first.
pub fn pipe() -> [c_int; 2] {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    checked(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }, "pipe2");
    ends
}

pub fn socket_pair(kind: c_int) -> [c_int; 2] {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    let result = unsafe { libc::socketpair(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC, 0, ends.as_mut_ptr()) };
    checked(result, "socketpair");
    ends
}

/// Descriptor numbers up to this one are needed.
pub fn allow_descriptors(most: c_int) {
    // SAFETY: plain numbers.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = limit.rlim_cur.max(most as u64 + 64).min(limit.rlim_max);
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
    }
}

pub fn move_to(descriptor: c_int, numbers: &[c_int]) {
    for number in numbers {
        // SAFETY: dup2() touches no memory; nothing of ours is open at these numbers.
        checked(unsafe { libc::dup2(descriptor, *number) }, "dup2");
    }
    // SAFETY: the descriptor is the caller's own.
    unsafe { libc::close(descriptor) };
}

/// Writes a file's dirty pages and drops it from the page cache.
pub fn evict(descriptor: c_int) {
    // SAFETY: neither call touches memory.
    unsafe {
        libc::fdatasync(descriptor);
        libc::posix_fadvise(descriptor, 0, 0, libc::POSIX_FADV_DONTNEED);
    }
}

/// A sigevent whose value is the number of a request or list.
pub fn sigevent(id: u32, notify: Notify) -> libc::sigevent {
    // SAFETY: all zero is a valid sigevent.
    let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
    event.sigev_value.sival_ptr = notice::value_of(id) as *mut c_void;
    match notify {
        Notify::None => event.sigev_notify = libc::SIGEV_NONE,
        Notify::Signal => {
            event.sigev_notify = libc::SIGEV_SIGNAL;
            event.sigev_signo = notice::signal_number();
        }
        Notify::Event => {
            event.sigev_notify = super::beyond::SIGEV_AIO_EVENTFD;
            event.sigev_signo = super::beyond::eventfd_of(id);
        }
        Notify::Thread => {
            event.sigev_notify = libc::SIGEV_THREAD;
            // The libc crate has no name for the function, which shares its place with the thread id; the
            // attributes behind it are NULL already.
            let function: extern "C" fn(libc::sigval) = notice::on_thread;
            let place = std::ptr::from_mut(&mut event).cast::<u8>().wrapping_add(16);
            // SAFETY: inside the structure, at the offset that the C library's ABI fixes.
            unsafe { place.cast::<extern "C" fn(libc::sigval)>().write(function) };
        }
    }
    event
}

/// Fills an aiocb; what POSIX does not name in it holds garbage, as in a program that did not clear it.
pub fn prepare(cb: *mut libc::aiocb, request: &Request, buffer: *mut u8) {
    // SAFETY: the aiocb is the caller's own and not in flight.
    unsafe {
        std::ptr::write_bytes(cb, 0x77, 1);
        (*cb).aio_fildes = match request.target {
            Target::Slot(slot) => slot_descriptor(slot),
            Target::End(end) => anchor(end),
        };
        (*cb).aio_lio_opcode = match request.what {
            What::Read => libc::LIO_READ,
            What::Write => libc::LIO_WRITE,
            What::Nop => libc::LIO_NOP,
            _ => 77,
        };
        (*cb).aio_reqprio = request.priority;
        (*cb).aio_buf = buffer.cast();
        (*cb).aio_nbytes = request.length;
        (*cb).aio_offset = request.offset;
        (*cb).aio_sigevent = sigevent(request.id, request.notify);
    }
}

/// A read or write at an anchor that never waits: the number of bytes, or -1.
pub fn transfer_now(
    object: Object,
    descriptor: c_int,
    buffer: *mut u8,
    length: usize,
    writing: bool,
) -> isize {
    let vector = libc::iovec { iov_base: buffer.cast(), iov_len: length };
    // SAFETY: the caller's buffer is as long as it says.
    unsafe {
        match (object, writing) {
            (Object::Pipe, true) => libc::pwritev2(descriptor, &vector, 1, -1, libc::RWF_NOWAIT),
            (Object::Pipe, false) => libc::preadv2(descriptor, &vector, 1, -1, libc::RWF_NOWAIT),
            (_, true) => {
                libc::send(descriptor, buffer.cast(), length, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
            }
            (_, false) => libc::recv(descriptor, buffer.cast(), length, libc::MSG_DONTWAIT),
        }
    }
}

/// Whether nothing can be read at this end of a pipe or socket.
pub fn is_empty(descriptor: c_int) -> bool {
    let mut bytes: c_int = 0;
    // SAFETY: FIONREAD stores one int.
    unsafe { libc::ioctl(descriptor, libc::FIONREAD, &mut bytes) == 0 && bytes == 0 }
}

/// Whether this end of a pipe or socket takes data.
pub fn has_room(descriptor: c_int) -> bool {
    let mut poll = libc::pollfd { fd: descriptor, events: libc::POLLOUT, revents: 0 };
    // SAFETY: one structure, as said.
    unsafe { libc::poll(&mut poll, 1, 0) == 1 && poll.revents & libc::POLLOUT != 0 }
}

/// For a report about a hang: each thread's name and the system call that it is in.
pub fn system_calls_of_threads() -> String {
    let mut text = String::new();
    for task in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let read = |name| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
        text += &format!("{}: {}\n", read("comm").trim(), read("syscall").trim());
    }
    text
}
