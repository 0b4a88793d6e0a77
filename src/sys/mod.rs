//! The system-call room: thin wrappers that keep the system call's name, return `Errno`, and
//! never touch the caller's `errno` (a successful `aio_error` must leave it alone, and most of
//! our own failures, such as EAGAIN from a cache miss, are nobody's business).
//!
//! Everything here is async-signal-safe: no lock, no allocation, no thread-local.

pub mod aio_abi;
pub mod context;
pub mod files;
pub mod raw;
pub mod tables;
pub mod threads;
