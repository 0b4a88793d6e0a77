//! The C programs about files on each file system that people use: ext4, xfs and btrfs on loop devices, and tmpfs.
//!
//! Each file system is mounted in a mount namespace of one thread of this test, by mount(8)'s own loop device, which
//! the kernel takes down with the mount: whatever becomes of the test, nothing is left behind.

mod common;

use common::process::Ending;
use common::program::{Case, Kind, Program, Surroundings, Way};
use std::ffi::CString;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// What depends on the file system. The timeouts of their cases hold here too.
const PROGRAMS: &[&str] =
    &["filesystems", "never_blocks", "order", "fsync", "closed_fd", "changing_fd", "reqprio"];

/// The size of an image: xfs makes none below 300 MiB. The file is sparse.
const IMAGE_BYTES: u64 = 768 << 20;

#[test]
fn ext4() {
    on_image("ext4", &["mkfs.ext4", "-q", "-F"]);
}

#[test]
fn xfs() {
    on_image("xfs", &["mkfs.xfs", "-q", "-f"]);
}

#[test]
fn btrfs() {
    on_image("btrfs", &["mkfs.btrfs", "-q", "-f"]);
}

#[test]
fn tmpfs() {
    on_mount("tmpfs", |target| {
        run_quietly(Command::new("mount").args(["-n", "-t", "tmpfs", "-o", "size=1g", "none"]).arg(target))
    });
}

fn on_image(name: &str, make: &[&str]) {
    on_mount(name, |target| {
        let image = target.with_extension("image");
        std::fs::File::create(&image)
            .and_then(|file| file.set_len(IMAGE_BYTES))
            .map_err(|error| format!("{}: {error}", image.display()))?;
        run_quietly(Command::new(make[0]).args(&make[1..]).arg(&image))?;
        run_quietly(Command::new("mount").args(["-n", "-t", name, "-o", "loop"]).arg(&image).arg(target))?;
        // The mount keeps it; its name is of no more use.
        std::fs::remove_file(&image).map_err(|error| error.to_string())
    });
}

/// One file system at a time: some cases compare times.
static TURN: Mutex<()> = Mutex::new(());

/// Runs the programs on what `mount` mounts, in a thread whose mounts nobody else sees.
fn on_mount(name: &str, mount: impl FnOnce(&Path) -> Result<(), String> + Send) {
    // SAFETY: geteuid() has no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        return common::report(&format!("{name}: skipped: mounting needs root"));
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if let Err(reason) = common::own_mounts() {
                return common::report(&format!("{name}: skipped: {reason}"));
            }
            let scratch = common::scratch_directory();
            let target = scratch.path().join(name);
            std::fs::create_dir(&target).expect("make the mount point");
            if let Err(reason) = mount(&target) {
                return common::report(&format!("{name}: skipped: {reason}"));
            }
            run_programs(name, &target);
            unmount(&target);
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn unmount(target: &Path) {
    let path = CString::new(target.as_os_str().as_encoded_bytes()).expect("a path has no NUL");
    // SAFETY: the path is a C string that outlives the call.
    assert_eq!(unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) }, 0);
}

/// Ok, or why it could not be done: the program is missing, or the kernel lacks the file system.
fn run_quietly(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{program}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

fn run_programs(file_system: &str, directory: &Path) {
    let surroundings = Surroundings {
        environment: vec![("AIO_TEST_DIR".into(), directory.into())],
        ..Surroundings::default()
    };
    let mut failures = Vec::new();
    for name in PROGRAMS {
        let program = match Program::compile(name) {
            Ok(program) => program,
            Err(reason) => {
                common::report(&format!("{file_system}: {name}: skipped: {reason}"));
                continue;
            }
        };
        for case in &program.cases {
            if let Err(reason) = run_case(file_system, &program, case, &surroundings) {
                failures.push(format!("{}/{}: {reason}", program.name, case.name));
            }
        }
    }
    assert!(failures.is_empty(), "on {file_system}:\n{}", failures.join("\n"));
}

/// The library must pass, and say what libc says. That a defect shows on libc is the C suite's matter.
fn run_case(
    file_system: &str,
    program: &Program,
    case: &Case,
    surroundings: &Surroundings,
) -> Result<(), String> {
    let ours = program.run(case, Way::Preloaded, surroundings);
    match ours.ending {
        Ending::Exit(0) => {}
        Ending::Exit(77) => {
            common::report(&format!("{file_system}: {}/{}: {}", program.name, case.name, ours.stdout.trim()));
            return Ok(());
        }
        ending => return Err(format!("{ending}\n{}{}", ours.stdout, ours.stderr)),
    }
    if case.kind != Kind::Same {
        return Ok(());
    }
    let libc = program.run(case, Way::Libc, surroundings);
    match (libc.ending, libc.stdout == ours.stdout) {
        (Ending::Exit(0), true) => Ok(()),
        (Ending::Exit(0), false) => Err(format!("libc's says:\n{}ours says:\n{}", libc.stdout, ours.stdout)),
        (ending, _) => Err(format!("on libc: {ending}\n{}", libc.stderr)),
    }
}
