//! Signatures made by OpenSSL over bytes laid out by hand: u64 length of the label, label, bytes (Ed25519, RFC 8032).

use muster_certs::{SigningKey, Verified};
use muster_wire::idp::PrefixesAck;
use muster_wire::mike::Leaf;
use muster_wire::{Envelope, GroupTag, Header, Kind, MemberId, codec};

const DATAGRAM: &str = "4d5354520105000102030405060708090a0b0c0d0e0f\
    101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f\
    000000006a5b4c3d0000000000000102000000000000070800000009";
const DATAGRAM_SIGNATURE: &str = "22dc3d5a54a1ccbf30d1cd0bf521ccf6281abb294131866a78afbcae06b455e2\
    af6494ac7c66a8304e2e9a33632c47c4f9eebcb386b800867a5abdfa92ef3208";
const LEAF: &str = "01202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f404142434445464748494a4b4c4d4e\
    4f00000000000011120000000000001314404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f";
const LEAF_SIGNATURE: &str = "6861b4786fd91c44dc1c3a9811e736025ed7a43ee8c95d7137317f02035aa27f\
    8ed1a7e4c126f4a58ff53f95883a91dc9622cf3e8efd4950c22c1e8385406c0c";

#[test]
fn a_signed_datagram() {
    let key = key();
    let header = Header {
        kind: Kind::PrefixesAck,
        group: GroupTag(run(0x00)),
        sender: MemberId(run(0x10)),
        startup: 0x6a5b_4c3d,
        sequence: 0x0102,
    };
    let body = codec::encode(&PrefixesAck { startup: 0x0708, version: 9 }).unwrap();
    let datagram = from_hex(&[DATAGRAM, DATAGRAM_SIGNATURE].concat());
    assert_eq!(key.seal(&header, &body).unwrap(), datagram);
    let opened: Verified<Envelope> = key.public().open(Envelope::parse(&datagram).unwrap()).unwrap();
    assert_eq!(opened.header(), &header);
}

#[test]
fn a_signed_leaf() {
    let key = key();
    let leaf = Leaf {
        mode: 1,
        group: GroupTag(run(0x20)),
        member: MemberId(run(0x30)),
        startup: 0x1112,
        generation: 0x1314,
        public: run(0x40),
    };
    let signed = key.sign_value(&leaf).unwrap();
    assert_eq!(signed.signed_bytes(), from_hex(LEAF));
    assert_eq!(signed.signature().0.as_slice(), from_hex(LEAF_SIGNATURE));
    assert_eq!(*key.public().verify(&signed).unwrap(), leaf);
}

fn key() -> SigningKey {
    let key = SigningKey::from_seed(&run(1));
    let public = "79b5562e8fe654f94078b112e8a98ba7901f853ae695bed7e0e3910bad049664";
    assert_eq!(key.public().to_bytes().as_slice(), from_hex(public));
    key
}

fn run<const N: usize>(first: u8) -> [u8; N] {
    std::array::from_fn(|n| first.wrapping_add(n as u8))
}

fn from_hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}
