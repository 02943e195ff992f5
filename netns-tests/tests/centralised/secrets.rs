//! What a client shares with the key server becomes another while both run.

use muster_netns_tests::{Central, Family, skip};

use crate::scenes::{HUB, group, red_group, vpn, wait_for_other_keys};

const CLIENT: usize = 1;
const TERMINAL: usize = 2;

/// A client's secret, of which the key server hears at once. Its end of it is the same file.
fn replace(lab: &mut Central, client: usize, secret: &str) {
    lab.write_private(&format!("{}.psk", lab.name(client)), secret);
    lab.hang_up_gcks();
}

#[test]
fn another_secret_counts_when_it_is_reloaded() {
    if skip("another_secret_counts_when_it_is_reloaded") {
        return;
    }
    let mut lab = Central::new(Family::V6, 3);
    lab.cut_return_channel(TERMINAL);
    lab.configure_gcks(&(group(&lab, "one", 1, &[HUB, CLIENT, TERMINAL]) + &vpn(&lab, 1, [HUB, CLIENT])));
    lab.start_gcks();
    (0..3).for_each(|client| lab.start(client));
    lab.wait_for_connected(&[HUB, CLIENT]);
    lab.carry(HUB, &[CLIENT, TERMINAL], &[], red_group(1, false), 20);

    // What cannot be used changes nothing, and is named.
    for client in [CLIENT, TERMINAL] {
        let file = format!("{}.psk", lab.name(client));
        let right = std::fs::read_to_string(lab.path(&file)).expect("it is there");
        let refused = |lab: &Central, why: &str| {
            let answer = lab.ask(client, &["reload"]);
            assert!(answer.status == 1 && answer.stderr.contains(why), "{answer:?}");
        };
        lab.write_private(&file, "too short");
        refused(&lab, if client == TERMINAL { &file } else { "16 to 1024 octets" });
        std::fs::remove_file(lab.path(&file)).expect("it goes");
        refused(&lab, &file);
        assert!(lab.ask(client, &["events"]).stdout.contains("reload_refused"));
        lab.write_private(&file, &right);
        let unchanged = lab.ask(client, &["reload"]);
        assert!(unchanged.status == 0 && !unchanged.stdout.contains("secret_file"), "{unchanged:?}");
    }
    lab.wait_for_connected(&[HUB, CLIENT]);
    lab.carry(HUB, &[CLIENT, TERMINAL], &[], red_group(1, false), 20);

    let others =
        [(CLIENT, "another secret of the first\n"), (TERMINAL, "another secret of the terminal, that is a key\n")];
    for (client, secret) in others {
        let before = lab.sends(HUB, "group");
        replace(&mut lab, client, secret);
        // With what it had, it is in no longer.
        wait_for_other_keys(&lab, &before, || lab.sends(HUB, "group"));
        lab.carry(HUB, &[], &[client], red_group(1, false), 20);
        let reloaded = lab.ask(client, &["reload"]);
        assert!(reloaded.status == 0 && reloaded.stdout.contains("gcks.secret_file"), "{reloaded:?}");
        lab.wait_for_connected(&[HUB, CLIENT]);
        lab.carry(HUB, &[CLIENT, TERMINAL], &[], red_group(1, false), 20);
        for log in ["gcks".to_owned(), lab.name(client)] {
            assert!(!lab.log(&log).contains(secret.trim()), "{log}");
        }
    }
    lab.carry(CLIENT, &[HUB], &[], lab.host(HUB, false), 20);
    lab.assert_black_is_sound();
}
