//! A file system that does not answer hangs neither those who submit requests to it nor other descriptors: the
//! cases of c-tests/hung_filesystem.c on a FUSE file system that answers when it is told to.

mod common;
mod gated_fs;

use common::process::{Ending, Outcome};
use common::program::{Case, Kind, Program, Surroundings, Way};
use gated_fs::{GatedFs, Shared};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

#[test]
fn hung_file_system_hangs_neither_callers_nor_other_descriptors() {
    if let Err(reason) = check_that_fuse_works() {
        return common::report(&format!("slow_fuse: skipped: {reason}"));
    }
    let program = Program::compile("hung_filesystem").expect("it needs nothing that can be missing");
    let mut failures = Vec::new();
    for case in &program.cases {
        if let Err(reason) = judge(&program, case) {
            failures.push(format!("{}: {reason}", case.name));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn judge(program: &Program, case: &Case) -> Result<(), String> {
    for way in [Way::Libc, Way::Preloaded] {
        let is_defect = way == Way::Libc && case.kind == Kind::Defect;
        let (outcome, was_forced) = run_on_own_mount(program, case, way)?;
        // Without force nothing had gone on: that is a failure, whatever the program says.
        let passed = outcome.ending == Ending::Exit(0) && !was_forced;
        if passed == is_defect {
            let what = if was_forced { ", the file system had to be set free" } else { "" };
            return Err(format!("{way:?}: {}{what}\n{}{}", outcome.ending, outcome.stdout, outcome.stderr));
        }
    }
    Ok(())
}

/// Runs one case on a file system of its own, in a thread with its own mount namespace: it is gone with this test.
fn run_on_own_mount(program: &Program, case: &Case, way: Way) -> Result<(Outcome, bool), String> {
    let in_thread = || {
        let mount = Mount::new()?;
        let surroundings = Surroundings {
            environment: vec![("AIO_TEST_GATED_DIR".into(), mount.directory.path().into())],
            ..Surroundings::default()
        };
        let is_over = AtomicBool::new(false);
        let outcome = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(20));
                    mount.shared.watch();
                }
            });
            let outcome = program.run(case, way, &surroundings);
            is_over.store(true, Ordering::Relaxed);
            outcome
        });
        Ok((outcome, mount.shared.was_forced()))
    };
    std::thread::scope(|scope| match scope.spawn(in_thread).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// The mounted file system; gone when it is dropped.
struct Mount {
    directory: tempfile::TempDir,
    shared: Shared,
    session: Option<fuser::BackgroundSession>,
}

impl Mount {
    fn new() -> Result<Mount, String> {
        common::own_mounts()?;
        let directory = common::scratch_directory();
        let shared = Shared::new();
        let session =
            fuser::spawn_mount(GatedFs(shared.clone()), directory.path(), &fuser::Config::default())
                .map_err(|error| format!("no FUSE mount: {error}"))?;
        Ok(Mount { directory, shared, session: Some(session) })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.shared.open_gate();
        if let Some(session) = self.session.take() {
            if let Err(error) = session.umount_and_join() {
                common::report(&format!("slow_fuse: cannot unmount: {error}"));
            }
        }
    }
}

/// Why a FUSE file system cannot be mounted here, if it cannot.
fn check_that_fuse_works() -> Result<(), String> {
    // SAFETY: geteuid() has no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        return Err("mounting needs root".to_owned());
    }
    std::fs::File::open("/dev/fuse").map_err(|error| format!("/dev/fuse: {error}"))?;
    std::thread::spawn(|| Mount::new().map(drop))
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
