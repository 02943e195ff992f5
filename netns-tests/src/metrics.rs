//! A daemon's metrics, asked for as Prometheus does.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use muster_netlab::Namespace;

use crate::control::PATIENCE;

/// Where daemons with metrics are asked, each in its own router's network.
pub const METRICS: &str = "127.0.0.1:9860";

/// What is answered there; `None`: nobody listens, or what listens does not answer.
pub fn scrape(router: &Namespace) -> Option<String> {
    let address: SocketAddr = METRICS.parse().expect("an address");
    let ask = || {
        let mut stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.set_write_timeout(Some(PATIENCE)).ok()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: muster\r\n\r\n").ok()?;
        let mut page = String::new();
        stream.read_to_string(&mut page).ok()?;
        Some(page)
    };
    router.run(ask).expect("a namespace")
}

/// The value on the line of a page that begins with `name`, labels included; `None`: there is no such line.
pub fn metric(page: &str, name: &str) -> Option<f64> {
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is {value:?}")))
}
