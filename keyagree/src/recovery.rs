//! Getting back: who missed something asks for a snapshot; whoever holds one answers.

use std::time::Duration;

use muster_wire::mike::{MessageKind, Request};
use muster_wire::{Destination, Hash, Instance, List, MemberId, Time, codec};

use crate::message::Message;
use crate::{KeyAgreement, Refusal};

/// A commit may be on its way still.
const PATIENCE: Duration = Duration::from_millis(8);
const RETRY: Duration = Duration::from_millis(50);
const MAX_TRIES: u32 = 6;
/// A whole snapshot goes to one neighbour at most this often.
const SERVE_EVERY: Duration = Duration::from_millis(20);

/// One neighbour gets so many chunks again within this.
const REPAIR_WINDOW: Duration = Duration::from_secs(1);
const MAX_REPAIRED: usize = 512;

/// A snapshot that is being asked for.
pub(crate) struct Recovery {
    /// Who holds the epoch that we miss.
    holder: MemberId,
    /// In which epoch we were when we found that we are behind.
    since: Hash,
    pub(crate) at: Time,
    tries: u32,
}

impl KeyAgreement {
    /// `holder` has an epoch that we miss.
    pub(crate) fn recover(&mut self, now: Time, holder: MemberId) {
        if self.recovery.is_none() {
            let at = now + PATIENCE / 4 + self.random_below(PATIENCE);
            self.recovery = Some(Recovery { holder, since: self.epoch.public.hash, at, tries: 0 });
        }
    }

    pub(crate) fn handle_recovery_timer(&mut self, now: Time) {
        let Some(mut recovery) = self.recovery.take_if(|recovery| recovery.at <= now) else { return };
        if recovery.since != self.epoch.public.hash || recovery.tries >= MAX_TRIES {
            return;
        }
        // Not always the same: it may be the one that cannot be reached, or is gone. But always of the holder's instance:
        // who was asked in its place may have gone elsewhere, and its snapshot would be of no use.
        let mut asked = recovery.holder;
        if recovery.tries > 0 {
            let theirs = self.roster.get(&recovery.holder).and_then(|peer| peer.group);
            let instance = theirs.map_or(self.epoch.instance(), |group| group.instance);
            asked = self.random_holder(&instance).unwrap_or(asked);
        }
        self.request_snapshot(&asked);
        recovery.tries += 1;
        recovery.at = now + RETRY * 2_u32.pow(recovery.tries - 1);
        self.recovery = Some(recovery);
    }

    pub(crate) fn handle_repairs(&mut self, now: Time) {
        for (sender, message, missing) in self.assembly.repairs(now) {
            self.counters.repairs += missing.len() as u64;
            self.request(&sender, message, missing);
        }
    }

    pub(crate) fn request_snapshot(&mut self, from: &MemberId) {
        self.request(from, Hash::NONE, Vec::new());
    }

    pub(crate) fn handle_request(&mut self, now: Time, sender: MemberId, request: &Request) -> Result<(), Refusal> {
        // An answer larger than its request goes only to who heard a recent hello of ours.
        if !self.own_nonces.contains(&request.hello_nonce) {
            return Err(Refusal::Rule("a request repeats the nonce of a recent hello"));
        }
        let Some(peer) = self.roster.get_mut(&sender) else { return Ok(()) };
        let to = Destination::Unicast(peer.address);
        if request.message != Hash::NONE {
            if now.since(peer.repaired.0) >= REPAIR_WINDOW {
                peer.repaired = (now, 0);
            }
            peer.repaired.1 += request.missing.len();
            if peer.repaired.1 > MAX_REPAIRED {
                return Ok(());
            }
            if let Some(message) = self.sent.get(&request.message).cloned() {
                self.send_message(to, &message, Some(&request.missing));
            }
            return Ok(());
        }
        if peer.served.is_some_and(|at| now.since(at) < SERVE_EVERY) {
            return Ok(());
        }
        peer.served = Some(now);
        let message = self.snapshot_message()?;
        self.send_message(to, &message, None);
        Ok(())
    }

    /// The snapshot of the current epoch as a message, remembered for repairs.
    pub(crate) fn snapshot_message(&mut self) -> Result<Message, Refusal> {
        let public = &self.epoch.public;
        let bytes = codec::encode(&public.snapshot(self.filling.list())?)?;
        let message = Message::new(MessageKind::Snapshot, public.hash, bytes);
        self.sent.remember(message.clone());
        Ok(message)
    }

    fn request(&mut self, from: &MemberId, message: Hash, missing: Vec<u16>) {
        let Some(peer) = self.roster.get(from) else { return };
        let to = Destination::Unicast(peer.address);
        // repairs() asks for no more than a request holds.
        let missing = List::new(missing).unwrap_or_default();
        let request = Request { hello_nonce: peer.nonce, message, missing };
        self.send(to, &request);
    }

    fn random_holder(&mut self, instance: &Instance) -> Option<MemberId> {
        let holders: Vec<MemberId> = self
            .roster
            .neighbours()
            .filter(|(_, peer)| peer.group.is_some_and(|group| group.instance == *instance))
            .map(|(member, _)| *member)
            .collect();
        let pick = self.random_below(Duration::from_micros(holders.len() as u64)).as_micros() as usize;
        holders.get(pick).copied()
    }
}
