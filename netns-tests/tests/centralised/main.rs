//! Centralised mode: a key server, its clients, and what they carry.

mod bypass;
mod carrying;
mod certificates;
mod members;
mod one_way;
mod operators;
mod refusals;
mod restarts;
mod scenes;
mod secrets;
