//! One binary for all golden tests.

mod gpu;
mod real_model;
mod round_trips;
mod text;
mod tiny;
