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
    // Nothing else: phase 2 is "initiated by the GCKS" (draft 3.0), and a push of ours that comes back is no acknowledgement.
    match payloads.split_first() {
        Some((ack, rest)) if ack.kind == kind::ACK && rest.iter().all(|raw| raw.kind == kind::SACK) => {
            Ok((number(ack.body)?, ranges(rest, kind::SACK)?))
        }
        _ => Err(Malformed::Missing("ACK")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isakmp::{Chain, payloads};

    #[test]
    fn a_member_acknowledges_and_says_nothing_else() {
        let read = |list: &[(u8, &[u8])]| {
            let mut chain = Chain::new();
            list.iter().for_each(|(kind, body)| _ = chain.add(*kind, body));
            let list = payloads(chain.first(), chain.bytes(), false).unwrap();
            read_acknowledgement(&list)
        };
        let ack: (u8, &[u8]) = (kind::ACK, &[0, 0, 0, 4]);
        let sack: (u8, &[u8]) = (kind::SACK, &[0, 0, 0, 6, 0, 0, 0, 7]);
        let nack: (u8, &[u8]) = (kind::NACK, sack.1);
        let sequence: (u8, &[u8]) = (kind::SEQ, ack.1);
        assert_eq!(read(&[ack]), Ok((4, Vec::new())));
        assert_eq!(read(&[ack, sack, sack]), Ok((4, vec![Range { first: 6, last: 7 }; 2])));
        for list in [&[][..], &[sack], &[sack, ack], &[ack, ack], &[ack, nack], &[sequence], &[sequence, ack]] {
            assert_eq!(read(list), Err(Malformed::Missing("ACK")), "{list:?}");
        }
        assert_eq!(read(&[(kind::ACK, &[0, 0, 4])]), Err(Malformed::Truncated));
    }
}
