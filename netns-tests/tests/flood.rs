//! Junk at both ports, as much as the machine sends: the group, its key and its traffic stay.

use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use muster_certs::{SigningKey, describe};
use muster_netlab::{BRIDGE, Flood, Kind};
use muster_netns_tests::{Family, Lab, alone, carry, multicast_flow_at, say, skip, wait_until};
use muster_wire::{Envelope, Header, MemberId, Voucher};

/// The routers whose group it is; one more has a certificate.
const MEMBERS: [usize; 3] = [0, 1, 2];
/// Who turns hostile as a member, and who never was one.
const TRAITOR: usize = 2;
const OUTSIDER: usize = 3;

/// Where the payload of UDP begins.
const V4: usize = 14 + 20 + 8;
const V6: usize = 14 + 40 + 8;

/// A captured frame of the two protocols.
#[derive(Clone)]
struct Genuine {
    frame: Vec<u8>,
    /// Where its UDP payload begins.
    at: usize,
    /// How many bytes of that are its voucher.
    voucher: usize,
}

impl Genuine {
    fn all(lab: &Lab) -> Vec<Genuine> {
        assert!(lab.capture.settle(Duration::from_secs(5)));
        let own = lab.capture.frames().into_iter().filter(|frame| frame.kind == Kind::Own);
        let at = |frame: &[u8]| if frame[12..14] == [0x08, 0x00] { V4 } else { V6 };
        let genuine = |frame: Vec<u8>, at: usize| {
            let voucher = frame.len() - at - Voucher::split(&frame[at..]).1.len();
            Genuine { frame, at, voucher }
        };
        own.map(|frame| genuine(frame.bytes.clone(), at(&frame.bytes))).collect()
    }

    fn envelope(&self) -> &[u8] {
        &self.frame[self.at + self.voucher..]
    }

    /// With another envelope of the same length, behind the same voucher.
    fn with_envelope(mut self, envelope: &[u8]) -> Self {
        self.frame[self.at + self.voucher..].copy_from_slice(envelope);
        self
    }

    /// Without its voucher.
    fn unvouched(mut self) -> Self {
        self.frame.drain(self.at..self.at + self.voucher);
        // Lengths of UDP (with its header) and IP.
        let length = (self.frame.len() - self.at + 8) as u16;
        self.frame[self.at - 4..self.at - 2].copy_from_slice(&length.to_be_bytes());
        match self.at {
            V4 => {
                self.frame[16..18].copy_from_slice(&(length + 20).to_be_bytes());
                self.sum_header();
            }
            _ => self.frame[18..20].copy_from_slice(&length.to_be_bytes()),
        }
        self.voucher = 0;
        self
    }

    /// The checksum of an IPv4 header.
    fn sum_header(&mut self) {
        self.frame[24..26].fill(0);
        let words = self.frame[14..34].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
        let sum: u32 = words.sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        self.frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }

    /// From another address, and from no router's hardware.
    fn from(mut self, source: IpAddr) -> Self {
        self.frame[6..12].copy_from_slice(&[2, 0xba, 0xdb, 0xad, 0, 1]);
        match source {
            IpAddr::V6(source) => self.frame[22..38].copy_from_slice(&source.octets()),
            IpAddr::V4(source) => {
                self.frame[26..30].copy_from_slice(&source.octets());
                self.sum_header();
            }
        }
        self
    }

    /// The same in the name of `member`, properly signed, under a sequence number of its own.
    fn signed(self, key: &SigningKey, member: MemberId, startup: u64, sequence: u64) -> Self {
        let envelope = Envelope::parse(self.envelope()).expect("a daemon sent it");
        let header = Header { sender: member, startup, sequence, ..*envelope.header() };
        let envelope = key.seal(&header, envelope.body()).expect("as long as before");
        self.with_envelope(&envelope)
    }

    /// With a sequence number to come and a signature of nobody.
    fn mutated(self, nth: u64) -> Self {
        let mut envelope = self.envelope().to_vec();
        envelope[62..70].copy_from_slice(&(1 << 40 | nth).to_be_bytes());
        let last = envelope.len() - 1;
        envelope[last] ^= 1;
        self.with_envelope(&envelope)
    }
}

/// A router's private key.
fn key_of(lab: &Lab, router: usize) -> SigningKey {
    SigningKey::from_pkcs8_pem(&file_of(lab, router, "key")).unwrap()
}

fn member_of(lab: &Lab, router: usize) -> MemberId {
    MemberId(describe(&file_of(lab, router, "pem")).unwrap().fingerprint.0)
}

fn file_of(lab: &Lab, router: usize, end: &str) -> String {
    let nation = lab.coalition.routers()[router].plan.nation.name;
    fs::read_to_string(lab.path(nation).join(format!("{}.{end}", lab.name(router)))).unwrap()
}

type Junk = Box<dyn FnMut() -> Vec<u8> + Send>;

/// The members' group and an outsider; and the junk that is made of what has been sent until now.
fn group(family: Family, junk: impl FnOnce(&Lab, Vec<Genuine>) -> Junk) -> (Lab, Junk) {
    let mut lab = Lab::on(family, 4);
    MEMBERS.iter().for_each(|router| lab.start(*router));
    lab.wait_for_group(&MEMBERS);
    carry(&lab, 0, &[1, 2], 20);
    lab.wait_until_quiet(Duration::from_secs(10), &MEMBERS);
    let next = junk(&lab, Genuine::all(&lab));
    // It would keep the flood.
    lab.capture.stop();
    (lab, next)
}

/// A group under such a flood: `honest` of it stay as they are all the while, and their traffic passes.
fn holds_against(what: &str, family: Family, honest: &[usize], junk: impl FnOnce(&Lab, Vec<Genuine>) -> Junk) {
    let _alone = alone();
    let (mut lab, next) = group(family, junk);
    let traitors: Vec<usize> = MEMBERS.iter().copied().filter(|router| !honest.contains(router)).collect();
    traitors.iter().for_each(|router| lab.kill(*router));

    let heard = &honest[1..];
    let (sender, receivers) = multicast_flow_at(&lab, 0, heard, 1 << 20, 200);
    let (begun, overflows, full) = (Instant::now(), overflows(), full_sockets(&lab));
    let busy = lab.processor(0);
    let flood = Flood::start(lab.coalition.black(), BRIDGE, next).unwrap();
    lab.stays_one(honest, 3);
    let elapsed = begun.elapsed().as_secs_f64();
    let rate = flood.sent() as f64 / elapsed;
    drop(flood);
    let busy = (lab.processor(0) - busy).as_secs_f64() / elapsed;
    let (overflows, full) = (self::overflows() - overflows, full_sockets(&lab) - full);
    let sent = sender.stop();
    wait_until(Duration::from_secs(1), || receivers.iter().all(|receiver| receiver.unique() == sent));
    let lost: Vec<u64> = receivers.iter().map(|receiver| sent - receiver.unique()).collect();
    say(&format!("{what} over {family:?}: {rate:.0} frames a second, {overflows} dropped by this machine's kernel"));
    say(&format!("  of {sent} red datagrams lost {lost:?}; {}", counted(&lab)));
    say(&format!("  the first router took {:.0} % of a core; its sockets had no room for {full}", busy * 100.0));
    assert!(lost.iter().all(|lost| *lost * 100 <= sent), "more than one of a hundred red datagrams lost");

    lab.wait_for_group(honest);
    lab.stays_one(honest, 1);
    carry(&lab, 0, heard, 100);
    if traitors.is_empty() {
        lab.assert_keys_used_once(honest);
    }
}

/// What the first router has dropped of both protocols' datagrams.
fn counted(lab: &Lab) -> String {
    let status = lab.get(0, "status");
    let counters = status["datagrams"].as_object().unwrap().iter().filter(|(_, count)| **count != 0);
    counters.map(|(reason, count)| format!("{reason} {count}")).collect::<Vec<_>>().join(", ")
}

/// Frames that this machine's kernel has dropped between its virtual devices, for want of room: no router's fault.
fn overflows() -> u64 {
    let statistics = fs::read_to_string("/proc/net/softnet_stat").unwrap();
    let dropped = statistics.lines().filter_map(|line| u64::from_str_radix(line.split(' ').nth(1)?, 16).ok());
    dropped.sum()
}

/// Datagrams for which the first router's sockets had no room.
fn full_sockets(lab: &Lab) -> u64 {
    let tables = ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"];
    let read = || Ok(tables.map(fs::read_to_string));
    let tables = lab.coalition.routers()[0].namespace.try_run("read the sockets' counters", read).unwrap();
    let tables = tables.map(Result::unwrap);
    let lines = tables.iter().flat_map(|table| table.lines().skip(1));
    lines.filter_map(|line| line.split_whitespace().last()?.parse::<u64>().ok()).sum()
}

/// The frames over and over.
fn over_and_over(frames: Vec<Vec<u8>>) -> Junk {
    let mut at = 0;
    Box::new(move || {
        at = (at + 1) % frames.len();
        frames[at].clone()
    })
}

/// An address of black that is nobody's.
fn stranger(family: Family) -> IpAddr {
    match family {
        Family::V6 => "2001:db8:bb::bad".parse().unwrap(),
        Family::V4 => "192.0.2.250".parse().unwrap(),
    }
}

fn replayed(family: Family) {
    holds_against("replayed", family, &MEMBERS, |_, genuine| {
        over_and_over(genuine.into_iter().map(|genuine| genuine.frame).collect())
    });
}

/// What the members have sent, with wrong signatures under wrong vouchers and under none.
fn mutated(family: Family) {
    holds_against("mutated, under the members' addresses", family, &MEMBERS, |_, genuine| mutate(genuine));
}

fn mutate(genuine: Vec<Genuine>) -> Junk {
    let junk = genuine.into_iter().zip(0..).flat_map(|(genuine, n)| {
        let mutated = genuine.mutated(n);
        [mutated.frame.clone(), mutated.unvouched().frame]
    });
    over_and_over(junk.collect())
}

#[test]
fn what_was_sent_before() {
    if !skip("what_was_sent_before") {
        replayed(Family::V6);
    }
}

#[test]
fn what_was_sent_before_over_ipv4() {
    if !skip("what_was_sent_before_over_ipv4") {
        replayed(Family::V4);
    }
}

#[test]
fn wrong_signatures_under_the_members_addresses() {
    if !skip("wrong_signatures_under_the_members_addresses") {
        mutated(Family::V6);
    }
}

#[test]
fn wrong_signatures_under_the_members_addresses_over_ipv4() {
    if !skip("wrong_signatures_under_the_members_addresses_over_ipv4") {
        mutated(Family::V4);
    }
}

/// The flood speaks in the name of the one that is gone, too.
#[test]
fn a_member_killed_under_wrong_signatures_is_excluded() {
    if skip("a_member_killed_under_wrong_signatures_is_excluded") {
        return;
    }
    let _alone = alone();
    let (mut lab, next) = group(Family::V6, |_, genuine| mutate(genuine));
    let manager = lab.manager(0);
    let staying: Vec<usize> = MEMBERS.iter().copied().filter(|router| *router != manager).collect();
    let before = lab.state(manager).unwrap().0;
    let (flood, begun) = (Flood::start(lab.coalition.black(), BRIDGE, next).unwrap(), Instant::now());
    lab.stays_one(&MEMBERS, 3);
    lab.kill(manager);
    let took = lab.wait_for_group_within(Duration::from_secs(10), &staying);
    lab.stays_one(&staying, 2);
    let rate = flood.sent() as f64 / begun.elapsed().as_secs_f64();
    drop(flood);
    say(&format!("a transaction manager killed at {rate:.0} frames a second is succeeded within {took:?}"));
    assert_ne!(lab.state(staying[0]).unwrap().0, before);
    carry(&lab, staying[0], &staying[1..], 100);
}

#[test]
fn wrong_signatures_of_a_stranger() {
    if skip("wrong_signatures_of_a_stranger") {
        return;
    }
    holds_against("mutated, of a stranger", Family::V6, &MEMBERS, |_, genuine| {
        let junk = genuine.into_iter().zip(0..);
        over_and_over(junk.map(|(genuine, n)| genuine.mutated(n).from(stranger(Family::V6)).frame).collect())
    });
}

#[test]
fn a_certified_device_that_is_no_member() {
    if skip("a_certified_device_that_is_no_member") {
        return;
    }
    holds_against("signed by a certified device", Family::V6, &MEMBERS, |lab, genuine| {
        let (key, member) = (key_of(lab, OUTSIDER), member_of(lab, OUTSIDER));
        let mut sequence = 0;
        Box::new(move || {
            sequence += 1;
            let model = genuine[sequence as usize % genuine.len()].clone();
            model.signed(&key, member, 1 << 50, sequence).from(stranger(Family::V6)).frame
        })
    });
}

/// Its own daemon is dead: what it sends is all that is heard of it. It says in turn what others have said, so that
/// its hello key is now this, now that one: keys that were in use before, which the data plane refuses.
#[test]
fn a_member() {
    if skip("a_member") {
        return;
    }
    holds_against("signed by a member", Family::V6, &[0, 1], |lab, genuine| {
        let (key, member, address) = (key_of(lab, TRAITOR), member_of(lab, TRAITOR), lab.black_address(TRAITOR));
        let headers = genuine.iter().map(|genuine| *Envelope::parse(genuine.envelope()).unwrap().header());
        let last = headers.filter(|header| header.sender == member).max_by_key(|header| header.sequence).unwrap();
        // The last of all: what they say of the group holds.
        let recent: Vec<Genuine> = genuine[genuine.len() - 40..].to_vec();
        let mut sequence = last.sequence + 1000;
        Box::new(move || {
            sequence += 1;
            let model = recent[sequence as usize % recent.len()].clone();
            model.signed(&key, member, last.startup, sequence).from(address).frame
        })
    });
}
