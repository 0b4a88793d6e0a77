//! The ELF file that is shipped: which names it exports, how it is named, and what it asks of the dynamic linker.

mod common;

use object::elf;
use object::read::elf::{Dyn, FileHeader, SectionHeader, SectionTable, Sym};
use object::NativeEndian;
use std::collections::BTreeSet;
use std::fs;

/// The names of <aio.h>: each but `aio_init` also with the suffix 64.
const STANDARD: &[&str] = &[
    "aio_cancel",
    "aio_cancel64",
    "aio_error",
    "aio_error64",
    "aio_fsync",
    "aio_fsync64",
    "aio_init",
    "aio_read",
    "aio_read64",
    "aio_return",
    "aio_return64",
    "aio_suspend",
    "aio_suspend64",
    "aio_write",
    "aio_write64",
    "lio_listio",
    "lio_listio64",
];

/// The documented extensions (see include/aio_posix.h). All of them start with `aio_`.
const EXTENSIONS: &[&str] =
    &["aio_mlock", "aio_read2", "aio_readv", "aio_waitcomplete", "aio_write2", "aio_writev"];

/// The libraries that the product may need: what every dynamically linked program has loaded, and the unwinder that
/// Rust's standard library refers to.
const ALLOWED_LIBRARIES: &[&str] =
    &["libc.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"];

const LARGEST: u64 = 512 * 1024;

/// One name in the dynamic symbol table.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Export {
    name: String,
    version: Option<String>,
}

type Header = elf::FileHeader64<NativeEndian>;

fn product_bytes() -> Vec<u8> {
    fs::read(common::product_file()).expect("read the product")
}

fn sections(data: &[u8]) -> SectionTable<'_, Header> {
    let header = Header::parse(data).expect("an ELF file for this machine");
    header.sections(NativeEndian, data).expect("its sections")
}

/// The defined symbols that a program or LD_PRELOAD can bind to, with the version that they carry.
fn exports(data: &[u8]) -> BTreeSet<Export> {
    let sections = sections(data);
    let versions = sections.versions(NativeEndian, data).expect("its versions");
    let symbols = sections.symbols(NativeEndian, data, elf::SHT_DYNSYM).expect("its dynamic symbols");
    let mut found = BTreeSet::new();
    for (index, symbol) in symbols.enumerate() {
        let local = symbol.st_bind() == elf::STB_LOCAL;
        let hidden = !matches!(symbol.st_visibility(), elf::STV_DEFAULT | elf::STV_PROTECTED);
        if symbol.is_undefined(NativeEndian) || local || hidden {
            continue;
        }
        let name = symbol.name(NativeEndian, symbols.strings()).expect("a symbol name");
        let version = versions.as_ref().and_then(|versions| {
            let version = versions.version_index(NativeEndian, index);
            versions.version(version).expect("a version").map(|version| text(version.name()))
        });
        found.insert(Export { name: text(name), version });
    }
    found
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The dynamic section: each tag with its value, and for those that name something the name.
fn dynamic(data: &[u8]) -> Vec<(u32, u64, Option<String>)> {
    let sections = sections(data);
    let (entries, link) =
        sections.dynamic(NativeEndian, data).expect("its dynamic section").expect("a dynamic section");
    let strings = sections.strings(NativeEndian, data, link).expect("its strings");
    entries
        .iter()
        .map(|entry| {
            let tag = entry.tag32(NativeEndian).unwrap_or(0);
            let named = matches!(tag, elf::DT_NEEDED | elf::DT_SONAME | elf::DT_RPATH | elf::DT_RUNPATH);
            let name = named.then(|| text(entry.string(NativeEndian, strings).expect("a name")));
            (tag, entry.d_val(NativeEndian), name)
        })
        .collect()
}

fn names_of(data: &[u8], wanted: u32) -> Vec<String> {
    dynamic(data).into_iter().filter(|(tag, ..)| *tag == wanted).filter_map(|(_, _, name)| name).collect()
}

#[test]
fn exactly_the_documented_names_are_exported() {
    let found: BTreeSet<String> = exports(&product_bytes()).into_iter().map(|export| export.name).collect();
    let documented: BTreeSet<String> =
        STANDARD.iter().chain(EXTENSIONS).map(|name| (*name).to_owned()).collect();
    let missing: Vec<_> = documented.difference(&found).collect();
    let extra: Vec<_> = found.difference(&documented).collect();
    assert!(missing.is_empty() && extra.is_empty(), "missing: {missing:?}\nextra: {extra:?}");
}

#[test]
fn extensions_start_with_aio() {
    assert!(EXTENSIONS.iter().all(|name| name.starts_with("aio_")));
}

/// The dynamic linker passes over a library that gives the name another version than the program asks for, whereas a
/// name without version serves programs for any libc.
#[test]
fn no_name_has_a_version() {
    let data = product_bytes();
    let versioned: Vec<_> = exports(&data).into_iter().filter(|export| export.version.is_some()).collect();
    assert!(versioned.is_empty(), "{versioned:?}");
    let definitions = sections(&data).gnu_verdef(NativeEndian, &*data).expect("its version definitions");
    assert!(definitions.is_none(), "the file defines versions");
}

#[test]
fn the_soname_carries_the_major_version() {
    assert_eq!(names_of(&product_bytes(), elf::DT_SONAME), [common::SONAME]);
}

/// The library's threads would run in unmapped memory after a dlclose.
#[test]
fn it_stays_loaded_after_dlclose() {
    let flags = dynamic(&product_bytes()).into_iter().find(|(tag, ..)| *tag == elf::DT_FLAGS_1);
    let (_, flags, _) = flags.expect("the file has DT_FLAGS_1");
    assert_ne!(flags & u64::from(elf::DF_1_NODELETE), 0, "it was not linked with -z nodelete");
}

#[test]
fn it_needs_no_other_library_and_no_search_path() {
    let data = product_bytes();
    let needed = names_of(&data, elf::DT_NEEDED);
    let strange: Vec<_> = needed.iter().filter(|name| !ALLOWED_LIBRARIES.contains(&name.as_str())).collect();
    assert!(strange.is_empty(), "it needs {strange:?}");
    assert!(names_of(&data, elf::DT_RPATH).is_empty());
    assert!(names_of(&data, elf::DT_RUNPATH).is_empty());
}

#[test]
fn its_code_is_never_writable() {
    let data = product_bytes();
    assert!(dynamic(&data).iter().all(|(tag, ..)| *tag != elf::DT_TEXTREL), "text relocations");
    let header = Header::parse(&*data).expect("an ELF file");
    let segments = header.program_headers(NativeEndian, &*data).expect("its segments");
    for segment in segments {
        let flags = segment.p_flags.get(NativeEndian);
        assert!(flags & (elf::PF_W | elf::PF_X) != elf::PF_W | elf::PF_X, "a segment is writable code");
    }
}

#[test]
fn it_is_small() {
    let size = fs::metadata(common::product_file()).expect("the product").len();
    assert!(size <= LARGEST, "{size} bytes");
}

#[test]
fn it_is_stripped() {
    let data = product_bytes();
    let sections = sections(&data);
    assert!(sections.iter().all(|section| section.sh_type(NativeEndian) != elf::SHT_SYMTAB));
}

/// The check of versions has to see them where they are: in the C library.
#[test]
fn versions_are_seen_in_libc() {
    let maps = fs::read_to_string("/proc/self/maps").expect("read the maps");
    let libc = maps
        .lines()
        .filter_map(|line| line.split_whitespace().last())
        .find(|path| path.contains("/libc.so") || path.contains("/libc-"))
        .expect("this process uses libc");
    let data = fs::read(libc).expect("read libc");
    let open = exports(&data).into_iter().find(|export| export.name == "openat").expect("openat");
    assert!(open.version.is_some_and(|version| version.starts_with("GLIBC_")));
}
