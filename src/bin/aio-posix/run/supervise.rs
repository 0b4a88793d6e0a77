//! A program that this command outlives: started as a child, with signals and the end passed on both ways.
//!
//! The child stays in this process's group, so that it has the terminal as before, and a terminal's signals reach it by
//! themselves. Others that are sent to this command are sent on; when the child stops, so does this command, for the
//! shell that watches it; and it ends as the child ended.

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};

/// All signals of this process blocked, as they are from `block` on.
pub struct Signals {
    before: libc::sigset_t,
    all: libc::sigset_t,
    child: libc::sighandler_t,
}

impl Signals {
    /// Before the program starts: one that arrives from now on waits until there is a child to send it to.
    pub fn block() -> Signals {
        // SAFETY: sets filled before use; no handler is involved. SIGCHLD gets its default action: where it is ignored, as
        // this command may have inherited it, nobody learns how a child ended.
        unsafe {
            let mut signals =
                Signals { before: std::mem::zeroed(), all: std::mem::zeroed(), child: libc::SIG_DFL };
            libc::sigfillset(&mut signals.all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &signals.all, &mut signals.before);
            signals.child = libc::signal(libc::SIGCHLD, libc::SIG_DFL);
            signals
        }
    }

    /// Starts the program, which has the signal mask that this command was started with.
    pub fn start(&self, command: &mut Command) -> io::Result<Child> {
        let (before, child) = (self.before, self.child);
        // SAFETY: between fork and exec, two async-signal-safe calls, on a set of the closure's own. std has set an empty
        // mask by then.
        unsafe {
            command.pre_exec(move || {
                libc::signal(libc::SIGCHLD, child);
                libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
                Ok(())
            });
        }
        command.spawn()
    }

    /// Passes signals on until the program has ended.
    pub fn wait(&self, child: &Child) -> io::Result<ExitStatus> {
        let number = child.id() as libc::pid_t;
        loop {
            let mut status = 0;
            // SAFETY: a live word; a child of ours that nobody else waits for.
            match unsafe { libc::waitpid(number, &mut status, libc::WNOHANG | libc::WUNTRACED) } {
                0 => self.pass_one_on(number),
                -1 => return Err(io::Error::last_os_error()),
                _ if libc::WIFSTOPPED(status) => {
                    // SAFETY: stops this process, which goes on when the shell (SIGCONT) says so; and so does the child.
                    unsafe {
                        libc::raise(libc::SIGSTOP);
                        libc::kill(number, libc::SIGCONT);
                    }
                }
                _ => return Ok(ExitStatus::from_raw(status)),
            }
        }
    }

    /// Waits for a signal, and sends it to the child unless it is about the child.
    fn pass_one_on(&self, number: libc::pid_t) {
        // SAFETY: a live set and a structure that sigwaitinfo fills in.
        unsafe {
            let mut information: libc::siginfo_t = std::mem::zeroed();
            let signal = libc::sigwaitinfo(&self.all, &mut information);
            // SI_KERNEL: from the terminal, whose whole foreground group has it, the child too.
            let passed = signal > 0
                && !matches!(signal, libc::SIGCHLD | libc::SIGCONT)
                && information.si_code != libc::SI_KERNEL;
            if passed {
                libc::kill(number, signal);
            }
        }
    }
}

/// Ends this process by the signal that ended the program.
pub fn end_by(signal: i32) {
    let nothing = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: plain numbers and a live structure; no handler is involved. The program has left its core file already.
    unsafe {
        libc::setrlimit(libc::RLIMIT_CORE, &nothing);
        libc::signal(signal, libc::SIG_DFL);
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, signal);
        libc::kill(libc::getpid(), signal);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut());
    }
}
