//! Tests of `stop`.
