//! The bytes of every message, written from the layout and not by the code.
//!
//! Big-endian integers of fixed width; arrays as they are; structures field by field; an enum's variant as a u32,
//! counted from 0 in the order of declaration; a bool and an option's tag as one byte, 0 or 1; a `List` as a u16 count
//! and the items; `Bytes` as a u32 length and the bytes; a `Signed` as `Bytes` and 64 bytes of signature.
//!
//! In the vectors `a0+32` stands for 32 bytes that count up from a0, and `( … )` for the bytes inside with their u32
//! length before them.

use muster_wire::codec::{decode, encode};
use muster_wire::idp::{CrlNumber, Goodbye, GroupState, Hello, Prefix, PrefixList, Prefixes, PrefixesAck, Probe};
use muster_wire::idp::{CrlPart, CrlRequest, ProbeAnswer};
use muster_wire::mike::{
    Ack, Activate, Chunk, Ciphertext, Commit, CommitBody, EpochHeader, Exposure, Fill, Fills, FillsWanted, Handover,
    Leaf, Leave, Objection, Refresh,
};
use muster_wire::mike::{HandoverRefused, MessageKind, Parent, ParentKind, RekeyRequest, Request, SealedSecrets};
use muster_wire::mike::{Side, Snapshot};
use muster_wire::{Body, Bytes, Envelope, GroupTag, Hash, Header, Instance, Kind, List, MemberId, Nonce, Signable};
use muster_wire::{Signature, Signed, Voucher};

const INSTANCE: &str = "10+32 0000000000000102 030405060708090a";
const LEAF: &str = "01 20+16 30+32 0000000000001112 0000000000001314 40+32";
const SIGNED_LEAF: &str = "(01 20+16 30+32 0000000000001112 0000000000001314 40+32) 50+64";
const EPOCH_HEADER: &str = "01 20+16 10+32 0000000000000102 030405060708090a 0000000000002122 60+32 70+32 80+32 0fed
    90+32 a0+32";
const HANDOVER: &str = "20+16 10+32 0000000000000102 030405060708090a 0000000000002122 b0+32
    10+32 0000000000000102 030405060708090a 0003 0001 0203 0fff
    0001 (01 20+16 30+32 0000000000001112 0000000000001314 40+32) 50+64";
const PARENT: &str = "00000002 0000000000003132 00000001 c0+32 33343536 d0+64";
const CIPHERTEXT: &str = "41424344 45464748 01+48";

#[test]
fn hello() {
    let hello = Hello {
        interval_ms: 1000,
        nonce: Nonce(run(0xa0)),
        public: run(0xb0),
        group: GroupState {
            instance: instance(),
            epoch: 0x2122,
            size: 5,
            header: Hash(run(0xc0)),
            installed: false,
            active: true,
        },
        crls: list([
            CrlNumber { issuer: Hash(run(0xd0)), number: 7 },
            CrlNumber { issuer: Hash(run(0xe0)), number: u64::MAX },
        ]),
    };
    let text = format!(
        "000003e8 a0+16 b0+32 {INSTANCE} 0000000000002122 00000005 c0+32 00 01
         0002 d0+32 0000000000000007 e0+32 ffffffffffffffff"
    );
    is_body(&hello, 1, &text);
}

#[test]
fn probe() {
    let probe = Probe { hello_nonce: Nonce(run(0xa0)), nonce: Nonce(run(0xb0)), want_chain: true };
    is_body(&probe, 2, "a0+16 b0+16 01");
    is_body(&Probe { want_chain: false, ..probe }, 2, "a0+16 b0+16 00");
}

#[test]
fn probe_answer() {
    let chain = list([bytes(&[1, 2, 3]), bytes(&[]), bytes(&[4])]);
    is_body(&ProbeAnswer { nonce: Nonce(run(0xa0)), chain }, 3, "a0+16 0003 00000003 010203 00000000 00000001 04");
    is_body(&ProbeAnswer { nonce: Nonce(run(0xa0)), chain: List::default() }, 3, "a0+16 0000");
}

#[test]
fn prefixes() {
    is_body(&Prefixes { version: 0x0102, sealed: bytes(&[9, 8, 7]) }, 4, "00000102 00000003 090807");
    let list: PrefixList = list([
        Prefix { family: 4, length: 24, address: [10, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] },
        Prefix { family: 6, length: 64, address: [0x20, 1, 0xd, 0xb8, 0, 0xa, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] },
    ]);
    let text = "0002 04 18 0a010200 000000000000000000000000 06 40 20010db8000a0000 0000000000000000";
    is(&list, text);
}

#[test]
fn prefixes_ack() {
    is_body(&PrefixesAck { startup: 0x0102, version: 3 }, 5, "0000000000000102 00000003");
}

#[test]
fn goodbye() {
    is_body(&Goodbye {}, 6, "");
}

#[test]
fn crl_request() {
    let request = CrlRequest {
        hello_nonce: Nonce(run(0xa0)),
        list: CrlNumber { issuer: Hash(run(0xd0)), number: 0x0102 },
        wanted: 0x8000_0000_0000_0005,
    };
    is_body(&request, 7, "a0+16 d0+32 0000000000000102 8000000000000005");
}

#[test]
fn crl_part() {
    let list = CrlNumber { issuer: Hash(run(0xd0)), number: 0x0102 };
    let part = CrlPart { list, length: 0x0403, index: 1, data: bytes(&[7, 8, 9]) };
    is_body(&part, 8, "d0+32 0000000000000102 00000403 01 00000003 070809");
}

#[test]
fn chunk() {
    for (kind, number) in [(MessageKind::Commit, 0), (MessageKind::Snapshot, 1), (MessageKind::Handover, 2)] {
        let chunk = Chunk {
            message: Hash(run(0xa0)),
            kind,
            header: Hash(run(0xb0)),
            length: 0x1_0002,
            index: 0x0304,
            data: bytes(&[1, 2, 3, 4, 5]),
        };
        let text = format!("a0+32 0000000{number} b0+32 00010002 0304 00000005 0102030405");
        is_body(&chunk, 16, &text);
    }
}

#[test]
fn request() {
    let request =
        Request { hello_nonce: Nonce(run(0xa0)), message: Hash(run(0xb0)), missing: list([1, 0x0203, 0xffff]) };
    is_body(&request, 17, "a0+16 b0+32 0003 0001 0203 ffff");
}

#[test]
fn fills() {
    let fill = Fill { node: 0x0506_0708, parent: parent_value() };
    let text = format!("b0+32 0001 05060708 {PARENT}");
    is_body(&Fills { header: Hash(run(0xb0)), fills: list([fill]) }, 23, &text);
    is_body(&FillsWanted { header: Hash(run(0xb0)), nodes: list([1, 0x0203]) }, 24, "b0+32 0002 00000001 00000203");
    let objection = Objection { header: Hash(run(0xb0)), node: 0x0102_0304, public: run(0xc0) };
    is_body(&objection, 25, "b0+32 01020304 c0+32");
}

#[test]
fn refresh() {
    let refresh = Refresh { instance: instance(), urgent: true, leaf: signed(&leaf_value()) };
    is_body(&refresh, 26, &format!("{INSTANCE} 01 {SIGNED_LEAF}"));
}

#[test]
fn exposure() {
    let header = signed(&header_value());
    let text = format!("({EPOCH_HEADER}) 50+64 ({EPOCH_HEADER}) 50+64");
    is_body(&Exposure { first: header.clone(), second: header }, 27, &text);
}

#[test]
fn handover_refused() {
    is_body(&HandoverRefused { handover: Hash(run(0xa0)) }, 18, "a0+32");
}

#[test]
fn messages_that_name_an_epoch() {
    let (instance, epoch, header) = (instance(), 0x2122, Hash(run(0xc0)));
    let text = format!("{INSTANCE} 0000000000002122 c0+32");
    is_body(&Ack { instance, epoch, header }, 19, &text);
    is_body(&Activate { instance, epoch, header }, 20, &text);
    is_body(&Leave { instance, epoch, header }, 21, &text);
    is_body(&RekeyRequest { instance, epoch, header }, 22, &text);
}

#[test]
fn leaf() {
    is(&leaf_value(), LEAF);
    is(&signed(&leaf_value()), SIGNED_LEAF);
}

#[test]
fn epoch_header() {
    is(&header_value(), EPOCH_HEADER);
}

#[test]
fn handover() {
    is(&handover_value(), HANDOVER);
    is(&signed(&handover_value()), &format!("({HANDOVER}) 50+64"));
}

#[test]
fn parent() {
    is(&parent_value(), PARENT);
    let kinds = [(ParentKind::Agreed, 0), (ParentKind::Lifted, 1), (ParentKind::Sealed, 2)];
    kinds.into_iter().for_each(|(kind, number)| is(&kind, &format!("0000000{number}")));
    [(Side::Left, 0), (Side::Right, 1)].into_iter().for_each(|(side, n)| is(&side, &format!("0000000{n}")));
}

#[test]
fn commit() {
    let commit = Commit {
        header: signed(&header_value()),
        handovers: list([signed(&handover_value())]),
        body: CommitBody {
            fills: list([Fill { node: 0x5152, parent: parent_value() }]),
            removed: list([1, 0x0203_0405]),
            refreshed: list([signed(&leaf_value())]),
            leaf: Some(signed(&leaf_value())),
            path: list([parent_value(), parent_value()]),
            ephemeral: run(0xe0),
            ciphertexts: list([ciphertext_value()]),
        },
    };
    let text = format!(
        "({EPOCH_HEADER}) 50+64
         0001 ({HANDOVER}) 50+64
         0001 00005152 {PARENT}
         0002 00000001 02030405
         0001 {SIGNED_LEAF}
         01 {SIGNED_LEAF}
         0002 {PARENT} {PARENT}
         e0+32
         0001 {CIPHERTEXT}"
    );
    is(&commit, &text);
    let smallest = Commit { header: signed(&header_value()), handovers: List::default(), body: CommitBody::default() };
    is(&smallest, &format!("({EPOCH_HEADER}) 50+64 0000 0000 0000 0000 00 0000 {} 0000", "00".repeat(32)));
}

#[test]
fn snapshot() {
    let snapshot = Snapshot {
        header: signed(&header_value()),
        handovers: list([signed(&handover_value())]),
        slots: 8,
        leaves: list([(0, signed(&leaf_value())), (7, signed(&leaf_value()))]),
        parents: list([(0x0102_0304, parent_value())]),
        sealed: list([SealedSecrets { node: 0x6162, ephemeral: run(0xe0), ciphertexts: list([ciphertext_value()]) }]),
        fills: list([Fill { node: 0x5152, parent: parent_value() }]),
    };
    let text = format!(
        "({EPOCH_HEADER}) 50+64
         0001 ({HANDOVER}) 50+64
         00000008
         0002 00000000 {SIGNED_LEAF} 00000007 {SIGNED_LEAF}
         0001 01020304 {PARENT}
         0001 00006162 e0+32 0001 {CIPHERTEXT}
         0001 00005152 {PARENT}"
    );
    is(&snapshot, &text);
}

/// Whole and without any shorthand.
#[test]
fn envelope() {
    let datagram = from_hex(
        "4d53545201050001020304050607 08090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f
         202122232425262728292a2b2c2d 2e2f000000006a5b4c3d0000000000000102000000000000
         070800000009f0f1f2f3f4f5f6f7 f8f9fafbfcfdfeff00010203040506070809 0a0b0c0d0e0f
         101112131415161718191a1b1c1d 1e1f202122232425262728292a2b2c2d2e2f",
    );
    let header = Header {
        kind: Kind::PrefixesAck,
        group: GroupTag(run(0x00)),
        sender: MemberId(run(0x10)),
        startup: 0x6a5b_4c3d,
        sequence: 0x0102,
    };
    let ack = PrefixesAck { startup: 0x0708, version: 9 };
    let made = Envelope::seal(&header, &encode(&ack).unwrap(), |signed| {
        assert_eq!(signed, &datagram[..datagram.len() - 64]);
        Signature(run(0xf0))
    });
    assert_eq!(made.unwrap(), datagram);
    let envelope = Envelope::parse(&datagram).unwrap();
    assert_eq!((envelope.header(), envelope.signature()), (&header, Signature(run(0xf0))));
    assert_eq!(envelope.decode::<PrefixesAck>().unwrap(), ack);
}

#[test]
fn voucher() {
    let datagram = from_hex("4d535456 0fed f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff 4d535452 01");
    let voucher = Voucher { tag: 0x0fed, mac: run(0xf0) };
    assert_eq!(Voucher::split(&datagram), (Some(voucher), b"MSTR\x01".as_slice()));
    assert_eq!(voucher.before(b"MSTR\x01"), datagram);
}

#[test]
fn labels() {
    assert_eq!(Envelope::LABEL, b"muster 1 envelope");
    assert_eq!(Leaf::LABEL, b"muster 1 leaf");
    assert_eq!(EpochHeader::LABEL, b"muster 1 header");
    assert_eq!(Handover::LABEL, b"muster 1 hand-over");
}

fn instance() -> Instance {
    Instance { tm: MemberId(run(0x10)), startup: 0x0102, random: 0x0304_0506_0708_090a }
}

fn leaf_value() -> Leaf {
    Leaf {
        mode: 1,
        group: GroupTag(run(0x20)),
        member: MemberId(run(0x30)),
        startup: 0x1112,
        generation: 0x1314,
        public: run(0x40),
    }
}

fn header_value() -> EpochHeader {
    EpochHeader {
        suite: 1,
        group: GroupTag(run(0x20)),
        instance: instance(),
        epoch: 0x2122,
        parent: Hash(run(0x60)),
        transcript: Hash(run(0x70)),
        confirmation: Hash(run(0x80)),
        spi_tag: 0x0fed,
        handovers: Hash(run(0x90)),
        body: Hash(run(0xa0)),
    }
}

fn handover_value() -> Handover {
    Handover {
        group: GroupTag(run(0x20)),
        from: instance(),
        epoch: 0x2122,
        header: Hash(run(0xb0)),
        target: instance(),
        tags: list([1, 0x0203, 0x0fff]),
        leaves: list([signed(&leaf_value())]),
    }
}

fn parent_value() -> Parent {
    Parent {
        kind: ParentKind::Sealed,
        epoch: 0x3132,
        source: Side::Right,
        public: run(0xc0),
        author: 0x3334_3536,
        signature: Signature(run(0xd0)),
    }
}

fn ciphertext_value() -> Ciphertext {
    Ciphertext { node: 0x4142_4344, recipient: 0x4546_4748, sealed: run(0x01) }
}

fn signed<T: Signable>(value: &T) -> Signed<T> {
    Signed::new(value, |_, _| Signature(run(0x50))).unwrap()
}

fn list<T, const N: usize>(items: impl IntoIterator<Item = T>) -> List<T, N> {
    List::new(items.into_iter().collect()).unwrap()
}

fn bytes<const N: usize>(bytes: &[u8]) -> Bytes<N> {
    Bytes::new(bytes.to_vec()).unwrap()
}

fn run<const N: usize>(first: u8) -> [u8; N] {
    std::array::from_fn(|n| first.wrapping_add(n as u8))
}

fn is_body<T: Body + std::fmt::Debug + PartialEq>(value: &T, kind: u8, vector: &str) {
    assert_eq!(T::KIND as u8, kind);
    is(value, vector);
}

fn is<T: bincode::Encode + bincode::Decode<()> + std::fmt::Debug + PartialEq>(value: &T, vector: &str) {
    let vector = from_hex(vector);
    assert_eq!(encode(value).unwrap(), vector);
    assert_eq!(decode::<T>(&vector).as_ref(), Ok(value));
}

fn from_hex(vector: &str) -> Vec<u8> {
    let vector = vector.replace('(', " ( ").replace(')', " ) ");
    let mut open = vec![Vec::new()];
    for token in vector.split_whitespace() {
        if token == "(" {
            open.push(Vec::new());
            continue;
        }
        let bytes = if token == ")" {
            let inside = open.pop().unwrap();
            [&(inside.len() as u32).to_be_bytes()[..], &inside].concat()
        } else if let Some((first, count)) = token.split_once('+') {
            let first = u8::from_str_radix(first, 16).unwrap();
            (0..count.parse::<usize>().unwrap()).map(|n| first.wrapping_add(n as u8)).collect()
        } else {
            assert_eq!(token.len() % 2, 0, "{token}");
            (0..token.len()).step_by(2).map(|at| u8::from_str_radix(&token[at..at + 2], 16).unwrap()).collect()
        };
        open.last_mut().unwrap().extend(bytes);
    }
    assert_eq!(open.len(), 1);
    open.remove(0)
}
