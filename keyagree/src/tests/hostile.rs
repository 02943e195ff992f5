//! Messages that lie.
