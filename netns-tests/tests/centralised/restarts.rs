//! Either end dies, goes and comes back.

use std::time::Duration;

use muster_netns_tests::{Central, Family, Lab, skip, wait_until};
use nix::sys::signal::Signal;

use crate::scenes::{Figure, HUB, group, red_group, wait_for_other_keys};

/// The key server dies and comes back in the middle of it all: what is carried goes on, and the next keys reach everybody.
#[test]
fn a_key_server_that_dies_stops_no_traffic() {
    if skip("a_key_server_that_dies_stops_no_traffic") {
        return;
    }
    let mut figure = Figure::new(Family::V6, 2);
    figure.carry_all(&[]);
    let receivers = figure.receivers(3);
    let (sender, counts) = figure.lab.flow(HUB, &receivers, red_group(3, false), 1 << 20);
    figure.lab.kill_gcks();
    let at = sender.sent();
    figure.lab.wait(Duration::from_secs(5), "traffic without a key server", || sender.sent() > at + 1000);
    let before = figure.lab.sends(HUB, "group");
    figure.lab.start_gcks();
    figure.lab.wait(Duration::from_secs(5), "the key server", || figure.lab.call_gcks("groups").is_some());
    figure.lab.order(&["push"]);
    figure.lab.wait(Duration::from_secs(60), "other keys of the groups", || {
        let now = figure.lab.sends(HUB, "group");
        now.iter().filter(|spi| !before.contains(spi)).count() == 6
    });
    let at = sender.sent();
    figure.lab.wait(Duration::from_secs(5), "traffic under the new keys", || sender.sent() > at + 500);
    let sent = sender.stop();
    for (client, count) in receivers.iter().zip(&counts) {
        let what = format!("all of the flow at {}", figure.lab.name(*client));
        figure.lab.wait(Duration::from_secs(5), &what, || count.unique() == sent);
        assert_eq!(count.tally().duplicates, 0);
    }
    figure.carry_all(&[]);
    figure.lab.assert_black_is_sound();
}

/// The key server dies again and again, at any moment of changes that go on all the time. In the end all have what they are to
/// have.
#[test]
fn a_key_server_may_die_at_any_moment() {
    if skip("a_key_server_may_die_at_any_moment") {
        return;
    }
    let mut figure = Figure::new(Family::V6, 2);
    let name = figure.lab.name(2);
    for round in 0..12u64 {
        // Whether it was still done does not matter.
        let order: &[&str] = match round % 3 {
            0 => &["push"],
            1 => &["exclude", &name],
            _ => &["admit", &name],
        };
        figure.lab.ask_gcks(order);
        std::thread::sleep(Duration::from_millis(round * 37 % 150));
        figure.lab.kill_gcks();
        figure.lab.start_gcks();
        let log = || figure.lab.log("gcks");
        assert!(wait_until(Duration::from_secs(5), || figure.lab.call_gcks("groups").is_some()), "{}", log());
    }
    figure.lab.order(&["admit", &name]);
    let all = figure.all();
    figure.lab.wait(Duration::from_secs(90), "all clients", || {
        let clients = figure.lab.call_gcks("clients").unwrap_or_default();
        clients.as_array().is_some_and(|all| all.iter().all(|one| one["state"] == "connected"))
    });
    figure.lab.wait_for_connected(&all);
    figure.carry_all(&[]);
    figure.lab.assert_black_is_sound();
}

/// Its machine was rolled back while it stood still, and there is work for it: none is done by what its memory held, and what all
/// have then was drawn afterwards.
#[test]
fn a_key_server_that_was_rolled_back_draws_anew_before_it_does_anything() {
    if skip("a_key_server_that_was_rolled_back_draws_anew_before_it_does_anything") {
        return;
    }
    const GCKS: usize = 2;
    let mut lab = Central::new(Family::V6, GCKS);
    // A flow that is another one has other keys at once.
    let any_port = group(&lab, "one", 1, &[HUB, 1]);
    let one_port = any_port.replace("protocol = \"udp\"", "protocol = \"udp\"\nport = 5000");
    lab.configure_gcks(&any_port);
    lab.start_gcks();
    (0..2).for_each(|client| lab.start(client));
    lab.wait_for_connected(&[HUB, 1]);
    lab.carry(HUB, &[1], &[], red_group(1, false), 20);
    let kinds = |lab: &Central| -> Vec<String> {
        let events = lab.call_gcks("events").unwrap_or_default();
        let kinds = events.as_array().into_iter().flatten().filter_map(|event| event["event"].as_str());
        kinds.filter(|kind| ["rolled_back", "rekeyed", "reloaded"].contains(kind)).map(str::to_owned).collect()
    };
    // What is ready at once is taken in any order.
    for profiles in [one_port, any_port].iter().cycle().take(10) {
        let (before, known) = (lab.sends(HUB, "group"), kinds(&lab).len());
        lab.signal_gcks(Signal::SIGSTOP);
        lab.configure_gcks(profiles);
        lab.signal_gcks(Signal::SIGHUP);
        let namespace = &lab.coalition.routers()[GCKS].namespace;
        namespace.announce("change@/devices/x", &["ACTION=change", "NEW_VMGENID=1"]).expect("the kernel takes it");
        lab.signal_gcks(Signal::SIGCONT);
        let mut new = Vec::new();
        lab.wait(Duration::from_secs(20), "a reload and new keys", || {
            new = kinds(&lab).into_iter().skip(known).collect();
            ["rolled_back", "rekeyed", "reloaded"].iter().all(|kind| new.iter().any(|one| one == kind))
        });
        let first = new.iter().find(|kind| *kind != "reloaded");
        assert_eq!(first.map(String::as_str), Some("rolled_back"), "{new:?}");
        wait_for_other_keys(&lab, &before, || lab.sends(HUB, "group"));
    }
    lab.carry(HUB, &[1], &[], red_group(1, false), 20);
    lab.assert_black_is_sound();
}

/// Who was killed has lost what it counted: it sends under keys that were never used. Who ends in order takes leave, and what
/// its LAN sends then goes nowhere.
#[test]
fn who_comes_back_has_other_keys_and_who_leaves_sends_nothing() {
    if skip("who_comes_back_has_other_keys_and_who_leaves_sends_nothing") {
        return;
    }
    let mut figure = Figure::new(Family::V6, 2);
    figure.carry_all(&[]);
    for client in [HUB, 1] {
        let all = |figure: &Figure| [figure.lab.sends(client, "group"), figure.lab.sends(client, "unicast")].concat();
        let before = all(&figure);
        figure.lab.kill(client);
        figure.lab.start(client);
        figure.lab.wait_for_connected(&[client]);
        figure.lab.wait(Duration::from_secs(10), "SAs", || all(&figure).len() == before.len());
        let after = all(&figure);
        assert!(after.iter().all(|spi| !before.contains(spi)), "{before:x?} {after:x?}");
        figure.carry_all(&[]);
        figure.lab.carry(HUB, &[1], &[], figure.lab.host(1, false), 20);
    }
    figure.lab.terminate(1);
    let is_away = || figure.lab.state_of(1).is_some_and(|state| state["state"] == "away");
    // It takes leave by one datagram; where that is lost its silence tells.
    let heard = Duration::from_secs(if Lab::is_foul() { 40 } else { 2 });
    figure.lab.wait(heard, "its leave", is_away);
    for destination in [red_group(1, false), figure.lab.host(HUB, false), figure.lab.host(HUB, true)] {
        let (sender, _) = figure.lab.flow(1, &[], destination, 20);
        sender.finish();
    }
    figure.lab.assert_black_is_sound();
}

/// A client that loses its address is nobody to the key server; when it has it again it begins anew, with other keys.
#[test]
fn an_address_that_goes_and_comes_back_is_a_new_beginning() {
    if skip("an_address_that_goes_and_comes_back_is_a_new_beginning") {
        return;
    }
    for family in Family::BOTH {
        let mut lab = Central::new(family, 2);
        lab.configure_gcks(&group(&lab, "one", 1, &[0, 1]));
        lab.start_gcks();
        (0..2).for_each(|client| lab.start(client));
        lab.wait_for_connected(&[0, 1]);
        lab.carry(HUB, &[1], &[], red_group(1, false), 20);
        let before = lab.sends(HUB, "group");
        flap(&lab, HUB);
        wait_for_other_keys(&lab, &before, || lab.sends(HUB, "group"));
        lab.carry(HUB, &[1], &[], red_group(1, false), 20);
        lab.assert_black_is_sound();
    }
}

/// The same of one that receives: the others' keys are new, or, where a join changes none, those that there were.
#[test]
fn who_loses_its_address_receives_again_when_it_is_back() {
    if skip("who_loses_its_address_receives_again_when_it_is_back") {
        return;
    }
    for (family, rekey_on_join) in [(Family::V6, true), (Family::V4, false)] {
        let mut lab = Central::new(family, 2);
        let with = format!("[groups.one]\nrekey_on_join = {rekey_on_join}\n");
        lab.configure_gcks(&group(&lab, "one", 1, &[0, 1]).replacen("[groups.one]\n", &with, 1));
        lab.start_gcks();
        (0..2).for_each(|client| lab.start(client));
        lab.wait_for_connected(&[0, 1]);
        lab.carry(HUB, &[1], &[], red_group(1, false), 20);
        let before = lab.receives(1, "group");
        flap(&lab, 1);
        lab.wait(Duration::from_secs(20), "SAs again", || {
            let now = lab.receives(1, "group");
            now.len() == before.len() && now.iter().all(|spi| before.contains(spi) != rekey_on_join)
        });
        lab.carry(HUB, &[1], &[], red_group(1, false), 20);
        lab.assert_black_is_sound();
    }
}

/// Takes a client's address on black away, and gives it back when that was seen.
fn flap(lab: &Central, client: usize) {
    let router = &lab.coalition.routers()[client];
    let address: ipnet::IpNet = match lab.family {
        Family::V4 => router.plan.black_v4().into(),
        Family::V6 => router.plan.black_v6().into(),
    };
    router.namespace.remove_address(muster_netlab::BLACK_DEVICE, address).expect("it goes");
    // What goes and comes back between two looks has not gone.
    lab.wait(Duration::from_secs(5), "no client, or one with another address", || {
        let status = lab.call(client, "status").unwrap_or_default();
        status["black_address"] != address.addr().to_string().as_str()
    });
    router.namespace.add_address(muster_netlab::BLACK_DEVICE, address).expect("it comes back");
}
