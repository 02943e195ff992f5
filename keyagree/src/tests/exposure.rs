//! A transaction manager that tells different members different things.

use std::cell::Cell;
use std::rc::Rc;

use muster_wire::mike::{EpochHeader, Exposure};
use muster_wire::{Envelope, Kind};

use super::agreement::group;
use super::*;
use crate::epoch::{Epoch, Public, confirmation, context, group_key};

/// Two commits of device 0 for one epoch: half of the members get one, half the other.
///
/// ```text
///            ┌─commit A─► 1, 2
///  TM (0) ───┤
///            └─commit B─► 3, 4
///  hellos: 1 and 3 name one epoch and two headers; 3 ──snapshot──► 1 ──both headers──► all
/// ```
///
/// Also how many exposures have been sent.
fn divided() -> (Net, Rc<Cell<u32>>) {
    let mut net = group(5);
    net.run_for(Duration::from_secs(2));
    let told = Rc::new(Cell::new(0));
    let deaf = |who: &'static [usize]| -> Filter {
        let told = told.clone();
        Box::new(move |from, to, bytes| {
            let exposure = Envelope::parse(bytes).unwrap().header().kind == Kind::Exposure;
            told.set(told.get() + u32::from(exposure && to == 0));
            !(from == 0 && who.contains(&to))
        })
    };
    let before = copy(&net.devices[0].machine.epoch);
    net.filter = deaf(&[3, 4]);
    net.command(0, KeyAgreement::rekey);
    net.run_for(Duration::from_millis(15));
    // A machine resumed from a copy, or a liar.
    let machine = &mut net.devices[0].machine;
    (machine.epoch, machine.transaction, machine.last_commit) = (before, None, None);
    net.filter = deaf(&[1, 2]);
    net.command(0, KeyAgreement::rekey);
    net.run_for(Duration::from_millis(15));
    let hash = |device: usize| net.devices[device].machine.epoch.public.hash;
    assert_eq!(hash(1), hash(2));
    assert_eq!(hash(3), hash(4));
    assert_ne!(hash(1), hash(3));
    assert_eq!(net.devices[1].machine.epoch.number(), net.devices[3].machine.epoch.number());
    net.filter = deaf(&[]);
    (net, told)
}

fn copy(epoch: &Epoch) -> Epoch {
    let Public { signed, header, hash, tree, handovers } = &epoch.public;
    let (signed, header, hash) = (signed.clone(), header.clone(), *hash);
    let public = Public { signed, header, hash, tree: tree.clone(), handovers: handovers.clone() };
    Epoch { public, slot: epoch.slot, path: epoch.path.clone(), key: epoch.key.clone() }
}

#[test]
fn who_signs_two_headers_for_one_epoch_is_exposed_and_excluded() {
    let (mut net, _) = divided();
    net.run_until_true(Duration::from_secs(6), |net| {
        let key = net.devices[1].machine.keys().fingerprint();
        (1..5).all(|device| {
            let machine = &net.devices[device].machine;
            machine.members().count() == 4 && machine.keys().fingerprint() == key && machine.is_active()
        })
    });
    for device in 1..5 {
        assert_eq!(net.devices[device].machine.counters().exposures, 1);
        assert!(net.devices[device].machine.epoch.tree().slot_of(&member(0)).is_none());
    }
    // It is not taken in again as long as its process lives …
    net.run_for(Duration::from_secs(20));
    assert_eq!(net.devices[1].machine.members().count(), 4);
    // … and as another process it is a device like any other.
    net.restart(0);
    net.run_until_true(Duration::from_secs(6), Net::is_one_group);
    assert_eq!(net.devices[1].machine.members().count(), 5);
}

#[test]
fn what_a_process_signed_is_not_held_against_the_next_one() {
    // Seed 35311 of the simulator: a liar shows it again.
    let mut net = group(3);
    let public = &net.devices[1].machine.epoch.public;
    assert_eq!(public.header.instance.tm, member(0));
    let other = EpochHeader { spi_tag: public.header.spi_tag % 4095 + 1, ..public.header.clone() };
    let signed = net.devices[0].key.sign_value(&other).unwrap();
    for (startup, exposures) in [(2, 0), (1, 1)] {
        net.devices[1].machine.roster.get_mut(&member(0)).unwrap().startup = startup;
        net.command(1, |machine, now| machine.compare(now, &signed, &other));
        assert_eq!(net.devices[1].machine.counters().exposures, exposures);
    }
}

#[test]
fn nobody_is_exposed_by_what_it_did_not_sign() {
    let mut net = group(4);
    let before = net.devices[1].machine.epoch.public.signed.clone();
    net.command(0, KeyAgreement::rekey);
    net.run_for(Duration::from_millis(300));
    let after = net.devices[1].machine.epoch.public.signed.clone();
    let header = net.devices[1].machine.epoch.public.header.clone();
    let liar = Author::new(net.devices[2].key.clone(), GroupTag([9; 16]), member(2), 1);
    // The same epoch under the liar's own signature, and its two headers for a reign of device 0.
    let forged = liar.key().sign_value(&muster_wire::mike::EpochHeader { spi_tag: 1, ..header }).unwrap();
    for (first, second) in [
        (before.clone(), after.clone()),
        (after.clone(), after.clone()),
        (after.clone(), forged.clone()),
        (forged.clone(), forged),
    ] {
        let bytes = net.devices[2].machine.author.seal(&Exposure { first, second }).unwrap();
        for device in [1, 3] {
            net.inject(device, &bytes);
            assert_eq!(net.devices[device].machine.counters().exposures, 0);
        }
    }
    net.run_for(Duration::from_secs(5));
    assert!(net.is_one_group());
    assert_eq!(net.devices[1].machine.instance().tm, member(0));
}

#[test]
fn an_exposure_is_told_once() {
    let (mut net, told) = divided();
    net.run_for(Duration::from_secs(30));
    assert!((1..=4).contains(&told.get()), "{} exposures", told.get());
}

#[test]
fn two_headers_for_one_tree_have_two_keys() {
    // Seed 956 of the simulator: a manager signs its commit again under another SPI tag. All else fits.
    let net = group(3);
    let machine = &net.devices[0].machine;
    let header = &machine.epoch.public.header;
    let again = EpochHeader { spi_tag: header.spi_tag % 4095 + 1, ..header.clone() };
    let key = |header: &EpochHeader| {
        group_key(machine.epoch.tree(), &machine.epoch.path, &context(header).unwrap()).unwrap().to_hash()
    };
    assert_eq!(key(header), machine.epoch.key.to_hash());
    assert_ne!(key(&again), key(header));
    // So the old confirmation does not fit, and who takes the one has nothing of the other.
    let confirmed = |header: &EpochHeader| {
        let context = context(header).unwrap();
        confirmation(&group_key(machine.epoch.tree(), &machine.epoch.path, &context).unwrap(), &context)
    };
    assert_eq!(confirmed(header), header.confirmation);
    assert_ne!(confirmed(&again), header.confirmation);
}
