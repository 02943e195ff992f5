//! Who is in a group changes.

use std::time::Duration;

use muster_netns_tests::{Central, Family, skip};

use crate::scenes::{Figure, HUB, group, red_group, wait_for_other_keys};

/// Who is excluded receives nothing more once the new keys are in use, and cannot come back before it is admitted.
#[test]
fn who_is_excluded_receives_nothing_more() {
    if skip("who_is_excluded_receives_nothing_more") {
        return;
    }
    let figure = Figure::new(Family::V6, 2);
    figure.carry_all(&[]);
    let before = figure.lab.sends(HUB, "group");
    let name = figure.lab.name(1);
    figure.lab.order(&["exclude", &name]);
    // Its two groups have one flow of each family.
    figure.lab.wait(Duration::from_secs(10), "keys that it does not have", || {
        let now = figure.lab.sends(HUB, "group");
        now.iter().filter(|spi| !before.contains(spi)).count() == 4
    });
    figure.carry_all(&[1]);
    assert_eq!(figure.lab.state_of(1).expect("it answers")["state"], "excluded");
    figure.lab.order(&["admit", &name]);
    figure.lab.wait_for_connected(&[1]);
    figure.carry_all(&[]);
    figure.lab.assert_black_is_sound();
}

/// The configuration is read again: a group gets a member and loses one; what is wrong changes nothing.
#[test]
fn a_group_changes_its_members() {
    if skip("a_group_changes_its_members") {
        return;
    }
    let mut lab = Central::with_gcks_at(Family::V6, 3, HUB);
    let profiles = |lab: &Central, members: &[usize]| lab.configure_gcks(&group(lab, "one", 1, members));
    profiles(&lab, &[0, 1]);
    lab.start_gcks();
    (0..3).for_each(|client| lab.start(client));
    lab.wait_for_connected(&[0, 1, 2]);
    lab.carry(HUB, &[1], &[2], red_group(1, false), 50);
    profiles(&lab, &[0, 1, 2]);
    lab.hang_up_gcks();
    lab.carry(HUB, &[1, 2], &[], red_group(1, false), 50);
    let before = lab.sends(HUB, "group");
    profiles(&lab, &[0, 2]);
    lab.hang_up_gcks();
    wait_for_other_keys(&lab, &before, || lab.sends(HUB, "group"));
    lab.carry(HUB, &[2], &[1], red_group(1, false), 50);
    lab.configure_gcks("[groups.one]\nmembers = [\"nobody\"]\nrekey = \"[ff05::1]:848\"\n");
    lab.hang_up_gcks();
    lab.wait(Duration::from_secs(5), "a refusal", || lab.log("gcks").contains("nobody"));
    lab.carry(HUB, &[2], &[1], red_group(1, false), 50);
    lab.assert_black_is_sound();
}
