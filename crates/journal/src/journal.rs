//! Reading a journal.

use crate::{
    Damage, Error,
    encoding::{Input, Output, frame_at, framed},
    record::Record,
    setup::Setup,
    state::{self, State},
};

/// What every journal begins with.
pub(crate) const MAGIC: &[u8] = b"brigade journal\n";
/// The format that is written and read here. To be counted up with every change of what records hold.
const FORMAT: u16 = 5;

/// A journal as far as it can be read.
#[derive(Debug)]
pub struct Journal {
    /// What the scheduler was made of.
    pub setup: Setup,
    /// What it knew before all that follows, where that is not the start.
    pub state: Option<State>,
    /// What happened, in order.
    pub records: Vec<Record>,
    /// What keeps the rest from being read, if something does.
    pub damage: Option<Damage>,
}

impl Journal {
    /// Reads a journal. Damage after its settings is no error: the records before it are read.
    pub fn read(bytes: &[u8]) -> Result<Self, Error> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(Error::NotAJournal)?;
        let begin = MAGIC.len() + 2;
        let format = rest.first_chunk().ok_or(Error::Setup(Damage::Truncated { offset: begin }))?;
        let found = u16::from_le_bytes(*format);
        if found != FORMAT {
            return Err(Error::Format { found, known: FORMAT });
        }
        let (setup, mut offset) = frame_at(bytes, begin)
            .and_then(|frame| frame.ok_or(Damage::Truncated { offset: begin }))
            .map_err(Error::Setup)?;
        let malformed = |offset, what| Damage::Malformed { offset, what };
        let mut input = Input(setup);
        let setup = Setup::decode(&mut input)
            .and_then(|setup| input.end().map(|()| setup))
            .map_err(|what| Error::Setup(malformed(begin, what)))?;
        let mut journal = Self { setup, state: None, records: Vec::new(), damage: None };
        if let Ok(Some((frame, next))) = frame_at(bytes, offset)
            && let Some((&state::KIND, state)) = frame.split_first()
        {
            match State::decode(state) {
                Ok(state) => journal.state = Some(state),
                Err(what) => {
                    journal.damage = Some(malformed(offset, what));
                    return Ok(journal);
                }
            }
            offset = next;
        }
        loop {
            let record = frame_at(bytes, offset).and_then(|frame| {
                let Some((record, next)) = frame else { return Ok(None) };
                let record = Record::decode(record).map_err(|what| malformed(offset, what))?;
                Ok(Some((record, next)))
            });
            match record {
                Ok(Some((record, next))) => {
                    journal.records.push(record);
                    offset = next;
                }
                Ok(None) => return Ok(journal),
                Err(damage) => {
                    journal.damage = Some(damage);
                    return Ok(journal);
                }
            }
        }
    }
}

/// The beginning of a journal, before its records.
pub(crate) fn opening(setup: &Setup) -> Vec<u8> {
    let mut encoded = Output::default();
    setup.encode(&mut encoded);
    [MAGIC, &FORMAT.to_le_bytes(), &framed(&encoded.0)].concat()
}
