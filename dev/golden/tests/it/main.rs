//! One binary for all golden tests.

mod real_model;
mod round_trips;
mod text;
mod tiny;
