//! Faults that can be built into the pure crates, to see that the simulator's soak finds them.
//!
//! Only with the feature `planted`, which `dev/sim` alone can switch on: without it every question here is answered no
//! at compile time, and nothing is left of the places that ask.

/// A fault. Its name says what goes wrong where it strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each name is the whole description")]
pub enum Planted {
    LeakedBlock,
    BlockFreedTwice,
    UncountedHolder,
    StaleCache,
    IgnoredSalt,
    EarlyRelease,
    ForgottenCopy,
    WrongHostSlot,
    UncopiedState,
    OverfullQueue,
    ExceededBudget,
    LostToken,
    StreamOutOfOrder,
    UntoldRelease,
    LostRequest,
    Starvation,
    IgnoredAbort,
}

impl Planted {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::LeakedBlock,
        Self::BlockFreedTwice,
        Self::UncountedHolder,
        Self::StaleCache,
        Self::IgnoredSalt,
        Self::EarlyRelease,
        Self::ForgottenCopy,
        Self::WrongHostSlot,
        Self::UncopiedState,
        Self::OverfullQueue,
        Self::ExceededBudget,
        Self::LostToken,
        Self::StreamOutOfOrder,
        Self::UntoldRelease,
        Self::LostRequest,
        Self::Starvation,
        Self::IgnoredAbort,
    ];
}

#[cfg(feature = "planted")]
mod switched {
    use std::cell::Cell;

    use super::Planted;

    /// Of the times that a fault could strike, one in so many.
    const ONE_IN: u64 = 5;

    thread_local! {
        static PLANTED: Cell<(Option<Planted>, u64)> = const { Cell::new((None, 0)) };
    }

    /// Plants a fault in what this thread runs from now on, or takes it away.
    pub fn plant(fault: Option<Planted>) {
        PLANTED.set((fault, 0));
    }

    /// Whether a fault is planted.
    pub fn is(fault: Planted) -> bool {
        PLANTED.get().0 == Some(fault)
    }

    /// Whether a fault strikes this time: it does now and then.
    pub fn strikes(fault: Planted) -> bool {
        let (planted, times) = PLANTED.get();
        if planted == Some(fault) {
            PLANTED.set((planted, times + 1));
        }
        planted == Some(fault) && (times + 1).is_multiple_of(ONE_IN)
    }
}

#[cfg(feature = "planted")]
pub use switched::{is, plant, strikes};

/// Whether a fault is planted: no.
#[cfg(not(feature = "planted"))]
pub const fn is(_fault: Planted) -> bool {
    false
}

/// Whether a fault strikes this time: no.
#[cfg(not(feature = "planted"))]
pub const fn strikes(_fault: Planted) -> bool {
    false
}
