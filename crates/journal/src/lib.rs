//! What a scheduler was told, written down, so that every decision of it can be made again and looked at.
//!
//! Queue, scheduler and KV manager are pure: the same calls give the same plans. So a journal holds the calls
//! (arrivals, outcomes of steps, aborts, crashes, each with its time) and no plan, but a digest of each. [`replay()`]
//! makes the calls again, block id by block id, and says which plan is the first to differ, if one does.
//!
//! [`RecordedScheduler`] is a scheduler that writes down what it is told: into a ring in memory, which keeps the newest
//! part and what the scheduler knew before that ([`Ring`]), and into a file, from a thread of its own, so that no step
//! waits for a disk. [`Journal`] reads such a file; of one that is damaged it reads what stands before the damage.
//!
//! No text is in a journal. Tokens are by default: a hash of all tokens before and this one, under a key that is drawn
//! at start and written nowhere. That tells which prompts begin alike, and for how long, which is what the KV cache
//! looks at, and nothing else of them. Where next tokens are guessed, it also tells which tokens of one text are the
//! same, which is what guesses look at. Tenants and salts are hashed as well. See [`TokenRecord`].

mod encoding;
mod error;
mod file;
mod follower;
mod hiding;
mod journal;
mod record;
mod recorder;
mod replay;
mod ring;
mod setup;
pub mod show;
mod state;

pub use error::{Damage, Error};
pub use file::{JournalFile, create_private};
pub use journal::Journal;
pub use record::{PlanMark, Record};
pub use recorder::{RecordedScheduler, Recorder};
pub use replay::{Divergence, Ending, Life, Phase, Replay, Span, Step, replay};
pub use ring::Ring;
pub use setup::{Setup, TokenRecord};
pub use state::State;

#[cfg(test)]
mod tests;
