//! What RFC 2408, 2407 and 2409 draw.

use std::net::IpAddr;

use super::super::attribute::only;
use super::super::*;
use super::{field, hex, is_exact, kinds, with};

/// The first message of phase 2, with a SEQ payload alone.
const MESSAGE: &str = "
    0102030405060708    # Initiator Cookie
    1112131415161718    # Responder Cookie
    12 10 f0 01         # Next Payload SEQ, version 1.0, FMKE_unicast_Push, Encryption
    a1b2c3d4            # Message ID
    00000024            # Length
    00 00 0008 00000005 # SEQ";

fn header() -> Header {
    Header {
        initiator: Cookie(*b"\x01\x02\x03\x04\x05\x06\x07\x08"),
        responder: Cookie(*b"\x11\x12\x13\x14\x15\x16\x17\x18"),
        exchange: exchange::UNICAST_PUSH,
        flags: flags::ENCRYPTION,
        message_id: 0xa1b2_c3d4,
    }
}

#[test]
fn header_stands_as_in_the_figure() {
    let datagram = hex(MESSAGE);
    let (read, first, rest) = Header::parse(&datagram).unwrap();
    assert_eq!((read, first, rest), (header(), kind::SEQ, &datagram[HEADER_LEN..]));
    assert!(read.is_encrypted() && !Header { flags: 0, ..read }.is_encrypted());
    assert_eq!(header().write(first, rest), datagram);
    is_exact(&datagram, |datagram| Header::parse(datagram).is_ok());
}

#[test]
fn headers_that_may_not_be() {
    let datagram = hex(MESSAGE);
    let error = |at, octet| Header::parse(&with(&datagram, at, octet)).unwrap_err();
    // Of the same major version a larger minor one is refused, and every other major one.
    assert_eq!(error(17, 0x11), field("Version", 0x11));
    assert_eq!(error(17, 0x20), field("Version", 0x20));
    // "the remaining bits of the Flags field MUST be set to 0" (RFC 2408 3.1)
    assert_eq!(error(19, 0x09), field("Flags", 9));
    assert_eq!(error(27, 0x23), Malformed::Trailing);
    assert_eq!(error(27, 0x25), Malformed::Truncated);
    assert_eq!(error(24, 0xff), Malformed::Truncated);
    assert!(Header::parse(&with(&datagram, 19, 7)).is_ok(), "commit, and authentication only");
    // "In the Flags field, the encryption bit is set to 1 and the others bits MUST be set to 0" (draft 4.3)
    let multicast = with(&datagram, 18, exchange::MULTICAST_PUSH);
    assert!(Header::parse(&multicast).is_ok());
    for flags in [0, 2, 3, 5] {
        assert_eq!(Header::parse(&with(&multicast, 19, flags)), Err(field("Flags", flags.into())));
    }
}

#[test]
fn each_payload_says_what_the_next_one_is() {
    let bytes = hex("0a 00 0006 aabb # KE, then a nonce
                     0d 00 0005 cc
                     00 00 0004      # a vendor id of nothing");
    let list = payloads(kind::KE, &bytes, false).unwrap();
    assert_eq!(kinds(&list), [kind::KE, kind::NONCE, kind::VENDOR]);
    assert_eq!((list[0].body, list[0].whole), (&bytes[4..6], &bytes[..6]));
    assert_eq!(list[2].body, b"");
    is_exact(&bytes, |bytes| payloads(kind::KE, bytes, false).is_ok());

    let mut chain = Chain::default();
    chain.add(kind::NONCE, b"\xcc").add(kind::VENDOR, b"").precede(kind::KE, b"\xaa\xbb");
    assert_eq!((chain.first(), chain.bytes()), (kind::KE, &bytes[..]));
    let mut alone = Chain::new();
    assert_eq!((alone.first(), alone.bytes()), (kind::NONE, &b""[..]));
    alone.precede(kind::NONCE, b"\xcc").add(kind::VENDOR, b"");
    assert_eq!((alone.first(), alone.bytes()), (kind::NONCE, &bytes[6..]));
    assert_eq!(payloads(kind::NONE, b"", false), Ok(Vec::new()));
}

#[test]
fn payloads_that_may_not_be() {
    let bytes = hex("0a 00 0006 aabb 00 00 0005 cc");
    let error = |at, octet| payloads(kind::KE, &with(&bytes, at, octet), false).unwrap_err();
    // "RESERVED (1 octet) - Unused, set to 0": and what is set is refused (RFC 2408 5.3).
    assert_eq!(error(1, 1), field("RESERVED", 1));
    assert_eq!(error(7, 0x80), field("RESERVED", 0x80));
    assert_eq!(error(3, 3), field("Payload Length", 3));
    assert_eq!(error(9, 0), field("Payload Length", 0));
    assert_eq!(error(9, 6), Malformed::Truncated);
    assert_eq!(error(9, 4), Malformed::Trailing);
    assert_eq!(error(6, kind::NONCE), Malformed::Truncated);
    assert_eq!(error(0, kind::NONE), Malformed::Trailing);
    // "The next payload MUST NOT be a SAK Payload or SAT Payload type" (draft 7.6); RFC 2408 3.4 of the others.
    for inner in [kind::PROPOSAL, kind::TRANSFORM, kind::SAK, kind::SAT, kind::GAP] {
        assert_eq!(error(0, inner), field("Next Payload", inner.into()));
        assert_eq!(payloads(inner, &bytes, false), Err(field("Next Payload", inner.into())));
    }
}

#[test]
fn sixty_four_payloads_are_taken_and_no_more() {
    let chain = |count| {
        let mut chain = Chain::new();
        (0..count).for_each(|_| _ = chain.add(kind::VENDOR, b""));
        chain
    };
    assert_eq!(payloads(kind::VENDOR, chain(64).bytes(), false).unwrap().len(), MOST_PAYLOADS);
    assert_eq!(payloads(kind::VENDOR, chain(65).bytes(), false), Err(Malformed::TooMany));
}

#[test]
fn padding_is_a_block_at_most_and_of_an_encrypted_message() {
    let bytes = hex("00 00 0005 cc");
    for padding in [0, 1, 16] {
        let padded = [&bytes[..], &vec![0xee; padding]].concat();
        assert_eq!(kinds(&payloads(kind::NONCE, &padded, true).unwrap()), [kind::NONCE]);
        assert_eq!(payloads(kind::NONCE, &padded, false).is_ok(), padding == 0);
    }
    assert_eq!(payloads(kind::NONCE, &[&bytes[..], &[0; 17]].concat(), true), Err(Malformed::Trailing));
}

#[test]
fn what_a_payload_holds_is_not_printed() {
    let raw = Raw { kind: kind::KD, body: &[77; 9], whole: &[77; 13] };
    assert_eq!(format!("{raw:?}"), "payload 17 of 13 octets");
}

#[test]
fn attributes_are_tv_or_tlv() {
    let bytes = hex("800b 0001           # Life Type, seconds
                     000c 0004 00015180  # Life Duration
                     000c 0000");
    let list = attributes(&bytes).unwrap();
    assert_eq!(list, [Attribute::basic(11, 1), Attribute::number(12, 86_400), Attribute::variable(12, b"")]);
    let mut again = Vec::new();
    list.iter().for_each(|attribute| attribute.write(&mut again));
    assert_eq!(again, bytes);
    // Cut between two of them it is a shorter list.
    for len in 0..bytes.len() {
        assert_eq!(attributes(&bytes[..len]).is_ok(), [0, 4, 12].contains(&len), "{len} octets");
    }
    assert!(attributes(&[0x80, 1, 0, 0].repeat(64)).is_ok());
    assert_eq!(attributes(&[0x80, 1, 0, 0].repeat(65)), Err(Malformed::TooMany));
}

#[test]
fn numbers_of_attributes() {
    let variable = |octets: &[u8]| Attribute::variable(12, octets).to_number();
    assert_eq!(variable(b"\x07"), Ok(7));
    assert_eq!(variable(b"\0"), Ok(0));
    assert_eq!(variable(b"\x01\x00\x00"), Ok(65_536));
    assert_eq!(variable(&[0xff; 4]), Ok(u32::MAX));
    assert_eq!(variable(b"\0\0\0\0\x01\x02\x03\x04"), Ok(0x0102_0304));
    assert_eq!(variable(b""), Err(Malformed::Truncated));
    assert_eq!(variable(b"\x01\0\0\0\0"), Err(field("octets of a number", 5)));
    // "Variable length attributes MAY be encoded as basic attributes if their value can fit into two octets", but those
    // "described as basic MUST NOT be encoded as variable" (RFC 2409 Appendix A).
    assert_eq!(Attribute::basic(12, 28_800).to_number(), Ok(28_800));
    assert_eq!(Attribute::basic(11, 1).to_basic(), Ok(1));
    assert_eq!(Attribute::variable(11, b"\0\x01").to_basic(), Err(field("variable attribute", 11)));
    assert_eq!(Attribute::variable(1, b"key").octets(), Ok(&b"key"[..]));
    assert_eq!(Attribute::basic(1, 0x6b65).octets(), Err(field("basic attribute", 1)));
}

#[test]
fn an_attribute_says_one_thing() {
    let list = [Attribute::basic(1, 7), Attribute::basic(2, 4), Attribute::basic(1, 7), Attribute::basic(2, 5)];
    assert_eq!(only(&list, 1, "cipher"), Ok(&list[0]));
    assert_eq!(only(&list, 2, "hash"), Err(Malformed::Conflict("hash")));
    assert_eq!(only(&list, 3, "method"), Err(Malformed::Missing("method")));
}

/// SA of phase 1 with two transforms.
const OFFER: &str = "
    00000001            # DOI
    00000001            # Situation: SIT_IDENTITY_ONLY
    00 00 004c          # Proposal
    01 01 00 02         # Proposal #, PROTO_ISAKMP, SPI Size, # of Transforms
    03 00 0028          # Transform
    01 01 0000          # Transform #, KEY_IKE, RESERVED2
    8001 0007  800e 0100  8002 0004  8003 0001  8004 0013  800b 0001  000c 0004 00015180
    00 00 001c
    02 01 0000
    8001 0007  800e 0100  8002 0004  8003 0003  8004 000e";

#[test]
fn offer_stands_as_in_the_figures() {
    let body = hex(OFFER);
    let (doi, list) = Transform::offer(&body).unwrap();
    assert_eq!(doi, 1);
    assert_eq!(list[0], Transform { proposal: 1, number: 1, attributes: &body[24..56] });
    assert_eq!(list[1], Transform { proposal: 1, number: 2, attributes: &body[64..84] });
    assert_eq!(list.len(), 2);
    let first = list[0].attributes().unwrap();
    assert_eq!(first.len(), 7);
    assert_eq!(only(&first, phase1_attribute::GROUP, "group").unwrap().to_basic(), Ok(19));
    assert_eq!(only(&first, phase1_attribute::LIFE_DURATION, "life").unwrap().to_number(), Ok(86_400));
    assert_eq!(write_proposal(doi, &list), body);
    is_exact(&body, |body| Transform::offer(body).is_ok());
    // The choice goes back as it stood.
    let choice = write_proposal(doi, &list[1..]);
    assert_eq!(Transform::offer(&choice).unwrap(), (1, list[1..].to_vec()));
}

#[test]
fn offers_that_may_not_be() {
    let body = hex(OFFER);
    let error = |at, octet| Transform::offer(&with(&body, at, octet)).unwrap_err();
    assert_eq!(error(7, 2), field("Situation", 2));
    assert_eq!(error(8, kind::TRANSFORM), field("Next Payload", 3));
    assert_eq!(error(9, 1), field("RESERVED", 1));
    assert_eq!(error(14, 17), field("SPI Size", 17));
    assert_eq!(error(15, 1), field("# of Transforms", 1));
    assert_eq!(error(15, 3), field("# of Transforms", 3));
    assert_eq!(error(16, kind::PROPOSAL), field("Next Payload", 2));
    assert_eq!(error(22, 1), field("RESERVED2", 256));
    // Another protocol's, another transform's.
    assert_eq!(Transform::offer(&with(&body, 13, 3)).unwrap().1, []);
    assert_eq!(Transform::offer(&with(&body, 21, 2)).unwrap().1.len(), 1);
}

#[test]
fn an_spi_of_isakmp_is_ignored() {
    let spi = hex("00000001 00000001 00 00 0018 01 01 04 01 # SPI Size 4
                   deadbeef 00 00 000c 01 01 0000 8001 0007");
    let (_, list) = Transform::offer(&spi).unwrap();
    assert_eq!(list, [Transform { proposal: 1, number: 1, attributes: b"\x80\x01\0\x07" }]);
}

#[test]
fn thirty_two_transforms_are_taken_and_no_more() {
    let transform = |number| Transform { proposal: 1, number, attributes: b"" };
    let offer = |count| write_proposal(1, &(1..=count).map(transform).collect::<Vec<_>>());
    assert_eq!(Transform::offer(&offer(32)).unwrap().1.len(), 32);
    assert_eq!(Transform::offer(&offer(33)), Err(Malformed::TooMany));
    assert!(Transform::offer(&write_proposal(1, &[])).is_err());
}

#[test]
fn identities_stand_as_in_the_figures() {
    let ip = |text: &str| Identity::Address(text.parse().unwrap());
    let net = |text: &str| Identity::Subnet(text.parse().unwrap());
    for (digits, identity) in [
        ("01 00 0000 c0000201", ip("192.0.2.1")),
        ("02 00 0000 6763 6b73 2e6f7267", Identity::Name("gcks.org".into())),
        ("03 00 0000 6140622e6f7267", Identity::User("a@b.org".into())),
        ("04 00 0000 0a010000 ffff0000", net("10.1.0.0/16")),
        ("05 00 0000 20010db8000000000000000000000001", ip("2001:db8::1")),
        ("06 00 0000 20010db8000100000000000000000000 ffffffffffff00000000000000000000", net("2001:db8:1::/48")),
        ("09 00 0000 3000", Identity::DistinguishedName(vec![0x30, 0])),
        ("0b 00 0000 ff", Identity::KeyId(vec![0xff])),
    ] {
        let body = hex(digits);
        assert_eq!(Identity::parse(&body), Ok(identity.clone()));
        assert_eq!(identity.to_body(), body);
        let is_address = matches!(identity, Identity::Address(_) | Identity::Subnet(_));
        assert_eq!(identity.to_net().is_some(), is_address);
        if is_address {
            is_exact(&body, |body| Identity::parse(body).is_ok());
            assert_eq!(Identity::of_net(identity.to_net().unwrap()), identity);
        }
    }
    // "ones in the network mask indicate that the corresponding bit in the address is fixed" (RFC 2407 4.6.2.5)
    assert_eq!(Identity::parse(&hex("04 00 0000 0a010203 ffff0000")), Ok(net("10.1.0.0/16")));
    assert_eq!(Identity::of_net("192.0.2.1/32".parse().unwrap()), ip("192.0.2.1"));
}

#[test]
fn identities_that_may_not_be() {
    let error = |digits: &str| Identity::parse(&hex(digits)).unwrap_err();
    let data = |kind| field("Identification Data of type", kind);
    // "the ID port and protocol fields MUST be set to zero or to UDP port 500 … any other values, this MUST be treated as an
    // error" (RFC 2407 4.6.2); the port is a setting.
    assert_eq!(Identity::parse(&hex("01 11 01f4 c0000201")), Ok(Identity::Address(IpAddr::from([192, 0, 2, 1]))));
    assert!(Identity::parse(&hex("01 11 0350 c0000201")).is_ok());
    assert_eq!(error("01 06 01f4 c0000201"), field("Protocol ID", 6));
    assert_eq!(error("01 00 01f4 c0000201"), field("Port", 500));
    assert_eq!(error("00 00 0000"), field("ID Type", 0));
    assert_eq!(error("07 00 0000 c0000201c0000202"), field("ID Type", 7));
    assert_eq!(error("04 00 0000 0a000000 ff00ff00"), data(4));
    assert_eq!(error(&format!("06 00 0000 {} {}", "00".repeat(16), "0f".repeat(16))), data(6));
    assert_eq!(error("02 00 0000 610a62"), data(2));
    assert_eq!(error("02 00 0000 6120"), data(2));
    assert_eq!(error("03 00 0000 ff"), data(3));
    for empty in ["02 00 0000", "03 00 0000", "09 00 0000", "0b 00 0000"] {
        assert_eq!(error(empty), Malformed::Truncated);
    }
    let long = |octets| [&[11, 0, 0, 0], &vec![7; octets][..]].concat();
    assert!(Identity::parse(&long(1024)).is_ok());
    assert_eq!(Identity::parse(&long(1025)), Err(Malformed::TooMany));
}

#[test]
fn notifications_stand_as_in_the_figure() {
    let cookies = [1; 16];
    let initial = hex("00000001 01 10 6002 01010101010101010101010101010101");
    let notify = Notify { doi: 1, protocol: 1, spi: &cookies, kind: notification::INITIAL_CONTACT, data: b"" };
    assert_eq!(Notify::parse(&initial), Ok(notify));
    assert_eq!(notify.to_body(), initial);
    for len in 0..initial.len() {
        assert_eq!(Notify::parse(&initial[..len]), Err(Malformed::Truncated));
    }
    let there = [&hex("00000001 01 10 8d28")[..], &cookies, b"\0\0\0\x2a"].concat();
    let notify = Notify { kind: notification::R_U_THERE, data: b"\0\0\0\x2a", ..notify };
    assert_eq!(Notify::parse(&there), Ok(notify));
    assert_eq!(notify.to_body(), there);
    // "the SPI Size is irrelevant and MAY be from zero (0) to sixteen (16)" (RFC 2408 3.14)
    let long = [&hex("00000001 01 11 6002")[..], &[1; 17]].concat();
    assert_eq!(Notify::parse(&long), Err(field("SPI Size", 17)));
    assert!(Notify::parse(&with(&long, 4, 3)).is_ok(), "another protocol's");
}

#[test]
fn fragments() {
    let body = hex("0001 02 01 cafe # Fragment ID, number, last");
    let fragment = Fragment { id: 1, number: 2, is_last: true, data: b"\xca\xfe" };
    assert_eq!(Fragment::parse(&body), Ok(fragment));
    assert_eq!(fragment.to_body(), body);
    let middle = Fragment { is_last: false, ..fragment };
    assert_eq!(Fragment::parse(&middle.to_body()), Ok(middle));
    for len in 0..4 {
        assert_eq!(Fragment::parse(&body[..len]), Err(Malformed::Truncated));
    }
    assert_eq!(Fragment::parse(&with(&body, 2, 0)), Err(field("Fragment Number", 0)));
    assert_eq!(Fragment::parse(&with(&body, 3, 2)), Err(field("Fragment Flags", 2)));
}
