//! Tests of the template.
