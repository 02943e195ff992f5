//! Everything that comes off the network: what decodes is canonical.

use muster_wire::codec::{decode, encode};
use muster_wire::idp::{CrlPart, CrlRequest, Goodbye, Hello, PrefixList, Prefixes, PrefixesAck, Probe, ProbeAnswer};
use muster_wire::mike::{
    Ack, Activate, Chunk, Commit, CommitBody, EpochHeader, Exposure, Fill, Fills, FillsWanted, Handover,
    HandoverRefused, Leaf, Leave, Objection, Parent, Refresh, RekeyRequest, Request, SealedSecrets, Snapshot,
};
use muster_wire::{Envelope, Kind, Signed, Voucher};

/// What decodes as this type, encodes to the same bytes.
macro_rules! canonical {
    ($type:ty) => {{
        fn check(bytes: &[u8]) {
            if let Ok(value) = decode::<$type>(bytes) {
                assert_eq!(encode(&value).as_deref(), Ok(bytes), "{} is not canonical", stringify!($type));
            }
        }
        check
    }};
}

const DECODERS: &[fn(&[u8])] = &[
    envelope,
    body_of_kind,
    canonical!(PrefixList),
    canonical!(Leaf),
    canonical!(Parent),
    canonical!(Fill),
    canonical!(SealedSecrets),
    canonical!(EpochHeader),
    canonical!(CommitBody),
    canonical!(Commit),
    canonical!(Snapshot),
    canonical!(Handover),
    signed::<Leaf>,
    signed::<EpochHeader>,
    signed::<Handover>,
    datagram,
];

/// The first byte chooses the decoder.
pub(crate) fn decoders(data: &[u8]) {
    let Some((which, bytes)) = data.split_first() else { return };
    DECODERS[usize::from(*which) % DECODERS.len()](bytes);
}

fn datagram(bytes: &[u8]) {
    let (voucher, inside) = Voucher::split(bytes);
    match voucher {
        Some(voucher) => assert_eq!(voucher.before(inside), bytes, "a voucher is not canonical"),
        None => assert_eq!(inside, bytes),
    }
    envelope(inside);
}

fn envelope(bytes: &[u8]) {
    let Ok(envelope) = Envelope::parse(bytes) else { return };
    let again = Envelope::seal(envelope.header(), envelope.body(), |signed| {
        assert_eq!(signed, envelope.signed_bytes());
        envelope.signature()
    });
    assert_eq!(again.as_deref(), Ok(bytes), "an envelope is not canonical");
    body(envelope.header().kind, envelope.body());
}

fn body_of_kind(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    body(Kind::ALL[usize::from(*kind) % Kind::ALL.len()], bytes);
}

fn body(kind: Kind, bytes: &[u8]) {
    let check: fn(&[u8]) = match kind {
        Kind::Hello => canonical!(Hello),
        Kind::Probe => canonical!(Probe),
        Kind::ProbeAnswer => canonical!(ProbeAnswer),
        Kind::Prefixes => canonical!(Prefixes),
        Kind::PrefixesAck => canonical!(PrefixesAck),
        Kind::Goodbye => canonical!(Goodbye),
        Kind::CrlRequest => canonical!(CrlRequest),
        Kind::CrlPart => canonical!(CrlPart),
        Kind::Chunk => canonical!(Chunk),
        Kind::Request => canonical!(Request),
        Kind::HandoverRefused => canonical!(HandoverRefused),
        Kind::Ack => canonical!(Ack),
        Kind::Activate => canonical!(Activate),
        Kind::Leave => canonical!(Leave),
        Kind::RekeyRequest => canonical!(RekeyRequest),
        Kind::Fills => canonical!(Fills),
        Kind::FillsWanted => canonical!(FillsWanted),
        Kind::Objection => canonical!(Objection),
        Kind::Refresh => canonical!(Refresh),
        Kind::Exposure => canonical!(Exposure),
    };
    check(bytes);
}

fn signed<T: muster_wire::Signable>(bytes: &[u8]) {
    let Ok(value) = decode::<Signed<T>>(bytes) else { return };
    assert_eq!(encode(&value).as_deref(), Ok(bytes), "a signed value is not canonical");
    if let Ok(inner) = value.decode() {
        assert_eq!(encode(&inner).as_deref(), Ok(value.signed_bytes()), "what is signed is not canonical");
    }
}
