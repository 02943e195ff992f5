//! Both ends against each other, over a network of which the tests are the weather.

mod certificates;
mod establish;
mod flood;
mod forbidden;
mod lifetime;
mod network;
mod notices;
mod revocation;
mod suites;
mod tamper;
mod tshark;
