//! A connected client.

use muster_wire::Time;

use crate::isakmp::{Malformed, Range, Raw, kind, number, ranges};
use crate::phase1::SaId;
use crate::push::UnicastSender;

pub(super) struct Session {
    /// Its SA of phase 1.
    pub(super) sa: SaId,
    pub(super) sender: UnicastSender,
    /// When it is looked at, if it stands in the list of those.
    pub(super) timer: Option<Time>,
}

impl Session {
    pub(super) fn new(sa: SaId) -> Self {
        Session { sa, sender: UnicastSender::default(), timer: None }
    }
}

/// `ACK [, SACK…]` (draft 3.1): up to which number all has come, and what beyond.
pub(super) fn read_acknowledgement(payloads: &[Raw<'_>]) -> Result<(u32, Vec<Range>), Malformed> {
    match payloads.split_first() {
        Some((ack, rest)) if ack.kind == kind::ACK && rest.iter().all(|raw| raw.kind == kind::SACK) => {
            Ok((number(ack.body)?, ranges(rest, kind::SACK)?))
        }
        _ => Err(Malformed::Missing("ACK")),
    }
}
