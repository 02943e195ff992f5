use super::*;
use crate::crypto::rekey::{RekeyAlgorithm, RekeySigner, RekeyVerifier};

const ID: u32 = 0x0102_0304;

fn keys() -> RekeyKeys {
    RekeyKeys::new(&lkh::Key::from_bytes(&[7; 32]), *b"initiat0respond0")
}

fn told() -> Chain {
    let mut chain = Chain::new();
    chain.add(kind::LSEQ, &9u32.to_be_bytes());
    chain
}

fn open(datagram: &[u8], verify: impl FnOnce(&[u8], &[u8]) -> Result<(), CryptoError>) -> Result<Opened, PushError> {
    let (header, first, body) = Header::parse(datagram)?;
    keys().open((&header, &datagram[..HEADER_LEN], first, body), verify)
}

/// "the digital signature of the entire message before encryption (including the header and excluding the SIG payload itself)"
/// (draft 4.1)
#[test]
fn the_signature_is_over_the_header_as_it_is_sent_and_what_stands_before_it() {
    let mut signed = Vec::new();
    let datagram = keys().seal(ID, told(), 64, |message| {
        signed = message.to_vec();
        vec![5; 64]
    });
    assert_eq!(signed[..HEADER_LEN], datagram[..HEADER_LEN]);
    assert_eq!(signed[HEADER_LEN..], [kind::SIG, 0, 0, 8, 0, 0, 0, 9]);
    let mut verified = None;
    let opened = open(&datagram, |message, signature| {
        verified = Some((message.to_vec(), signature.to_vec()));
        Ok(())
    })
    .unwrap();
    assert_eq!(verified, Some((signed, vec![5; 64])));
    assert_eq!(opened.payloads().iter().map(|raw| raw.kind).collect::<Vec<_>>(), [kind::LSEQ]);
}

/// "The first 8 octets of the cookie pair become the "Initiator Cookie" field and the second 8 octets become the "Responder
/// Cookie" field … FMKE_multicast_Push … the encryption bit is set to 1 and the others bits MUST be set to 0" (draft 4.3, 8.2)
#[test]
fn headers_stand_as_the_draft_says() {
    let missing = [Range { first: 5, last: 5 }];
    let messages = [keys().seal(ID, told(), 64, |_| vec![5; 64]), keys().seal_missing(ID, &missing)];
    for (datagram, first) in messages.iter().zip([kind::LSEQ, kind::HASH]) {
        assert_eq!(datagram[..16], *b"initiat0respond0");
        assert_eq!(datagram[16..20], [first, 0x10, 241, 1]);
        assert_eq!(datagram[20..24], ID.to_be_bytes());
        assert_eq!(datagram[24..28], (datagram.len() as u32).to_be_bytes());
        let (header, ..) = Header::parse(datagram).unwrap();
        assert!(keys().is_of(&header));
        let other = Header { initiator: header.responder, responder: header.initiator, ..header };
        assert!(!keys().is_of(&other), "the halves in the other order");
    }
}

#[test]
fn a_changed_octet_anywhere_is_refused() {
    let secret = SecretBytes::from(&[7; 32][..]);
    let signer = RekeySigner::from_secret(RekeyAlgorithm::EcdsaP256, &secret).unwrap();
    let verifier = RekeyVerifier::from_spki(RekeyAlgorithm::EcdsaP256, &signer.public_spki()).unwrap();
    let datagram = keys().seal(ID, told(), 64, |message| signer.sign(message));
    assert!(open(&datagram, |message, signature| verifier.verify(message, signature)).is_ok());
    for at in 0..datagram.len() {
        let mut changed = datagram.clone();
        changed[at] ^= 1 << (at % 8);
        let opened = open(&changed, |message, signature| verifier.verify(message, signature));
        assert!(opened.is_err(), "octet {at}");
    }
    let unsigned = keys().seal(ID, Chain::new(), 64, |_| vec![0; 64]);
    let opened = open(&unsigned, |message, signature| verifier.verify(message, signature));
    assert_eq!(opened.err(), Some(PushError::Authentication));
}

#[test]
fn what_a_member_misses_is_hashed_with_the_groups_key() {
    let missing = [Range { first: 5, last: 5 }, Range { first: 8, last: 8 }];
    let datagram = keys().seal_missing(ID, &missing);
    let (header, first, body) = Header::parse(&datagram).unwrap();
    assert_eq!(keys().open_missing(&header, first, body), Ok(missing.to_vec()));
    // HASH, then two NACKs; the hash is over both, headers included.
    let text = keys().decrypt(&header, body).unwrap();
    let nacks = [kind::NACK, 0, 0, 12, 0, 0, 0, 5, 0, 0, 0, 5, 0, 0, 0, 12, 0, 0, 0, 8, 0, 0, 0, 8];
    assert_eq!(text[36..60], nacks);
    assert!(HASH.prf(keys().authentication.as_bytes(), &[&nacks]).matches(&text[4..36]));
    for at in 20..datagram.len() {
        let mut changed = datagram.clone();
        changed[at] ^= 1 << (at % 8);
        let read = Header::parse(&changed)
            .map_err(PushError::from)
            .and_then(|(header, first, body)| keys().open_missing(&header, first, body));
        assert!(read.is_err(), "octet {at}");
    }
    let other = RekeyKeys::new(&lkh::Key::from_bytes(&[8; 32]), *b"initiat0respond0");
    assert!(other.open_missing(&header, first, body).is_err(), "the keys of another root");
}

/// "The Group member sends only one type of messages." (draft 4.1)
#[test]
fn a_member_says_what_it_misses_and_nothing_else() {
    let range = Range { first: 5, last: 7 };
    let said = |kinds: &[u8]| {
        let keys = keys();
        let mut chain = Chain::new();
        kinds.iter().for_each(|kind| _ = chain.add(*kind, &range.to_body()));
        let hash = HASH.prf(keys.authentication.as_bytes(), &[chain.bytes()]);
        chain.precede(kind::HASH, hash.as_bytes());
        let mut text = chain.bytes().to_vec();
        keys.encrypt(ID, &mut text);
        keys.open_missing(&keys.header(ID), chain.first(), &text)
    };
    assert_eq!(said(&[kind::NACK]), Ok(vec![range]));
    let wrong: PushError = Malformed::Missing("HASH, NACK").into();
    for kinds in [&[][..], &[kind::SACK], &[kind::NACK, kind::SACK], &[kind::SEQ, kind::NACK]] {
        assert_eq!(said(kinds), Err(wrong), "{kinds:?}");
    }
}

/// (draft 9.3.4)
#[test]
fn a_message_that_comes_back_to_its_sender_is_refused() {
    let push = keys().seal(ID, told(), 64, |_| vec![5; 64]);
    let (header, first, body) = Header::parse(&push).unwrap();
    assert!(keys().open_missing(&header, first, body).is_err());
    let missing = keys().seal_missing(ID, &[Range { first: 5, last: 5 }]);
    assert_eq!(open(&missing, |_, _| Ok(())).err(), Some(Malformed::Missing("SIG").into()));
}
