//! The coalition's trust anchors, and who is trusted for their sake.

use std::collections::BTreeMap;
use std::time::Duration;

use muster_wire::Hash;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use sha2::{Digest, Sha256};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

use crate::cache::Cache;
use crate::certificate::{Certificate, IPSEC_IKE, public_key};
use crate::identity::check_size;
use crate::revocation::{self, Crl, RevocationList};
use crate::{CertError, Identity};

/// Trust anchors, one or more for each nation, and revocation lists. Validates certificate chains against them
/// (RFC 5280, section 6; Ed25519 only) and remembers the results.
#[derive(Clone, Debug)]
pub struct TrustStore {
    anchors: Vec<Certificate>,
    /// The same, in the same order, as webpki wants them.
    webpki_anchors: Vec<TrustAnchor<'static>>,
    /// The same, as issuers of revocation lists.
    issuers: Vec<Hash>,
    crls: Vec<Crl>,
    cache: Cache,
    path_validations: u64,
}

impl TrustStore {
    /// `anchors_der`: the nations' CA certificates; each is trusted because it is here, for its organisation (O), which
    /// it must have. `crls_der`: revocation lists signed by them or by their intermediates; without a list of an issuer
    /// none of its certificates is revoked. A list counts beyond its next update, too: what it revokes stays revoked.
    ///
    /// [`CertError::Anchor`] and [`CertError::Crl`] name the one that is wrong.
    pub fn new(anchors_der: Vec<Vec<u8>>, crls_der: Vec<Vec<u8>>) -> Result<TrustStore, CertError> {
        let mut store = TrustStore {
            anchors: Vec::new(),
            webpki_anchors: Vec::new(),
            issuers: Vec::new(),
            crls: Vec::new(),
            cache: Cache::new(),
            path_validations: 0,
        };
        for (index, der) in anchors_der.iter().enumerate() {
            store.add_anchor(der).map_err(|reason| CertError::Anchor { index, reason: Box::new(reason) })?;
        }
        for (index, der) in crls_der.iter().enumerate() {
            store.add_crl(der).map_err(|reason| CertError::Crl { index, reason: Box::new(reason) })?;
        }
        Ok(store)
    }

    /// Who has this chain: device certificate first, then intermediates in any order (DER; at most four in all, 2,048
    /// bytes each). `now_unix`: Unix seconds.
    ///
    /// The device certificate must carry the extended key usage ipsecIKE (RFC 4945, section 5.1.3.12). A result costs a
    /// path validation once and a hash after that, a refusal too, as long as its validity does not change it.
    pub fn validate(&mut self, chain: &[Vec<u8>], now_unix: u64) -> Result<Identity, CertError> {
        check_size(chain)?;
        let digest = digest(chain);
        if let Some(result) = self.cache.get(&digest, now_unix) {
            return result;
        }
        self.path_validations += 1;
        let result = self.validate_path(chain, now_unix);
        self.cache.insert(digest, result.clone());
        result
    }

    /// The organisations (O) that are trusted.
    pub fn organisations(&self) -> impl Iterator<Item = &str> {
        self.anchors.iter().filter_map(|anchor| anchor.organisation.as_deref())
    }

    /// The newest list of each trust anchor that has one.
    pub fn revocation_lists(&self) -> impl Iterator<Item = RevocationList<'_>> {
        // A renewed anchor is there twice.
        let issuers = self.issuers.iter().zip(&self.anchors).collect::<BTreeMap<_, _>>();
        issuers.into_iter().filter_map(move |(issuer, anchor)| {
            let newest = self.newest(issuer)?;
            let organisation = anchor.organisation.as_deref()?;
            Some(RevocationList { issuer: *issuer, organisation, number: newest.number, der: &newest.der })
        })
    }

    /// Whether a list of this issuer and number would be news: the issuer is a trust anchor, and its list, if there is
    /// one, is older.
    pub fn lacks(&self, issuer: &Hash, number: u64) -> bool {
        self.issuers.contains(issuer) && self.newest(issuer).is_none_or(|newest| newest.number < number)
    }

    /// Takes a revocation list (DER) from whoever brings it, if a trust anchor signed it and it is newer than that
    /// one's last; it then takes the older one's place, and all chains are looked at anew. `false`: not newer, nothing
    /// has changed.
    pub fn offer(&mut self, der: &[u8]) -> Result<bool, CertError> {
        let crl = self.attribute(Crl::parse(der)?)?;
        let issuer = crl.anchor.ok_or(CertError::UnknownIssuer)?;
        if self.newest(&issuer).is_some_and(|newest| newest.number >= crl.number) {
            return Ok(false);
        }
        self.crls.retain(|old| old.anchor != Some(issuer));
        self.crls.push(crl);
        self.cache = Cache::new();
        Ok(true)
    }

    /// Takes what `older` knows better: a store read from files does not fall back behind the lists that have come in
    /// other ways.
    pub fn keep_lists_of(&mut self, older: &TrustStore) {
        for list in older.revocation_lists() {
            // An error: of an anchor that is one no longer.
            let _ = self.offer(list.der);
        }
    }

    /// How many paths were validated so far: what the cache did not answer.
    pub fn path_validations(&self) -> u64 {
        self.path_validations
    }

    fn add_anchor(&mut self, der: &[u8]) -> Result<(), CertError> {
        let der = CertificateDer::from(der);
        let webpki_anchor = webpki::anchor_from_trusted_cert(&der)?.to_owned();
        let anchor = Certificate::parse(&der)?;
        if !anchor.is_ca || !anchor.may_sign_certificates {
            return Err(CertError::NotCa);
        }
        if anchor.organisation.is_none() {
            return Err(CertError::Organisation);
        }
        self.issuers.push(revocation::issuer(&anchor));
        self.anchors.push(anchor);
        self.webpki_anchors.push(webpki_anchor);
        Ok(())
    }

    fn add_crl(&mut self, der: &[u8]) -> Result<(), CertError> {
        let crl = self.attribute(Crl::parse(der)?)?;
        self.crls.push(crl);
        Ok(())
    }

    /// Finds the trust anchor that signed a list. Refused: one in an anchor's name that no such anchor signed. An
    /// intermediate's list is checked when the intermediate is here.
    fn attribute(&self, mut crl: Crl) -> Result<Crl, CertError> {
        let namesakes = || self.anchors.iter().zip(&self.issuers).filter(|(anchor, _)| anchor.subject == crl.issuer);
        let signer = namesakes().find(|(anchor, _)| crl.is_signed_by(anchor)).map(|(_, issuer)| *issuer);
        if signer.is_none() && namesakes().next().is_some() {
            return Err(CertError::Signature);
        }
        crl.anchor = signer;
        Ok(crl)
    }

    fn newest(&self, issuer: &Hash) -> Option<&Crl> {
        self.crls.iter().filter(|crl| crl.anchor == Some(*issuer)).max_by_key(|crl| crl.number)
    }

    fn validate_path(&self, chain: &[Vec<u8>], now_unix: u64) -> Result<Identity, CertError> {
        let chain: Vec<CertificateDer<'_>> = chain.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
        // check_size() has seen the first.
        let (leaf, intermediates) = chain.split_first().ok_or(CertError::Missing("certificate"))?;
        let leaf = EndEntityCert::try_from(leaf)?;
        public_key(&leaf.subject_public_key_info())?;
        let path = leaf.verify_for_usage(
            &[webpki::aws_lc_rs::ED25519],
            &self.webpki_anchors,
            intermediates,
            UnixTime::since_unix_epoch(Duration::from_secs(now_unix)),
            // Intermediates may go without; Path::identity() asks it of the device.
            KeyUsage::required_if_present(IPSEC_IKE),
            None,
            Some(&|path| self.path(path).and_then(|path| path.check(&self.crls, now_unix))),
        )?;
        self.path(&path)?.identity()
    }

    /// What webpki found, in our own terms. Everything in it is signed up to the anchor.
    fn path(&self, path: &VerifiedPath<'_>) -> Result<Path<'_>, webpki::Error> {
        // By place, not by value: a renewed anchor differs from the old one in nothing that webpki keeps of it.
        let anchor = self.webpki_anchors.iter().zip(&self.anchors).find(|(ours, _)| std::ptr::eq(*ours, path.anchor()));
        let (_, anchor) = anchor.ok_or(webpki::Error::UnknownIssuer)?;
        let certificates = std::iter::once(path.end_entity().der())
            .chain(path.intermediate_certificates().map(|certificate| certificate.der()))
            .map(|der| Certificate::parse(&der).map_err(|_| webpki::Error::BadDer))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Path { certificates, anchor })
    }
}

/// A path of valid signatures.
struct Path<'a> {
    /// The device's, then each one's issuer.
    certificates: Vec<Certificate>,
    anchor: &'a Certificate,
}

impl Path<'_> {
    /// What webpki does not look at: the anchor's validity and path length, key usages, and our revocation lists.
    /// Errors are webpki's, because it may then try another path.
    fn check(&self, crls: &[Crl], now_unix: u64) -> Result<(), webpki::Error> {
        let time = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let anchor = self.anchor;
        if now_unix < anchor.not_before {
            return Err(webpki::Error::CertNotValidYet { time: time(now_unix), not_before: time(anchor.not_before) });
        }
        if now_unix > anchor.not_after {
            return Err(webpki::Error::CertExpired { time: time(now_unix), not_after: time(anchor.not_after) });
        }
        let intermediates = self.certificates.len() - 1;
        if anchor.path_length.is_some_and(|most| intermediates > most as usize) {
            return Err(webpki::Error::PathLenConstraintViolated);
        }
        let issuers = self.certificates.iter().skip(1).chain([anchor]);
        for (certificate, issuer) in self.certificates.iter().zip(issuers) {
            if !issuer.may_sign_certificates {
                return Err(webpki::Error::EndEntityUsedAsCa);
            }
            let newest = crls.iter().filter(|crl| crl.is_signed_by(issuer)).max_by_key(|crl| crl.number);
            if newest.is_some_and(|crl| crl.revokes(certificate)) {
                return Err(webpki::Error::CertRevoked);
            }
        }
        Ok(())
    }

    fn identity(self) -> Result<Identity, CertError> {
        let all = || self.certificates.iter().chain([self.anchor]);
        let not_before = all().map(|certificate| certificate.not_before).max().unwrap_or(u64::MAX);
        let not_after = all().map(|certificate| certificate.not_after).min().unwrap_or(0);
        let organisation = self.anchor.organisation.clone().ok_or(CertError::Organisation)?;
        let leaf = self.certificates.into_iter().next().ok_or(CertError::Missing("certificate"))?;
        if !leaf.ipsec_ike {
            return Err(CertError::MissingEku);
        }
        if !leaf.may_sign {
            return Err(CertError::KeyUsage);
        }
        let name = leaf.name.ok_or(CertError::CommonName)?;
        Ok(Identity { member: leaf.member, name, organisation, key: leaf.key, not_before, not_after })
    }
}

/// Over each certificate's digest, so that no two chains have the same.
fn digest(chain: &[Vec<u8>]) -> [u8; 32] {
    let mut hash = Sha256::new();
    chain.iter().for_each(|der| hash.update(Sha256::digest(der)));
    hash.finalize().into()
}
