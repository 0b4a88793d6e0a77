//! POSIX asynchronous I/O on one shared Linux kernel AIO context.
//!
//! The product is `libaio_posix.so`: the functions of `<aio.h>` for programs that preload it or link
//! with it. Start at [`engine`] for the flow of a request and who touches what, at [`request`] for
//! the states, at [`wake`] for why nobody sleeps through a completion.
//!
//! Imports go one way, down:
//!
//! ```text
//! capi                                  contract, parse, one call, one conversion
//! lio  cancel  wait  submit  process    one room for each thing that a program can ask
//! submission                            what one is while it is being submitted
//! completion_thread  threads  callbacks
//! told                                  seeing what another thread is taking
//! reap  own_work                        taking events out of the ring; a waiter's own work
//! helpers  direct  polls                the ways onto the ring, and beside it
//! stand_in                              the completion thread in the place of a helper that cannot
//! transfers  pins                       reading and writing where one may wait
//! complete  finished  admission         ending a request; letting it into the ring
//! worklist  order  notify               queueing, ordering, telling
//! goal  wake  fork                      what is waited for; who waits, who leads; what a child finds
//! engine  request  vectors  hints       the state
//! ring  lock  pool                      what it is kept in
//! abi  errno  sys                       C and the kernel
//! ```
//!
//! (`engine` owns one value of each room's state, so it names them all; it calls none. `observe` is called from
//! everywhere and reads what it counts; `settings` are the environment's.)

#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]

// A panic must not unwind into C. `cargo test` builds with unwinding and debug assertions; nothing that
// is installed may.
#[cfg(all(not(panic = "abort"), not(debug_assertions)))]
compile_error!("libaio_posix must be built with panic = \"abort\"");

pub mod abi;
mod admission;
mod callbacks;
mod cancel;
pub mod capi;
mod complete;
mod completion_thread;
mod direct;
pub mod engine;
mod errno;
mod finished;
mod fork;
mod goal;
mod helpers;
mod hints;
mod libc_fallback;
mod lio;
mod lock;
mod notify;
mod observe;
mod order;
mod own_work;
mod pins;
mod polls;
mod pool;
mod process;
mod reap;
pub mod request;
mod ring;
mod settings;
mod stand_in;
mod submission;
mod submit;
pub mod sys;
mod threads;
mod told;
mod transfers;
mod vectors;
mod wait;
pub mod wake;
mod worklist;
