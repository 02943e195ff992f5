//! A key server's side of one group, which says what it is told to say.

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use crate::crypto::rekey::{RekeyAlgorithm, RekeySigner};
use crate::isakmp::{
    Chain, KeyDownload, KeyPacket, PreservedAddress, RekeySa, TrafficSa, kek_attribute, kek_key, key_type, kind,
    tek_key,
};
use crate::lkh::{KeyTree, LKH_CHAINED, LKH_DOWNLOAD_ARRAY, LKH_JOINS, LKH_VERSION};
use crate::push::{Push, RekeyKeys};

pub(super) const DOI: u32 = 2;
pub(super) const SPI: [u8; 16] = *b"initiat0respond0";

/// With a group of two, of whom the client is the first.
pub(super) struct GroupServer {
    pub(super) keys: RekeyKeys,
    signer: RekeySigner,
    tree: KeyTree,
    /// As it is told by phase 2, with its keys.
    pub(super) sa: RekeySa,
    pub(super) download: KeyDownload,
    pub(super) rng: ChaCha20Rng,
}

impl GroupServer {
    pub(super) fn new() -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let signer = RekeySigner::generate(RekeyAlgorithm::EcdsaP256, &mut rng).unwrap();
        let mut tree = KeyTree::new();
        let (change, joins) = tree.stage_joins(2, &mut rng).unwrap();
        tree.commit(change).unwrap();
        let download = tree.download(joins.places()[0]).unwrap();
        let keys = RekeyKeys::new(tree.root().unwrap().key(), SPI);
        let packets = vec![
            KeyPacket::new(key_type::KEK, &SPI).with(kek_key::SIGNATURE, &signer.public_spki()),
            KeyPacket::new(key_type::LKH, &SPI).with(LKH_DOWNLOAD_ARRAY, &download.encode()),
        ];
        let attributes = vec![
            (kek_attribute::MANAGEMENT, LKH_CHAINED),
            (kek_attribute::ALGORITHM, 3),
            (kek_attribute::KEY_LENGTH, 256),
            (kek_attribute::LIFETIME, 86_400),
            (kek_attribute::SIGNATURE, 4),
            (kek_attribute::NEXT_SEQUENCE, 5),
            (LKH_VERSION, tree.version()),
        ];
        let (source, destination) = (("192.0.2.1".parse().unwrap(), 848), ("239.255.0.1".parse().unwrap(), 848));
        let sa = RekeySa { source, destination, spi: SPI, attributes };
        GroupServer { keys, signer, tree, sa, download: KeyDownload { packets }, rng }
    }

    /// The SA with another value of an attribute, or without it.
    pub(super) fn with(&self, class: u16, value: Option<u32>) -> RekeySa {
        let mut sa = self.sa.clone();
        sa.attributes.retain(|(other, _)| *other != class);
        sa.attributes.extend(value.map(|value| (class, value)));
        sa
    }

    /// By multicast.
    pub(super) fn seal(&self, message_id: u32, chain: Chain) -> Vec<u8> {
        self.keys.seal(message_id, chain, 64, |message| self.signer.sign(message))
    }

    pub(super) fn told(&self, message_id: u32, last: u32) -> Vec<u8> {
        let mut chain = Chain::new();
        chain.add(kind::LSEQ, &last.to_be_bytes());
        self.seal(message_id, chain)
    }

    /// Another re-key SA, of the same tree.
    pub(super) fn renew(&mut self) {
        self.sa.spi = [8; 16];
        self.download.packets.iter_mut().for_each(|packet| packet.spi = [8; 16].to_vec());
    }

    /// Another member comes in: the next re-key SA with what those before it need for it.
    pub(super) fn join(&mut self) -> (RekeySa, KeyDownload) {
        let (change, joins) = self.tree.stage_joins(1, &mut self.rng).unwrap();
        self.tree.commit(change).unwrap();
        let sa = RekeySa { spi: [9; 16], ..self.with(LKH_VERSION, Some(self.tree.version())) };
        let packets = vec![KeyPacket::new(key_type::LKH, &sa.spi).with(LKH_JOINS, &joins.encode())];
        (sa, KeyDownload { packets })
    }
}

/// An SA of ESP with a key of `len` octets.
pub(super) fn traffic(spi: u32, len: usize) -> Push {
    let sa = TrafficSa {
        protocol: 17,
        source: ("10.3.0.0/16".parse().unwrap(), 0),
        destination: ("239.1.1.1/32".parse().unwrap(), 5004),
        tunnel: ("192.0.2.11".parse().unwrap(), "239.1.1.1".parse().unwrap()),
        spi,
        lifetime: 3600,
        preserved: PreservedAddress::Destination,
    };
    let mut push = Push::default();
    push.add_traffic(sa, KeyPacket::new(key_type::TEK, &spi.to_be_bytes()).with(tek_key::ALGORITHM, &vec![7; len]));
    push
}
