//! `aio-posix check`: what kernel AIO does on this machine and in these places, measured, and what the library makes of it.

mod context;
mod host;
mod library;
mod probe;
mod report;

use crate::bench::machine;
use crate::words::{complain, plain, say};
use context::Context;
use host::Host;
use probe::{Kind, Measured, Operation, Place};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const STATUSES: &str = "\
Exit status:
  0  kernel AIO works, and direct reads, and direct overwrites where they were
     tried, are asynchronous in every PATH
  1  something could not be tried
  2  wrong options
  3  the kernel refuses this process what the library needs
  4  kernel AIO works, but in some PATH direct reads or overwrites are not
     asynchronous";

/// The kernel refuses what the library needs.
const REFUSED: u8 = 3;
/// Somewhere no direct transfer is asynchronous.
const NOT_ASYNCHRONOUS: u8 = 4;

/// Measure what kernel AIO does here, and say what the library would do.
///
/// In each PATH that is a directory it writes a file of some 20 MiB without a name; a file or a block device is only read.
#[derive(clap::Args)]
#[command(after_long_help = STATUSES)]
pub struct Options {
    /// Directories, files or block devices to measure
    #[arg(value_name = "PATH", default_value = ".")]
    paths: Vec<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// The libaio_posix.so to speak of [default: beside this command, in ../lib, or where the dynamic linker looks]
    #[arg(long, value_name = "FILE")]
    library: Option<PathBuf>,
}

/// In so many tries at least. What the kernel does in the call is never seen under way; but a fast disk may have finished
/// before anybody looked, the more so on a busy machine.
const SEEN_UNDER_WAY: u64 = probe::TRIES / 4;

/// What was found in one place.
struct Finding {
    path: PathBuf,
    kind: Kind,
    file_system: String,
    rows: Vec<(Measured, library::Way)>,
}

impl Finding {
    fn measure(path: &Path, context: &Context, limited: bool) -> Result<Finding, String> {
        let place = Place::open(path)?;
        let measured =
            place.measure(context).map_err(|sentence| format!("{}: {sentence}", path.display()))?;
        let asked = library::Place { memory: place.memory, on_device: place.on_device, limited };
        Ok(Finding {
            path: path.to_path_buf(),
            kind: place.kind,
            file_system: match place.kind {
                Kind::BlockDevice => "block device".to_owned(),
                Kind::Directory | Kind::File => machine::file_system(path),
            },
            rows: measured
                .into_iter()
                .map(|measured| {
                    let way = library::way(&measured, asked);
                    (measured, way)
                })
                .collect(),
        })
    }

    fn is_asynchronous(&self) -> bool {
        self.rows.iter().all(|(measured, _)| match measured.operation {
            Operation::DirectRead | Operation::DirectOverwrite => {
                measured.in_flight.is_ok_and(|count| count >= SEEN_UNDER_WAY)
            }
            _ => true,
        })
    }
}

pub fn run(options: &Options) -> Result<ExitCode, String> {
    // What cannot be used is said before anything is measured.
    let library = match &options.library {
        Some(_) => {
            crate::library::find(options.library.as_deref()).and_then(|path| crate::library::load(&path))?
        }
        None => crate::library::find(None).unwrap_or_default(),
    };
    // A write beyond RLIMIT_FSIZE then fails, and does not kill.
    // SAFETY: sets a disposition; no handler is involved.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let context = Context::new();
    let host = Host::look(&context, library);
    let mut findings = Vec::new();
    let mut failures = Vec::new();
    for path in &options.paths {
        match &context {
            Ok(context) => match Finding::measure(path, context, host.limited) {
                Ok(finding) => findings.push(finding),
                Err(sentence) => failures.push(sentence),
            },
            // Nothing can be measured by calls that are refused; but a wrong path is still wrong.
            Err(_) => {
                if let Err(error) = path.metadata() {
                    let reason = plain(&error);
                    failures.push(format!("{} cannot be looked at: {reason}", path.display()));
                }
            }
        }
    }
    let status = if !failures.is_empty() {
        1
    } else if context.is_err() {
        REFUSED
    } else if findings.iter().all(Finding::is_asynchronous) {
        0
    } else {
        NOT_ASYNCHRONOUS
    };
    crate::bench::output::end_with_reader();
    let said = if options.json {
        say(&format!("{}\n", report::json(&host, &findings, &failures, status)))
    } else {
        say(&report::text(&host, &findings))
    };
    for sentence in failures {
        complain(&sentence);
    }
    said?;
    Ok(ExitCode::from(status))
}
