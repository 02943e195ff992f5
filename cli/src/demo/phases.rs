//! The story: a group forms, carries traffic, loses a router, carries traffic, gets it back, carries traffic.
//!
//! The first thing that does not happen ends it. `traffic.rs` and `agreement.rs` hold what happens several times.

use std::time::Duration;

use crate::args::{DemoArgs, Sabotage};
use crate::output::{Failure, because};

use super::laboratory::Laboratory;
use super::report::{Black, Report, Row};
use super::timeline::{Moment, Timeline};
use super::view::{Group, joined, missed};

/// The host on this router's LAN sends.
pub(super) const SENDER: usize = 0;

pub(crate) struct Story<'a> {
    pub(super) sabotage: Option<Sabotage>,
    pub(super) ipv4: bool,
    pub(super) laboratory: &'a mut Laboratory,
    pub(super) timeline: &'a mut Timeline,
    pub(super) report: &'a mut Report,
    /// How often traffic was sent.
    pub(super) flows: usize,
}

impl<'a> Story<'a> {
    pub(crate) fn new(
        args: &DemoArgs,
        laboratory: &'a mut Laboratory,
        timeline: &'a mut Timeline,
        report: &'a mut Report,
    ) -> Self {
        Story { sabotage: args.sabotage, ipv4: args.ipv4, laboratory, timeline, report, flows: 0 }
    }

    pub(crate) fn tell(&mut self) -> Result<(), Failure> {
        // Whatever happened on red: clear text on black is worse.
        match (self.tell_on_red(), self.look_at_black()) {
            (Err(Failure::Because(red)), Err(Failure::Because(black))) => Err(because(format!("{black}; {red}"))),
            (red, black) => red.and(black),
        }
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
        self.timeline.note(format!(
            "{count} routers on one black {} network, a host on each red LAN",
            if self.ipv4 { "IPv4" } else { "IPv6" }
        ))?;
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
                red: if self.ipv4 { router.plan.red_v4().to_string() } else { router.plan.red_v6().to_string() },
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

    /// What went over black?
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
}
