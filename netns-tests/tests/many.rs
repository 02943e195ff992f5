//! Twenty routers started at once, on a clear black network and on a foul one.

use std::time::{Duration, Instant};

use muster_netlab::Weather;
use muster_netns_tests::{Family, Lab, alone, carry, say, skip};

const ROUTERS: usize = 20;
/// A test, no benchmark: twenty unoptimised daemons share what the machine has.
const LIMIT: Duration = Duration::from_secs(45);

/// Starts all and waits until they are one group; what it took is printed.
fn cold_start(lab: &mut Lab, what: &str) {
    let all: Vec<usize> = (0..ROUTERS).collect();
    let begun = Instant::now();
    all.iter().for_each(|router| lab.start(*router));
    let started = begun.elapsed();
    lab.wait_for_group_within(LIMIT, &all);
    let (formed, epoch) = (begun.elapsed(), lab.state(0).expect("it answers").1);
    let prefixes = lab.wait_for_prefixes(&all);
    say(&format!("{what}: {ROUTERS} routers started within {started:?}, one group after {formed:?}, epoch {epoch}"));
    say(&format!("  all prefixes {prefixes:?} later"));
}

fn forms_and_stays(family: Family, weather: Option<Weather>) {
    let _alone = alone();
    let all: Vec<usize> = (0..ROUTERS).collect();
    let mut lab = Lab::on(family, ROUTERS);
    if let Some(weather) = weather {
        lab.coalition.set_weather(weather).unwrap();
    }
    let how = if weather.is_some() { "foul" } else { "clear" };
    cold_start(&mut lab, &format!("black is {family:?} and {how}"));
    lab.stays_one(&all, 4);
    if weather.is_some() {
        say(&format!("  {:?}", lab.coalition.toll()));
        assert_eq!(lab.coalition.toll().failed, 0);
        lab.coalition.clear_up().unwrap();
    }
    carry(&lab, 0, &all[1..], 100);
    carry(&lab, ROUTERS - 1, &all[..ROUTERS - 1], 100);
    lab.assert_keys_used_once(&all);
}

#[test]
fn twenty_started_at_once_are_one_group() {
    if !skip("twenty_started_at_once_are_one_group") {
        forms_and_stays(Family::V6, None);
    }
}

#[test]
fn twenty_started_at_once_are_one_group_on_ipv4() {
    if !skip("twenty_started_at_once_are_one_group_on_ipv4") {
        forms_and_stays(Family::V4, None);
    }
}

/// A fifth of all datagrams lost, some twice, and out of order.
const FOUL: Weather =
    Weather { loss: 20, duplicates: 10, delay: Duration::from_millis(15), spares_esp: false, seed: 0x20 };

#[test]
fn twenty_started_at_once_are_one_group_in_foul_weather() {
    if !skip("twenty_started_at_once_are_one_group_in_foul_weather") {
        forms_and_stays(Family::V6, Some(FOUL));
    }
}

#[test]
fn twenty_started_at_once_are_one_group_in_foul_weather_on_ipv4() {
    if !skip("twenty_started_at_once_are_one_group_in_foul_weather_on_ipv4") {
        forms_and_stays(Family::V4, Some(FOUL));
    }
}
