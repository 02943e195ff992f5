//! The unicast SAs with the neighbours: which there are, and from when each is used. Pure.
//!
//! An SA lives as long as the hello keys that its key comes from, whether or not the neighbour is up: so a link that
//! fails for a while costs no keys, and no key is installed twice. Inbound first: an SA to receive on is made as soon as
//! both hello keys are known, also while the neighbour is silent, for it may hear us all the same. An SA to send on is
//! used once the neighbour has shown that it holds our hello key (its prefixes open under it): for then it receives.
//!
//! An old SA to receive on goes when the neighbour has left it. No time says when that is: it may hear nothing of us for
//! as long as it likes. It has left when it has shown to hold our present key and has acknowledged ours under its own,
//! for then it has had what it needs to send under both. What is still on its way then has `grace` to arrive.
//!
//! No key is kept for ever, though: what was encrypted under one that is still in memory is not secret from who captures
//! the router. A neighbour that has not followed our next hello key for the life of one is sent nothing more until it
//! does, and what it has not left for two lives is not received on any longer. A life is eight hello intervals at least, in
//! which a neighbour that hears us follows; and where lives are alike the sender ends first.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use muster_discovery::{Basis, Direction, Discovery, UnicastKey};
use muster_wire::{MemberId, Time};

/// What is to be done to the unicast SAs.
pub enum UnicastChange {
    /// Receive from a neighbour on one more.
    Receive {
        /// The neighbour.
        member: MemberId,
        /// SPI and key.
        key: UnicastKey,
    },
    /// Send to a neighbour on this one.
    Send {
        /// The neighbour.
        member: MemberId,
        /// SPI and key.
        key: UnicastKey,
    },
    /// Receive on this one no longer.
    Forget {
        /// Its SPI.
        spi: u32,
    },
    /// Send nothing more to this neighbour.
    Stop {
        /// The neighbour.
        member: MemberId,
    },
}

/// Where keys come from: discovery.
pub(crate) trait Keys {
    /// What the SA rests on now; `None`: the neighbour is not up, nor just silent and the SA one to receive on.
    fn basis(&self, member: &MemberId, direction: Direction) -> Option<Basis>;
    /// SPI and key on that basis.
    fn key(&self, member: &MemberId, direction: Direction) -> Option<UnicastKey>;
    /// How long an own hello key lives.
    fn life(&self) -> Duration;
}

impl Keys for Discovery {
    fn basis(&self, member: &MemberId, direction: Direction) -> Option<Basis> {
        self.unicast_basis(member, direction)
    }

    fn key(&self, member: &MemberId, direction: Direction) -> Option<UnicastKey> {
        self.unicast_key(member, direction)
    }

    fn life(&self) -> Duration {
        self.key_life()
    }
}

/// SAs outlived by their basis that are kept for each neighbour: one that never follows, or changes its key all the
/// time, loses packets, not we memory.
const MAX_OLD: usize = 8;
/// For so many lives of an own hello key an old SA is received on that its neighbour has not left.
const LIVES: u32 = 2;

/// All of them.
pub(crate) struct Pairing {
    /// How long an inbound SA stays that the neighbour has left: for what is still on its way.
    grace: Duration,
    peers: BTreeMap<MemberId, Peer>,
    /// Of all inbound SAs, the old ones too.
    spis: BTreeMap<u32, MemberId>,
    /// One that was to come has met that of another neighbour.
    met: bool,
    changes: VecDeque<UnicastChange>,
}

#[derive(Default)]
struct Peer {
    inbound: Option<(Basis, u32)>,
    outbound: Option<Basis>,
    /// To be sent on once the neighbour has shown that it holds our hello key.
    waiting: Option<UnicastKey>,
    /// Something is sent on, …
    sends: bool,
    /// … under a hello key of ours that is not the present one: not for longer than this.
    ends: Option<Time>,
    /// The hello key of ours that it has shown to hold, in which run.
    confirmed: Option<([u8; 32], u64)>,
    /// It has shown to hold the hello key of ours in `inbound`.
    follows: bool,
    /// It has acknowledged what we sealed under what is its own in `inbound`: it sends under that hello key.
    assured: bool,
    /// Those before `inbound`, the oldest first.
    old: VecDeque<Old>,
}

/// An SA to receive on that another has taken the place of.
struct Old {
    spi: u32,
    goes: Time,
    /// The neighbour is known to send on it no longer.
    left: bool,
}

impl Pairing {
    pub(crate) fn new(grace: Duration) -> Self {
        Self { grace, peers: BTreeMap::new(), spis: BTreeMap::new(), met: false, changes: VecDeque::new() }
    }

    /// For SAs that are left from now on.
    pub(crate) fn set_grace(&mut self, grace: Duration) {
        self.grace = grace;
    }

    /// A neighbour has said hello.
    pub(crate) fn heard(&mut self, now: Time, member: MemberId, keys: &impl Keys) {
        self.receive(now, member, keys);
        self.send(member, keys);
    }

    /// The own hello key is another.
    pub(crate) fn renewed(&mut self, now: Time, keys: &impl Keys) {
        let ends = now + keys.life();
        for peer in self.peers.values_mut().filter(|peer| peer.sends) {
            peer.ends.get_or_insert(ends);
        }
        for member in self.peers.keys().copied().collect::<Vec<_>>() {
            self.heard(now, member, keys);
        }
    }

    /// A neighbour holds our hello key.
    pub(crate) fn confirmed(&mut self, now: Time, member: MemberId, keys: &impl Keys) {
        self.heard(now, member, keys);
        let Some(basis) = keys.basis(&member, Direction::Out) else { return };
        let peer = self.peers.entry(member).or_default();
        peer.confirmed = Some((basis.own, basis.startup));
        if let Some(key) = peer.waiting.take() {
            self.changes.push_back(peer.send(member, key));
        }
        peer.follows = true;
        peer.leave_old(now + self.grace);
    }

    /// A neighbour knows that we hold its hello key.
    pub(crate) fn assured(&mut self, now: Time, member: &MemberId) {
        let Some(peer) = self.peers.get_mut(member) else { return };
        peer.assured = true;
        peer.leave_old(now + self.grace);
    }

    /// A neighbour's run is over, or it is not trusted any more.
    pub(crate) fn gone(&mut self, member: &MemberId) {
        let Some(peer) = self.peers.remove(member) else { return };
        let current = peer.inbound.map(|(_, spi)| spi);
        for spi in peer.old.into_iter().map(|old| old.spi).chain(current) {
            self.forget(spi);
        }
        self.changes.push_back(UnicastChange::Stop { member: *member });
    }

    pub(crate) fn handle_timeout(&mut self, now: Time) {
        let mut due = Vec::new();
        for (member, peer) in &mut self.peers {
            if peer.ends.take_if(|at| *at <= now).is_some() {
                peer.sends = false;
                self.changes.push_back(UnicastChange::Stop { member: *member });
            }
            due.extend(peer.old.iter().filter(|old| old.goes <= now).map(|old| old.spi));
            peer.old.retain(|old| old.goes > now);
        }
        due.into_iter().for_each(|spi| self.forget(spi));
    }

    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        let ends = |peer: &Peer| peer.old.iter().map(|old| old.goes).chain(peer.ends).min();
        self.peers.values().filter_map(ends).min()
    }

    pub(crate) fn poll_change(&mut self) -> Option<UnicastChange> {
        self.changes.pop_front()
    }

    /// Whether two SPIs have met since the last call: then another own hello key is needed.
    pub(crate) fn have_met(&mut self) -> bool {
        std::mem::take(&mut self.met)
    }

    fn receive(&mut self, now: Time, member: MemberId, keys: &impl Keys) {
        let Some(basis) = keys.basis(&member, Direction::In) else { return };
        let peer = self.peers.entry(member).or_default();
        if peer.inbound.is_some_and(|(current, _)| current == basis) {
            return;
        }
        let Some(key) = keys.key(&member, Direction::In) else { return };
        if let Some(other) = self.spis.get(&key.spi) {
            // Who goes back to a hello key that it had before makes nobody change anything.
            self.met |= *other != member;
            return;
        }
        if let Some((before, spi)) = peer.inbound.replace((basis, key.spi)) {
            peer.old.push_back(Old { spi, goes: now + keys.life() * LIVES, left: false });
            peer.follows &= before.own == basis.own;
            peer.assured &= before.neighbor == basis.neighbor;
        }
        let surplus = peer.surplus();
        self.spis.insert(key.spi, member);
        self.changes.push_back(UnicastChange::Receive { member, key });
        if let Some(spi) = surplus {
            self.forget(spi);
        }
    }

    fn send(&mut self, member: MemberId, keys: &impl Keys) {
        let Some(basis) = keys.basis(&member, Direction::Out) else { return };
        let peer = self.peers.entry(member).or_default();
        if peer.outbound == Some(basis) {
            return;
        }
        let Some(key) = keys.key(&member, Direction::Out) else { return };
        peer.outbound = Some(basis);
        if peer.confirmed == Some((basis.own, basis.startup)) {
            peer.waiting = None;
            self.changes.push_back(peer.send(member, key));
        } else {
            peer.waiting = Some(key);
        }
    }

    fn forget(&mut self, spi: u32) {
        self.spis.remove(&spi);
        self.changes.push_back(UnicastChange::Forget { spi });
    }
}

impl Peer {
    /// To send on this from now on: the neighbour holds our hello key.
    fn send(&mut self, member: MemberId, key: UnicastKey) -> UnicastChange {
        (self.sends, self.ends) = (true, None);
        UnicastChange::Send { member, key }
    }

    /// The old SAs go at `at`, if the neighbour sends on `inbound`.
    fn leave_old(&mut self, at: Time) {
        if self.follows && self.assured {
            for old in self.old.iter_mut().filter(|old| !old.left) {
                (old.left, old.goes) = (true, old.goes.min(at));
            }
        }
    }

    /// One too many: what it has left; else the oldest but one, for the oldest is what it was last known to send on.
    fn surplus(&mut self) -> Option<u32> {
        let at = usize::from(!self.old.front()?.left);
        if self.old.len() > MAX_OLD { self.old.remove(at).map(|old| old.spi) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOB: MemberId = MemberId([0xb; 32]);
    const CAROL: MemberId = MemberId([0xc; 32]);

    /// Keys made of plain sums, so that SPIs can be made to meet.
    struct Fake {
        own: u8,
        /// Hello key and run of those that are up.
        up: BTreeMap<MemberId, (u8, u64)>,
    }

    impl Fake {
        fn new() -> Self {
            Fake { own: 1, up: BTreeMap::new() }
        }
    }

    impl Keys for Fake {
        fn basis(&self, member: &MemberId, _: Direction) -> Option<Basis> {
            let (neighbor, startup) = *self.up.get(member)?;
            Some(Basis { startup, own: [self.own; 32], neighbor: [neighbor; 32] })
        }

        fn key(&self, member: &MemberId, direction: Direction) -> Option<UnicastKey> {
            let Basis { startup, own, neighbor } = self.basis(member, direction)?;
            let way = if direction == Direction::In { 100 } else { 200 };
            let spi = way + 1000 * u32::from(own[0]) + u32::from(neighbor[0]) + 100_000 * startup as u32;
            Some(UnicastKey { spi, key: zeroize::Zeroizing::new([0; 36]) })
        }

        fn life(&self) -> Duration {
            Duration::from_secs(1000)
        }
    }

    fn changes(pairing: &mut Pairing) -> Vec<String> {
        let text = |change| match change {
            UnicastChange::Receive { member, key } => format!("receive {:x} {}", member.0[0], key.spi),
            UnicastChange::Send { member, key } => format!("send {:x} {}", member.0[0], key.spi),
            UnicastChange::Forget { spi } => format!("forget {spi}"),
            UnicastChange::Stop { member } => format!("stop {:x}", member.0[0]),
        };
        std::iter::from_fn(|| pairing.poll_change().map(text)).collect()
    }

    fn pairing() -> Pairing {
        Pairing::new(Duration::from_secs(6))
    }

    fn at(seconds: u64) -> Time {
        Time(seconds * 1_000_000)
    }

    #[test]
    fn to_receive_comes_first_to_send_when_the_neighbour_holds_the_key() {
        let (mut pairing, mut keys) = (pairing(), Fake::new());
        pairing.heard(at(0), BOB, &keys);
        assert!(changes(&mut pairing).is_empty(), "not up");
        keys.up.insert(BOB, (7, 0));
        pairing.heard(at(0), BOB, &keys);
        assert_eq!(changes(&mut pairing), ["receive b 1107"]);
        pairing.heard(at(0), BOB, &keys);
        assert!(changes(&mut pairing).is_empty(), "a hello that says nothing new");
        pairing.confirmed(at(1), BOB, &keys);
        assert_eq!(changes(&mut pairing), ["send b 1207"]);
        pairing.confirmed(at(1), BOB, &keys);
        assert!(changes(&mut pairing).is_empty());
        // It is silent, then back: nothing.
        let up = keys.up.remove(&BOB).unwrap();
        pairing.heard(at(2), BOB, &keys);
        keys.up.insert(BOB, up);
        pairing.heard(at(9), BOB, &keys);
        assert!(changes(&mut pairing).is_empty());
        assert_eq!(pairing.poll_timeout(), None);
    }

    #[test]
    fn an_old_sa_stays_until_the_neighbour_has_left_it() {
        let (mut pairing, mut keys) = (pairing(), Fake::new());
        keys.up.insert(BOB, (7, 0));
        pairing.confirmed(at(0), BOB, &keys);
        changes(&mut pairing);
        // Our key: receive at once, send when it is confirmed.
        keys.own = 2;
        pairing.renewed(at(10), &keys);
        assert_eq!(changes(&mut pairing), ["receive b 2107"]);
        pairing.confirmed(at(11), BOB, &keys);
        assert_eq!(changes(&mut pairing), ["send b 2207"]);
        assert_eq!(pairing.poll_timeout(), Some(at(2010)), "it may not know yet that it may send");
        pairing.assured(at(12), &BOB);
        assert_eq!(pairing.poll_timeout(), Some(at(18)));
        pairing.confirmed(at(13), BOB, &keys);
        pairing.handle_timeout(at(17));
        assert!(changes(&mut pairing).is_empty());
        pairing.handle_timeout(at(18));
        assert_eq!(changes(&mut pairing), ["forget 1107"]);
        assert_eq!(pairing.poll_timeout(), None);
        // Its key: it receives under it since before it said so.
        keys.up.insert(BOB, (8, 0));
        pairing.heard(at(20), BOB, &keys);
        assert_eq!(changes(&mut pairing), ["receive b 2108", "send b 2208"]);
        assert_eq!(pairing.poll_timeout(), Some(at(2020)), "it may not have our word for its key");
        pairing.assured(at(20), &BOB);
        assert_eq!(pairing.poll_timeout(), Some(at(26)));
        // Both keys at once: not before it holds ours.
        keys.own = 3;
        keys.up.insert(BOB, (9, 0));
        pairing.renewed(at(22), &keys);
        assert_eq!(changes(&mut pairing), ["receive b 3109"]);
        // Another run knows nothing of us yet.
        pairing.confirmed(at(23), BOB, &keys);
        changes(&mut pairing);
        pairing.gone(&BOB);
        assert_eq!(changes(&mut pairing), ["forget 2107", "forget 2108", "forget 3109", "stop b"]);
        keys.up.insert(BOB, (9, 1));
        pairing.heard(at(0), BOB, &keys);
        assert_eq!(changes(&mut pairing), ["receive b 103109"]);
    }

    #[test]
    fn no_key_is_kept_for_ever() {
        let (mut pairing, mut keys) = (pairing(), Fake::new());
        keys.up.insert(BOB, (7, 0));
        pairing.confirmed(at(0), BOB, &keys);
        pairing.assured(at(0), &BOB);
        assert_eq!(changes(&mut pairing), ["receive b 1107", "send b 1207"]);
        assert_eq!(pairing.poll_timeout(), None, "the present ones end with the hello key");
        for (own, now) in [(2, 1000), (3, 1500)] {
            // It hears neither, or what it says does not come.
            keys.own = own;
            pairing.renewed(at(now), &keys);
        }
        assert_eq!(changes(&mut pairing), ["receive b 2107", "receive b 3107"]);
        assert_eq!(pairing.poll_timeout(), Some(at(2000)), "a life after the first");
        pairing.handle_timeout(at(2000));
        assert_eq!(changes(&mut pairing), ["stop b"]);
        assert_eq!(pairing.poll_timeout(), Some(at(3000)));
        pairing.handle_timeout(at(3000));
        assert_eq!(changes(&mut pairing), ["forget 1107"]);
        // It is silent, even: there is nothing to stop.
        keys.up.clear();
        pairing.renewed(at(3100), &keys);
        pairing.handle_timeout(at(9000));
        assert_eq!(changes(&mut pairing), ["forget 2107"]);
        keys.up.insert(BOB, (7, 0));
        pairing.confirmed(at(9001), BOB, &keys);
        assert_eq!(changes(&mut pairing), ["send b 3207"]);
        assert_eq!(pairing.poll_timeout(), None);
    }

    #[test]
    fn spis_that_meet_ask_for_another_key() {
        let (mut pairing, mut keys) = (pairing(), Fake::new());
        keys.up.insert(BOB, (7, 0));
        pairing.heard(at(0), BOB, &keys);
        assert_eq!(changes(&mut pairing), ["receive b 1107"]);
        keys.up.insert(CAROL, (7, 0));
        pairing.heard(at(0), CAROL, &keys);
        assert!(changes(&mut pairing).is_empty(), "the one that is in use stays");
        assert!(pairing.have_met() && !pairing.have_met());
        // Of other hello keys the sums do not meet.
        (keys.own, keys.up) = (2, BTreeMap::from([(BOB, (7, 0)), (CAROL, (8, 0))]));
        pairing.renewed(at(0), &keys);
        assert_eq!(changes(&mut pairing), ["receive b 2107", "receive c 2108"]);
        assert!(!pairing.have_met());
    }

    #[test]
    fn a_neighbour_that_goes_back_to_an_old_key_changes_nothing() {
        let (mut pairing, mut keys) = (pairing(), Fake::new());
        for key in [7, 8] {
            keys.up.insert(BOB, (key, 0));
            pairing.heard(at(0), BOB, &keys);
        }
        changes(&mut pairing);
        keys.up.insert(BOB, (7, 0));
        pairing.heard(at(0), BOB, &keys);
        assert!(!pairing.have_met() && changes(&mut pairing).iter().all(|change| !change.starts_with("receive")));
    }

    #[test]
    fn a_neighbour_that_changes_all_the_time_costs_no_memory() {
        let (mut pairing, mut keys) = (pairing(), Fake::new());
        let mut there = 0;
        for n in 0..100 {
            keys.up.insert(BOB, (n, 0));
            pairing.heard(at(0), BOB, &keys);
            let step = |change: &String| if change.starts_with("receive") { 1 } else { -1 };
            there += changes(&mut pairing).iter().map(step).sum::<i32>();
        }
        assert_eq!(there, MAX_OLD as i32 + 1);
        assert_eq!(pairing.spis.len(), MAX_OLD + 1);
        assert!(
            [1100, 1192, 1199].iter().all(|spi| pairing.spis.contains_key(spi)),
            "the one that it was on, and the last"
        );
        // What it has left goes before that.
        pairing.confirmed(at(0), BOB, &keys);
        pairing.assured(at(0), &BOB);
        keys.up.insert(BOB, (100, 0));
        pairing.heard(at(0), BOB, &keys);
        assert_eq!(pairing.spis.len(), MAX_OLD + 1);
        assert!(!pairing.spis.contains_key(&1100) && pairing.spis.contains_key(&1199));
    }
}
