//! The scheduler against a model that checks each plan, with the invariants after each call.

mod accounts;
mod driver;
mod forecasts;
mod giving_way;
mod guesses;
mod host;
mod overlap;
mod prefixes;
mod properties;
mod rules;
mod states;
mod windows;
