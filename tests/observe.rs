//! What can be seen of the library at work: the counters of `aio-posix run --stats`, and the probes in the product.

mod common;
#[path = "common/installed.rs"]
#[allow(dead_code)]
mod installed;
#[path = "../src/observe/page.rs"]
#[allow(dead_code)]
mod page;

use installed::{refuse, stderr, stdout, Installation};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{elf, NativeEndian, Object, ObjectSection};
use page::{Page, MAGIC, VERSION};
use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{chown, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::Ordering;
use std::sync::OnceLock;

fn installation() -> &'static Installation {
    static INSTALLATION: OnceLock<Installation> = OnceLock::new();
    INSTALLATION.get_or_init(|| Installation::new("/usr/local", "/usr/local/lib"))
}

/// c-tests/tools/counted.c: a program that makes a known number of each request.
fn counted(binary: &Path, arguments: &[&str]) {
    let output = common::c_compiler(false)
        .arg("-o")
        .arg(binary)
        .arg(common::source_root().join("c-tests/tools/counted.c"))
        .args(arguments)
        .args(["-lrt", "-lpthread"])
        .output()
        .expect("run the C compiler");
    assert!(output.status.success(), "{}", stderr(&output));
}

/// `counted` under `run`, in a directory of its own; `how` changes the command.
fn run(stats: &str, argument: Option<&str>, how: impl FnOnce(&mut Command)) -> Output {
    let directory = common::scratch_directory();
    let binary = directory.path().join("counted");
    counted(&binary, &[]);
    let mut command = installation().command();
    command.args(["run", stats, "--"]).arg(&binary).arg(directory.path()).args(argument);
    how(&mut command);
    let output = command.output().expect("run the command");
    assert!(output.status.success(), "{:?}: {}", output.status, stderr(&output));
    assert!(stdout(&output).ends_with("plain\ndone\n"), "{}", stdout(&output));
    output
}

/// A number of the JSON line.
fn number(output: &Output, name: &str) -> u64 {
    let said = stderr(output);
    let (_, rest) = said.split_once(&format!("\"{name}\":")).unwrap_or_else(|| panic!("no {name}: {said}"));
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("{name} is no number: {said}"))
}

/// `counted` made so many times what it makes once.
fn assert_counted(output: &Output, times: u64) {
    let said = stderr(output);
    for (name, count) in [
        ("read", 28),
        ("write", 14),
        ("fsync", 3),
        ("fdatasync", 2),
        ("requests", 47),
        ("completed", 47),
        ("polled", 8),
        ("cancelled", 1),
        ("errors", 1),
        ("signals", 1),
        ("threads", 1),
        ("unnotified", 45),
        ("processes", 1),
    ] {
        assert_eq!(number(output, name), count * times, "{name}: {said}");
    }
    // Which of these a file's requests go is the file system's business.
    let ways: u64 = ["kernel", "at_once", "helper", "waiter"].iter().map(|way| number(output, way)).sum();
    assert_eq!(ways, 38 * times, "{said}");
    assert!(number(output, "kernel") >= 5 * times, "the syncs go to the kernel: {said}");
    assert!(number(output, "at_once") >= times, "the wrong end of the pipe is seen at once: {said}");
    assert_eq!(number(output, "deepest"), 5, "{said}");
    assert_eq!(number(output, "fallback"), 0, "{said}");
    let (mean, percentile) = (number(output, "mean_ns"), number(output, "p99_ns"));
    assert!(mean > 0 && percentile > 0, "{said}");
}

/// Tried without `count_at_once`.
#[test]
fn every_request_of_a_program_is_counted() {
    assert_counted(&run("--stats=json", None, |_| {}), 1);
}

/// Tried with the page mapped MAP_PRIVATE.
#[test]
fn a_forked_child_is_counted() {
    assert_counted(&run("--stats=json", Some("fork"), |_| {}), 2);
}

/// Tried with close-on-exec set on the program's descriptor.
#[test]
fn a_program_that_a_child_becomes_is_counted() {
    assert_counted(&run("--stats=json", Some("exec"), |_| {}), 2);
}

/// Tried without counting in `fell_back`.
#[test]
fn what_libc_answers_is_counted_as_such() {
    let directory = common::scratch_directory();
    let mut command = installation().command();
    let binary = directory.path().join("program");
    installed::compile(&binary, false, "aio.h", &[]);
    command.args(["run", "--stats=json", "--"]).arg(&binary);
    refuse(&mut command, libc::SYS_io_setup, libc::EPERM);
    let output = command.output().expect("run the command");
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!((number(&output, "fallback"), number(&output, "completed")), (2, 0), "{}", stderr(&output));
    assert_eq!((number(&output, "read"), number(&output, "write")), (1, 1), "{}", stderr(&output));
}

#[test]
fn the_table_fits_a_terminal_and_ends_with_what_it_means() {
    let said = stderr(&run("--stats", None, |_| {}));
    assert!(said.lines().all(|line| line.chars().count() <= 80), "{said}");
    for line in ["  fdatasync ", "  cancelled before it started ", "most requests in flight at once "] {
        assert!(said.lines().any(|found| found.starts_with(line)), "{line}: {said}");
    }
    let output = installation().command().args(["run", "--stats", "true"]).output().expect("run the command");
    assert!(stderr(&output).contains("true made no POSIX AIO call"), "{}", stderr(&output));
}

#[test]
fn the_end_and_the_signals_of_a_counted_program_are_passed_on() {
    let run = |script: &str| {
        installation()
            .command()
            .args(["run", "--stats", "sh", "-c", script])
            .output()
            .expect("run the command")
    };
    let output = run("echo out; exit 7");
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(7), "out\n"));
    let output = run("kill -TERM $$");
    assert_eq!(output.status.signal(), Some(libc::SIGTERM));
    assert!(stderr(&output).contains("requests"), "nothing was printed: {}", stderr(&output));
    // A signal to the command reaches the program, and not the command.
    let output = run("trap 'echo caught; exit 3' USR1; kill -USR1 $PPID; while :; do sleep 0.01; done");
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(3), "caught\n"));
    // The program is started with the signal mask that the command was: none blocked.
    let output = run("grep SigBlk /proc/self/status");
    assert_eq!(stdout(&output), "SigBlk:\t0000000000000000\n");
    // Nobody there to hear the figures: the status stays the program's.
    let full = fs::File::options().write(true).open("/dev/full").expect("open /dev/full");
    let mut command = installation().command();
    let status = command.args(["run", "--stats", "sh", "-c", "exit 5"]).stderr(full).status();
    assert_eq!(status.expect("run the command").code(), Some(5));
}

/// What stands in the place of the command's page.
struct Given {
    magic: u64,
    bytes: usize,
    seals: libc::c_int,
}

const SEALS: libc::c_int = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
const GOOD: Given = Given { magic: MAGIC, bytes: size_of::<Page>(), seals: SEALS };

/// A memfd that a child inherits, and its page.
fn memory(given: &Given) -> (OwnedFd, &'static Page) {
    // SAFETY: a C string, plain numbers and a new mapping of a file of at least its size, all zeroes: a valid Page.
    unsafe {
        let fd = libc::memfd_create(c"page".as_ptr(), libc::MFD_ALLOW_SEALING);
        assert!(fd >= 0, "memfd_create: {}", std::io::Error::last_os_error());
        assert_eq!(libc::ftruncate(fd, given.bytes.max(size_of::<Page>()) as libc::off_t), 0);
        let (read_write, length) = (libc::PROT_READ | libc::PROT_WRITE, size_of::<Page>());
        let address = libc::mmap(std::ptr::null_mut(), length, read_write, libc::MAP_SHARED, fd, 0);
        assert_ne!(address, libc::MAP_FAILED);
        let page = address.cast::<Page>();
        (*page).magic = given.magic;
        (*page).version = VERSION;
        (*page).bytes = size_of::<Page>() as u64;
        assert_eq!(libc::fcntl(fd, libc::F_ADD_SEALS, given.seals), 0);
        (OwnedFd::from_raw_fd(fd), &*page)
    }
}

/// The program linked with the library, in a place that any user may reach.
fn linked() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(directory.path(), mode).expect("let others in");
    let library = directory.path().join(common::SONAME);
    fs::copy(common::product_file(), &library).expect("copy the library");
    let binary = directory.path().join("counted");
    let path = directory.path().to_str().expect("a path of ours is UTF-8");
    let library = library.to_str().expect("a path of ours is UTF-8");
    counted(&binary, &[library, &format!("-Wl,-rpath,{path}")]);
    (directory, binary)
}

/// Runs the linked program with this in AIO_POSIX_STATS: whether it counted, and what it said.
fn counts(binary: &Path, value: &str, page: &Page) -> (bool, String) {
    let output = Command::new(binary)
        .arg("/tmp")
        .env("AIO_POSIX_STATS", value)
        .env_remove("LD_PRELOAD")
        .output()
        .expect("run the program");
    assert!(output.status.success(), "{value}: {:?} {}", output.status, stderr(&output));
    (page.engines.load(Ordering::Relaxed) != 0, stdout(&output))
}

/// Tried without the look at the seals, and at the mark.
#[test]
fn only_a_sealed_page_of_ours_is_counted_in() {
    let (_directory, binary) = linked();
    let (fd, page) = memory(&GOOD);
    let number = fd.as_raw_fd().to_string();
    assert!(counts(&binary, &number, page).0, "the right page is not counted in");
    for (what, given) in [
        ("not sealed", Given { seals: 0, ..GOOD }),
        ("may shrink", Given { seals: libc::F_SEAL_GROW, ..GOOD }),
        ("another size", Given { bytes: 2 * size_of::<Page>(), ..GOOD }),
        ("another's memory", Given { magic: 1, ..GOOD }),
    ] {
        let (fd, page) = memory(&given);
        assert!(!counts(&binary, &fd.as_raw_fd().to_string(), page).0, "{what}");
    }
    let (fd, page) = memory(&GOOD);
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    for value in
        ["", "-1", "99999", "4294967295", "99999999999999999999", "x", &path, &format!("{}x", fd.as_raw_fd())]
    {
        assert!(!counts(&binary, value, page).0, "{value:?}");
    }
}

/// Tried with `secure_execution` answering false: then the page is counted in.
#[test]
fn a_set_user_id_program_ignores_the_variable() {
    // SAFETY: it touches no memory and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        return println!("skip: only root can make a program of another user's");
    }
    let (_directory, binary) = linked();
    let (fd, page) = memory(&GOOD);
    let number = fd.as_raw_fd().to_string();
    chown(&binary, Some(65_534), Some(65_534)).expect("give it away");
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o4755)).expect("change its mode");
    let (counted, said) = counts(&binary, &number, page);
    if !said.contains("secure\n") {
        return println!("skip: set-user-ID has no effect in {}", binary.display());
    }
    assert!(!counted, "somebody else's word was taken");
    // The same program as itself.
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).expect("change its mode");
    assert!(counts(&binary, &number, page).0);
}

/// Tried with `secure_execution` answering false: then the ring is as large as the variable says.
#[test]
fn a_set_user_id_program_ignores_what_is_said_of_its_size() {
    // SAFETY: it touches no memory and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        return println!("skip: only root can make a program of another user's");
    }
    let (_directory, binary) = linked();
    let ring_of = |mode: u32, events: &str| {
        fs::set_permissions(&binary, fs::Permissions::from_mode(mode)).expect("change its mode");
        let output = Command::new(&binary)
            .arg("/tmp")
            .env("AIO_POSIX_EVENTS", events)
            .env_remove("LD_PRELOAD")
            .output()
            .expect("run the program");
        assert!(output.status.success(), "{:?} {}", output.status, stderr(&output));
        let said = stdout(&output);
        let bytes = said.strip_prefix("ring ").and_then(|rest| rest.lines().next()).expect("how large it is");
        (bytes.parse::<u64>().expect("a number"), said.contains("secure\n"))
    };
    let (usual, _) = ring_of(0o755, "");
    let (large, _) = ring_of(0o755, "4096");
    assert!(large > usual, "{large} {usual}");
    chown(&binary, Some(65_534), Some(65_534)).expect("give it away");
    let (secure, is_secure) = ring_of(0o4755, "4096");
    if !is_secure {
        return println!("skip: set-user-ID has no effect in {}", binary.display());
    }
    assert_eq!(secure, usual, "somebody else's word was taken");
}

/// One entry of .note.stapsdt: name and address, and where its arguments are.
#[derive(Debug)]
struct Probe {
    name: String,
    address: u64,
    arguments: usize,
}

/// The probes of a file, as <sys/sdt.h> of SystemTap describes them.
fn probes(data: &[u8]) -> Vec<Probe> {
    let file = object::File::parse(data).expect("an ELF file");
    let Some(section) = file.section_by_name(".note.stapsdt") else {
        return Vec::new();
    };
    let mut rest = section.data().expect("the notes");
    let word = |at: &[u8]| u32::from_ne_bytes(at[..4].try_into().expect("four bytes")) as usize;
    let mut found = Vec::new();
    while !rest.is_empty() {
        let (owner, length) = (word(rest).next_multiple_of(4), word(&rest[4..]));
        let (note, next) = rest[12 + owner..].split_at(length);
        rest = &next[length.next_multiple_of(4) - length..];
        // Address, base, semaphore; then three strings.
        let address = u64::from_ne_bytes(note[..8].try_into().expect("eight bytes"));
        let texts: Vec<String> = note[24..]
            .split(|&byte| byte == 0)
            .map(|text| String::from_utf8_lossy(text).into_owned())
            .collect();
        assert_eq!(texts[0], "aio_posix", "the provider");
        found.push(Probe { name: texts[1].clone(), address, arguments: texts[2].split_whitespace().count() });
    }
    found
}

/// Tried without separate-loadable-segments, where perf sets the probes in the middle of other instructions. The check
/// of the segments is for a note that the linker keeps of code that it dropped: `AiocbRef::finish` had one, at 0x17.
#[test]
fn the_probes_are_in_the_product() {
    let data = fs::read(common::product_file()).expect("read the product");
    let header = elf::FileHeader64::<NativeEndian>::parse(&*data).expect("an ELF file");
    let segments = header.program_headers(NativeEndian, &*data).expect("its segments");
    let probes = probes(&data);
    for (name, arguments) in [("submit", 4), ("complete", 3), ("cancel", 2), ("fallback", 2)] {
        let places: Vec<_> = probes.iter().filter(|probe| probe.name == name).collect();
        assert!(!places.is_empty(), "{name}: {probes:?}");
        assert!(places.iter().all(|probe| probe.arguments == arguments), "{places:?}");
    }
    for probe in &probes {
        let segment = segments
            .iter()
            .find(|segment| {
                let start = segment.p_vaddr(NativeEndian);
                segment.p_flags(NativeEndian) & elf::PF_X != 0
                    && (start..start + segment.p_filesz(NativeEndian)).contains(&probe.address)
            })
            .unwrap_or_else(|| panic!("{probe:?} lies in no code"));
        assert_eq!(
            segment.p_vaddr(NativeEndian),
            segment.p_offset(NativeEndian),
            "perf would miss {probe:?}"
        );
        if cfg!(target_arch = "x86_64") {
            assert_eq!(data[probe.address as usize], 0x90, "no nop at {probe:?}");
        }
    }
}
