//! The mistakes that the models must find.

/// A mistake to be found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A waiter looks at the statuses, and then sets its word.
    LooksBeforeWord,
    /// A waiter looks at the statuses, and then registers.
    LooksBeforeRegistering,
    /// A completer takes the waiter's number, and then stores the status.
    WaiterBeforeStatus,
    /// A completer counts up only after the status that it ends a request.
    CountsOnlyAfter,
    /// A completer counts up only before the status.
    CountsOnlyBefore,
    /// A waiter looks at the statuses, and then notes how many requests have ended.
    LooksBeforeCount,
    /// The second waiter of a request puts its number over the first one's.
    OverwritesWaiter,
    /// Who wakes a thread that sleeps in the ring does not kick.
    NoKick,
    /// A leader registers nowhere, whatever else is held.
    LeaderNeverRegisters,
    /// A request that the kernel then refuses was let go before.
    LetsGoBeforeRefusal,
    /// `held` falls when the request's waiter was looked for, but not yet its batch's.
    HeldFallsBeforeBatch,
    /// A follower looks at `leader`, and then sets its word.
    LeaderBeforeWord,
    /// A waiter that is satisfied does not pass its invitation on.
    NoHandOver,
    /// A waiter that needs the ring no more goes to sleep without passing the leadership on.
    KeepsInvitation,
    /// A submitter looks at `leader`, and then counts `owed` up.
    LeaderBeforeOwed,
    /// A leaving leader looks at `owed`, and then stores 0 in `leader`.
    OwedBeforeLeaving,
    /// The completion thread does not look at `owed` again after setting its word.
    NoSecondLookAtOwed,
    /// The completion thread goes to sleep with nothing owed, and does not pass on what it was woken for.
    KeepsUselessInvitation,
    /// The completion thread does not look into the outbox again after setting its word.
    NoSecondLookAtOutbox,
    /// A leaving leader does not look whether an event came that somebody else could not take.
    NoLookBehind,
    /// A submitter gets in line and does not look whether room came meanwhile.
    NoLookForRoom,
}
