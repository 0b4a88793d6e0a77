//! Random programs, as proptest strategies.

use proptest::collection::vec;
use proptest::prelude::*;

use super::program::{Io, Notify, Object, Op, Program, What};

/// What programs may contain.
#[derive(Clone, Copy, Debug)]
pub struct Features {
    /// fork, cancelling, close and dup2 with requests in flight, and lists that do not fit a kernel context: with
    /// glibc's implementation requests hang or touch the wrong file.
    pub beyond_libc: bool,
}

pub fn programs(features: Features) -> impl Strategy<Value = Program> {
    (
        any::<bool>(),
        any::<bool>(),
        vec(objects(), 1..=3),
        prop_oneof![
            3 => vec(vec(op(features), 1..=14), 1..=1),
            4 => vec(vec(op(features), 1..=10), 2..=4),
        ],
    )
        .prop_map(move |(restart, cancel_at_end, objects, threads)| Program {
            // glibc crashes after a signal interrupted LIO_WAIT.
            restart: restart || !features.beyond_libc,
            cancel_at_end,
            objects,
            threads,
        })
}

fn objects() -> impl Strategy<Value = Object> {
    prop_oneof![
        3 => Just(Object::Buffered),
        2 => Just(Object::Append),
        3 => Just(Object::Pipe),
        3 => Just(Object::Stream),
        2 => Just(Object::Packets),
        2 => Just(Object::Direct),
    ]
}

fn notify(features: Features) -> BoxedStrategy<Notify> {
    let posix = prop_oneof![3 => Just(Notify::None), 2 => Just(Notify::Signal), 2 => Just(Notify::Thread)];
    if !features.beyond_libc {
        return posix.boxed();
    }
    prop_oneof![7 => posix, 3 => Just(Notify::Event)].boxed()
}

fn form(features: Features) -> BoxedStrategy<u8> {
    if features.beyond_libc {
        prop_oneof![3 => Just(0u8), 2 => 1u8..8].boxed()
    } else {
        Just(0u8).boxed()
    }
}

fn io(features: Features, in_list: bool) -> impl Strategy<Value = Io> {
    let rare = if in_list { [What::Nop, What::BadOpcode] } else { [What::Sync, What::DataSync] };
    let what = prop_oneof![
        8 => Just(What::Read),
        8 => Just(What::Write),
        2 => Just(rare[0]),
        1 => Just(rare[1]),
    ];
    let block = prop_oneof![1 => Just(-1i8), 8 => 0i8..4, 8 => 0i8..=14];
    let blocks = prop_oneof![8 => 0u8..2, 3 => 2u8..5];
    let priority = prop_oneof![20 => Just(0u8), 2 => 1u8..=20, 1 => Just(21u8)];
    (what, 0u8..6, block, blocks, any::<u16>(), priority, notify(features), form(features)).prop_map(
        |(what, slot, block, blocks, skew, priority, notify, form)| Io {
            what,
            slot,
            block,
            blocks,
            skew,
            priority,
            notify,
            form,
        },
    )
}

fn list(features: Features, elements: impl Strategy<Value = Vec<Io>>) -> impl Strategy<Value = Op> {
    (any::<bool>(), notify(features), elements).prop_map(|(wait, notify, elements)| Op::List {
        wait,
        notify,
        elements,
    })
}

fn crowd(features: Features) -> impl Strategy<Value = Op> {
    (any::<bool>(), 1u16..500, io(features, true)).prop_map(|(wait, count, first)| Op::Crowd {
        wait,
        count,
        first,
    })
}

fn op(features: Features) -> BoxedStrategy<Op> {
    let slot = 0u8..6;
    let common = prop_oneof![
        24 => io(features, false).prop_map(Op::Submit),
        6 => list(features, vec(io(features, true), 0..=6)),
        8 => (prop_oneof![2 => Just(-1), 1 => Just(0), 1 => 1i32..15], vec(0u16..12, 0..=5))
            .prop_map(|(timeout, picks)| Op::Suspend { timeout, picks }),
        5 => (0u16..12).prop_map(|pick| Op::Poll { pick }),
        4 => (slot.clone(), any::<u16>()).prop_map(|(end, skew)| Op::Feed { end, skew }),
        4 => (slot.clone(), any::<u16>()).prop_map(|(end, skew)| Op::Take { end, skew }),
        1 => slot.clone().prop_map(|slot| Op::Evict { slot }),
        1 => slot.clone().prop_map(|end| Op::Shutdown { end }),
    ];
    if !features.beyond_libc {
        return common.boxed();
    }
    prop_oneof![
        50 => common,
        4 => (0u16..6).prop_map(|pick| Op::Cancel { pick }),
        2 => slot.clone().prop_map(|slot| Op::CancelAll { slot }),
        2 => slot.clone().prop_map(|slot| Op::Close { slot }),
        4 => (slot.clone(), slot.clone()).prop_map(|(end, slot)| Op::Rebind { end, slot }),
        3 => vec(io(features, false), 0..=4).prop_map(|requests| Op::Fork { requests }),
        1 => crowd(features),
        3 => (0u8..10).prop_map(|timeout| Op::Next { timeout }),
    ]
    .boxed()
}
