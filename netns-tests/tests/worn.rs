//! Outbound SAs that have carried a quarter of what they may: the kernel says so, and another is asked for, once, of that SA
//! alone.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::time::Duration;

use muster_netlab::Namespace;
use muster_netns_tests::{Central, Family, Lab, carry, carry_unicast, is_kernel, say, skip, wait_for_unicast};
use nix::libc::{AF_INET, AF_INET6, AF_NETLINK, NETLINK_XFRM};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

const SOON: Duration = Duration::from_secs(60);
/// Of packets, as `dataplane` has it: a quarter of 2^32.
const SOFT_LIMIT: u64 = 1 << 30;

/// The soft limit is the kernel's; what user space counts its own tests bring near it.
fn without_kernel(test: &str) -> bool {
    if !is_kernel() {
        say(&format!("SKIP {test}: of the kernel's ESP, which the kernel lab tests"));
    }
    !is_kernel() || skip(test)
}

/// Has the kernel's count of an SA's packets stand a little below the soft limit, as after days of traffic.
fn age(router: &Namespace, sa: &Value) {
    const XFRM_MSG_NEWAE: u16 = 0x1e;
    const REQUEST_ACK_REPLACE: u16 = 0x1 | 0x4 | 0x100;
    const XFRMA_LTIME_VAL: u16 = 9;
    const ESP: u8 = 50;
    let destination: IpAddr = sa["destination"].as_str().unwrap().parse().unwrap();
    let (mut address, family) = match destination {
        IpAddr::V4(address) => (address.octets().to_vec(), AF_INET),
        IpAddr::V6(address) => (address.octets().to_vec(), AF_INET6),
    };
    address.resize(16, 0);
    let spi = sa["spi"].as_u64().unwrap() as u32;
    // struct xfrm_aevent_id: the SA's id, its source, flags, reqid; then its lifetime: bytes, packets, two times.
    let body = [
        &address[..],
        &spi.to_be_bytes(),
        &(family as u16).to_ne_bytes(),
        &[ESP, 0],
        &[0; 16 + 4 + 4],
        &36u16.to_ne_bytes(),
        &XFRMA_LTIME_VAL.to_ne_bytes(),
        &0u64.to_ne_bytes(),
        &(SOFT_LIMIT - 10).to_ne_bytes(),
        &[0; 16],
    ]
    .concat();
    let header = [
        &(16 + body.len() as u32).to_ne_bytes()[..],
        &XFRM_MSG_NEWAE.to_ne_bytes(),
        &REQUEST_ACK_REPLACE.to_ne_bytes(),
        &[0; 8],
    ]
    .concat();
    let ask = || {
        let mut socket = Socket::new(Domain::from(AF_NETLINK), Type::RAW, Some(Protocol::from(NETLINK_XFRM)))?;
        socket.write_all(&[header, body].concat())?;
        let mut answer = [0; 256];
        let len = socket.read(&mut answer)?;
        Ok(answer[..len].to_vec())
    };
    let answer = router.try_run("age an SA", ask).unwrap();
    assert_eq!(answer[16..20], [0; 4], "the kernel refuses: {answer:?}");
}

/// Three routers that an emulated processor keeps up with.
fn group() -> Lab {
    let mut lab = Lab::new(3);
    for router in 0..3 {
        lab.configure(router, |text| Lab::set_hello_interval(text, Duration::from_secs(2)));
        lab.start(router);
    }
    lab.wait_for_group_within(SOON, &[0, 1, 2]);
    lab
}

/// What a router sends on: kind, receiver and SPI of each SA.
fn sends(lab: &Lab, router: usize) -> BTreeMap<(String, String), u64> {
    let sas = lab.get(router, "sas");
    let out = sas.as_array().unwrap().iter().filter(|sa| sa["direction"] == "out");
    out.map(|sa| ((sa["kind"].to_string(), sa["receiver"].to_string()), sa["spi"].as_u64().unwrap())).collect()
}

fn outbound(sas: &Value, is_wanted: impl Fn(&Value) -> bool) -> Value {
    let mut found = sas.as_array().unwrap().iter().filter(|sa| sa["direction"] == "out" && is_wanted(sa));
    found.next().unwrap().clone()
}

fn epochs(lab: &Lab) -> [Option<u64>; 3] {
    [0, 1, 2].map(|router| Some(lab.state(router)?.1))
}

#[test]
fn a_worn_group_sa_has_one_new_epoch() {
    if without_kernel("a_worn_group_sa_has_one_new_epoch") {
        return;
    }
    let lab = group();
    carry_unicast(&lab, 0, 1, false, 1);
    carry(&lab, 0, &[1, 2], 1);
    lab.wait_until_quiet(SOON, &[0, 1, 2]);
    let (before, [epoch, ..]) = ([0, 1, 2].map(|router| sends(&lab, router)), epochs(&lab));
    let next = epoch.map(|epoch| epoch + 1);
    age(&lab.coalition.routers()[0].namespace, &outbound(&lab.get(0, "sas"), |sa| sa["kind"] == "group"));
    carry(&lab, 0, &[1, 2], 20);
    lab.wait(SOON, "a new epoch", || epochs(&lab) == [next; 3] && lab.is_group(&[0, 1, 2]));
    // The old SA goes, and what it was is not asked for again.
    carry(&lab, 0, &[1, 2], 20);
    lab.wait_until_quiet(SOON, &[0, 1, 2]);
    carry(&lab, 0, &[1, 2], 20);
    assert_eq!(epochs(&lab), [next; 3]);
    for (router, before) in before.iter().enumerate() {
        let now = sends(&lab, router);
        for (sa, spi) in before {
            assert_eq!(now[sa] == *spi, sa.0.contains("unicast"), "{sa:?} of {}", lab.name(router));
        }
    }
}

/// Another hello key is what changes it, and with it all unicast SAs of that router; nobody else's, and no group key.
#[test]
fn a_worn_unicast_sa_has_one_new_hello_key() {
    if without_kernel("a_worn_unicast_sa_has_one_new_hello_key") {
        return;
    }
    let lab = group();
    for (from, to) in [(0, 1), (0, 2), (1, 2), (2, 1)] {
        wait_for_unicast(&lab, from, to, false);
    }
    lab.wait_until_quiet(SOON, &[0, 1, 2]);
    let [zero, one] = [0, 1].map(|router| lab.get(router, "status")["member_id"].clone());
    let zero = zero.to_string();
    let (before, epoch) = ([0, 1, 2].map(|router| sends(&lab, router)), epochs(&lab));
    age(&lab.coalition.routers()[0].namespace, &outbound(&lab.get(0, "sas"), |sa| sa["receiver"] == one));
    carry_unicast(&lab, 0, 1, false, 20);
    let of_zero = |router: usize, receiver: &str| router == 0 || receiver == zero;
    let is_renewed = || {
        before.iter().enumerate().all(|(router, before)| {
            let now = sends(&lab, router);
            let unicast = before.iter().filter(|((kind, _), _)| kind.contains("unicast"));
            unicast.into_iter().all(|(sa, spi)| now.get(sa).is_some_and(|now| (now != spi) == of_zero(router, &sa.1)))
        })
    };
    lab.wait(SOON, "other unicast SAs with that router, and no others", is_renewed);
    let renewed = [0, 1, 2].map(|router| sends(&lab, router));
    carry_unicast(&lab, 0, 1, false, 20);
    // Longer than it would take to be asked for again: a daemon looks every second.
    carry_unicast(&lab, 0, 1, false, 2000);
    assert_eq!([0, 1, 2].map(|router| sends(&lab, router)), renewed);
    assert_eq!(epochs(&lab), epoch);
}

/// A key server's client cannot renew an SA itself: it says so, once.
#[test]
fn a_client_says_once_that_an_sa_is_worn() {
    if without_kernel("a_client_says_once_that_an_sa_is_worn") {
        return;
    }
    let mut lab = Central::new(Family::V6, 2);
    let plans = [0, 1].map(|client| &lab.coalition.routers()[client].plan);
    let [one, other] =
        [0, 1].map(|at| format!("{{ client = \"{}\", net = \"{}\" }}", lab.name(at), plans[at].red_v6()));
    lab.configure_gcks(&format!("[vpns.one]\nends = [{one}, {other}]\n{}\n", Central::delays()));
    lab.start_gcks();
    (0..2).for_each(|client| lab.start(client));
    lab.wait_for_connected(&[0, 1]);
    lab.carry(0, &[1], &[], lab.host(1, false), 1);
    let sa = outbound(&lab.call(0, "sas").unwrap(), |sa| sa["kind"] == "unicast");
    age(&lab.coalition.routers()[0].namespace, &sa);
    lab.carry(0, &[1], &[], lab.host(1, false), 20);
    let name = lab.name(0);
    let spi = format!("spi=\"{:#010x}\"", sa["spi"].as_u64().unwrap());
    let said = || {
        let log = lab.log(&name);
        log.lines().filter(|line| line.contains("a quarter of the sequence numbers") && line.contains(&spi)).count()
    };
    lab.wait(SOON, "the warning", || said() > 0);
    lab.carry(0, &[1], &[], lab.host(1, false), 2000);
    assert_eq!(said(), 1, "{}", lab.log(&name));
}
