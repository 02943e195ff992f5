//! The control socket, asked directly: a poll that starts a process each time disturbs what it looks at.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

/// Longer than a daemon takes that shares two cores with fifty.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// A daemon's answer; `None` while it gives none.
pub fn call(socket: &Path, method: &str) -> Option<Value> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.set_write_timeout(Some(PATIENCE)).ok()?;
    let request = json!({"jsonrpc": "2.0", "method": method, "id": 1});
    stream.write_all(format!("{request}\n").as_bytes()).ok()?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).ok()?;
    let mut answer: Value = serde_json::from_str(&line).ok()?;
    answer.get_mut("result").map(Value::take)
}
