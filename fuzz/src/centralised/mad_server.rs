//! A key server in the attacker's hands: a client of it takes what it can, refuses the rest, and its memory is bounded.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use muster_fmke::crypto::rekey::{RekeyAlgorithm, RekeySigner};
use muster_fmke::crypto::{Cipher, HashAlgorithm, SecretBytes};
use muster_fmke::isakmp::{
    Chain, Cookie, Delays, Delete, HEADER_LEN, Header, Identity, KeyDownload, KeyPacket, Notify, Policy,
    PreservedAddress, RekeySa, TrafficSa, exchange, flags, kek_attribute, kek_key, key_type, kind, notification,
    tek_key,
};
use muster_fmke::lkh::{KeyTree, LKH_CHAINED, LKH_COMPACT_UPDATE, LKH_DOWNLOAD_ARRAY, LKH_JOINS, LKH_VERSION, Place};
use muster_fmke::member::{self, Member};
use muster_fmke::phase1::{Credentials, Datagram, Limits, Liveness, Proposals, Responder, SaId, Server};
use muster_fmke::{PushError, Refusal};
use muster_sim::Input;
use muster_sim::forge::scramble;
use muster_wire::Time;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use super::profiles::{DOI, Secrets, address, secret};
use super::world::SERVER;

const CLIENT: usize = 0;
const MAX_OPERATIONS: usize = 60;
/// SAs that a client keeps, at most.
const MAX_SAS: usize = 4096;
/// No single input makes it send more than this.
const MAX_ANSWERS: usize = 8;

/// It is connected; then what the input says.
pub(super) fn operations(input: &mut Input<'_>) {
    let mut mad = Mad::new();
    mad.connect();
    for _ in 0..MAX_OPERATIONS {
        if input.is_empty() {
            break;
        }
        match input.below(12) {
            0 => mad.pass(Duration::from_millis([10, 60, 1500, 5000, 100_000][input.below(5)])),
            1 => mad.change_tree(input),
            2 | 3 => {
                let chain = mad.anything(input);
                mad.whisper(exchange::UNICAST_PUSH, chain, false, input);
            }
            4 => {
                let chain = mad.notice(input);
                mad.whisper(exchange::INFORMATIONAL, chain, true, input);
            }
            5 => {
                let chain = mad.anything(input);
                mad.shout(chain, input);
            }
            6..=8 => {
                let chain = mad.push(input);
                mad.whisper(exchange::UNICAST_PUSH, chain, false, input);
            }
            _ => {
                let chain = mad.push(input);
                mad.shout(chain, input);
            }
        }
        assert!(mad.member.sas() <= MAX_SAS);
    }
}

struct Mad {
    now: Time,
    rng: ChaCha20Rng,
    responder: Responder,
    member: Member,
    sa: Option<SaId>,
    signer: RekeySigner,
    tree: KeyTree,
    place: Place,
    /// Of the re-key SA that the client was told last.
    spi: [u8; 16],
    /// What leads from the tree before to this one, and its attribute.
    step: (u16, Vec<u8>),
    /// Numbers of the next messages.
    unicast: u32,
    multicast: u32,
}

impl Mad {
    fn new() -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        let now = Time(1_000_000_000);
        let identity = |machine| Identity::Address(address(machine).ip());
        let credentials = |machine| Credentials { identity: identity(machine), certificates: Vec::new() };
        let settings = member::Settings {
            doi: DOI,
            address: address(CLIENT).ip(),
            proposals: Proposals::default(),
            credentials: credentials(CLIENT),
            server: Server { address: address(SERVER), secret: Some(secret(CLIENT)), identity: None },
            liveness: Liveness::default(),
        };
        let (limits, own) = (Limits::default(), credentials(SERVER));
        let responder = Responder::new(DOI, Proposals::default(), own, Liveness::default(), limits, now, &mut rng);
        let mut tree = KeyTree::new();
        let (change, joins) = tree.stage_joins(3, &mut rng).expect("room for three");
        tree.commit(change).expect("a change of this tree");
        Mad {
            now,
            responder,
            member: Member::new(now, settings, &SecretBytes::from(&[1; 32][..])),
            sa: None,
            signer: RekeySigner::generate(RekeyAlgorithm::Ed25519, &mut rng).expect("a key"),
            tree,
            place: joins.places()[0],
            spi: [0; 16],
            step: (LKH_JOINS, joins.encode()),
            unicast: 1,
            multicast: 1,
            rng,
        }
    }

    fn connect(&mut self) {
        let secrets = Secrets::all();
        self.member.handle_timeout(self.now);
        for _ in 0..4 {
            for datagram in self.said() {
                let taken =
                    self.responder.handle_datagram(self.now, address(CLIENT), &datagram.bytes, &secrets, &mut self.rng);
                taken.expect("an honest message");
            }
            while let Some(Datagram { bytes, .. }) = self.responder.poll_transmit() {
                self.tell(&bytes, false);
            }
        }
        self.sa = self.responder.sas().next().map(|sa| sa.id());
        assert!(self.member.is_connected() && self.sa.is_some());
    }

    fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        let mut rounds = 0;
        while let Some(at) = self.member.poll_timeout().filter(|at| *at <= end) {
            // One that does not move is one that does not go away.
            rounds = if at > self.now { 0 } else { rounds + 1 };
            assert!(rounds < 20, "a timer that does not go away");
            self.now = self.now.max(at);
            self.member.handle_timeout(self.now);
            self.said();
            self.outputs();
        }
        self.now = end;
    }

    fn said(&mut self) -> Vec<Datagram> {
        let sent: Vec<Datagram> = std::iter::from_fn(|| self.member.poll_transmit()).collect();
        assert!(sent.len() <= MAX_ANSWERS, "one input makes {} datagrams", sent.len());
        sent
    }

    fn outputs(&mut self) -> usize {
        let changes = std::iter::from_fn(|| self.member.poll_change()).count();
        changes + std::iter::from_fn(|| self.member.poll_event()).count()
    }

    /// The client gets a datagram. One that `is_forged` changes nothing, nor does what it refuses, but for what is authentic and in
    /// good form and cannot be used: all else that came with that counts.
    fn tell(&mut self, bytes: &[u8], is_forged: bool) {
        let before = self.view();
        let refused = self.hear(bytes);
        let (after, outputs) = (self.view(), self.outputs());
        // What was taken as far as it goes is not looked at again: it is refused for another reason, or not at all.
        let is_refused = refused.as_ref().is_some_and(|refused| {
            !is_of_no_use(refused) || is_forged || self.hear(bytes).is_some_and(|again| is_of_no_use(&again))
        });
        if is_refused || is_forged {
            assert_eq!((after, outputs), (before, 0), "{refused:?}, forged: {is_forged}, and it has consequences");
        }
        if is_refused {
            assert!(self.said().is_empty(), "{refused:?}, and it is answered");
        }
    }

    /// Why the client refuses it, if it does.
    fn hear(&mut self, bytes: &[u8]) -> Option<Refusal> {
        self.member.handle_datagram(self.now, address(SERVER), bytes, &()).err()
    }

    fn view(&self) -> (bool, usize, Vec<(IpAddr, u16)>) {
        (self.member.is_connected(), self.member.sas(), self.member.listens_to().collect())
    }

    /// The client gets what was said, sometimes changed on its way by somebody without a key.
    fn send(&mut self, said: Vec<u8>, input: &mut Input<'_>) {
        let mut datagram = said.clone();
        if input.below(16) == 0 {
            scramble(&mut datagram, input);
        }
        self.tell(&datagram, datagram != said);
        self.said();
        self.outputs();
    }

    /// By phase 2, or as an informational exchange.
    fn whisper(&mut self, exchange: u8, mut chain: Chain, is_hashed_with_id: bool, input: &mut Input<'_>) {
        let Some(sa) = self.sa.and_then(|id| self.responder.sa(id)) else { return };
        let message_id = self.rng.next_u32().max(1);
        let prefix = message_id.to_be_bytes();
        sa.add_hash(if is_hashed_with_id { &prefix } else { &[] }, &mut chain);
        let datagram = sa.seal(exchange, message_id, &chain);
        self.send(datagram, input);
    }

    /// By phase 3, under the re-key SA that the client was told last, signed (fmke/SPEC.md, 5 and 6).
    fn shout(&mut self, mut chain: Chain, input: &mut Input<'_>) {
        let Some(root) = self.tree.root() else { return };
        let hash = HashAlgorithm::Sha256;
        let expand = |label: &[u8]| hash.prf(root.key().bytes(), &[label, &self.spi, &[1]]);
        let message_id = self.rng.next_u32().max(1);
        let [initiator, responder] = [&self.spi[..8], &self.spi[8..]].map(|half| {
            let mut cookie = [0; 8];
            cookie.copy_from_slice(half);
            Cookie(cookie)
        });
        let exchange = exchange::MULTICAST_PUSH;
        let header = Header { initiator, responder, exchange, flags: flags::ENCRYPTION, message_id };
        let unsigned = chain.bytes().len();
        let signature_len = self.signer.algorithm().signature_len();
        chain.add(kind::SIG, &vec![0; signature_len]);
        let cipher = Cipher::Aes256;
        let len = HEADER_LEN + chain.bytes().len().next_multiple_of(cipher.block_len());
        let head = header.write_head(chain.first(), len);
        let mut text = chain.bytes()[..chain.bytes().len() - signature_len].to_vec();
        text.extend(self.signer.sign(&[&head, &chain.bytes()[..unsigned]].concat()));
        let mut iv = hash.digest(&[expand(b"muster kek iv").as_bytes(), &message_id.to_be_bytes()]);
        iv.truncate(cipher.block_len());
        cipher.encrypt(expand(b"muster kek cipher").as_bytes(), &iv, &mut text).expect("a key that fits");
        self.send(header.write(chain.first(), &text), input);
    }

    /// The tree goes on, as the client will be told, or will not.
    fn change_tree(&mut self, input: &mut Input<'_>) {
        let taken: Vec<Place> = (0..4).map(Place).filter(|place| *place != self.place).collect();
        let staged = match input.below(3) {
            0 => self.tree.stage_joins(1, &mut self.rng).map(|(change, joins)| (change, (LKH_JOINS, joins.encode()))),
            choice => {
                let leavers = if choice == 1 { &taken[..1] } else { &[] };
                let staged = self.tree.stage_exclusion(leavers, &mut self.rng);
                staged.map(|(change, update)| (change, (LKH_COMPACT_UPDATE, update.encode())))
            }
        };
        let Ok((change, step)) = staged else { return };
        if change.moves().is_empty() {
            self.tree.commit(change).expect("a change of this tree");
            self.step = step;
        }
    }

    /// A push as an honest key server makes it, more or less.
    fn push(&mut self, input: &mut Input<'_>) -> Chain {
        let mut policy = Policy { rekey: Vec::new(), delays: None, traffic: Vec::new(), spd: None };
        let mut keys = KeyDownload { packets: Vec::new() };
        let mut chain = Chain::new();
        let is_unicast = input.flag();
        let number = if is_unicast { &mut self.unicast } else { &mut self.multicast };
        let mut sent = *number;
        *number = number.saturating_add(1);
        if input.below(8) == 0 {
            sent = sent.wrapping_add_signed([1, -1, 63, 64, i32::MIN, i32::MAX][input.below(6)]);
        }
        chain.add(kind::SEQ, &sent.to_be_bytes());
        if input.below(3) == 0 {
            let spis = (0..=input.below(3)).map(|_| self.spi_of(input)).collect();
            chain.add(kind::DELETE, &Delete { doi: DOI, protocol: input.byte() & 1, spis }.to_body());
        }
        if input.below(2) == 0 {
            self.rekey_sa(is_unicast, &mut policy, &mut keys, input);
        }
        for _ in 0..input.below(4) {
            policy.delays = Some(Delays { activation: input.byte().into(), deactivation: input.byte().into() });
            let spi = 256 + u32::from(input.byte() & 7);
            let sender = address(input.below(3)).ip();
            let group = IpAddr::from([239, 1, 1, input.byte() & 1]);
            policy.traffic.push(TrafficSa {
                protocol: 17,
                source: ("10.0.0.0/8".parse().expect("a net"), 0),
                destination: (group.into(), 5004),
                tunnel: (sender, group),
                spi,
                lifetime: [3600, 0, 1, u32::MAX][input.below(4)],
                preserved: PreservedAddress::Destination,
            });
            let length = if input.below(8) == 0 { usize::from(input.byte()) } else { 36 };
            let packet = KeyPacket::new(key_type::TEK, &spi.to_be_bytes());
            keys.packets.push(packet.with(tek_key::ALGORITHM, &vec![input.byte(); length]));
        }
        if !policy.is_empty() {
            let (mut policy, mut keys) = (policy.to_body(DOI), keys.to_body().to_vec());
            match input.below(8) {
                0 => scramble(&mut policy, input),
                1 => scramble(&mut keys, input),
                _ => {}
            }
            chain.add(kind::SA, &policy).add(kind::KD, &keys);
        }
        chain
    }

    fn rekey_sa(&mut self, is_unicast: bool, policy: &mut Policy, keys: &mut KeyDownload, input: &mut Input<'_>) {
        if is_unicast || input.flag() {
            self.rng.fill_bytes(&mut self.spi);
            self.multicast = 1;
        }
        let next = [self.multicast, 0, u32::MAX][input.below(8).saturating_sub(5)];
        let source: SocketAddr = address(SERVER);
        policy.rekey.push(RekeySa {
            source: (source.ip(), source.port()),
            destination: ([239, 255, 0, input.byte() & 1].into(), 848),
            spi: self.spi,
            attributes: vec![
                (kek_attribute::MANAGEMENT, LKH_CHAINED),
                (kek_attribute::ALGORITHM, 3),
                (kek_attribute::KEY_LENGTH, 256),
                (kek_attribute::LIFETIME, 86_400),
                (kek_attribute::SIGNATURE, self.signer.algorithm().number().into()),
                (kek_attribute::NEXT_SEQUENCE, next),
                (LKH_VERSION, self.tree.version()),
            ],
        });
        let lkh = KeyPacket::new(key_type::LKH, &self.spi);
        if is_unicast {
            let Ok(download) = self.tree.download(self.place) else { return };
            let signature = KeyPacket::new(key_type::KEK, &self.spi);
            keys.packets.push(signature.with(kek_key::SIGNATURE, &self.signer.public_spki()));
            keys.packets.push(lkh.with(LKH_DOWNLOAD_ARRAY, &download.encode()));
        } else {
            let (class, mut octets) = self.step.clone();
            if input.below(8) == 0 {
                scramble(&mut octets, input);
            }
            keys.packets.push(lkh.with(class, &octets));
        }
    }

    fn spi_of(&self, input: &mut Input<'_>) -> Vec<u8> {
        match input.below(3) {
            0 => self.spi.to_vec(),
            1 => (256 + u32::from(input.byte() & 7)).to_be_bytes().to_vec(),
            _ => input.bytes(5).to_vec(),
        }
    }

    /// The last number, or payloads of whatever kind.
    fn anything(&mut self, input: &mut Input<'_>) -> Chain {
        let mut chain = Chain::new();
        for _ in 0..=input.below(4) {
            let kinds = [kind::LSEQ, kind::SEQ, kind::DELETE, kind::SA, kind::KD, kind::ACK, kind::NACK];
            let kind = if input.flag() { kinds[input.below(kinds.len())] } else { input.byte() };
            let most = [4, 8, 60][input.below(3)];
            chain.add(kind, input.bytes(most));
        }
        chain
    }

    fn notice(&mut self, input: &mut Input<'_>) -> Chain {
        let spi = self.sa.map_or([0; 16], SaId::octets);
        let mut chain = Chain::new();
        let known = [notification::R_U_THERE, notification::R_U_THERE_ACK, notification::INITIAL_CONTACT];
        match input.below(4) {
            3 => {
                chain.add(kind::DELETE, &Delete { doi: DOI, protocol: 1, spis: vec![spi.to_vec()] }.to_body());
            }
            choice => {
                let notify = Notify { doi: DOI, protocol: 1, spi: &spi, kind: known[choice], data: input.bytes(4) };
                chain.add(kind::NOTIFY, &notify.to_body());
            }
        }
        chain
    }
}

/// Whether it may be what a client says of a message that it has taken as far as it can (fmke/SPEC.md, 4).
fn is_of_no_use(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::Push(PushError::Malformed(_) | PushError::Crypto(_)))
}
