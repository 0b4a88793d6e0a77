//! What dist/install puts where, that programs can be built with it and run, and that dist/uninstall takes it away.

mod common;
#[path = "common/installed.rs"]
mod installed;

use installed::{compile, stderr, stdout, Installation};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Debian's directory for libraries of this architecture.
#[cfg(target_arch = "x86_64")]
const MULTIARCH: &str = "/usr/lib/x86_64-linux-gnu";
#[cfg(target_arch = "aarch64")]
const MULTIARCH: &str = "/usr/lib/aarch64-linux-gnu";

fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// Every file and link below a directory: its mode in octal, or what the link names.
fn tree(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut directories = vec![root.to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("list a directory") {
            let path = entry.expect("an entry").path();
            let status = path.symlink_metadata().expect("its status");
            let name = format!("/{}", path.strip_prefix(root).expect("below the root").display());
            if status.is_dir() {
                directories.push(path);
            } else if status.is_symlink() {
                let target = fs::read_link(&path).expect("its target");
                found.insert(name, format!("-> {}", target.display()));
            } else {
                found.insert(name, format!("{:o}", status.permissions().mode() & 0o7777));
            }
        }
    }
    found
}

fn expected(prefix: &str, libdir: &str) -> BTreeMap<String, String> {
    let library = format!("libaio_posix.so.{}", version());
    [
        (format!("{libdir}/{library}"), "755".to_owned()),
        (format!("{libdir}/{}", common::SONAME), format!("-> {library}")),
        (format!("{libdir}/libaio_posix.so"), format!("-> {}", common::SONAME)),
        (format!("{libdir}/pkgconfig/aio_posix.pc"), "644".to_owned()),
        (format!("{prefix}/include/aio_posix.h"), "644".to_owned()),
        (format!("{prefix}/bin/aio-posix"), "755".to_owned()),
        (format!("{prefix}/share/man/man1/aio-posix.1"), "644".to_owned()),
        (format!("{prefix}/share/man/man7/aio_posix.7"), "644".to_owned()),
    ]
    .into()
}

/// A path as the dynamic linker's view of it can be compared: without links.
fn real(path: impl AsRef<Path>) -> PathBuf {
    let path = path.as_ref();
    path.canonicalize().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The dynamic section's entries of one kind, as readelf prints them.
fn dynamic(file: &Path, tag: &str) -> Vec<String> {
    let output = Command::new("readelf").arg("-dW").arg(file).output().expect("run readelf");
    assert!(output.status.success(), "{}", stderr(&output));
    stdout(&output)
        .lines()
        .filter(|line| line.contains(&format!("({tag})")))
        .filter_map(|line| Some(line.split_once('[')?.1.trim_end_matches(']').to_owned()))
        .collect()
}

fn pkg_config(installation: &Installation, arguments: &[&str]) -> Vec<String> {
    let output = Command::new("pkg-config")
        .args(arguments)
        .arg("aio_posix")
        .env("PKG_CONFIG_LIBDIR", installation.library_directory().join("pkgconfig"))
        .env("PKG_CONFIG_SYSROOT_DIR", installation.root.path())
        // /usr/include and /usr/lib would be left out as known to every compiler; here they are not.
        .env("PKG_CONFIG_ALLOW_SYSTEM_CFLAGS", "1")
        .env("PKG_CONFIG_ALLOW_SYSTEM_LIBS", "1")
        .output()
        .expect("run pkg-config");
    assert!(output.status.success(), "{}", stderr(&output));
    stdout(&output).split_whitespace().map(str::to_owned).collect()
}

fn has(tool: &str) -> bool {
    let there = Command::new(tool).arg("--version").output().is_ok();
    if !there {
        println!("skip: {tool} is not installed");
    }
    there
}

#[test]
fn each_file_goes_where_the_options_say() {
    let installation = Installation::new("/usr/local", "/usr/local/lib");
    assert_eq!(tree(installation.root.path()), expected("/usr/local", "/usr/local/lib"));
    let installation = Installation::new("/usr", MULTIARCH);
    assert_eq!(tree(installation.root.path()), expected("/usr", MULTIARCH));
}

#[test]
fn the_soname_is_a_link_to_the_library() {
    let installation = Installation::new("/usr/local", "/usr/local/lib");
    let library = installation.library_directory().join("libaio_posix.so");
    assert_eq!(dynamic(&library, "SONAME"), [common::SONAME]);
    let named = installation.library_directory().join(common::SONAME);
    assert_eq!(real(library), real(named));
}

#[test]
fn programs_are_built_by_pkg_config_and_run() {
    if !has("pkg-config") {
        return;
    }
    let installation = Installation::new("/usr", MULTIARCH);
    let mut arguments = pkg_config(&installation, &["--cflags", "--libs"]);
    // As in a system without libc's own definitions in the way: the library stays needed.
    arguments.insert(0, "-Wl,--no-as-needed".to_owned());
    for (cpp, name) in [(false, "in_c"), (true, "in_cpp")] {
        let binary = installation.root.path().join(name);
        compile(&binary, cpp, "aio_posix.h", &arguments);
        let needed = dynamic(&binary, "NEEDED");
        assert!(needed.iter().any(|name| name == common::SONAME), "{needed:?}");
        let output = Command::new(&binary)
            .env_remove("LD_PRELOAD")
            .env("LD_LIBRARY_PATH", installation.library_directory())
            .output()
            .expect("run the program");
        assert!(output.status.success(), "{name}: {:?}", output.status);
        assert_eq!(
            real(stdout(&output).trim()),
            real(installation.library_directory().join("libaio_posix.so")),
            "{name}"
        );
    }
    assert_eq!(pkg_config(&installation, &["--modversion"]), [version()]);
}

/// Installed with its own prefix the command finds the library beside itself; elsewhere, as the dynamic linker does.
#[test]
fn the_installed_command_runs_programs_on_the_installed_library() {
    let places = [("/usr/local", "/usr/local/lib", false), ("/usr", MULTIARCH, true)];
    for (prefix, libdir, search) in places {
        let installation = Installation::new(prefix, libdir);
        let binary = installation.root.path().join("plain");
        compile(&binary, false, "aio.h", &[]);
        let mut command = installation.command();
        if search {
            command.env("LD_LIBRARY_PATH", installation.library_directory());
        }
        let output = command.args(["run", "--"]).arg(&binary).output().expect("run the command");
        assert!(output.status.success(), "{:?} {}", output.status, stderr(&output));
        assert_eq!(
            real(stdout(&output).trim()),
            real(installation.library_directory().join("libaio_posix.so"))
        );
    }
}

#[test]
fn installing_again_replaces_and_uninstalling_leaves_no_file() {
    let installation = Installation::new("/usr", MULTIARCH);
    let stranger = installation.path("/usr/bin/stranger");
    fs::write(&stranger, "not ours").expect("write a file");
    let old = fs::metadata(installation.library_directory().join(common::SONAME)).expect("the library");
    assert!(installation.script("install").status.success());
    let new = fs::metadata(installation.library_directory().join(common::SONAME)).expect("the library");
    // A program that runs on the old library keeps it whole: the name went to another file.
    use std::os::unix::fs::MetadataExt;
    assert_ne!(old.ino(), new.ino());
    let output = installation.script("uninstall");
    assert!(output.status.success(), "{}", stderr(&output));
    let left: Vec<_> = tree(installation.root.path()).into_keys().collect();
    assert_eq!(left, ["/usr/bin/stranger"]);
}

/// A failed script says one sentence.
fn assert_refused(output: &Output, sentence: &str) {
    let said = stderr(output);
    assert!(!output.status.success(), "it succeeded: {}", stdout(output));
    assert!(said.contains(sentence), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn what_cannot_be_installed_is_said_and_leaves_nothing() {
    let root = common::scratch_directory();
    assert_refused(&installed::script("install", root.path(), &["--prefix=usr"]), "starts with /");
    assert_refused(&installed::script("install", root.path(), &["--color"]), "no option --color");
    assert_refused(&installed::script("install", root.path(), &["--libdir"]), "wants a directory");
    // The man pages' directory comes last, when everything else is in place.
    fs::create_dir_all(root.path().join("usr/local/share")).expect("make a directory");
    fs::write(root.path().join("usr/local/share/man"), "in the way").expect("write a file");
    assert_refused(&installed::script("install", root.path(), &[]), "cannot be written");
    let left: Vec<_> = tree(root.path()).into_keys().collect();
    assert_eq!(left, ["/usr/local/share/man"]);
    assert!(!root.path().join("usr/local/bin").exists(), "a directory stayed behind");
}

#[test]
fn a_full_disk_is_said_and_leaves_nothing() {
    let root = common::scratch_directory();
    // Half a library's worth of disk, in a mount that nobody else sees and that ends with the shell.
    let inside = "mount -t tmpfs -o size=128k none \"$1\" || exit 77; shift; \
                  DESTDIR=$1 \"$2\"; status=$?; find \"$1\" -type f; exit $status";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", inside, "sh"])
        .args([root.path(), root.path()])
        .arg(common::source_root().join("dist/install"))
        .env("CARGO_TARGET_DIR", installed::built())
        .env("LC_ALL", "C")
        .output();
    let output = match output {
        Ok(output) if output.status.code() != Some(77) && !stderr(&output).starts_with("unshare") => output,
        _ => return println!("skip: a small file system cannot be mounted (needs root)"),
    };
    assert_refused(&output, "No space left on device");
    assert_eq!(stdout(&output), "");
}

#[test]
fn the_debian_package_installs_the_same_files() {
    if !has("cargo-deb") || !has("dpkg-deb") {
        return;
    }
    let output_directory = common::scratch_directory();
    let output = Command::new(common::source_root().join("dist/deb"))
        .arg(output_directory.path())
        .env("CARGO_TARGET_DIR", installed::built())
        .output()
        .expect("run dist/deb");
    assert!(output.status.success(), "{}", stderr(&output));
    let package = fs::read_dir(output_directory.path())
        .expect("list the directory")
        .next()
        .expect("a package")
        .expect("an entry")
        .path();
    let root = common::scratch_directory();
    install_package(&package, root.path());
    let mut found = tree(root.path());
    found.retain(|path, _| path.starts_with("/usr") && !path.starts_with("/usr/share/doc"));
    let mut wanted = BTreeMap::new();
    for (path, kind) in expected("/usr", MULTIARCH) {
        let is_page = path.contains("/man/");
        let is_library = path.ends_with(version());
        let path = if is_page { format!("{path}.gz") } else { path };
        // Debian's libraries are not executable.
        wanted.insert(path, if is_library { "644".to_owned() } else { kind });
    }
    assert_eq!(found, wanted);
}

/// By dpkg into a root of its own where that is allowed; else only unpacked.
fn install_package(package: &Path, root: &Path) {
    let database = root.join("var/lib/dpkg");
    for directory in ["info", "updates"] {
        fs::create_dir_all(database.join(directory)).expect("make the database");
    }
    fs::write(database.join("status"), "").expect("write the database");
    let installed = Command::new("dpkg")
        .arg(format!("--root={}", root.display()))
        .args(["--force-not-root", "--force-depends", "--install"])
        .arg(package)
        .output()
        .expect("run dpkg");
    if installed.status.success() {
        return;
    }
    println!("dpkg --install into a root of its own: {}; unpacked instead", stderr(&installed).trim());
    let unpacked = Command::new("dpkg-deb").arg("-x").arg(package).arg(root).output().expect("run dpkg-deb");
    assert!(unpacked.status.success(), "{}", stderr(&unpacked));
}
