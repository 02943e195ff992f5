//! Informational exchanges under an SA of phase 1: `HDR*, HASH(1), N/D` (RFC 2409 5.7).

use super::main_mode::PROTO_ISAKMP as ISAKMP;
use super::{IsakmpSa, Message, Refused};
use crate::isakmp::{Chain, Delete, Notify, exchange, kind, notification};

/// What a peer says beside the matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// Are you there?
    Question(u32),
    /// I am.
    Answer(u32),
    /// This SA is no more.
    Deleted,
    /// What was before this SA is void.
    InitialContact,
}

/// A datagram that says this.
pub(super) fn write(sa: &IsakmpSa, message_id: u32, notice: Notice) -> Vec<u8> {
    let spi = sa.id().octets();
    let mut chain = Chain::new();
    let mut notify = |kind: u16, data: &[u8]| {
        let body = Notify { doi: sa.doi, protocol: ISAKMP, spi: &spi, kind, data }.to_body();
        chain.add(kind::NOTIFY, &body);
    };
    match notice {
        Notice::Question(number) => notify(notification::R_U_THERE, &number.to_be_bytes()),
        Notice::Answer(number) => notify(notification::R_U_THERE_ACK, &number.to_be_bytes()),
        Notice::InitialContact => notify(notification::INITIAL_CONTACT, &[]),
        Notice::Deleted => {
            let delete = Delete { doi: sa.doi, protocol: ISAKMP, spis: vec![spi.to_vec()] };
            chain.add(kind::DELETE, &delete.to_body());
        }
    }
    //= RFC 2409 5.7: "HASH(1) = prf(SKEYID_a, M-ID | N/D)"
    sa.add_hash(&message_id.to_be_bytes(), &mut chain);
    sa.seal(exchange::INFORMATIONAL, message_id, &chain)
}

/// What a message of an informational exchange says of this SA; what else it says is passed over.
pub(super) fn read(sa: &IsakmpSa, message: &Message) -> Result<Vec<Notice>, Refused> {
    let payloads = message.payloads().map_err(|_| Refused::Authentication)?;
    let rest = sa.check_hash(&message.header.message_id.to_be_bytes(), &payloads)?;
    let mut notices = Vec::new();
    for payload in rest {
        match payload.kind {
            kind::NOTIFY => notices.extend(notice(sa, &Notify::parse(payload.body)?)),
            kind::DELETE => {
                let delete = Delete::parse(payload.body)?;
                let spi = sa.id().octets();
                if delete.doi == sa.doi
                    && delete.protocol == ISAKMP
                    && delete.spis.iter().any(|deleted| *deleted == spi)
                {
                    notices.push(Notice::Deleted);
                }
            }
            _ => {}
        }
    }
    Ok(notices)
}

fn notice(sa: &IsakmpSa, notify: &Notify<'_>) -> Option<Notice> {
    let number = || notify.data.try_into().ok().map(u32::from_be_bytes);
    // Another DOI has other numbers ("MUST correspond to the DOI which defines the FMKE exchanges", draft 2.0), and another protocol
    // other SAs.
    if notify.doi != sa.doi || notify.protocol != ISAKMP {
        return None;
    }
    //= RFC 3706 5.3: the SPI is "the ISAKMP SA's cookies"; some leave it out
    if !(notify.spi.is_empty() || notify.spi == sa.id().octets()) {
        return None;
    }
    match notify.kind {
        notification::R_U_THERE => number().map(Notice::Question),
        notification::R_U_THERE_ACK => number().map(Notice::Answer),
        notification::INITIAL_CONTACT => Some(Notice::InitialContact),
        _ => None,
    }
}
