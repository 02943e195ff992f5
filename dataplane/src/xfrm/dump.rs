//! What the kernel says of SAs, in dumps and announcements.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netlink_packet_xfrm::constants::{
    AF_INET, XFRM_MSG_GETPOLICY, XFRM_MSG_GETSA, XFRMA_IF_ID, XFRMA_REPLAY_ESN_VAL, XFRMA_REPLAY_VAL,
};
use netlink_packet_xfrm::{Address, UserPolicyInfo, UserSaId, UserSaInfo};

use super::request::Progress;
use super::spd::{Entry, User};
use crate::netlink::batch::{BatchSocket, Request, attributes};
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
            receiver: match entry.user {
                Some(User::Router(member)) => Some(member),
                _ => None,
            },
            flow: match entry.user {
                Some(User::Flow(flow)) => Some(flow),
                _ => None,
            },
            selector: entry.selector,
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
    socket.dump(&Request::dump(XFRM_MSG_GETSA), |payload| {
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
    socket.dump(&Request::dump(XFRM_MSG_GETPOLICY), |payload| {
        let Some(attributes) = payload.get(POLICY_LEN..) else { return };
        if has_number(attributes, if_id)
            && let Ok(policy) = UserPolicyInfo::parse(payload)
        {
            requests.push(Request::delete_policy_at(policy.index, policy.direction, if_id));
        }
    })?;
    socket.demand(requests, &[libc::ESRCH, libc::ENOENT])
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

/// Whose an SA is.
#[cfg(feature = "fuzzing")]
pub(super) fn number_of(payload: &[u8]) -> Option<u32> {
    let (_, value) = attributes(payload.get(SA_LEN..)?).find(|(kind, _)| *kind == XFRMA_IF_ID)?;
    Some(u32::from_ne_bytes(*value.first_chunk()?))
}

fn has_number(all: &[u8], if_id: u32) -> bool {
    attributes(all).any(|(kind, value)| kind == XFRMA_IF_ID && value == if_id.to_ne_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xfrm::request::Place;
    use crate::{SaKey, SaKind};
    use muster_wire::MemberId;

    const IF_ID: u32 = 9;

    fn place(direction: Direction) -> Place {
        Place { direction, source: "fd00::a".parse().unwrap(), reqid: 7, if_id: IF_ID, copy_dscp: false }
    }

    /// What an SA is asked for with is what a dump shows, but for the key.
    fn dumped(direction: Direction, progress: Progress) -> Vec<u8> {
        let id = SaId { destination: "ff05::1".parse().unwrap(), spi: 0x1234 };
        Request::add_sa(id, &SaKey::new(&[0; SaKey::LEN]), place(direction), progress).body.to_vec()
    }

    #[test]
    fn sas_of_ours_are_found_and_how_far_they_have_come() {
        let payload = dumped(Direction::Out, Progress::Sent(77));
        assert!(Found::parse(&payload, IF_ID + 1).is_none(), "somebody else's");
        let found = Found::parse(&payload, IF_ID).unwrap();
        assert_eq!(found.id, SaId { destination: "ff05::1".parse().unwrap(), spi: 0x1234 });
        assert!(matches!(found.progress(Direction::Out), Progress::Sent(77)));
        let key = SaKey::new(&[0; SaKey::LEN]);
        let (kind, sender) = (SaKind::Group, MemberId([1; 32]));
        let entry = Entry {
            place: place(Direction::Out),
            kind,
            epoch: 3,
            sender,
            user: None,
            selector: None,
            source: None,
            key,
        };
        assert_eq!((found.status(&entry).sequence, found.status(&entry).epoch), (77, 3));

        // The window, of which the third word is the highest number.
        let mut window = vec![0; 24 + crate::esp::replay::WINDOW as usize / 8];
        window[8..12].copy_from_slice(&99_u32.to_ne_bytes());
        let payload = dumped(Direction::In, Progress::Received(window.clone()));
        let found = Found::parse(&payload, IF_ID).unwrap();
        assert_eq!(found.sequence(Direction::In), 99);
        assert!(matches!(found.progress(Direction::In), Progress::Received(same) if same == window));
    }

    #[test]
    fn what_is_cut_off_is_nobodys() {
        let payload = dumped(Direction::Out, Progress::None);
        let whole = (0..payload.len()).filter(|len| Found::parse(&payload[..*len], IF_ID).is_some());
        // Without the last attributes it may still be ours.
        assert!(whole.min().unwrap() > SA_LEN);
    }
}
