//! Revocation lists travel; nobody can make them fall back, and nobody who has none stops them.

use muster_certs::{CertError, SigningKey, TrustStore};
use muster_wire::idp::{CRL_PART, CrlNumber, CrlPart, CrlRequest, Hello, MAX_CRL};
use muster_wire::{Bytes, List, Nonce};

use super::certificates::{list, trust_with};
use super::*;
use crate::SetupError;

const FIRST: u64 = 1;

/// `count` nodes, of nations of their own, that know each other.
fn settled(count: usize) -> Net {
    let mut net = Net::of(&vec![1000; count]);
    net.run(ms(500));
    (0..count).for_each(|node| drop(net.news(node)));
    net
}

fn load(net: &mut Net, node: usize, der: &[u8]) {
    net.with(node, |machine, now| machine.set_trust(now, trust_with(der)));
}

fn numbers(net: &Net, node: usize) -> Vec<u64> {
    net.nodes[node].machine.as_ref().unwrap().revocation_lists().map(|list| list.number).collect()
}

/// A list of more bytes than this.
fn long(organisation: &str, number: u64, bytes: usize) -> Vec<u8> {
    list(organisation, number, &(1000..1000 + bytes as u64 / 21).collect::<Vec<_>>())
}

#[test]
fn a_list_loaded_on_one_expels_on_all() {
    let mut net = settled(4);
    // Device 3 of `nation4` has seed 4.
    load(&mut net, 0, &list("nation4", FIRST, &[4]));
    net.run(ms(300));
    assert_eq!(net.news(0), ["gone 3 certificate", "refused 3"]);
    for node in [1, 2] {
        assert_eq!(net.news(node), ["list nation4 1", "gone 3 certificate", "refused 3"]);
    }
    // The device itself is told why, says goodbye and is silent.
    assert_eq!(net.news(3), ["list nation4 1", "revoked"]);
    let since = net.now;
    net.run(ms(10_000));
    assert!(net.sent.iter().all(|sent| sent.from != 3 || sent.at < since));
    assert!((0..3).all(|node| numbers(&net, node) == [FIRST] && net.status(node).len() == 3));

    // It is not let start again where the list is known; a list without it brings it back.
    let Device { key, chain, member } = net.nodes[3].device.clone();
    let author = Author::new(key, GROUP, member, 200);
    let config = Config { hello_interval: ms(1000), key_life: ms(3_600_000) };
    let trust = trust_with(&list("nation4", FIRST, &[4]));
    let refused = Discovery::new(config, author, chain, trust, [1; 32], net.now, UNIX);
    assert_eq!(refused.err(), Some(SetupError::Certificate(CertError::Revoked)));
    load(&mut net, 1, &list("nation4", 2, &[]));
    net.start(3, 200);
    net.run(ms(3000));
    for node in [0, 2] {
        assert_eq!(net.news(node), ["list nation4 2", "join 3"]);
    }
    let mut news = net.news(3);
    news.sort();
    assert_eq!(news, ["join 0", "join 1", "join 2", "list nation4 2"]);
}

#[test]
fn who_was_cut_off_learns_it_on_its_return() {
    let mut net = settled(3);
    net.cut(0, 2);
    net.cut(1, 2);
    net.run(ms(5000));
    load(&mut net, 0, &list("nation3", FIRST, &[3]));
    net.run(ms(2000));
    assert_eq!(net.news(1), ["gone 2 silent", "list nation3 1"]);
    let mut news = net.news(2);
    news.sort();
    assert_eq!(news, ["gone 0 silent", "gone 1 silent"]);
    net.heal();
    net.run(ms(3000));
    assert!(!net.news(1).iter().any(|news| news.contains("join") || news.contains("restore")));
    assert_eq!(net.news(2).last().unwrap(), "revoked");
}

#[test]
fn a_long_list_comes_through_a_bad_network() {
    for bytes in [CRL_PART * 3, 40_000, MAX_CRL - 2000] {
        let mut net = settled(3);
        (net.loss, net.duplicates, net.jitter) = (20, 20, ms(20));
        let der = long("nation2", 7, bytes);
        assert!(der.len() > bytes && der.len() <= MAX_CRL, "{}", der.len());
        load(&mut net, 0, &der);
        net.run(ms(15_000));
        for node in [1, 2] {
            let taken = net.machine(node).revocation_lists().next().map(|list| list.der.to_vec());
            assert_eq!(taken.as_deref(), Some(der.as_slice()), "{} bytes", der.len());
        }
    }
}

#[test]
fn a_list_too_large_to_travel_counts_where_it_was_loaded() {
    let mut net = settled(2);
    let der = long("nation9", 7, MAX_CRL * 2);
    load(&mut net, 0, &der);
    net.run(ms(3000));
    assert_eq!(numbers(&net, 0), [7]);
    assert!(net.news(1).is_empty());
    assert!(net.sent.iter().all(|sent| sent.kind != Kind::CrlRequest));
}

#[test]
fn older_lists_neither_travel_nor_return() {
    let mut net = settled(3);
    load(&mut net, 0, &list("nation9", 5, &[]));
    net.run(ms(500));
    assert!((0..3).all(|node| numbers(&net, node) == [5]));
    // An operator who reads an old file again does not bring the old list back.
    load(&mut net, 1, &list("nation9", 4, &[1]));
    net.with(2, |machine, now| machine.set_trust(now, trust()));
    let since = net.now;
    net.run(ms(3000));
    assert!((0..3).all(|node| numbers(&net, node) == [5]));
    assert!((0..3).all(|node| net.count(node, Kind::CrlRequest, since) == 0), "nothing is news");
    let numbered = |net: &Net, node: usize| -> Vec<CrlNumber> {
        let hello: Hello = Envelope::parse(&net.last(node, Kind::Hello).bytes).unwrap().decode().unwrap();
        hello.crls.to_vec()
    };
    assert!((0..3).all(|node| numbered(&net, node).len() == 1 && numbered(&net, node)[0].number == 5));
}

#[test]
fn with_many_nations_lists_take_turns_in_hellos() {
    let mut net = settled(2);
    let mut all = trust();
    for nation in 1..32 {
        assert_eq!(all.offer(&list(&format!("nation{nation}"), 3, &[])), Ok(true));
    }
    net.with(0, |machine, now| machine.set_trust(now, all));
    net.run(ms(4000));
    assert_eq!(numbers(&net, 1).len(), 31);
}

/// A neighbour of node 0 that is played by hand: a member of the coalition that lies.
struct Liar {
    author: Author,
    from: SocketAddr,
    issuer: Hash,
    named: u64,
}

impl Liar {
    /// Node 1 turns into one: from now on its hellos name a list that nobody has.
    fn of(net: &mut Net, number: u64) -> Liar {
        let issuer = trust_with(&list("nation9", FIRST, &[])).revocation_lists().next().unwrap().issuer;
        let Device { key, member, .. } = net.nodes[1].device.clone();
        let mut author = Author::new(key, GROUP, member, 100);
        // Behind all that the machine has used.
        while author.next_sequence() < 1000 {}
        net.kill(1);
        Liar { author, from: net.nodes[1].address, issuer, named: number }
    }

    fn hello(&mut self, net: &mut Net) {
        let template = Envelope::parse(&net.last(1, Kind::Hello).bytes).unwrap();
        let mut hello: Hello = template.decode().unwrap();
        hello.crls = List::new(vec![CrlNumber { issuer: self.issuer, number: self.named }; 16]).unwrap();
        net.deliver(0, self.from, &self.author.seal(&hello).unwrap());
    }

    fn part(&mut self, net: &mut Net, length: u32, index: u8, data: &[u8]) {
        let list = CrlNumber { issuer: self.issuer, number: self.named };
        let part = CrlPart { list, length, index, data: Bytes::new(data.to_vec()).unwrap() };
        net.deliver(0, self.from, &self.author.seal(&part).unwrap());
    }
}

#[test]
fn who_names_a_list_and_does_not_bring_it_stops_nobody() {
    let mut net = settled(3);
    net.cut(0, 2);
    let mut liar = Liar::of(&mut net, u64::MAX);
    let since = net.now;
    liar.hello(&mut net);
    assert_eq!(net.count(0, Kind::CrlRequest, since), 1, "one request for sixteen names");
    for _ in 0..20 {
        net.run(ms(200));
        liar.hello(&mut net);
    }
    assert_eq!(net.count(0, Kind::CrlRequest, since), 6, "then it is left alone");
    net.heal();
    load(&mut net, 2, &list("nation9", 2, &[]));
    net.run(ms(1500));
    assert_eq!(numbers(&net, 0), [2], "another brings a true one");
}

#[test]
fn a_list_that_is_none_is_refused_and_its_bringer_left_alone() {
    let forged = |name: &str| list(name, u64::MAX, &[]);
    let (true_one, older) = (list("nation9", 3, &[]), list("nation9", 2, &[]));
    let mut spoilt = true_one.clone();
    *spoilt.last_mut().unwrap() ^= 1;
    for (what, bytes) in [
        ("junk", vec![1; 700]),
        ("signed by nobody we trust", forged("evil")),
        ("wrongly signed", spoilt),
        ("not what was named", older),
    ] {
        let mut net = settled(2);
        let mut liar = Liar::of(&mut net, 3);
        liar.hello(&mut net);
        liar.part(&mut net, bytes.len() as u32, 0, &bytes);
        let refused = what != "not what was named";
        assert_eq!(net.dropped(0, Dropped::BadList), u64::from(refused), "{what}");
        assert_eq!(net.news(0), [if refused { "list refused 1" } else { "list nation9 2" }], "{what}");
        liar.hello(&mut net);
        assert_eq!(net.count(0, Kind::CrlRequest, Time(0)), 1, "{what}");
    }
    // Parts that do not fit together.
    for (length, index, data) in
        [(0, 0, 0), (MAX_CRL as u32 + 1, 0, CRL_PART), (2000, 1, CRL_PART), (2000, 2, 10), (100, 0, 99)]
    {
        let mut net = settled(2);
        let mut liar = Liar::of(&mut net, 3);
        liar.hello(&mut net);
        liar.part(&mut net, length, index, &vec![0; data]);
        assert_eq!(net.dropped(0, Dropped::BadList), 1, "{length} {index} {data}");
    }
    let mut net = settled(2);
    let mut liar = Liar::of(&mut net, 3);
    liar.part(&mut net, 100, 0, &[0; 100]);
    liar.hello(&mut net);
    liar.part(&mut net, 100, 64, &[0; 100]);
    assert_eq!(net.dropped(0, Dropped::NotAsked), 2, "before it was asked, and beyond what was");
    // An untrusted nation's list is no news.
    liar.issuer = Hash([9; 32]);
    let since = net.now;
    net.run(ms(4000));
    liar.hello(&mut net);
    assert!(net.sent.iter().filter(|s| s.at > since + ms(3500)).all(|s| s.kind != Kind::CrlRequest));
}

#[test]
fn strangers_get_little_and_only_with_a_recent_nonce() {
    let mut net = settled(2);
    let der = long("nation9", 7, 20 * CRL_PART);
    load(&mut net, 0, &der);
    net.run(ms(60));
    let hello: Hello = Envelope::parse(&net.last(0, Kind::Hello).bytes).unwrap().decode().unwrap();
    let mut stranger = Author::new(SigningKey::from_seed(&[99; 32]), GROUP, MemberId([99; 32]), 1);
    let from: SocketAddr = "10.0.0.1:4860".parse().unwrap();
    let request = CrlRequest { hello_nonce: Nonce([0; 16]), list: hello.crls[0], wanted: u64::MAX };
    let since = net.now;
    let parts_since = |net: &Net| {
        let to = |s: &&Sent| s.kind == Kind::CrlPart && s.to == Destination::Unicast(from) && s.at >= since;
        net.sent.iter().filter(to).count()
    };
    net.deliver(0, from, &stranger.seal(&request).unwrap());
    assert_eq!((parts_since(&net), net.dropped(0, Dropped::StaleNonce)), (0, 1));
    let request = CrlRequest { hello_nonce: hello.nonce, ..request };
    let unknown = CrlNumber { number: 8, ..request.list };
    net.deliver(0, from, &stranger.seal(&CrlRequest { list: unknown, ..request }).unwrap());
    assert_eq!((parts_since(&net), net.dropped(0, Dropped::NoSuchList)), (0, 1));
    for _ in 0..100 {
        net.deliver(0, from, &stranger.seal(&request).unwrap());
    }
    assert_eq!(parts_since(&net), 15 * 4, "a burst of 16 requests, one of which was for another list");
    assert_eq!(net.dropped(0, Dropped::RateLimited), 85);
}

#[test]
fn a_store_without_lists_names_none() {
    assert_eq!(TrustStore::new(Vec::new(), Vec::new()).unwrap().revocation_lists().count(), 0);
    let net = settled(2);
    let hello: Hello = Envelope::parse(&net.last(0, Kind::Hello).bytes).unwrap().decode().unwrap();
    assert!(hello.crls.is_empty());
}
