//! What tells, long before a signature could, that some member of an epoch has sent a datagram.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
use muster_wire::{MAC_LEN, Voucher};

use crate::EpochKeys;

/// An epoch's key for vouchers. Every member has it, so that it says nothing of which of them it was, and authorises
/// nothing.
pub struct VoucherKey {
    tag: u16,
    /// Erased by the library when it is dropped.
    key: Key,
}

impl EpochKeys {
    /// The key of this epoch's vouchers.
    pub fn voucher_key(&self) -> VoucherKey {
        VoucherKey { tag: self.spi_tag, key: Key::new(HMAC_SHA256, &*self.voucher_secret()) }
    }
}

impl VoucherKey {
    /// The voucher for an envelope.
    pub fn voucher(&self, envelope: &[u8]) -> Voucher {
        Voucher { tag: self.tag, mac: self.mac(envelope) }
    }

    /// Whether a member has vouched for this envelope.
    pub fn is_right(&self, voucher: &Voucher, envelope: &[u8]) -> bool {
        voucher.tag == self.tag && verify_slices_are_equal(&voucher.mac, &self.mac(envelope)).is_ok()
    }

    fn mac(&self, envelope: &[u8]) -> [u8; MAC_LEN] {
        let mut mac = [0; MAC_LEN];
        mac.copy_from_slice(&sign(&self.key, envelope).as_ref()[..MAC_LEN]);
        mac
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::tests::Net;

    #[test]
    fn an_epochs_members_recognise_each_others_vouchers_and_nobody_else_does() {
        let mut net = Net::new(4);
        net.connect(&[0, 1, 2]);
        net.run_until_true(Duration::from_secs(3), Net::is_one_group);
        let key = |net: &Net, device: usize| net.devices[device].machine.keys().voucher_key();
        let voucher = key(&net, 0).voucher(b"an envelope");
        assert_eq!(voucher.tag, net.devices[0].machine.keys().spi_tag);
        assert!((0..3).all(|member| key(&net, member).is_right(&voucher, b"an envelope")));
        assert!(!key(&net, 1).is_right(&voucher, b"another envelope"));
        for change in 0..MAC_LEN {
            let mut forged = voucher;
            forged.mac[change] ^= 1;
            assert!(!key(&net, 1).is_right(&forged, b"an envelope"));
        }
        // Who is in no group with it, and the next epoch, under the same tag.
        let under = |tag: u16, key: VoucherKey| VoucherKey { tag, ..key };
        assert!(!under(voucher.tag, key(&net, 3)).is_right(&voucher, b"an envelope"));
        net.command(0, |machine, now| machine.rekey(now));
        net.run_for(Duration::from_secs(1));
        assert!(!under(voucher.tag, key(&net, 1)).is_right(&voucher, b"an envelope"));
        assert!(key(&net, 1).is_right(&key(&net, 2).voucher(b"an envelope"), b"an envelope"));
    }

    /// Written from the specification: HMAC-SHA-256 (RFC 2104) by the two hashes that it is made of.
    #[test]
    fn the_mac_is_the_first_half_of_hmac_sha_256() {
        use sha2::{Digest, Sha256};
        let secret = [7; 32];
        let padded = |byte: u8| -> Vec<u8> { (0..64).map(|at| secret.get(at).unwrap_or(&0) ^ byte).collect() };
        let inner = Sha256::digest([padded(0x36).as_slice(), b"an envelope"].concat());
        let outer = Sha256::digest([padded(0x5c).as_slice(), &inner].concat());
        let key = VoucherKey { tag: 1, key: Key::new(HMAC_SHA256, &secret) };
        assert_eq!(key.voucher(b"an envelope").mac, outer[..16]);
    }
}
