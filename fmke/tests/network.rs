//! A key server and its clients on a network that loses, delays, repeats and reorders: one seed, one history.

mod world;

use std::time::Duration;

use muster_fmke::crypto::SecretBytes;
use muster_fmke::gcks::{Credential, End, Event, OneWay, Profiles};
use muster_fmke::isakmp::TrafficSelector;
use muster_fmke::phase1::ManualKey;
use world::{PORT, TERMINAL, Weather, World};

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

#[test]
fn who_is_excluded_loses_the_group_and_the_others_do_not() {
    for seed in SEEDS {
        let mut world = World::figure_7(seed, Weather::FOUL);
        world.settle();
        let before = world.keys("site-1");
        world.exclude("site-1");
        // Should it miss the farewell, it finds the server silent.
        world.run(60 * SECOND);
        world.settle();
        // What it holds is what it held, and nobody sends under any of it.
        assert!(world.keys("site-1").is_subset(&before), "seed {seed}: an excluded client learnt a key");
        assert!(world.sent_under().is_disjoint(&before), "seed {seed}: somebody sends under a key that it knows");
        assert!(!world.is_connected("site-1"));
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

/// The VPN between site 1 and the hub is one between site 2 and the hub from now on, and the name stays.
#[test]
fn a_vpn_with_another_end_has_other_keys_though_the_key_server_was_away() {
    let mut world = World::figure_7(4, Weather::CALM);
    world.settle();
    let before = world.keys_between("site-1", "hub");
    assert_eq!(before.len(), 2);
    let mut profiles = world.profiles();
    let old = profiles.vpns.remove("hub-site-1").unwrap();
    let mut other = profiles.vpns["hub-site-2"].clone();
    other.ends[0].net = "10.4.0.0/16".parse().unwrap();
    assert_ne!(old, other);
    profiles.vpns.insert("hub-site-1".into(), other);
    profiles.check().unwrap();
    world.kill(profiles);
    world.run(60 * SECOND);
    world.settle();
    assert!(world.keys("site-2").is_disjoint(&before));
    assert!(world.keys_between("site-1", "hub").is_empty(), "the old VPN is no more");
}

/// Who was not there when somebody was excluded hears of it when it is back.
#[test]
fn who_was_away_at_an_exclusion_does_not_go_on_with_the_excluded() {
    let mut world = World::figure_7(5, Weather::CALM);
    world.settle();
    world.cut_off("site-2", true);
    world.run(60 * SECOND);
    let before = world.keys("site-1");
    world.exclude("site-1");
    world.cut_off("site-2", false);
    world.run(60 * SECOND);
    world.settle();
    assert!(world.sent_under().is_disjoint(&before), "somebody sends under a key that site-1 knows");
}

/// The SA that it holds is not the last one there was: it has missed that another took its place, too, and can no longer ask.
#[test]
fn who_was_away_at_a_re_key_and_an_exclusion_does_not_go_on_with_the_excluded() {
    for killed in [false, true] {
        let mut world = World::figure_7(8, Weather::CALM);
        world.settle();
        world.cut_off("site-2", true);
        world.run(60 * SECOND);
        world.rekey();
        world.run(120 * SECOND);
        if killed {
            world.kill(world.profiles());
        }
        world.exclude("hub");
        world.cut_off("site-2", false);
        world.run(120 * SECOND);
        // Neither the VPN with the hub nor what the hub sent.
        assert!(world.is_connected("site-2"));
        assert_eq!(world.held("site-2").len(), 2, "{killed}: the VPN between the two sites, both ways");
    }
}

/// It began anew when most of a VPN's lifetime was over and the other end away: it counts from then, and the key server from before.
#[test]
fn who_holds_an_sa_for_longer_than_the_key_server_hears_that_it_is_taken_away() {
    let mut world = World::figure_7(8, Weather::CALM);
    let mut profiles = world.profiles();
    profiles.vpns.values_mut().for_each(|vpn| vpn.lifetime = 400 * SECOND);
    world.configure(profiles);
    world.settle();
    world.cut_off("site-1", true);
    world.run(250 * SECOND);
    world.restart("hub");
    world.run(10 * SECOND);
    world.cut_off("hub", true);
    world.run(200 * SECOND);
    world.exclude("site-1");
    assert!(!world.keys_between("hub", "site-1").is_empty(), "the key server's 400 s are over, its own are not");
    world.cut_off("hub", false);
    world.run(60 * SECOND);
    assert!(world.is_connected("hub") && world.keys_between("hub", "site-1").is_empty());
}

/// Its VPN's end comes by phase 2, late, and with it all of its groups: it takes nothing of what was multicast before.
#[test]
fn who_is_told_of_a_group_by_phase_2_forgets_what_multicast_took_away() {
    let mut world = World::figure_7(8, Weather::CALM);
    world.settle();
    world.cut_off("site-2", true);
    world.exclude("hub");
    world.run(SECOND);
    world.cut_off("site-2", false);
    world.run(10 * SECOND);
    assert_eq!(world.held("site-2").len(), 2, "the VPN between the two sites, both ways");
}

/// It asks for what it missed, and has missed so much that it is told all of the group as it is.
#[test]
fn who_is_too_far_behind_forgets_what_multicast_took_away() {
    let mut world = World::figure_7(8, Weather::CALM);
    world.settle();
    let before = world.held("site-2").len();
    world.cut_off("site-2", true);
    (0..3).for_each(|_| world.rekey_group("video-2"));
    let mut profiles = world.profiles();
    profiles.groups.get_mut("video-2").unwrap().flows.clear();
    world.configure(profiles);
    (0..3).for_each(|_| world.rekey_group("video-2"));
    world.run(SECOND);
    world.cut_off("site-2", false);
    world.run(15 * SECOND);
    assert_eq!(world.held("site-2").len(), before - 1);
}

/// A router is replaced: same name, another secret.
#[test]
fn who_bears_the_name_with_another_credential_is_another_client() {
    let mut world = World::figure_7(6, Weather::FOUL);
    world.settle();
    let before = world.keys("site-1");
    let mut profiles = world.profiles();
    profiles.clients.get_mut("site-1").unwrap().credential = Credential::of(&[b"another"]);
    world.cut_off("site-1", true);
    world.configure(profiles);
    world.run(60 * SECOND);
    assert!(
        world.sent_under_but("site-1").is_disjoint(&before),
        "somebody sends under a key that the one before knows"
    );
    world.cut_off("site-1", false);
    world.restart("site-1");
    world.settle();
}

/// A router is replaced, and in the same edit its VPN is one of others: who was at the other end is not to go on sending to it.
#[test]
fn who_loses_a_vpn_with_a_replaced_router_hears_of_it() {
    let mut world = World::figure_7(9, Weather::CALM);
    world.settle();
    let before = world.keys("site-1");
    let mut profiles = world.profiles();
    profiles.clients.get_mut("site-1").unwrap().credential = Credential::of(&[b"another"]);
    let vpn = profiles.vpns.get_mut("hub-site-1").unwrap();
    assert_eq!(vpn.ends[0].client, "hub");
    vpn.ends[0] = End { client: "site-2".into(), net: "10.4.0.0/16".parse().unwrap(), port: 0 };
    profiles.check().unwrap();
    world.cut_off("site-1", true);
    world.configure(profiles);
    // Its flow's new keys are sent under after the activation delay.
    world.run(5 * SECOND);
    assert!(world.keys_between("hub", "site-1").is_empty());
    assert!(world.sent_under_but("site-1").is_disjoint(&before));
    world.cut_off("site-1", false);
    world.restart("site-1");
    world.settle();
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

/// Without a return channel (draft 6.1): in foul weather, too, it gets every SA, and its clients go on though it or the key server
/// begins anew. `World` sees to it that it sends nothing, and that no number comes twice under its key.
#[test]
fn who_cannot_answer_gets_every_sa_all_the_same() {
    for (seed, weather) in SEEDS.flat_map(|seed| [(seed, Weather::FOUL), (seed, Weather::SATELLITE)]) {
        let mut world = World::with_terminal(seed, weather);
        world.settle();
        // Each group's flow, and what the hub sends to it.
        assert_eq!(world.held(TERMINAL).len(), 3 + 1);
        for _ in 0..3 {
            world.rekey();
            world.run(3 * SECOND);
            world.settle();
            world.assert_one_key_each();
        }
        world.restart(TERMINAL);
        world.settle();
        world.rekey();
        world.kill_before_sending();
        world.run(3 * SECOND);
        world.settle();
        let others = world.lost.iter().filter(|lost| !lost.starts_with(TERMINAL)).count();
        assert_eq!(others, 0, "seed {seed}, {weather:?}: {:?}", world.lost);
    }
}

/// Rekeys reach it by multicast, within the activation delay: it does not wait for what is said to it alone.
#[test]
fn who_cannot_answer_follows_rekeys_at_once() {
    let mut world = World::with_terminal(1, Weather::CALM);
    world.settle();
    world.run(10 * SECOND);
    let (before, said) = (world.keys(TERMINAL), world.to_terminal.len());
    world.rekey();
    world.run(SECOND);
    let new = world.keys(TERMINAL).difference(&before).count();
    assert_eq!(new, 3 + 1);
    assert_eq!(world.to_terminal.len(), said + 1, "but for its VPN, nothing is said to it alone");
}

#[test]
fn what_was_said_to_a_terminal_is_not_taken_twice() {
    for seed in SEEDS {
        let mut world = World::with_terminal(seed, Weather::FOUL);
        world.settle();
        world.exclude("site-1");
        world.run(120 * SECOND);
        world.settle();
        let (held, keys) = (world.held(TERMINAL), world.keys(TERMINAL));
        assert_eq!(world.replay_to_terminal(), 0, "seed {seed}");
        world.restart(TERMINAL);
        assert_eq!(world.replay_to_terminal(), 0, "seed {seed}: after a restart");
        world.settle();
        assert!(world.held(TERMINAL) == held && world.keys(TERMINAL).is_subset(&keys));
    }
}

/// The one before is out, and nothing that it was told is told to the one that has its place.
#[test]
fn a_terminal_with_another_key_is_told_nothing_of_before() {
    for is_restarted in [false, true] {
        let mut world = World::with_terminal(2, Weather::CALM);
        world.settle();
        let before = world.keys(TERMINAL);
        let mut profiles = world.profiles();
        let terminal = profiles.clients.get_mut(TERMINAL).unwrap();
        let key = ManualKey::new(SecretBytes::from(&[8; 32][..])).unwrap();
        (terminal.credential, terminal.one_way) = (Credential::of(&[b"another"]), Some(OneWay { key, port: PORT }));
        match is_restarted {
            false => world.configure(profiles),
            true => world.kill(profiles),
        }
        world.replace(TERMINAL);
        world.run(60 * SECOND);
        world.settle();
        assert_eq!(world.held(TERMINAL).len(), 3 + 1);
        assert!(world.keys(TERMINAL).is_disjoint(&before) && world.sent_under().is_disjoint(&before));
    }
}

/// Of numbers it uses one a second in the long run, however much there is to say: they are not to be ahead of the clock for long, with
/// which they begin anew should the store be lost.
#[test]
fn the_numbers_of_what_a_terminal_is_told_do_not_outrun_the_clock() {
    let mut world = World::with_terminal(4, Weather::CALM);
    world.settle();
    let mut profiles = world.profiles();
    let vpn = profiles.vpns["hub-terminal"].clone();
    for number in 0..=255 {
        let mut vpn = vpn.clone();
        vpn.ends[1].net = format!("10.5.{number}.0/24").parse().unwrap();
        profiles.vpns.insert(format!("hub-terminal-{number}"), vpn);
    }
    profiles.check().unwrap();
    world.configure(profiles);
    world.run(120 * SECOND);
    world.settle();
    for _ in 0..10 {
        world.rekey();
        world.run(10 * SECOND);
        // All of it takes less than so many messages.
        assert!(world.numbers_ahead() <= 64 + 64, "{}", world.numbers_ahead());
    }
    // And it hears all of it soon.
    world.settle_within(100 * SECOND);
}

#[test]
fn an_excluded_terminal_is_told_nothing_and_an_admitted_one_all() {
    for seed in SEEDS {
        let mut world = World::with_terminal(seed, Weather::FOUL);
        world.settle();
        let (before, said) = (world.keys(TERMINAL), world.to_terminal.len());
        world.exclude(TERMINAL);
        world.run(60 * SECOND);
        world.kill(world.profiles());
        world.run(120 * SECOND);
        world.settle();
        assert_eq!(world.to_terminal.len(), said, "seed {seed}");
        assert!(world.keys(TERMINAL).is_subset(&before), "seed {seed}: an excluded client learnt a key");
        assert!(world.sent_under().is_disjoint(&before), "seed {seed}: somebody sends under a key that it knows");
        world.admit(TERMINAL);
        world.settle();
        assert_eq!(world.held(TERMINAL).len(), 3 + 1);
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

/// With another key it is another terminal: what the one before knows is not used any longer, and under the new key it is told all.
#[test]
fn a_terminal_with_another_key_comes_in_anew() {
    for by_restart in [false, true] {
        let mut world = World::with_terminal(1, Weather::CALM);
        world.settle();
        let mut profiles = world.profiles();
        let terminal = profiles.clients.get_mut(TERMINAL).unwrap();
        let key = SecretBytes::from(&[9; 32][..]);
        terminal.credential = Credential::of(&[key.as_bytes()]);
        terminal.one_way.as_mut().unwrap().key = ManualKey::new(key).unwrap();
        // Under another key numbers may come again.
        world.to_terminal.clear();
        match by_restart {
            true => world.kill(profiles),
            false => world.configure(profiles),
        }
        world.run(90 * SECOND);
        assert!(world.keys(TERMINAL).is_disjoint(&world.sends("hub")), "by the key before {by_restart}");
        world.take_under(TERMINAL);
        world.settle();
        world.assert_one_key_each();
    }
}
