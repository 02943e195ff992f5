use super::*;

const MARKER: Marker = Marker(*b"a sixteen octets");

fn classifier() -> Classifier {
    Classifier::new(Watch {
        ports: vec![4860, 4861],
        routing: false,
        markers: vec![MARKER],
        red_v6: vec!["2001:db8:a01::/64".parse().unwrap(), "2001:db8:b01::/64".parse().unwrap()],
        red_v4: vec!["10.10.1.0/24".parse().unwrap(), "10.11.1.2/32".parse().unwrap()],
    })
}

fn judge(frame: &[u8]) -> (Kind, bool) {
    let verdict = classifier().classify(frame);
    (verdict.kind, verdict.cleartext.is_some())
}

fn ethernet(kind: u16, packet: &[u8]) -> Vec<u8> {
    [&[2; 12][..], &kind.to_be_bytes(), packet].concat()
}

fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
    let address = "2001:db8:ffff::1".parse::<Ipv6Addr>().unwrap().octets();
    let length = (payload.len() as u16).to_be_bytes();
    ethernet(0x86dd, &[&[0x60, 0, 0, 0][..], &length, &[next, 64], &address, &address, payload].concat())
}

fn v4(protocol: u8, fragment: u16, source: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let length = (20 + payload.len() as u16).to_be_bytes();
    let fragment = fragment.to_be_bytes();
    let head = [&[0x45, 0][..], &length, &[0, 7], &fragment, &[64, protocol, 0, 0], &source, &[192, 0, 2, 2]].concat();
    ethernet(0x0800, &[&head[..], payload].concat())
}

fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    [&[0x10, 0][..], &port.to_be_bytes(), &[0; 4], payload].concat()
}

const BLACK: [u8; 4] = [192, 0, 2, 1];
const ROUTER_ALERT: [u8; 8] = [ICMPV6, 0, 5, 2, 0, 0, 1, 0];

#[test]
fn each_kind_is_known_by_its_headers() {
    let hop_by_hop = |kind: u8| v6(HOP_BY_HOP, &[&ROUTER_ALERT[..], &[kind, 0, 0, 0]].concat());
    let cases = [
        (v6(ESP, &[1; 40]), Kind::Esp),
        (v4(ESP, 0, BLACK, &[1; 40]), Kind::Esp),
        (v4(ESP, 0x0010, BLACK, &[1; 40]), Kind::Esp),
        (v6(FRAGMENT, &[&[ESP, 0, 0, 1, 0, 0, 0, 9][..], &[1; 40]].concat()), Kind::Esp),
        (v6(FRAGMENT, &[&[ESP, 0, 5, 0, 0, 0, 0, 9][..], &[1; 40]].concat()), Kind::Esp),
        (v6(UDP, &udp(4860, b"hello")), Kind::Own),
        (v4(UDP, 0, BLACK, &udp(4861, b"hello")), Kind::Own),
        (v6(UDP, &udp(53, b"hello")), Kind::Clear),
        (v6(ICMPV6, &[135, 0, 0, 0]), Kind::Discovery),
        (v6(ICMPV6, &[128, 0, 0, 0]), Kind::Clear),
        (v6(ICMPV6, &[143, 0, 0, 0]), Kind::Clear),
        (hop_by_hop(143), Kind::Mld),
        (hop_by_hop(131), Kind::Mld),
        (v4(IGMP, 0, BLACK, &[0x22, 0, 0, 0, 0, 0, 0, 0]), Kind::Igmp),
        (v4(1, 0, BLACK, &[8, 0, 0, 0]), Kind::Clear),
        (v4(6, 0, BLACK, &[8, 0, 0, 0]), Kind::Clear),
        (v6(41, &[0x60; 60]), Kind::Clear),
        (ethernet(0x0806, &[0; 28]), Kind::Arp),
        (ethernet(0x88cc, &[0; 28]), Kind::Clear),
    ];
    for (frame, kind) in cases {
        assert_eq!(judge(&frame), (kind, kind == Kind::Clear), "{frame:02x?}");
    }
}

#[test]
fn routing_is_clear_text_unless_black_has_routers() {
    let mut routed = Classifier::new(Watch { routing: true, markers: vec![MARKER], ..Watch::default() });
    for protocol in [OSPF, PIM] {
        let frame = |payload: &[u8]| [v4(protocol, 0, [198, 18, 12, 1], payload), v6(protocol, payload)];
        for frame in frame(&[0; 24]) {
            assert_eq!(judge(&frame), (Kind::Clear, true), "{frame:02x?}");
            assert_eq!(routed.classify(&frame), Verdict { kind: Kind::Routing, cleartext: None }, "{frame:02x?}");
        }
        // PIM's registers carry whole packets.
        for frame in frame(&MARKER.0) {
            assert!(routed.classify(&frame).cleartext.is_some(), "{frame:02x?}");
        }
    }
}

#[test]
fn an_error_is_what_it_is_about() {
    let packet = |frame: Vec<u8>| frame[ETHERNET..].to_vec();
    let error_v6 =
        |kind: u8, quoted: Vec<u8>| v6(ICMPV6, &[&[kind, 4, 0, 0, 0, 0, 0, 0][..], &packet(quoted)].concat());
    let error_v4 =
        |kind: u8, quoted: Vec<u8>| v4(ICMP, 0, BLACK, &[&[kind, 3, 0, 0, 0, 0, 0, 0][..], &packet(quoted)].concat());
    for (frame, kind) in [
        (error_v6(1, v6(UDP, &udp(4861, b"hello"))), Kind::Error),
        (error_v6(2, v6(ESP, &[1; 40])), Kind::Error),
        (error_v4(3, v4(UDP, 0, BLACK, &udp(4860, b"hello"))), Kind::Error),
        (error_v4(3, v4(ESP, 0, BLACK, &[1; 8])), Kind::Error),
        // About anything else, nested, cut short, or no error.
        (error_v6(1, v6(UDP, &udp(53, b"hello"))), Kind::Clear),
        (error_v6(1, v6(ICMPV6, &[135, 0, 0, 0])), Kind::Clear),
        (error_v6(1, error_v6(1, v6(ESP, &[1; 40]))), Kind::Clear),
        (error_v6(128, v6(ESP, &[1; 40])), Kind::Clear),
        (error_v4(5, v4(ESP, 0, BLACK, &[1; 8])), Kind::Clear),
        (error_v4(3, v4(6, 0, BLACK, &[1; 8])), Kind::Clear),
        (v6(ICMPV6, &[1, 4, 0, 0, 0, 0, 0, 0]), Kind::Clear),
    ] {
        assert_eq!(judge(&frame), (kind, kind == Kind::Clear), "{frame:02x?}");
    }
    // Red shows all the same: in what is quoted as in its addresses.
    assert_eq!(judge(&error_v6(1, v6(UDP, &udp(4861, &MARKER.0)))), (Kind::Error, true));
    assert_eq!(judge(&error_v6(1, v6(UDP, &udp(4861, &[10, 11, 1, 2])))), (Kind::Error, true));
    assert_eq!(judge(&error_v4(3, v4(ESP, 0, [10, 10, 1, 7], &[1; 8]))), (Kind::Error, true));
    // And it vouches for no fragments.
    let mut classifier = classifier();
    let first = v4(UDP, 0x2000, BLACK, &udp(4861, &[0; 40]));
    assert_eq!(classifier.classify(&error_v4(3, first)).kind, Kind::Error);
    assert_eq!(classifier.classify(&v4(UDP, 0x0001, BLACK, &[0; 40])).kind, Kind::Clear);
}

#[test]
fn red_bytes_are_clear_text_in_any_kind_of_frame() {
    let red_v6 = "2001:db8:a01::2".parse::<Ipv6Addr>().unwrap().octets();
    for shift in 0..4 {
        let with = |bytes: &[u8]| [&[7; 3][..shift.min(3)], bytes, &[9; 5]].concat();
        for bytes in [&MARKER.0[..], &red_v6, &red_v6[..8]] {
            assert_eq!(judge(&v6(ESP, &with(bytes))), (Kind::Esp, true));
            assert_eq!(judge(&v6(UDP, &udp(4860, &with(bytes)))), (Kind::Own, true));
        }
        // A prefix with its length on either side, a host alone.
        for bytes in [&[10, 10, 1, 0, 24][..], &[24, 10, 10, 1, 0], &[10, 11, 1, 2]] {
            assert_eq!(judge(&v6(UDP, &udp(4860, &with(bytes)))), (Kind::Own, true));
            assert_eq!(judge(&v6(ESP, &with(bytes))), (Kind::Esp, false));
        }
        assert_eq!(judge(&v6(UDP, &udp(4860, &with(&[10, 10, 1, 0])))), (Kind::Own, false));
    }
    let cut = [&v6(ESP, &[7; 40])[..], &red_v6[..7]].concat();
    assert_eq!(judge(&cut), (Kind::Esp, false), "less than a prefix is nothing");
}

#[test]
fn red_ipv4_addresses_are_found_in_headers() {
    assert_eq!(judge(&v4(ESP, 0, [10, 10, 1, 77], &[1; 40])), (Kind::Esp, true));
    assert_eq!(judge(&v4(ESP, 0, [10, 11, 1, 2], &[1; 40])), (Kind::Esp, true));
    assert_eq!(judge(&v4(ESP, 0, [10, 11, 1, 3], &[1; 40])), (Kind::Esp, false));
    let mut arp = [0; 28];
    arp[24..].copy_from_slice(&[10, 10, 1, 1]);
    assert_eq!(judge(&ethernet(0x0806, &arp)), (Kind::Arp, true));
    let report = [&[0x22, 0, 0, 0, 0, 0, 0, 1, 5, 0, 0, 1, 239, 10, 0, 1][..], &[10, 10, 1, 5]].concat();
    assert_eq!(judge(&v4(IGMP, 0, BLACK, &report)), (Kind::Igmp, true));
}

#[test]
fn later_fragments_belong_to_the_first() {
    let mut classifier = classifier();
    let later = v4(UDP, 0x0001, BLACK, &[0; 40]);
    assert_eq!(classifier.classify(&later).kind, Kind::Clear, "of nothing known");
    assert_eq!(classifier.classify(&v4(UDP, 0x2000, BLACK, &udp(4861, &[0; 40]))).kind, Kind::Own);
    assert_eq!(classifier.classify(&later).kind, Kind::Own);

    let piece =
        |position: u8, more: u8| v6(FRAGMENT, &[&[UDP, 0, position, more, 0, 0, 0, 9][..], &udp(4861, &[])].concat());
    assert_eq!(classifier.classify(&piece(1, 0)).kind, Kind::Clear, "of nothing known");
    assert_eq!(classifier.classify(&piece(0, 1)).kind, Kind::Own);
    assert_eq!(classifier.classify(&piece(1, 0)).kind, Kind::Own);
}

#[test]
fn no_bytes_make_it_panic() {
    let mut classifier = classifier();
    let whole = [
        v6(HOP_BY_HOP, &[&ROUTER_ALERT[..], &[143, 0, 0, 0]].concat()),
        v6(FRAGMENT, &[&[UDP, 0, 0, 1, 0, 0, 0, 9][..], &udp(4860, b"x")].concat()),
        v4(IGMP, 0, BLACK, &[0; 9]),
        v4(UDP, 0, BLACK, &udp(4860, b"x")),
        ethernet(0x0806, &[0; 28]),
    ];
    for frame in whole {
        for length in 0..frame.len() {
            classifier.classify(&frame[..length]);
            for value in [0, 0x4f, 0xff] {
                let mut bent = frame.clone();
                bent[length] = value;
                classifier.classify(&bent);
            }
        }
    }
}

#[test]
fn a_description_names_the_reason_and_the_ends() {
    let verdict = classifier().classify(&v6(UDP, &udp(5000, &MARKER.0)));
    assert_eq!(
        verdict.cleartext.unwrap(),
        "holds a red payload: IPv6 2001:db8:ffff::1 to 2001:db8:ffff::1, UDP port 4096 to 5000 \
         (02:02:02:02:02:02 to 02:02:02:02:02:02, 78 bytes)"
    );
}
