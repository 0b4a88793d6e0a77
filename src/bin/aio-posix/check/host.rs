//! What the machine and this process's surroundings allow.

use super::context::{Context, Refusal};
use crate::words::plain;
use std::path::PathBuf;

pub struct Host {
    pub kernel: String,
    /// Requests of the context that could be had, or the call that was refused.
    pub context: Result<u32, Refused>,
    /// Requests that all contexts of the machine were set up for, and the most there may be (/proc/sys/fs).
    pub in_use: Option<u64>,
    pub most: Option<u64>,
    /// The process has an RLIMIT_FSIZE.
    pub limited: bool,
    pub library: Option<PathBuf>,
}

pub struct Refused {
    pub call: &'static str,
    /// As errno.h names it.
    pub error: String,
    /// Who refuses, as far as the error number and /proc tell.
    pub by: &'static str,
}

impl Host {
    pub fn look(context: &Result<Context, Refusal>, library: PathBuf) -> Host {
        Host {
            kernel: crate::bench::machine::kernel(),
            context: context
                .as_ref()
                .map(|context| context.requests)
                .map_err(|refusal| refused(refusal, is_filtered())),
            // Counted with our own context: without it, as before the command.
            in_use: number("/proc/sys/fs/aio-nr").map(|now| {
                now.saturating_sub(context.as_ref().map_or(0, |context| u64::from(context.requests)))
            }),
            most: number("/proc/sys/fs/aio-max-nr"),
            limited: is_limited(),
            library: Some(library).filter(|path| !path.as_os_str().is_empty()),
        }
    }
}

fn refused(refusal: &Refusal, filtered: bool) -> Refused {
    let number = refusal.error.raw_os_error().unwrap_or(0);
    let by = match number {
        libc::EAGAIN => "fs.aio-max-nr: all that it allows is in use",
        libc::ENOMEM => "the kernel: memory is out",
        libc::ENOSYS if filtered => "a seccomp filter, or a kernel without the call",
        libc::ENOSYS => "a kernel without the call (CONFIG_AIO)",
        _ if filtered => "a seccomp filter",
        _ => "the kernel's security rules",
    };
    Refused { call: refusal.call, error: errno_name(number).unwrap_or_else(|| plain(&refusal.error)), by }
}

/// The name of an error number that shows up here; None: write it out.
pub fn errno_name(number: i32) -> Option<String> {
    let name = match number {
        libc::EPERM => "EPERM",
        libc::EIO => "EIO",
        libc::EAGAIN => "EAGAIN",
        libc::ENOMEM => "ENOMEM",
        libc::EACCES => "EACCES",
        libc::EFAULT => "EFAULT",
        libc::EINVAL => "EINVAL",
        libc::ENOSYS => "ENOSYS",
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        _ => return None,
    };
    Some(name.to_owned())
}

/// Whether a seccomp filter stands before the kernel (proc_pid_status(5)).
fn is_filtered() -> bool {
    std::fs::read_to_string("/proc/self/status")
        .is_ok_and(|text| text.lines().any(|line| line.split_whitespace().eq(["Seccomp:", "2"])))
}

fn number(path: &str) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn is_limited() -> bool {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit fills in our structure.
    unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &mut limit) == 0 && limit.rlim_cur != libc::RLIM_INFINITY }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn who_refuses_is_told_from_the_error_number() {
        let by = |number, filtered| {
            let refusal = Refusal { call: "io_setup", error: io::Error::from_raw_os_error(number) };
            refused(&refusal, filtered).by
        };
        assert_eq!(by(libc::EPERM, true), "a seccomp filter");
        assert_eq!(by(libc::EPERM, false), "the kernel's security rules");
        assert!(by(libc::EAGAIN, true).contains("aio-max-nr"));
        assert!(by(libc::ENOSYS, false).contains("CONFIG_AIO"));
    }
}
