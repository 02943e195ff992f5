//! The certificates that clients have shown. Who is in by one that no longer counts goes: to be a member takes no connection, so
//! that it would not be enough to look when one is made.

use std::collections::{BTreeMap, BTreeSet};

use super::restore::{StoreError, Stored, damaged};
use super::store::Write;
use crate::isakmp::{Malformed, Reader};
use crate::phase1::x509;

/// By client.
#[derive(Default)]
pub(super) struct Certificates {
    /// DER: its own first.
    chains: BTreeMap<String, Vec<Vec<u8>>>,
    /// When each client's own ends (Unix seconds).
    ends: BTreeSet<(u64, String)>,
}

impl Certificates {
    /// # Errors
    /// A store that this program did not write.
    pub(super) fn restore(stored: &Stored) -> Result<Self, StoreError> {
        let mut certificates = Certificates::default();
        for (client, value) in stored.below("certificate/") {
            let wrong = |why: String| damaged(&format!("certificate/{client}"), why);
            let chain = read(value).map_err(|error| wrong(error.to_string()))?;
            let own = chain.first().ok_or_else(|| wrong("it is empty".to_owned()))?;
            x509::validity(own).map_err(|error| wrong(error.to_string()))?;
            certificates.set(client, chain);
        }
        Ok(certificates)
    }

    /// A client has shown this chain; with a secret there is none. What is to be stored.
    pub(super) fn shown(&mut self, client: &str, chain: Vec<Vec<u8>>) -> Option<Write> {
        if chain.is_empty() || self.chains.get(client) == Some(&chain) {
            return None;
        }
        self.lapse(client);
        let write = Write::certificates(client, written(&chain));
        self.set(client, chain);
        Some(write)
    }

    /// What a client has shown no longer counts. It stays in the store, so that a key server that dies before the client is out of
    /// its groups finds it again, until the client shows another.
    pub(super) fn lapse(&mut self, client: &str) {
        if let Some(chain) = self.chains.remove(client) {
            self.ends.remove(&(end(&chain), client.to_owned()));
        }
    }

    /// A client is no more, or another one. What is to be stored.
    pub(super) fn forget(&mut self, client: &str) -> Write {
        self.lapse(client);
        Write::no_certificates(client)
    }

    /// All clients with what they have shown.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &Vec<Vec<u8>>)> {
        self.chains.iter()
    }

    /// The last second of the certificate that ends first.
    pub(super) fn first_end(&self) -> Option<u64> {
        self.ends.first().map(|(end, _)| *end)
    }

    /// A client whose certificate has ended before this second.
    pub(super) fn ended(&self, unix: u64) -> Option<String> {
        self.ends.first().filter(|(end, _)| *end < unix).map(|(_, client)| client.clone())
    }

    fn set(&mut self, client: &str, chain: Vec<Vec<u8>>) {
        self.ends.insert((end(&chain), client.to_owned()));
        self.chains.insert(client.to_owned(), chain);
    }
}

/// It was read before, by whoever took it.
fn end(chain: &[Vec<u8>]) -> u64 {
    chain.first().and_then(|own| x509::validity(own).ok()).map_or(0, |(_, end)| end)
}

/// Each with its length before it.
fn written(chain: &[Vec<u8>]) -> Vec<u8> {
    // A message has at most 64 KiB.
    chain.iter().flat_map(|der| [&(der.len() as u32).to_be_bytes()[..], der].concat()).collect()
}

fn read(value: &[u8]) -> Result<Vec<Vec<u8>>, Malformed> {
    let mut reader = Reader::new(value);
    let mut chain = Vec::new();
    while !reader.is_empty() {
        let len = reader.u32()?;
        chain.push(reader.bytes(len as usize)?.to_vec());
    }
    Ok(chain)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};
    use zeroize::Zeroizing;

    use super::*;

    fn certificate(year: i32) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.not_after = date_time_ymd(year, 1, 1);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    /// Puts what is to be stored where it belongs.
    fn store(disk: &mut Stored, Write { key, value }: Write) {
        match value {
            Some(value) => drop(disk.0.insert(key, value)),
            None => drop(disk.0.remove(&key)),
        }
    }

    #[test]
    fn what_was_shown_comes_back_from_the_store_and_ends_in_order() {
        let (early, late, issuer) = (certificate(2030), certificate(2040), certificate(2050));
        let (of_2030, of_2040) = (1_893_456_000, 2_208_988_800);
        let (mut shown, mut disk) = (Certificates::default(), Stored(BTreeMap::new()));
        store(&mut disk, shown.shown("a", vec![late.clone(), issuer.clone()]).unwrap());
        store(&mut disk, shown.shown("b", vec![early.clone()]).unwrap());
        assert!(shown.shown("b", vec![early.clone()]).is_none(), "nothing has changed");
        let mut shown = Certificates::restore(&disk).unwrap();
        assert!(shown.iter().eq([(&"a".to_owned(), &vec![late.clone(), issuer]), (&"b".to_owned(), &vec![early])]));
        assert_eq!((shown.first_end(), shown.ended(of_2030)), (Some(of_2030), None), "its last second counts");
        assert_eq!(shown.ended(of_2030 + 1), Some("b".to_owned()));
        shown.lapse("b");
        assert_eq!(
            (shown.first_end(), Certificates::restore(&disk).unwrap().first_end()),
            (Some(of_2040), Some(of_2030))
        );
        // Renewed.
        store(&mut disk, shown.shown("b", vec![late]).unwrap());
        assert_eq!(Certificates::restore(&disk).unwrap().first_end(), Some(of_2040));
        ["a", "b"].into_iter().for_each(|client| store(&mut disk, shown.forget(client)));
        assert!(shown.first_end().is_none() && shown.iter().next().is_none() && disk.0.is_empty());
        assert!(shown.shown("a", vec![]).is_none(), "a secret leaves nothing");
    }

    #[test]
    fn a_damaged_store_is_told() {
        let good = written(&[certificate(2030)]);
        for value in [&good[..good.len() - 1], &[], &[0, 0, 0, 1, 0x30]] {
            let disk = Stored([("certificate/a".to_owned(), Zeroizing::new(value.to_vec()))].into());
            let error = Certificates::restore(&disk).err().expect("refused");
            assert_eq!(error.key, "certificate/a");
        }
    }
}
