//! Keys and SPIs of the unicast SAs between this device and a neighbour, and what makes them change.

use std::time::Duration;

use muster_wire::{MemberId, Time};
use rand_core::Rng;
use zeroize::Zeroizing;

use crate::Discovery;
use crate::config::{JITTER_PART, KEY_INTERVALS};
use crate::event::Event;
use crate::pairwise::{Direction, End, Pair};

/// What a unicast SA's key is made of, besides secrets. Another basis, another key; the same basis, the same key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Basis {
    /// The neighbour's run.
    pub startup: u64,
    /// Our hello key.
    pub own: [u8; 32],
    /// The neighbour's.
    pub neighbor: [u8; 32],
}

/// SPI and key of one unicast SA. Erased when dropped; no `Debug`.
pub struct UnicastKey {
    /// 0x4000_0000 to 0x7fff_ffff.
    pub spi: u32,
    /// 32 bytes of AES-256 key, 4 of salt (RFC 4106 8.1).
    pub key: Zeroizing<[u8; 36]>,
}

const SPI_LABEL: &[u8] = b"muster 1 unicast SPI";
const KEY_LABEL: &[u8] = b"muster 1 unicast key";

impl Discovery {
    /// What the SA to an up neighbour rests on now, or that from one that is up or silent.
    pub fn unicast_basis(&self, member: &MemberId, direction: Direction) -> Option<Basis> {
        let pair = self.pair(member, direction)?;
        let End { startup, public: neighbor, .. } = pair.neighbor();
        Some(Basis { startup, own: pair.own().public, neighbor })
    }

    /// SPI and key on that basis.
    pub fn unicast_key(&self, member: &MemberId, direction: Direction) -> Option<UnicastKey> {
        unicast_key(self.pair(member, direction)?, direction)
    }

    fn pair(&self, member: &MemberId, direction: Direction) -> Option<&Pair> {
        match direction {
            Direction::Out => self.peers.up(member).map(|up| &up.pair),
            Direction::In => self.peers.pair(member),
        }
    }

    /// How long a hello key lives at most, unless it is renewed before.
    pub fn key_life(&self) -> Duration {
        self.config.key_life.max(self.config.hello_interval * KEY_INTERVALS)
    }

    /// Another life for hello keys; that of the present one begins anew.
    pub fn set_key_life(&mut self, now: Time, life: Duration) {
        if life != self.config.key_life {
            self.config.key_life = life;
            self.key_due = self.key_end(now);
        }
    }

    /// Another hello key. Happens by itself when its life is over; also to be called when an SA has carried all that
    /// it may, when its key was in use before, or when the SPIs of two SAs to receive on have met.
    pub fn renew_key(&mut self, now: Time) {
        self.key.renew(&mut self.keys);
        self.key_due = self.key_end(now);
        let own = &self.key;
        for pair in self.peers.pairs_mut() {
            // The neighbour's key is the one that was good enough for the last pair.
            let Some(renewed) = own.pair(pair.neighbor()) else { continue };
            *pair = renewed;
        }
        self.schedule.trigger(now);
        self.events.push_back(Event::Renewed);
    }

    pub(crate) fn key_end(&mut self, now: Time) -> Time {
        let life = self.key_life();
        // Not all at the same time.
        let micros = u64::try_from((life / JITTER_PART).as_micros()).unwrap_or(u64::MAX);
        now + life - Duration::from_micros(self.rng.next_u64() % micros.max(1))
    }
}

/// The SPI has its own label, so that the key is bound to it and neither tells anything of the other.
fn unicast_key(pair: &Pair, direction: Direction) -> Option<UnicastKey> {
    let (mut spi, mut key) = ([0; 4], Zeroizing::new([0; 36]));
    if !pair.export(direction, SPI_LABEL, &[], &mut spi) {
        return None;
    }
    let spi = 0x4000_0000 | (u32::from_be_bytes(spi) & 0x3fff_ffff);
    pair.export(direction, KEY_LABEL, &[&spi.to_be_bytes()], &mut *key).then_some(UnicastKey { spi, key })
}
