//! What the kernel's XFRM is asked: security associations and policies, as netlink messages.
//!
//! The fixed structures are the library's; attributes are written here, for one of them holds a key, and what has held
//! one is erased.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{Emitable, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST};
use netlink_packet_xfrm::constants::*;
use netlink_packet_xfrm::{
    Address, Id, LifetimeConfig, Selector, UserPolicyId, UserPolicyInfo, UserSaId, UserSaInfo, UserTemplate,
};
use zeroize::Zeroizing;

use crate::esp::replay::WINDOW;
use crate::{ALGORITHM, Direction, REKEY_AT, Sa, SaId, SaKey};

/// XFRMA_SA_DIR, which kernels from 6.10 on want and older ones pass over.
const SA_DIR: u16 = 33;
const SA_DIR_IN: u8 = 1;
const SA_DIR_OUT: u8 = 2;

/// Room for the largest request, an SA with its window: a buffer that grows leaves a key behind.
const ROOM: usize = 768;

/// The last sequence number of an SA: they are 32 bits wide and must not cycle (RFC 4303 3.3.3).
const LAST_SEQUENCE: u64 = u32::MAX as u64;

/// A message without its header.
pub(super) struct Request {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) body: Zeroizing<Vec<u8>>,
    /// For an error: what was tried.
    pub(super) what: String,
}

/// What an SA needs besides itself.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) direction: Direction,
    /// Outer source; of an inbound SA it is not looked at.
    pub(super) source: IpAddr,
    pub(super) reqid: u32,
    /// On the interface with this number; it also marks what an outbound SA has encrypted.
    pub(super) if_id: u32,
    /// The outer header shows the inner DSCP.
    pub(super) copy_dscp: bool,
}

/// A policy: what red traffic is protected by which SAs (RFC 4301 4.4.1). Ordered, so that sets of them can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PolicyKey {
    pub(super) way: Way,
    pub(super) source: IpNet,
    pub(super) destination: IpNet,
}

/// Which packets a policy is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    /// From red, and the router's own.
    Out,
    /// For the router itself.
    In,
    /// Through the router.
    Forward,
}

/// By which SAs: the tunnel's ends and the number that SA and policy share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Template {
    /// `None` for inbound policies: any.
    pub(super) ends: Option<(IpAddr, IpAddr)>,
    pub(super) ipv4: bool,
    pub(super) reqid: u32,
}

impl Request {
    fn new(kind: u16, flags: u16, fixed: &impl Emitable, what: String) -> Self {
        let mut body = Zeroizing::new(Vec::with_capacity(ROOM));
        body.resize(fixed.buffer_len(), 0);
        fixed.emit(&mut body);
        Request { kind, flags: NLM_F_REQUEST | flags, body, what }
    }

    /// Appends an attribute made of `parts`.
    fn with(mut self, kind: u16, parts: &[&[u8]]) -> Self {
        let len = 4 + parts.iter().map(|part| part.len()).sum::<usize>();
        assert!(self.body.len() + len + 3 <= ROOM, "no request is so large");
        // An attribute's length is 16 bits wide, and below ROOM.
        self.body.extend_from_slice(&(len as u16).to_ne_bytes());
        self.body.extend_from_slice(&kind.to_ne_bytes());
        parts.iter().for_each(|part| self.body.extend_from_slice(part));
        let padded = self.body.len().next_multiple_of(4);
        self.body.resize(padded, 0);
        self
    }

    /// Adds an SA.
    pub(super) fn add_sa(sa: &Sa, place: Place) -> Self {
        let Place { direction, source, reqid, if_id, copy_dscp } = place;
        let id = sa.id();
        let outbound = direction == Direction::Out;
        let lifetime = LifetimeConfig {
            soft_packet_limit: if outbound { REKEY_AT } else { XFRM_INF },
            hard_packet_limit: if outbound { LAST_SEQUENCE } else { XFRM_INF },
            ..unlimited()
        };
        let fixed = UserSaInfo {
            id: Id { daddr: Address::from_ip(&id.destination), spi: id.spi, proto: IPPROTO_ESP },
            saddr: Address::from_ip(&source),
            lifetime_cfg: lifetime,
            reqid,
            family: family(&id.destination),
            mode: XFRM_MODE_TUNNEL,
            // Either family inside, whatever is outside.
            flags: XFRM_STATE_AF_UNSPEC,
            ..UserSaInfo::default()
        };
        let what = format!("adding the {} SA to {} with SPI {:#010x}", direction.as_str(), id.destination, id.spi);
        let mut request = Self::new(XFRM_MSG_NEWSA, NLM_F_CREATE | NLM_F_EXCL, &fixed, what)
            .with(XFRMA_ALG_AEAD, &[&aead_header(), sa.key.bytes()])
            .with(XFRMA_IF_ID, &[&if_id.to_ne_bytes()])
            .with(SA_DIR, &[&[if outbound { SA_DIR_OUT } else { SA_DIR_IN }]]);
        if !outbound {
            request = request.with(XFRMA_REPLAY_ESN_VAL, &[&replay_window()]);
        }
        if outbound {
            let mark = [&if_id.to_ne_bytes()[..]];
            request = request.with(XFRMA_SET_MARK, &mark).with(XFRMA_SET_MARK_MASK, &[&u32::MAX.to_ne_bytes()]);
        }
        if outbound && !copy_dscp {
            request = request.with(XFRMA_SA_EXTRA_FLAGS, &[&XFRM_SA_XFLAG_DONT_ENCAP_DSCP.to_ne_bytes()]);
        }
        request
    }

    /// Adds an SA of a dump again, with its key, its window and its sequence number, between other addresses.
    pub(super) fn add_again(dumped: &[u8], destination: IpAddr, source: Option<IpAddr>) -> Self {
        // In struct xfrm_usersa_info: the selector, then the id, whose first is the destination; then the source.
        const DESTINATION: usize = 56;
        const SOURCE: usize = DESTINATION + 24;
        let mut body = Zeroizing::new(dumped.to_vec());
        let mut put = |at: usize, address: IpAddr| {
            let mut bytes = [0; 16];
            match address {
                IpAddr::V4(address) => bytes[..4].copy_from_slice(&address.octets()),
                IpAddr::V6(address) => bytes.copy_from_slice(&address.octets()),
            }
            if let Some(place) = body.get_mut(at..at + 16) {
                place.copy_from_slice(&bytes);
            }
        };
        put(DESTINATION, destination);
        source.into_iter().for_each(|source| put(SOURCE, source));
        let flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL;
        Request { kind: XFRM_MSG_NEWSA, flags, body, what: format!("moving an SA to {destination}") }
    }

    /// Removes an SA.
    pub(super) fn delete_sa(id: SaId) -> Self {
        let fixed = UserSaId {
            daddr: Address::from_ip(&id.destination),
            spi: id.spi,
            family: family(&id.destination),
            proto: IPPROTO_ESP,
        };
        Self::new(XFRM_MSG_DELSA, 0, &fixed, format!("removing the SA to {} with SPI {:#010x}", id.destination, id.spi))
    }

    /// Adds a policy, or gives one that stands another template.
    pub(super) fn set_policy(key: &PolicyKey, template: &Template, if_id: u32) -> Self {
        let fixed = UserPolicyInfo {
            selector: key.selector(),
            lifetime_cfg: unlimited(),
            priority: key.priority(),
            direction: key.way.direction(),
            action: XFRM_POLICY_ALLOW,
            ..UserPolicyInfo::default()
        };
        let what = format!("setting the policy {} → {}", key.source, key.destination);
        Self::new(XFRM_MSG_UPDPOLICY, NLM_F_CREATE | NLM_F_REPLACE, &fixed, what)
            .with(XFRMA_TMPL, &[&template.bytes()])
            .with(XFRMA_IF_ID, &[&if_id.to_ne_bytes()])
    }

    /// Removes a policy.
    pub(super) fn delete_policy(key: &PolicyKey, if_id: u32) -> Self {
        let fixed =
            UserPolicyId { selector: key.selector(), direction: key.way.direction(), ..UserPolicyId::default() };
        let what = format!("removing the policy {} → {}", key.source, key.destination);
        Self::new(XFRM_MSG_DELPOLICY, 0, &fixed, what).with(XFRMA_IF_ID, &[&if_id.to_ne_bytes()])
    }

    /// Removes the policy that the kernel knows by this number.
    pub(super) fn delete_policy_at(index: u32, direction: u8, if_id: u32) -> Self {
        let fixed = UserPolicyId { index, direction, ..UserPolicyId::default() };
        Self::new(XFRM_MSG_DELPOLICY, 0, &fixed, format!("removing policy {index}"))
            .with(XFRMA_IF_ID, &[&if_id.to_ne_bytes()])
    }

    /// Asks for all SAs, or all policies.
    pub(super) fn dump(kind: u16) -> Self {
        // An empty body: all of them.
        Request { kind, flags: NLM_F_REQUEST, body: Zeroizing::new(Vec::new()), what: "reading XFRM's tables".into() }
    }
}

impl Way {
    pub(super) fn direction(self) -> u8 {
        match self {
            Way::Out => XFRM_POLICY_OUT,
            Way::In => XFRM_POLICY_IN,
            Way::Forward => XFRM_POLICY_FWD,
        }
    }
}

impl PolicyKey {
    /// The lower goes first: the longer destination, then the longer source, as routes are looked up.
    fn priority(&self) -> u32 {
        let shortness = |net: IpNet| u32::from(net.max_prefix_len() - net.prefix_len());
        1 + (shortness(self.destination) << 8 | shortness(self.source))
    }

    fn selector(&self) -> Selector {
        Selector {
            saddr: Address::from_ip(&self.source.addr()),
            prefixlen_s: self.source.prefix_len(),
            daddr: Address::from_ip(&self.destination.addr()),
            prefixlen_d: self.destination.prefix_len(),
            family: family(&self.source.addr()),
            ..Selector::default()
        }
    }
}

impl Template {
    fn bytes(&self) -> Vec<u8> {
        let any = Address::default();
        let (source, destination) =
            self.ends.map_or((any, any), |(source, to)| (Address::from_ip(&source), Address::from_ip(&to)));
        let template = UserTemplate {
            id: Id { daddr: destination, spi: 0, proto: IPPROTO_ESP },
            family: if self.ipv4 { AF_INET } else { AF_INET6 },
            saddr: source,
            reqid: self.reqid,
            mode: XFRM_MODE_TUNNEL,
            share: XFRM_SHARE_ANY,
            optional: 0,
            // Any algorithm: which it is the SA says.
            aalgos: u32::MAX,
            ealgos: u32::MAX,
            calgos: u32::MAX,
        };
        let mut bytes = vec![0; template.buffer_len()];
        template.emit(&mut bytes);
        bytes
    }
}

pub(super) fn family(address: &IpAddr) -> u16 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

fn unlimited() -> LifetimeConfig {
    LifetimeConfig {
        soft_byte_limit: XFRM_INF,
        hard_byte_limit: XFRM_INF,
        soft_packet_limit: XFRM_INF,
        hard_packet_limit: XFRM_INF,
        soft_add_expires_seconds: 0,
        hard_add_expires_seconds: 0,
        soft_use_expires_seconds: 0,
        hard_use_expires_seconds: 0,
    }
}

/// `struct xfrm_algo_aead` before its key: the name, the lengths of key and ICV in bits.
fn aead_header() -> [u8; 72] {
    let mut header = [0; 72];
    header[..ALGORITHM.len()].copy_from_slice(ALGORITHM.as_bytes());
    header[64..68].copy_from_slice(&(8 * SaKey::LEN as u32).to_ne_bytes());
    header[68..].copy_from_slice(&128_u32.to_ne_bytes());
    header
}

/// `struct xfrm_replay_state_esn` with a window as large as that in user space, and no extended numbers.
fn replay_window() -> Vec<u8> {
    let words = WINDOW / 32;
    // bmp_len, oseq, seq, oseq_hi, seq_hi, replay_window, bmp
    let fixed = [words, 0, 0, 0, 0, WINDOW];
    fixed.into_iter().chain(std::iter::repeat_n(0, words as usize)).flat_map(u32::to_ne_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SaKind;
    use crate::xfrm::socket::attributes;
    use muster_wire::MemberId;

    fn sa() -> Sa {
        Sa {
            spi: 0x1234,
            kind: SaKind::Group,
            source: None,
            destination: "ff05::1".parse().unwrap(),
            epoch: 1,
            sender: MemberId([1; 32]),
            key: SaKey::new(&std::array::from_fn(|n| n as u8)),
        }
    }

    #[test]
    fn an_sa_fits_and_its_attributes_are_the_kernels() {
        for direction in [Direction::In, Direction::Out] {
            let source = "fd00::a".parse().unwrap();
            let place = Place { direction, source, reqid: 7, if_id: 9, copy_dscp: false };
            let request = Request::add_sa(&sa(), place);
            assert_eq!(request.body.capacity(), ROOM, "it has not grown");
            let found: Vec<(u16, &[u8])> = attributes(&request.body[224..]).collect();
            let value = |wanted: u16| found.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| *value);
            let aead = value(XFRMA_ALG_AEAD).unwrap();
            assert!(aead.starts_with(b"rfc4106(gcm(aes))\0"));
            assert_eq!(aead[64..72], [&288_u32.to_ne_bytes()[..], &128_u32.to_ne_bytes()].concat());
            assert_eq!(aead[72..], sa().key.bytes()[..]);
            assert_eq!(value(XFRMA_IF_ID), Some(&9_u32.to_ne_bytes()[..]));
            // The window inbound alone; the mark outbound alone.
            let inbound = direction == Direction::In;
            assert_eq!(value(XFRMA_REPLAY_ESN_VAL).map(<[u8]>::len), inbound.then_some(24 + 2048 / 8));
            assert_eq!(value(XFRMA_SET_MARK).is_some(), !inbound);
            assert_eq!(value(SA_DIR), Some(&[if inbound { SA_DIR_IN } else { SA_DIR_OUT }][..]));
        }
    }

    #[test]
    fn an_sa_that_moves_keeps_all_but_its_addresses() {
        let place = Place {
            direction: Direction::Out,
            source: "fd00::a".parse().unwrap(),
            reqid: 7,
            if_id: 9,
            copy_dscp: true,
        };
        let before = Request::add_sa(&sa(), place);
        let (destination, source) = ("fd00::b".parse().unwrap(), "fd00::c".parse().unwrap());
        let after = Request::add_again(&before.body, destination, Some(source));
        let info = UserSaInfo::parse(&after.body).unwrap();
        assert_eq!((info.id.daddr, info.saddr), (Address::from_ip(&destination), Address::from_ip(&source)));
        let changed: Vec<usize> = (0..after.body.len()).filter(|at| before.body[*at] != after.body[*at]).collect();
        assert!(changed.iter().all(|at| (56..72).contains(at) || (80..96).contains(at)), "{changed:?}");
    }
}
