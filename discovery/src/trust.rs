//! Stands in for `muster_certs::TrustStore` until it has landed.

use muster_certs::{CertError, PublicKey};
use muster_wire::MemberId;
use sha2::{Digest, Sha256};

/// Who a certificate says somebody is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Fingerprint of the certificate.
    pub member: MemberId,
    /// Device.
    pub name: String,
    /// Nation.
    pub organisation: String,
    /// Key.
    pub key: PublicKey,
    /// Unix seconds.
    pub not_before: u64,
    /// Unix seconds.
    pub not_after: u64,
}

/// Takes every "certificate" that is `good`, a key, an expiry and a name.
pub struct TrustStore;

impl TrustStore {
    /// Validates.
    pub fn validate(&mut self, chain: &[Vec<u8>], now: u64) -> Result<Identity, CertError> {
        let leaf = chain.first().ok_or(CertError::Key)?;
        let rest = leaf.strip_prefix(b"good").ok_or(CertError::Signature)?;
        let (key, rest) = rest.split_first_chunk::<32>().ok_or(CertError::Key)?;
        let (not_after, name) = rest.split_first_chunk::<8>().ok_or(CertError::Key)?;
        let not_after = u64::from_be_bytes(*not_after);
        if now > not_after {
            return Err(CertError::Key);
        }
        let name = String::from_utf8_lossy(name).into_owned();
        let organisation = name.split('-').next().unwrap_or_default().to_owned();
        let key = PublicKey::from_bytes(key)?;
        Ok(Identity {
            member: MemberId(Sha256::digest(leaf).into()),
            name,
            organisation,
            key,
            not_before: 0,
            not_after,
        })
    }
}
