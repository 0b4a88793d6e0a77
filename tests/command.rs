//! `aio-posix run` and `aio-posix check`, as installed: what they do, and what they say to what they cannot.

mod common;
#[path = "common/installed.rs"]
mod installed;

use installed::{compile, refuse, stderr, stdout, Installation};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

fn installation() -> &'static Installation {
    static INSTALLATION: OnceLock<Installation> = OnceLock::new();
    INSTALLATION.get_or_init(|| Installation::new("/usr/local", "/usr/local/lib"))
}

fn library() -> PathBuf {
    let library = installation().library_directory().join("libaio_posix.so");
    library.canonicalize().expect("the library is installed")
}

fn run(arguments: &[&str]) -> Output {
    installation().command().arg("run").args(arguments).output().expect("run the command")
}

fn check(arguments: &[&str]) -> Output {
    installation().command().arg("check").args(arguments).output().expect("run the command")
}

/// One sentence on standard error, nothing on standard output, and this status.
fn assert_refused(output: &Output, status: i32, sentence: &str) {
    let said = stderr(output);
    assert_eq!(output.status.code(), Some(status), "{said}");
    assert!(said.starts_with("aio-posix: ") && said.contains(sentence), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert_eq!(stdout(output), "");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of ours is UTF-8")
}

#[test]
fn a_program_ends_as_it_would_alone() {
    let output = run(&["--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!(output.status.code(), Some(7));
    assert_eq!((stdout(&output).as_str(), stderr(&output).as_str()), ("out\n", "err\n"));
    let output = run(&["sh", "-c", "kill -TERM $$"]);
    assert_eq!(output.status.signal(), Some(libc::SIGTERM));
}

#[test]
fn the_program_is_this_very_process() {
    let child = installation()
        .command()
        .args(["run", "--", "sh", "-c", "echo $$"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("run the command");
    let number = child.id();
    let output = child.wait_with_output().expect("its output");
    assert_eq!(stdout(&output).trim(), number.to_string());
}

#[test]
fn what_was_preloaded_before_stays() {
    // Preloading a library twice is harmless; any path that the dynamic linker accepts will do.
    let other = library();
    let output = installation()
        .command()
        .args(["run", "--", "sh", "-c", "echo $LD_PRELOAD"])
        .env("LD_PRELOAD", &other)
        .output()
        .expect("run the command");
    assert_eq!(stdout(&output).trim(), format!("{}:{}", other.display(), library().display()));
}

#[test]
fn a_program_uses_the_library() {
    let directory = common::scratch_directory();
    let binary = directory.path().join("program");
    compile(&binary, false, "aio.h", &[]);
    let alone = Command::new(&binary).env_remove("LD_PRELOAD").output().expect("run the program");
    assert!(!stdout(&alone).contains("aio_posix"), "it used the library without being asked to");
    let output = run(&["--verbose", "--", text(&binary)]);
    assert!(output.status.success(), "{:?}", output.status);
    assert_eq!(Path::new(stdout(&output).trim()), library());
    assert!(stderr(&output).contains(text(&library())), "{}", stderr(&output));
}

#[test]
fn programs_that_take_no_preload_are_refused() {
    let directory = common::scratch_directory();
    let source = directory.path().join("static.c");
    let binary = directory.path().join("static");
    // Without any libc, as its static one may not be installed. It is never run.
    fs::write(&source, "void _start(void) { for (;;); }\n").expect("write the program");
    let output = common::c_compiler(false)
        .args(["-static", "-nostdlib", "-o"])
        .args([&binary, &source])
        .output()
        .expect("run the C compiler");
    assert!(output.status.success(), "{}", stderr(&output));
    assert_refused(&run(&[text(&binary)]), 126, "statically linked");
    let script = directory.path().join("script");
    fs::write(&script, format!("#! {}\n", binary.display())).expect("write the script");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("make it executable");
    assert_refused(&run(&[text(&script)]), 126, "statically linked");
}

#[test]
fn set_user_id_programs_are_refused() {
    let directory = common::scratch_directory();
    let binary = directory.path().join("program");
    fs::copy("/bin/true", &binary).expect("copy a program");
    // SAFETY: it touches no memory and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        return println!("skip: only root can make a program of another user's");
    }
    std::os::unix::fs::chown(&binary, Some(65_534), Some(65_534)).expect("give it away");
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).expect("change its mode");
    assert_eq!(run(&[text(&binary)]).status.code(), Some(0));
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o4755)).expect("change its mode");
    assert_refused(&run(&[text(&binary)]), 126, "set-user-ID");
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o2755)).expect("change its mode");
    assert_refused(&run(&[text(&binary)]), 126, "set-group-ID");
}

#[test]
fn what_cannot_be_run_is_said() {
    let directory = common::scratch_directory();
    let plain = directory.path().join("plain");
    fs::write(&plain, "not a program").expect("write a file");
    assert_refused(&run(&["no-such-program-anywhere"]), 127, "No such file");
    assert_refused(&run(&[text(&plain)]), 126, "Permission denied");
    assert_refused(&run(&[text(directory.path())]), 126, "Permission denied");
    assert_refused(&run(&["--library", "/nowhere/lib.so", "true"]), 125, "/nowhere/lib.so");
    assert_refused(&run(&["--library", text(&plain), "true"]), 125, "cannot be loaded");
}

#[test]
fn a_place_is_measured_and_left_as_it_was() {
    let directory = common::scratch_directory();
    let output = check(&["--json", text(directory.path())]);
    let said = stdout(&output);
    let status = output.status.code().expect("it ends by itself");
    // Whether this file system is asynchronous is not for this test to know; the two answers must agree.
    match status {
        0 => assert!(said.contains("\"asynchronous\":true"), "{said}"),
        4 => assert!(said.contains("\"asynchronous\":false"), "{said}"),
        3 => return println!("skip: this machine refuses kernel AIO: {said}"),
        _ => panic!("status {status}: {}", stderr(&output)),
    }
    for operation in ["direct read", "direct overwrite", "direct extension", "uncached read", "fdatasync"] {
        assert!(said.contains(&format!("\"operation\":\"{operation}\"")), "{operation}: {said}");
    }
    let left = fs::read_dir(directory.path()).expect("list the directory").count();
    assert_eq!(left, 0, "files stayed behind");
    let table = stdout(&check(&[text(directory.path())]));
    let widest = table.lines().map(|line| line.chars().count()).max();
    let head = 2 + text(directory.path()).len().max(text(&library()).len()) + 20;
    assert!(widest.is_some_and(|widest| widest <= head.max(80)), "{table}");
}

#[test]
fn what_cannot_be_measured_is_said() {
    for (path, sentence) in [
        ("/nowhere", "No such file"),
        ("/dev/null", "neither a directory"),
        ("/proc", "no file can be made"),
        ("/proc/version", "less than 1 MiB"),
    ] {
        let output = check(&[path]);
        assert_eq!(output.status.code(), Some(1), "{path}");
        let said = stderr(&output);
        assert!(said.contains(path) && said.contains(sentence), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

/// Tried with clap's own words, which are several lines.
#[test]
fn wrong_options_are_said_in_one_sentence() {
    assert_refused(&check(&["--colour"]), 2, "'--colour'");
    // One of the command's, misspelt, is no program; the program's own are its own.
    assert_refused(&run(&["--stat", "true"]), 125, "'--stat'");
    assert_refused(&run(&["--stats=xml", "true"]), 125, "possible values: text, json");
    assert_refused(&run(&[]), 125, "<PROGRAM>");
    assert_eq!(stdout(&run(&["echo", "--stats", "--", "-v"])), "--stats -- -v\n");
    let bench = |arguments: &[&str]| {
        let output = installation().command().arg("bench").args(arguments).output();
        output.expect("run the command")
    };
    assert_refused(&bench(&["--rounds", "0"]), 2, "'--rounds <N>'");
    assert_refused(&bench(&["--cell", "x"]), 1, "no cell x");
    assert_refused(&bench(&["--path", "/nowhere"]), 1, "no file can be made in /nowhere");
    assert_refused(&bench(&["--svg", "/nowhere/x.svg"]), 1, "/nowhere/x.svg cannot be written");
    assert_refused(&bench(&["--library", "/nowhere.so"]), 1, "/nowhere.so");
}

/// Help, too, is for 80 columns, also where no terminal says how many it has.
#[test]
fn help_fits_a_terminal() {
    for arguments in [&["--help"][..], &["run", "--help"], &["check", "--help"], &["bench", "--help"]] {
        let output = installation().command().args(arguments).output().expect("run the command");
        let said = stdout(&output);
        assert!(output.status.success() && said.contains("Usage: aio-posix"), "{said}");
        assert!(said.lines().all(|line| line.chars().count() <= 80), "{said}");
    }
}

#[test]
fn a_disk_with_no_room_is_said() {
    let directory = common::scratch_directory();
    let full = fs::File::options().write(true).open("/dev/full").expect("open /dev/full");
    let output = installation()
        .command()
        .args(["check", text(directory.path())])
        .stdout(full)
        .output()
        .expect("run the command");
    assert_refused(&output, 1, "No space left on device");
    // The result of a benchmark, and what it can measure, likewise; and no place even for the sentence that says so.
    for (arguments, sentences) in [
        (&["bench", "--list"][..], 1),
        (&["bench", "--rounds", "1", "--seconds", "0.05", "--cell", "submit-pipe"], 1),
        (&["bench", "--cell", "none"], 0),
    ] {
        let full = || fs::File::options().write(true).open("/dev/full").expect("open /dev/full");
        let mut command = installation().command();
        command.args(arguments).current_dir(directory.path()).stdout(full());
        if sentences == 0 {
            command.stderr(full());
        }
        let output = command.output().expect("run the command");
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", stderr(&output));
        assert_eq!(stderr(&output).lines().count(), sentences, "{arguments:?}: {}", stderr(&output));
    }
    // No room for a drawing: the figures are printed all the same.
    let output = installation()
        .command()
        .args(["bench", "--rounds", "1", "--seconds", "0.05", "--cell", "cached-read", "--depth", "1,2"])
        .args(["--svg", "/dev/full"])
        .current_dir(directory.path())
        .output()
        .expect("run the command");
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("the drawing /dev/full cannot be written: No space"),
        "{}",
        stderr(&output)
    );
    assert!(stdout(&output).contains("Operations a second"), "{}", stdout(&output));
    // Room for less than the file that is written: 100 blocks of 512 bytes.
    let limited = format!("ulimit -f 100; exec \"$0\" check {}", text(directory.path()));
    let command = installation().command();
    let output = Command::new("sh").args(["-c", &limited]).arg(command.get_program()).output();
    let output = output.expect("run the command");
    assert_eq!(output.status.code(), Some(1), "{:?}", output.status);
    assert!(stderr(&output).contains("File too large"), "{}", stderr(&output));
    assert_eq!(fs::read_dir(directory.path()).expect("list the directory").count(), 0);
}

#[test]
fn an_interrupted_measurement_leaves_nothing() {
    let directory = common::scratch_directory();
    // At any time: before, in and after the measurement.
    for milliseconds in [0, 5, 20, 80] {
        let mut child = installation()
            .command()
            .args(["check", text(directory.path())])
            .stdout(Stdio::null())
            .spawn()
            .expect("run the command");
        std::thread::sleep(std::time::Duration::from_millis(milliseconds));
        // SAFETY: touches no memory; the child is not waited for yet, so the number is its own.
        unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGINT) };
        child.wait().expect("its end");
        let left = fs::read_dir(directory.path()).expect("list the directory").count();
        assert_eq!(left, 0, "after {milliseconds} ms files stayed behind");
    }
}

/// At any time: while the file is written, and with a worker at work on it.
#[test]
fn an_interrupted_benchmark_leaves_nothing() {
    let directory = common::scratch_directory();
    let drawing = directory.path().join("drawing.svg");
    for milliseconds in [20, 600] {
        let child = installation()
            .command()
            .args(["bench", "--rounds", "100", "--path", text(directory.path()), "--svg", text(&drawing)])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("run the command");
        std::thread::sleep(std::time::Duration::from_millis(milliseconds));
        // SAFETY: touches no memory; the child is not waited for yet, so the number is its own.
        unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGINT) };
        let output = child.wait_with_output().expect("its end");
        // Before the handler is there the signal itself ends the command.
        match output.status.code() {
            None => assert_eq!(output.status.signal(), Some(libc::SIGINT)),
            Some(status) => {
                assert_eq!((status, stderr(&output).lines().count()), (130, 1), "{}", stderr(&output))
            }
        }
        let left = fs::read_dir(directory.path()).expect("list the directory").count();
        assert_eq!(left, 0, "after {milliseconds} ms files stayed behind");
    }
}

/// The command under a seccomp filter that answers one system call with an error number.
fn check_without(call: libc::c_long, error: i32) -> Output {
    let mut command = installation().command();
    command.args(["check", "--json", "/"]);
    refuse(&mut command, call, error);
    command.output().expect("run the command under a filter")
}

#[test]
fn who_refuses_kernel_aio_is_said() {
    let refused = |call, name: &str, error, by: &str| {
        let output = check_without(call, error);
        let said = stdout(&output);
        assert_eq!(output.status.code(), Some(3), "{said} {}", stderr(&output));
        assert!(said.contains(name) && said.contains(by), "{said}");
    };
    refused(libc::SYS_io_setup, "io_setup", libc::EPERM, "a seccomp filter");
    refused(libc::SYS_io_setup, "io_setup", libc::ENOSYS, "a seccomp filter, or");
    refused(libc::SYS_io_setup, "io_setup", libc::EAGAIN, "fs.aio-max-nr");
    refused(libc::SYS_io_submit, "io_submit", libc::EPERM, "a seccomp filter");
}
