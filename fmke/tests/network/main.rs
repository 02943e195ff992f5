//! A key server and its clients on a network that loses, delays, repeats and reorders: one seed, one history.

mod taken_away;
mod terminals;
mod world;

use std::time::Duration;

use muster_fmke::gcks::{Event, Profiles};
use muster_fmke::isakmp::TrafficSelector;
use world::{Weather, World};

const SECOND: Duration = Duration::from_secs(1);
const SEEDS: std::ops::Range<u64> = 0..30;

/// The groups and VPNs of the paper (seed 000, figure 7): a hub and two sites; multicast from the hub to one, to the other, to
/// both; a VPN between each two.
#[test]
fn each_client_holds_what_its_profile_says_and_nothing_else() {
    let mut world = World::figure_7(1, Weather::CALM);
    world.settle();
    // The hub's three groups, and each VPN both ways.
    assert_eq!(world.held("hub").len(), 3 + 4);
    assert_eq!(world.held("site-1").len(), 2 + 4);
    assert_eq!(world.held("site-2").len(), 2 + 4);
    world.assert_one_key_each();
}

#[test]
fn in_foul_weather_and_by_satellite_every_sa_arrives() {
    for (seed, weather) in SEEDS.flat_map(|seed| [(seed, Weather::FOUL), (seed, Weather::SATELLITE)]) {
        let mut world = World::figure_7(seed, weather);
        world.settle();
        for _ in 0..5 {
            world.rekey();
            world.run(3 * SECOND);
            world.settle();
            world.assert_one_key_each();
        }
        assert!(world.lost.is_empty(), "seed {seed}, {weather:?}: {:?} fell out of a group", world.lost);
    }
}

/// Killed at a re-key, when what it had stored was not sent yet, the key server comes back with its groups, and the clients stay
/// in.
#[test]
fn a_key_server_that_is_killed_comes_back() {
    for seed in SEEDS {
        let mut world = World::figure_7(seed, Weather::FOUL);
        world.settle();
        for _ in 0..6 {
            world.rekey();
            world.kill_before_sending();
            world.run(3 * SECOND);
            world.settle();
            world.assert_one_key_each();
        }
        assert!(world.lost.is_empty(), "seed {seed}: {:?} fell out of a group", world.lost);
    }
}

/// Killed long after a re-key, when the re-key SA before is forgotten, it finds in its store what that names.
#[test]
fn a_key_server_that_is_killed_later_comes_back_too() {
    let mut world = World::figure_7(2, Weather::CALM);
    world.settle();
    world.rekey();
    for _ in 0..3 {
        world.run(50 * SECOND);
        world.kill(world.profiles());
    }
    world.run(60 * SECOND);
    world.settle();
}

#[test]
fn a_store_of_another_format_is_refused_as_such() {
    let mut world = World::figure_7(0, Weather::CALM);
    world.settle();
    let mut begin = |format: Option<&[u8]>| {
        let begun = world.begin_with(|disk| match format {
            Some(octets) => drop(disk.insert("format".into(), octets.to_vec().into())),
            None => drop(disk.remove("format")),
        });
        begun.map_err(|error| error.to_string())
    };
    begin(Some(&[0, 0, 0, 1])).unwrap();
    for (format, names) in
        [(None, "no format number"), (Some(&[0, 0, 0, 77][..]), "format 77"), (Some(&[1]), "damaged: format")]
    {
        assert!(begin(format).is_err_and(|error| error.contains(names)), "{names}");
    }
}

#[test]
fn a_client_that_begins_anew_never_sends_under_a_key_it_sent_under() {
    for (seed, weather) in SEEDS.flat_map(|seed| [(seed, Weather::CALM), (seed, Weather::FOUL)]) {
        let mut world = World::figure_7(seed, weather);
        world.settle();
        let before = world.sends("hub");
        world.restart("hub");
        world.run(SECOND);
        world.settle();
        assert!(before.is_disjoint(&world.sends("hub")));
        world.assert_one_key_each();
        let anew = |event: &&Event| matches!(event, Event::Connected { began_anew: true, .. });
        // An answer that is lost for good makes one begin anew once more.
        assert!(world.events.iter().filter(anew).count() >= 4, "three at the start, and the hub again");
    }
}

/// It does not know any longer what it received: what others sent before is not taken once more.
#[test]
fn a_client_that_begins_anew_receives_under_keys_it_never_received_under() {
    for (seed, weather) in SEEDS.flat_map(|seed| [(seed, Weather::CALM), (seed, Weather::FOUL)]) {
        let mut world = World::figure_7(seed, weather);
        world.settle();
        // Some while keys are changing, some when they are not.
        world.run(Duration::from_millis(500) * seed as u32);
        let before = world.receives("site-1");
        world.restart("site-1");
        if weather == Weather::CALM {
            // The key server dies, too, when it has heard of it.
            world.run_until_connected("site-1");
            world.kill(world.profiles());
        }
        world.run(SECOND);
        world.settle();
        assert!(world.receives("site-1").is_disjoint(&before), "seed {seed}, {weather:?}");
        world.assert_one_key_each();
    }
}

/// Where the operator does not want new keys at every join, none come when somebody begins anew who sends nothing.
#[test]
fn where_a_join_changes_no_keys_who_begins_anew_receives_under_those_there_are() {
    let mut world = World::figure_7(1, Weather::CALM);
    let mut profiles = world.profiles();
    profiles.groups.values_mut().for_each(|group| group.rekey_on_join = false);
    world.configure(profiles);
    world.settle();
    world.run(20 * SECOND);
    let before = world.receives("site-1");
    world.restart("site-1");
    world.run(SECOND);
    world.settle();
    assert_eq!(world.receives("site-1"), before);
}

/// A whole country's routers begin anew within seconds: that is one new key for each sender in seven seconds, in which the one before
/// goes, and not one for each router.
#[test]
fn when_many_begin_anew_keys_do_not_pile_up() {
    let mut world = World::figure_7(3, Weather::CALM);
    world.settle();
    world.run(20 * SECOND);
    let rekeyed = |world: &World| {
        let of = |event: &&Event| matches!(event, Event::Rekeyed { group, .. } if group == "video-3");
        world.events.iter().filter(of).count()
    };
    let before = rekeyed(&world);
    for name in ["site-1", "site-2", "hub"] {
        world.restart(name);
        world.run(SECOND);
    }
    world.run(4 * SECOND);
    assert_eq!(rekeyed(&world), before + 1);
    world.run(SECOND);
    world.settle();
    assert_eq!(rekeyed(&world), before + 2);
}

/// It began anew, is connected, and before it is told anything the key server dies: what it sent under before is still not to be
/// used again.
#[test]
fn a_client_that_began_anew_just_before_the_key_server_died_is_not_forgotten() {
    for (seed, wait) in (0..10).flat_map(|seed| [(seed, 0), (seed, 5), (seed, 30)]) {
        let mut world = World::figure_7(seed, Weather::CALM);
        world.settle();
        world.restart("hub");
        world.run_until_connected("hub");
        world.run(Duration::from_millis(wait));
        world.kill(world.profiles());
        // Each key is sent under from its beginning once: `World` looks.
        world.run(60 * SECOND);
        world.settle();
        world.assert_one_key_each();
    }
}

#[test]
fn a_client_is_in_no_more_groups_than_it_takes() {
    let mut profiles = World::figure_7(0, Weather::CALM).profiles();
    let group = profiles.groups["video-1"].clone();
    for number in 0..256 - 2 {
        let mut group = group.clone();
        group.rekey.1 = 10_000 + number;
        profiles.groups.insert(format!("more-{number}"), group);
    }
    // The hub is in one more than site 1.
    let error = profiles.check().unwrap_err().to_string();
    assert!(error.contains("client \"hub\"") && error.contains("more than 256 groups"), "{error}");
    profiles.groups.get_mut("video-2").unwrap().members.remove("hub");
    profiles.groups.get_mut("video-2").unwrap().flows.clear();
    profiles.check().unwrap();
}

/// Web servers on black that site 1 may reach as they are.
fn web(destination: &str) -> TrafficSelector {
    let source = ("10.1.0.0/16".parse().unwrap(), 0);
    TrafficSelector { protocol: 6, source, destination: (destination.parse().unwrap(), 443) }
}

/// What is laid down for traffic is told with every change, to those who were away when they are back, and by a key server that
/// was. `World` looks that each client follows what there is in the end.
#[test]
fn what_may_go_unprotected_is_told_and_taken_back() {
    for (seed, weather) in (0..10).flat_map(|seed| [(seed, Weather::CALM), (seed, Weather::FOUL)]) {
        let mut world = World::figure_7(seed, weather);
        world.settle();
        let with = |world: &World, bypass: &[TrafficSelector]| {
            let mut profiles = world.profiles();
            profiles.clients.get_mut("site-1").unwrap().bypass = bypass.iter().copied().collect();
            profiles.check().unwrap();
            profiles
        };
        let [one, other] = ["198.51.100.0/24", "203.0.113.0/24"].map(web);
        world.configure(with(&world, &[one]));
        world.settle();
        // Taken back while the client is away.
        world.cut_off("site-1", true);
        world.configure(with(&world, &[]));
        world.run(60 * SECOND);
        assert_eq!(world.bypass("site-1"), [one].into(), "it stands while the key server is silent");
        world.cut_off("site-1", false);
        world.settle();
        assert!(world.bypass("site-1").is_empty());
        // While the key server is; and a client that begins anew hears it at once.
        world.kill(with(&world, &[one, other]));
        world.run(60 * SECOND);
        world.settle();
        assert_eq!(world.bypass("site-1"), [one, other].into());
        world.kill(with(&world, &[other]));
        world.restart("site-1");
        world.settle();
        assert_eq!(world.bypass("site-1"), [other].into());
        assert!(world.bypass("hub").is_empty());
    }
}

#[test]
fn what_is_to_be_protected_cannot_go_unprotected() {
    let world = World::figure_7(0, Weather::CALM);
    let check = |bypass: TrafficSelector| {
        let mut profiles: Profiles = world.profiles();
        profiles.clients.get_mut("site-1").unwrap().bypass = [bypass].into();
        profiles.check().map_err(|error| error.to_string())
    };
    check(web("198.51.100.0/24")).unwrap();
    // An exception: of the VPN to site 2 one port of one host.
    check(web("10.2.0.7/32")).unwrap();
    let all = TrafficSelector { protocol: 0, destination: ("0.0.0.0/0".parse().unwrap(), 0), ..web("0.0.0.0/0") };
    let vpn = TrafficSelector { protocol: 0, destination: ("10.2.0.0/16".parse().unwrap(), 0), ..web("0.0.0.0/0") };
    for (wrong, names) in [
        (all, "for the same packets"),
        (vpn, "for the same packets"),
        (web("0.0.0.0/0"), "for the same packets"),
        (web("239.1.1.1/32"), "multicast"),
        (web("2001:db8::/32"), "other family"),
        (TrafficSelector { protocol: 1, ..web("198.51.100.0/24") }, "ports"),
    ] {
        let error = check(wrong).unwrap_err();
        assert!(error.contains("client \"site-1\"") && error.contains(names), "{error}");
    }
}

/// Each of its beginnings takes a connection; the others take new keys now and then only.
#[test]
fn who_begins_anew_all_the_time_disturbs_nobody() {
    let mut world = World::figure_7(7, Weather::CALM);
    world.settle();
    let rekeyed = |world: &World| world.events.iter().filter(|event| matches!(event, Event::Rekeyed { .. })).count();
    let (before, keys, sas) = (rekeyed(&world), world.keys("site-1").len(), world.sas("site-1"));
    for _ in 0..120 {
        world.restart("hub");
        world.run(SECOND);
        assert!(world.sas("site-1") <= 2 * sas, "old SAs pile up");
    }
    // At the beginning, and every 30 seconds: of three groups; of the flows of two and of two VPNs, both ways.
    assert!(rekeyed(&world) - before <= 3 * 5, "{}", rekeyed(&world) - before);
    assert!(world.keys("site-1").len() - keys <= (2 + 2) * 5, "{}", world.keys("site-1").len() - keys);
    world.run(40 * SECOND);
    world.settle();
    world.assert_one_key_each();
}

/// More changes than whose messages are kept, while a member hears nothing for two seconds.
#[test]
fn who_is_many_changes_behind_is_told_all() {
    for seed in SEEDS {
        let mut world = World::figure_7(seed, Weather::FOUL);
        world.settle();
        // Nothing is on its way to it, which would be said again at each change.
        world.run(60 * SECOND);
        world.cut_off("site-2", true);
        for _ in 0..40 {
            world.rekey_group("video-3");
            world.run(Duration::from_millis(50));
        }
        world.cut_off("site-2", false);
        // The hub has taken its new keys, and the old ones are gone.
        world.run(8 * SECOND);
        world.settle_within(40 * SECOND);
        assert!(world.lost.is_empty(), "seed {seed}: {:?} fell out of a group", world.lost);
    }
}

/// One end is cut off from the key server when the VPN's keys are due; the other is not.
#[test]
fn a_vpns_keys_stay_while_one_end_cannot_be_told_others() {
    let mut world = World::figure_7(8, Weather::CALM);
    let mut profiles = world.profiles();
    profiles.vpns.values_mut().for_each(|vpn| vpn.lifetime = 400 * SECOND);
    world.configure(profiles);
    world.settle();
    let before = world.keys_between("hub", "site-1");
    world.run(200 * SECOND);
    world.cut_off("site-1", true);
    // The end of four fifths of the lifetime is past, the end of it is not; by command, neither.
    world.run(150 * SECOND);
    world.rekey();
    world.run(10 * SECOND);
    assert_eq!(
        (world.keys_between("hub", "site-1"), world.keys_between("site-1", "hub")),
        (before.clone(), before.clone())
    );
    let between_others = world.keys_between("hub", "site-2");
    assert_eq!(world.keys_between("site-2", "hub"), between_others);
    // Back, it has new ones at once.
    world.cut_off("site-1", false);
    world.run(60 * SECOND);
    world.settle();
    assert!(world.keys_between("hub", "site-1").is_disjoint(&before));
    // Away for longer than the lifetime: nobody sends under what is over, and then both have the same again.
    world.cut_off("site-1", true);
    world.run(500 * SECOND);
    world.cut_off("site-1", false);
    world.run(60 * SECOND);
    world.settle();
    assert_eq!(world.keys_between("hub", "site-1"), world.keys_between("site-1", "hub"));
    // It does not renew all the time.
    let now = world.keys_between("hub", "site-1");
    world.run(100 * SECOND);
    assert_eq!(world.keys_between("hub", "site-1"), now);
}

/// By command, or because a client has shown another certificate: that they are to come is not forgotten with the process.
#[test]
fn new_keys_that_wait_for_an_end_come_though_the_key_server_was_away() {
    for killed in [false, true] {
        let mut world = World::figure_7(8, Weather::CALM);
        world.settle();
        let before = world.keys_between("hub", "site-1");
        world.cut_off("site-1", true);
        world.run(60 * SECOND);
        world.rekey();
        assert_eq!(world.keys_between("hub", "site-1"), before, "{killed}: they wait");
        if killed {
            world.kill(world.profiles());
        }
        world.cut_off("site-1", false);
        world.run(60 * SECOND);
        world.settle();
        let new = world.keys_between("hub", "site-1");
        assert!(new.is_disjoint(&before), "{killed}");
        // Once.
        world.kill(world.profiles());
        world.run(60 * SECOND);
        world.settle();
        assert_eq!(world.keys_between("hub", "site-1"), new, "{killed}");
    }
}

#[test]
fn keys_of_traffic_live_for_ten_seconds_to_seven_days() {
    let world = World::figure_7(0, Weather::CALM);
    let check = |change: &dyn Fn(&mut Profiles, Duration), lifetime: Duration| {
        let mut profiles: Profiles = world.profiles();
        change(&mut profiles, lifetime);
        profiles.check().map_err(|error| error.to_string())
    };
    let of_groups = |profiles: &mut Profiles, lifetime| {
        profiles.groups.values_mut().for_each(|group| group.tek_lifetime = lifetime);
    };
    let of_vpns = |profiles: &mut Profiles, lifetime| {
        profiles.vpns.values_mut().for_each(|vpn| vpn.lifetime = lifetime);
    };
    for change in [&of_groups as &dyn Fn(&mut Profiles, Duration), &of_vpns] {
        check(change, 7 * 86_400 * SECOND).unwrap();
        assert!(check(change, 7 * 86_400 * SECOND + SECOND).unwrap_err().contains("above the longest"));
        assert!(check(change, 9 * SECOND).unwrap_err().contains("10 s at least"));
    }
}

/// Keys have the lifetime that was told with them. Another one, after a reload or a restart, is for those that come next, and only
/// if it is shorter do they come earlier; nobody falls out of a group, or is without a key, because of it.
#[test]
fn another_lifetime_is_that_of_the_next_keys() {
    for by_restart in [false, true] {
        let mut world = World::figure_7(9, Weather::CALM);
        world.settle();
        let change = |world: &mut World, lifetime: Duration| {
            let mut profiles = world.profiles();
            profiles
                .groups
                .values_mut()
                .for_each(|group| (group.tek_lifetime, group.kek_lifetime) = (lifetime, lifetime));
            profiles.vpns.values_mut().for_each(|vpn| vpn.lifetime = lifetime);
            match by_restart {
                true => world.kill(profiles),
                false => world.configure(profiles),
            }
        };
        let after = |world: &mut World, span: Duration| {
            world.run(span);
            world.sends("hub")
        };
        let first = world.sends("hub");
        change(&mut world, 400 * SECOND);
        assert_eq!(after(&mut world, 200 * SECOND), first, "not yet {by_restart}");
        let second = after(&mut world, 150 * SECOND);
        assert!(second.is_disjoint(&first), "at four fifths of the shorter one {by_restart}");
        // These are told to be for 400 s.
        change(&mut world, 4000 * SECOND);
        assert_eq!(after(&mut world, 150 * SECOND), second, "a longer one is no reason {by_restart}");
        let third = after(&mut world, 200 * SECOND);
        assert!(third.is_disjoint(&second), "at four fifths of their own {by_restart}");
        assert_eq!(after(&mut world, 500 * SECOND), third, "which are for longer {by_restart}");
        change(&mut world, 100 * SECOND);
        assert!(after(&mut world, 70 * SECOND).is_disjoint(&third), "past four fifths already {by_restart}");
        world.settle();
        world.assert_one_key_each();
        assert!(world.lost.is_empty(), "{:?} fell out of a group {by_restart}", world.lost);
    }
}

/// Under a re-key SA that has carried nothing yet (all came in together, or it alone is new) members hear that it has not.
#[test]
fn a_group_of_which_nothing_is_to_be_said_is_not_taken_for_silent() {
    let mut world = World::figure_7(10, Weather::CALM);
    let mut profiles = world.profiles();
    profiles.groups.values_mut().for_each(|group| group.kek_lifetime = 500 * SECOND);
    world.configure(profiles);
    world.settle();
    let sent = world.sends("hub");
    world.run(600 * SECOND);
    assert_eq!(world.sends("hub"), sent, "the re-key SAs alone are new");
    assert!(world.lost.is_empty(), "{:?} fell out of a group", world.lost);
}
