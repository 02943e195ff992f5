//! Wireshark's view (`wireshark/muster.lua`) and the codec's are one: of every kind of datagram, whole and spoilt.

mod bodies;

use std::io::Write as _;
use std::process::{Command, Stdio};

use bincode::Encode;
use bodies::*;
use muster_wire::codec::{decode, encode};
use muster_wire::idp::{CrlPart, CrlRequest, Goodbye, Hello, Prefixes, PrefixesAck, Probe, ProbeAnswer};
use muster_wire::mike::{
    Ack, Activate, CHUNK_LEN, Chunk, Commit, Exposure, Fills, FillsWanted, Handover, HandoverRefused, Leave,
};
use muster_wire::mike::{MessageKind, Objection, Refresh, RekeyRequest, Request, Snapshot};
use muster_wire::{Bytes, Envelope, Header, Kind, Signed, Voucher, WireError};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

const SAMPLES_OF_EACH: usize = 40;
const MALFORMED: &str = "malformed";

#[test]
fn wireshark_takes_what_the_codec_takes_and_nothing_else() {
    if Command::new("tshark").arg("-v").output().is_err() {
        // Past the test runner, which would keep it to itself.
        let _ = writeln!(
            std::io::stderr(),
            "SKIP wireshark_takes_what_the_codec_takes_and_nothing_else: tshark is not installed (apt-get install tshark)"
        );
        return;
    }
    let mut random = TestRunner::deterministic();
    let mut datagrams = Vec::new();
    for strategy in every_body() {
        for _ in 0..SAMPLES_OF_EACH {
            let (kind, body) = draw(&strategy, &mut random);
            let whole = draw(&datagram(kind, body), &mut random);
            assert_eq!(understood(&whole), Ok(()), "{kind:?}");
            let spoilt = draw(&vec(spoilt(whole.clone()), 8), &mut random);
            datagrams.extend(std::iter::once(whole).chain(spoilt));
        }
    }
    let expected: Vec<String> = datagrams.iter().map(|datagram| by_codec(datagram)).collect();
    let malformed = expected.iter().filter(|shown| *shown == MALFORMED).count();
    assert!(malformed > datagrams.len() / 4 && malformed < datagrams.len() / 4 * 3, "{malformed} are a fair share");
    let seen = by_wireshark(&datagrams);
    assert_eq!(seen.len(), expected.len());
    for ((seen, expected), datagram) in seen.iter().zip(&expected).zip(&datagrams) {
        assert_eq!(seen, expected, "{datagram:02x?}");
    }
}

/// A datagram as both are to show it.
fn by_codec(datagram: &[u8]) -> String {
    let (voucher, rest) = Voucher::split(datagram);
    if understood(datagram).is_err() {
        return MALFORMED.into();
    }
    let envelope = Envelope::parse(rest).unwrap();
    let Header { kind, group, sender, startup, sequence } = envelope.header();
    let tag = voucher.map(|voucher| voucher.tag.to_string()).unwrap_or_default();
    format!("{tag} {} {group} {sender} {startup} {sequence} {}", *kind as u8, envelope.signature())
}

/// Whether a datagram decodes with all that is signed in it.
fn understood(datagram: &[u8]) -> Result<(), WireError> {
    let envelope = Envelope::parse(Voucher::split(datagram).1)?;
    match envelope.header().kind {
        Kind::Hello => envelope.decode::<Hello>().map(drop),
        Kind::Probe => envelope.decode::<Probe>().map(drop),
        Kind::ProbeAnswer => envelope.decode::<ProbeAnswer>().map(drop),
        Kind::Prefixes => envelope.decode::<Prefixes>().map(drop),
        Kind::PrefixesAck => envelope.decode::<PrefixesAck>().map(drop),
        Kind::Goodbye => envelope.decode::<Goodbye>().map(drop),
        Kind::CrlRequest => envelope.decode::<CrlRequest>().map(drop),
        Kind::CrlPart => envelope.decode::<CrlPart>().map(drop),
        Kind::Chunk => {
            let chunk = envelope.decode::<Chunk>()?;
            let is_whole = chunk.index == 0 && chunk.length as usize == chunk.data.len();
            if is_whole { message_understood(chunk.kind, &chunk.data) } else { Ok(()) }
        }
        Kind::Request => envelope.decode::<Request>().map(drop),
        Kind::HandoverRefused => envelope.decode::<HandoverRefused>().map(drop),
        Kind::Ack => envelope.decode::<Ack>().map(drop),
        Kind::Activate => envelope.decode::<Activate>().map(drop),
        Kind::Leave => envelope.decode::<Leave>().map(drop),
        Kind::RekeyRequest => envelope.decode::<RekeyRequest>().map(drop),
        Kind::Fills => envelope.decode::<Fills>().map(drop),
        Kind::FillsWanted => envelope.decode::<FillsWanted>().map(drop),
        Kind::Objection => envelope.decode::<Objection>().map(drop),
        Kind::Refresh => envelope.decode::<Refresh>()?.leaf.decode().map(drop),
        Kind::Exposure => {
            let exposure = envelope.decode::<Exposure>()?;
            exposure.first.decode().and(exposure.second.decode()).map(drop)
        }
    }
}

fn message_understood(kind: MessageKind, bytes: &[u8]) -> Result<(), WireError> {
    let handover = |handover: &Signed<Handover>| -> Result<(), WireError> {
        handover.decode()?.leaves.iter().try_for_each(|leaf| leaf.decode().map(drop))
    };
    match kind {
        MessageKind::Commit => {
            let commit = decode::<Commit>(bytes)?;
            commit.header.decode()?;
            commit.handovers.iter().try_for_each(handover)?;
            commit.body.refreshed.iter().chain(&commit.body.leaf).try_for_each(|leaf| leaf.decode().map(drop))
        }
        MessageKind::Snapshot => {
            let snapshot = decode::<Snapshot>(bytes)?;
            snapshot.header.decode()?;
            snapshot.handovers.iter().try_for_each(handover)?;
            snapshot.leaves.iter().try_for_each(|(_, leaf)| leaf.decode().map(drop))
        }
        MessageKind::Handover => handover(&decode(bytes)?),
    }
}

/// Bodies of every kind, encoded; whole messages in a chunk each.
fn every_body() -> Vec<BoxedStrategy<(Kind, Vec<u8>)>> {
    fn of<T: Encode>(kind: Kind, value: impl Strategy<Value = T> + 'static) -> BoxedStrategy<(Kind, Vec<u8>)> {
        value.prop_map(move |value| (kind, encode(&value).unwrap())).boxed()
    }
    fn whole<T: Encode>(
        kind: MessageKind,
        value: impl Strategy<Value = T> + 'static,
    ) -> BoxedStrategy<(Kind, Vec<u8>)> {
        let bytes = value.prop_map(|value| encode(&value).unwrap());
        let bytes = bytes.prop_filter("fits into a chunk", |bytes| bytes.len() <= CHUNK_LEN);
        let chunk = (hash(), bytes, hash()).prop_map(move |(message, bytes, header)| {
            let (length, index) = (bytes.len() as u32, 0);
            Chunk { message, kind, header, length, index, data: Bytes::new(bytes).unwrap() }
        });
        of(Kind::Chunk, chunk)
    }
    let epoch = names_epoch;
    vec![
        of(Kind::Hello, prop_oneof![hello(), Just(largest_hello())]),
        of(Kind::Probe, probe()),
        of(Kind::ProbeAnswer, probe_answer()),
        of(Kind::Prefixes, prop_oneof![prefixes(), Just(largest_prefixes())]),
        of(Kind::PrefixesAck, prefixes_ack()),
        of(Kind::Goodbye, Just(Goodbye {})),
        of(Kind::CrlRequest, crl_request()),
        of(Kind::CrlPart, prop_oneof![crl_part(), Just(largest_crl_part())]),
        of(Kind::Chunk, prop_oneof![chunk(), Just(largest_chunk())]),
        whole(MessageKind::Commit, commit()),
        whole(MessageKind::Snapshot, snapshot()),
        whole(MessageKind::Handover, signed(handover())),
        of(Kind::Request, prop_oneof![request(), Just(largest_request())]),
        of(Kind::HandoverRefused, handover_refused()),
        of(Kind::Ack, epoch().prop_map(|(instance, epoch, header)| Ack { instance, epoch, header })),
        of(Kind::Activate, epoch().prop_map(|(instance, epoch, header)| Activate { instance, epoch, header })),
        of(Kind::Leave, epoch().prop_map(|(instance, epoch, header)| Leave { instance, epoch, header })),
        of(Kind::RekeyRequest, epoch().prop_map(|(instance, epoch, header)| RekeyRequest { instance, epoch, header })),
        of(Kind::Fills, (hash(), list(fill())).prop_map(|(header, fills)| Fills { header, fills })),
        of(Kind::FillsWanted, (hash(), list(any::<u32>())).prop_map(|(header, nodes)| FillsWanted { header, nodes })),
        of(
            Kind::Objection,
            (hash(), any::<(u32, [u8; 32])>()).prop_map(|(header, (node, public))| Objection { header, node, public }),
        ),
        of(
            Kind::Refresh,
            (epoch(), any::<bool>(), signed(leaf())).prop_map(|((instance, ..), urgent, leaf)| Refresh {
                instance,
                urgent,
                leaf,
            }),
        ),
        of(
            Kind::Exposure,
            (signed(epoch_header()), signed(epoch_header())).prop_map(|(first, second)| Exposure { first, second }),
        ),
    ]
}

/// A datagram with this body, with a voucher or without.
fn datagram(kind: Kind, body: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let voucher = proptest::option::of(any::<(u16, [u8; 16])>());
    (header(), signature(), voucher).prop_map(move |(header, signature, voucher)| {
        let envelope = Envelope::seal(&Header { kind, ..header }, &body, |_| signature).unwrap();
        voucher.map_or(envelope.clone(), |(tag, mac)| Voucher { tag, mac }.before(&envelope))
    })
}

/// Cut somewhere, with bytes put in or taken out, or with a byte changed: mostly to what counts and lengths are made of.
fn spoilt(whole: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![select(&[0_u8, 1, 2, 3, 255]), any::<u8>()];
    (0..4_u8, any::<Index>(), byte).prop_map(move |(how, at, byte)| {
        let mut bytes = whole.clone();
        let at = at.index(bytes.len());
        match how {
            0 => bytes.truncate(at.max(1)),
            1 => bytes.insert(at, byte),
            2 => drop(bytes.remove(at)),
            _ => bytes[at] = byte,
        }
        bytes
    })
}

fn draw<T: std::fmt::Debug>(strategy: &impl Strategy<Value = T>, random: &mut TestRunner) -> T {
    strategy.new_tree(random).unwrap().current()
}

/// What tshark shows of each datagram, in the form of [`by_codec`].
fn by_wireshark(datagrams: &[Vec<u8>]) -> Vec<String> {
    const FIELDS: [&str; 9] = [
        "_ws.lua.error",
        "muster.malformed",
        "muster.voucher.tag",
        "muster.kind",
        "muster.group",
        "muster.sender",
        "muster.startup",
        "muster.sequence",
        "muster.signature",
    ];
    let mut tshark = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../wireshark/tshark"));
    tshark.args(["-r", "-", "-T", "fields", "-E", "occurrence=f", "-E", "separator= "]);
    tshark.args(FIELDS.iter().flat_map(|field| ["-e", field]));
    let mut child = tshark.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let capture = capture(datagrams);
    let writer = std::thread::spawn(move || stdin.write_all(&capture).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let show = |line: &str| {
        let fields: Vec<&str> = line.splitn(3, ' ').collect();
        match fields[..] {
            ["", "", shown] => shown.to_owned(),
            ["", _, _] => MALFORMED.to_owned(),
            _ => format!("error in the dissector: {line}"),
        }
    };
    String::from_utf8(output.stdout).unwrap().lines().map(show).collect()
}

/// A classic pcap file of IPv4 packets, each a datagram to the port of its kind.
fn capture(datagrams: &[Vec<u8>]) -> Vec<u8> {
    const LINKTYPE_IPV4: u32 = 228;
    let mut file = [0xa1b2_c3d4_u32, 2 << 16 | 4, 0, 0, 1 << 18, LINKTYPE_IPV4].map(u32::to_be_bytes).concat();
    for datagram in datagrams {
        let kind = Voucher::split(datagram).1.get(5).copied().unwrap_or_default();
        let port = if kind < Kind::Chunk as u8 { 4860_u16 } else { 4861 };
        let udp_length = datagram.len() as u16 + 8;
        let mut packet = vec![0x45, 0];
        packet.extend((udp_length + 20).to_be_bytes());
        packet.extend([0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
        packet.extend([port, port, udp_length, 0].map(u16::to_be_bytes).concat());
        packet.extend(datagram);
        let length = packet.len() as u32;
        file.extend([0, 0, length, length].map(u32::to_be_bytes).concat());
        file.extend(packet);
    }
    file
}
