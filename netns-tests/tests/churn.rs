//! Members come, leave in order and are killed, at random, while others stay and send to each other.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use muster_netns_tests::{Family, Lab, alone, carry, multicast_flow_at, say, skip};
use nix::sys::signal::Signal;

/// Routers that stay; each sends to the others all the time.
const STAY: [usize; 3] = [0, 1, 2];
/// Routers that come and go.
const GUESTS: [usize; 4] = [3, 4, 5, 6];
/// Datagrams a second of each flow.
const RATE: u32 = 200;

/// SplitMix64 (Steele, Lea, Flood, 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// A seed of one's own choice repeats the order of events (not their effect: that is the machine's, too).
fn seed() -> u64 {
    let given = std::env::var("MUSTER_CHURN_SEED").ok().map(|text| text.parse().expect("a number"));
    given.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as u64)
}

fn come_and_go(family: Family, time: Duration) {
    let _alone = alone();
    let seed = seed();
    say(&format!("churn over {family:?}: MUSTER_CHURN_SEED={seed}"));
    let mut random = Random(seed);
    let mut lab = Lab::on(family, STAY.len() + GUESTS.len());
    STAY.iter().for_each(|router| lab.start(*router));
    lab.wait_for_group(&STAY);
    for from in STAY {
        carry(&lab, from, &STAY.into_iter().filter(|to| *to != from).collect::<Vec<_>>(), 20);
    }
    let ids = STAY.map(|router| lab.get(router, "status")["member_id"].as_str().unwrap().to_owned());
    let flows = STAY.map(|from| {
        let to: Vec<usize> = STAY.into_iter().filter(|to| *to != from).collect();
        multicast_flow_at(&lab, from, &to, 1 << 20, RATE)
    });

    let (mut joins, mut leaves, mut kills) = (0, 0, 0);
    let mut trace = Vec::new();
    let mut leaving = BTreeSet::new();
    let begun = Instant::now();
    while begun.elapsed() < time {
        std::thread::sleep(Duration::from_millis(100 + random.below(900)));
        let guest = GUESTS[random.below(GUESTS.len() as u64) as usize];
        let what = match (lab.runs(guest), random.below(2)) {
            (false, _) => {
                lab.start(guest);
                leaving.remove(&guest);
                joins += 1;
                "starts"
            }
            (true, 0) => {
                lab.signal(guest, Signal::SIGTERM);
                leaving.insert(guest);
                leaves += 1;
                "leaves"
            }
            (true, _) => {
                lab.kill(guest);
                leaving.remove(&guest);
                kills += 1;
                "is killed"
            }
        };
        trace.push(format!("{} {what} at {:?}", lab.name(guest), muster_netns_tests::monotonic()));
    }
    for guest in GUESTS {
        if leaving.contains(&guest) {
            lab.wait_for_end(guest);
        }
        if !lab.runs(guest) {
            lab.start(guest);
        }
    }
    let all: Vec<usize> = STAY.into_iter().chain(GUESTS).collect();
    lab.wait_for_group(&all);

    let mut lost = Vec::new();
    for (from, (sender, receivers)) in STAY.into_iter().zip(flows) {
        let sent = sender.stop();
        let to = STAY.into_iter().filter(|to| *to != from);
        for (to, receiver) in to.zip(&receivers) {
            // What was sent last is on its way; what is lost does not come.
            muster_netns_tests::wait_until(Lab::patience(Duration::from_secs(1)), || receiver.unique() == sent);
            let missing = receiver.tally().missing(sent);
            assert_eq!(receiver.tally().duplicates, 0);
            lost.push((from, to, sent, missing));
        }
    }
    let total: usize = lost.iter().map(|(.., missing)| missing.len()).sum();
    let sent: u64 = lost.iter().map(|(_, _, sent, _)| sent).sum();
    let epoch = lab.state(0).unwrap().1;
    say(&format!(
        "  {joins} starts, {leaves} leaves, {kills} kills, epoch {epoch}; {total} of {sent} lost between those that stay"
    ));
    let story = || {
        lab.story(&["leave", "join", "restore", "epoch", "activated", "election", "excluded", "installed", "refused"])
    };
    for router in STAY {
        for kind in ["leave", "restore"] {
            let about = |event: &serde_json::Value| ids.iter().any(|id| event["member"] == id.as_str());
            let wrong: Vec<_> = lab.events_of(router, kind).into_iter().filter(about).collect();
            assert!(wrong.is_empty(), "{wrong:?} at {}\n{}\n{}", lab.name(router), trace.join("\n"), story());
        }
        let excluded = lab.events_of(router, "excluded");
        assert!(excluded.is_empty(), "{excluded:?} at {}\n{}\n{}", lab.name(router), trace.join("\n"), story());
    }
    let dropped = STAY.map(|router| lab.get(router, "status")["dataplane"]["dropped"].to_string());
    assert_eq!(total, 0, "{lost:?}\n{dropped:?}\n{}\n{}", trace.join("\n"), story());
    lab.assert_keys_used_once(&all);
    carry(&lab, GUESTS[0], &STAY, 50);
    carry(&lab, 0, &all[1..], 50);
}

#[test]
fn a_minute_of_coming_and_going() {
    if !skip("a_minute_of_coming_and_going") {
        come_and_go(Family::V6, Duration::from_secs(60));
    }
}

#[test]
fn coming_and_going_over_ipv4() {
    if !skip("coming_and_going_over_ipv4") {
        come_and_go(Family::V4, Duration::from_secs(20));
    }
}
