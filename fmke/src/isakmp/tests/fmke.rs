//! What the draft draws.

use std::net::IpAddr;

use super::super::*;
use super::{field, hex, is_exact, kinds, with};

const DOI: u32 = 2;

/// (draft 7.0, 8.2, 7.7.1, 7.9, 7.9.2)
#[test]
fn numbers_are_the_drafts() {
    assert_eq!([kind::SA, kind::SAK, kind::SAT, kind::KD, kind::SEQ], [1, 15, 16, 17, 18]);
    assert_eq!([kind::LSEQ, kind::ACK, kind::SACK, kind::NACK], [133, 134, 135, 136]);
    assert_eq!([exchange::UNICAST_PUSH, exchange::MULTICAST_PUSH], [240, 241]);
    assert_eq!([kek_attribute::LIFETIME, kek_attribute::HASH, kek_attribute::NEXT_SEQUENCE], [4, 9, 10]);
    assert_eq!([key_type::TEK, key_type::KEK, key_type::LKH], [1, 2, 3]);
    assert_eq!([kek_key::ALGORITHM, kek_key::SIGNATURE, kek_key::GROUP_AUTH], [1, 2, 3]);
}

#[test]
fn an_acknowledgement_as_in_the_example() {
    // "Ack : 4 , Sack : 6-7, Sack : 9-9" (draft 3.2)
    let bytes = hex("87 00 0008 00000004          # ACK
                     87 00 000c 00000006 00000007 # SACK
                     00 00 000c 00000009 00000009");
    let list = payloads(kind::ACK, &bytes, false).unwrap();
    assert_eq!(kinds(&list), [kind::ACK, kind::SACK, kind::SACK]);
    assert_eq!(number(list[0].body), Ok(4));
    let beyond = [Range { first: 6, last: 7 }, Range { first: 9, last: 9 }];
    assert_eq!(ranges(&list, kind::SACK).unwrap(), beyond);
    assert_eq!(ranges(&list, kind::NACK), Ok(Vec::new()));

    let mut chain = Chain::new();
    chain.add(kind::ACK, &4u32.to_be_bytes());
    beyond.iter().for_each(|range| _ = chain.add(kind::SACK, &range.to_body()));
    assert_eq!((chain.first(), chain.bytes()), (kind::ACK, &bytes[..]));
    is_exact(&bytes, |bytes| payloads(kind::ACK, bytes, false).is_ok());
}

#[test]
fn a_negative_acknowledgement_as_in_the_example() {
    // "Nack : 5-5 , Nack : 8-8" (draft 4.2)
    let bytes = hex("88 00 0006 abcd              # HASH
                     88 00 000c 00000005 00000005 # NACK
                     00 00 000c 00000008 00000008");
    let list = payloads(kind::HASH, &bytes, false).unwrap();
    let missing = [Range { first: 5, last: 5 }, Range { first: 8, last: 8 }];
    assert_eq!(ranges(&list, kind::NACK).unwrap(), missing);
    let mut chain = Chain::new();
    missing.iter().for_each(|range| _ = chain.add(kind::NACK, &range.to_body()));
    chain.precede(kind::HASH, b"\xab\xcd");
    assert_eq!((chain.first(), chain.bytes()), (kind::HASH, &bytes[..]));
}

#[test]
fn the_last_number_and_a_number() {
    let last = hex("09 00 0008 00000009 00 00 0006 5151 # LSEQ, SIG");
    let list = payloads(kind::LSEQ, &last, false).unwrap();
    assert_eq!((kinds(&list), number(list[0].body)), (vec![kind::LSEQ, kind::SIG], Ok(9)));
    let first = hex("01 00 0008 00000001 00 00 0004     # SEQ, SA");
    let list = payloads(kind::SEQ, &first, false).unwrap();
    assert_eq!((kinds(&list), number(list[0].body)), (vec![kind::SEQ, kind::SA], Ok(1)));
    is_exact(b"\0\0\0\x01", |body| number(body).is_ok());
    assert_eq!(number(&[0; 3]), Err(Malformed::Truncated));
    assert_eq!(number(&[0; 5]), Err(Malformed::Trailing));
}

#[test]
fn ranges_that_may_not_be() {
    let of = |kind, body: &[u8]| ranges(&[Raw { kind, body, whole: body }], kind);
    assert_eq!(of(kind::SACK, &hex("00000000 ffffffff")), Ok(vec![Range { first: 0, last: u32::MAX }]));
    // "a counter value >= Start Acknowledged Sequence Number value" (draft 7.3, 7.4)
    let backwards = hex("00000007 00000006");
    assert_eq!(of(kind::SACK, &backwards), Err(field("End Acknowledged Sequence Number", 6)));
    assert_eq!(of(kind::NACK, &backwards), Err(field("End Non Acknowledged Sequence Number", 6)));
    is_exact(&hex("00000006 00000007"), |body| of(kind::NACK, body).is_ok());
}

/// An SA payload of phase 2: a re-key SA, delays, an SA of IPv4 multicast, one of IPv6 unicast.
const SA: &str = "
    00000002                        # 0: DOI
    00000000                        # 4: Situation
    000f 0000                       # 8: SA Attribute Next Payload: SAK; RESERVED2
    16 00 004d                      # 12: SAK, then GAP
    11                              # 16: Protocol: UDP
    01 0350 04 c0000201             # 17: SRC ID Type, Port, Data Len, Data
    01 0350 04 ef000001             # 25: DST ID
    a0a1a2a3a4a5a6a7 b0b1b2b3b4b5b6b7 # 33: SPI
    0000 0000                       # 49: POP Algorithm, POP Key Length
    8001 0080                       # 53: KEK_MANAGEMENT_ALGORITHM
    8002 0003                       # KEK_ALGORITHM: AES
    8003 0100                       # KEK_KEY_LENGTH
    0004 0004 00015180              # 65: KEK_KEY_LIFETIME
    8005 0003                       # SIG_HASH_ALGORITHM
    8006 0004                       # SIG_ALGORITHM
    8009 0002                       # HASH_ALGORITHM
    800a 0005                       # 85: NEXT_SEQ_NUMBER
    10 00 000c                      # 89: GAP, then SAT
    8001 0005                       # 93: ACTIVATION_TIME_DELAY
    8002 000a                       # DEACTIVATION_TIME_DELAY
    10 00 0047                      # 101: SAT, then SAT
    01                              # 105: FMKE_PROTO_IPSEC_ESP
    11                              # 106: Protocol: UDP
    04 0000 08 0a010000 ffff0000    # 107: SRC ID
    01 1388 04 ef010203             # 119: DST ID
    01 0000 04 c0000202             # 127: TNL SRC ID
    01 0000 04 ef010203             # 135: TNL DST ID
    14                              # 143: Transform ID: AES-GCM
    00001234                        # 144: SPI
    8001 0001                       # 148: SA Life Type: seconds
    0002 0004 00000e10              # 152: SA Life Duration
    8004 0001                       # 160: Encapsulation Mode: tunnel
    8006 0100                       # 164: Key Length
    800e 0003                       # 168: Address Preservation: Destination-Only
    00 00 0093                      # 172: SAT
    01 00                           # 176: FMKE_PROTO_IPSEC_ESP, any protocol
    06 0000 20 20010db8000100000000000000000000 ffffffffffff00000000000000000000
    06 0000 20 20010db8000200000000000000000000 ffffffffffff00000000000000000000
    05 0000 10 20010db800ff00000000000000000001
    05 0000 10 20010db800ff00000000000000000002
    14 0000ffff
    8001 0001 0002 0004 00001c20 8004 0001 8006 0100
    800e 0001                       # Address Preservation: None";

fn policy() -> Policy {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let attributes = [(1, 128), (2, 3), (3, 256), (4, 86_400), (5, 3), (6, 4), (9, 2), (10, 5)];
    Policy {
        rekey: vec![RekeySa {
            source: (ip("192.0.2.1"), 848),
            destination: (ip("239.0.0.1"), 848),
            spi: *b"\xa0\xa1\xa2\xa3\xa4\xa5\xa6\xa7\xb0\xb1\xb2\xb3\xb4\xb5\xb6\xb7",
            attributes: attributes.to_vec(),
        }],
        delays: Some(Delays { activation: 5, deactivation: 10 }),
        traffic: vec![
            TrafficSa {
                protocol: 17,
                source: ("10.1.0.0/16".parse().unwrap(), 0),
                destination: ("239.1.2.3/32".parse().unwrap(), 5000),
                tunnel: (ip("192.0.2.2"), ip("239.1.2.3")),
                spi: 0x1234,
                lifetime: 3600,
                preserved: PreservedAddress::Destination,
            },
            TrafficSa {
                protocol: 0,
                source: ("2001:db8:1::/48".parse().unwrap(), 0),
                destination: ("2001:db8:2::/48".parse().unwrap(), 0),
                tunnel: (ip("2001:db8:ff::1"), ip("2001:db8:ff::2")),
                spi: 0xffff,
                lifetime: 7200,
                preserved: PreservedAddress::None,
            },
        ],
        spd: None,
    }
}

/// An SA payload with nothing but what is protected and what is not.
const SPD: &str = "
    00000002 00000000               # 0: DOI, Situation
    0010 0000                       # 8: SA Attribute Next Payload: SAT; RESERVED2
    00 00 005a                      # 12: SAT
    80 03                           # 16: Protocol-ID: SPD; Flags: first, last
    01 06                           # 18: BYPASS, TCP
    04 0000 08 0a010000 ffff0000    # 20: SRC ID
    04 01bb 08 c6336400 ffffff00    # 32: DST ID
    02 00                           # 44: PROTECT, any protocol
    06 0000 20 20010db8000100000000000000000000 ffffffffffff00000000000000000000
    05 0000 10 ff1e0000000000000000000000000001";

#[test]
fn a_policy_for_traffic_stands_in_a_sat_of_its_own() {
    let body = hex(SPD);
    let net = |text: &str| text.parse().unwrap();
    let bypass =
        TrafficSelector { protocol: 6, source: (net("10.1.0.0/16"), 0), destination: (net("198.51.100.0/24"), 443) };
    let protect =
        TrafficSelector { protocol: 0, source: (net("2001:db8:1::/48"), 0), destination: (net("ff1e::1/128"), 0) };
    let entries = vec![(bypass, SpdAction::Bypass), (protect, SpdAction::Protect)];
    let policy = Policy { spd: Some(SpdPart { is_first: true, is_last: true, entries }), ..Policy::default() };
    assert_eq!(Policy::parse(&body, DOI), Ok(policy.clone()));
    assert_eq!(policy.to_body(DOI), body);
    let wrong = |at: usize, octet: u8| Policy::parse(&with(&body, at, octet), DOI).unwrap_err();
    assert_eq!(wrong(16, 127), field("Protocol-ID", 127));
    assert_eq!(wrong(17, 4), field("Flags", 4));
    assert_eq!((wrong(18, 0), wrong(18, 3)), (field("Action", 0), field("Action", 3)));
    assert_eq!(wrong(20, 11), field("SRC ID Type", 11));
    // It may say nothing, once.
    let none = hex("00000002 00000000 0010 0000 00 00 0006 80 03");
    let read = Policy::parse(&none, DOI).unwrap().spd.unwrap();
    assert!(read.is_first && read.is_last && read.entries.is_empty());
    let twice = hex("00000002 00000000 0010 0000 10 00 0006 80 01 00 00 0006 80 02");
    assert_eq!(Policy::parse(&twice, DOI), Err(Malformed::Conflict("SPD")));
    for len in 17..body.len() {
        let mut cut = body[..len].to_vec();
        cut[15] = (len - 12) as u8;
        // Between two entries it is a shorter list.
        assert_eq!(Policy::parse(&cut, DOI).is_ok(), [18, 44].contains(&len), "{len}");
    }
}

#[test]
fn selectors_are_compared_by_the_packets_that_they_are_for() {
    let selector = |source: &str, destination: &str, protocol, port| TrafficSelector {
        protocol,
        source: (source.parse().unwrap(), 0),
        destination: (destination.parse().unwrap(), port),
    };
    let wide = selector("10.0.0.0/8", "0.0.0.0/0", 0, 0);
    for (other, overlaps, is_exception) in [
        (wide, true, false),
        (selector("10.1.0.0/16", "10.2.0.0/16", 17, 53), true, true),
        (selector("0.0.0.0/0", "10.2.0.0/16", 0, 0), true, false),
        (selector("192.0.2.0/24", "10.2.0.0/16", 0, 0), false, false),
        (selector("::/0", "::/0", 0, 0), false, false),
    ] {
        assert_eq!((other.overlaps(&wide), wide.overlaps(&other)), (overlaps, overlaps), "{other:?}");
        assert_eq!(other.is_exception_of(&wide), is_exception, "{other:?}");
    }
    let [tcp, udp, port] = [(6, 0), (17, 0), (6, 80)].map(|(protocol, port)| selector("::/0", "::/0", protocol, port));
    assert!(!tcp.overlaps(&udp) && port.overlaps(&tcp) && port.is_exception_of(&tcp) && !tcp.is_exception_of(&port));
    let other_port = selector("::/0", "::/0", 6, 81);
    assert!(!port.overlaps(&other_port) && !port.is_exception_of(&other_port));
}

#[test]
fn security_associations_stand_as_in_the_figures() {
    let body = hex(SA);
    let read = Policy::parse(&body, DOI).unwrap();
    assert_eq!(read, policy());
    assert_eq!(policy().to_body(DOI), body);
    is_exact(&body, |body| Policy::parse(body, DOI).is_ok());
    let rekey = &read.rekey[0];
    assert_eq!(rekey.attribute(kek_attribute::LIFETIME, "KEK_KEY_LIFETIME"), Ok(86_400));
    assert_eq!(rekey.attribute(kek_attribute::NEXT_SEQUENCE, "NEXT_SEQ_NUMBER"), Ok(5));
    assert_eq!(rekey.attribute(8, "KE_OAKLEY_GROUP"), Err(Malformed::Missing("KE_OAKLEY_GROUP")));
}

/// What is wrong with the SA payload if the octet at this place is another.
fn wrong(at: usize, octet: u8) -> Malformed {
    Policy::parse(&with(&hex(SA), at, octet), DOI).unwrap_err()
}

#[test]
fn security_association_payloads_that_may_not_be() {
    assert_eq!(wrong(3, 1), field("DOI", 1));
    // "Situation (4 octets) -- Must be zero", "RESERVED (2 octets) -- Must be zero" (draft 7.6)
    assert_eq!(wrong(7, 1), field("Situation", 1));
    assert_eq!(wrong(11, 1), field("RESERVED2", 1));
    assert_eq!(wrong(8, 1), field("SA Attribute Next Payload", 0x10f));
    // "The only valid next payload types for this message are a SAT or SAK Payload or zero" (draft 7.7)
    assert_eq!(wrong(9, kind::KD), field("Next Payload", 17));
    assert_eq!(wrong(12, kind::SA), field("Next Payload", 1));
    assert_eq!(wrong(13, 1), field("RESERVED", 1));
    assert_eq!(wrong(15, 3), field("Payload Length", 3));
    assert_eq!(wrong(9, kind::NONE), Malformed::Trailing);
    assert_eq!(wrong(101, kind::NONE), Malformed::Trailing);
    // "either one SAK or SAT payload MUST be present" (draft 7.6.1)
    let none = hex("00000002 00000000 0000 0000");
    assert_eq!(Policy::parse(&none, DOI), Err(Malformed::Missing("SAK or SAT")));
    let delays_only = hex("00000002 00000000 0016 0000 00 00 000c 8001 0005 8002 000a");
    assert_eq!(Policy::parse(&delays_only, DOI), Err(Malformed::Missing("SAK or SAT")));
    let twice = [hex("00000002 00000000 0016 0000 16 00 000c 8001 0005 8002 000a"), delays_only[12..].to_vec()];
    assert_eq!(Policy::parse(&twice.concat(), DOI), Err(Malformed::Conflict("GAP")));
}

#[test]
fn sixty_four_payloads_stand_within_an_sa_and_no_more() {
    let of = |count| Policy { traffic: vec![policy().traffic[0].clone(); count], ..Policy::default() };
    assert_eq!(Policy::parse(&of(64).to_body(DOI), DOI), Ok(of(64)));
    assert_eq!(Policy::parse(&of(65).to_body(DOI), DOI), Err(Malformed::TooMany));
}

#[test]
fn rekey_sas_that_may_not_be() {
    assert_eq!(wrong(16, 6), field("Protocol", 6));
    assert_eq!(wrong(17, 0), field("ID Type", 0));
    assert_eq!(wrong(17, 2), field("Identification Data of type", 2));
    assert_eq!(wrong(17, 11), field("SRC ID Type", 11));
    assert_eq!(wrong(25, 11), field("DST ID Type", 11));
    assert_eq!(wrong(20, 3), Malformed::Truncated);
    assert_eq!(wrong(20, 5), Malformed::Trailing);
    // "If no POP algorithm is defined in the KEK policy, this field must be zero" (draft 7.7)
    assert_eq!(wrong(50, 1), field("POP Algorithm", 1));
    assert_eq!(wrong(52, 1), field("POP Key Length", 1));
    assert_eq!(wrong(54, 2), Malformed::Conflict("KEK attributes"));
    let mut two = policy();
    two.rekey[0].destination.0 = "ff05::1".parse().unwrap();
    assert_eq!(Policy::parse(&two.to_body(DOI), DOI), Err(field("DST ID Type", 5)));
    let mut nowhere = policy();
    nowhere.rekey[0].destination.1 = 0;
    assert_eq!(Policy::parse(&nowhere.to_body(DOI), DOI), Err(field("DST ID Port", 0)));
    nowhere.rekey[0].source.1 = 0;
    assert_eq!(Policy::parse(&nowhere.to_body(DOI), DOI), Err(field("SRC ID Port", 0)));
}

#[test]
fn attributes_of_a_rekey_sa() {
    let of = |attributes: &[(u16, u32)]| {
        let rekey = vec![RekeySa { attributes: attributes.to_vec(), ..policy().rekey.remove(0) }];
        Policy { rekey, ..Policy::default() }
    };
    // Its type is basic (draft 7.7.1); what it counts has four octets (7.5).
    let tail = |policy: &Policy| policy.to_body(DOI).split_off(12 + 4 + 37);
    assert_eq!(tail(&of(&[(10, 0xffff)])), hex("800a ffff"));
    assert_eq!(tail(&of(&[(10, 0x10000)])), hex("000a 0004 00010000"));
    assert_eq!(tail(&of(&[(4, 60)])), hex("0004 0004 0000003c"));
    for attributes in [&[][..], &[(10, u32::MAX)], &[(4, 60), (10, 0)], &[(11, 1), (32_767, 1 << 20)]] {
        assert_eq!(Policy::parse(&of(attributes).to_body(DOI), DOI), Ok(of(attributes)));
    }
    let read = |attributes: &str| {
        let mut sa = of(&[]).to_body(DOI);
        sa.extend(hex(attributes));
        sa[15] = (sa.len() - 12) as u8;
        Policy::parse(&sa, DOI)
    };
    assert_eq!(read("8004 003c"), Ok(of(&[(4, 60)])));
    assert_eq!(read("8002 0003 8002 0003"), Ok(of(&[(2, 3)])), "the same twice");
    assert_eq!(read("800a 0005 000a 0004 00000006"), Err(Malformed::Conflict("KEK attributes")));
    for class in [1, 2, 3, 5, 6, 7, 8, 9] {
        let long = format!("00{class:02x} 0002 0001");
        assert_eq!(read(&long), Err(field("variable attribute", class)), "basic attributes MUST NOT be variable");
    }
    assert_eq!(read("0004 0000"), Err(Malformed::Truncated));
    assert_eq!(read("0004 0005 0100000000"), Err(field("octets of a number", 5)));
    assert_eq!(read("8002"), Err(Malformed::Truncated));
}

#[test]
fn delays_that_may_not_be() {
    let read = |gap: &str| {
        let gap = hex(gap);
        let head = [&hex("00000002 00000000 0016 0000 10 00 00")[..], &[gap.len() as u8 + 4]].concat();
        Policy::parse(&[head, gap, hex(SA)[172..].to_vec()].concat(), DOI).map(|policy| policy.delays.unwrap())
    };
    let delays = Delays { activation: 5, deactivation: 10 };
    assert_eq!(read("8002 000a 8001 0005"), Ok(delays), "in any order");
    assert_eq!(read("8001 0005 8002 000a 8003 0001"), Ok(delays), "and with a request of sender ids");
    assert_eq!(read("8001 0005"), Err(Malformed::Missing("DEACTIVATION_TIME_DELAY")));
    assert_eq!(read("8002 0005"), Err(Malformed::Missing("ACTIVATION_TIME_DELAY")));
    assert_eq!(read("8001 0005 8001 0006 8002 000a"), Err(Malformed::Conflict("ACTIVATION_TIME_DELAY")));
    assert_eq!(read("0001 0002 0005 8002 000a"), Err(field("variable attribute", 1)));
}

#[test]
fn traffic_sas_that_may_not_be() {
    assert_eq!(wrong(105, 2), field("Protocol-ID", 2));
    assert_eq!(wrong(107, 11), field("SRC ID Type", 11));
    assert_eq!(wrong(115, 0xfe), field("Identification Data of type", 4));
    assert_eq!(wrong(119, 11), field("DST ID Type", 11));
    assert_eq!(wrong(127, 11), field("TNL SRC ID Type", 11));
    assert_eq!(wrong(135, 11), field("TNL DST ID Type", 11));
    assert_eq!(wrong(129, 1), field("TNL SRC ID Port", 1));
    assert_eq!(wrong(137, 1), field("TNL DST ID Port", 1));
    assert_eq!(wrong(143, 12), field("Transform ID", 12));
    assert_eq!(wrong(146, 0), field("SPI", 0x34));
    // "Set to three bytes of zero for multiple-source multicast groups that use a common TEK for all senders" (draft 7.8.1):
    // here no two senders share one.
    assert_eq!(wrong(122, 3), Malformed::Truncated);

    let read = |change: fn(&mut TrafficSa)| {
        let mut policy = policy();
        change(&mut policy.traffic[0]);
        Policy::parse(&policy.to_body(DOI), DOI)
    };
    assert_eq!(read(|sa| sa.destination.0 = "ff05::1/128".parse().unwrap()), Err(field("DST ID Type", 5)));
    assert_eq!(read(|sa| sa.tunnel.0 = "2001:db8::1".parse().unwrap()), Err(field("TNL DST ID Type", 1)));
    // "Address preservation MUST NOT be marked when the IP version of the encapsulating header and IP version of the inner
    // header do not match" (RFC 5374 5.1)
    let six_in_four: fn(&mut TrafficSa) = |sa| sa.tunnel = ("2001:db8::1".parse().unwrap(), "ff05::1".parse().unwrap());
    assert_eq!(read(six_in_four), Err(field("TNL DST ID Type", 5)));
    assert!(
        read(|sa| {
            sa.tunnel = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
            sa.preserved = PreservedAddress::None;
        })
        .is_ok()
    );
}

#[test]
fn attributes_of_a_traffic_sa() {
    assert_eq!(wrong(151, 2), field("SA Life Type", 2));
    assert_eq!(wrong(163, 2), field("Encapsulation Mode", 2));
    assert_eq!(wrong(166, 0), field("Key Length", 0));
    for preserved in [0, 2, 4, 5] {
        assert_eq!(wrong(171, preserved), field("Address Preservation", preserved.into()));
    }
    // "a defined IPSEC DOI attribute … which it does not support … MUST be aborted" (RFC 2407 4.5.3)
    for class in [5, 7, 8, 9, 10, 11, 12, 13, 15, 16] {
        assert_eq!(wrong(149, class), field("SA Attribute", class.into()));
    }
    assert_eq!(wrong(149, 6), Malformed::Missing("SA Life Type"));
    assert_eq!(wrong(153, 3), Malformed::Missing("SA Life Duration"));
    assert_eq!(wrong(161, 1), Malformed::Missing("Encapsulation Mode"));
    assert_eq!(wrong(165, 3), Malformed::Missing("Key Length"), "and Group Description is ignored");
    assert_eq!(wrong(169, 3), Malformed::Missing("Address Preservation"));

    let read = |attributes: &str| {
        let attributes = hex(attributes);
        let head = [&hex("00000002 00000000 0010 0000 00 00 00")[..], &[47 + attributes.len() as u8]].concat();
        Policy::parse(&[head, hex(SA)[105..148].to_vec(), attributes].concat(), DOI)
    };
    let rest = "8004 0001 8006 0100 800e 0003";
    let expected = Policy { traffic: policy().traffic[..1].to_vec(), ..Policy::default() };
    assert_eq!(read(&format!("8001 0001 8002 0e10 {rest}")), Ok(expected.clone()), "a short duration may be basic");
    // "MUST NOT be sent by a FMKE implementation and is ignored by a FMKE implementation if received" (draft 7.8.1)
    assert_eq!(read(&format!("8003 000e 8001 0001 8002 0e10 {rest}")), Ok(expected));
    assert_eq!(read(&format!("0001 0002 0001 8002 0e10 {rest}")), Err(field("variable attribute", 1)));
    // Seconds, and kilobytes too: those nobody counts.
    let both = format!("8001 0001 8002 0e10 8001 0002 8002 0e10 {rest}");
    assert_eq!(read(&both), Err(Malformed::Conflict("SA Life Type")));
    assert_eq!(read(&format!("8001 0001 8002 0e10 8002 0e11 {rest}")), Err(Malformed::Conflict("SA Life Duration")));
}

/// A KD payload: a TEK, a KEK, an update of the tree.
const KD: &str = "
    0003 0000                       # 0: Number of Key Packets, RESERVED2
    01 00 0031                      # 4: TEK
    04 00001234                     # 8: SPI Size, SPI
    0001 0024                       # 13: TEK_ALGORITHM_KEY: 32 octets of key, 4 of salt
    000102030405060708090a0b0c0d0e0f 101112131415161718191a1b1c1d1e1f 20212223
    02 00 0055                      # 53: KEK
    10 a0a1a2a3a4a5a6a7b0b1b2b3b4b5b6b7
    0001 0020                       # 74: KEK_ALGORITHM_KEY: IV, key
    303132333435363738393a3b3c3d3e3f 404142434445464748494a4b4c4d4e4f
    0002 0004 50515253              # SIG_ALGORITHM_KEY
    0003 0010 606162636465666768696a6b6c6d6e6f # KEK_GROUP_AUTH_KEY
    03 00 001e                      # 138: LKH
    10 a0a1a2a3a4a5a6a7b0b1b2b3b4b5b6b7
    0002 0005 7071727374            # LKH_UPDATE_ARRAY";

#[test]
fn keys_stand_as_in_the_figures() {
    let body = hex(KD);
    let spi = hex("a0a1a2a3a4a5a6a7b0b1b2b3b4b5b6b7");
    let read = KeyDownload::parse(&body).unwrap();
    let tek = read.packet(key_type::TEK, b"\0\0\x12\x34").unwrap();
    assert_eq!(tek.key(tek_key::ALGORITHM, "key"), Ok(&(0..0x24).collect::<Vec<u8>>()[..]));
    let kek = read.packet(key_type::KEK, &spi).unwrap();
    assert_eq!(kek.key(kek_key::ALGORITHM, "key"), Ok(&(0x30..0x50).collect::<Vec<u8>>()[..]));
    assert_eq!(kek.key(kek_key::SIGNATURE, "key"), Ok(&b"PQRS"[..]));
    assert_eq!(kek.key(kek_key::GROUP_AUTH, "key"), Ok(&b"`abcdefghijklmno"[..]));
    assert_eq!(kek.key(4, "a fourth key"), Err(Malformed::Missing("a fourth key")));
    assert_eq!(read.packet(key_type::LKH, &spi).unwrap().key(2, "key"), Ok(&b"pqrst"[..]));
    assert!(matches!(read.packet(key_type::TEK, &spi), Err(Malformed::Missing("key packet"))));

    let written = KeyDownload {
        packets: vec![
            KeyPacket::new(key_type::TEK, b"\0\0\x12\x34").with(1, &(0..0x24).collect::<Vec<u8>>()),
            KeyPacket::new(key_type::KEK, &spi)
                .with(1, &(0x30..0x50).collect::<Vec<u8>>())
                .with(2, b"PQRS")
                .with(3, b"`abcdefghijklmno"),
            KeyPacket::new(key_type::LKH, &spi).with(2, b"pqrst"),
        ],
    };
    assert_eq!(*written.to_body(), body);
    is_exact(&body, |body| KeyDownload::parse(body).is_ok());
}

/// "Exactly one attribute matching each type … MUST be present" (draft 7.9.1, 7.9.2), be it the same twice.
#[test]
fn a_key_is_there_once() {
    let packet = || KeyPacket::new(key_type::TEK, b"\0\0\x12\x34").with(1, b"one");
    let twice = packet().with(2, b"other").with(1, b"one");
    assert_eq!((twice.key(1, "key"), twice.key(2, "key")), (Err(Malformed::Conflict("key")), Ok(&b"other"[..])));
    let other = KeyPacket::new(key_type::TEK, b"\0\0\x12\x35");
    let once = KeyDownload { packets: vec![packet(), other, KeyPacket::new(key_type::KEK, b"\0\0\x12\x34")] };
    assert!(once.packet(key_type::TEK, b"\0\0\x12\x34").is_ok());
    let twice = KeyDownload { packets: vec![packet(), packet()] };
    assert!(matches!(twice.packet(key_type::TEK, b"\0\0\x12\x34"), Err(Malformed::Conflict("key packet"))));
}

#[test]
fn keys_that_may_not_be() {
    let body = hex(KD);
    let error = |body: &[u8]| KeyDownload::parse(body).err().unwrap();
    let wrong = |at, octet| error(&with(&body, at, octet));
    // "RESERVED (1 octet) -- Unused, set to zero" (draft 7.9)
    assert_eq!(wrong(3, 1), field("RESERVED2", 1));
    assert_eq!(wrong(5, 1), field("RESERVED", 1));
    assert_eq!(wrong(1, 2), Malformed::Trailing);
    assert_eq!(wrong(1, 4), Malformed::Truncated);
    assert_eq!(wrong(7, 4), field("KD Length", 4));
    assert_eq!(wrong(8, 0xff), Malformed::Truncated);
    assert_eq!(wrong(16, 0x25), Malformed::Truncated);
    // A key is no two octets.
    assert_eq!(error(&hex("0001 0000 01 00 000d 04 00001234 8001 0000")), field("basic attribute", 1));
    let empty = |count: u16| {
        let packets = [1, 0, 0, 5, 0].repeat(count.into());
        [&count.to_be_bytes()[..], &[0, 0], &packets].concat()
    };
    assert_eq!(KeyDownload::parse(&empty(64)).ok().map(|keys| keys.packets.len()), Some(64));
    assert_eq!(error(&empty(65)), Malformed::TooMany);
}

#[test]
fn deletes_stand_as_in_the_figure() {
    // "To delete a KEK SA, the value of zero MUST be used as the protocol id" (draft 5.0)
    let rekey = hex("00000002 00 10 0001 a0a1a2a3a4a5a6a7b0b1b2b3b4b5b6b7");
    let spi = hex("a0a1a2a3a4a5a6a7b0b1b2b3b4b5b6b7");
    let traffic = hex("00000002 01 04 0002 00001234 0000ffff");
    let spis = vec![vec![0, 0, 0x12, 0x34], vec![0, 0, 0xff, 0xff]];
    for (body, delete) in
        [(rekey, Delete { doi: DOI, protocol: 0, spis: vec![spi] }), (traffic, Delete { doi: DOI, protocol: 1, spis })]
    {
        assert_eq!(Delete::parse(&body), Ok(delete.clone()));
        assert_eq!(delete.to_body(), body);
        is_exact(&body, |body| Delete::parse(body).is_ok());
    }
}

#[test]
fn deletes_that_may_not_be() {
    let body = hex("00000002 01 04 0002 00001234 0000ffff");
    let error = |at, octet| Delete::parse(&with(&body, at, octet)).unwrap_err();
    assert_eq!(error(5, 0), field("SPI Size", 0));
    assert_eq!(error(7, 0), field("# of SPIs", 0));
    assert_eq!(error(7, 1), Malformed::Trailing);
    assert_eq!(error(7, 3), Malformed::Truncated);
    let of = |count| Delete { doi: DOI, protocol: 1, spis: vec![vec![0, 0, 1, 0]; count] };
    assert_eq!(Delete::parse(&of(256).to_body()), Ok(of(256)));
    assert_eq!(Delete::parse(&of(257).to_body()), Err(Malformed::TooMany));
}
