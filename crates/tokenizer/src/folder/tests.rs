//! Tests of `folder`.
