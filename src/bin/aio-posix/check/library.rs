//! What the library does with each kind of transfer, from what was measured. The rules are those of its submission
//! (src/submit.rs, src/direct.rs, src/own_work.rs), which meets the same answers of the kernel. They are for transfers of
//! up to 1 MiB: larger ones a helper thread does, so that the caller is not held up by copying.

use super::probe::{Measured, NoWait, Operation};

/// What the library asks of a file, and of the process.
#[derive(Clone, Copy, Default)]
pub struct Place {
    /// The file is memory (tmpfs, hugetlbfs): copied by whoever asks.
    pub memory: bool,
    /// It lies on a block device, so that who waits for a request cannot hang in doing it himself.
    pub on_device: bool,
    /// The process has an RLIMIT_FSIZE, so that a write may bring SIGXFSZ: not to the caller.
    pub limited: bool,
}

/// How an operation is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// By nobody: no program can do it there.
    Impossible,
    /// The calling program's call gives it to the kernel, which does it meanwhile.
    SubmittedByCaller,
    SubmittedByHelper,
    /// In the submitting call, which never waits for it.
    InTheCall,
    InTheCallElseHelper,
    CopiedInTheCall,
    ReadAheadHelper,
    ReadAheadHelperOrWaiter,
    Helper,
    HelperOrWaiter,
    /// By the kernel, after the writes that it covers.
    AfterWrites,
}

impl Way {
    pub fn words(self) -> &'static str {
        match self {
            Way::Impossible => "fails, as without the library",
            Way::SubmittedByCaller => "submitted by the caller",
            Way::SubmittedByHelper => "submitted by a helper thread",
            Way::InTheCall => "done in the submitting call",
            Way::InTheCallElseHelper => "in the call, else by a helper",
            Way::CopiedInTheCall => "copied in the submitting call",
            Way::ReadAheadHelper => "read-ahead, then a helper",
            Way::ReadAheadHelperOrWaiter => "read-ahead, then helper or waiter",
            Way::Helper => "by a helper thread",
            Way::HelperOrWaiter => "by a helper, or by the waiter",
            Way::AfterWrites => "submitted after earlier writes",
        }
    }
}

pub fn way(measured: &Measured, place: Place) -> Way {
    let Ok(in_flight) = measured.in_flight else {
        return Way::Impossible;
    };
    let queued = if place.on_device { Way::HelperOrWaiter } else { Way::Helper };
    let writes = matches!(
        measured.operation,
        Operation::DirectOverwrite | Operation::DirectExtension | Operation::BufferedWrite
    );
    if writes && place.limited {
        return queued;
    }
    let unsupported = measured.nowait == Some(NoWait::Unsupported);
    match measured.operation {
        Operation::Sync => Way::AfterWrites,
        _ if unsupported && place.memory => Way::CopiedInTheCall,
        Operation::DirectRead | Operation::DirectOverwrite | Operation::DirectExtension => {
            match measured.nowait {
                Some(NoWait::Done) if in_flight > 0 => Way::SubmittedByCaller,
                Some(NoWait::Done) => Way::InTheCall,
                Some(NoWait::Failed(_)) => Way::Impossible,
                _ => Way::SubmittedByHelper,
            }
        }
        Operation::CachedRead if measured.nowait == Some(NoWait::Done) => Way::InTheCall,
        // Read-ahead may wait where RWF_NOWAIT is not known.
        Operation::CachedRead | Operation::UncachedRead if unsupported => queued,
        Operation::CachedRead | Operation::UncachedRead if place.on_device => Way::ReadAheadHelperOrWaiter,
        Operation::CachedRead | Operation::UncachedRead => Way::ReadAheadHelper,
        Operation::BufferedWrite if unsupported => queued,
        Operation::BufferedWrite => Way::InTheCallElseHelper,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const DISK: Place = Place { memory: false, on_device: true, limited: false };
    const NETWORK: Place = Place { memory: false, on_device: false, limited: false };
    const MEMORY: Place = Place { memory: true, on_device: false, limited: false };

    fn of(operation: Operation, nowait: NoWait, place: Place) -> Way {
        let measured = Measured {
            operation,
            in_flight: Ok(8),
            submitting: Duration::ZERO,
            whole: Duration::ZERO,
            nowait: Some(nowait),
        };
        way(&measured, place)
    }

    #[test]
    fn direct_transfers_go_by_what_the_kernel_says_to_nowait() {
        let of = |nowait, place| of(Operation::DirectRead, nowait, place);
        assert_eq!(of(NoWait::Done, DISK), Way::SubmittedByCaller);
        assert_eq!(of(NoWait::WouldWait, DISK), Way::SubmittedByHelper);
        assert_eq!(of(NoWait::Unsupported, NETWORK), Way::SubmittedByHelper);
        assert_eq!(of(NoWait::Unsupported, MEMORY), Way::CopiedInTheCall);
    }

    #[test]
    fn buffered_writes_wait_in_a_thread_where_the_file_system_cannot_do_without() {
        let of = |nowait, place| of(Operation::BufferedWrite, nowait, place);
        assert_eq!(of(NoWait::Done, DISK), Way::InTheCallElseHelper);
        assert_eq!(of(NoWait::Unsupported, DISK), Way::HelperOrWaiter);
        assert_eq!(of(NoWait::Unsupported, NETWORK), Way::Helper);
        assert_eq!(of(NoWait::Unsupported, MEMORY), Way::CopiedInTheCall);
    }

    #[test]
    fn reads_start_read_ahead_only_where_that_does_not_wait() {
        let of = |nowait, place| of(Operation::UncachedRead, nowait, place);
        assert_eq!(of(NoWait::WouldWait, DISK), Way::ReadAheadHelperOrWaiter);
        assert_eq!(of(NoWait::WouldWait, NETWORK), Way::ReadAheadHelper);
        assert_eq!(of(NoWait::Unsupported, NETWORK), Way::Helper);
    }

    #[test]
    fn a_limit_on_the_size_of_files_keeps_writes_out_of_the_caller() {
        let limited = Place { limited: true, ..DISK };
        assert_eq!(of(Operation::DirectOverwrite, NoWait::Done, limited), Way::HelperOrWaiter);
        assert_eq!(of(Operation::DirectRead, NoWait::Done, limited), Way::SubmittedByCaller);
    }
}
