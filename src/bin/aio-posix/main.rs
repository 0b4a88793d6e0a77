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

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Shows what libaio_posix gives to programs that use POSIX AIO.
#[derive(Parser)]
#[command(name = "aio-posix", version)]
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
    let outcome = match Command::parse().action {
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
