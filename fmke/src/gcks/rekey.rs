//! A re-key SA of a group at the key server, and what was sent under it.

use muster_wire::Time;
use rand_core::Rng;

use super::context::Context;
use super::life::Life;
use super::profile::Group;
use super::store::Write;
use crate::isakmp::{Chain, KeyPacket, RekeySa, kek_attribute, kek_key, key_type, kind};
use crate::lkh::{self, LKH_CHAINED, LKH_VERSION};
use crate::push::{MulticastSender, Push, RekeyKeys};

pub(super) struct Rekey {
    pub(super) keys: RekeyKeys,
    pub(super) sender: MulticastSender,
    life: Life,
    /// The message id of the last LSEQ message.
    told: u32,
}

impl Rekey {
    /// Of the tree with this root.
    pub(super) fn new(life: Life, name: &str, root: &lkh::Key, ctx: &mut Context<'_>) -> Self {
        let mut spi = [0; 16];
        ctx.rng.fill_bytes(&mut spi);
        let keys = RekeyKeys::new(root, spi);
        ctx.writes.push(Write::rekey(name, &keys, life.to_bytes(&ctx.calendar)));
        Self::with_keys(life.since, keys, life)
    }

    /// With these keys, whose first message is still to be made.
    pub(super) fn with_keys(now: Time, keys: RekeyKeys, life: Life) -> Self {
        // "The first packet sent for a given Rekey SA will have a Sequence Number of 1." (draft 7.5)
        Rekey { keys, sender: MulticastSender::new(now, 1), life, told: 0 }
    }

    /// How it is told. `version` is that of the tree whose root its keys come from.
    pub(super) fn sa(&self, profile: &Group, version: u32, ctx: &Context<'_>) -> RekeySa {
        let attributes = vec![
            (kek_attribute::MANAGEMENT, LKH_CHAINED),
            // KEK_ALG_AES, CBC, 256 bits
            (kek_attribute::ALGORITHM, 3),
            (kek_attribute::KEY_LENGTH, 256),
            (kek_attribute::LIFETIME, self.life.seconds()),
            (kek_attribute::SIGNATURE, ctx.signer.algorithm().number().into()),
            // "must be initially transmitted to Group members during the phase 2 as an attribute of the Re-key SA" (draft 7.5)
            (kek_attribute::NEXT_SEQUENCE, self.sender.next_number()),
            (LKH_VERSION, version),
        ];
        let source = (ctx.server.ip(), ctx.server.port());
        RekeySa { source, destination: profile.rekey, spi: self.keys.spi(), attributes }
    }

    /// What shows that a message is the key server's.
    pub(super) fn signature_key(&self, ctx: &Context<'_>) -> KeyPacket {
        KeyPacket::new(key_type::KEK, &self.keys.spi()).with(kek_key::SIGNATURE, &ctx.signer.public_spki())
    }

    /// The next message, sealed, kept for who misses it, and stored: after a restart it is sent again, too.
    pub(super) fn push(&mut self, now: Time, name: &str, push: &Push, ctx: &mut Context<'_>) -> Vec<u8> {
        let number = self.sender.next_number();
        let datagram = self.seal(ctx.new_message_id(), push.chain(number, ctx.doi), ctx);
        ctx.writes.push(Write::sent(name, &self.keys.spi(), number, &datagram));
        self.sender.push(now, datagram)
    }

    /// What is to be sent by `now`: the number of the last message.
    pub(super) fn due(&mut self, now: Time, ctx: &mut Context<'_>) -> Option<Vec<u8>> {
        let number = self.sender.due(now)?;
        let mut chain = Chain::new();
        chain.add(kind::LSEQ, &number.to_be_bytes());
        // Members take none twice: it rises, also from before a restart.
        let seconds = u32::try_from(ctx.calendar.unix(now)).unwrap_or(u32::MAX);
        self.told = seconds.max(self.told.saturating_add(1));
        Some(self.seal(self.told, chain, ctx))
    }

    /// When it is to be replaced.
    pub(super) fn renewal(&self, profile: &Group) -> Time {
        self.life.renewal(profile.kek_lifetime)
    }

    /// Takes it out of the store.
    pub(super) fn forget(&self, name: &str, ctx: &mut Context<'_>) {
        let spi = self.keys.spi();
        ctx.writes.push(Write::no_rekey(name, &spi));
        ctx.writes.extend((1..self.sender.next_number()).map(|number| Write::not_sent(name, &spi, number)));
    }

    fn seal(&self, message_id: u32, chain: Chain, ctx: &Context<'_>) -> Vec<u8> {
        let signer = ctx.signer;
        self.keys.seal(message_id, chain, signer.algorithm().signature_len(), |message| signer.sign(message))
    }
}
