//! What a program is, as far as it decides whether the dynamic linker will preload anything into it.

use crate::words::plain;
use object::elf::{FileHeader64, ELFCLASS64, ELFMAG};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, ReadCache};
use std::ffi::{CString, OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Interpreters of interpreters that the kernel follows (fs/exec.c).
const MOST_INTERPRETERS: usize = 5;

/// The program's file as a shell would find it.
pub fn find(name: &OsStr) -> io::Result<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        return runnable(PathBuf::from(name));
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/bin:/usr/bin"));
    let mut why = io::Error::from_raw_os_error(libc::ENOENT);
    for directory in std::env::split_paths(&path) {
        let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { &directory };
        match runnable(directory.join(name)) {
            // One that may not be run says more than the places where there is none.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => why = error,
            Err(_) => {}
            found => return found,
        }
    }
    Err(why)
}

fn runnable(path: PathBuf) -> io::Result<PathBuf> {
    if path.metadata()?.is_dir() {
        return Err(io::Error::from_raw_os_error(libc::EACCES));
    }
    let name = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: a C string. AT_EACCESS: exec goes by the effective user.
    match unsafe { libc::faccessat(libc::AT_FDCWD, name.as_ptr(), libc::X_OK, libc::AT_EACCESS) } {
        0 => Ok(path),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The file that the kernel will load for a program: itself, or what its #! line names.
pub struct Program {
    path: PathBuf,
    kind: Kind,
}

enum Kind {
    /// Loaded by this dynamic linker.
    Dynamic(PathBuf),
    Static,
    /// ELF for another machine or word size.
    Foreign,
    /// Not ELF: the shell runs it, or nobody; or not to be read by us. Exec will tell.
    Unknown,
}

impl Program {
    /// Reads the file, and follows #! lines.
    pub fn inspect(path: &Path) -> Result<Program, String> {
        let mut path = path.to_path_buf();
        for _ in 0..MOST_INTERPRETERS {
            let file = match File::open(&path) {
                Ok(file) => file,
                // A program may be run by those who may not read it.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    return Ok(Program { path, kind: Kind::Unknown })
                }
                Err(error) => return Err(format!("{} cannot be run: {}", path.display(), plain(&error))),
            };
            let start = read_start(&file)
                .map_err(|error| format!("{} cannot be read: {}", path.display(), plain(&error)))?;
            match interpreter(&start) {
                Some(next) => path = next,
                None => {
                    let kind = kind(file, &start).map_err(|error| {
                        format!("{} is not a program that can be run: {error}", path.display())
                    })?;
                    return Ok(Program { path, kind });
                }
            }
        }
        Err(format!("{} cannot be run: too many scripts that run each other", path.display()))
    }

    /// Whether the library will be in it, or why not.
    pub fn takes_preload(&self) -> Result<(), String> {
        let name = self.path.display();
        let ours = own_linker();
        match &self.kind {
            // The dynamic linker itself, called to run a program: it preloads into that.
            Kind::Static if ours.as_ref().is_some_and(|ours| ours.file_name() == self.path.file_name()) => Ok(()),
            Kind::Static => Err(format!(
                "{name} is statically linked: no dynamic linker runs in it that could preload the library"
            )),
            Kind::Foreign => Err(format!(
                "{name} is built for another kind of processor or word size than the library"
            )),
            Kind::Dynamic(linker) if ours.as_ref().is_some_and(|ours| ours.file_name() != linker.file_name()) => {
                Err(format!(
                    "{name} is built for another C library (its dynamic linker is {}) than the library",
                    linker.display()
                ))
            }
            Kind::Dynamic(_) | Kind::Unknown => match self.gains() {
                Some(what) => Err(format!(
                    "{name} {what}: in such a program the dynamic linker ignores LD_PRELOAD with a path, for safety"
                )),
                None => Ok(()),
            },
        }
    }

    /// What the program would be allowed more than its caller, if anything: that is when the kernel sets AT_SECURE.
    fn gains(&self) -> Option<&'static str> {
        let status = self.path.metadata().ok()?;
        if without_effect(&self.path) {
            return None;
        }
        // SAFETY: neither call can fail or touches memory.
        let (user, group) = unsafe { (libc::getuid(), libc::getgid()) };
        if has(&status, libc::S_ISUID) && status.uid() != user {
            return Some("is set-user-ID");
        }
        // Without the group's execute permission the bit means something else (inode(7)).
        if has(&status, libc::S_ISGID) && has(&status, libc::S_IXGRP) && status.gid() != group {
            return Some("is set-group-ID");
        }
        (user != 0 && has_capabilities(&self.path)).then_some("has file capabilities")
    }
}

fn has(status: &Metadata, bit: libc::mode_t) -> bool {
    status.mode() & bit != 0
}

/// Whether the file system is mounted so that set-user-ID bits and capabilities mean nothing.
fn without_effect(path: &Path) -> bool {
    let Ok(name) = CString::new(path.as_os_str().as_bytes()) else {
        return false;
    };
    // SAFETY: a C string, and a structure that statvfs fills in when it returns 0.
    unsafe {
        let mut status: libc::statvfs = std::mem::zeroed();
        libc::statvfs(name.as_ptr(), &mut status) == 0 && status.f_flag & libc::ST_NOSUID != 0
    }
}

fn has_capabilities(path: &Path) -> bool {
    let Ok(name) = CString::new(path.as_os_str().as_bytes()) else {
        return false;
    };
    // SAFETY: C strings; a size of 0 asks only how long the value is.
    unsafe { libc::getxattr(name.as_ptr(), c"security.capability".as_ptr(), std::ptr::null_mut(), 0) > 0 }
}

fn read_start(file: &File) -> io::Result<Vec<u8>> {
    // As much as the kernel looks at (BINPRM_BUF_SIZE).
    let mut start = Vec::with_capacity(256);
    file.take(256).read_to_end(&mut start)?;
    Ok(start)
}

/// The interpreter that a #! line names.
fn interpreter(start: &[u8]) -> Option<PathBuf> {
    let line = start.strip_prefix(b"#!")?.split(|&byte| byte == b'\n').next()?;
    let name = line.split(|&byte| byte == b' ' || byte == b'\t').find(|word| !word.is_empty())?;
    Some(PathBuf::from(OsStr::from_bytes(name)))
}

fn kind(file: File, start: &[u8]) -> Result<Kind, object::Error> {
    if !start.starts_with(&ELFMAG) {
        return Ok(Kind::Unknown);
    }
    let own_machine = machine(Path::new("/proc/self/exe"));
    if start.get(4) != Some(&ELFCLASS64) || own_machine.is_some_and(|own| start.get(18..20) != Some(&own)) {
        return Ok(Kind::Foreign);
    }
    linker(file).map(|linker| linker.map_or(Kind::Static, Kind::Dynamic))
}

/// `e_machine` as it lies in the file.
fn machine(path: &Path) -> Option<[u8; 2]> {
    let mut bytes = [0; 2];
    File::open(path).ok()?.read_exact_at(&mut bytes, 18).ok()?;
    Some(bytes)
}

/// The dynamic linker that an ELF file asks for (PT_INTERP). None: it is static.
fn linker(file: File) -> Result<Option<PathBuf>, object::Error> {
    let data = ReadCache::new(file);
    let header = FileHeader64::<Endianness>::parse(&data)?;
    let endian = header.endian()?;
    for segment in header.program_headers(endian, &data)? {
        if let Some(name) = segment.interpreter(endian, &data)? {
            return Ok(Some(PathBuf::from(OsStr::from_bytes(name))));
        }
    }
    Ok(None)
}

/// The dynamic linker of this command, which was built together with the library.
fn own_linker() -> Option<PathBuf> {
    linker(File::open("/proc/self/exe").ok()?).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::interpreter;
    use std::path::Path;

    #[test]
    fn a_script_names_its_interpreter() {
        let named = |line: &[u8]| interpreter(line);
        assert_eq!(named(b"#!/bin/sh\necho").as_deref(), Some(Path::new("/bin/sh")));
        assert_eq!(named(b"#! \t/usr/bin/env python3\n").as_deref(), Some(Path::new("/usr/bin/env")));
        assert_eq!(named(b"#!\n/bin/sh"), None);
        assert_eq!(named(b"\x7fELF"), None);
    }
}
