//! Stop strings: finding them in text that arrives in pieces, without ever sending a part of one.

/// Watches a stream of text for stop strings.
///
/// Text is withheld only while it may still become a stop string. Of all stop strings, the one that is complete first
/// counts; of several complete at the same byte, the one that starts first.
#[derive(Clone, Debug)]
pub struct StopMatcher {
    /// With their place in the caller's list; none is empty.
    stops: Vec<(usize, Stop)>,
    include_stop: bool,
    /// Text that may be the start of a stop string.
    withheld: String,
    stopped: bool,
}

/// A stop string with its automaton.
#[derive(Clone, Debug)]
struct Stop {
    text: String,
    /// For each length of a prefix, the length of the longest proper prefix that is also its suffix.
    fallback: Vec<usize>,
    /// How many bytes of `text` the stream now ends with.
    matched: usize,
}

/// What came of a piece of text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopProgress {
    /// Text that is now safe to emit.
    pub text: String,
    /// Which stop string was found, as its place in the list given. Nothing comes after it.
    pub stopped: Option<usize>,
}

impl StopMatcher {
    /// Watches for `stops`. Empty strings never match.
    pub fn new(stops: Vec<String>) -> Self {
        let stops = stops.into_iter().enumerate().filter(|(_, stop)| !stop.is_empty());
        let stops = stops.map(|(index, text)| (index, Stop::new(text))).collect();
        Self { stops, include_stop: false, withheld: String::new(), stopped: false }
    }

    /// Whether the stop string itself is emitted too.
    #[must_use]
    pub fn include_stop(mut self, include: bool) -> Self {
        self.include_stop = include;
        self
    }

    /// Takes the next piece of the text. After a stop string was found, all further text is dropped.
    pub fn push(&mut self, piece: &str) -> StopProgress {
        if self.stopped {
            return StopProgress::default();
        }
        if self.stops.is_empty() {
            return StopProgress { text: piece.to_owned(), stopped: None };
        }
        let before = self.withheld.len();
        self.withheld.push_str(piece);
        for (offset, byte) in piece.bytes().enumerate() {
            let mut complete: Option<(usize, usize)> = None;
            for (index, stop) in &mut self.stops {
                let longer = complete.is_none_or(|(_, length)| stop.text.len() > length);
                if stop.advance(byte) && longer {
                    complete = Some((*index, stop.text.len()));
                }
            }
            if let Some((index, length)) = complete {
                let end = before + offset + 1;
                self.withheld.truncate(if self.include_stop { end } else { end - length });
                self.stopped = true;
                return StopProgress {
                    text: std::mem::take(&mut self.withheld),
                    stopped: Some(index),
                };
            }
        }
        // A stop string starts at a code point's first byte, so this never cuts one.
        let keep = self.stops.iter().map(|(_, stop)| stop.matched).max().unwrap_or(0);
        let rest = self.withheld.split_off(self.withheld.len() - keep);
        StopProgress { text: std::mem::replace(&mut self.withheld, rest), stopped: None }
    }

    /// The text is complete: what was withheld is no stop string after all.
    pub fn finish(&mut self) -> String {
        self.stopped = true;
        std::mem::take(&mut self.withheld)
    }
}

impl Stop {
    fn new(text: String) -> Self {
        let bytes = text.as_bytes();
        let mut fallback = vec![0; bytes.len() + 1];
        let mut matched = 0;
        for length in 1..bytes.len() {
            while matched > 0 && bytes[matched] != bytes[length] {
                matched = fallback[matched];
            }
            matched += usize::from(bytes[matched] == bytes[length]);
            fallback[length + 1] = matched;
        }
        Self { text, fallback, matched: 0 }
    }

    /// Takes the next byte of the stream; true if the stream now ends with the stop string.
    fn advance(&mut self, byte: u8) -> bool {
        let bytes = self.text.as_bytes();
        // After a complete match there is no next byte to compare.
        while self.matched > 0 && bytes.get(self.matched) != Some(&byte) {
            self.matched = self.fallback[self.matched];
        }
        self.matched += usize::from(bytes[self.matched] == byte);
        self.matched == bytes.len()
    }
}

#[cfg(test)]
mod tests;
