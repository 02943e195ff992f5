//! Messages that are too large for one datagram, in pieces. IP's own fragments are lost on many a way, and one who cannot
//! see them can spoil them; these at least carry the cookies.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use muster_wire::Time;
use rand_core::CryptoRng;

use super::Refused;
use super::table::Table;
use crate::isakmp::{Chain, Fragment, HEADER_LEN, Header, Malformed, exchange, kind, payloads};

/// Octets of a datagram that IPv6 carries everywhere (1,280), without the headers of IPv6 and UDP and with room for a tunnel.
pub(super) const LIMIT: usize = 1200;
/// Octets of a piece that are not the message's.
const OVERHEAD: usize = HEADER_LEN + 8;
/// Octets of a message in pieces, at most; pieces of one, at most.
const MOST_OCTETS: usize = 32_768;
const MOST_PIECES: u8 = 64;
/// Messages that may be incomplete at a time, of all and of one address.
const MOST_MESSAGES: usize = 64;
const MOST_OF_ADDRESS: usize = 2;
/// For how long.
const LIFETIME: Duration = Duration::from_secs(30);

/// The datagrams that carry a message: itself, if it fits.
pub(super) fn split(message: Vec<u8>, takes_fragments: bool) -> Vec<Vec<u8>> {
    let fits = message.len() <= LIMIT || message.len() > MOST_OCTETS;
    let Ok((header, ..)) = Header::parse(&message) else { return vec![message] };
    if fits || !takes_fragments {
        return vec![message];
    }
    // What others send: never encrypted, always of phase 1. The id tells the pieces of two messages apart.
    let id = ((header.message_id ^ header.message_id >> 16) as u16).max(1);
    let header = Header { exchange: exchange::MAIN, flags: 0, message_id: 0, ..header };
    let pieces: Vec<&[u8]> = message.chunks(LIMIT - OVERHEAD).collect();
    (1..)
        .zip(&pieces)
        .map(|(number, data)| {
            let piece = Fragment { id, number, is_last: usize::from(number) == pieces.len(), data };
            let mut chain = Chain::new();
            chain.add(kind::FRAGMENT, &piece.to_body());
            header.write(chain.first(), chain.bytes())
        })
        .collect()
}

/// Pieces of messages, by the key server's cookie. Bounded, whoever sends them: 2 MiB in all.
pub(super) struct Reassembly(Table<Partial>);

#[derive(Default)]
struct Partial {
    id: u16,
    pieces: BTreeMap<u8, Vec<u8>>,
    last: Option<u8>,
}

impl Reassembly {
    pub(super) fn new() -> Self {
        Reassembly(Table::new(MOST_MESSAGES, MOST_OF_ADDRESS, LIFETIME))
    }

    /// Takes a piece of a message of an SA or exchange that exists. Returns the message if that was the last that lacked.
    /// A piece of another message than the one before begins anew.
    pub(super) fn add(
        &mut self,
        now: Time,
        from: SocketAddr,
        header: &Header,
        body: &[u8],
        rng: &mut impl CryptoRng,
    ) -> Result<Option<Vec<u8>>, Refused> {
        let list = payloads(kind::FRAGMENT, body, false)?;
        let [piece] = list.as_slice() else { return Err(Malformed::TooMany.into()) };
        let piece = Fragment::parse(piece.body)?;
        if piece.number > MOST_PIECES || piece.data.is_empty() || header.flags != 0 {
            return Err(Malformed::Field { field: "Fragment Number", value: u32::from(piece.number) }.into());
        }
        if self.0.get(header.responder).is_none_or(|partial| partial.id != piece.id) {
            let partial = Partial { id: piece.id, ..Partial::default() };
            self.0.insert(now, header.responder, from.ip(), partial, rng);
        }
        let Some(partial) = self.0.get_mut(header.responder) else { return Ok(None) };
        match partial.add(&piece) {
            Ok(false) => Ok(None),
            Ok(true) => {
                let message = partial.pieces.values().flatten().copied().collect();
                self.0.remove(header.responder);
                Ok(Some(message))
            }
            Err(error) => {
                self.0.remove(header.responder);
                Err(error.into())
            }
        }
    }

    pub(super) fn expires(&self) -> Option<Time> {
        self.0.expires()
    }

    pub(super) fn expire(&mut self, now: Time) {
        self.0.expire(now);
    }
}

impl Partial {
    /// Whether it is complete now.
    fn add(&mut self, piece: &Fragment<'_>) -> Result<bool, Malformed> {
        if piece.is_last {
            self.last = Some(*self.last.get_or_insert(piece.number));
        }
        self.pieces.entry(piece.number).or_insert_with(|| piece.data.to_vec());
        if self.pieces.values().map(Vec::len).sum::<usize>() > MOST_OCTETS {
            return Err(Malformed::TooMany);
        }
        let Some(last) = self.last else { return Ok(false) };
        match self.pieces.last_key_value() {
            Some((highest, _)) if *highest > last => Err(Malformed::Trailing),
            _ => Ok(self.pieces.len() == usize::from(last)),
        }
    }
}
