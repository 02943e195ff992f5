//! The story: a group forms, carries traffic, loses a router, carries traffic, gets it back, carries traffic.
//!
//! The first thing that does not happen ends it.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use muster_netlab::{BRIDGE, Flow, HOST_DEVICE, Marker, Receiver, Sender};

use crate::args::Sabotage;
use crate::output::{Failure, because};

use super::laboratory::{Laboratory, TUNNEL, hello_ms};
use super::report::{Black, Report, Row};
use super::timeline::{Moment, Timeline};
use super::view::{Group, Status, activated, joined, missed};

/// The host on this router's LAN sends.
const SENDER: usize = 0;
/// Red group and port of the traffic.
const RED_GROUP: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::new(0xff1e, 0, 0, 0, 0, 0, 0, 0x1234)), 5001);
const DATAGRAMS: u64 = 200;
const DATAGRAMS_A_SECOND: u32 = 200;
const DATAGRAM_BYTES: usize = 512;
/// After the last datagram was sent.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(3);

pub(crate) struct Story<'a> {
    sabotage: Option<Sabotage>,
    laboratory: &'a mut Laboratory,
    timeline: &'a mut Timeline,
    report: &'a mut Report,
    /// How often traffic was sent.
    flows: usize,
}

impl<'a> Story<'a> {
    pub(crate) fn new(
        sabotage: Option<Sabotage>,
        laboratory: &'a mut Laboratory,
        timeline: &'a mut Timeline,
        report: &'a mut Report,
    ) -> Self {
        Story { sabotage, laboratory, timeline, report, flows: 0 }
    }

    pub(crate) fn tell(&mut self) -> Result<(), Failure> {
        let told = self.tell_on_red();
        let clean = self.look_at_black();
        told.and(clean)
    }

    fn tell_on_red(&mut self) -> Result<(), Failure> {
        let all: Vec<usize> = (0..self.laboratory.routers.len()).collect();
        // Not the sender's router.
        let (&victim, others) = all.split_last().ok_or_else(|| because("no routers"))?;
        self.start()?;
        self.form(&all)?;
        self.send(&all)?;
        self.lose(victim, others)?;
        self.send(others)?;
        self.bring_back(victim, &all)?;
        self.send(&all)
    }

    fn start(&mut self) -> Result<(), Failure> {
        let count = self.laboratory.routers.len();
        self.timeline.note(format!("{count} routers on one black network, a host on each red LAN"))?;
        for index in 0..count {
            self.laboratory.start(index)?;
        }
        self.report.rows = self
            .laboratory
            .routers
            .iter()
            .map(|router| Row {
                name: router.name(),
                nation: router.plan.nation.name.to_owned(),
                red: router.plan.red_v6().to_string(),
                ..Row::default()
            })
            .collect();
        self.timeline.note(format!("{count} daemons started"))
    }

    fn form(&mut self, all: &[usize]) -> Result<(), Failure> {
        let group = self.agree(all, |_| true)?;
        let mut joins = Vec::new();
        for (index, router) in self.laboratory.routers.iter_mut().enumerate() {
            if let Some(at) = joined(&router.events()?) {
                let ms = at.ms_since(router.started);
                self.report.join_ms[index] = Some(ms);
                joins.push((at, format!("{} is in a group, {ms} ms after its start", router.name())));
            }
        }
        joins.sort();
        for (at, what) in joins {
            self.timeline.note_at(at, what)?;
        }
        let formed = self.all_active(all, &group)?;
        let ms = formed.ms_since(self.laboratory.routers[0].started);
        self.report.formed_ms = Some(ms);
        let Group { epoch, key_fingerprint: key, .. } = &group;
        self.timeline.note_at(formed, format!("one group of {}: epoch {epoch}, key {key}, after {ms} ms", all.len()))
    }

    /// Red multicast from one LAN, counted on those behind all other routers in `present`.
    fn send(&mut self, present: &[usize]) -> Result<(), Failure> {
        let Laboratory { coalition, capture, patience, routers, .. } = &mut *self.laboratory;
        let first = self.flows == 0;
        if first && self.sabotage == Some(Sabotage::NoSa) {
            coalition.routers()[1].namespace.set_up(TUNNEL, false)?;
        }
        let marker = Marker::random()?;
        capture.add_marker(marker);
        let flow = Flow { to: RED_GROUP, marker, count: DATAGRAMS, rate: DATAGRAMS_A_SECOND, size: DATAGRAM_BYTES };
        let mut receivers = Vec::new();
        for &index in present.iter().filter(|index| **index != SENDER) {
            let host = &coalition.routers()[index].host;
            receivers.push((index, Receiver::start(host, HOST_DEVICE, RED_GROUP, marker)?));
        }
        let sender = Sender::start(&coalition.routers()[SENDER].host, HOST_DEVICE, flow)?;
        if first && self.sabotage == Some(Sabotage::ClearPacket) {
            coalition.black().send_udp(BRIDGE, RED_GROUP, &marker.0)?;
        }
        let limit = Duration::from_secs(DATAGRAMS / u64::from(DATAGRAMS_A_SECOND)) + ARRIVAL_LIMIT;
        patience.wait(limit, || {
            let all = receivers.iter().all(|(_, receiver)| receiver.unique() == DATAGRAMS);
            Ok((all && sender.sent() == DATAGRAMS).then_some(()))
        })?;
        let (sent, refused) = (sender.sent(), sender.failed().1);

        let flow = self.flows;
        self.flows += 1;
        for (index, receiver) in &receivers {
            self.report.rows[*index].received[flow] = Some(receiver.unique());
        }
        let least = receivers.iter().min_by_key(|(_, receiver)| receiver.unique());
        let least = least.map(|(index, receiver)| (*index, receiver.unique()));
        let multicast = &mut self.report.multicast;
        multicast.sent = sent;
        multicast.receivers = multicast.receivers.max(receivers.len());
        if let Some((_, received)) = least {
            multicast.received_min = if first { received } else { multicast.received_min.min(received) };
        }
        let from = routers[SENDER].name();
        if sent < DATAGRAMS {
            let why = refused.unwrap_or_else(|| "too slow".into());
            return Err(because(format!("the host behind {from} sent {sent} of {DATAGRAMS} datagrams: {why}")));
        }
        match least {
            Some((index, received)) if received < sent => {
                let router = &mut routers[index];
                let dropped = router.status()?.map(|status| status.dataplane.dropped).unwrap_or_default();
                Err(because(format!(
                    "{received} of {sent} red datagrams from {from} arrived behind {}; it dropped {dropped:?}{}",
                    router.name(),
                    router.log_tail()
                )))
            }
            _ => self.timeline.note(format!(
                "{sent} red datagrams from the LAN of {from} to {}: all received on {} other LAN(s)",
                RED_GROUP.ip(),
                receivers.len()
            )),
        }
    }

    /// Kills a router without a word; the others must notice, and have a key that it does not know.
    fn lose(&mut self, victim: usize, others: &[usize]) -> Result<(), Failure> {
        let router = &mut self.laboratory.routers[victim];
        let name = router.name();
        let id = router.status()?.ok_or_else(|| because(format!("{name} does not answer")))?.member_id;
        let killed = Moment::now()?;
        match self.sabotage {
            Some(Sabotage::NoExclusion) => self.laboratory.routers[SENDER].rekey()?,
            _ => {
                // As if its power went: it neither says goodbye nor does its kernel answer for it (ICMP).
                self.laboratory.coalition.cut(victim)?;
                self.laboratory.routers[victim].kill()?;
            }
        }
        self.timeline.note_at(killed, format!("{name} is killed without a word"))?;

        let known = self.laboratory.routers[victim].keys.clone();
        let group = self.agree(others, |group| !known.contains(&group.key_fingerprint))?;
        let mut detected: Option<(Moment, String)> = None;
        for &index in others {
            let router = &mut self.laboratory.routers[index];
            if router.members()?.iter().any(|member| member.member_id == id) {
                return Err(because(format!("{} still counts {name} among the members", router.name())));
            }
            let noticed = missed(&router.events()?, &id, killed).map(|at| (at, router.name()));
            detected = [detected, noticed].into_iter().flatten().min();
        }
        // If it still lives, against expectation, it says what it holds.
        let router = &mut self.laboratory.routers[victim];
        if router.status()?.is_some() || router.keys.contains(&group.key_fingerprint) {
            return Err(because(format!("{name} is not excluded: it holds keys {:?}", router.keys)));
        }
        self.report.leave.excluded = true;
        let (at, by) = detected.ok_or_else(|| because(format!("no router reported that {name} has left")))?;
        let ms = at.ms_since(killed);
        self.report.leave.detected_ms = Some(ms);
        self.timeline.note_at(at, format!("{by} notices first, after {ms} ms"))?;
        let rekeyed = self.all_active(others, &group)?;
        let ms = rekeyed.ms_since(killed);
        self.report.leave.rekeyed_ms = Some(ms);
        let Group { epoch, key_fingerprint: key, .. } = group;
        self.timeline.note_at(rekeyed, format!("{name} is excluded: epoch {epoch}, key {key}, after {ms} ms"))
    }

    fn bring_back(&mut self, victim: usize, all: &[usize]) -> Result<(), Failure> {
        self.laboratory.coalition.mend(victim)?;
        self.laboratory.start(victim)?;
        let router = &self.laboratory.routers[victim];
        let (name, started) = (router.name(), router.started);
        self.timeline.note_at(started, format!("{name} is started again"))?;
        let group = self.agree(all, |_| true)?;
        let restored = self.all_active(all, &group)?;
        let ms = restored.ms_since(started);
        self.report.restore_ms = Some(ms);
        let Group { epoch, key_fingerprint: key, .. } = group;
        self.timeline
            .note_at(restored, format!("one group of {} again: epoch {epoch}, key {key}, after {ms} ms", all.len()))
    }

    /// Whatever happened on red: what went over black?
    fn look_at_black(&mut self) -> Result<(), Failure> {
        let capture = &self.laboratory.capture;
        let settled = capture.settle(Duration::from_secs(2));
        let stats = capture.stats();
        self.report.black = Black { packets: stats.packets, esp: stats.esp, cleartext: stats.cleartext };
        if stats.cleartext > 0 {
            return Err(because(format!("clear text on the black side: {}", capture.examples().join("; "))));
        }
        if !settled || stats.lost > 0 {
            return Err(because(format!("the capture was too slow: nothing is known of {} frames", stats.lost)));
        }
        // Or the capture is blind, and its zero means nothing.
        if stats.esp < self.report.multicast.sent {
            return Err(because(format!("the capture saw {} ESP packets: fewer than were sent", stats.esp)));
        }
        let what = format!("{} packets seen on black: {} ESP, no clear text", stats.packets, stats.esp);
        self.timeline.note(what)
    }

    /// Waits until the routers in `present`, and no other, are one group whose key is wanted and in use.
    fn agree(&mut self, present: &[usize], wanted: impl Fn(&Group) -> bool) -> Result<Group, Failure> {
        let routers = &mut self.laboratory.routers;
        let count = present.len();
        // Discovery and exclusion take a few hellos; the rest is work on this machine's processors.
        let limit = Duration::from_secs(10) + Duration::from_millis(hello_ms(count) * 10 + 500 * count as u64);
        let mut seen: Vec<Option<Status>> = Vec::new();
        let agreed = self.laboratory.patience.wait(limit, || {
            seen = present.iter().map(|index| routers[*index].status()).collect::<Result<_, _>>()?;
            Ok(common(&seen, count).filter(|group| wanted(group)))
        })?;
        let Some(group) = agreed else {
            let states: Vec<String> = present
                .iter()
                .zip(&seen)
                .map(|(index, status)| format!("{}: {}", routers[*index].name(), describe(status.as_ref())))
                .collect();
            let odd = seen.iter().position(|status| status.as_ref().is_none_or(|status| status.group.members != count));
            let tail = routers[present[odd.unwrap_or_default()]].log_tail();
            return Err(because(format!(
                "no new group of {count} after {} s ({}){tail}",
                limit.as_secs(),
                states.join("; ")
            )));
        };
        self.report.epoch = Some(group.epoch);
        self.report.dataplane = seen.into_iter().flatten().next().map(|status| status.dataplane.backend);
        for index in present {
            self.report.rows[*index].key.clone_from(&group.key_fingerprint);
        }
        Ok(group)
    }

    /// When the last of them began to send under this group's key.
    fn all_active(&mut self, present: &[usize], group: &Group) -> Result<Moment, Failure> {
        let mut last = Moment(0);
        for &index in present {
            let events = self.laboratory.routers[index].events()?;
            last = last.max(activated(&events, group.epoch).map_or_else(Moment::now, Ok)?);
        }
        Ok(last)
    }
}

/// The group, if all are in the same one of this size and use its key.
fn common(all: &[Option<Status>], count: usize) -> Option<Group> {
    let first = &all.first()?.as_ref()?.group;
    let same = |status: &Option<Status>| {
        status.as_ref().is_some_and(|Status { group, .. }| {
            group.active && group.members == count && group.key_fingerprint == first.key_fingerprint
        })
    };
    all.iter().all(same).then(|| first.clone())
}

fn describe(status: Option<&Status>) -> String {
    let Some(Status { group: Group { epoch, members, key_fingerprint, active }, .. }) = status else {
        return "no answer".into();
    };
    let unused = if *active { "" } else { ", not in use" };
    format!("{members} members, epoch {epoch}, key {key_fingerprint}{unused}")
}
