//! include/aio_posix.h: the committed file is the generated one, and C and C++ take it.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Where build.rs put the header that belongs to these sources.
const GENERATED: &str = concat!(env!("OUT_DIR"), "/aio_posix.h");

fn committed() -> PathBuf {
    common::source_root().join("include/aio_posix.h")
}

#[test]
fn the_committed_header_is_the_generated_one() {
    let generated = fs::read_to_string(GENERATED).expect("read the generated header");
    let committed = fs::read_to_string(committed()).expect("read the committed header");
    assert!(!generated.trim().is_empty());
    if let Some((at, (left, right))) =
        generated.lines().zip(committed.lines()).enumerate().find(|(_, (left, right))| left != right)
    {
        panic!("line {}: the generated header has\n{left}\nand the committed one\n{right}", at + 1);
    }
    assert_eq!(generated, committed, "one is longer; copy {GENERATED} to include/");
}

/// A translation unit that uses every function at the type that POSIX gives it, and moves some bytes.
const PROGRAM: &str = r#"
#ifdef SYSTEM_HEADER_FIRST
#include <aio.h>
#endif
#include <aio_posix.h>
#ifdef SYSTEM_HEADER_LAST
#include <aio.h>
#endif
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

typedef int (*request_function)(struct aiocb *);
typedef int (*fsync_function)(int, struct aiocb *);
typedef int (*error_function)(const struct aiocb *);
typedef ssize_t (*return_function)(struct aiocb *);
typedef int (*suspend_function)(const struct aiocb *const *, int, const struct timespec *);
typedef int (*cancel_function)(int, struct aiocb *);
typedef int (*list_function)(int, struct aiocb *const *, int, struct sigevent *);

static const request_function read_it = aio_read, write_it = aio_write;
static const fsync_function sync_it = aio_fsync;
static const error_function error_of = aio_error;
static const return_function return_of = aio_return;
static const suspend_function wait_for = aio_suspend;
static const cancel_function cancel_it = aio_cancel;
static const list_function list_of = lio_listio;

/* As FreeBSD declares them. */
typedef int (*request2_function)(struct aiocb *, int);
typedef ssize_t (*next_function)(struct aiocb **, struct timespec *);

static const request_function readv_it = aio_readv, writev_it = aio_writev, lock_it = aio_mlock;
static const request2_function read2_it = aio_read2, write2_it = aio_write2;
static const next_function next_of = aio_waitcomplete;

#if !defined(AIO_POSIX_VERSION) || !defined(SIGEV_AIO_EVENTFD) || !defined(LIO_READV) || !defined(LIO_WRITEV) || \
    !defined(LIO_FOFFSET) || !defined(AIO_OP2_FOFFSET) || !defined(AIO_OP2_VECTORED)
#error "an extension has no macro"
#endif

#ifdef __USE_LARGEFILE64
typedef int (*request64_function)(struct aiocb64 *);
static const request64_function read64_it = aio_read64, write64_it = aio_write64;
#endif

static int finish(struct aiocb *cb, int started)
{
    const struct aiocb *list[1];

    list[0] = cb;
    if (started != 0)
        return -1;
    while (error_of(cb) == EINPROGRESS)
        if (wait_for(list, 1, NULL) != 0)
            return -1;
    return (int)return_of(cb);
}

int main(int count, char **arguments)
{
    static char out[] = "header", in[sizeof out];
    struct aiocb cb, *list[1];
    int fd = count > 1 ? open(arguments[1], O_RDWR | O_CREAT, 0600) : -1;

    memset(&cb, 0, sizeof cb);
    cb.aio_sigevent.sigev_notify = SIGEV_NONE;
    cb.aio_fildes = fd;
    cb.aio_nbytes = sizeof out;
    cb.aio_buf = out;
    if (finish(&cb, write_it(&cb)) != (int)sizeof out || finish(&cb, sync_it(O_SYNC, &cb)) != 0)
        return 1;
    cb.aio_buf = in;
    if (finish(&cb, read_it(&cb)) != (int)sizeof in || memcmp(in, out, sizeof in) != 0)
        return 2;
    cb.aio_lio_opcode = LIO_READ;
    list[0] = &cb;
    if (list_of(LIO_WAIT, list, 1, NULL) != 0 || cancel_it(fd, &cb) != AIO_ALLDONE)
        return 3;
    aiocb_t other = cb, *done = &other;
    struct timespec at_once = { 0, 0 };
    struct iovec parts[1];

    parts[0].iov_base = in;
    parts[0].iov_len = sizeof in;
    other.aio_iov = parts;
    other.aio_iovcnt = 1;
    if (finish(&other, readv_it(&other)) != (int)sizeof in || finish(&other, writev_it(&other)) != (int)sizeof in)
        return 7;
    if (finish(&other, read2_it(&other, AIO_OP2_VECTORED)) != (int)sizeof in || write2_it(&other, 64) != -1)
        return 8;
    /* What was returned is not served. */
    if (return_of(&cb) != (ssize_t)sizeof in || next_of(&done, &at_once) != -1 || errno != EWOULDBLOCK || done != NULL || lock_it(NULL) != -1)
        return 9;
#ifdef __USE_LARGEFILE64
    static char large[3];
    struct aiocb64 cb64;

    memset(&cb64, 0, sizeof cb64);
    cb64.aio_sigevent.sigev_notify = SIGEV_NONE;
    cb64.aio_fildes = fd;
    cb64.aio_offset = ((off64_t)3 << 30) + 1;
    cb64.aio_nbytes = 2;
    cb64.aio_buf = out;
    if (write64_it(&cb64) != 0)
        return 4;
    while (aio_error64(&cb64) == EINPROGRESS)
        continue;
    cb64.aio_buf = large;
    if (aio_return64(&cb64) != 2 || read64_it(&cb64) != 0)
        return 5;
    while (aio_error64(&cb64) == EINPROGRESS)
        continue;
    if (aio_return64(&cb64) != 2 || strcmp(large, "he") != 0)
        return 6;
#endif
    puts("ok");
    return 0;
}
"#;

/// Compiles the program with the warnings that the header promises to be clean under, against the given include directory.
fn compile(directory: &Path, include: &Path, cpp: bool, flags: &[&str]) -> (Output, PathBuf) {
    let source = directory.join(if cpp { "program.cc" } else { "program.c" });
    let binary = directory.join("program");
    fs::write(&source, PROGRAM).expect("write the program");
    let output = common::c_compiler(cpp)
        .args(["-Wall", "-Wextra", "-Werror", "-pedantic", "-pthread"])
        .args(flags)
        .arg("-I")
        .arg(include)
        .arg(&source)
        .arg("-o")
        .arg(&binary)
        .args(common::link_arguments())
        .output()
        .expect("run the compiler");
    (output, binary)
}

fn compiles_and_runs(cpp: bool, standards: &[&str]) {
    let include = committed().parent().expect("include").to_owned();
    let sizes: [&[&str]; 3] =
        [&[], &["-D_FILE_OFFSET_BITS=64"], &["-D_FILE_OFFSET_BITS=64", "-D_GNU_SOURCE"]];
    let orders = ["-DHEADER_ALONE", "-DSYSTEM_HEADER_FIRST", "-DSYSTEM_HEADER_LAST"];
    for standard in standards {
        for size in sizes {
            for order in orders {
                // g++ defines _GNU_SOURCE by itself.
                if cpp && size.contains(&"-D_GNU_SOURCE") {
                    continue;
                }
                let flags: Vec<&str> = [*standard, order].into_iter().chain(size.iter().copied()).collect();
                let directory = common::scratch_directory();
                let (output, binary) = compile(directory.path(), &include, cpp, &flags);
                let errors = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{flags:?}:\n{errors}");
                let ran = Command::new(binary)
                    .arg(directory.path().join("file"))
                    .env_remove("LD_LIBRARY_PATH")
                    .output()
                    .expect("run the program");
                assert_eq!(ran.status.code(), Some(0), "{flags:?}");
            }
        }
    }
}

#[test]
fn c_takes_it() {
    compiles_and_runs(false, &["-std=c99", "-std=gnu11", "-std=c17"]);
}

#[test]
fn cpp_takes_it() {
    compiles_and_runs(true, &["-std=c++11", "-std=gnu++17"]);
}

/// Seen to fail with another number in the header.
#[test]
fn the_version_is_the_crates() {
    let numbers: Vec<u32> =
        env!("CARGO_PKG_VERSION").split('.').map(|part| part.parse().expect("a number")).collect();
    let line = format!("#define AIO_POSIX_VERSION {}\n", numbers[0] * 10_000 + numbers[1] * 100 + numbers[2]);
    assert!(fs::read_to_string(committed()).expect("read the committed header").contains(&line), "{line}");
}

/// The header declares the functions of <aio.h> once more: what does not agree with the system must not compile.
#[test]
fn a_declaration_that_differs_from_the_system_does_not_compile() {
    let text = fs::read_to_string(committed()).expect("read the committed header");
    let directory = common::scratch_directory();
    for (right, wrong) in [
        ("int aio_read(", "long aio_read("),
        ("int aio_error(const struct aiocb", "int aio_error(struct aiocb"),
        ("aio_cancel(int", "aio_cancel(long"),
    ] {
        assert!(text.contains(right), "the header does not declare {right}");
        fs::write(directory.path().join("aio_posix.h"), text.replace(right, wrong))
            .expect("write the header");
        let (output, _) = compile(directory.path(), directory.path(), false, &["-std=gnu11"]);
        assert!(!output.status.success(), "{wrong} compiles");
    }
}
