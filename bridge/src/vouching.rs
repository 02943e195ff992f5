//! Vouchers: put before what is sent, checked and taken off what is received.

use std::collections::BTreeMap;

use muster_keyagree::{EpochKeys, VoucherKey};
use muster_wire::{Hash, Voucher};

/// The keys of the epochs that are received under, and which of them is sent under.
#[derive(Default)]
pub(crate) struct Vouching {
    /// By SPI tag: epochs that live together differ in it.
    epochs: BTreeMap<u16, (Hash, VoucherKey)>,
    sending: Option<Hash>,
}

impl Vouching {
    /// Vouchers of this epoch are recognised from now on. Who is alone has nobody to recognise.
    pub(crate) fn enter(&mut self, keys: &EpochKeys) {
        if keys.members.len() > 1 {
            self.epochs.insert(keys.spi_tag, (keys.header, keys.voucher_key()));
        }
    }

    /// Vouches under this epoch from now on. Not sooner: others may not have it yet.
    pub(crate) fn activate(&mut self, header: Hash) {
        self.sending = Some(header);
    }

    /// Forgets an epoch's key.
    pub(crate) fn retire(&mut self, header: &Hash) {
        self.epochs.retain(|_, (retired, _)| retired != header);
    }

    /// What is sent in place of an envelope.
    pub(crate) fn wrap(&self, envelope: Vec<u8>) -> Vec<u8> {
        let sending = self.epochs.values().find(|(header, _)| Some(*header) == self.sending);
        match sending {
            Some((_, key)) => key.voucher(&envelope).before(&envelope),
            None => envelope,
        }
    }

    /// The envelope in a datagram, and whether a member has vouched for it. A voucher that is wrong, or of an epoch
    /// that is unknown here, is as none: its sender may be of another group, or in an epoch that we are not in yet.
    pub(crate) fn unwrap<'a>(&self, datagram: &'a [u8]) -> (&'a [u8], bool) {
        let (voucher, envelope) = Voucher::split(datagram);
        let vouched = voucher.is_some_and(|voucher| {
            self.epochs.get(&voucher.tag).is_some_and(|(_, key)| key.is_right(&voucher, envelope))
        });
        (envelope, vouched)
    }
}
