//! Vouchers: put before what is sent, checked and taken off what is received (keyagree/SPEC.md, 6).

use muster_keyagree::{EpochKeys, VoucherKey};
use muster_wire::{Hash, Voucher};

/// The epochs that are received under, in the order in which they were entered: their tags differ.
#[derive(Default)]
pub(crate) struct Vouching(Vec<Epoch>);

struct Epoch {
    tag: u16,
    header: Hash,
    key: VoucherKey,
    /// It is, or was, sent under.
    is_active: bool,
}

impl Vouching {
    /// Vouchers of this epoch are recognised from now on. Who is alone has nobody to recognise.
    pub(crate) fn enter(&mut self, keys: &EpochKeys) {
        if keys.members.len() > 1 {
            let (tag, header, key) = (keys.spi_tag, keys.header, keys.voucher_key());
            self.0.push(Epoch { tag, header, key, is_active: false });
        }
    }

    /// This epoch may be vouched under.
    pub(crate) fn activate(&mut self, header: Hash) {
        self.0.iter_mut().filter(|epoch| epoch.header == header).for_each(|epoch| epoch.is_active = true);
    }

    /// Forgets an epoch's key.
    pub(crate) fn retire(&mut self, header: &Hash) {
        self.0.retain(|epoch| epoch.header != *header);
    }

    /// What is sent in place of an envelope. The epoch vouched under is the oldest that still lives, for that is the one
    /// that the members hold: a commit that shuts somebody out is sent under at once, and they are to take it in a flood.
    /// Who is shut out knows that key, too, and can for so long what any member can: claim a place in the queue.
    pub(crate) fn wrap(&self, envelope: Vec<u8>) -> Vec<u8> {
        match self.0.iter().find(|epoch| epoch.is_active) {
            Some(epoch) => epoch.key.voucher(&envelope).before(&envelope),
            None => envelope,
        }
    }

    /// The envelope in a datagram, and whether a member has vouched for it. A voucher that is wrong, or of an epoch
    /// that is unknown here, is as none: its sender may be of another group, or in an epoch that we are not in yet.
    pub(crate) fn unwrap<'a>(&self, datagram: &'a [u8]) -> (&'a [u8], bool) {
        let (voucher, envelope) = Voucher::split(datagram);
        let vouched = voucher.is_some_and(|voucher| {
            self.0.iter().any(|epoch| epoch.tag == voucher.tag && epoch.key.is_right(&voucher, envelope))
        });
        (envelope, vouched)
    }
}
