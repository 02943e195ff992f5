//! A client that can only receive.

use std::time::Duration;

use muster_netns_tests::{Central, Family, skip};

use crate::scenes::{HUB, group, red_group, vpn, wait_for_other_keys};

/// A terminal that can only receive: switched on later, it is told all that it is to hold, follows new keys, comes back after a kill,
/// is out when it is excluded, and sends nothing.
#[test]
fn a_client_without_a_return_channel_receives() {
    if skip("a_client_without_a_return_channel_receives") {
        return;
    }
    const TERMINAL: usize = 2;
    for family in Family::BOTH {
        let mut lab = Central::new(family, 3);
        lab.cut_return_channel(TERMINAL);
        lab.configure_gcks(&(group(&lab, "one", 1, &[0, 1, TERMINAL]) + &vpn(&lab, 1, [HUB, TERMINAL])));
        lab.start_gcks();
        (0..2).for_each(|client| lab.start(client));
        lab.wait_for_connected(&[0, 1]);
        lab.carry(HUB, &[1], &[TERMINAL], red_group(1, false), 20);
        lab.start(TERMINAL);
        let carry_all = |lab: &Central| {
            for ipv4 in [false, true] {
                lab.carry(HUB, &[1, TERMINAL], &[], red_group(1, ipv4), 50);
                lab.carry(HUB, &[TERMINAL], &[], lab.host(TERMINAL, ipv4), 20);
            }
        };
        let told = |lab: &Central| lab.receives(TERMINAL, "group").len() + lab.receives(TERMINAL, "unicast").len();
        lab.wait(Duration::from_secs(20), "all that it is to hold", || told(&lab) == 2 + 2);
        carry_all(&lab);
        let status = lab.call(TERMINAL, "status").expect("it answers");
        assert!(status["state"] == "receiving" && status["heard_ms"].is_u64(), "{status}");

        let before = lab.receives(TERMINAL, "group");
        lab.order(&["push"]);
        wait_for_other_keys(&lab, &before, || lab.receives(TERMINAL, "group"));
        carry_all(&lab);

        lab.kill(TERMINAL);
        lab.start(TERMINAL);
        lab.wait(Duration::from_secs(20), "all again", || told(&lab) == 2 + 2);
        carry_all(&lab);
        lab.kill_gcks();
        lab.start_gcks();
        let is_told = || lab.state_of(TERMINAL).is_some_and(|state| state["told"].is_object());
        lab.wait(Duration::from_secs(10), "its first words", is_told);
        let text = lab.ask_gcks(&["clients"]).stdout;
        let line = text.lines().find(|line| line.contains(&lab.name(TERMINAL))).expect("a line");
        assert!(line.contains("one-way") && line.contains("ago") && !line.contains("connected"), "{text}");
        // The others find the key server silent, and connect again.
        lab.wait(Duration::from_secs(60), "the others", || {
            let clients = lab.call_gcks("clients").unwrap_or_default();
            clients.as_array().into_iter().flatten().filter(|one| one["state"] == "connected").count() == 2
        });

        let before = lab.sends(HUB, "group");
        lab.order(&["exclude", &lab.name(TERMINAL)]);
        wait_for_other_keys(&lab, &before, || lab.sends(HUB, "group"));
        lab.carry(HUB, &[1], &[TERMINAL], red_group(1, false), 50);
        lab.order(&["admit", &lab.name(TERMINAL)]);
        carry_all(&lab);

        // What a host behind it sends goes nowhere.
        for destination in [red_group(1, false), lab.host(HUB, false), lab.host(HUB, true)] {
            let (sender, _) = lab.flow(TERMINAL, &[], destination, 20);
            sender.finish();
        }
        assert!(lab.udp_from(1) > 0 && lab.udp_from(TERMINAL) == 0, "it sends nothing");

        // Its disk fails, and who sends to it is excluded: it takes nothing new, and receives nothing more of that one.
        let state = lab.path(&format!("{}.state", lab.name(TERMINAL)));
        std::fs::rename(&state, format!("{}.aside", state.display())).expect("it is there");
        std::fs::write(&state, "no folder").expect("a file");
        lab.order(&["exclude", &lab.name(HUB)]);
        lab.wait(Duration::from_secs(20), "no SA of the excluded", || told(&lab) == 0);
        lab.assert_black_is_sound();
    }
}
