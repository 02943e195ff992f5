//! What a client makes of a key server that the tests are, and that does as it likes.

mod group;
mod machine;
mod server;
mod session;
