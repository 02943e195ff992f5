#![doc = env!("CARGO_PKG_DESCRIPTION")]
fn main() {}
