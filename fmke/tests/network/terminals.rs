//! Clients without a return channel (draft 6.1).

use muster_fmke::crypto::SecretBytes;
use muster_fmke::gcks::{Credential, OneWay};
use muster_fmke::phase1::ManualKey;

use crate::world::{PORT, TERMINAL, Weather, World};
use crate::{SECOND, SEEDS};

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
