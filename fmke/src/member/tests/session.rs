//! What is acknowledged, and when.

use std::time::Duration;

use muster_wire::Time;

use crate::isakmp::{Cookie, kind};
use crate::member::session::Session;
use crate::phase1::SaId;
use crate::push::{Push, PushError};

const DELAY: Duration = Duration::from_millis(50);

#[test]
fn what_comes_is_acknowledged_soon_and_at_once_when_something_is_amiss() {
    let mut session = Session::new(SaId { responder: Cookie([1; 8]), initiator: Cookie([2; 8]) });
    assert!(session.due(Time(9)).is_none(), "nothing has come");
    // "the first packet sent in a phase 2 will have a Sequence Number of 1" (draft 7.5)
    let (pushes, is_new) = session.take(Time(0), 1, Push::default()).unwrap();
    assert_eq!((pushes.len(), is_new, session.timeout()), (1, true, Some(Time(0) + DELAY)));
    assert!(session.due(Time(0)).is_none());
    let ack = session.due(Time(0) + DELAY).unwrap();
    assert_eq!((ack.first(), ack.bytes()), (kind::ACK, &[0, 0, 0, 8, 0, 0, 0, 1][..]));
    assert_eq!(session.timeout(), None);
    // 2 is lost: "it allows to mention the sequence numbers of following messages already received" (draft 3.2)
    let (pushes, is_new) = session.take(Time(100_000), 3, Push::default()).unwrap();
    assert!(pushes.is_empty() && is_new);
    let ack = session.due(Time(100_000)).unwrap();
    assert_eq!(ack.bytes(), [kind::SACK, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 12, 0, 0, 0, 3, 0, 0, 0, 3]);
    // Again: our acknowledgement was lost.
    let (pushes, is_new) = session.take(Time(200_000), 1, Push::default()).unwrap();
    assert!(pushes.is_empty() && !is_new && session.due(Time(200_000)).is_some());
    assert_eq!(session.take(Time(300_000), 200, Push::default()).err(), Some(PushError::Number(200)));
    assert_eq!(session.timeout(), None, "what is not kept is not acknowledged");
}
