//! A certificate that ends while its device is a member, and a key that is not the certificate's.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use muster_certs::{describe, pki};
use muster_netns_tests::{Family, Lab, carry, carry_past, muster, say, skip};
use muster_wire::Hash;

const DAY: u64 = 24 * 60 * 60;
/// What a certificate here still has to live when it is made, in seconds.
fn life() -> u64 {
    Lab::patience(Duration::from_secs(8)).as_secs()
}

fn unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// Makes the root of a router's nation anew, two days old, and the certificates of its routers.
fn renew_root(lab: &Lab, router: usize, routers: &[usize]) -> pki::Root {
    let nation = lab.coalition.routers()[router].plan.nation.name;
    let root = pki::init(nation, unix() - 2 * DAY).unwrap();
    let parts = [("ca.pem", root.certificate_pem.as_str()), ("ca.key", &root.key_pem), ("crl.pem", &root.crl_pem)];
    parts.iter().for_each(|(name, text)| fs::write(lab.path(nation).join(name), text).unwrap());
    for other in routers.iter().filter(|other| lab.coalition.routers()[**other].plan.nation.name == nation) {
        lab.reissue(*other);
    }
    root
}

/// Gives a router a certificate that ends in a moment, with a member id below `below`; says when it ends.
fn issue_short_lived(lab: &Lab, root: &pki::Root, router: usize, below: Option<Hash>) -> u64 {
    loop {
        // As if issued for one day, almost a day ago.
        let end = unix() + life();
        let device = pki::issue(&root.certificate_pem, &root.key_pem, &lab.name(router), 1, end - DAY).unwrap();
        if below.is_none_or(|below| describe(&device.certificate_pem).unwrap().fingerprint < below) {
            fs::write(file_of(lab, router, "pem"), &device.certificate_pem).unwrap();
            fs::write(file_of(lab, router, "key"), &*device.key_pem).unwrap();
            return end;
        }
    }
}

fn file_of(lab: &Lab, router: usize, end: &str) -> PathBuf {
    lab.path(lab.coalition.routers()[router].plan.nation.name).join(format!("{}.{end}", lab.name(router)))
}

/// The keys that a router holds, as they go into the SAs.
fn keys(lab: &Lab, router: usize) -> Vec<String> {
    let sas = lab.ask(router, &["sas", "--show-keys", "--json"]).json();
    let group = sas.as_array().unwrap().iter().filter(|sa| sa["kind"] == "group");
    group.map(|sa| sa["key"].as_str().unwrap().to_owned()).collect()
}

fn ends_while_a_member(family: Family, manager_too: bool) {
    let mut lab = Lab::on(family, 4);
    let (victim, rest, all) = (3, [0, 1, 2], [0, 1, 2, 3]);
    let root = renew_root(&lab, victim, &all);
    let end = if manager_too {
        // Of two groups of equal size the lower id takes the other in: 1 and 2 may have met before they meet the others.
        let id =
            |router: &usize| describe(&fs::read_to_string(file_of(&lab, *router, "pem")).unwrap()).unwrap().fingerprint;
        let end = issue_short_lived(&lab, &root, victim, rest.iter().map(id).min());
        [victim, 0].iter().for_each(|router| lab.start(*router));
        lab.wait_for_group(&[victim, 0]);
        [1, 2].iter().for_each(|router| lab.start(*router));
        end
    } else {
        rest.iter().for_each(|router| lab.start(*router));
        lab.wait_for_group(&rest);
        let end = issue_short_lived(&lab, &root, victim, None);
        lab.start(victim);
        end
    };
    let known = lab.wait_for_group(&all);
    assert_eq!(lab.manager(0) == victim, manager_too);
    carry(&lab, 0, &[1, 2, 3], 50);
    carry(&lab, victim, &rest, 50);
    assert!(unix() <= end, "the machine was too slow for a certificate of {} s", life());

    lab.wait(Duration::from_secs(life() + 10), "a group without it", || lab.is_group(&rest));
    let late = unix().saturating_sub(end);
    say(&format!("certificate over {family:?}, manager {manager_too}: excluded {late} s after its end"));
    assert!(unix() > end);
    assert_ne!(lab.state(0).unwrap().0, known);
    // Its LAN hears nothing more, and none of the keys that it holds is one of the others'.
    carry_past(&lab, 0, &[1, 2], &[victim], 100);
    lab.wait_until_quiet(Duration::from_secs(10), &rest);
    let held = keys(&lab, victim);
    let used: Vec<String> = rest.iter().flat_map(|router| keys(&lab, *router)).collect();
    assert!(used.len() == 9 && used.iter().all(|key| !held.contains(key)), "{held:?} and {used:?}");
    // Clocks of whole seconds: one may see the end two seconds after another, whose exclusion it follows.
    let name = lab.name(victim);
    let refuses = |router: &usize| {
        let neighbors = lab.get(*router, "neighbors");
        let mut of_it = neighbors.as_array().unwrap().iter().filter(|neighbor| neighbor["name"] == name.as_str());
        of_it.all(|neighbor| neighbor["state"] != "up")
    };
    lab.wait(Duration::from_secs(5), "all to refuse it", || rest.iter().all(refuses));
    // Nobody lets it in again.
    lab.stays_one(&rest, 3);
    assert!(rest.iter().all(refuses));
    lab.kill(victim);
    lab.start(victim);
    lab.wait_for_end(victim);
    assert!(lab.log(victim).lines().last().unwrap().contains("expired"), "{}", lab.log(victim));
    lab.stays_one(&rest, 1);
}

#[test]
fn a_member_whose_certificate_ends_is_excluded() {
    if !skip("a_member_whose_certificate_ends_is_excluded") {
        ends_while_a_member(Family::V6, false);
    }
}

#[test]
fn a_transaction_manager_whose_certificate_ends_is_excluded() {
    if !skip("a_transaction_manager_whose_certificate_ends_is_excluded") {
        ends_while_a_member(Family::V4, true);
    }
}

#[test]
fn a_key_that_is_not_the_certificates_is_refused() {
    if skip("a_key_that_is_not_the_certificates_is_refused") {
        return;
    }
    let mut lab = Lab::new(2);
    lab.configure(0, |text| *text = text.replace("Alpha/alpha-1.key", "Bravo/bravo-1.key"));
    let config = lab.path(&format!("{}.toml", lab.name(0)));
    let answer = muster(&["check", "--config", config.to_str().unwrap()]);
    assert!(matches!(answer.status, 1 | 2), "{answer:?}");
    let said = format!("{}{}", answer.stdout, answer.stderr);
    let clear = |said: &str| said.lines().any(|line| line.contains("bravo-1.key") && line.contains("match"));
    assert!(clear(&said), "{said}");
    lab.start(0);
    lab.wait_for_end(0);
    assert!(clear(&lab.log(0)), "{}", lab.log(0));
}
