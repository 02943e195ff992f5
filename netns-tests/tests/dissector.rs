//! Wireshark's dissector (`wireshark/muster.lua`) on what real daemons say, against the codec.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use muster_netns_tests::{Lab, PORTS, datagrams, no_tshark, skip, tshark_with_dissector};
use muster_wire::codec::decode;
use muster_wire::idp::Hello;
use muster_wire::mike::{Ack, Activate, Chunk, Commit, Exposure, Handover, Leave, MessageKind, RekeyRequest, Snapshot};
use muster_wire::{Envelope, Hash, Kind, MemberId, Signed, Voucher};
use nix::sys::signal::Signal;

#[test]
fn every_datagram_is_dissected_as_the_codec_decodes_it() {
    let test = "every_datagram_is_dissected_as_the_codec_decodes_it";
    if skip(test) || no_tshark(test) {
        return;
    }
    let lab = eventful();
    let lines = tshark_with_dissector(&lab, &arguments());
    let seen = datagrams(&lab.capture, PORTS);
    let mut messages = Messages::default();
    let mut kinds = BTreeSet::new();
    for (line, datagram) in lines.iter().zip(&seen) {
        let (voucher, envelope) = Voucher::split(&datagram.payload);
        let envelope = Envelope::parse(envelope).unwrap();
        let header = envelope.header();
        let tag = voucher.map(|voucher| voucher.tag.to_string()).unwrap_or_default();
        let epoch = messages.epoch(&envelope).map(|epoch| epoch.to_string()).unwrap_or_default();
        let expected = format!(
            "||||{tag}|{}|{}|{}|{}|{}|{epoch}|{}",
            header.kind as u8,
            header.group,
            header.sender,
            header.startup,
            header.sequence,
            envelope.signature(),
        );
        assert_eq!(*line, expected, "{:?} {:02x?}", header.kind, datagram.payload);
        kinds.insert(header.kind);
    }
    assert_eq!(lines.len(), seen.len());
    let missing: Vec<&Kind> = EXPECTED.iter().filter(|kind| !kinds.contains(kind)).collect();
    assert!(missing.is_empty(), "the story has no {missing:?}");
    assert!(messages.assembled > 0, "some message came in several chunks");
}

/// What the story below makes daemons say for certain.
const EXPECTED: [Kind; 16] = [
    Kind::Hello,
    Kind::Probe,
    Kind::ProbeAnswer,
    Kind::Prefixes,
    Kind::PrefixesAck,
    Kind::Goodbye,
    Kind::CrlRequest,
    Kind::CrlPart,
    Kind::Chunk,
    Kind::Request,
    Kind::Ack,
    Kind::Activate,
    Kind::Leave,
    Kind::RekeyRequest,
    Kind::Fills,
    Kind::Refresh,
];

/// Joins, fresh leaves, a new key on command, somebody leaves, somebody is revoked; then all fall silent.
fn eventful() -> Lab {
    let mut lab = Lab::new(6);
    for router in 0..6 {
        lab.configure(router, |text| *text = text.replace("[group]\n", "[group]\nleaf_refresh = \"2s\"\n"));
        lab.start(router);
    }
    lab.wait_for_group(&[0, 1, 2, 3, 4, 5]);
    let others: Vec<usize> = (0..6).filter(|router| *router != lab.manager(0)).collect();
    assert_eq!(lab.ask(others[0], &["rekey"]).status, 0);
    lab.wait(Duration::from_secs(10), "fresh leaves", || has(&lab, Kind::Refresh) && has(&lab, Kind::Fills));

    lab.terminate(others[1]);
    let revoked = others[2];
    let (crl, control) = (lab.crl(revoked), format!("control = \"{}.sock\"", lab.name(others[3])));
    lab.revoke(revoked);
    lab.configure(others[3], |text| {
        *text = text
            .replace("[group]\n", "[group]\nleaf_refresh = \"2s\"\n")
            .replace(&control, &format!("{control}\ncrls = [\"{crl}\"]"));
    });
    lab.signal(others[3], Signal::SIGHUP);
    lab.wait_for_end(revoked);
    let rest: Vec<usize> = (0..6).filter(|router| ![others[1], revoked].contains(router)).collect();
    lab.wait_for_group(&rest);
    lab.wait(Duration::from_secs(10), "the list to travel", || has(&lab, Kind::CrlPart));
    for router in rest {
        lab.kill(router);
    }
    lab
}

fn has(lab: &Lab, kind: Kind) -> bool {
    let of_kind = |payload: &[u8]| Envelope::parse(Voucher::split(payload).1).is_ok_and(|e| e.header().kind == kind);
    datagrams(&lab.capture, PORTS).iter().any(|datagram| of_kind(&datagram.payload))
}

/// Of each datagram to either port: what must not be there, then the fields.
fn arguments() -> Vec<&'static str> {
    // "Port unreachable" from who has gone quotes what it answers.
    let ours = "udp.dstport in {4860, 4861} && !icmpv6";
    let mut arguments = vec!["-Y", ours];
    arguments.extend(["-T", "fields", "-E", "occurrence=f", "-E", "separator=|"]);
    for field in [
        "_ws.lua.error",
        "_ws.malformed",
        "muster.malformed",
        "muster.misplaced",
        "muster.voucher.tag",
        "muster.kind",
        "muster.group",
        "muster.sender",
        "muster.startup",
        "muster.sequence",
        "muster.epoch",
        "muster.signature",
    ] {
        arguments.extend(["-e", field]);
    }
    arguments
}

/// Messages in chunks: the dissector shows one where its last part comes for the first time.
#[derive(Default)]
struct Messages {
    parts: BTreeMap<(MemberId, Hash), BTreeMap<u16, Vec<u8>>>,
    /// How many had more parts than one.
    assembled: usize,
}

impl Messages {
    /// The first epoch in a body.
    fn epoch(&mut self, envelope: &Envelope) -> Option<u64> {
        match envelope.header().kind {
            Kind::Hello => Some(envelope.decode::<Hello>().unwrap().group.epoch),
            Kind::Ack => Some(envelope.decode::<Ack>().unwrap().epoch),
            Kind::Activate => Some(envelope.decode::<Activate>().unwrap().epoch),
            Kind::Leave => Some(envelope.decode::<Leave>().unwrap().epoch),
            Kind::RekeyRequest => Some(envelope.decode::<RekeyRequest>().unwrap().epoch),
            Kind::Exposure => Some(envelope.decode::<Exposure>().unwrap().first.decode().unwrap().epoch),
            Kind::Chunk => {
                let chunk: Chunk = envelope.decode().unwrap();
                let message = self.whole(envelope.header().sender, &chunk)?;
                Some(match chunk.kind {
                    MessageKind::Commit => decode::<Commit>(&message).unwrap().header.decode().unwrap().epoch,
                    MessageKind::Snapshot => decode::<Snapshot>(&message).unwrap().header.decode().unwrap().epoch,
                    MessageKind::Handover => decode::<Signed<Handover>>(&message).unwrap().decode().unwrap().epoch,
                })
            }
            _ => None,
        }
    }

    fn whole(&mut self, sender: MemberId, chunk: &Chunk) -> Option<Vec<u8>> {
        let length = chunk.length as usize;
        if chunk.data.len() == length {
            return Some(chunk.data.to_vec());
        }
        let parts = self.parts.entry((sender, chunk.message)).or_default();
        let is_new = parts.insert(chunk.index, chunk.data.to_vec()).is_none();
        let message = parts.values().flatten().copied().collect::<Vec<u8>>();
        let is_whole = is_new && message.len() == length;
        self.assembled += usize::from(is_whole);
        is_whole.then_some(message)
    }
}
