//! `aio-posix`: the command that shows what libaio_posix gives, and how it fares here.
//!
//! The command is an ordinary POSIX AIO program: it must never contain the library's own functions, or it
//! could not measure libc's implementation. So nothing here may name the crate `aio_posix`; the benchmark's
//! workers check at run time whose functions they really call.

mod bench;
mod check;
mod library;
mod run;
mod words;
mod worker;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// As other commands.
const WRONG_OPTIONS: u8 = 2;

/// Shows what libaio_posix gives to programs that use POSIX AIO.
#[derive(Parser)]
#[command(name = "aio-posix", version, max_term_width = 80)]
struct Command {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    Run(run::Options),
    Check(check::Options),
    Bench(bench::Options),
    /// One measurement in a process of its own; `bench` starts it.
    #[command(hide = true)]
    Worker,
}

fn main() -> ExitCode {
    let command = match Command::try_parse() {
        Ok(command) => command,
        Err(error) => return refuse(&error),
    };
    let outcome = match command.action {
        Action::Run(options) => run::run(&options),
        Action::Check(options) => check::run(&options),
        Action::Bench(options) => bench::run(&options),
        Action::Worker => worker::run(),
    };
    outcome.unwrap_or_else(|sentence| {
        words::complain(&sentence);
        ExitCode::FAILURE
    })
}

/// Wrong options: one sentence, as for everything else that is wrong. Help and version end here too, without a complaint.
fn refuse(error: &clap::Error) -> ExitCode {
    use ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion};
    if matches!(error.kind(), DisplayHelp | DisplayVersion | DisplayHelpOnMissingArgumentOrSubcommand) {
        error.exit();
    }
    let text = error.to_string();
    // What follows the first paragraph is how the command is used, which --help says better.
    let sentence: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
    let sentence = sentence.join(" ");
    words::complain(&format!(
        "{} (--help lists what there is)",
        sentence.strip_prefix("error: ").unwrap_or(&sentence)
    ));
    // `run` leaves the small numbers to the program.
    let runs = std::env::args_os().nth(1).is_some_and(|word| word == "run");
    ExitCode::from(if runs { run::FAILED } else { WRONG_OPTIONS })
}
