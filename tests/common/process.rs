//! Running one process to its end, or to its time limit.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How a process came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Exit(i32),
    Signal(i32),
    TimedOut,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::Exit(status) => write!(f, "exit status {status}"),
            Ending::Signal(signal) => write!(f, "killed by signal {signal}"),
            Ending::TimedOut => write!(f, "did not end in time"),
        }
    }
}

/// What a process left behind.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub ending: Ending,
    pub stdout: String,
    /// For a process that did not end in time, followed by what its threads were waiting in.
    pub stderr: String,
}

/// Runs the command in a process group of its own, and leaves none of that group alive.
///
/// Output goes to files: a pipe would stay open in children that outlive the process.
pub fn run(command: &mut Command, limit: Duration) -> io::Result<Outcome> {
    let mut stdout = tempfile::tempfile()?;
    let mut stderr = tempfile::tempfile()?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(stdout.try_clone()?)
        .stderr(stderr.try_clone()?)
        .process_group(0)
        .spawn()?;
    let deadline = Instant::now() + limit;
    let mut threads = String::new();
    let mut pause = Duration::from_micros(200);
    let timed_out = loop {
        if has_ended(&child)? {
            break false;
        }
        if Instant::now() >= deadline {
            threads = describe_threads(&child);
            break true;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    };
    // The process is not yet waited for, so its number cannot belong to another group.
    // SAFETY: kill() touches no memory; the group is the one made above.
    unsafe { libc::kill(-(child.id() as libc::pid_t), libc::SIGKILL) };
    let status = child.wait()?;
    let ending = match (timed_out, status.code()) {
        (true, _) => Ending::TimedOut,
        (false, Some(code)) => Ending::Exit(code),
        (false, None) => Ending::Signal(std::os::unix::process::ExitStatusExt::signal(&status).unwrap_or(0)),
    };
    Ok(Outcome { ending, stdout: contents(&mut stdout)?, stderr: contents(&mut stderr)? + &threads })
}

/// Looks without collecting the process: its number stays its own until `wait`.
fn has_ended(child: &Child) -> io::Result<bool> {
    // SAFETY: an all-zero siginfo_t is a valid value, and waitid() fills it in.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: info outlives the call.
    if unsafe { libc::waitid(libc::P_PID, child.id(), &mut info, flags) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: waitid() sets the pid of a child that has ended, and leaves zero otherwise.
    Ok(unsafe { info.si_pid() } != 0)
}

/// What each thread of a hanging process is blocked in: its name, system call number and arguments.
fn describe_threads(child: &Child) -> String {
    let mut text = String::new();
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{}/task", child.id())) else {
        return text;
    };
    for task in tasks.flatten() {
        let read = |file| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
        text += &format!("thread {}: {}\n", read("comm").trim(), read("syscall").trim());
    }
    text
}

fn contents(file: &mut File) -> io::Result<String> {
    use std::io::{Read, Seek};
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
