//! Authentication by signatures, and which certificates are taken.

use std::net::IpAddr;
use std::sync::Arc;

use muster_wire::Time;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, date_time_ymd,
};

use super::network::*;
use crate::crypto::SecretBytes;
use crate::crypto::signature::{Method, Signer};
use crate::isakmp::{Header, Identity};
use crate::phase1::x509::{Anchors, subject};
use crate::phase1::{
    Authentication, Authority, Certificate, CertificateError, Client, Clients, Credentials, Event, Failed, Initiator,
    Limits, Liveness, Proposals, Rate, Refused, Responder, Server, Verified,
};

/// 2026-06-01.
const NOW: u64 = 1_780_272_000;

pub(super) fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2027, 1, 1);
    params
}

pub(super) fn key(method: Method) -> KeyPair {
    match method {
        Method::Rsa => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048),
        Method::EcdsaP256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
        Method::EcdsaP384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
    }
    .unwrap()
}

pub(super) struct Ca {
    pub(super) der: Vec<u8>,
    pub(super) issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    pub(super) fn new() -> Self {
        Self::with(params("authority"))
    }

    pub(super) fn with(mut params: CertificateParams) -> Self {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = key(Method::EcdsaP256);
        let der = params.self_signed(&key).unwrap().der().to_vec();
        Ca { der, issuer: Issuer::new(params, key) }
    }

    pub(super) fn issue(&self, params: CertificateParams, key: &KeyPair) -> Vec<u8> {
        params.signed_by(key, &self.issuer).unwrap().der().to_vec()
    }

    fn credentials(&self, name: &str, method: Method) -> Credentials {
        let key = key(method);
        let der = self.issue(params(name), &key);
        let identity = subject(&der).unwrap();
        let key = Signer::from_pkcs8(&key.serialize_der()).unwrap();
        Credentials { identity, certificates: vec![Arc::new(Certificate { chain: vec![der], key })] }
    }

    fn anchors(&self) -> Anchors {
        Anchors::new(std::slice::from_ref(&self.der)).unwrap()
    }
}

/// Takes everybody whom the authority knows, from anywhere.
struct Open(Anchors);

impl Authority for Open {
    fn check(&self, chain: &[&[u8]], identity: &Identity) -> Result<Verified, CertificateError> {
        self.0.check(chain, identity, NOW)
    }
}

impl Clients for Open {
    fn client(&self, _: IpAddr) -> Option<Client<'_>> {
        Some(Client { secret: None, identity: None })
    }
}

fn signatures() -> Proposals {
    let methods = [Method::Rsa, Method::EcdsaP256, Method::EcdsaP384];
    Proposals { authentications: methods.map(Authentication::Signature).to_vec(), ..Proposals::default() }
}

/// Runs main mode between the two; what the two ends refused.
fn meet(
    member: Credentials,
    server: Credentials,
    of_member: &Open,
    of_server: &impl Clients,
    expected: Option<Identity>,
) -> (bool, Vec<Refused>) {
    let proposals = signatures();
    let mut network = Network::new(1, proposals.clone(), proposals.clone());
    let at = Server { address: server_address(), secret: None, identity: expected };
    let mut member = Initiator::new(DOI, proposals.clone(), member, at, Liveness::default(), Time(0));
    let rng = &mut network.rng;
    let mut server = Responder::new(DOI, proposals, server, Liveness::default(), Default::default(), Time(0), rng);
    member.handle_timeout(Time(0), rng);
    let (mut refused, mut by_member) = (Vec::new(), None);
    for _ in 0..3 {
        while let Some(datagram) = member.poll_transmit() {
            assert!(datagram.bytes.len() <= 1200);
            refused.extend(server.handle_datagram(Time(0), member_address(1), &datagram.bytes, of_server, rng).err());
        }
        while let Some(datagram) = server.poll_transmit() {
            by_member = member.handle_datagram(Time(0), server_address(), &datagram.bytes, of_member, rng).err();
            refused.extend(by_member);
        }
    }
    let is_there = member.current().is_some_and(|sa| server.sa(sa.id()).is_some());
    if !is_there {
        // In the end the member says why: what it refused itself, or that it is not answered.
        let failed = loop {
            member.handle_timeout(member.poll_timeout().unwrap(), rng);
            if let Some(Event::Failed(failed)) = member.poll_event() {
                break failed;
            }
        };
        match by_member {
            Some(refused) => assert_eq!(failed, Failed::Refused(refused)),
            None => assert!(matches!(failed, Failed::Silent | Failed::NotTaken), "{failed}"),
        }
    }
    (is_there, refused)
}

#[test]
fn every_kind_of_key_shows_who_it_is() {
    let ca = Ca::new();
    for method in Method::ALL {
        let (member, server) = (ca.credentials("member", method), ca.credentials("server", method));
        let expected = Some(server.identity.clone());
        let open = Open(ca.anchors());
        assert_eq!(meet(member, server, &open, &open, expected), (true, vec![]), "{method:?}");
    }
}

/// Both ends of one main mode sign with keys of one kind (RFC 2409 Appendix A: the method is one attribute).
#[test]
fn a_server_has_a_certificate_for_each_kind_of_key() {
    let ca = Ca::new();
    for method in Method::ALL {
        let mut server = ca.credentials("server", Method::Rsa);
        server.identity = Identity::Name("gcks.example".into());
        server.certificates = [Method::EcdsaP384, Method::Rsa, Method::EcdsaP256]
            .map(|method| {
                let (mut params, key) = (params("server"), key(method));
                params.subject_alt_names = vec![SanType::DnsName("gcks.example".try_into().unwrap())];
                let chain = vec![ca.issue(params, &key)];
                Arc::new(Certificate::new(chain, Signer::from_pem(&key.serialize_pem()).unwrap()).unwrap())
            })
            .into();
        let expected = Some(server.identity.clone());
        let open = Open(ca.anchors());
        let member = ca.credentials("member", method);
        assert_eq!(meet(member, server, &open, &open, expected), (true, vec![]), "{method:?}");
    }
}

/// Knows a secret of whoever comes, and an authority.
struct Guarded(Anchors, SecretBytes, Identity);

impl Authority for Guarded {
    fn check(&self, chain: &[&[u8]], identity: &Identity) -> Result<Verified, CertificateError> {
        self.0.check(chain, identity, NOW)
    }
}

impl Clients for Guarded {
    fn client(&self, _: IpAddr) -> Option<Client<'_>> {
        Some(Client { secret: Some(&self.1), identity: Some(&self.2) })
    }
}

#[test]
fn a_certificate_does_not_take_the_place_of_a_secret() {
    let ca = Ca::new();
    let (member, server) = (ca.credentials("member", Method::EcdsaP256), ca.credentials("server", Method::EcdsaP256));
    let guarded = Guarded(ca.anchors(), SecretBytes::from(&b"a secret"[..]), member.identity.clone());
    let open = Open(ca.anchors());
    assert_eq!(meet(member, server, &open, &guarded, None), (false, vec![Refused::NoProposal]));
}

/// A key server that can compute so much and then no more, and a member that is about to show who it is.
struct Brink {
    rng: ChaCha8Rng,
    server: Responder,
    open: Open,
}

impl Brink {
    fn new(ca: &Ca, computations: u32) -> Brink {
        Brink::within(ca, computations, Limits::default().computations_of_address.burst)
    }

    /// The same, and for each address so much.
    fn within(ca: &Ca, computations: u32, of_address: u32) -> Brink {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let none_later = |burst| Rate { per_second: 0, burst };
        let limits = Limits {
            computations: none_later(computations),
            computations_of_address: none_later(of_address),
            ..Limits::default()
        };
        let own = ca.credentials("server", Method::EcdsaP256);
        let server = Responder::new(DOI, signatures(), own, Liveness::default(), limits, Time(0), &mut rng);
        Brink { rng, server, open: Open(ca.anchors()) }
    }

    /// Its message 5.
    fn message_5(&mut self, number: u8, own: Credentials) -> Vec<u8> {
        self.begin(number, own).unwrap()
    }

    /// The same, or why none of what comes before was taken.
    fn begin(&mut self, number: u8, own: Credentials) -> Result<Vec<u8>, Refused> {
        let at = Server { address: server_address(), secret: None, identity: None };
        let mut member = Initiator::new(DOI, signatures(), own, at, Liveness::default(), Time(0));
        member.handle_timeout(Time(0), &mut self.rng);
        for _ in 0..2 {
            let message = member.poll_transmit().unwrap().bytes;
            self.handle(number, &message)?;
            let answer = self.server.poll_transmit().unwrap().bytes;
            member.handle_datagram(Time(0), server_address(), &answer, &self.open, &mut self.rng).unwrap();
        }
        let message = member.poll_transmit().unwrap().bytes;
        assert!(member.poll_transmit().is_none(), "it goes whole");
        Ok(message)
    }

    fn handle(&mut self, number: u8, message: &[u8]) -> Result<(), Refused> {
        self.server
            .handle_datagram(Time(0), member_address(number), message, &self.open, &mut self.rng)
            .map(|other| assert!(other.is_none()))
    }
}

#[test]
fn noise_in_place_of_message_5_costs_nobody_a_computation() {
    let ca = Ca::new();
    // Diffie-Hellman once, and signatures four times.
    let mut brink = Brink::new(&ca, 125);
    let message = brink.message_5(1, ca.credentials("member", Method::EcdsaP256));
    let (header, first, body) = Header::parse(&message).unwrap();
    for _ in 0..1000 {
        let mut noise = body.to_vec();
        brink.rng.fill_bytes(&mut noise);
        let refused = brink.handle(1, &header.write(first, &noise)).unwrap_err();
        assert_ne!(refused, Refused::Busy);
    }
    brink.handle(1, &message).unwrap();
    assert_eq!(brink.server.sas().count(), 1);
}

#[test]
fn one_exchange_does_not_take_what_may_be_computed_for_all() {
    let ca = Ca::new();
    // Diffie-Hellman, signatures three times, and what there must be for Diffie-Hellman again.
    let mut brink = Brink::new(&ca, 1 + 3 * 25 + 125);
    // The certificate of another, which is no secret.
    let mut thief = ca.credentials("member", Method::EcdsaP256);
    let chain = thief.certificates[0].chain.clone();
    let stranger = ca.credentials("stranger", Method::EcdsaP256);
    let key = Arc::into_inner(stranger.certificates.into_iter().next().unwrap()).unwrap().key;
    thief.certificates = vec![Arc::new(Certificate { chain, key })];
    let message = brink.message_5(1, thief);
    let refused: Vec<_> = (0..10).map(|_| brink.handle(1, &message).unwrap_err()).collect();
    assert_eq!(refused[..3], [Refused::Authentication; 3]);
    assert_eq!(refused[3..], [Refused::Busy; 7]);
    let message = brink.message_5(2, ca.credentials("member", Method::EcdsaP256));
    brink.handle(2, &message).unwrap();
}

#[test]
fn who_floods_from_one_address_does_not_keep_another_with_a_certificate_out() {
    let ca = Ca::new();
    let mut brink = Brink::within(&ca, 250, 5 + 124);
    let own = ca.credentials("member", Method::EcdsaP256);
    let message_5 = brink.message_5(1, own.clone());
    let begun: Vec<_> = (0..50).map(|_| brink.begin(1, ca.credentials("flood", Method::EcdsaP256)).err()).collect();
    assert!(begun[..4].iter().all(Option::is_none), "{begun:?}");
    assert!(begun[4..].iter().all(|refused| *refused == Some(Refused::Busy)), "{begun:?}");
    let message = brink.message_5(2, own);
    brink.handle(2, &message).unwrap();
    // Nor the true member at that address, once it has come so far.
    brink.handle(1, &message_5).unwrap();
}

#[test]
fn a_certificate_goes_with_its_own_key() {
    let ca = Ca::new();
    for method in Method::ALL {
        let (own, other) = (key(method), key(method));
        let chain = vec![ca.issue(params("member"), &own)];
        let with = |chain: &[Vec<u8>], key: &KeyPair| {
            Certificate::new(chain.to_vec(), Signer::from_pkcs8(&key.serialize_der()).unwrap()).err()
        };
        assert_eq!(with(&chain, &own), None);
        assert_eq!(with(&chain, &other), Some(CertificateError::Key), "{method:?}");
        assert_eq!(with(&[], &own), Some(CertificateError::Missing));
        assert_eq!(with(&vec![chain[0].clone(); 5], &own), Some(CertificateError::Missing));
        assert_eq!(with(&[vec![0x30, 0]], &own), Some(CertificateError::Malformed));
    }
    let wrong = key(Method::Rsa);
    let chain = vec![ca.issue(params("member"), &key(Method::EcdsaP256))];
    assert!(Certificate::new(chain, Signer::from_pkcs8(&wrong.serialize_der()).unwrap()).is_err());
}

#[test]
fn a_long_chain_goes_in_pieces() {
    let ca = Ca::new();
    let mut intermediate = params(&"a long name ".repeat(60));
    intermediate.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuing = key(Method::EcdsaP256);
    let between = ca.issue(intermediate.clone(), &issuing);
    let lower = Ca { der: between.clone(), issuer: Issuer::new(intermediate, issuing) };
    let with_chain = |name: &str| {
        let mut own = lower.credentials(name, Method::EcdsaP256);
        Arc::get_mut(&mut own.certificates[0]).unwrap().chain.push(between.clone());
        own
    };
    let open = Open(ca.anchors());
    assert_eq!(meet(with_chain("member"), with_chain("server"), &open, &open, None), (true, vec![]));
}

#[test]
fn of_another_authority_or_name_is_refused_by_whoever_cares() {
    let (ca, other) = (Ca::new(), Ca::new());
    let (ours, theirs) = (Open(ca.anchors()), Open(other.anchors()));
    let pair = || (ca.credentials("member", Method::EcdsaP256), ca.credentials("server", Method::EcdsaP256));
    let unknown = Refused::Certificate(CertificateError::UnknownIssuer);
    let (member, server) = pair();
    assert_eq!(meet(member, server, &ours, &theirs, None), (false, vec![unknown]));
    let (member, server) = pair();
    assert_eq!(meet(member, server, &theirs, &ours, None), (false, vec![unknown]));
    let (member, server) = pair();
    let (elsewhere, _) = pair();
    assert_eq!(meet(member, server, &ours, &ours, Some(elsewhere.identity)), (false, vec![Refused::Identity]));
    // Somebody else's name under one's own certificate.
    let (mut member, server) = pair();
    member.identity = server.identity.clone();
    let stolen = Refused::Certificate(CertificateError::Name);
    assert_eq!(meet(member, server, &ours, &ours, None), (false, vec![stolen]));
    // Somebody else's certificate with one's own key.
    let (member, mut server) = pair();
    let (_, stranger) = pair();
    let chain = server.certificates[0].chain.clone();
    let key = Arc::into_inner(stranger.certificates.into_iter().next().unwrap()).unwrap().key;
    server.certificates = vec![Arc::new(Certificate { chain, key })];
    assert_eq!(meet(member, server, &ours, &ours, None), (false, vec![Refused::Authentication]));
}

/// Checks a certificate with these parameters.
fn check(
    change: impl FnOnce(&mut CertificateParams),
    identity: Option<Identity>,
    now: u64,
) -> Result<(), CertificateError> {
    let ca = Ca::new();
    let mut params = params("member");
    change(&mut params);
    let der = ca.issue(params, &key(Method::EcdsaP256));
    let identity = identity.unwrap_or_else(|| subject(&der).unwrap());
    ca.anchors().check(&[&der], &identity, now).map(drop)
}

#[test]
fn validity_usage_and_names() {
    use CertificateError::{Key, Malformed, Name, Time};
    assert_eq!(check(|_| {}, None, NOW), Ok(()));
    assert_eq!(check(|params| params.not_before = date_time_ymd(2026, 7, 1), None, NOW), Err(Time));
    assert_eq!(check(|params| params.not_after = date_time_ymd(2026, 5, 1), None, NOW), Err(Time));
    // The authority's own validity, too.
    assert!(check(|params| params.not_after = date_time_ymd(2030, 1, 1), None, NOW + 40_000_000).is_err());
    let usages = |usage| move |params: &mut CertificateParams| params.extended_key_usages = vec![usage];
    assert_eq!(check(usages(ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 17])), None, NOW), Ok(()));
    assert_eq!(check(usages(ExtendedKeyUsagePurpose::ServerAuth), None, NOW), Err(Key));
    assert_eq!(check(|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature], None, NOW), Ok(()));
    assert_eq!(check(|params| params.key_usages = vec![KeyUsagePurpose::KeyAgreement], None, NOW), Err(Key));
    assert_eq!(check(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained), None, NOW), Err(Malformed));

    let names = |params: &mut CertificateParams| {
        let address = |text: &str| SanType::IpAddress(text.parse().unwrap());
        params.subject_alt_names = vec![
            address("192.0.2.1"),
            address("2001:db8::1"),
            SanType::DnsName("member.example".try_into().unwrap()),
            SanType::Rfc822Name("member@example".try_into().unwrap()),
        ];
    };
    let is = |identity| check(names, Some(identity), NOW);
    for address in ["192.0.2.1", "2001:db8::1"] {
        assert_eq!(is(Identity::Address(address.parse().unwrap())), Ok(()));
    }
    assert_eq!(is(Identity::Name("Member.example".to_owned())), Ok(()));
    assert_eq!(is(Identity::User("member@example".to_owned())), Ok(()));
    for other in [
        Identity::Address("192.0.2.2".parse().unwrap()),
        Identity::Name("other.example".to_owned()),
        Identity::Name("member@example".to_owned()),
        Identity::User("member.example".to_owned()),
        Identity::KeyId(b"member".to_vec()),
        Identity::Subnet("192.0.2.0/24".parse().unwrap()),
        Identity::DistinguishedName(vec![0x30, 0]),
    ] {
        assert_eq!(is(other.clone()), Err(Name), "{other:?}");
    }
}

#[test]
fn what_is_no_certificate_is_refused() {
    let ca = Ca::new();
    let der = ca.issue(params("member"), &key(Method::EcdsaP256));
    let (anchors, identity) = (ca.anchors(), subject(&der).unwrap());
    assert_eq!(anchors.check(&[], &identity, NOW), Err(CertificateError::Missing));
    for place in (0..der.len()).step_by(3) {
        let mut changed = der.clone();
        changed[place] ^= 0x11;
        assert!(anchors.check(&[&changed], &identity, NOW).is_err(), "octet {place}");
        assert!(anchors.check(&[&der[..place]], &identity, NOW).is_err());
    }
}
