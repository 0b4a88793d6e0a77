//! What the library does with each kind of transfer, from what was measured. The rules are those of its submission
//! (src/submit.rs, src/direct.rs, src/helpers.rs), which meets the same answers of the kernel.

use super::probe::{Measured, NoWait, Operation};

/// statfs(2)'s numbers (linux/magic.h).
const NFS: i64 = 0x6969;
/// tmpfs, ramfs, hugetlbfs: copied by whoever asks.
const MEMORY: [i64; 3] = [0x0102_1994, 0x8584_58f6, 0x9584_58f6];
/// ext4, xfs, btrfs, tmpfs, ramfs, f2fs, overlayfs, zfs: a waiter may do a queued write itself.
const LOCAL: [i64; 8] =
    [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x8584_58f6, 0xf2f5_2010, 0x794c_7630, 0x2fc1_2fc1];

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
    ReadAhead,
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
            Way::ReadAhead => "read-ahead, then helper or waiter",
            Way::Helper => "by a helper thread",
            Way::HelperOrWaiter => "by a helper, or by the waiter",
            Way::AfterWrites => "submitted after earlier writes",
        }
    }
}

/// `magic` is the file system's; `limited`: the process has an RLIMIT_FSIZE, so that a write may bring SIGXFSZ.
pub fn way(measured: &Measured, magic: i64, limited: bool) -> Way {
    let Ok(in_flight) = measured.in_flight else {
        return Way::Impossible;
    };
    let memory = MEMORY.contains(&magic);
    let queued = if LOCAL.contains(&magic) { Way::HelperOrWaiter } else { Way::Helper };
    let writes = matches!(
        measured.operation,
        Operation::DirectOverwrite | Operation::DirectExtension | Operation::BufferedWrite
    );
    if writes && limited {
        return queued;
    }
    let unsupported = measured.nowait == Some(NoWait::Unsupported);
    match measured.operation {
        Operation::Sync => Way::AfterWrites,
        _ if unsupported && memory => Way::CopiedInTheCall,
        Operation::DirectRead | Operation::DirectOverwrite | Operation::DirectExtension => {
            match measured.nowait {
                Some(NoWait::Done) if in_flight > 0 => Way::SubmittedByCaller,
                Some(NoWait::Done) => Way::InTheCall,
                Some(NoWait::Unsupported) if magic == NFS => Way::SubmittedByCaller,
                Some(NoWait::Failed(_)) => Way::Impossible,
                _ => Way::SubmittedByHelper,
            }
        }
        Operation::CachedRead if measured.nowait == Some(NoWait::Done) => Way::InTheCall,
        Operation::CachedRead | Operation::UncachedRead => Way::ReadAhead,
        Operation::BufferedWrite if unsupported => queued,
        Operation::BufferedWrite => Way::InTheCallElseHelper,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const EXT4: i64 = LOCAL[0];
    const TMPFS: i64 = MEMORY[0];

    fn measured(operation: Operation, in_flight: Result<u64, i32>, nowait: NoWait) -> Measured {
        Measured {
            operation,
            in_flight,
            submitting: Duration::ZERO,
            whole: Duration::ZERO,
            nowait: Some(nowait),
        }
    }

    #[test]
    fn direct_transfers_go_by_what_the_kernel_says_to_nowait() {
        let of = |nowait, magic| way(&measured(Operation::DirectRead, Ok(8), nowait), magic, false);
        assert_eq!(of(NoWait::Done, EXT4), Way::SubmittedByCaller);
        assert_eq!(of(NoWait::WouldWait, EXT4), Way::SubmittedByHelper);
        assert_eq!(of(NoWait::Unsupported, EXT4), Way::SubmittedByHelper);
        assert_eq!(of(NoWait::Unsupported, NFS), Way::SubmittedByCaller);
        assert_eq!(of(NoWait::Unsupported, TMPFS), Way::CopiedInTheCall);
    }

    #[test]
    fn buffered_writes_wait_in_a_thread_where_the_file_system_cannot_do_without() {
        let of = |nowait, magic| way(&measured(Operation::BufferedWrite, Ok(0), nowait), magic, false);
        assert_eq!(of(NoWait::Done, EXT4), Way::InTheCallElseHelper);
        assert_eq!(of(NoWait::Unsupported, EXT4), Way::HelperOrWaiter);
        assert_eq!(of(NoWait::Unsupported, NFS), Way::Helper);
        assert_eq!(of(NoWait::Unsupported, TMPFS), Way::CopiedInTheCall);
    }

    #[test]
    fn a_limit_on_the_size_of_files_keeps_writes_out_of_the_caller() {
        let direct = measured(Operation::DirectOverwrite, Ok(8), NoWait::Done);
        assert_eq!(way(&direct, EXT4, true), Way::HelperOrWaiter);
    }
}
