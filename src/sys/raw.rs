//! The system call instruction itself.
//!
//! Not `libc::syscall`: that stores into `errno`, which POSIX's async-signal-safe `aio_error`,
//! `aio_return` and `aio_suspend` must leave alone when they succeed.

use crate::errno::{from_kernel, Outcome};

/// A system call with up to six arguments; the kernel's answer as a count or an `Errno`.
///
/// # Safety
/// The arguments must be what the numbered system call expects; pointers among them valid for it.
#[inline(always)]
pub unsafe fn syscall(number: libc::c_long, a: [usize; 6]) -> Outcome {
    // SAFETY: handed on from our caller.
    from_kernel(unsafe { syscall_instruction(number, a) })
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn syscall_instruction(number: libc::c_long, a: [usize; 6]) -> isize {
    let answer: isize;
    // SAFETY: the x86-64 system call convention: rcx and r11 are lost, memory may change.
    unsafe {
        core::arch::asm!("syscall",
            inlateout("rax") number as isize => answer,
            in("rdi") a[0], in("rsi") a[1], in("rdx") a[2], in("r10") a[3], in("r8") a[4], in("r9") a[5],
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    answer
}

#[cfg(target_arch = "aarch64")]
#[inline(always)]
unsafe fn syscall_instruction(number: libc::c_long, a: [usize; 6]) -> isize {
    let answer: isize;
    // SAFETY: the arm64 system call convention: number in x8, answer in x0, memory may change.
    unsafe {
        core::arch::asm!("svc 0",
            in("x8") number, inlateout("x0") a[0] => answer, in("x1") a[1], in("x2") a[2],
            in("x3") a[3], in("x4") a[4], in("x5") a[5], options(nostack));
    }
    answer
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("libaio_posix knows the system call convention of x86-64 and aarch64 only");
