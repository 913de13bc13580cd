//! Tests of the reader and writer.
