//! The newest part of a journal, in memory.

use std::collections::VecDeque;

use crate::{
    encoding::{Output, framed},
    journal::opening,
    record::Record,
    setup::Setup,
};

/// Holds as many of the newest records as fit.
#[derive(Debug)]
pub struct Ring {
    opening: Vec<u8>,
    frames: VecDeque<Box<[u8]>>,
    bytes: usize,
    bytes_max: usize,
    is_whole: bool,
}

impl Ring {
    /// A ring of at most `bytes_max` bytes of records.
    pub fn new(setup: &Setup, bytes_max: usize) -> Self {
        let (opening, frames) = (opening(setup), VecDeque::new());
        Self { opening, frames, bytes: 0, bytes_max, is_whole: true }
    }

    pub(crate) fn push(&mut self, frame: &[u8]) {
        self.bytes += frame.len();
        self.frames.push_back(frame.into());
        while self.bytes > self.bytes_max {
            let oldest = self.frames.pop_front().expect("what has bytes has frames");
            self.bytes -= oldest.len();
            self.is_whole = false;
        }
    }

    /// What it holds, as a file would have it.
    pub fn snapshot(&self) -> Vec<u8> {
        let mut bytes = self.opening.clone();
        if !self.is_whole {
            let mut lost = Output::default();
            Record::BeginningLost.encode(&mut lost);
            bytes.extend(framed(&lost.0));
        }
        bytes.extend(self.frames.iter().flatten());
        bytes
    }
}
