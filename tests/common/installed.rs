//! The library and the command, built as `dist/install` wants them, and installed into directories of the tests' own.

use crate::common;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use tempfile::TempDir;

/// The target directory with a release build of the library and the command.
pub fn built() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .parent()
            .expect("cargo puts its tmp directory in the target directory")
            .join("product");
        let output = Command::new(env!("CARGO"))
            .args(["build", "--release", "--features", "cli", "--target-dir"])
            .arg(&target)
            .current_dir(common::source_root())
            .output()
            .expect("run cargo");
        assert!(output.status.success(), "the command does not build:\n{}", stderr(&output));
        target
    })
}

/// A directory that stands for `/`, with the library installed in it.
pub struct Installation {
    pub root: TempDir,
    pub prefix: &'static str,
    pub libdir: &'static str,
}

impl Installation {
    pub fn new(prefix: &'static str, libdir: &'static str) -> Installation {
        let installation = Installation { root: common::scratch_directory(), prefix, libdir };
        let output = installation.script("install");
        assert!(output.status.success(), "{}", stderr(&output));
        installation
    }

    /// Runs dist/install or dist/uninstall.
    pub fn script(&self, name: &str) -> Output {
        script(name, self.root.path(), &[&format!("--prefix={}", self.prefix), "--libdir", self.libdir])
    }

    /// Where a path of the installed system lies.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path.trim_start_matches('/'))
    }

    pub fn library_directory(&self) -> PathBuf {
        self.path(self.libdir)
    }

    /// The installed command, in an environment that preloads nothing.
    pub fn command(&self) -> Command {
        let mut command = Command::new(self.path(self.prefix).join("bin/aio-posix"));
        command.env_remove("LD_PRELOAD").env_remove("LD_LIBRARY_PATH");
        command
    }
}

/// Runs a script of dist/ for the build above.
pub fn script(name: &str, root: &Path, arguments: &[&str]) -> Output {
    Command::new(common::source_root().join("dist").join(name))
        .args(arguments)
        .env("DESTDIR", root)
        .env("CARGO_TARGET_DIR", built())
        .env("LC_ALL", "C")
        .output()
        .expect("run the script")
}

/// Puts the command under a seccomp filter that answers one system call with an error number.
#[allow(dead_code)] // Not by every test binary.
pub fn refuse(command: &mut Command, call: libc::c_long, error: i32) {
    // SAFETY: between fork and exec only two system calls are made, on arrays of the closure's own.
    unsafe {
        command.pre_exec(move || {
            let instruction = |code: u32, jump_true, jump_false, k| libc::sock_filter {
                code: code as u16,
                jt: jump_true,
                jf: jump_false,
                k,
            };
            let mut filter = [
                // The number is the first word of struct seccomp_data.
                instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
                instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, call as u32),
                instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | error as u32),
                instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
            ];
            let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
            let failed = libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
                || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) != 0;
            if failed {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A program that writes and reads by POSIX AIO, and prints the file whose aio_read it called.
pub const PROGRAM: &str = r#"
#define _GNU_SOURCE
#include INCLUDED
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

static int finished(struct aiocb *request, ssize_t expected)
{
    const struct aiocb *list[1] = { request };

    while (aio_error(request) == EINPROGRESS)
        aio_suspend(list, 1, NULL);
    return aio_return(request) == expected;
}

int main(void)
{
    char written[] = "installed", got[sizeof written] = "";
    struct aiocb request;
    Dl_info object;
    FILE *file = tmpfile();

    if (file == NULL)
        return 2;
    memset(&request, 0, sizeof request);
    request.aio_fildes = fileno(file);
    request.aio_buf = written;
    request.aio_nbytes = sizeof written;
    if (aio_write(&request) != 0 || !finished(&request, sizeof written))
        return 3;
    request.aio_buf = got;
    if (aio_read(&request) != 0 || !finished(&request, sizeof written))
        return 4;
    if (strcmp(written, got) != 0 || dladdr((void *)aio_read, &object) == 0)
        return 5;
    puts(object.dli_fname);
    return 0;
}
"#;

/// Compiles `PROGRAM` with the header that it is to include.
pub fn compile(binary: &Path, cpp: bool, header: &str, arguments: &[String]) {
    let source = binary.with_extension(if cpp { "cc" } else { "c" });
    std::fs::write(&source, PROGRAM).expect("write the program");
    let output = common::c_compiler(cpp)
        .arg(format!("-DINCLUDED=<{header}>"))
        .arg("-o")
        .arg(binary)
        .arg(&source)
        .args(arguments)
        // Before glibc 2.34 these are libraries of their own.
        .args(["-lrt", "-ldl"])
        .output()
        .expect("run the C compiler");
    assert!(output.status.success(), "{}", stderr(&output));
}
