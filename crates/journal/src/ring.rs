//! The newest part of a journal, in memory, from which it can be replayed however long ago the start was.
//!
//! Records lie in segments. When there are too many, the oldest segment goes, but not before a second scheduler, the
//! follower, was told what is in it: so it is always in the state in which the recorded one was where the kept segments
//! begin. It has a thread of its own; whoever records waits for nothing but to add bytes. It is told what the journal
//! holds and nothing else, so that it knows of tokens and names what the journal shows.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread,
};

use crate::{
    encoding::{Output, frame_at, framed},
    follower::Follower,
    journal::opening,
    record::Record,
    setup::Setup,
};

/// A ring has about so many segments.
const SEGMENTS: usize = 64;
/// Bytes that may lie in a ring beyond its limit until the follower was told of them. It takes about as long as the
/// scheduler did, without the steps between; if it is so far behind, it does not run at all.
const BACKLOG_BYTES_MAX: usize = 16 << 20;

const BROKEN: &str = "what follows it broke down";

/// Holds as many of the newest records as fit, and the state before them.
#[derive(Debug)]
pub struct Ring {
    setup: Setup,
    bytes_max: usize,
    /// Where `kept` begins; nothing as long as that is the start. Locked before `kept`, and never by who records.
    beginning: Mutex<Option<Follower>>,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// Frames, the oldest first.
    segments: VecDeque<Arc<Vec<u8>>>,
    newest: Vec<u8>,
    bytes: usize,
    /// Why the state before the oldest segment is not known, if it is not.
    lost: Option<String>,
}

/// Adds records to a ring and keeps the thread of its follower.
#[derive(Debug)]
pub(crate) struct RingWriter {
    ring: Arc<Ring>,
    /// Wakes the thread, which ends when this is gone.
    wake: SyncSender<()>,
}

impl RingWriter {
    /// A ring of at most `bytes_max` bytes of records, all of a scheduler from its start on.
    pub(crate) fn start(setup: &Setup, bytes_max: usize) -> io::Result<Self> {
        let (beginning, kept) = (Mutex::default(), Mutex::default());
        let ring = Arc::new(Ring { setup: setup.clone(), bytes_max, beginning, kept });
        let (wake, woken) = sync_channel(1);
        let followed = ring.clone();
        thread::Builder::new().name("journal-ring".to_owned()).spawn(move || {
            for () in woken {
                drop(followed.settle());
            }
        })?;
        Ok(Self { ring, wake })
    }

    pub(crate) fn ring(&self) -> &Arc<Ring> {
        &self.ring
    }

    pub(crate) fn push(&self, frame: &[u8]) {
        let has_surplus = self.ring.kept().push(frame, self.ring.bytes_max);
        // If the thread was woken already, it has yet to look.
        if has_surplus && let Err(TrySendError::Disconnected(())) = self.wake.try_send(()) {
            self.ring.kept().lose(BROKEN);
        }
    }
}

impl Ring {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        // It is changed by steps none of which panics.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops what is too much, once the follower was told. Holds it there.
    fn settle(&self) -> MutexGuard<'_, Option<Follower>> {
        let mut beginning = self.beginning.lock().unwrap_or_else(|panicked| {
            self.kept().lose(BROKEN);
            panicked.into_inner()
        });
        while let Some(oldest) = self.oldest_surplus() {
            match self.follow(&mut beginning, &oldest) {
                Ok(()) => self.kept().followed(),
                Err(why) => self.kept().lose(&why),
            }
        }
        let mut kept = self.kept();
        if kept.lost.is_some() {
            *beginning = None;
            kept.trim(self.bytes_max);
        }
        drop(kept);
        beginning
    }

    fn oldest_surplus(&self) -> Option<Arc<Vec<u8>>> {
        let kept = self.kept();
        let is_surplus = kept.bytes > self.bytes_max && kept.lost.is_none();
        is_surplus.then(|| kept.segments.front().cloned()).flatten()
    }

    /// Tells the follower of a segment.
    fn follow(&self, beginning: &mut Option<Follower>, segment: &[u8]) -> Result<(), String> {
        let follower = match beginning {
            Some(follower) => follower,
            None => {
                let new = Follower::new(&self.setup, None).map_err(|error| error.to_string())?;
                beginning.insert(new)
            }
        };
        let mut offset = 0;
        while let Some((record, next)) =
            frame_at(segment, offset).map_err(|damage| damage.to_string())?
        {
            let record = Record::decode(record)?;
            follower.tell(&record).map_err(|difference| difference.to_string())?;
            // Nobody asks for these accounts.
            drop(follower.take_ended());
            offset = next;
        }
        Ok(())
    }

    /// What it holds, as a file would have it. Its records are at most as long as the ring may be; what they begin with
    /// takes about as much as the scheduler itself.
    pub fn snapshot(&self) -> Vec<u8> {
        // Nothing is dropped as long as this is held.
        let beginning = self.settle();
        let (segments, newest, lost) = {
            let kept = self.kept();
            (kept.segments.clone(), kept.newest.clone(), kept.lost.clone())
        };
        let mut bytes = opening(&self.setup);
        let mut first = Output::default();
        match (lost, &*beginning) {
            (Some(why), _) => Record::BeginningLost { why }.encode(&mut first),
            (None, Some(follower)) => follower.state().encode(&mut first),
            (None, None) => {}
        }
        drop(beginning);
        if !first.0.is_empty() {
            bytes.extend(framed(&first.0));
        }
        for segment in segments {
            bytes.extend_from_slice(&segment);
        }
        bytes.extend(newest);
        bytes
    }
}

impl Kept {
    /// Says whether there is too much now.
    fn push(&mut self, frame: &[u8], bytes_max: usize) -> bool {
        if self.bytes > bytes_max + BACKLOG_BYTES_MAX {
            self.lose("what follows it did not keep up");
        }
        self.newest.extend_from_slice(frame);
        self.bytes += frame.len();
        if self.newest.len() < bytes_max / SEGMENTS {
            return false;
        }
        let next = Vec::with_capacity(bytes_max / SEGMENTS);
        self.segments.push_back(Arc::new(std::mem::replace(&mut self.newest, next)));
        if self.lost.is_some() {
            self.trim(bytes_max);
        }
        self.bytes > bytes_max
    }

    /// The follower was told of the oldest segment.
    fn followed(&mut self) {
        if self.lost.is_none() {
            self.drop_oldest();
        }
    }

    fn trim(&mut self, bytes_max: usize) {
        while self.bytes > bytes_max && !self.segments.is_empty() {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        let dropped = self.segments.pop_front().map_or(0, |oldest| oldest.len());
        self.bytes -= dropped;
    }

    /// The state before the oldest segment will not be known again.
    fn lose(&mut self, why: &str) {
        if self.lost.is_none() {
            tracing::error!(why, "the journal in memory cannot be replayed from now on");
            self.lost = Some(why.to_owned());
        }
    }
}

#[cfg(test)]
impl Ring {
    /// As if the follower had panicked.
    pub(crate) fn poison(&self) {
        let panics = || {
            let _held = self.beginning.lock();
            panic!("planted");
        };
        let _panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics));
    }

    /// Does something while the follower can do nothing; it is told how to see how many bytes are kept.
    pub(crate) fn while_nothing_follows(&self, run: impl FnOnce(&dyn Fn() -> usize)) {
        let _held = self.beginning.lock().unwrap_or_else(PoisonError::into_inner);
        run(&|| self.kept().bytes);
    }
}
