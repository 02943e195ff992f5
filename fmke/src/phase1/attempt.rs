//! One main mode of a member: three messages, each sent again until it is answered.

use std::net::IpAddr;
use std::time::Duration;

use muster_wire::Time;
use rand_core::CryptoRng;

use super::main_mode::{Agreed, Keyed, Role, Share, Shown, opening, read_opening};
use super::sa::Features;
use super::{Authority, Client, Credentials, Failed, IsakmpSa, Proposals, Refused, SaId};
use crate::crypto::dh::Secret;
use crate::isakmp::{Cookie, Header, Identity, Notify, Transform, exchange, flags, kind, notification};

/// A message is sent again after so long, then after twice as long, and so on: two round trips over a geostationary
/// satellite, and what DH costs a busy server.
const FIRST_WAIT: Duration = Duration::from_secs(2);
/// A message is sent so often, which takes 62 s.
const TRIES: u32 = 5;

pub(super) struct Attempt {
    initiator: Cookie,
    state: State,
    /// The last message, in case it must be sent again.
    sent: Vec<u8>,
    tries: u32,
    again: Time,
    /// What came in answer to it and did not fit, last.
    refused: Option<Refused>,
}

/// What was sent last.
enum State {
    Offer(Vec<u8>),
    Share(Box<(Agreed, Secret, Share)>),
    Proof(Box<(Keyed, Vec<u8>)>),
}

/// What an attempt must know.
pub(super) struct Context<'a, A> {
    pub(super) doi: u32,
    pub(super) proposals: &'a Proposals,
    pub(super) own: &'a Credentials,
    pub(super) server: Client<'a>,
    pub(super) address: IpAddr,
    pub(super) authority: &'a A,
    /// No SA with the server is known to us (RFC 2407 4.6.3.3).
    pub(super) begins_anew: bool,
}

impl Attempt {
    /// With message 1.
    pub(super) fn new(now: Time, doi: u32, proposals: &Proposals, rng: &mut impl CryptoRng) -> Self {
        let offer = proposals.offer(doi);
        let initiator = Cookie(rng.next_u64().max(1).to_be_bytes());
        let header =
            Header { initiator, responder: Cookie::default(), exchange: exchange::MAIN, flags: 0, message_id: 0 };
        let chain = opening(&offer, Features { liveness: true, fragments: true });
        let sent = header.write(chain.first(), chain.bytes());
        Attempt { initiator, state: State::Offer(offer), sent, tries: 1, again: now + FIRST_WAIT, refused: None }
    }

    /// Whether a message belongs to it.
    pub(super) fn is_of(&self, id: SaId) -> bool {
        id.initiator == self.initiator
            && match &self.state {
                State::Offer(_) => true,
                State::Share(share) => share.0.id == id,
                State::Proof(proof) => proof.0.agreed.id == id,
            }
    }

    /// The last message, and whether it may go in pieces.
    pub(super) fn sent(&self) -> (Vec<u8>, bool) {
        let takes_fragments = match &self.state {
            State::Offer(_) => false,
            State::Share(share) => share.0.features.fragments,
            State::Proof(proof) => proof.0.agreed.features.fragments,
        };
        (self.sent.clone(), takes_fragments)
    }

    /// When to call [`Attempt::retry`].
    pub(super) fn due(&self) -> Time {
        self.again
    }

    /// Whether the last message is to be sent again; otherwise nobody answers.
    pub(super) fn retry(&mut self, now: Time) -> bool {
        self.again = now + FIRST_WAIT * (1 << self.tries);
        self.tries += 1;
        self.tries <= TRIES
    }

    /// Something came that was refused.
    pub(super) fn note(&mut self, refused: Refused) {
        // Copies of what came before are no answer.
        if refused.is_of_peer() {
            self.refused = Some(refused);
        }
    }

    /// Why it comes to nothing, if it does.
    pub(super) fn failed(&self) -> Failed {
        // What anybody can have said does not hide how far we came.
        let is_told =
            |refused: &Refused| !matches!(refused, Refused::Notified(_)) || matches!(self.state, State::Offer(_));
        match (self.refused.filter(is_told), &self.state) {
            (Some(refused), _) => Failed::Refused(refused),
            (None, State::Offer(_)) => Failed::Silent,
            (None, State::Share(_)) => Failed::Broken,
            (None, State::Proof(_)) => Failed::NotTaken,
        }
    }

    /// The server's next message. Who it is, if it was the last one, and then [`complete`](Self::complete); else there is
    /// something to be [`sent`](Self::sent).
    pub(super) fn handle<A: Authority>(
        &mut self,
        now: Time,
        datagram: &[u8],
        context: &Context<'_, A>,
        rng: &mut impl CryptoRng,
    ) -> Result<Option<Shown>, Refused> {
        let (header, first, body) = Header::parse(datagram)?;
        let is_encrypted = matches!(self.state, State::Proof(_));
        //= RFC 2408 3.1: "During Phase 1 negotiations, the value MUST be set to 0."
        if header.exchange != exchange::MAIN
            || header.message_id != 0
            || header.flags != if is_encrypted { flags::ENCRYPTION } else { 0 }
            || header.responder == Cookie::default()
        {
            return Err(Refused::OutOfPlace);
        }
        match &self.state {
            State::Offer(offer) => {
                let (state, sent) = choose(SaId::of(&header), offer, (first, body), context, rng)?;
                self.advance(now, state, sent);
            }
            State::Share(share) => {
                let theirs = Share::read(first, body, share.0.suite)?;
                // Our own, come back: "the replay or reflection of previous key management messages" (draft 9.1.4).
                if theirs.public == share.2.public {
                    return Err(Refused::Replay);
                }
                self.prove(now, theirs, context, rng)?;
            }
            State::Proof(proof) => {
                let (keyed, iv) = proof.as_ref();
                let plaintext = keyed.open(iv, body)?;
                let theirs = (first, plaintext.as_slice());
                let server = (&context.server, context.address);
                // One server, whom we have asked.
                let shown = keyed.check(Role::Responder, theirs, server, context.authority, || true)?;
                return Ok(Some(shown));
            }
        }
        Ok(None)
    }

    /// After message 4: message 5.
    fn prove<A: Authority>(
        &mut self,
        now: Time,
        theirs: Share,
        context: &Context<'_, A>,
        rng: &mut impl CryptoRng,
    ) -> Result<(), Refused> {
        let State::Share(share) = &self.state else { return Err(Refused::OutOfPlace) };
        let (agreed, secret, ours) = share.as_ref();
        let shared = secret.agree(&theirs.public).map_err(|_| Refused::Key)?;
        let keyed = Keyed::new(agreed.clone(), ours.clone(), theirs, &shared, context.server.secret)?;
        let mut chain = keyed.prove(Role::Initiator, context.own, rng)?;
        if context.begins_anew {
            let spi = keyed.agreed.id.octets();
            let contact =
                Notify { doi: context.doi, protocol: 1, spi: &spi, kind: notification::INITIAL_CONTACT, data: &[] };
            chain.add(kind::NOTIFY, &contact.to_body());
        }
        let sent = keyed.seal(keyed.keys.first_iv(), &chain)?;
        let iv = keyed.agreed.suite.cipher.last_block(&sent).to_vec();
        self.advance(now, State::Proof(Box::new((keyed, iv))), sent);
        Ok(())
    }

    /// After message 6, of `server`, in which [`handle`](Self::handle) found who it is.
    pub(super) fn complete(self, now: Time, message_6: &[u8], server: Identity) -> Option<IsakmpSa> {
        match self.state {
            State::Proof(proof) => Some(proof.0.into_sa(message_6, server, now)),
            _ => None,
        }
    }

    fn advance(&mut self, now: Time, state: State, sent: Vec<u8>) {
        (self.state, self.sent) = (state, sent);
        (self.tries, self.again, self.refused) = (1, now + FIRST_WAIT, None);
    }
}

/// After message 2: message 3.
fn choose<A: Authority>(
    id: SaId,
    offer: &[u8],
    (first, body): (u8, &[u8]),
    context: &Context<'_, A>,
    rng: &mut impl CryptoRng,
) -> Result<(State, Vec<u8>), Refused> {
    let answer = read_opening(first, body)?;
    let (doi, transforms) = Transform::offer(&answer.offer)?;
    // "the DOI value … MUST correspond to the DOI which defines the FMKE exchanges" (draft 2.0)
    let choice = context.proposals.accept(offer, &transforms).filter(|_| doi == context.doi);
    let choice = choice.ok_or(Refused::NoProposal)?;
    let agreed = Agreed {
        id,
        doi,
        suite: choice.suite,
        lifetime: choice.lifetime,
        offer: offer.to_vec(),
        features: answer.features,
    };
    let secret = Secret::generate(agreed.suite.group, rng).map_err(|_| Refused::Key)?;
    let share = Share::draw(&secret, rng);
    let chain = share.to_chain(agreed.suite.authentication);
    let sent = agreed.header(0).write(chain.first(), chain.bytes());
    Ok((State::Share(Box::new((agreed, secret, share))), sent))
}
