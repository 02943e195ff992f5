//! Hellos, out and in; who is silent; who says goodbye.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use muster_certs::CertError;
use muster_wire::idp::{GroupState, Hello, Probe};
use muster_wire::{Destination, Envelope, Kind, MemberId, Nonce, Time};
use rand_core::Rng;

use crate::Discovery;
use crate::candidates::Greeting;
use crate::config::{JITTER_PART, RECENT_NONCES, REFUSED_HOLD, SPREAD, TRIGGER_SPACING};
use crate::counters::Dropped;
use crate::event::{Event, GoneReason, Refusal};
use crate::pairwise::End;
use crate::peers::{Peer, Refused, Suspicion};

/// When the next hello leaves, and the nonces of the last ones.
#[derive(Debug)]
pub(crate) struct Schedule {
    periodic: Time,
    /// For a change.
    triggered: Option<Time>,
    last: Option<Time>,
    /// The last one to all, and its datagram.
    said: Option<(Hello, Vec<u8>)>,
    /// The newest first.
    nonces: VecDeque<Nonce>,
}

impl Schedule {
    pub(crate) fn new(now: Time, rng: &mut impl Rng) -> Self {
        let mut nonce = [0; 16];
        rng.fill_bytes(&mut nonce);
        Self { periodic: now, triggered: None, last: None, said: None, nonces: VecDeque::from([Nonce(nonce)]) }
    }

    pub(crate) fn due(&self) -> Time {
        self.triggered.map_or(self.periodic, |triggered| triggered.min(self.periodic))
    }

    /// The first hello has left.
    pub(crate) fn has_begun(&self) -> bool {
        self.last.is_some()
    }

    pub(crate) fn is_recent(&self, nonce: &Nonce) -> bool {
        self.nonces.contains(nonce)
    }

    pub(crate) fn nonces(&self) -> Vec<Nonce> {
        self.nonces.iter().copied().collect()
    }

    /// Something has changed: a hello, 50 ms after the last one at the soonest.
    pub(crate) fn trigger(&mut self, now: Time) {
        self.trigger_after(now, Duration::ZERO);
    }

    /// The same, and not before so long from now.
    pub(crate) fn trigger_after(&mut self, now: Time, wait: Duration) {
        let at = self.last.map_or(now + wait, |last| (now + wait).max(last + TRIGGER_SPACING));
        self.triggered = Some(self.triggered.map_or(at, |before| before.min(at)));
    }

    /// A periodic hello now, and the next by the interval that holds then.
    pub(crate) fn restart(&mut self, now: Time) {
        self.periodic = now;
    }
}

impl Discovery {
    pub(crate) fn hello_if_due(&mut self, now: Time) {
        let Some(group) = self.group else { return };
        if now < self.schedule.due() {
            return;
        }
        let interval = self.config.hello_interval;
        if now >= self.schedule.periodic {
            if self.schedule.has_begun() {
                let nonce = self.draw_nonce();
                self.schedule.nonces.push_front(nonce);
                self.schedule.nonces.truncate(RECENT_NONCES);
            } else {
                self.events.push_back(Event::HelloSent);
            }
            let jitter = interval / JITTER_PART;
            self.schedule.periodic = now + interval - jitter + random_up_to(2 * jitter, &mut self.rng);
        }
        self.schedule.triggered = None;
        self.schedule.last = Some(now);
        let hello = self.hello(group);
        let Ok(bytes) = self.author.seal(&hello) else { return };
        self.send_bytes(Destination::Group, bytes.clone());
        self.schedule.said = Some((hello, bytes));
    }

    fn hello(&mut self, group: GroupState) -> Hello {
        Hello {
            interval_ms: u32::try_from(self.config.hello_interval.as_millis()).unwrap_or(u32::MAX),
            nonce: self.schedule.nonces[0],
            public: self.key.public(),
            group,
            crls: self.name_lists(),
        }
    }

    pub(crate) fn handle_hello(&mut self, now: Time, greeting: Greeting) -> Result<(), Dropped> {
        let header = *greeting.envelope.header();
        match self.peers.get_mut(&header.sender) {
            Some(Peer::Up(up)) if up.run.startup == header.startup => {
                let Greeting { from, envelope, hello } = greeting;
                up.identity.key.open(envelope).map_err(|_| Dropped::BadSignature)?;
                if hello.public != up.hello.public {
                    // A new key within a run. One of low order is nothing that a sane device sends.
                    let end = End { member: header.sender, startup: header.startup, public: hello.public };
                    up.pair = self.key.pair(end).ok_or(Dropped::Malformed)?;
                    up.keyed = header.sequence;
                    up.announcing.restart(now);
                }
                up.sign_of_life(now, Kind::Hello, header.sequence);
                up.last_hello = now;
                up.address = from;
                up.hello = hello;
                self.report_heard(header.sender);
                self.compare_lists(now, header.sender);
                Ok(())
            }
            Some(Peer::Refused(refused)) => {
                refused.last_hello = now;
                self.challenge(now, greeting)
            }
            _ => self.challenge(now, greeting),
        }
    }

    pub(crate) fn report_heard(&mut self, member: MemberId) {
        let Some(up) = self.peers.up(&member) else { return };
        self.events.push_back(Event::Heard {
            member,
            address: up.address,
            startup: up.run.startup,
            nonce: up.hello.nonce,
            interval: up.interval(),
            group: up.hello.group,
        });
    }

    /// A neighbour has come up that may not have heard us: the hello goes to it alone, for all others would only have
    /// another signature to check; and it is the last one once more where nothing has changed, for signing costs, too.
    pub(crate) fn answer_newcomer(&mut self, to: SocketAddr) {
        // Before the first hello there is none that it could have missed.
        let Some(group) = self.group.filter(|_| self.schedule.has_begun()) else { return };
        let hello = self.hello(group);
        match &self.schedule.said {
            Some((said, bytes)) if *said == hello => self.send_bytes(Destination::Unicast(to), bytes.clone()),
            _ => self.send(Destination::Unicast(to), &hello),
        }
    }

    /// A member's hello for another group leaves within a time that grows with the number of those who are to check it.
    pub(crate) fn spread(&mut self) -> Duration {
        let neighbours = u32::try_from(self.peers.ups().count()).unwrap_or(u32::MAX);
        let most = SPREAD.saturating_mul(neighbours).min(self.config.hello_interval / 4);
        random_up_to(most, &mut self.rng)
    }

    pub(crate) fn handle_goodbye(&mut self, now: Time, envelope: Envelope) -> Result<(), Dropped> {
        let header = *envelope.header();
        let identity = self.peers.identity(&header.sender).ok_or(Dropped::UnknownSender)?;
        identity.key.open(envelope).map_err(|_| Dropped::BadSignature)?;
        match self.peers.get_mut(&header.sender) {
            Some(Peer::Gone(gone)) => {
                if gone.pair.take().is_some() {
                    self.over([header.sender]);
                }
            }
            _ => self.lose(now, header.sender, GoneReason::Goodbye),
        }
        self.candidates.settle(header.sender);
        Ok(())
    }

    /// Asks who has been silent for one and a half of its intervals; gives up after four.
    pub(crate) fn look_at_silence(&mut self, now: Time) {
        let due: Vec<MemberId> =
            self.peers.ups().filter(|(_, up)| up.silence_due() <= now).map(|(member, _)| member).collect();
        for member in due {
            let fresh = self.draw_nonce();
            let Some(up) = self.peers.up_mut(&member) else { continue };
            if up.dead_at() <= now {
                self.lose(now, member, GoneReason::Silent);
                continue;
            }
            let nonce = up.suspicion.map_or(fresh, |suspicion| suspicion.nonce);
            up.suspicion = Some(Suspicion { nonce, next_probe: now + up.probe_spacing(now) });
            let probe = Probe { hello_nonce: up.hello.nonce, nonce, want_chain: false };
            let to = Destination::Unicast(up.address);
            self.send(to, &probe);
        }
    }

    pub(crate) fn look_at_certificates(&mut self, now: Time) {
        let unix = self.unix(now);
        let silent = self.peers.forget_gone(|_, gone| unix > gone.identity.not_after);
        self.over(silent);
        let ends = self.peers.ups().map(|(member, up)| (member, up.identity.not_after));
        let expired: Vec<(MemberId, u64)> = ends.filter(|(_, not_after)| unix > *not_after).collect();
        for (member, not_after) in expired {
            let reason = Refusal::Certificate(CertError::Expired { not_after });
            self.refuse(now, member, None, reason, GoneReason::CertificateExpired);
        }
    }

    /// An up neighbour is gone, and remembered.
    fn lose(&mut self, now: Time, member: MemberId, reason: GoneReason) {
        match self.peers.remove(&member) {
            Some(Peer::Up(up)) => {
                let gone = up.into_gone(now, reason == GoneReason::Goodbye);
                self.peers.insert(member, Peer::Gone(Box::new(gone)));
                self.events.push_back(Event::Gone { member, reason });
                if reason != GoneReason::Silent {
                    self.over([member]);
                }
                let crowded_out = self.peers.forget_surplus_gone();
                self.over(crowded_out);
            }
            Some(other) => self.peers.insert(member, other),
            None => {}
        }
    }

    /// These runs are over: nothing is kept of them.
    pub(crate) fn over(&mut self, members: impl IntoIterator<Item = MemberId>) {
        self.events.extend(members.into_iter().map(|member| Event::Over { member }));
    }

    /// A device cannot be a neighbour; if it is one, it is gone for the reason `gone`. Without an address, the one
    /// that it had.
    pub(crate) fn refuse(
        &mut self,
        now: Time,
        member: MemberId,
        address: Option<SocketAddr>,
        reason: Refusal,
        gone: GoneReason,
    ) {
        let before = self.peers.remove(&member);
        if let Some(Peer::Up(_)) = before {
            self.events.push_back(Event::Gone { member, reason: gone });
        }
        if before.as_ref().is_some_and(|before| before.pair().is_some()) {
            self.over([member]);
        }
        let (address, known) = match (&before, address) {
            (Some(Peer::Up(up)), address) => (address.unwrap_or(up.address), false),
            (Some(Peer::Refused(refused)), address) => (address.unwrap_or(refused.address), refused.reason == reason),
            (_, Some(address)) => (address, false),
            (_, None) => return,
        };
        if !known {
            self.events.push_back(Event::Refused { member, address, reason: reason.clone() });
        }
        let refused = Refused { reason, address, until: now + REFUSED_HOLD, last_hello: now };
        self.peers.insert(member, Peer::Refused(refused));
        self.candidates.settle(member);
    }
}

fn random_up_to(most: Duration, rng: &mut impl Rng) -> Duration {
    let micros = u64::try_from(most.as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(rng.next_u64() % micros.saturating_add(1))
}
