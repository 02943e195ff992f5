//! Red multicast from one LAN to all others.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use muster_netlab::{BRIDGE, Flow, HOST_DEVICE, Marker, Receiver, Sender, Tally};

use crate::args::Sabotage;
use crate::output::{Failure, because};

use super::laboratory::{Laboratory, TUNNEL};
use super::phases::{SENDER, Story};
use super::router::Router;

/// Red groups of the traffic, and its port.
const RED_GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff1e, 0, 0, 0, 0, 0, 0, 0x1234);
const RED_GROUP_V4: Ipv4Addr = Ipv4Addr::new(239, 10, 18, 52);
const RED_PORT: u16 = 5001;
const DATAGRAMS: u64 = 200;
const DATAGRAMS_A_SECOND: u32 = 200;
const DATAGRAM_BYTES: usize = 512;
/// After the last datagram was sent.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(3);

impl Story<'_> {
    /// Red multicast from one LAN, counted on those behind all other routers in `present`.
    pub(super) fn send(&mut self, present: &[usize]) -> Result<(), Failure> {
        let to = self.red_group();
        let Laboratory { coalition, capture, patience, .. } = &*self.laboratory;
        let first = self.flows == 0;
        if first && self.sabotage == Some(Sabotage::NoSa) {
            coalition.routers()[1].namespace.set_up(TUNNEL, false)?;
        }
        let host = &coalition.routers()[SENDER].host;
        let (marker, opening) = (Marker::random()?, Marker::random()?);
        capture.add_marker(marker);
        capture.add_marker(opening);
        let flow = Flow { to, marker, count: DATAGRAMS, rate: DATAGRAMS_A_SECOND, size: DATAGRAM_BYTES };
        let mut receivers = Vec::new();
        for &index in present.iter().filter(|index| **index != SENDER) {
            let host = &coalition.routers()[index].host;
            receivers.push((index, Receiver::start(host, HOST_DEVICE, to, marker)?));
        }
        // Kernels set a multicast route up when they meet a flow, and hold back only four datagrams meanwhile. One goes
        // ahead, uncounted; should it not arrive, those that are counted will tell.
        Sender::start(host, HOST_DEVICE, Flow { marker: opening, count: 1, ..flow })?.finish();
        patience.wait(ARRIVAL_LIMIT, || {
            Ok(receivers.iter().all(|(_, receiver)| receiver.tally().foreign > 0).then_some(()))
        })?;
        let sender = Sender::start(host, HOST_DEVICE, flow)?;
        if first && self.sabotage == Some(Sabotage::ClearPacket) {
            coalition.black().send_udp(BRIDGE, to, &marker.0)?;
        }
        let limit = Duration::from_secs(DATAGRAMS / u64::from(DATAGRAMS_A_SECOND)) + ARRIVAL_LIMIT;
        patience.wait(limit, || {
            let all = receivers.iter().all(|(_, receiver)| receiver.unique() == DATAGRAMS);
            Ok((all && sender.sent() == DATAGRAMS).then_some(()))
        })?;
        let tallies = receivers.iter().map(|(index, receiver)| (*index, receiver.tally())).collect();
        self.judge(sender.sent(), sender.failed().1, tallies)
    }

    fn red_group(&self) -> SocketAddr {
        if self.ipv4 { (RED_GROUP_V4, RED_PORT).into() } else { (RED_GROUP_V6, RED_PORT).into() }
    }

    /// What arrived of a flow.
    fn judge(&mut self, sent: u64, refused: Option<String>, tallies: Vec<(usize, Tally)>) -> Result<(), Failure> {
        let flow = self.flows;
        self.flows += 1;
        for (index, tally) in &tallies {
            self.report.rows[*index].received[flow] = Some(tally.unique);
        }
        let multicast = &mut self.report.multicast;
        multicast.sent = sent;
        multicast.receivers = multicast.receivers.max(tallies.len());
        let worst = tallies.iter().min_by_key(|(_, tally)| tally.unique);
        if let Some((_, tally)) = worst {
            multicast.received_min = if flow == 0 { tally.unique } else { multicast.received_min.min(tally.unique) };
        }
        let routers = &mut self.laboratory.routers;
        let from = routers[SENDER].name();
        if sent < DATAGRAMS {
            let why = refused.unwrap_or_else(|| "too slow".into());
            return Err(because(format!("the host behind {from} sent {sent} of {DATAGRAMS} datagrams: {why}")));
        }
        match worst {
            Some((index, tally)) if tally.unique < sent => {
                let missing: Vec<String> = tally.missing(sent).iter().take(8).map(u64::to_string).collect();
                Err(because(format!(
                    "{} of {sent} red datagrams from {from} arrived behind {}; missing: {}{}; dropped: {:?} by {from}, \
                     {:?} by itself{}",
                    tally.unique,
                    routers[*index].name(),
                    missing.join(" "),
                    if sent - tally.unique > 8 { " …" } else { "" },
                    drops(&mut routers[SENDER])?,
                    drops(&mut routers[*index])?,
                    routers[*index].log_tail()
                )))
            }
            _ => self.timeline.note(format!(
                "{sent} red datagrams from the LAN of {from} to {}: all received on {} other LAN(s)",
                self.red_group().ip(),
                tallies.len()
            )),
        }
    }
}

/// What a router's data plane has dropped, by reason.
fn drops(router: &mut Router) -> Result<BTreeMap<String, u64>, Failure> {
    let mut dropped = router.status()?.map(|status| status.dataplane.dropped).unwrap_or_default();
    dropped.retain(|_, count| *count > 0);
    Ok(dropped)
}
