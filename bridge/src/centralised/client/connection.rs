//! Since when the key server is there, and why it was not: for events and `status`.

use muster_fmke::member::Event;
use muster_fmke::phase1::Closed;
use muster_wire::Time;
use serde_json::{Value, json};

use crate::centralised::misfits::Misfits;

/// There is one.
const SERVER: &str = "key server";

/// The connection with the key server.
#[derive(Default)]
pub(super) struct Connection {
    /// Unix milliseconds.
    pub(super) since_ms: Option<u64>,
    last_failure: Option<Failure>,
    misfits: Misfits<()>,
}

struct Failure {
    reason: &'static str,
    detail: String,
    at_ms: u64,
}

impl Connection {
    /// Something has happened at this time. Whether the operator is to be told: what goes wrong again and again is told once in some
    /// minutes, as long as it is the same.
    pub(super) fn note(&mut self, at: Time, at_ms: u64, event: &Event) -> bool {
        let reason = match event {
            Event::Connected => {
                self.since_ms.get_or_insert(at_ms);
                self.misfits.forget(SERVER);
                return true;
            }
            Event::Disconnected { why } => {
                self.since_ms = None;
                if *why == Closed::Commanded {
                    return true;
                }
                "disconnected"
            }
            Event::Refused(failed) => failed.reason(),
            Event::Joined { .. } | Event::Rekeyed { .. } | Event::Left { .. } | Event::Lost { .. } => return true,
        };
        self.last_failure = Some(Failure { reason, detail: event.to_string(), at_ms });
        matches!(event, Event::Disconnected { .. }) || self.misfits.is_news(at, SERVER, reason, ())
    }

    /// Why there was no connection last, if there ever was none.
    pub(super) fn last_failure(&self) -> Value {
        self.last_failure.as_ref().map_or(
            Value::Null,
            |Failure { reason, detail, at_ms }| json!({ "reason": reason, "detail": detail, "at_ms": at_ms }),
        )
    }
}

#[cfg(test)]
mod tests {
    use muster_fmke::phase1::{Failed, Refused};

    use super::*;

    #[test]
    fn a_failure_stands_until_the_next_and_is_told_once() {
        let mut connection = Connection::default();
        assert!(connection.last_failure().is_null() && connection.since_ms.is_none());
        let mut note = |seconds: u64, event| {
            let is_told = connection.note(Time(seconds * 1_000_000), seconds * 1000, &event);
            (is_told, connection.since_ms, connection.last_failure())
        };
        let silent = || Event::Refused(Failed::Silent);
        let (is_told, _, failure) = note(62, silent());
        assert_eq!((is_told, &failure["reason"], &failure["at_ms"]), (true, &"silent".into(), &62_000.into()));
        assert!(!note(132, silent()).0);
        // Of somebody who can see what passes, or of the key server.
        let said = note(140, Event::Refused(Failed::Refused(Refused::Notified(24))));
        assert!(said.0 && said.2["detail"].as_str().unwrap().contains("anybody can have sent: AUTHENTICATION-FAILED"));
        let (_, since, failure) = note(150, Event::Connected);
        assert_eq!((since, &failure["reason"]), (Some(150_000), &"notification".into()), "what was last is no secret");
        assert_eq!(note(160, Event::Connected).1, Some(150_000), "a renewal is no new beginning");
        let (is_told, since, failure) = note(170, Event::Disconnected { why: Closed::Dead });
        assert_eq!((is_told, since, &failure["reason"]), (true, None, &"disconnected".into()));
        assert!(note(180, silent()).0, "it was there meanwhile");
        let (_, since, failure) = note(190, Event::Disconnected { why: Closed::Commanded });
        assert_eq!((since, &failure["reason"]), (None, &"silent".into()), "to leave is no failure");
    }
}
