//! The C programs of c-tests/: compiled, listed, and run one case at a time on each implementation.

use super::process::{self, Outcome};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

/// Which implementation serves the calls of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The C library's own.
    Libc,
    /// Ours, because the program was linked with `-laio_posix`.
    Linked,
    /// Ours in the very binary that was built for the C library, by LD_PRELOAD.
    Preloaded,
}

impl Way {
    /// The file that must turn out to serve the calls: a program checks it before each case (see check.h).
    fn implementation(self) -> &'static str {
        match self {
            Way::Libc => "libc.so",
            Way::Linked | Way::Preloaded => "libaio_posix.so",
        }
    }
}

/// What a case claims (see check.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Same,
    Defect,
    Differs,
}

#[derive(Clone, Debug)]
pub struct Case {
    pub kind: Kind,
    pub name: String,
    pub reason: String,
}

/// What a program asks for in comments at its top: `// libs: -laio`, `// needs: root`, `// flags: -DX`, `// timeout: 60`.
#[derive(Debug, Default)]
struct Wishes {
    libraries: Vec<String>,
    flags: Vec<String>,
    root: bool,
    timeout: Option<Duration>,
}

impl Wishes {
    fn of(source: &str) -> Wishes {
        let mut wishes = Wishes::default();
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        for line in source.lines().take(30) {
            let Some((key, value)) = line.strip_prefix("// ").and_then(|rest| rest.split_once(':')) else {
                continue;
            };
            match key {
                "libs" => wishes.libraries.extend(words(value)),
                "flags" => wishes.flags.extend(words(value)),
                "needs" => {
                    assert_eq!(value.trim(), "root", "the only need that the harness knows");
                    wishes.root = true;
                }
                "timeout" => {
                    let seconds = value.trim().parse().expect("a timeout is a number of seconds");
                    wishes.timeout = Some(Duration::from_secs(seconds));
                }
                _ => {}
            }
        }
        wishes
    }
}

/// Where a program runs, besides the implementation: extra environment, and a command to run it under.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    pub environment: Vec<(OsString, OsString)>,
    /// For instance `["valgrind", "-q"]`.
    pub wrapper: Vec<OsString>,
    /// Replaces the program's own time limit.
    pub timeout: Option<Duration>,
}

/// How a program is built for a checker: on which library, by which words to the compiler and to the linker besides.
#[derive(Clone, Debug, Default)]
pub struct Checker {
    pub product: PathBuf,
    pub compiling: Vec<String>,
    pub linking: Vec<String>,
}

/// One program of c-tests/, compiled.
pub struct Program {
    pub name: String,
    pub cases: Vec<Case>,
    on_libc: PathBuf,
    linked: PathBuf,
    timeout: Duration,
    /// Holds the binaries: each compilation has its own, as two tests may use one program at a time.
    _directory: tempfile::TempDir,
}

/// The time limit of a case, unless its program asks for another.
const TIMEOUT: Duration = Duration::from_secs(20);

impl Program {
    /// The names of all programs: each .c file in c-tests/ (not those in its sub-directories).
    pub fn names() -> Vec<String> {
        let directory = super::source_root().join("c-tests");
        let mut names: Vec<String> = fs::read_dir(directory)
            .expect("read c-tests")
            .map(|entry| entry.expect("read c-tests").path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "c"))
            .map(|path| path.file_stem().expect("a file name").to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// Compiles a program and asks it for its cases. The error is why it cannot run here: a reason to skip it.
    /// Panics, with the compiler's words, when it does not compile.
    pub fn compile(name: &str) -> Result<Program, String> {
        Program::build(name, None)
    }

    /// As `compile`, for a checker, and linked with the library only.
    pub fn compile_for(name: &str, checker: &Checker) -> Result<Program, String> {
        Program::build(name, Some(checker))
    }

    fn build(name: &str, checker: Option<&Checker>) -> Result<Program, String> {
        let source = super::source_root().join("c-tests").join(name).with_extension("c");
        let text =
            fs::read_to_string(&source).unwrap_or_else(|error| panic!("{}: {error}", source.display()));
        let wishes = Wishes::of(&text);
        // SAFETY: geteuid() has no preconditions.
        if wishes.root && unsafe { libc::geteuid() } != 0 {
            return Err("needs root".to_owned());
        }
        let name = source.file_stem().expect("a file name").to_string_lossy();
        let directory = super::scratch_directory();
        let object = directory.path().join(format!("{name}.o"));
        let (compiling, linking) =
            checker.map_or((&[][..], &[][..]), |it| (&it.compiling[..], &it.linking[..]));
        compiler_succeeds(
            super::c_compiler(false)
                .args(["-std=gnu11", "-Werror", "-pthread", "-c"])
                .args(&wishes.flags)
                .args(compiling)
                .arg(&source)
                .arg("-o")
                .arg(&object),
        );
        let words = [linking, &wishes.libraries].concat();
        let linked = directory.path().join(format!("{name}-linked"));
        let product = checker.map(|it| it.product.as_path());
        link(&object, &linked, &words, Some(product.unwrap_or_else(|| super::product())));
        let mut on_libc = linked.clone();
        if checker.is_none() {
            on_libc = directory.path().join(format!("{name}-libc"));
            link(&object, &on_libc, &words, None);
        }
        let cases = list_cases(&on_libc);
        assert!(!cases.is_empty(), "{name} has no cases");
        let timeout = wishes.timeout.unwrap_or(TIMEOUT);
        Ok(Program { name: name.into_owned(), cases, on_libc, linked, timeout, _directory: directory })
    }

    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Runs one case in a process of its own, in an empty directory.
    pub fn run(&self, case: &Case, way: Way, surroundings: &Surroundings) -> Outcome {
        let binary = match way {
            Way::Linked => &self.linked,
            Way::Libc | Way::Preloaded => &self.on_libc,
        };
        let mut words = surroundings.wrapper.clone();
        words.push(binary.into());
        let scratch = super::scratch_directory();
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .arg(&case.name)
            .current_dir(scratch.path())
            .env("AIO_TEST_DIR", scratch.path())
            .env("AIO_TEST_IMPLEMENTATION", way.implementation())
            // cargo puts the directory of the test build's own library there.
            .env_remove("LD_LIBRARY_PATH")
            .env_remove("LD_PRELOAD")
            .envs(surroundings.environment.iter().cloned());
        if way == Way::Preloaded {
            command.env("LD_PRELOAD", super::product_file());
        }
        let limit = surroundings.timeout.unwrap_or(self.timeout);
        process::run(&mut command, limit)
            .unwrap_or_else(|error| panic!("cannot run {}: {error}", binary.display()))
    }
}

/// Runs cases, four side by side, and says of each how it ended.
pub fn side_by_side<'a>(
    cases: impl Iterator<Item = (&'a Program, &'a Case)>,
    way: Way,
    surroundings: impl Fn(&Program) -> Surroundings + Sync,
) -> Vec<(String, Outcome)> {
    let mut cases: Vec<_> = cases.collect();
    let outcomes = Mutex::new(Vec::with_capacity(cases.len()));
    let next = Mutex::new(&mut cases);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| loop {
                let taken = next.lock().expect("nobody panics with it").pop();
                let Some((program, case)) = taken else { return };
                let outcome = program.run(case, way, &surroundings(program));
                let name = format!("{}/{}", program.name, case.name);
                outcomes.lock().expect("nobody panics with it").push((name, outcome));
            });
        }
    });
    outcomes.into_inner().expect("nobody panics with it")
}

fn link(object: &Path, binary: &Path, libraries: &[String], product: Option<&Path>) {
    let mut command = super::c_compiler(false);
    command.args(["-pthread", "-pie"]).arg(object).arg("-o").arg(binary);
    if let Some(directory) = product {
        command.arg("-L").arg(directory).arg("-laio_posix");
        command.arg(format!("-Wl,-rpath,{}", directory.display()));
    }
    compiler_succeeds(command.args(libraries).arg("-ldl"));
}

fn compiler_succeeds(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("no C compiler: {error}"));
    assert!(output.status.success(), "{command:?}:\n{}", String::from_utf8_lossy(&output.stderr));
}

fn list_cases(binary: &Path) -> Vec<Case> {
    let output =
        Command::new(binary).output().unwrap_or_else(|error| panic!("{}: {error}", binary.display()));
    assert!(output.status.success(), "{} does not list its cases", binary.display());
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| {
            let mut words = line.splitn(3, ' ');
            let kind = match words.next() {
                Some("case") => Kind::Same,
                Some("defect") => Kind::Defect,
                Some("differs") => Kind::Differs,
                _ => panic!("{} lists {line:?}", binary.display()),
            };
            let name = words.next().expect("a case has a name").to_owned();
            Case { kind, name, reason: words.next().unwrap_or_default().to_owned() }
        })
        .collect()
}
