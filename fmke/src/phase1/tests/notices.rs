//! What a peer says beside the matter counts if it is of the DOI in use (draft 2.0) and of ISAKMP (RFC 2408 3.14, 3.15).

use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

use super::network::*;
use crate::crypto::dh::Secret;
use crate::isakmp::{Chain, Cookie, Delete, Notify, exchange, kind, notification};
use crate::phase1::main_mode::{Agreed, Keyed, Role, Share};
use crate::phase1::sa::Features;
use crate::phase1::{Client, Proposals, Refused, SaId};

/// DOI and protocol of others: another DOI, no protocol, ESP.
const FOREIGN: [(u32, u8); 3] = [(DOI + 1, 1), (DOI, 0), (DOI, 3)];

#[test]
fn a_member_that_begins_anew_says_so_of_isakmp_in_this_doi() {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let suite = Proposals::default().suites().next().unwrap();
    let id = SaId { responder: Cookie([1; 8]), initiator: Cookie([2; 8]) };
    let lifetime = Duration::from_secs(60);
    let agreed = Agreed { id, doi: DOI, suite, lifetime, offer: Vec::new(), features: Features::default() };
    let secrets = [(); 2].map(|()| Secret::generate(suite.group, &mut rng).unwrap());
    let [ours, theirs] = secrets.each_ref().map(|secret| Share::draw(secret, &mut rng));
    let shared = secrets[0].agree(&theirs.public).unwrap();
    let keyed = Keyed::new(agreed, ours, theirs, &shared, Some(&secret(1))).unwrap();
    let mut begins_anew = |doi, protocol| {
        let mut chain = keyed.prove(Role::Initiator, &own(member_address(1)), &mut rng).unwrap();
        let contact = Notify { doi, protocol, spi: &id.octets(), kind: notification::INITIAL_CONTACT, data: &[] };
        chain.add(kind::NOTIFY, &contact.to_body());
        let client = Client { secret: None, identity: None };
        let message = (chain.first(), chain.bytes());
        keyed
            .check(Role::Initiator, message, (&client, member_address(1).ip()), &(), || true)
            .map(|shown| shown.begins_anew)
    };
    assert_eq!(begins_anew(DOI, 1), Ok(true));
    for (doi, protocol) in FOREIGN {
        // No hash is over it: what is not of this SA was changed on the way.
        assert_eq!(begins_anew(doi, protocol), Err(Refused::Authentication), "DOI {doi}, protocol {protocol}");
    }
}

#[test]
fn what_is_said_of_another_doi_or_protocol_is_passed_over() {
    let mut network = Network::new(1, Proposals::default(), Proposals::default());
    network.run(Duration::from_secs(1));
    let id = network.common_sa().unwrap();
    let mut message_id = 0;
    // The member's answers; that it takes the message as one of the server's is not asked, but that it is authentic.
    let mut hear = |network: &mut Network, kind: u8, body: &[u8]| {
        message_id += 1;
        let sa = network.server.sa(id).unwrap();
        let mut chain = Chain::new();
        chain.add(kind, body);
        sa.add_hash(&u32::to_be_bytes(message_id), &mut chain);
        let datagram = sa.seal(exchange::INFORMATIONAL, message_id, &chain);
        network.member.handle_datagram(network.now, server_address(), &datagram, &(), &mut network.rng).unwrap();
        std::iter::from_fn(|| network.member.poll_transmit()).count()
    };
    let question = |doi, protocol| {
        let data = &[0, 0, 0, 9];
        Notify { doi, protocol, spi: &id.octets(), kind: notification::R_U_THERE, data }.to_body()
    };
    let delete = |doi, protocol| Delete { doi, protocol, spis: vec![id.octets().to_vec()] }.to_body();
    for (doi, protocol) in FOREIGN {
        assert_eq!(hear(&mut network, kind::NOTIFY, &question(doi, protocol)), 0, "DOI {doi}, protocol {protocol}");
        assert_eq!(hear(&mut network, kind::DELETE, &delete(doi, protocol)), 0);
        assert!(network.member.current().is_some(), "DOI {doi}, protocol {protocol}");
    }
    assert_eq!(hear(&mut network, kind::NOTIFY, &question(DOI, 1)), 1, "the answer");
    hear(&mut network, kind::DELETE, &delete(DOI, 1));
    assert!(network.member.current().is_none());
}
