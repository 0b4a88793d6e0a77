//! System calls on threads, signals, clocks and memory.

use super::raw::syscall;
use crate::errno::{Errno, Outcome};
use core::sync::atomic::AtomicU32;
use libc::{c_int, timespec};

/// A signal mask as the kernel keeps it: bit `n - 1` for signal `n`.
pub type Mask = u64;

/// `rt_sigprocmask(2)`: puts `mask` in place and returns the one before. glibc's own two signals
/// (32 for cancellation, 33 for setuid) are blocked as well where `mask` has them: library frames
/// that do so are short. Library threads must not: see `block_for_library_thread`.
#[inline]
pub fn set_mask(mask: Mask) -> Mask {
    let mut before: Mask = 0;
    let arguments = [libc::SIG_SETMASK as usize, &raw const mask as usize, &raw mut before as usize, 8, 0, 0];
    // SAFETY: two live words of the size stated; cannot fail with valid arguments.
    let _ = unsafe { syscall(libc::SYS_rt_sigprocmask, arguments) };
    before
}

/// Everything but the two signals by which glibc reaches every thread (cancellation and set*id).
pub const LIBRARY_THREAD_MASK: Mask = !((1 << 31) | (1 << 32));

/// A thread's name with its NUL (`prctl(2)`, PR_SET_NAME).
pub type Name = [u8; 16];

/// The calling thread's name.
pub fn name() -> Name {
    let mut name = Name::default();
    // SAFETY: room for a name.
    let _ = unsafe {
        syscall(libc::SYS_prctl, [libc::PR_GET_NAME as usize, name.as_mut_ptr() as usize, 0, 0, 0, 0])
    };
    name
}

/// Names the calling thread.
pub fn set_name(name: &Name) {
    // SAFETY: the kernel reads up to the NUL, which `name` put there.
    let _ =
        unsafe { syscall(libc::SYS_prctl, [libc::PR_SET_NAME as usize, name.as_ptr() as usize, 0, 0, 0, 0]) };
}

/// Where the calling thread's alternate signal stack is (`sigaltstack(2)`); 0: it has none.
pub fn signal_stack() -> usize {
    let mut stack = libc::stack_t { ss_sp: core::ptr::null_mut(), ss_flags: 0, ss_size: 0 };
    // SAFETY: the kernel fills the live structure.
    let _ = unsafe { syscall(libc::SYS_sigaltstack, [0, &raw mut stack as usize, 0, 0, 0, 0]) };
    stack.ss_sp as usize
}

/// Rounding, masks and flags of floating-point arithmetic as a process starts with them (fenv.h, FE_DFL_ENV).
pub fn reset_float_environment() {
    // SAFETY: no value that the compiler knows of depends on them.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        core::arch::asm!("fninit", "ldmxcsr [{}]", in(reg) &raw const DEFAULT_MXCSR, options(nostack));
        #[cfg(target_arch = "aarch64")]
        core::arch::asm!("msr fpcr, xzr", "msr fpsr, xzr", options(nomem, nostack));
    }
}

/// All exceptions masked, rounding to nearest (System V ABI, AMD64 supplement, 3.4.1).
#[cfg(target_arch = "x86_64")]
static DEFAULT_MXCSR: u32 = 0x1f80;

/// Takes one pending `signal`, if there is one: what a failed write left behind (SIGPIPE, SIGXFSZ).
/// The signal must be blocked.
pub fn discard_pending(signal: c_int) {
    let set: Mask = 1 << (signal - 1);
    let zero = timespec { tv_sec: 0, tv_nsec: 0 };
    let arguments = [&raw const set as usize, 0, &raw const zero as usize, 8, 0, 0];
    // SAFETY: live set and timespec; EAGAIN when none is pending.
    let _ = unsafe { syscall(libc::SYS_rt_sigtimedwait, arguments) };
}

/// Whether `signal` is pending for this thread or the process.
pub fn is_pending(signal: c_int) -> bool {
    let mut set: Mask = 0;
    // SAFETY: one live word of the size stated.
    let _ = unsafe { syscall(libc::SYS_rt_sigpending, [&raw mut set as usize, 8, 0, 0, 0, 0]) };
    set & (1 << (signal - 1)) != 0
}

/// The kernel's `struct sigaction` for a query: only handler and flags matter here.
#[repr(C)]
#[derive(Default)]
struct KernelSigaction {
    handler: usize,
    flags: usize,
    restorer: usize,
    mask: u64,
}
// On arm64 too: it has SA_RESTORER, for its 32-bit programs.
const _: () = assert!(size_of::<KernelSigaction>() == 32);

/// Whether every handler that the program has installed is SA_RESTART: then a wait without
/// time-out goes on after one of them ran, as the kernel would restart libc's own.
pub fn handlers_all_restart() -> bool {
    (1..=64).all(|signal| {
        let mut action = KernelSigaction::default();
        // SAFETY: a query; the kernel fills the live structure (its own layout, without libc's).
        let asked =
            unsafe { syscall(libc::SYS_rt_sigaction, [signal, 0, &raw mut action as usize, 8, 0, 0]) };
        // glibc's own handlers (32, 33) are SA_RESTART.
        asked.is_err() || action.handler <= 1 || action.flags & libc::SA_RESTART as usize != 0
    })
}

/// `siginfo_t` of a queued signal: the kernel's 128 bytes, those that carry a value.
#[repr(C)]
struct QueuedInfo {
    signo: c_int,
    errno: c_int,
    code: c_int,
    pad: c_int,
    pid: c_int,
    uid: u32,
    value: usize,
    rest: [u64; 12],
}
const _: () = assert!(size_of::<QueuedInfo>() == 128);

/// `getpid(2)`.
pub fn process_id() -> c_int {
    // SAFETY: getpid takes and touches nothing.
    unsafe { syscall(libc::SYS_getpid, [0; 6]) }.unwrap_or(0) as c_int
}

/// Queues `signal` with si_code SI_ASYNCIO and `value`, to the process or to one of its threads.
/// EAGAIN: the queue of pending signals is full. EINVAL, ESRCH: no such signal or thread.
pub fn queue_signal(process: c_int, signal: c_int, thread: Option<c_int>, value: usize) -> Result<(), Errno> {
    // SAFETY: getuid takes and touches nothing. Asked each time: setuid(2) may have changed it.
    let uid = unsafe { syscall(libc::SYS_getuid, [0; 6]) }.unwrap_or(0);
    let pid = process as usize;
    let info = QueuedInfo {
        signo: signal,
        errno: 0,
        code: libc::SI_ASYNCIO,
        pad: 0,
        pid: process,
        uid: uid as u32,
        value,
        rest: [0; 12],
    };
    let info = &raw const info as usize;
    // SAFETY: a live siginfo of the kernel's size.
    unsafe {
        match thread {
            None => syscall(libc::SYS_rt_sigqueueinfo, [pid, signal as usize, info, 0, 0, 0]),
            Some(tid) => {
                syscall(libc::SYS_rt_tgsigqueueinfo, [pid, tid as usize, signal as usize, info, 0, 0])
            }
        }
    }
    .map(|_| ())
}

const FUTEX_WAIT_BITSET_PRIVATE: usize = 9 | 128;
const FUTEX_WAKE_PRIVATE: usize = 1 | 128;

/// Sleeps while `word` is `expected`, at most until `deadline` (CLOCK_MONOTONIC).
/// EAGAIN: it is not `expected`. ETIMEDOUT. EINTR: a handler ran.
#[inline(always)]
pub fn futex_wait(word: &AtomicU32, expected: u32, deadline: Option<&timespec>) -> Outcome {
    let deadline = deadline.map_or(0, |d| core::ptr::from_ref(d) as usize);
    let arguments = [
        word.as_ptr() as usize,
        FUTEX_WAIT_BITSET_PRIVATE,
        expected as usize,
        deadline,
        0,
        u32::MAX as usize,
    ];
    // SAFETY: a live word and a live deadline or none.
    unsafe { syscall(libc::SYS_futex, arguments) }
}

/// Wakes up to `count` threads that sleep on `word`.
#[inline]
pub fn futex_wake(word: &AtomicU32, count: u32) {
    // SAFETY: a live word; nothing is written.
    let _ = unsafe {
        syscall(libc::SYS_futex, [word.as_ptr() as usize, FUTEX_WAKE_PRIVATE, count as usize, 0, 0, 0])
    };
}

/// CLOCK_MONOTONIC now, through the vDSO.
pub fn now() -> timespec {
    let mut time = timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a live timespec; async-signal-safe by POSIX; cannot fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time
}

/// `time` plus `nanoseconds` (below one second).
pub fn later(time: timespec, nanoseconds: i64) -> timespec {
    let sum = time.tv_nsec + nanoseconds;
    timespec { tv_sec: time.tv_sec + sum / 1_000_000_000, tv_nsec: sum % 1_000_000_000 }
}

/// Who the calling thread is, as a number that no other live thread has; never 0.
#[inline]
pub fn self_id() -> u64 {
    // SAFETY: always succeeds; a register read on glibc and musl, so async-signal-safe.
    unsafe { libc::pthread_self() as u64 }
}

/// `gettid(2)`.
pub fn thread_id() -> u32 {
    // SAFETY: takes and touches nothing.
    unsafe { syscall(libc::SYS_gettid, [0; 6]) }.unwrap_or(0) as u32
}

/// What glibc (2.32 and newer) says of this process and those that it was forked from; false where libc says nothing.
/// Not by dlsym, which waits for whoever is loading an object.
pub fn never_had_threads() -> bool {
    let said: *const u8;
    // SAFETY: `said` is the address of a char, or NULL where nothing loaded defines the name.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        core::arch::asm!(
            ".weak __libc_single_threaded",
            "mov {said}, qword ptr [rip + __libc_single_threaded@GOTPCREL]",
            said = out(reg) said, options(pure, readonly, nostack, preserves_flags));
        #[cfg(target_arch = "aarch64")]
        core::arch::asm!(
            ".weak __libc_single_threaded",
            "adrp {said}, :got:__libc_single_threaded",
            "ldr {said}, [{said}, :got_lo12:__libc_single_threaded]",
            said = out(reg) said, options(pure, readonly, nostack, preserves_flags));
        !said.is_null() && said.read_volatile() != 0
    }
}

/// Zeroed private memory of `bytes`, from mmap: the library allocates nowhere else while it works,
/// so that it never meets the program's allocator inside a lock or a signal handler.
pub fn map_zeroed(bytes: usize) -> Option<core::ptr::NonNull<u8>> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new anonymous mapping disturbs no other.
    let address =
        unsafe { syscall(libc::SYS_mmap, [0, bytes, protection as usize, flags as usize, usize::MAX, 0]) };
    core::ptr::NonNull::new(address.ok()? as *mut u8)
}

/// The first `bytes` of a file, shared with all who have it mapped.
pub fn map_shared(fd: c_int, bytes: usize) -> Option<core::ptr::NonNull<u8>> {
    let protection = (libc::PROT_READ | libc::PROT_WRITE) as usize;
    let arguments = [0, bytes, protection, libc::MAP_SHARED as usize, fd as usize, 0];
    // SAFETY: a new mapping disturbs no other.
    let address = unsafe { syscall(libc::SYS_mmap, arguments) };
    core::ptr::NonNull::new(address.ok()? as *mut u8)
}

/// Gives back what `map_zeroed` gave.
///
/// # Safety
/// Nothing refers to the mapping any more.
pub unsafe fn unmap(address: core::ptr::NonNull<u8>, bytes: usize) {
    // SAFETY: our caller's promise.
    let _ = unsafe { syscall(libc::SYS_munmap, [address.as_ptr() as usize, bytes, 0, 0, 0, 0]) };
}

/// Puts zeroed private memory in the place of a mapping.
///
/// # Safety
/// The mapping is the calling process's alone to lose; who still looks at it may see zeroes.
pub unsafe fn replace_zeroed(address: usize, bytes: usize) {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    let arguments = [address, bytes, protection as usize, flags as usize, usize::MAX, 0];
    // SAFETY: our caller's promise.
    let _ = unsafe { syscall(libc::SYS_mmap, arguments) };
}

/// `madvise(MADV_WIPEONFORK)`: a forked child sees zeroes there. EINVAL before Linux 4.14.
pub fn wipe_on_fork(address: core::ptr::NonNull<u8>, bytes: usize) -> Result<(), Errno> {
    let arguments = [address.as_ptr() as usize, bytes, libc::MADV_WIPEONFORK as usize, 0, 0, 0];
    // SAFETY: changes only what a later fork copies of a mapping of ours.
    unsafe { syscall(libc::SYS_madvise, arguments) }.map(|_| ())
}
