//! The environment variables that the library reads, and when it does not.

use core::ffi::CStr;

/// Whether the program has rights that its caller has not (set-user-ID, set-group-ID, file capabilities): then its
/// environment is somebody else's word.
pub fn secure_execution() -> bool {
    // SAFETY: reads what the kernel gave the process at exec; touches nothing.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// The value of an environment variable, copied nowhere; `None` when it is not set, and always in a secure execution.
/// As with any getenv(3), no other thread may change the environment meanwhile: for the calls that submit, which
/// are not async-signal-safe either.
pub fn variable(name: &CStr) -> Option<&'static [u8]> {
    if secure_execution() {
        return None;
    }
    // SAFETY: a C string; the answer is NULL or a C string, and is used up before the caller's call returns.
    unsafe {
        let value = libc::getenv(name.as_ptr());
        (!value.is_null()).then(|| CStr::from_ptr(value).to_bytes())
    }
}

/// A number in decimal digits and nothing else.
pub fn number(value: &[u8]) -> Option<u32> {
    core::str::from_utf8(value).ok()?.parse().ok()
}
