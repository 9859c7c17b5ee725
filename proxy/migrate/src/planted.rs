//! Faults that the model check plants, to show that it finds them. Outside of tests there is none, and nothing to ask for.

/// Which fault there is, if any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Plan {
    #[cfg(test)]
    pub(crate) planted: Option<Planted>,
}

impl Plan {
    #[inline]
    pub(crate) fn has(self, planted: Planted) -> bool {
        #[cfg(test)]
        return self.planted == Some(planted);
        #[cfg(not(test))]
        {
            let _ = planted;
            false
        }
    }
}

/// Faults that can be planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Planted {
    /// Places take commands that are older than what they have heard.
    AnyStamp,
    /// Places take commands that were for an earlier life of theirs.
    AnyLife,
    /// The old place freezes while requests run.
    FreezeEarly,
    /// The old place serves nobody while it gives a copy before it is to quiesce.
    StopEarly,
    /// The old place serves again by itself though it has said that it is frozen.
    ThawAlone,
    /// The old place forgets what it has parked when the service has moved.
    ForgetParked,
    /// The new place says it has the last copy though it has another one.
    NoDigest,
    /// The new place is told to serve before the store has decided.
    ActivateEarly,
    /// The old place is told to drop what it has before the new place serves.
    MoveEarly,
    /// What was lost is not reported.
    HideLoss,
    /// It is not written down that the new place is about to be told to serve.
    NoJournal,
    /// A control plane that begins again takes it that what is frozen stays so, whatever the last one has said.
    TrustFrozen,
    /// A place that lost its memory goes on in its epoch.
    SameEpoch,
    /// Requests that may have run are sent again, repeatable or not.
    RepeatAll,
    /// What a link took with it is answered as if it had not run.
    ForgetLost,
    /// Queues have no bounds.
    Unbounded,
    /// Queues look at how many wait alone, and not at what they take.
    AnyBytes,
    /// What is held is let go by nothing but a command.
    HoldForever,
    /// What is to follow the heir counts as having everything though it has less than the heir.
    ConfirmEarly,
    /// What is acknowledged the heir has, and whoever is to follow it need not.
    HeirAlone,
    /// Who takes over goes on to take what whoever served before gives.
    InheritOpen,
    /// Another one is the standby at once, with nothing.
    NameAtOnce,
    /// Whoever is to follow the heir is the heir before whoever serves has said that it has everything.
    PromoteEarly,
    /// The standby before lets go before whoever serves knows the next one.
    LetGoFirst,
    /// What waits for somebody who does not keep the journal any more waits on.
    WaitOn,
    /// The heir of an earlier epoch is nobody's where it has had everything of this one since.
    ExactView,
}
