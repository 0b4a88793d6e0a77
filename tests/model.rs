//! The model test: random programs of every call, on files, pipes and sockets, in up to four threads and their forked
//! children, run on the library; what they saw must be explained by some legal order of events.
//!
//! Each program runs in a process of its own with the library preloaded. It logs every call's result with the order of
//! events around it; the parent compares the log, the buffers and the files with the model in `model/check.rs`. A program
//! that fails is shrunk and printed, with the seed that makes it again.
//!
//! Environment variables:
//!
//! - `AIO_MODEL_SECONDS`: how long to go on (default 20). An hour, on the release build:
//!   `AIO_POSIX_PRODUCT=$PWD/target/release AIO_MODEL_SECONDS=3600 cargo test --test model random -- --nocapture`.
//! - `AIO_MODEL_SEED`: a number, or `number:program` to begin with one program of it (default: new each time).
//! - `AIO_MODEL_JOBS`: programs side by side (default 2).
//! - `AIO_MODEL_LIBRARY=libc`: run libc's own implementation, without what it is known to do wrong (fork, close and dup2
//!   with requests in flight, aio_cancel, large lists). This shows that the checker asks for nothing that POSIX does not.
//! - `AIO_MODEL_PROGRAM`: a file with one program as printed by a failure; it is run until it fails or time is up.

mod common;

#[path = "model"]
mod model {
    pub mod beyond;
    pub mod calls;
    pub mod check;
    pub mod child;
    pub mod drain;
    mod faults;
    pub mod files;
    pub mod forked;
    pub mod generate;
    pub mod history;
    pub mod log;
    pub mod notice;
    pub mod plan;
    pub mod program;
    pub mod run;
    pub mod session;
    pub mod streams;
}

use std::path::Path;
use std::time::Duration;

use model::run::{Library, CHILD_VARIABLE, PATIENCE_VARIABLE, WANTED_VARIABLE};
use model::session;

#[test]
fn random_programs_behave_as_some_legal_order_explains() {
    let libc = std::env::var("AIO_MODEL_LIBRARY").is_ok_and(|library| library == "libc");
    let library = if libc { Library::Libc } else { Library::Preloaded(common::product_file()) };
    session::run(&library);
}

/// Not a test: what the tests above start once for each program.
#[test]
#[ignore = "the process that the model test starts for each program"]
fn child_process_of_the_model_test() {
    let Ok(place) = std::env::var(CHILD_VARIABLE) else {
        println!("nothing to do: the model test starts this by itself");
        return;
    };
    let (directory, memory) = place.split_once('\n').expect("directory and shared memory");
    let directory = Path::new(directory);
    let text = std::fs::read_to_string(directory.join("program")).expect("read the program");
    let plan = model::plan::Plan::new(&text.parse().expect("a program"));
    let shared = model::log::Shared::open(Path::new(memory), &plan).expect("open the shared memory");
    let wanted = std::env::var(WANTED_VARIABLE).unwrap_or_default();
    let patience = std::env::var(PATIENCE_VARIABLE).ok().and_then(|text| text.parse().ok());
    let patience = patience.map_or(model::session::PATIENCE, Duration::from_millis);
    model::child::run(plan, shared, directory, &wanted, patience);
}
