//! `aio-posix run`: a program with the library preloaded, in place of this process.
//!
//! The program replaces the command (exec), so its number, terminal, signals and exit status are its own.

mod program;

use crate::library;
use crate::words::plain;
use program::Program;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What the dynamic linker takes for the end of a name in LD_PRELOAD (ld.so(8)).
const SEPARATORS: &[u8] = b": \t\n";

/// As env(1), nohup(1) and their like: what this command could not do, what cannot be run, what is not there.
const FAILED: u8 = 125;
const NOT_RUNNABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

const STATUSES: &str = "\
Exit status: the program's, or
  125  the library cannot be used
  126  the program cannot be run, or cannot be preloaded into
  127  there is no such program";

/// Run a program with libaio_posix in place of libc's POSIX AIO.
///
/// The program replaces this command: its process number, signals and exit status are its own.
#[derive(clap::Args)]
#[command(after_long_help = STATUSES)]
pub struct Options {
    /// The libaio_posix.so to preload [default: beside this command, in ../lib, or where the dynamic linker looks]
    #[arg(long, value_name = "FILE")]
    library: Option<PathBuf>,
    /// Say on standard error which library is preloaded into which program
    #[arg(long, short)]
    verbose: bool,
    /// The program and its arguments
    #[arg(value_name = "PROGRAM", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

pub fn run(options: &Options) -> Result<ExitCode, String> {
    let (status, sentence) = match start(options) {
        Ok(never) => match never {},
        Err(refusal) => refusal,
    };
    eprintln!("aio-posix: {sentence}");
    Ok(ExitCode::from(status))
}

/// An exit status, and the sentence that says why.
type Refusal = (u8, String);

fn start(options: &Options) -> Result<std::convert::Infallible, Refusal> {
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
        eprintln!("aio-posix: {} runs with {}", path.display(), library.display());
    }
    std::env::set_var("LD_PRELOAD", preload);
    let error = exec(&path, &options.command);
    Err((NOT_RUNNABLE, format!("{} cannot be run: {}", path.display(), plain(&error))))
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
