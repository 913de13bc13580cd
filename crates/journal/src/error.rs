//! What can be wrong with a journal.

/// A journal that cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file begins with something else.
    #[error("this is no journal: it does not begin with `{}`", crate::journal::MAGIC.escape_ascii())]
    NotAJournal,
    /// Another format.
    #[error("the journal has format {found}; this program reads format {known}")]
    Format {
        /// The format of the file.
        found: u16,
        /// The one that is known here.
        known: u16,
    },
    /// Not even its settings can be read.
    #[error("the journal's settings cannot be read: {0}")]
    Setup(Damage),
    /// The settings in it make no scheduler.
    #[error("the settings in the journal: {0}")]
    Settings(#[from] scheduler::Error),
    /// Without what the scheduler knew at its beginning, nothing can be decided again.
    #[error(
        "the beginning of the journal is lost, as {why}: {records} records are left and can only be listed"
    )]
    BeginningLost {
        /// Why.
        why: String,
        /// Records that are there.
        records: usize,
    },
    /// It begins with a state that another program wrote.
    #[error(
        "the journal begins with a scheduler's state in version {found}; this program reads version {known}"
    )]
    StateVersion {
        /// The version of the journal's.
        found: u32,
        /// The one that is known here.
        known: u32,
    },
    /// It begins with a state that makes no sense.
    #[error("the scheduler's state at the journal's beginning makes no sense: {0}")]
    State(String),
}

/// Where a journal stops making sense. What stands before is sound.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// It ends in the middle of a record, as when the process was killed.
    #[error("it ends within the record at byte {offset}")]
    Truncated {
        /// Where the record begins.
        offset: usize,
    },
    /// A record is not what was written.
    #[error(
        "the record at byte {offset} is corrupt: its check sum is {found:08x}, but should be {expected:08x}"
    )]
    Corrupt {
        /// Where the record begins.
        offset: usize,
        /// As written.
        expected: u32,
        /// Of what is there.
        found: u32,
    },
    /// A record is sound and makes no sense.
    #[error("the record at byte {offset} makes no sense: {what}")]
    Malformed {
        /// Where the record begins.
        offset: usize,
        /// What is wrong.
        what: String,
    },
}
