//! Who a certificate says somebody is.

use muster_wire::idp::{MAX_CERTIFICATE, MAX_CHAIN};
use muster_wire::{HEADER_LEN, MAX_DATAGRAM, MemberId, SIGNATURE_LEN};

use crate::certificate::{Certificate, certificates_from_pem};
use crate::{CertError, PublicKey, SigningKey};

/// Bytes of certificates that fit into a [`muster_wire::idp::ProbeAnswer`]: beside them stand its nonce, a count and
/// a length for each.
const MAX_CHAIN_BYTES: usize = MAX_DATAGRAM - HEADER_LEN - SIGNATURE_LEN - 16 - 2 - 4 * MAX_CHAIN;

/// A device as its certificate chain names it: what [`crate::TrustStore::validate`] returns.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// SHA-256 of the device certificate (DER).
    pub member: MemberId,
    /// Its common name (CN): 1 to 64 printable characters. Unique only if its nation made it so.
    pub name: String,
    /// The organisation (O) of the trust anchor. What the device's own certificate says of it counts for nothing.
    pub organisation: String,
    /// Checks what the device signs.
    pub key: PublicKey,
    /// First second (Unix) at which every certificate of the path is valid, the anchor's too.
    pub not_before: u64,
    /// Last second (Unix) of that.
    pub not_after: u64,
}

/// This device: its certificates and its private key. Has no `Debug`.
///
/// Who vouches for it is for [`crate::TrustStore::validate`] to say, of [`Device::chain`].
#[derive(Clone)]
pub struct Device {
    /// SHA-256 of the device certificate (DER).
    pub member: MemberId,
    /// The common name (CN) of the certificate.
    pub name: String,
    /// Device certificate first, then intermediates (DER): what goes to others.
    pub chain: Vec<Vec<u8>>,
    /// The certificate's private key.
    pub key: SigningKey,
}

impl Device {
    /// From two PEM texts: the device certificate, followed by intermediates if there are any; the private key (PKCS#8).
    ///
    /// Fails when either does not parse, when they do not match, and when the chain is too large to be sent.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Device, CertError> {
        let chain = certificates_from_pem(certificate_pem)?;
        let leaf = Certificate::parse(check_size(&chain)?)?;
        let key = SigningKey::from_pkcs8_pem(key_pem)?;
        if key.public() != leaf.key {
            return Err(CertError::KeyMismatch);
        }
        Ok(Device { member: leaf.member, name: leaf.name.ok_or(CertError::CommonName)?, chain, key })
    }
}

/// The device certificate of a chain that keeps to the protocol's limits.
pub(crate) fn check_size(chain: &[Vec<u8>]) -> Result<&[u8], CertError> {
    let leaf = chain.first().ok_or(CertError::Missing("certificate"))?;
    if chain.len() > MAX_CHAIN {
        return Err(CertError::ChainTooLong(chain.len()));
    }
    if let Some(large) = chain.iter().find(|der| der.len() > MAX_CERTIFICATE) {
        return Err(CertError::TooLarge(large.len()));
    }
    let total = chain.iter().map(Vec::len).sum();
    if total > MAX_CHAIN_BYTES {
        return Err(CertError::ChainTooLarge(total));
    }
    Ok(leaf)
}
