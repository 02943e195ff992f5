//! Datagrams of the key server's protocol: what is read, is written again as it was.

use muster_fmke::isakmp::{
    Chain, Delete, Fragment, Header, Identity, KeyDownload, Notify, Policy, Raw, Transform, attributes, kind, number,
    payloads, ranges, write_proposal,
};

/// A datagram. What says that it is encrypted, is read as if it had been decrypted.
pub(crate) fn datagram(data: &[u8]) {
    let Ok((header, first, body)) = Header::parse(data) else { return };
    assert_eq!(header.write(first, body), data, "a header is not canonical");
    let Ok(list) = payloads(first, body, header.is_encrypted()) else { return };
    rewritten(first, body, &list);
    for raw in &list {
        payload(raw);
    }
    for kind in [kind::SACK, kind::NACK] {
        let Ok(ranges) = ranges(&list, kind) else { continue };
        let bodies = list.iter().filter(|raw| raw.kind == kind).map(|raw| raw.body);
        assert!(bodies.eq(ranges.iter().map(|range| range.to_body())), "a range is not canonical");
    }
}

/// From the first to the last, and from the last to the first.
fn rewritten(first: u8, body: &[u8], list: &[Raw<'_>]) {
    let (mut forwards, mut backwards) = (Chain::new(), Chain::new());
    list.iter().for_each(|raw| _ = forwards.add(raw.kind, raw.body));
    list.iter().rev().for_each(|raw| _ = backwards.precede(raw.kind, raw.body));
    for chain in [forwards, backwards] {
        assert_eq!((chain.first(), chain.bytes()), (first, &body[..chain.bytes().len()]), "a chain is not canonical");
    }
}

fn payload(raw: &Raw<'_>) {
    let body = raw.body;
    match raw.kind {
        kind::SA => security_association(body),
        kind::ID => {
            if let Ok(identity) = Identity::parse(body) {
                assert_eq!(Identity::parse(&identity.to_body()), Ok(identity));
            }
        }
        kind::NOTIFY => canonical(body, Notify::parse(body).map(|notify| notify.to_body())),
        kind::DELETE => canonical(body, Delete::parse(body).map(|delete| delete.to_body())),
        kind::KD => canonical(body, KeyDownload::parse(body).map(|keys| keys.to_body().to_vec())),
        kind::FRAGMENT => canonical(body, Fragment::parse(body).map(|fragment| fragment.to_body())),
        kind::SEQ | kind::LSEQ | kind::ACK => canonical(body, number(body).map(|number| number.to_be_bytes().to_vec())),
        _ => {}
    }
}

/// Of phase 1, or of the others: which, the exchange says.
fn security_association(body: &[u8]) {
    if let Ok((doi, offer)) = Transform::offer(body) {
        for transform in &offer {
            let Ok(list) = transform.attributes() else { continue };
            let mut again = Vec::new();
            list.iter().for_each(|attribute| attribute.write(&mut again));
            assert_eq!(again, transform.attributes, "attributes are not canonical");
            assert_eq!(attributes(&again), Ok(list));
        }
        let is_one = offer.first().is_some_and(|first| offer.iter().all(|other| other.proposal == first.proposal));
        if is_one {
            assert_eq!(Transform::offer(&write_proposal(doi, &offer)), Ok((doi, offer)));
        }
    }
    let doi = body.first_chunk().map_or(0, |doi| u32::from_be_bytes(*doi));
    if let Ok(policy) = Policy::parse(body, doi) {
        assert_eq!(Policy::parse(&policy.to_body(doi), doi), Ok(policy));
    }
}

fn canonical<E>(body: &[u8], again: Result<Vec<u8>, E>) {
    if let Ok(again) = again {
        assert_eq!(again, body, "a payload is not canonical");
    }
}
