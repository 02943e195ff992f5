//! The certificates that clients have shown. Who is in by one that no longer counts goes: to be a member takes no connection, so
//! that it would not be enough to look when one is made.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use muster_wire::Time;

use super::restore::{StoreError, Stored, damaged};
use super::store::Write;
use crate::isakmp::{Malformed, Reader};
use crate::phase1::{CertificateError, ShownChain, x509};

/// A client shows another certificate once in so long. It comes in as another member then, which makes keys new for all.
const PAUSE: Duration = Duration::from_secs(30);

/// By client.
#[derive(Default)]
pub(super) struct Certificates {
    shown: BTreeMap<String, Held>,
    /// When each client's end (Unix seconds).
    ends: BTreeSet<(u64, String)>,
    /// Who is out, and why.
    lapsed: BTreeMap<String, CertificateError>,
}

/// What one client has shown.
struct Held {
    /// DER: its own first.
    chain: Vec<Vec<u8>>,
    until: u64,
    /// When it may show another one.
    rests: Time,
}

/// What a client shows, beside what it has shown before.
#[derive(Debug, PartialEq)]
pub(super) enum Shown {
    /// The same certificate, or the first, or a secret.
    AsBefore,
    /// Another certificate. Whoever has the one before is to be out, before anybody knows that it was stolen.
    Another,
    /// That too soon: it does not count.
    TooSoon,
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
            // Until it is reviewed, which is at once.
            let (_, until) = x509::validity(own).map_err(|error| wrong(error.to_string()))?;
            certificates.set(client, Held { chain, until, rests: Time(0) });
        }
        Ok(certificates)
    }

    /// A client has shown this; with a secret it is nothing. What that means, and what is to be stored.
    pub(super) fn shown(&mut self, now: Time, client: &str, shown: Option<ShownChain>) -> (Shown, Option<Write>) {
        let Some(ShownChain { chain, until }) = shown else { return (Shown::AsBefore, None) };
        let before = self.shown.get(client);
        let is_another = before.is_some_and(|before| before.chain.first() != chain.first());
        let rests = before.map_or(Time(0), |before| before.rests);
        if is_another && now < rests {
            return (Shown::TooSoon, None);
        }
        let is_stored = before.is_some_and(|before| before.chain == chain);
        let write = (!is_stored).then(|| Write::certificates(client, written(&chain)));
        self.take(client);
        self.lapsed.remove(client);
        self.set(client, Held { chain, until, rests: if is_another { now + PAUSE } else { rests } });
        (if is_another { Shown::Another } else { Shown::AsBefore }, write)
    }

    /// What a client has shown counts until then, as others vouch for it now.
    pub(super) fn counts_until(&mut self, client: &str, until: u64) {
        if let Some(mut held) = self.take(client) {
            held.until = until;
            self.set(client, held);
        }
    }

    /// What a client has shown no longer counts. It stays in the store, so that a key server that dies before the client is out of
    /// its groups finds it again, until the client shows another.
    pub(super) fn lapse(&mut self, client: &str, why: CertificateError) {
        self.take(client);
        self.lapsed.insert(client.to_owned(), why);
    }

    /// Why a client is out, if it is.
    pub(super) fn lapsed(&self, client: &str) -> Option<CertificateError> {
        self.lapsed.get(client).copied()
    }

    /// A client is no more, or another one. What is to be stored.
    pub(super) fn forget(&mut self, client: &str) -> Write {
        self.take(client);
        self.lapsed.remove(client);
        Write::no_certificates(client)
    }

    /// All clients with what they have shown.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &Vec<Vec<u8>>)> {
        self.shown.iter().map(|(client, held)| (client, &held.chain))
    }

    /// The last second of what ends first.
    pub(super) fn first_end(&self) -> Option<u64> {
        self.ends.first().map(|(end, _)| *end)
    }

    /// A client whose certificate has ended before this second.
    pub(super) fn ended(&self, unix: u64) -> Option<String> {
        self.ends.first().filter(|(end, _)| *end < unix).map(|(_, client)| client.clone())
    }

    fn set(&mut self, client: &str, held: Held) {
        self.ends.insert((held.until, client.to_owned()));
        self.shown.insert(client.to_owned(), held);
    }

    fn take(&mut self, client: &str) -> Option<Held> {
        let held = self.shown.remove(client)?;
        self.ends.remove(&(held.until, client.to_owned()));
        Some(held)
    }
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

    /// At this second, a chain that counts until its own certificate's end.
    fn show(shown: &mut Certificates, second: u64, client: &str, chain: &[Vec<u8>]) -> (Shown, Option<Write>) {
        let until = x509::validity(&chain[0]).unwrap().1;
        shown.shown(Time(second * 1_000_000), client, Some(ShownChain { chain: chain.to_vec(), until }))
    }

    #[test]
    fn what_was_shown_comes_back_from_the_store_and_ends_in_order() {
        let (early, late, issuer) = (certificate(2030), certificate(2040), certificate(2050));
        let (of_2030, of_2040) = (1_893_456_000, 2_208_988_800);
        let (mut shown, mut disk) = (Certificates::default(), Stored(BTreeMap::new()));
        store(&mut disk, show(&mut shown, 0, "a", &[late.clone(), issuer.clone()]).1.unwrap());
        store(&mut disk, show(&mut shown, 0, "b", std::slice::from_ref(&early)).1.unwrap());
        assert!(show(&mut shown, 0, "b", std::slice::from_ref(&early)).1.is_none(), "nothing has changed");
        let mut shown = Certificates::restore(&disk).unwrap();
        assert!(shown.iter().eq([(&"a".to_owned(), &vec![late.clone(), issuer]), (&"b".to_owned(), &vec![early])]));
        assert_eq!((shown.first_end(), shown.ended(of_2030)), (Some(of_2030), None), "its last second counts");
        assert_eq!(shown.ended(of_2030 + 1), Some("b".to_owned()));
        shown.lapse("b", CertificateError::Time);
        assert_eq!((shown.lapsed("a"), shown.lapsed("b")), (None, Some(CertificateError::Time)));
        assert_eq!(
            (shown.first_end(), Certificates::restore(&disk).unwrap().first_end()),
            (Some(of_2040), Some(of_2030))
        );
        // Renewed.
        store(&mut disk, show(&mut shown, 0, "b", &[late]).1.unwrap());
        assert_eq!(shown.lapsed("b"), None);
        shown.lapse("b", CertificateError::Revoked);
        assert_eq!(Certificates::restore(&disk).unwrap().first_end(), Some(of_2040));
        ["a", "b"].into_iter().for_each(|client| store(&mut disk, shown.forget(client)));
        assert!(shown.first_end().is_none() && shown.iter().next().is_none() && disk.0.is_empty());
        assert_eq!(shown.lapsed("b"), None);
        assert!(shown.shown(Time(0), "a", None).1.is_none(), "a secret leaves nothing");
    }

    #[test]
    fn another_certificate_is_another_member_and_not_ever_again() {
        let [first, second, issuer] = [2030, 2031, 2050].map(certificate);
        let mut shown = Certificates::default();
        assert_eq!(show(&mut shown, 1, "a", std::slice::from_ref(&first)).0, Shown::AsBefore);
        let (what, write) = show(&mut shown, 1, "a", &[first.clone(), issuer]);
        assert!(what == Shown::AsBefore && write.is_some(), "by another way to the anchor");
        assert_eq!(show(&mut shown, 2, "a", std::slice::from_ref(&second)).0, Shown::Another);
        assert_eq!(show(&mut shown, 31, "a", std::slice::from_ref(&second)).0, Shown::AsBefore);
        let (what, write) = show(&mut shown, 31, "a", std::slice::from_ref(&first));
        assert!(what == Shown::TooSoon && write.is_none());
        assert!(shown.iter().all(|(_, chain)| *chain == [second.clone()]));
        assert_eq!(show(&mut shown, 32, "a", &[first]).0, Shown::Another);
        shown.lapse("a", CertificateError::Revoked);
        assert_eq!(show(&mut shown, 33, "a", &[second]).0, Shown::AsBefore, "it is out already");
    }

    #[test]
    fn who_vouches_says_how_long() {
        let (mut shown, own) = (Certificates::default(), certificate(2040));
        shown.shown(Time(0), "a", Some(ShownChain { chain: vec![own], until: 1000 }));
        assert_eq!((shown.first_end(), shown.ended(1000), shown.ended(1001)), (Some(1000), None, Some("a".to_owned())));
        shown.counts_until("a", 2000);
        assert_eq!((shown.first_end(), shown.ended(1001)), (Some(2000), None));
        shown.lapse("a", CertificateError::Time);
        assert_eq!(shown.first_end(), None);
    }

    #[test]
    fn a_damaged_store_is_told() {
        let good = written(&[certificate(2030)]);
        for value in [&good[..good.len() - 1], &[], &[0, 0, 0, 1, 0x30]] {
            let disk = Stored([("certificate/a".to_owned(), Zeroizing::new(value.to_vec()))].into());
            let error = Certificates::restore(&disk).err().expect("refused");
            assert!(matches!(error, StoreError::Damaged { key, .. } if key == "certificate/a"));
        }
    }
}
