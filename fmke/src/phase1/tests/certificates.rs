//! Authentication by signatures, and which certificates are taken.

use std::net::IpAddr;
use std::sync::Arc;

use muster_wire::Time;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};

use super::network::*;
use crate::crypto::SecretBytes;
use crate::crypto::signature::{Method, Signer};
use crate::isakmp::Identity;
use crate::phase1::x509::{Anchors, subject};
use crate::phase1::{
    Authentication, Authority, Certificate, CertificateError, Client, Clients, Credentials, Initiator, Liveness,
    Proposals, Refused, Responder, Server,
};

/// 2026-06-01.
const NOW: u64 = 1_780_272_000;

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2027, 1, 1);
    params
}

fn key(method: Method) -> KeyPair {
    match method {
        Method::Rsa => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048),
        Method::EcdsaP256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
        Method::EcdsaP384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
    }
    .unwrap()
}

struct Ca {
    der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    fn new() -> Self {
        Self::with(params("authority"))
    }

    fn with(mut params: CertificateParams) -> Self {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = key(Method::EcdsaP256);
        let der = params.self_signed(&key).unwrap().der().to_vec();
        Ca { der, issuer: Issuer::new(params, key) }
    }

    fn issue(&self, params: CertificateParams, key: &KeyPair) -> Vec<u8> {
        params.signed_by(key, &self.issuer).unwrap().der().to_vec()
    }

    fn credentials(&self, name: &str, method: Method) -> Credentials {
        let key = key(method);
        let der = self.issue(params(name), &key);
        let identity = subject(&der).unwrap();
        let key = Signer::from_pkcs8(&key.serialize_der()).unwrap();
        Credentials { identity, certificates: vec![Arc::new(Certificate { chain: vec![der], key })] }
    }

    fn anchors(&self, lists: &[Vec<u8>]) -> Anchors {
        Anchors::new(std::slice::from_ref(&self.der), lists).unwrap()
    }
}

/// Takes everybody whom the authority knows, from anywhere.
struct Open(Anchors);

impl Authority for Open {
    fn check(&self, chain: &[&[u8]], identity: &Identity) -> Result<Vec<u8>, CertificateError> {
        self.0.check(chain, identity, NOW)
    }
}

impl Clients for Open {
    fn client(&self, _: IpAddr) -> Option<Client<'_>> {
        Some(Client { secret: None, identity: None })
    }
}

/// Runs main mode between the two; what the two ends refused.
fn meet(
    member: Credentials,
    server: Credentials,
    of_member: &Open,
    of_server: &impl Clients,
    expected: Option<Identity>,
) -> (bool, Vec<Refused>) {
    let methods = [Method::Rsa, Method::EcdsaP256, Method::EcdsaP384];
    let proposals =
        Proposals { authentications: methods.map(Authentication::Signature).to_vec(), ..Proposals::default() };
    let mut network = Network::new(1, proposals.clone(), proposals.clone());
    let at = Server { address: server_address(), secret: None, identity: expected };
    let mut member = Initiator::new(DOI, proposals.clone(), member, at, Liveness::default(), Time(0));
    let rng = &mut network.rng;
    let mut server = Responder::new(DOI, proposals, server, Liveness::default(), Default::default(), Time(0), rng);
    member.handle_timeout(Time(0), rng);
    let mut refused = Vec::new();
    for _ in 0..3 {
        while let Some(datagram) = member.poll_transmit() {
            assert!(datagram.bytes.len() <= 1200);
            refused.extend(server.handle_datagram(Time(0), member_address(1), &datagram.bytes, of_server, rng).err());
        }
        while let Some(datagram) = server.poll_transmit() {
            refused.extend(member.handle_datagram(Time(0), server_address(), &datagram.bytes, of_member, rng).err());
        }
    }
    (member.current().is_some_and(|sa| server.sa(sa.id()).is_some()), refused)
}

#[test]
fn every_kind_of_key_shows_who_it_is() {
    let ca = Ca::new();
    for method in Method::ALL {
        let (member, server) = (ca.credentials("member", method), ca.credentials("server", method));
        let expected = Some(server.identity.clone());
        let open = Open(ca.anchors(&[]));
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
        let open = Open(ca.anchors(&[]));
        let member = ca.credentials("member", method);
        assert_eq!(meet(member, server, &open, &open, expected), (true, vec![]), "{method:?}");
    }
}

/// Knows a secret of whoever comes, and an authority.
struct Guarded(Anchors, SecretBytes, Identity);

impl Authority for Guarded {
    fn check(&self, chain: &[&[u8]], identity: &Identity) -> Result<Vec<u8>, CertificateError> {
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
    let guarded = Guarded(ca.anchors(&[]), SecretBytes::from(&b"a secret"[..]), member.identity.clone());
    let open = Open(ca.anchors(&[]));
    assert_eq!(meet(member, server, &open, &guarded, None), (false, vec![Refused::NoProposal]));
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
    let open = Open(ca.anchors(&[]));
    assert_eq!(meet(with_chain("member"), with_chain("server"), &open, &open, None), (true, vec![]));
}

#[test]
fn of_another_authority_or_name_is_refused_by_whoever_cares() {
    let (ca, other) = (Ca::new(), Ca::new());
    let (ours, theirs) = (Open(ca.anchors(&[])), Open(other.anchors(&[])));
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
    ca.anchors(&[]).check(&[&der], &identity, now).map(drop)
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
fn what_is_revoked_is_refused_and_what_is_not_is_not() {
    let mut of_authority = params("authority");
    of_authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca = Ca::with(of_authority);
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2026, 1, 1),
        next_update: date_time_ymd(2026, 2, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: SerialNumber::from(7),
            revocation_time: date_time_ymd(2026, 1, 1),
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let anchors = ca.anchors(&[list.signed_by(&ca.issuer).unwrap().der().to_vec()]);
    for (serial, expected) in [(7_u64, Err(CertificateError::Revoked)), (8, Ok(()))] {
        let mut params = params("member");
        params.serial_number = Some(SerialNumber::from(serial));
        let der = ca.issue(params, &key(Method::EcdsaP256));
        let result = anchors.check(&[&der], &subject(&der).unwrap(), NOW).map(drop);
        assert_eq!(result, expected);
    }
}

#[test]
fn what_is_no_certificate_is_refused() {
    let ca = Ca::new();
    let der = ca.issue(params("member"), &key(Method::EcdsaP256));
    let (anchors, identity) = (ca.anchors(&[]), subject(&der).unwrap());
    assert_eq!(anchors.check(&[], &identity, NOW), Err(CertificateError::Missing));
    for place in (0..der.len()).step_by(3) {
        let mut changed = der.clone();
        changed[place] ^= 0x11;
        assert!(anchors.check(&[&changed], &identity, NOW).is_err(), "octet {place}");
        assert!(anchors.check(&[&der[..place]], &identity, NOW).is_err());
    }
}
