//! What the kernel's XFRM is asked: security associations and policies, as netlink messages.
//!
//! The fixed structures are the library's; attributes are written here, for one of them holds a key, and what has held
//! one is erased.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{Emitable, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST};
use netlink_packet_xfrm::constants::*;
use netlink_packet_xfrm::{
    Address, Id, LifetimeConfig, Selector as KernelSelector, UserPolicyId, UserPolicyInfo, UserSaId, UserSaInfo,
    UserTemplate,
};

use crate::esp::replay::WINDOW;
use crate::netlink::Erased;
use crate::netlink::batch::{Request, What};
use crate::sa::REKEY_AT;
use crate::{ALGORITHM, Direction, SaId, SaKey, Selector};

/// XFRMA_SA_DIR, which kernels from 6.10 on want and older ones pass over.
const SA_DIR: u16 = 33;
const SA_DIR_IN: u8 = 1;
const SA_DIR_OUT: u8 = 2;

/// Room for the largest request, an SA with its window: a buffer that grows leaves a key behind.
const ROOM: usize = 960;

/// `struct xfrm_replay_state_esn` and its bitmap.
const WINDOW_LEN: usize = 24 + WINDOW as usize / 8;

/// The last sequence number of an SA: they are 32 bits wide and must not cycle (RFC 4303 3.3.3).
const LAST_SEQUENCE: u64 = u32::MAX as u64;

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

/// How far an SA has come.
pub(super) enum Progress {
    None,
    /// The last sequence number that may have been used.
    Sent(u32),
    /// `struct xfrm_replay_state_esn`, as the kernel has told it.
    Received(Vec<u8>),
}

/// A policy: what red traffic is protected by which SAs (RFC 4301 4.4.1). Ordered, so that sets of them can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PolicyKey {
    pub(super) way: PolicyDirection,
    pub(super) selector: Selector,
}

/// Which packets a policy is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PolicyDirection {
    /// From red, and the router's own.
    Out,
    /// For the router itself.
    In,
    /// Through the router.
    Forward,
}

/// What becomes of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PolicyAction {
    /// `None`: they are dropped.
    pub(super) template: Option<Template>,
    /// Of a flow: how many come before it.
    pub(super) rank: Option<u16>,
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
    fn new(kind: u16, flags: u16, fixed: &impl Emitable, what: impl Into<What>) -> Self {
        let mut body = Erased::from(Vec::with_capacity(ROOM));
        body.resize(fixed.buffer_len(), 0);
        fixed.emit(&mut body);
        Request { kind, flags: NLM_F_REQUEST | flags, body, what: what.into() }
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

    /// Adds an SA, which is new or goes on where another object of the kernel stopped.
    pub(super) fn add_sa(id: SaId, key: &SaKey, place: Place, progress: Progress) -> Self {
        let Place { direction, source, reqid, if_id, copy_dscp } = place;
        let outbound = direction == Direction::Out;
        let left = |limit: u64| match &progress {
            Progress::Sent(sent) => limit.saturating_sub((*sent).into()).max(1),
            _ => limit,
        };
        let lifetime = LifetimeConfig {
            soft_packet_limit: if outbound { left(REKEY_AT) } else { XFRM_INF },
            hard_packet_limit: if outbound { left(LAST_SEQUENCE) } else { XFRM_INF },
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
        let mut request = Self::new(XFRM_MSG_NEWSA, NLM_F_CREATE | NLM_F_EXCL, &fixed, What::AddSa(direction, id))
            .with(XFRMA_ALG_AEAD, &[&aead_header(), key.bytes()])
            .with(XFRMA_IF_ID, &[&if_id.to_ne_bytes()])
            .with(SA_DIR, &[&[if outbound { SA_DIR_OUT } else { SA_DIR_IN }]]);
        request = match progress {
            Progress::None if outbound => request,
            Progress::None => request.with(XFRMA_REPLAY_ESN_VAL, &[&replay_window()]),
            // struct xfrm_replay_state: oseq, seq, bitmap.
            Progress::Sent(sent) => request.with(XFRMA_REPLAY_VAL, &[&sent.to_ne_bytes(), &[0; 8]]),
            Progress::Received(window) => request.with(XFRMA_REPLAY_ESN_VAL, &[&window]),
        };
        if outbound {
            let mark = [&if_id.to_ne_bytes()[..]];
            request = request.with(XFRMA_SET_MARK, &mark).with(XFRMA_SET_MARK_MASK, &[&u32::MAX.to_ne_bytes()]);
        }
        if outbound && !copy_dscp {
            request = request.with(XFRMA_SA_EXTRA_FLAGS, &[&XFRM_SA_XFLAG_DONT_ENCAP_DSCP.to_ne_bytes()]);
        }
        request
    }

    /// Removes an SA.
    pub(super) fn delete_sa(id: SaId) -> Self {
        let fixed = UserSaId {
            daddr: Address::from_ip(&id.destination),
            spi: id.spi,
            family: family(&id.destination),
            proto: IPPROTO_ESP,
        };
        Self::new(XFRM_MSG_DELSA, 0, &fixed, What::RemoveSa(id))
    }

    /// Adds a policy, or gives one that stands another action.
    pub(super) fn set_policy(key: &PolicyKey, PolicyAction { template, rank }: &PolicyAction, if_id: u32) -> Self {
        let fixed = UserPolicyInfo {
            selector: key.selector(),
            lifetime_cfg: unlimited(),
            priority: rank.map_or_else(|| key.priority(), |rank| 1 + u32::from(rank)),
            direction: key.way.direction(),
            action: if template.is_some() { XFRM_POLICY_ALLOW } else { XFRM_POLICY_BLOCK },
            ..UserPolicyInfo::default()
        };
        let what = format!("setting the policy {}", key.selector);
        let request = Self::new(XFRM_MSG_UPDPOLICY, NLM_F_CREATE | NLM_F_REPLACE, &fixed, what);
        let request = match template {
            Some(template) => request.with(XFRMA_TMPL, &[&template.bytes()]),
            None => request,
        };
        request.with(XFRMA_IF_ID, &[&if_id.to_ne_bytes()])
    }

    /// Removes a policy.
    pub(super) fn delete_policy(key: &PolicyKey, if_id: u32) -> Self {
        let fixed =
            UserPolicyId { selector: key.selector(), direction: key.way.direction(), ..UserPolicyId::default() };
        let what = format!("removing the policy {}", key.selector);
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
        Request { kind, flags: NLM_F_REQUEST, body: Vec::new().into(), what: "reading XFRM's tables".to_owned().into() }
    }
}

impl PolicyDirection {
    pub(super) fn direction(self) -> u8 {
        match self {
            PolicyDirection::Out => XFRM_POLICY_OUT,
            PolicyDirection::In => XFRM_POLICY_IN,
            PolicyDirection::Forward => XFRM_POLICY_FWD,
        }
    }
}

impl PolicyKey {
    /// The lower goes first: flows, then the longer destination, then the longer source, as routes are looked up.
    fn priority(&self) -> u32 {
        const FLOWS: u32 = 1 << 16;
        let shortness = |net: IpNet| u32::from(net.max_prefix_len() - net.prefix_len());
        1 + FLOWS + (shortness(self.selector.destination) << 8 | shortness(self.selector.source))
    }

    fn selector(&self) -> KernelSelector {
        let Selector { source, destination, protocol, source_port, destination_port } = self.selector;
        let mask = |port: Option<u16>| if port.is_some() { u16::MAX } else { 0 };
        KernelSelector {
            saddr: Address::from_ip(&source.addr()),
            prefixlen_s: source.prefix_len(),
            daddr: Address::from_ip(&destination.addr()),
            prefixlen_d: destination.prefix_len(),
            family: family(&source.addr()),
            // 0: any. IPv6's hop-by-hop header has that number, and is no next layer's.
            proto: protocol.unwrap_or(0),
            sport: source_port.unwrap_or(0),
            sport_mask: mask(source_port),
            dport: destination_port.unwrap_or(0),
            dport_mask: mask(destination_port),
            ..KernelSelector::default()
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
fn replay_window() -> [u8; WINDOW_LEN] {
    let mut window = [0; WINDOW_LEN];
    // bmp_len, oseq, seq, oseq_hi, seq_hi, replay_window, bmp
    window[..4].copy_from_slice(&(WINDOW / 32).to_ne_bytes());
    window[20..24].copy_from_slice(&WINDOW.to_ne_bytes());
    window
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::batch::attributes;

    const KEY: [u8; SaKey::LEN] = [7; SaKey::LEN];

    fn add(direction: Direction, progress: Progress) -> Request {
        let id = SaId { destination: "ff05::1".parse().unwrap(), spi: 0x1234 };
        let place = Place { direction, source: "fd00::a".parse().unwrap(), reqid: 7, if_id: 9, copy_dscp: false };
        Request::add_sa(id, &SaKey::new(&KEY), place, progress)
    }

    fn value(request: &Request, wanted: u16) -> Option<&[u8]> {
        attributes(&request.body[224..]).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
    }

    #[test]
    fn an_sa_fits_and_its_attributes_are_the_kernels() {
        for direction in [Direction::In, Direction::Out] {
            let request = add(direction, Progress::None);
            assert_eq!(request.body.capacity(), ROOM, "it has not grown");
            let value = |wanted: u16| value(&request, wanted);
            let aead = value(XFRMA_ALG_AEAD).unwrap();
            assert!(aead.starts_with(b"rfc4106(gcm(aes))\0"));
            assert_eq!(aead[64..72], [&288_u32.to_ne_bytes()[..], &128_u32.to_ne_bytes()].concat());
            assert_eq!(aead[72..], KEY);
            assert_eq!(value(XFRMA_IF_ID), Some(&9_u32.to_ne_bytes()[..]));
            // The window inbound alone; the mark outbound alone.
            let inbound = direction == Direction::In;
            assert_eq!(value(XFRMA_REPLAY_ESN_VAL).map(<[u8]>::len), inbound.then_some(WINDOW_LEN));
            assert_eq!(value(XFRMA_SET_MARK).is_some(), !inbound);
            assert_eq!(value(SA_DIR), Some(&[if inbound { SA_DIR_IN } else { SA_DIR_OUT }][..]));
        }
    }

    #[test]
    fn an_sa_that_moves_goes_on_where_it_was() {
        let request = add(Direction::Out, Progress::Sent(1000));
        assert_eq!(value(&request, XFRMA_REPLAY_VAL), Some(&[&1000_u32.to_ne_bytes()[..], &[0; 8]].concat()[..]));
        let limits = UserSaInfo::parse(&request.body).unwrap().lifetime_cfg;
        assert_eq!(limits.soft_packet_limit, REKEY_AT - 1000);
        assert_eq!(limits.hard_packet_limit, LAST_SEQUENCE - 1000);
        let worn = UserSaInfo::parse(&add(Direction::Out, Progress::Sent(u32::MAX)).body).unwrap().lifetime_cfg;
        assert_eq!((worn.soft_packet_limit, worn.hard_packet_limit), (1, 1));
        let window = vec![5; WINDOW_LEN];
        let request = add(Direction::In, Progress::Received(window.clone()));
        assert_eq!(value(&request, XFRMA_REPLAY_ESN_VAL), Some(&window[..]));
        assert_eq!(request.body.capacity(), ROOM, "it has not grown");
    }
}
