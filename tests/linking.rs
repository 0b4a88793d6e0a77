//! aio_waitcomplete serves what was complete before its first call, however a program that refers to it was linked.

mod common;

use std::process::Command;

/// Seen to fail, for what is not position-independent and for System V's hash table: with a look at the symbols before the
/// first that GNU's hash table lists.
#[test]
fn a_program_that_refers_to_aio_waitcomplete_is_known_by_it() {
    let directory = common::scratch_directory();
    let binary = directory.path().join("finished_before");
    let ways: &[&[&str]] = &[
        &["-fpie", "-pie"],
        &["-fpie", "-pie", "-Wl,--hash-style=sysv"],
        &["-fno-pie", "-no-pie"],
        &["-fno-pie", "-no-pie", "-Wl,--hash-style=sysv"],
        &["-fpie", "-pie", "-fno-plt", "-Wl,-z,now"],
        &["-fpie", "-pie", "-Wl,-z,lazy"],
    ];
    for way in ways {
        let compiled = common::c_compiler(false)
            .args(["-pthread", "-D_GNU_SOURCE"])
            .args(*way)
            .arg(common::source_root().join("c-tests/tools/finished_before.c"))
            .arg("-o")
            .arg(&binary)
            .args(common::link_arguments())
            .output()
            .expect("run the compiler");
        assert!(compiled.status.success(), "{way:?}: {}", String::from_utf8_lossy(&compiled.stderr));
        let ran = Command::new(&binary)
            .env_remove("LD_LIBRARY_PATH")
            .env_remove("LD_PRELOAD")
            .output()
            .expect("run it");
        assert_eq!(String::from_utf8_lossy(&ran.stdout), "4 of the request\n", "{way:?}");
    }
}
