//! What decodes is canonical, whole and bounded; what does not is refused without a panic.

mod bodies;

use std::fmt::Debug;

use bincode::{Decode, Encode};
use bodies::*;
use muster_wire::codec::{MAX_MESSAGE, decode, encode};
use muster_wire::idp::{
    self, CrlPart, CrlRequest, Goodbye, Hello, PrefixList, Prefixes, PrefixesAck, Probe, ProbeAnswer,
};
use muster_wire::mike::{self, Ack, Activate, Chunk, Commit, EpochHeader, Handover, HandoverRefused, Leaf, Leave};
use muster_wire::mike::{Exposure, Fills, FillsWanted, Objection, Refresh, RekeyRequest, Request, Snapshot};
use muster_wire::{Body, Bytes, Envelope, HEADER_LEN, Kind, List, MAX_DATAGRAM, SIGNATURE_LEN, Signed, WireError};
use muster_wire::{VOUCHER_LEN, Voucher};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

/// What must hold of a message and of everything near it: `spoil` are places to cut and to change.
fn check<T: Encode + Decode<()> + PartialEq + Debug>(value: &T, spoil: &[(Index, u8)]) -> Result<(), TestCaseError> {
    let bytes = encode(value).unwrap();
    prop_assert_eq!(&decode::<T>(&bytes).unwrap(), value);

    let mut longer = bytes.clone();
    longer.push(0);
    prop_assert_eq!(decode::<T>(&longer), Err(WireError::Trailing(1)));

    let cuts = spoil.iter().filter(|_| !bytes.is_empty()).map(|(at, _)| at.index(bytes.len()));
    for cut in cuts.chain(bytes.len().checked_sub(1)) {
        prop_assert!(matches!(decode::<T>(&bytes[..cut]), Err(WireError::Malformed(_))), "cut at {}", cut);
    }

    let mut changed = bytes.clone();
    for (at, byte) in spoil.iter().filter(|_| !bytes.is_empty()) {
        changed[at.index(bytes.len())] = *byte;
        canonical::<T>(&changed)?;
    }
    Ok(())
}

/// Whatever decodes, encodes to the same bytes.
fn canonical<T: Encode + Decode<()>>(bytes: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(value) = decode::<T>(bytes) {
        prop_assert_eq!(encode(&value).unwrap(), bytes);
    }
    Ok(())
}

macro_rules! messages {
    ($($name:ident: $type:ty = $strategy:expr;)*) => {
        proptest! {
            $(#[test]
            fn $name(value in $strategy, spoil in vec(any::<(Index, u8)>(), 20)) {
                check::<$type>(&value, &spoil)?;
            })*

            #[test]
            fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..600), few in vec(0..3_u8, 0..600)) {
                for bytes in [&bytes, &few] {
                    $(canonical::<$type>(bytes)?;)*
                    if let Ok(envelope) = Envelope::parse(bytes) {
                        let _ = envelope.decode::<Hello>();
                    }
                }
            }
        }
    };
}
messages! {
    hellos: Hello = hello();
    probes: Probe = probe();
    probe_answers: ProbeAnswer = probe_answer();
    prefixes_sealed: Prefixes = prefixes();
    prefix_lists: PrefixList = prefix_list();
    prefixes_acks: PrefixesAck = prefixes_ack();
    goodbyes: Goodbye = Just(Goodbye {});
    crl_requests: CrlRequest = crl_request();
    crl_parts: CrlPart = crl_part();
    chunks: Chunk = chunk();
    requests: Request = request();
    handovers_refused: HandoverRefused = handover_refused();
    acks: Ack = names_epoch().prop_map(|(instance, epoch, header)| Ack { instance, epoch, header });
    activates: Activate = names_epoch().prop_map(|(instance, epoch, header)| Activate { instance, epoch, header });
    leaves: Leave = names_epoch().prop_map(|(instance, epoch, header)| Leave { instance, epoch, header });
    rekey_requests: RekeyRequest =
        names_epoch().prop_map(|(instance, epoch, header)| RekeyRequest { instance, epoch, header });
    fill_lists: Fills = (hash(), list(fill())).prop_map(|(header, fills)| Fills { header, fills });
    wanted_fills: FillsWanted =
        (hash(), list(any::<u32>())).prop_map(|(header, nodes)| FillsWanted { header, nodes });
    objections: Objection = (hash(), any::<u32>(), any::<[u8; 32]>())
        .prop_map(|(header, node, public)| Objection { header, node, public });
    refreshes: Refresh = (names_epoch(), any::<bool>(), signed(leaf()))
        .prop_map(|((instance, ..), urgent, leaf)| Refresh { instance, urgent, leaf });
    exposures: Exposure = (signed(epoch_header()), signed(epoch_header()))
        .prop_map(|(first, second)| Exposure { first, second });
    tree_leaves: Leaf = leaf();
    signed_leaves: Signed<Leaf> = signed(leaf());
    epoch_headers: EpochHeader = epoch_header();
    handovers: Handover = handover();
    commits: Commit = commit();
    snapshots: Snapshot = snapshot();
}

proptest! {
    #[test]
    fn envelopes_come_back(
        header in header(),
        body in vec(any::<u8>(), 0..MAX_DATAGRAM - HEADER_LEN - SIGNATURE_LEN),
        signature in signature(),
    ) {
        let bytes = Envelope::seal(&header, &body, |_| signature).unwrap();
        prop_assert_eq!(bytes.len(), HEADER_LEN + body.len() + SIGNATURE_LEN);
        let envelope = Envelope::parse(&bytes).unwrap();
        prop_assert_eq!(envelope.header(), &header);
        prop_assert_eq!(envelope.body(), &body);
        prop_assert_eq!(envelope.signature(), signature);
        prop_assert_eq!(envelope.signed_bytes(), &bytes[..bytes.len() - SIGNATURE_LEN]);
    }

    #[test]
    fn every_byte_of_a_header_counts(header in header(), at in 0..HEADER_LEN, change in 1..=u8::MAX) {
        let mut bytes = Envelope::seal(&header, &[], |_| muster_wire::Signature([0; 64])).unwrap();
        bytes[at] ^= change;
        match Envelope::parse(&bytes) {
            Ok(envelope) => prop_assert_ne!(envelope.header(), &header),
            Err(error) if at < 4 => prop_assert_eq!(error, WireError::Magic),
            Err(error) if at == 4 => prop_assert_eq!(error, WireError::Version(bytes[4])),
            Err(error) => prop_assert_eq!((at, error), (5, WireError::Kind(bytes[5]))),
        }
    }
}

proptest! {
    #[test]
    fn vouchers_come_off_as_they_were_put_before(
        tag in any::<u16>(),
        mac in any::<[u8; 16]>(),
        envelope in vec(any::<u8>(), 0..300),
    ) {
        let voucher = Voucher { tag, mac };
        let datagram = voucher.before(&envelope);
        prop_assert_eq!(datagram.len(), VOUCHER_LEN + envelope.len());
        prop_assert_eq!(Voucher::split(&datagram), (Some(voucher), envelope.as_slice()));
    }

    #[test]
    fn what_has_no_whole_voucher_stays_as_it_is(mut bytes in vec(any::<u8>(), 0..300), magic in any::<bool>()) {
        if magic {
            bytes.splice(..bytes.len().min(4), *b"MSTV");
        }
        match Voucher::split(&bytes) {
            (Some(voucher), envelope) => prop_assert_eq!(voucher.before(envelope), bytes),
            (None, rest) => {
                prop_assert_eq!(rest, bytes.as_slice());
                prop_assert!(!bytes.starts_with(b"MSTV") || bytes.len() < VOUCHER_LEN);
                prop_assert!(!bytes.starts_with(b"MSTV") || Envelope::parse(&bytes).is_err());
            }
        }
    }
}

#[test]
fn envelopes_of_the_wrong_form_are_refused() {
    let least = HEADER_LEN + SIGNATURE_LEN;
    let datagram = |length: usize, kind: u8| {
        let mut bytes = vec![0; length];
        bytes[..6].copy_from_slice(&[b'M', b'S', b'T', b'R', 1, kind]);
        bytes
    };
    assert!(Envelope::parse(&datagram(least, 6)).is_ok());
    assert!(Envelope::parse(&datagram(MAX_DATAGRAM, 6)).is_ok());
    for length in [least - 1, MAX_DATAGRAM + 1, 65_507] {
        assert_eq!(Envelope::parse(&datagram(length, 6)), Err(WireError::Length(length)));
    }
    assert_eq!(Envelope::parse(&[]), Err(WireError::Length(0)));
    let known: Vec<u8> = Kind::ALL.iter().map(|kind| *kind as u8).collect();
    assert_eq!(known, [1, 2, 3, 4, 5, 6, 7, 8, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27]);
    for kind in 0..=u8::MAX {
        let expected = if known.contains(&kind) { None } else { Some(WireError::Kind(kind)) };
        assert_eq!(Envelope::parse(&datagram(least, kind)).err(), expected);
    }
    let goodbye = Envelope::parse(&datagram(least, 6)).unwrap();
    assert_eq!(goodbye.decode::<Goodbye>(), Ok(Goodbye {}));
    assert_eq!(goodbye.decode::<Probe>(), Err(WireError::Kind(6)));
    let too_long = vec![0; MAX_DATAGRAM - least + 1];
    let refused = Envelope::seal(goodbye.header(), &too_long, |_| panic!("signs what it cannot send"));
    assert_eq!(refused, Err(WireError::Length(MAX_DATAGRAM + 1)));
}

#[test]
fn lists_and_bytes_have_bounds() {
    fn list<T: Encode + Decode<()> + Clone + Debug + PartialEq, const N: usize>(item: T) {
        assert!(List::<T, N>::new(vec![item.clone(); N + 1]).is_none());
        let item = encode(&item).unwrap();
        let wire = |count: usize| [&(count as u16).to_be_bytes()[..], &item.repeat(count)].concat();
        assert_eq!(decode::<List<T, N>>(&wire(N)).unwrap().len(), N);
        let error = decode::<List<T, N>>(&wire(N + 1)).unwrap_err();
        assert!(error.to_string().contains("list longer than allowed"), "{error}");
    }
    fn bytes<const N: usize>() {
        assert!(Bytes::<N>::new(vec![0; N + 1]).is_none());
        let wire = |length: usize| [&(length as u32).to_be_bytes()[..], &vec![0; length]].concat();
        assert_eq!(decode::<Bytes<N>>(&wire(N)).unwrap().len(), N);
        let error = decode::<Bytes<N>>(&wire(N + 1)).unwrap_err();
        assert!(error.to_string().contains("bytes longer than allowed"), "{error}");
    }
    list::<u16, { mike::MAX_TAGS }>(0);
    list::<u16, { mike::MAX_MISSING }>(0);
    list::<u32, { mike::MAX_FILLS }>(0);
    list::<u32, { mike::MAX_WANTED }>(0);
    list::<u32, { mike::MAX_MEMBERS }>(0);
    list::<u32, { mike::MAX_SLOTS }>(0);
    list::<u32, { mike::MAX_CIPHERTEXTS }>(0);
    list::<u32, { mike::MAX_HANDOVERS }>(0);
    list::<u32, { mike::MAX_DEPTH }>(0);
    list::<u32, { idp::MAX_CRLS }>(0);
    list::<Bytes<{ idp::MAX_CERTIFICATE }>, { idp::MAX_CHAIN }>(Bytes::default());
    list::<idp::Prefix, { idp::MAX_PREFIXES }>(idp::Prefix { family: 4, length: 0, address: [0; 16] });
    bytes::<{ mike::CHUNK_LEN }>();
    bytes::<{ idp::MAX_CERTIFICATE }>();
    bytes::<{ idp::MAX_SEALED_PREFIXES }>();
    bytes::<{ idp::CRL_PART }>();
}

#[test]
fn lying_lengths_cost_nothing() {
    // The most that a count may say, and nothing behind it.
    assert!(decode::<List<Signed<Leaf>, { mike::MAX_MEMBERS }>>(&[4, 0]).is_err());
    assert!(decode::<Signed<Leaf>>(&(MAX_MESSAGE as u32).to_be_bytes()).is_err());
    assert!(decode::<Signed<Leaf>>(&u32::MAX.to_be_bytes()).is_err());
    assert!(decode::<ProbeAnswer>(&[[0; 16].as_slice(), &[0xff, 0xff]].concat()).is_err());
}

#[test]
fn messages_have_a_bound() {
    type Large = Bytes<{ MAX_MESSAGE + 1 }>;
    let bytes = |length| Large::new(vec![0; length]).unwrap();
    assert_eq!(encode(&bytes(MAX_MESSAGE - 4)).unwrap().len(), MAX_MESSAGE);
    assert!(encode(&bytes(MAX_MESSAGE - 3)).is_err());
    assert_eq!(decode::<Large>(&vec![0; MAX_MESSAGE + 1]), Err(WireError::Length(MAX_MESSAGE + 1)));
}

#[test]
fn tags_have_one_form() {
    let mut probe = encode(&Probe { hello_nonce: nonce_zero(), nonce: nonce_zero(), want_chain: true }).unwrap();
    for flag in 2..=u8::MAX {
        *probe.last_mut().unwrap() = flag;
        assert!(decode::<Probe>(&probe).is_err(), "a bool of {flag}");
    }
    for tag in 2..=u8::MAX {
        assert!(decode::<Option<u8>>(&[tag, 0]).is_err(), "an option's tag of {tag}");
    }
    for variant in [3_u32, 256, 1 << 24, u32::MAX] {
        assert!(decode::<mike::MessageKind>(&variant.to_be_bytes()).is_err());
        assert!(decode::<mike::ParentKind>(&variant.to_be_bytes()).is_err());
    }
    assert!(decode::<mike::Side>(&2_u32.to_be_bytes()).is_err());
}

#[test]
fn every_body_fits_into_a_datagram() {
    fn fits<T: Body>(body: &T) {
        assert!(HEADER_LEN + encode(body).unwrap().len() + SIGNATURE_LEN <= MAX_DATAGRAM, "{:?}", T::KIND);
    }
    fits(&largest_hello());
    fits(&largest_request());
    fits(&largest_chunk());
    fits(&largest_prefixes());
    fits(&largest_crl_part());
    // IPv6 and UDP headers beside it on a link of 1,280 bytes (RFC 8200, section 5).
    for length in [encode(&largest_chunk()).unwrap().len(), encode(&largest_crl_part()).unwrap().len()] {
        assert!(VOUCHER_LEN + HEADER_LEN + length + SIGNATURE_LEN + 40 + 8 <= 1280);
    }
}
