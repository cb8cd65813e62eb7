//! The database as a program.
fn main() {}
