//! Numbers and texts as bytes, and records with their length and check sum.

use std::time::Duration;

use crate::Damage;

/// A record may not claim to be longer: the largest is the state of a scheduler with some million blocks.
const RECORD_BYTES_MAX: usize = 4 << 30;

/// Writes values to the end of some bytes. Numbers take seven bits a byte, the lowest first.
#[derive(Debug, Default)]
pub(crate) struct Output(pub(crate) Vec<u8>);

impl Output {
    pub(crate) fn number(&mut self, number: impl Into<u64>) {
        let mut rest = number.into();
        while rest >= 0x80 {
            self.0.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.0.push(rest as u8);
    }

    pub(crate) fn flag(&mut self, flag: bool) {
        self.0.push(flag.into());
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
    }

    pub(crate) fn time(&mut self, time: Duration) {
        self.number(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Tokens that are hashes take all of their four bytes.
    pub(crate) fn word(&mut self, word: u32) {
        self.0.extend_from_slice(&word.to_le_bytes());
    }

    /// The same of many, with their number. A plan has some hundred thousand.
    pub(crate) fn words(&mut self, words: impl ExactSizeIterator<Item = u32>) {
        self.number(words.len() as u64);
        let begin = self.0.len();
        self.0.resize(begin + 4 * words.len(), 0);
        for (place, word) in self.0[begin..].chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
    }

    pub(crate) fn optional<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.flag(value.is_some());
        if let Some(value) = value {
            write(self, value);
        }
    }

    pub(crate) fn list<T>(
        &mut self,
        values: impl ExactSizeIterator<Item = T>,
        mut write: impl FnMut(&mut Self, T),
    ) {
        self.number(values.len() as u64);
        for value in values {
            write(self, value);
        }
    }
}

/// What is wrong with the bytes of a record.
pub(crate) type Read<T> = Result<T, String>;

/// Reads values from the beginning of some bytes.
#[derive(Debug)]
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> Read<u8> {
        let (first, rest) = self.0.split_first().ok_or("a value is missing")?;
        self.0 = rest;
        Ok(*first)
    }

    pub(crate) fn long(&mut self) -> Read<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err("a number is too long".to_owned())
    }

    pub(crate) fn number(&mut self) -> Read<u32> {
        let number = self.long()?;
        number.try_into().map_err(|_| format!("{number} is too large a number"))
    }

    /// A number of values, of which each takes a byte at least.
    fn count(&mut self) -> Read<usize> {
        let count = self.long()?;
        let left = self.0.len();
        usize::try_from(count)
            .ok()
            .filter(|count| *count <= left)
            .ok_or_else(|| format!("{count} values in {left} bytes"))
    }

    pub(crate) fn flag(&mut self) -> Read<bool> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(format!("{other} is neither true nor false")),
        }
    }

    fn take(&mut self, count: usize) -> Read<&[u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or("a value is missing")?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn text(&mut self) -> Read<String> {
        let count = self.count()?;
        let bytes = self.take(count)?.to_vec();
        String::from_utf8(bytes).map_err(|_| "a text is not UTF-8".to_owned())
    }

    pub(crate) fn time(&mut self) -> Read<Duration> {
        self.long().map(Duration::from_nanos)
    }

    pub(crate) fn word(&mut self) -> Read<u32> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes(bytes.try_into().expect("four were taken")))
    }

    pub(crate) fn optional<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Read<T>,
    ) -> Read<Option<T>> {
        if self.flag()? { read(self).map(Some) } else { Ok(None) }
    }

    pub(crate) fn list<T>(&mut self, mut read: impl FnMut(&mut Self) -> Read<T>) -> Read<Vec<T>> {
        let count = self.count()?;
        (0..count).map(|_| read(self)).collect()
    }

    pub(crate) fn end(&self) -> Read<()> {
        if self.0.is_empty() { Ok(()) } else { Err(format!("{} bytes too many", self.0.len())) }
    }
}

/// A record as it lies in a journal: its length, itself, its check sum.
pub(crate) fn framed(record: &[u8]) -> Vec<u8> {
    let mut frame = Output(Vec::with_capacity(record.len() + 10));
    frame.number(record.len() as u64);
    frame.0.extend_from_slice(record);
    frame.word(crc32fast::hash(record));
    frame.0
}

/// The record at `offset` and where the next one begins; nothing at the end of the bytes.
pub(crate) fn frame_at(bytes: &[u8], offset: usize) -> Result<Option<(&[u8], usize)>, Damage> {
    let mut input = Input(&bytes[offset..]);
    if input.0.is_empty() {
        return Ok(None);
    }
    let truncated = || Damage::Truncated { offset };
    let length = match input.long() {
        Ok(length) => length,
        Err(_) if input.0.is_empty() => return Err(truncated()),
        Err(what) => return Err(Damage::Malformed { offset, what }),
    };
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > RECORD_BYTES_MAX {
        let what = format!("it claims to have {length} bytes");
        return Err(Damage::Malformed { offset, what });
    }
    let (record, rest) = input.0.split_at_checked(length).ok_or_else(truncated)?;
    let mut rest = Input(rest);
    let expected = rest.word().map_err(|_| truncated())?;
    let found = crc32fast::hash(record);
    if found != expected {
        return Err(Damage::Corrupt { offset, expected, found });
    }
    Ok(Some((record, bytes.len() - rest.0.len())))
}
