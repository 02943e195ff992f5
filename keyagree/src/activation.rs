//! From a key that is known to a key that is used: install, acknowledge, switch, retire.

use std::time::Duration;

use muster_wire::mike::{Ack, Activate, MAX_HANDOVERS, MAX_TAGS};
use muster_wire::{Destination, Hash, MemberId, Time};

use crate::epoch::Epoch;
use crate::{Event, KeyAgreement, Refusal};

/// In larger groups acknowledgements ride in the hellos.
const MAX_ACKNOWLEDGING: usize = 64;
/// Acknowledgements wait up to this for each member, so that they do not all come at once.
const ACKNOWLEDGE_SPREAD: Duration = Duration::from_micros(20);
/// Epochs that are received under at once. An honest group makes one in a batch window at most, and has long switched
/// to one of so many.
pub(crate) const MAX_LIVE: usize = 256;
const MAX_REPORTED_TAGS: usize = 1024;
/// Of 4,095 tags at least a third is free, whatever others report and however fast epochs follow each other.
const _: () = assert!(MAX_LIVE + MAX_REPORTED_TAGS + MAX_HANDOVERS * MAX_TAGS <= 4095 * 2 / 3);

/// An epoch whose SAs are installed.
pub(crate) struct LiveEpoch {
    pub(crate) header: Hash,
    pub(crate) number: u64,
    pub(crate) spi_tag: u16,
    pub(crate) installed: bool,
    /// When it is sent under at the latest; `None`: it is, or a later one is.
    pub(crate) switch_at: Option<Time>,
    /// How long the epochs before it are received under after the switch to it.
    pub(crate) retire_after: Duration,
    pub(crate) retire_at: Option<Time>,
}

impl KeyAgreement {
    /// The inbound SAs of an epoch are in place.
    pub fn installed(&mut self, now: Time, header: Hash) {
        for live in self.live.iter_mut().filter(|live| live.header == header) {
            live.installed = true;
        }
        if header != self.epoch.public.hash {
            return;
        }
        if self.is_tm() {
            self.acknowledged(now, self.me());
            // Who is alone has waited for nobody else: what a transaction kept back comes now, not at the next input.
            self.consider(now);
        } else if self.acknowledges_in_hellos() {
            self.events.push_back(Event::State(self.group_state()));
            self.events.push_back(Event::Acknowledge);
        } else {
            self.acknowledge_soon(now);
        }
    }

    /// Enters an epoch: from here on it is the one we are in.
    pub(crate) fn enter(&mut self, now: Time, epoch: Epoch, retire_after: Duration) {
        if self.entered.contains(&epoch.public.hash) {
            return;
        }
        let old_tm = self.epoch.tm();
        let was_instance = self.epoch.instance();
        self.filling = self.filling.carried(&epoch, &self.roster);
        self.epoch = epoch;
        self.transaction = None;
        self.wish = None;
        self.claim = None;
        self.recovery = None;
        if self.epoch.instance() != was_instance {
            self.reign_since = now;
            self.join = None;
            self.pending.forget_reign();
            self.roster.forget_astray();
        }
        self.note_reported_tags(now);
        self.announce_epoch(now, retire_after);
        if self.epoch.tm() != old_tm {
            self.events.push_back(Event::Election { tm: self.epoch.tm(), epoch: self.epoch.number() });
        }
    }

    /// SPI tags in use among the members, the newest first.
    pub(crate) fn tags(&self, now: Time) -> impl Iterator<Item = u16> {
        let reported = self.reported_tags.iter().rev().filter(move |(_, until)| *until > now).map(|(tag, _)| *tag);
        self.live.iter().rev().map(|live| live.spi_tag).chain(reported)
    }

    /// Who has just joined receives under its old epochs for a while yet, whoever commits next.
    fn note_reported_tags(&mut self, now: Time) {
        let until = now + self.config.activation_delay * 2 + self.config.deactivation_delay;
        self.reported_tags.retain(|(_, until)| *until > now);
        let handovers = self.epoch.public.handovers.iter().filter_map(|signed| signed.decode().ok());
        let tags = handovers.flat_map(|handover| handover.tags.into_vec());
        self.reported_tags.extend(tags.map(|tag| (tag, until)));
        let surplus = self.reported_tags.len().saturating_sub(MAX_REPORTED_TAGS);
        self.reported_tags.drain(..surplus);
    }

    /// Tells the driver of the current epoch.
    pub(crate) fn announce_epoch(&mut self, now: Time, retire_after: Duration) {
        let spi_tag = self.epoch.public.header.spi_tag;
        let displaces_outbound = self.displace(spi_tag);
        let public = &self.epoch.public;
        self.seen.remember(public.signed.clone());
        self.entered.insert(public.hash);
        self.entered_at = now;
        self.live.push(LiveEpoch {
            header: public.hash,
            number: public.header.epoch,
            spi_tag,
            installed: false,
            switch_at: Some(now + self.config.activation_delay),
            retire_after,
            retire_at: None,
        });
        if let Some(own) = public.tree.leaf(self.epoch.slot) {
            self.own.entered(&own.leaf.public, now);
        }
        self.acknowledge_at = None;
        self.counters.epochs += 1;
        self.events.push_back(Event::Epoch(self.epoch.keys(&self.config.name)));
        self.events.push_back(Event::State(self.group_state()));
        self.note_own_leaf(now);
        if displaces_outbound {
            self.activate(now);
        }
    }

    /// No two live SAs have one SPI: older epochs with this tag go before the new one comes. (Who drew it did not know
    /// that we still hold them, or did not care.) So do the oldest when there are too many. Says whether we send under
    /// one of them: then it must be the new one at once.
    fn displace(&mut self, tag: u16) -> bool {
        let surplus = (self.live.len() + 1).saturating_sub(MAX_LIVE);
        let (mut displaced, mut live) = (Vec::new(), Vec::new());
        for (age, epoch) in std::mem::take(&mut self.live).into_iter().enumerate() {
            if age < surplus || epoch.spi_tag == tag { &mut displaced } else { &mut live }.push(epoch);
        }
        self.live = live;
        self.events.extend(displaced.iter().map(|live| Event::Retire { header: live.header }));
        displaced.iter().any(|live| self.outbound == live.header)
    }

    /// Sends under the current epoch from now on.
    pub(crate) fn activate(&mut self, now: Time) {
        if !self.is_active() {
            self.switch(now, self.live.len() - 1);
        }
    }

    /// Sends under a live epoch from now on; all older ones retire.
    fn switch(&mut self, now: Time, to: usize) {
        let (older, rest) = self.live.split_at_mut(to);
        let Some(epoch) = rest.first_mut() else { return };
        epoch.switch_at = None;
        let retire_at = now + epoch.retire_after;
        for live in older {
            live.switch_at = None;
            live.retire_at = Some(live.retire_at.map_or(retire_at, |earlier| earlier.min(retire_at)));
        }
        self.outbound = epoch.header;
        self.events.push_back(Event::Activate { header: epoch.header, epoch: epoch.number });
        if self.is_active() {
            self.events.push_back(Event::State(self.group_state()));
            self.consider_filling(now);
        }
    }

    /// So many acknowledgements at once would be a flood; the next hello says it too.
    pub(crate) fn acknowledges_in_hellos(&self) -> bool {
        self.epoch.tree().len() > MAX_ACKNOWLEDGING
    }

    pub(crate) fn acknowledge_soon(&mut self, now: Time) {
        if self.acknowledge_at.is_none() {
            let spread = ACKNOWLEDGE_SPREAD * self.epoch.tree().len() as u32;
            let wait = self.random_below(spread.min(self.config.activation_delay / 2));
            self.acknowledge_at = Some(now + wait);
        }
    }

    pub(crate) fn handle_activate(&mut self, now: Time, sender: MemberId, named: &Activate) -> Result<(), Refusal> {
        if sender == self.epoch.tm() && named.header == self.epoch.public.hash {
            self.activate(now);
        }
        Ok(())
    }

    pub(crate) fn handle_activation_timers(&mut self, now: Time) {
        if self.acknowledge_at.is_some_and(|at| at <= now) {
            self.acknowledge_at = None;
            self.acknowledge();
        }
        // Each has its own time: those who make epochs without end keep nobody under an old one.
        if let Some(due) = self.live.iter().rposition(|live| live.switch_at.is_some_and(|at| at <= now)) {
            self.switch(now, due);
        }
        let (retired, live) =
            std::mem::take(&mut self.live).into_iter().partition(|live| live.retire_at.is_some_and(|at| at <= now));
        self.live = live;
        let retired: Vec<LiveEpoch> = retired;
        self.events.extend(retired.iter().map(|live| Event::Retire { header: live.header }));
    }

    pub(crate) fn next_activation_timer(&self) -> Option<Time> {
        let live = self.live.iter().flat_map(|live| [live.switch_at, live.retire_at]);
        live.chain([self.acknowledge_at]).flatten().min()
    }

    fn acknowledge(&mut self) {
        let Some(tm) = self.roster.get(&self.epoch.tm()) else { return };
        let to = Destination::Unicast(tm.address);
        let ack = Ack { instance: self.epoch.instance(), epoch: self.epoch.number(), header: self.epoch.public.hash };
        self.send(to, &ack);
    }
}
