//! The protocols by which threads wait, lead and complete, explored by `loom`: every order in which their steps can
//! follow each other, within the bounds given at each model.
//!
//! The models repeat what `src` does line by line, with fewer threads and requests, and without time: nobody's
//! patience ever ends, so a thread that only a time-out would wake is a deadlock, which `loom` reports. Each model is also run with
//! known mistakes put in, and must find them.

// loom's own Arc asks for no more than the models give it; what they share is loom's atomics and cells.
#![allow(clippy::arc_with_non_send_sync)]

#[path = "protocol"]
mod protocol {
    mod bounce;
    mod duty;
    mod engine;
    mod fault;
    mod kernel;
    mod lead;
    mod lock;
    mod owed;
    mod register;
    pub mod run;
    mod waiting;
}
