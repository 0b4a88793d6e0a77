//! What the documentation shows: an event loop of Python's on an eventfd, and a program as one writes it on FreeBSD.

mod common;

use std::process::Command;

fn tool(name: &str) -> std::path::PathBuf {
    common::source_root().join("c-tests/tools").join(name)
}

/// Seen to fail, by its time limit: with requests that are complete at once not added to the eventfd.
#[test]
fn asyncio_waits_for_requests_by_an_eventfd() {
    let directory = common::scratch_directory();
    let mut command = Command::new("python3");
    command.arg(tool("asyncio_aio.py")).arg(common::product_file()).arg(directory.path());
    match command.env_remove("LD_PRELOAD").output() {
        Err(error) => common::report(&format!("examples: skipped: no python3: {error}")),
        Ok(output) => {
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{errors}");
            assert_eq!(output.stdout, b"1228923 bytes copied\n");
        }
    }
}

/// Fails, when compiled, without any one of the names. Seen to fail, when run: with LIO_FOFFSET ignored by lio_listio.
#[test]
fn a_program_for_freebsd_compiles_and_runs() {
    let directory = common::scratch_directory();
    let binary = directory.path().join("freebsd");
    let compiled = common::c_compiler(false)
        .args(["-Wall", "-Wextra", "-Werror", "-pthread", "-D_GNU_SOURCE", "-include", "aio_posix.h", "-I"])
        .arg(common::source_root().join("include"))
        .arg(tool("freebsd.c"))
        .arg("-o")
        .arg(&binary)
        .args(common::link_arguments())
        .output()
        .expect("run the compiler");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let ran = Command::new(&binary)
        .arg(directory.path().join("file"))
        .env_remove("LD_LIBRARY_PATH")
        .env_remove("LD_PRELOAD")
        .output()
        .expect("run the program");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!(ran.stdout, b"ok\n");
}
