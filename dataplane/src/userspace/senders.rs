//! The SAs that red is sent on: the mesh's, and those of flows.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use muster_wire::MemberId;

use crate::policy::Inner;
use crate::selector::{NextLayer, Selector};
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

/// Packets that have an SA of their own.
#[derive(Clone)]
struct Flow {
    id: FlowId,
    selector: Selector,
    sender: Sender,
}

impl Sender {
    pub(super) fn new(sa: Sa) -> Self {
        Sender { destination: sa.destination, sa: Arc::new(Outbound::new(sa)) }
    }

    fn status(&self) -> SaStatus {
        self.sa.status(self.destination)
    }
}

impl Senders {
    /// In the place of the flow with this number, if there is one.
    pub(super) fn set_flow(&mut self, id: FlowId, selector: Selector, sa: Sa) {
        let flow = Flow { id, selector, sender: Sender::new(sa) };
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

    /// The first flow that is for this packet, on an SA that is for its destination.
    fn flow_of(&self, packet: &[u8], inner: &Inner) -> Option<&Flow> {
        // In the mesh there are none, and nothing more is looked at.
        self.flows.first()?;
        let kind = if inner.destination.is_multicast() { SaKind::Group } else { SaKind::Unicast };
        let next = NextLayer::of(packet.get(..inner.len)?);
        self.flows.iter().find(|flow| flow.sender.sa.record.kind == kind && flow.selector.matches(inner, &next))
    }

    /// On what flow's SA this packet goes.
    pub(super) fn by_flow(&self, packet: &[u8], inner: &Inner) -> Option<&Sender> {
        self.flow_of(packet, inner).map(|flow| &flow.sender)
    }

    /// Whether a flow takes this packet that would not take its fragments.
    pub(super) fn is_whole_only(&self, packet: &[u8], inner: &Inner) -> bool {
        self.flow_of(packet, inner).is_some_and(|flow| flow.selector.has_ports())
    }

    /// Where unicast flows go, and who sends on them.
    pub(super) fn flow_destinations(&self) -> BTreeMap<IpNet, MemberId> {
        let unicast = self.flows.iter().filter(|flow| flow.sender.sa.record.kind == SaKind::Unicast);
        unicast.map(|flow| (flow.selector.destination.trunc(), flow.sender.sa.record.sender)).collect()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Sender> {
        let flows = self.flows.iter().map(|flow| &flow.sender);
        self.group.iter().chain(flows).chain(self.unicast.values())
    }

    /// The group's, flows by number, then by destination and SPI.
    pub(super) fn statuses(&self) -> Vec<SaStatus> {
        let to = |(member, sender): (&MemberId, &Sender)| SaStatus { receiver: Some(*member), ..sender.status() };
        let mut unicast: Vec<SaStatus> = self.unicast.iter().map(to).collect();
        unicast.sort_by_key(|sa| (sa.destination, sa.spi));
        let flows = self.flows.iter().map(|flow| SaStatus { flow: Some(flow.id), ..flow.sender.status() });
        self.group.iter().map(Sender::status).chain(flows).chain(unicast).collect()
    }
}
