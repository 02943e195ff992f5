//! Commands that talk to a running daemon.

use serde_json::{Value, json};

use crate::args::{ReadArgs, Socket};
use crate::output::{Failure, because, say};
use crate::show;

pub(crate) fn status(args: &ReadArgs) -> Result<(), Failure> {
    read(args, "status", show::status)
}

pub(crate) fn members(args: &ReadArgs) -> Result<(), Failure> {
    read(args, "members", show::members)
}

pub(crate) fn neighbors(args: &ReadArgs) -> Result<(), Failure> {
    read(args, "neighbors", show::neighbors)
}

pub(crate) fn routes(args: &ReadArgs) -> Result<(), Failure> {
    read(args, "routes", show::routes)
}

pub(crate) fn sas(args: &ReadArgs, show_keys: bool) -> Result<(), Failure> {
    let answer = call(&args.socket, "sas", json!({ "show_keys": show_keys }))?;
    print(args, &answer, |sas| show::sas(sas, show_keys))
}

pub(crate) fn events(args: &ReadArgs, follow: bool) -> Result<(), Failure> {
    let line = |event: &Value| if args.json { event.to_string() } else { show::event(event) };
    if !follow {
        let events = call(&args.socket, "events", json!({}))?;
        return events.as_array().into_iter().flatten().try_for_each(|event| say(line(event)));
    }
    let mut said = Ok(());
    muster_bridge::control::follow(&args.socket.control, |event| {
        said = say(line(&event));
        said.is_ok()
    })?;
    // It goes on until we end it, or the daemon ends.
    said.and(Err(because(format!("{}: the daemon has ended", args.socket.control.display()))))
}

/// A command to the daemon.
pub(crate) fn order(socket: &Socket, method: &str) -> Result<(), Failure> {
    call(socket, method, json!({})).map(drop)
}

fn read(args: &ReadArgs, method: &str, table: impl Fn(&Value) -> String) -> Result<(), Failure> {
    print(args, &call(&args.socket, method, json!({}))?, table)
}

fn print(args: &ReadArgs, answer: &Value, table: impl Fn(&Value) -> String) -> Result<(), Failure> {
    if args.json { say(answer) } else { say(table(answer)) }
}

/// One question to the daemon.
pub(crate) fn call(socket: &Socket, method: &str, params: Value) -> Result<Value, Failure> {
    Ok(muster_bridge::control::call(&socket.control, method, params)?)
}
