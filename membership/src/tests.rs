//! A link with hosts that keep to the RFCs, and one or two routers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use muster_wire::Time;
use proptest::prelude::*;

use crate::{Change, MAX_GROUPS, Message, Querier, Query, Record, Role, Version};

const GROUP: &str = "239.10.0.1";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn source(n: u8) -> IpAddr {
    IpAddr::from([10, 9, 0, n])
}

fn at(millis: u64) -> Time {
    Time(millis * 1000)
}

fn record(change: Change, sources: &[u8]) -> Record {
    Record { group: ip(GROUP), change, sources: sources.iter().map(|n| source(*n)).collect() }
}

fn report(querier: &mut Querier, now: Time, version: Version, record: Record) {
    querier.handle_message(now, ip("10.1.0.9"), &Message::Report(version, vec![record]));
}

fn sent(querier: &mut Querier, now: Time) -> Vec<Query> {
    querier.handle_timeout(now);
    std::iter::from_fn(|| querier.poll_transmit()).collect()
}

fn router(address: &str) -> Querier {
    let mut querier = Querier::new(at(0));
    querier.set_address(Some(ip(address)));
    querier
}

/// Runs it until `end`, whatever it asks unanswered.
fn run(querier: &mut Querier, end: Time) -> Vec<(Time, Query)> {
    let mut all = Vec::new();
    while let Some(next) = querier.poll_timeout().filter(|next| *next <= end) {
        all.extend(sent(querier, next).into_iter().map(|query| (next, query)));
    }
    all
}

#[test]
fn general_queries_come_quickly_at_first() {
    let asked = run(&mut router("10.1.0.1"), at(300_000));
    let times: Vec<u64> = asked.iter().map(|(time, _)| time.0 / 1000).collect();
    assert_eq!(times, [0, 31_250, 156_250, 281_250]);
    assert!(asked.iter().all(|(_, query)| query.group.is_none()));
    let within: Vec<u64> = asked.iter().map(|(_, query)| query.max_response.as_secs()).collect();
    assert_eq!(within, [1, 1, 10, 10], "at first hosts are to answer soon");
}

#[test]
fn without_an_address_nothing_is_asked_until_there_is_one() {
    let mut querier = Querier::new(at(0));
    report(&mut querier, at(100), Version::Third, record(Change::ToExclude, &[]));
    report(&mut querier, at(200), Version::Third, record(Change::ToInclude, &[]));
    assert!(run(&mut querier, at(4_500)).is_empty());
    // Who could still be listening was not asked.
    assert!(querier.wants(&ip(GROUP), &source(1)));
    querier.set_address(Some(ip("10.1.0.1")));
    assert_eq!(run(&mut querier, at(5_000)).len(), 1);
}

#[test]
fn who_is_not_heard_again_has_gone() {
    let mut querier = router("10.1.0.1");
    report(&mut querier, at(1_000), Version::Third, record(Change::ToExclude, &[]));
    assert!(querier.wants(&ip(GROUP), &source(1)));
    assert!(querier.take_changed().contains(&ip(GROUP)));
    report(&mut querier, at(2_000), Version::Third, record(Change::IsExclude, &[]));
    assert!(querier.take_changed().is_empty(), "nothing else is wanted");
    run(&mut querier, at(261_999));
    assert!(querier.wants(&ip(GROUP), &source(1)));
    run(&mut querier, at(262_000));
    assert!(!querier.wants(&ip(GROUP), &source(1)));
    assert!(querier.take_changed().contains(&ip(GROUP)) && querier.groups().next().is_none());
}

#[test]
fn who_leaves_is_asked_after_twice() {
    for version in [Version::Third, Version::Second] {
        let mut querier = router("10.1.0.1");
        run(&mut querier, at(0));
        report(&mut querier, at(1_000), version, record(Change::IsExclude, &[]));
        report(&mut querier, at(5_000), version, record(Change::ToInclude, &[]));
        let asked = run(&mut querier, at(6_999));
        let times: Vec<u64> = asked.iter().map(|(time, _)| time.0 / 1000).collect();
        assert_eq!(times, [5_000, 6_000]);
        assert!(asked.iter().all(|(_, query)| query.group == Some(ip(GROUP)) && !query.suppress));
        assert!(querier.wants(&ip(GROUP), &source(1)));
        run(&mut querier, at(7_000));
        assert!(!querier.wants(&ip(GROUP), &source(1)));
    }
}

#[test]
fn another_who_listens_answers_and_it_goes_on() {
    let mut querier = router("10.1.0.1");
    run(&mut querier, at(0));
    report(&mut querier, at(1_000), Version::Third, record(Change::ToExclude, &[]));
    report(&mut querier, at(5_000), Version::Third, record(Change::ToInclude, &[]));
    assert_eq!(run(&mut querier, at(5_000)).len(), 1);
    report(&mut querier, at(5_500), Version::Third, record(Change::IsExclude, &[]));
    let again = run(&mut querier, at(6_000));
    assert!(again[0].1.suppress, "others need not lower their timers");
    run(&mut querier, at(60_000));
    assert!(querier.wants(&ip(GROUP), &source(1)));
}

#[test]
fn sources_are_chosen_and_left() {
    let mut querier = router("10.1.0.1");
    run(&mut querier, at(0));
    report(&mut querier, at(1_000), Version::Third, record(Change::Allow, &[1, 2]));
    assert!(querier.wants(&ip(GROUP), &source(1)) && !querier.wants(&ip(GROUP), &source(3)));
    report(&mut querier, at(2_000), Version::Third, record(Change::Block, &[2]));
    let asked = run(&mut querier, at(4_000));
    assert_eq!(asked[0].1.sources, [source(2)]);
    assert!(querier.wants(&ip(GROUP), &source(1)) && !querier.wants(&ip(GROUP), &source(2)));
    // All but one; then a second host wants that one.
    report(&mut querier, at(5_000), Version::Third, record(Change::ToExclude, &[4]));
    run(&mut querier, at(8_000));
    assert!(querier.wants(&ip(GROUP), &source(9)) && !querier.wants(&ip(GROUP), &source(4)));
    report(&mut querier, at(9_000), Version::Third, record(Change::Allow, &[4]));
    assert!(querier.wants(&ip(GROUP), &source(4)));
}

#[test]
fn a_host_without_sources_gets_all() {
    let mut querier = router("10.1.0.1");
    report(&mut querier, at(1_000), Version::Second, record(Change::IsExclude, &[]));
    report(&mut querier, at(2_000), Version::Third, record(Change::Block, &[1]));
    report(&mut querier, at(2_000), Version::Third, record(Change::ToExclude, &[2]));
    run(&mut querier, at(10_000));
    assert!(querier.wants(&ip(GROUP), &source(1)) && querier.wants(&ip(GROUP), &source(2)));
    // The first version cannot even leave.
    report(&mut querier, at(11_000), Version::First, record(Change::IsExclude, &[]));
    report(&mut querier, at(12_000), Version::Second, record(Change::ToInclude, &[]));
    run(&mut querier, at(20_000));
    assert!(querier.wants(&ip(GROUP), &source(1)));
}

#[test]
fn the_lowest_address_asks() {
    let (mut low, mut high) = (router("10.1.0.1"), router("10.1.0.2"));
    let general = Query { max_response: Duration::from_secs(10), ..sent(&mut low, at(0)).remove(0) };
    high.handle_message(at(0), ip("10.1.0.1"), &Message::Query(general.clone()));
    low.handle_message(at(0), ip("10.1.0.2"), &Message::Query(general.clone()));
    assert_eq!(high.role(), Role::NonQuerier { querier: ip("10.1.0.1") });
    assert_eq!(low.role(), Role::Querier);
    high.handle_message(at(0), ip("0.0.0.0"), &Message::Query(general));
    assert_eq!(high.role(), Role::NonQuerier { querier: ip("10.1.0.1") }, "a switch is no router");
    // What is left the other asks for; its question lowers the timer here.
    report(&mut high, at(1_000), Version::Third, record(Change::ToExclude, &[]));
    report(&mut high, at(2_000), Version::Third, record(Change::ToInclude, &[]));
    assert!(run(&mut high, at(10_000)).is_empty() && high.wants(&ip(GROUP), &source(1)));
    let question = Query {
        group: Some(ip(GROUP)),
        sources: Vec::new(),
        max_response: Duration::from_secs(1),
        suppress: false,
        robustness: 2,
        interval: Duration::from_secs(125),
    };
    high.handle_message(at(20_000), ip("10.1.0.1"), &Message::Query(question));
    run(&mut high, at(22_000));
    assert!(!high.wants(&ip(GROUP), &source(1)));
    // Silent for 2 × 125 s + 5 s: this one asks, at once.
    let asked = run(&mut high, at(275_000));
    assert_eq!((asked[0].0, high.role()), (at(275_000), Role::Querier));
}

#[test]
fn room_is_bounded() {
    let mut querier = router("10.1.0.1");
    for n in 0..MAX_GROUPS as u32 + 5 {
        let group = IpAddr::from((0xef0a_0000 + n).to_be_bytes());
        report(&mut querier, at(0), Version::Third, Record { group, ..record(Change::ToExclude, &[]) });
    }
    assert_eq!((querier.groups().count(), querier.refused()), (MAX_GROUPS, 5));
    // Who fills it shuts nobody out: what has no room comes.
    let homeless = ip("239.20.0.1");
    assert!(querier.wants(&homeless, &source(1)) && querier.take_changed().contains(&homeless));
    run(&mut querier, at(300_000));
    assert!(!querier.wants(&homeless, &source(1)) && querier.take_changed().contains(&homeless));
    // More sources than are remembered: all come.
    let mut querier = router("10.1.0.1");
    report(&mut querier, at(0), Version::Third, record(Change::Allow, &(0..100).collect::<Vec<_>>()));
    assert!(querier.wants(&ip(GROUP), &source(200)));
}

/// What a host listens to: all but these (true), or these alone.
#[derive(Clone, Debug, Default, PartialEq)]
struct Interest(bool, BTreeSet<u8>);

impl Interest {
    fn wants(&self, n: u8) -> bool {
        self.0 != self.1.contains(&n)
    }

    fn records(&self, changed: bool) -> Vec<Record> {
        let change = match (self.0, changed) {
            (true, true) => Change::ToExclude,
            (true, false) => Change::IsExclude,
            (false, true) => Change::ToInclude,
            (false, false) => Change::IsInclude,
        };
        vec![record(change, &self.1.iter().copied().collect::<Vec<_>>())]
    }
}

fn interest() -> impl Strategy<Value = Interest> {
    (any::<bool>(), proptest::collection::btree_set(0u8..6, 0..4)).prop_map(|(all, listed)| Interest(all, listed))
}

proptest! {
    /// Whatever hosts want they get, at every moment from their report on; what none of them wants ends.
    #[test]
    fn what_hosts_want_comes_and_nothing_else(
        steps in proptest::collection::vec((0usize..3, interest(), 0u64..40_000), 1..25)
    ) {
        let (mut querier, mut hosts) = (router("10.1.0.1"), BTreeMap::<usize, Interest>::new());
        let mut now = at(0);
        // Hosts answer each query at once, with all that they listen to.
        let advance = |querier: &mut Querier, hosts: &BTreeMap<usize, Interest>, end: Time| {
            while let Some(next) = querier.poll_timeout().filter(|next| *next <= end) {
                querier.handle_timeout(next);
                while querier.poll_transmit().is_some() {
                    for interest in hosts.values().filter(|interest| **interest != Interest::default()) {
                        let answer = Message::Report(Version::Third, interest.records(false));
                        querier.handle_message(next, ip("10.1.0.9"), &answer);
                    }
                }
                for n in 0..8 {
                    let wanted = hosts.values().any(|interest| interest.wants(n));
                    assert!(!wanted || querier.wants(&ip(GROUP), &source(n)), "{n} at {next:?}");
                }
            }
        };
        for (host, interest, pause) in steps {
            let message = Message::Report(Version::Third, interest.records(true));
            hosts.insert(host, interest);
            querier.handle_message(now, ip("10.1.0.9"), &message);
            now = now + Duration::from_millis(pause);
            advance(&mut querier, &hosts, now);
        }
        // The longest that what nobody wants may linger: a membership, for sources that were only not said again.
        now = now + Duration::from_secs(600);
        advance(&mut querier, &hosts, now);
        for n in 0..8 {
            let wanted = hosts.values().any(|interest| interest.wants(n));
            prop_assert_eq!(querier.wants(&ip(GROUP), &source(n)), wanted, "{}", n);
        }
    }
}
