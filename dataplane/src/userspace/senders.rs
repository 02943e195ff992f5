//! The SAs that red is sent on: the mesh's, and those of flows.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use muster_wire::MemberId;

use crate::inner::{Inner, NextLayer};
use crate::selector::Selector;
use crate::userspace::association::Outbound;
use crate::{FlowId, Sa, SaKind, SaStatus};

/// Replaced as a whole when one changes.
#[derive(Clone, Default)]
pub(super) struct Senders {
    pub(super) group: Option<Sender>,
    pub(super) unicast: HashMap<MemberId, Sender>,
    /// By number. Looked through from the first on: there are dozens, not thousands.
    flows: Vec<Flow>,
}

/// An outbound SA and where its packets go: a router's address may change, its SA does not.
#[derive(Clone)]
pub(super) struct Sender {
    pub(super) sa: Arc<Outbound>,
    pub(super) destination: IpAddr,
}

/// Packets that have an SA of their own, or none: then they are dropped.
#[derive(Clone)]
pub(super) struct Flow {
    id: FlowId,
    selector: Selector,
    pub(super) sender: Option<Sender>,
}

impl Sender {
    pub(super) fn new(sa: Sa, start: u32) -> Self {
        Sender { destination: sa.destination, sa: Arc::new(Outbound::new(sa, start)) }
    }

    fn status(&self) -> SaStatus {
        self.sa.status(self.destination)
    }
}

impl Senders {
    /// In the place of the flow with this number, if there is one.
    pub(super) fn set_flow(&mut self, id: FlowId, selector: Selector, sender: Option<Sender>) {
        let flow = Flow { id, selector, sender };
        match self.place_of(id) {
            Ok(at) => self.flows[at] = flow,
            Err(at) => self.flows.insert(at, flow),
        }
    }

    pub(super) fn clear_flow(&mut self, id: FlowId) {
        if let Ok(at) = self.place_of(id) {
            self.flows.remove(at);
        }
    }

    fn place_of(&self, id: FlowId) -> Result<usize, usize> {
        self.flows.binary_search_by_key(&id, |flow| flow.id)
    }

    /// The first flow that is for this packet. What is for more than multicast is for unicast alone (`Sa::check`).
    pub(super) fn flow_of(&self, packet: &[u8], inner: &Inner) -> Option<&Flow> {
        // In the mesh there are none, and nothing more is looked at.
        self.flows.first()?;
        let is_multicast = inner.destination.is_multicast();
        let next = NextLayer::of(packet.get(..inner.len)?);
        self.flows
            .iter()
            .find(|flow| flow.selector.is_multicast() == is_multicast && flow.selector.matches(inner, &next))
    }

    /// Whether a flow takes this packet that would not take its fragments.
    pub(super) fn is_whole_only(&self, packet: &[u8], inner: &Inner) -> bool {
        self.flow_of(packet, inner).is_some_and(|flow| flow.selector.has_ports())
    }

    /// Where unicast flows go, and who sends on them.
    pub(super) fn flow_destinations(&self) -> BTreeMap<IpNet, MemberId> {
        let on_sas =
            self.flows.iter().filter_map(|flow| Some((flow.selector.destination, &flow.sender.as_ref()?.sa.record)));
        let unicast = on_sas.filter(|(_, sa)| sa.kind == SaKind::Unicast);
        unicast.map(|(destination, sa)| (destination.trunc(), sa.sender)).collect()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Sender> {
        let flows = self.flows.iter().filter_map(|flow| flow.sender.as_ref());
        self.group.iter().chain(flows).chain(self.unicast.values())
    }

    /// The group's, flows by number, then by destination and SPI.
    pub(super) fn statuses(&self) -> Vec<SaStatus> {
        let to = |(member, sender): (&MemberId, &Sender)| SaStatus { receiver: Some(*member), ..sender.status() };
        let mut unicast: Vec<SaStatus> = self.unicast.iter().map(to).collect();
        unicast.sort_by_key(|sa| (sa.destination, sa.spi));
        let flows = self.flows.iter().filter_map(|flow| {
            let sender = flow.sender.as_ref()?;
            Some(SaStatus { flow: Some(flow.id), ..sender.status() })
        });
        self.group.iter().map(Sender::status).chain(flows).chain(unicast).collect()
    }
}
