//! What the kernel says of SAs, in dumps and announcements.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netlink_packet_xfrm::constants::{
    AF_INET, XFRM_MSG_GETPOLICY, XFRM_MSG_GETSA, XFRMA_IF_ID, XFRMA_REPLAY_ESN_VAL, XFRMA_REPLAY_VAL,
};
use netlink_packet_xfrm::{Address, UserPolicyInfo, UserSaId, UserSaInfo};

use super::request::{Progress, Request};
use super::socket::{BatchSocket, attributes};
use super::tables::Entry;
use crate::{Direction, Error, SaId, SaStatus};

/// `struct xfrm_usersa_info` and `struct xfrm_userpolicy_info`, with what comes before their attributes.
const SA_LEN: usize = 224;
const POLICY_LEN: usize = 168;

/// An SA that bears our number.
pub(super) struct Found<'a> {
    pub(super) id: SaId,
    info: UserSaInfo,
    attributes: &'a [u8],
}

impl<'a> Found<'a> {
    /// `None`: it is somebody else's.
    pub(super) fn parse(payload: &'a [u8], if_id: u32) -> Option<Self> {
        let attributes = payload.get(SA_LEN..)?;
        if !has_number(attributes, if_id) {
            return None;
        }
        let info = UserSaInfo::parse(payload).ok()?;
        Some(Found { id: id_in(&info), info, attributes })
    }

    /// How far it has come.
    pub(super) fn progress(&self, direction: Direction) -> Progress {
        match direction {
            Direction::In => {
                self.attribute(XFRMA_REPLAY_ESN_VAL).map_or(Progress::None, |w| Progress::Received(w.into()))
            }
            Direction::Out => Progress::Sent(self.sequence(direction)),
        }
    }

    /// The number sent last, or the highest that came.
    pub(super) fn sequence(&self, direction: Direction) -> u32 {
        let word = |kind, at: usize| Some(u32::from_ne_bytes(*self.attribute(kind)?.get(at..)?.first_chunk()?));
        // struct xfrm_replay_state_esn: bmp_len, oseq, seq …; struct xfrm_replay_state: oseq, seq, bitmap.
        let found = match direction {
            Direction::In => word(XFRMA_REPLAY_ESN_VAL, 8),
            Direction::Out => word(XFRMA_REPLAY_VAL, 0).or(word(XFRMA_REPLAY_ESN_VAL, 4)),
        };
        found.unwrap_or(0)
    }

    pub(super) fn status(&self, entry: &Entry) -> SaStatus {
        let direction = entry.place.direction;
        SaStatus {
            direction,
            kind: entry.kind,
            source: entry.source,
            destination: self.id.destination,
            spi: self.id.spi,
            epoch: entry.epoch,
            sender: entry.sender,
            receiver: entry.receiver,
            packets: self.info.lifetime_cur.packets,
            bytes: self.info.lifetime_cur.bytes,
            replay_drops: self.info.stats.replay.into(),
            auth_failures: self.info.stats.integrity_failed.into(),
            sequence: self.sequence(direction).into(),
        }
    }

    fn attribute(&self, wanted: u16) -> Option<&'a [u8]> {
        attributes(self.attributes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
    }
}

/// Hands each SA that bears our number to `each`.
pub(super) fn each_sa(socket: &mut BatchSocket, if_id: u32, mut each: impl FnMut(Found<'_>)) -> Result<(), Error> {
    socket.dump(&Request::dump(XFRM_MSG_GETSA), |_, payload| {
        if let Some(found) = Found::parse(payload, if_id) {
            each(found);
        }
    })
}

/// Those of `sas` that stand.
pub(super) fn statuses(
    socket: &mut BatchSocket,
    if_id: u32,
    sas: &BTreeMap<SaId, Entry>,
) -> Result<Vec<SaStatus>, Error> {
    let mut all = Vec::new();
    each_sa(socket, if_id, |found| all.extend(sas.get(&found.id).map(|entry| found.status(entry))))?;
    Ok(all)
}

/// Removes all SAs and policies with this number.
pub(super) fn clear(socket: &mut BatchSocket, if_id: u32) -> Result<(), Error> {
    let mut requests = Vec::new();
    each_sa(socket, if_id, |found| requests.push(Request::delete_sa(found.id)))?;
    socket.dump(&Request::dump(XFRM_MSG_GETPOLICY), |_, payload| {
        let Some(attributes) = payload.get(POLICY_LEN..) else { return };
        if has_number(attributes, if_id)
            && let Ok(policy) = UserPolicyInfo::parse(payload)
        {
            requests.push(Request::delete_policy_at(policy.index, policy.direction, if_id));
        }
    })?;
    socket.demand(&requests, &[libc::ESRCH, libc::ENOENT])
}

/// Of an announcement that an SA is worn.
pub(super) fn id_of_worn(payload: &[u8]) -> Option<SaId> {
    UserSaInfo::parse(payload).ok().map(|info| id_in(&info))
}

/// Of an announcement that an SA is gone.
pub(super) fn id_of_gone(payload: &[u8]) -> Option<SaId> {
    let id = UserSaId::parse(payload).ok()?;
    Some(SaId { destination: address(&id.daddr, id.family), spi: id.spi })
}

fn id_in(info: &UserSaInfo) -> SaId {
    SaId { destination: address(&info.id.daddr, info.family), spi: info.id.spi }
}

fn address(address: &Address, family: u16) -> IpAddr {
    if family == AF_INET { address.to_ipv4().into() } else { address.to_ipv6().into() }
}

fn has_number(all: &[u8], if_id: u32) -> bool {
    attributes(all).any(|(kind, value)| kind == XFRMA_IF_ID && value == if_id.to_ne_bytes())
}
