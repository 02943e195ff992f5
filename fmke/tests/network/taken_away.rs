//! What is taken away from somebody, be he there or not.

use muster_fmke::gcks::{Credential, End};

use crate::world::{Weather, World};
use crate::{SECOND, SEEDS};

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

/// It holds an SA from before the last ones, of which it can learn no more when the group has gone.
#[test]
fn who_missed_new_keys_of_what_is_dissolved_forgets_those_it_has() {
    let mut world = World::figure_7(8, Weather::CALM);
    world.settle();
    world.cut_off("site-2", true);
    (0..2).for_each(|_| world.rekey());
    let mut profiles = world.profiles();
    profiles.groups.clear();
    profiles.vpns.clear();
    world.configure(profiles);
    world.cut_off("site-2", false);
    world.run(15 * SECOND);
    assert!(world.is_connected("site-2"));
    for client in ["hub", "site-1", "site-2"] {
        assert_eq!(world.held(client).len(), 0, "{client}");
    }
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
