//! Runs one program in a child process and gathers what came of it, also from a child that hung or crashed.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::common::process::{self, Ending};

use super::log::{Record, Shared};
use super::plan::{initial, is_file, is_read, is_write, Plan, CANARY, INITIAL_SIZE};
use super::program::Program;

/// Names the child's directory and the shared memory, and makes a process the child.
pub const CHILD_VARIABLE: &str = "AIO_MODEL_CHILD";
/// The milliseconds after which the child gives up; the parent ends one that cannot.
pub const PATIENCE_VARIABLE: &str = "AIO_MODEL_PATIENCE";
pub const CHILD_TEST: &str = "child_process_of_the_model_test";
/// What the path of the library under test must contain.
pub const WANTED_VARIABLE: &str = "AIO_MODEL_WANTED";

/// Which implementation programs run on.
#[derive(Clone, Debug)]
pub enum Library {
    /// libc's own.
    Libc,
    Preloaded(PathBuf),
}

/// All that the checker judges.
#[derive(Clone)]
pub struct Observation {
    pub records: Vec<Record>,
    /// Each request's buffer with its canary; empty for those without one.
    pub buffers: Vec<Vec<u8>>,
    /// Each object's contents afterwards, empty for those that are no files.
    pub files: Vec<Vec<u8>>,
    pub ending: Ending,
    pub stderr: String,
}

pub fn run(
    program: &Program,
    plan: &Plan,
    library: &Library,
    directory: &Path,
    patience: Duration,
) -> Result<Observation, String> {
    let complain = |what: &'static str| move |error: std::io::Error| format!("{what}: {error}");
    fs::write(directory.join("program"), program.to_string()).map_err(complain("write the program"))?;
    for (number, object) in plan.objects.iter().enumerate() {
        if is_file(*object) {
            reset_file(&object_path(directory, number), number).map_err(complain("prepare a file"))?;
        }
    }
    let shared = Shared::create(plan).map_err(complain("make the shared memory"))?;
    let mut command = Command::new(std::env::current_exe().map_err(complain("find this test binary"))?);
    command
        .args([CHILD_TEST, "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env(CHILD_VARIABLE, format!("{}\n{}", directory.display(), shared.path()))
        .env(PATIENCE_VARIABLE, patience.as_millis().to_string())
        .env_remove("LD_PRELOAD");
    match library {
        Library::Libc => command.env(WANTED_VARIABLE, "libc.so"),
        Library::Preloaded(path) => command.env("LD_PRELOAD", path).env(WANTED_VARIABLE, "libaio_posix"),
    };
    let outcome = process::run(&mut command, 3 * patience).map_err(complain("start the child"))?;
    let records = shared.records()?;
    let mut buffers = vec![Vec::new(); plan.requests.len()];
    for id in records.iter().map(|record| record.subject) {
        let Some(request) = plan.requests.get(id as usize) else {
            continue;
        };
        if (is_read(request.what) || is_write(request.what)) && buffers[id as usize].is_empty() {
            buffers[id as usize] = shared.copy_of(request.buffer, request.length + CANARY);
        }
    }
    let mut files = Vec::new();
    for (number, object) in plan.objects.iter().enumerate() {
        let path = object_path(directory, number);
        files.push(if is_file(*object) {
            fs::read(path).map_err(complain("read a file"))?
        } else {
            Vec::new()
        });
    }
    Ok(Observation { records, buffers, files, ending: outcome.ending, stderr: outcome.stderr })
}

fn object_path(directory: &Path, number: usize) -> PathBuf {
    directory.join(format!("object{number}"))
}

/// The file keeps its blocks from one program to the next; only what is in it starts anew.
fn reset_file(path: &Path, number: usize) -> std::io::Result<()> {
    let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    let contents: Vec<u8> = (0..INITIAL_SIZE).map(|position| initial(number as u32, position)).collect();
    file.set_len(INITIAL_SIZE as u64)?;
    file.write_all_at(&contents, 0)
}
