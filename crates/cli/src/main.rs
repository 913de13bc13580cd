//! brigade
fn main() {}
