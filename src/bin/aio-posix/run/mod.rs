//! `aio-posix run`: a program with the library preloaded, in place of this process.
//!
//! The program replaces the command (exec), so its number, terminal, signals and exit status are its own. With
//! `--stats` it is a child, whose counters the command prints at its end.

mod counters;
// Shared with the library, which must not be linked in here: see `main`.
#[allow(dead_code)] // Some of it is the library's.
#[path = "../../../observe/page.rs"]
mod page;
mod program;
mod report;
mod supervise;

use crate::library;
use crate::words::{complain, plain};
use counters::Counters;
use program::Program;
use report::Report;
use std::ffi::{CString, OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};
use supervise::Signals;

/// What the dynamic linker takes for the end of a name in LD_PRELOAD (ld.so(8)).
const SEPARATORS: &[u8] = b": \t\n";

/// As env(1), nohup(1) and their like: what this command could not do, what cannot be run, what is not there.
pub const FAILED: u8 = 125;
const NOT_RUNNABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

const STATUSES: &str = "\
Exit status: the program's, or
  125  wrong options, or the library cannot be used
  126  the program cannot be run, or cannot be preloaded into
  127  there is no such program";

/// Run a program with libaio_posix in place of libc's POSIX AIO.
///
/// The program replaces this command: its process number, signals and exit status are its own. With --stats it is a
/// child of this command, which passes signals and the exit status on.
#[derive(clap::Args)]
#[command(after_long_help = STATUSES)]
pub struct Options {
    /// The libaio_posix.so to preload [default: beside this command, in ../lib, or where the dynamic linker looks]
    #[arg(long, value_name = "FILE")]
    library: Option<PathBuf>,
    /// Print at the program's end what it asked of POSIX AIO, who answered, and whether it gains: on standard error,
    /// as text or as one line of JSON
    #[arg(long, value_name = "FORMAT", num_args = 0..=1, require_equals = true, default_missing_value = "text")]
    stats: Option<Format>,
    /// Say on standard error which library is preloaded into which program
    #[arg(long, short)]
    verbose: bool,
    /// The program and its arguments
    #[arg(value_name = "PROGRAM", required = true, trailing_var_arg = true)]
    command: Vec<OsString>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Format {
    Text,
    Json,
}

pub fn run(options: &Options) -> Result<ExitCode, String> {
    match start(options) {
        Ok(status) => {
            if let Some(signal) = status.signal() {
                supervise::end_by(signal);
            }
            Ok(ExitCode::from(status.code().map_or(FAILED, |code| code as u8)))
        }
        Err((status, sentence)) => {
            complain(&sentence);
            Ok(ExitCode::from(status))
        }
    }
}

/// An exit status, and the sentence that says why.
type Refusal = (u8, String);

/// Replaces this process, or gives the status that the program ended with.
fn start(options: &Options) -> Result<ExitStatus, Refusal> {
    let library = library::find(options.library.as_deref())
        .and_then(|path| library::load(&path))
        .map_err(|sentence| (FAILED, sentence))?;
    let preload = preload(&library, std::env::var_os("LD_PRELOAD")).map_err(|sentence| (FAILED, sentence))?;
    let name = &options.command[0];
    let path = program::find(name).map_err(|error| {
        let status = if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_RUNNABLE };
        (status, format!("{} cannot be run: {}", name.to_string_lossy(), plain(&error)))
    })?;
    Program::inspect(&path)
        .and_then(|program| program.takes_preload())
        .map_err(|sentence| (NOT_RUNNABLE, sentence))?;
    if options.verbose {
        complain(&format!("{} runs with {}", path.display(), library.display()));
    }
    std::env::set_var("LD_PRELOAD", preload);
    let cannot = |error| (NOT_RUNNABLE, format!("{} cannot be run: {}", path.display(), plain(&error)));
    match options.stats {
        None => Err(cannot(exec(&path, &options.command))),
        Some(format) => count(&path, &options.command, format, cannot),
    }
}

/// Runs the program as a child, and prints what it counted.
fn count(
    path: &Path,
    words: &[OsString],
    format: Format,
    cannot: impl Fn(io::Error) -> Refusal,
) -> Result<ExitStatus, Refusal> {
    let counters = Counters::new()
        .map_err(|error| (FAILED, format!("there is no memory to count in: {}", plain(&error))))?;
    let signals = Signals::block();
    let mut command = Command::new(path);
    command
        .arg0(&words[0])
        .args(&words[1..])
        .env(OsStr::from_bytes(page::VARIABLE.to_bytes()), counters.number());
    let child = signals.start(&mut command).map_err(&cannot)?;
    let status = signals.wait(&child).map_err(cannot)?;
    let report = Report::new(counters.page());
    let name = path
        .file_name()
        .map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
    let text = match format {
        Format::Text => report.text(&name),
        Format::Json => report.json(),
    };
    // Where standard error is full or gone there is nobody to tell, and the status is the program's.
    let _ = io::stderr().write_all(text.as_bytes());
    Ok(status)
}

/// The value for LD_PRELOAD: what was there stays, and comes first, so that a sanitizer or a tracer keeps its place.
fn preload(library: &Path, before: Option<OsString>) -> Result<OsString, String> {
    if library.as_os_str().as_bytes().iter().any(|byte| SEPARATORS.contains(byte)) {
        return Err(format!(
            "the library cannot be preloaded from {:?}: in LD_PRELOAD a space or a colon ends a name",
            library
        ));
    }
    let mut value = before.unwrap_or_default();
    if !value.is_empty() {
        value.push(":");
    }
    value.push(library);
    Ok(value)
}

/// Replaces this process; returns only the reason why it could not.
fn exec(path: &Path, command: &[OsString]) -> io::Error {
    let c_string = |text: &OsStr| CString::new(OsString::from(text).into_vec());
    let strings: Result<Vec<CString>, _> = command.iter().map(|text| c_string(text)).collect();
    let (Ok(path), Ok(strings)) = (c_string(path.as_os_str()), strings) else {
        return io::ErrorKind::InvalidInput.into();
    };
    let mut pointers: Vec<_> = strings.iter().map(|text| text.as_ptr()).collect();
    pointers.push(std::ptr::null());
    // SAFETY: C strings, and an array of them that ends with NULL. SIGPIPE: Rust's start-up code had it ignored, which
    // the program would inherit. execvp runs a script without #! by the shell, as a shell does; the path has a slash.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::execvp(path.as_ptr(), pointers.as_ptr());
    }
    io::Error::last_os_error()
}

#[cfg(test)]
mod tests {
    use super::preload;
    use std::ffi::OsString;
    use std::path::Path;

    #[test]
    fn what_was_preloaded_stays_and_comes_first() {
        let library = Path::new("/lib/libaio_posix.so");
        let value = preload(library, Some(OsString::from("/lib/libasan.so"))).expect("a value");
        assert_eq!(value, "/lib/libasan.so:/lib/libaio_posix.so");
        assert_eq!(preload(library, None).expect("a value"), "/lib/libaio_posix.so");
        assert_eq!(preload(library, Some(OsString::new())).expect("a value"), "/lib/libaio_posix.so");
    }

    #[test]
    fn a_name_that_ld_preload_cannot_hold_is_refused() {
        for name in ["/my lib/libaio_posix.so", "/a:b/libaio_posix.so"] {
            assert!(preload(Path::new(name), None).is_err(), "{name}");
        }
    }
}
