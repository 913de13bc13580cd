//! Chores of the workspace: `cargo xtask ci`.
fn main() {}
