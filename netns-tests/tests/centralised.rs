//! Centralised mode: a key server, its clients, and what they carry.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use ipnet::IpNet;
use muster_netlab::{Frame, Namespace};
use muster_netns_tests::{Authority, Central, Family, KeyKind, Lab, skip, wait_until};

/// A red group of either family.
fn red_group(number: u8, ipv4: bool) -> SocketAddr {
    let text = if ipv4 { format!("239.10.0.{number}:5000") } else { format!("[ff1e::{number:x}]:5000") };
    text.parse().expect("an address")
}

/// Where a group's re-key messages go on black.
fn rekey(family: Family, number: u8) -> SocketAddr {
    let text = match family {
        Family::V4 => format!("239.255.1.{number}:848"),
        Family::V6 => format!("[ff05::1:{number:x}]:848"),
    };
    text.parse().expect("an address")
}

/// A group of these clients, of which the first sends one flow of each family of red.
fn group(lab: &Central, name: &str, number: u8, members: &[usize]) -> String {
    let names: Vec<String> = members.iter().map(|member| format!("\"{}\"", lab.name(*member))).collect();
    let (sender, members) = (&names[0], names.join(", "));
    let rekey = rekey(lab.family, number);
    let mut text = format!("[groups.{name}]\nmembers = [{members}]\nrekey = \"{rekey}\"\n{}\n", Central::delays());
    for ipv4 in [false, true] {
        let red = red_group(number, ipv4).ip();
        // Black is of one family: what is of the other has a group of its own there.
        let outer = if ipv4 == (lab.family == Family::V4) { red } else { crate::rekey(lab.family, number + 100).ip() };
        text += &format!(
            "[[groups.{name}.flows]]\nsenders = [{sender}]\ngroup = \"{red}\"\nprotocol = \"udp\"\nouter = \"{outer}\"\n\n"
        );
    }
    text
}

#[test]
fn a_key_server_and_two_clients() {
    if skip("a_key_server_and_two_clients") {
        return;
    }
    let mut lab = Central::new(Family::V6, 2);
    lab.configure_gcks(&group(&lab, "one", 1, &[0, 1]));
    lab.start_gcks();
    (0..2).for_each(|client| lab.start(client));
    lab.wait_for_connected(&[0, 1]);
    lab.wait(Duration::from_secs(10), "SAs", || {
        !lab.sends(0, "group").is_empty() && !lab.receives(1, "group").is_empty()
    });
    for ipv4 in [false, true] {
        lab.carry(0, &[1], &[], red_group(1, ipv4), 100);
    }
    lab.assert_black_is_sound();
}

/// Unicast between what lies behind two clients, of either family.
fn vpn(lab: &Central, number: usize, ends: [usize; 2]) -> String {
    let mut text = String::new();
    for ipv4 in [false, true] {
        let end = |client: usize| {
            let plan = &lab.coalition.routers()[client].plan;
            let net = if ipv4 { plan.red_v4().to_string() } else { plan.red_v6().to_string() };
            format!("{{ client = \"{}\", net = \"{net}\" }}", lab.name(client))
        };
        let (one, other, family) = (end(ends[0]), end(ends[1]), if ipv4 { "v4" } else { "v6" });
        text += &format!("[vpns.{number}-{family}]\nends = [{one}, {other}]\n{}\n", Central::delays());
    }
    text
}

const HUB: usize = 0;

/// Figure 7 of the paper that the centralised mode comes from: a hub and two sites of clients; three groups that the hub sends
/// to, one for each site and one for both; three VPNs, from the hub to each site and between the sites.
struct Figure {
    lab: Central,
    /// The clients of each site.
    sites: [Vec<usize>; 2],
}

impl Figure {
    fn new(family: Family, each: usize) -> Figure {
        let lab = Central::new(family, 1 + 2 * each);
        let sites: [Vec<usize>; 2] = [(1..=each).collect(), (each + 1..=2 * each).collect()];
        let mut figure = Figure { lab, sites };
        let vpns = [[HUB, 1], [HUB, each + 1], [1, each + 1]];
        let mut profiles: String = (1..=3)
            .map(|number| group(&figure.lab, ["one", "two", "both"][number - 1], number as u8, &figure.members(number)))
            .collect();
        profiles.extend(vpns.iter().enumerate().map(|(number, ends)| vpn(&figure.lab, number + 1, *ends)));
        figure.lab.configure_gcks(&profiles);
        figure.lab.start_gcks();
        let all = figure.all();
        all.iter().for_each(|client| figure.lab.start(*client));
        figure.lab.wait_for_connected(&all);
        figure
    }

    fn all(&self) -> Vec<usize> {
        [vec![HUB], self.sites.concat()].concat()
    }

    /// The hub, and who receives a group.
    fn members(&self, group: usize) -> Vec<usize> {
        [vec![HUB], self.receivers(group)].concat()
    }

    fn receivers(&self, group: usize) -> Vec<usize> {
        match group {
            1 | 2 => self.sites[group - 1].clone(),
            _ => self.sites.concat(),
        }
    }

    /// Each group reaches its members, and nobody else.
    fn carry_all(&self, without: &[usize]) {
        for number in 1..=3 {
            let (to, outside): (Vec<usize>, Vec<usize>) = self
                .sites
                .concat()
                .into_iter()
                .partition(|client| self.receivers(number).contains(client) && !without.contains(client));
            for ipv4 in [false, true] {
                self.lab.carry(HUB, &to, &outside, red_group(number as u8, ipv4), 50);
            }
        }
    }
}

fn groups_and_vpns(family: Family, each: usize) {
    let figure = Figure::new(family, each);
    figure.carry_all(&[]);
    let first = [HUB, 1, each + 1];
    for from in first {
        for to in first.into_iter().filter(|to| *to != from) {
            for ipv4 in [false, true] {
                figure.lab.carry(from, &[to], &[], figure.lab.host(to, ipv4), 20);
            }
        }
    }
    // Between two that no VPN joins nothing goes, in whatever way.
    let (sender, receivers) = figure.lab.flow(HUB, &[2], figure.lab.host(2, false), 20);
    sender.finish();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(receivers[0].unique(), 0);
    figure.lab.assert_black_is_sound();
}

#[test]
fn groups_reach_their_members_and_vpns_their_ends_over_ipv6() {
    if !skip("groups_reach_their_members_and_vpns_their_ends_over_ipv6") {
        groups_and_vpns(Family::V6, 5);
    }
}

#[test]
fn groups_reach_their_members_and_vpns_their_ends_over_ipv4() {
    if !skip("groups_reach_their_members_and_vpns_their_ends_over_ipv4") {
        groups_and_vpns(Family::V4, 2);
    }
}

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
    let clients = figure.lab.call_gcks("clients").expect("it answers");
    let of = |clients: &serde_json::Value| {
        clients.as_array().into_iter().flatten().find(|one| one["name"] == name).map(|one| one["state"].clone())
    };
    assert_eq!(of(&clients), Some("excluded".into()));
    figure.lab.order(&["admit", &name]);
    figure.lab.wait_for_connected(&[1]);
    figure.carry_all(&[]);
    figure.lab.assert_black_is_sound();
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
    let state = || {
        let clients = figure.lab.call_gcks("clients")?;
        let name = figure.lab.name(1);
        clients.as_array()?.iter().find(|one| one["name"] == name).map(|one| one["state"].clone())
    };
    figure.lab.wait(Duration::from_secs(2), "its leave", || state() == Some("away".into()));
    for destination in [red_group(1, false), figure.lab.host(HUB, false), figure.lab.host(HUB, true)] {
        let (sender, _) = figure.lab.flow(1, &[], destination, 20);
        sender.finish();
    }
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
    lab.wait(Duration::from_secs(10), "keys without it", || {
        let now = lab.sends(HUB, "group");
        now.len() == before.len() && now.iter().all(|spi| !before.contains(spi))
    });
    lab.carry(HUB, &[2], &[1], red_group(1, false), 50);
    lab.configure_gcks("[groups.one]\nmembers = [\"nobody\"]\nrekey = \"[ff05::1]:848\"\n");
    lab.hang_up_gcks();
    lab.wait(Duration::from_secs(5), "a refusal", || lab.log("gcks").contains("nobody"));
    lab.carry(HUB, &[2], &[1], red_group(1, false), 50);
    lab.assert_black_is_sound();
}

/// What operators see.
#[test]
fn commands_tell_what_there_is() {
    if skip("commands_tell_what_there_is") {
        return;
    }
    let mut lab = Central::new(Family::V4, 3);
    lab.configure_gcks(&(group(&lab, "one", 1, &[0, 1, 2]) + &vpn(&lab, 1, [0, 1])));
    // A secret that is not the one.
    let right = std::fs::read_to_string(lab.path(&format!("{}.psk", lab.name(2)))).expect("it is there");
    lab.start_gcks();
    assert!(wait_until(Duration::from_secs(5), || lab.call_gcks("status").is_some()), "{}", lab.log("gcks"));
    lab.write_private(&format!("{}.psk", lab.name(2)), "not the secret that they share\n");
    (0..3).for_each(|client| lab.start(client));
    lab.wait_for_connected(&[0, 1]);
    lab.carry(0, &[1], &[2], red_group(1, true), 20);
    lab.carry(0, &[1], &[], lab.host(1, true), 20);
    let status = lab.call(2, "status").expect("it answers");
    assert_eq!((&status["state"], &status["dataplane"]["sas"]), (&"connecting".into(), &0.into()), "{status}");

    let told = |answer: muster_netns_tests::Answer| {
        assert_eq!(answer.status, 0, "{answer:?}");
        answer.stdout
    };
    let (one, two) = (lab.name(0), lab.name(1));
    let clients = told(lab.ask_gcks(&["clients"]));
    assert!(clients.lines().any(|line| line.contains(&one) && line.contains("connected")), "{clients}");
    assert!(clients.lines().any(|line| line.contains(&lab.name(2)) && line.contains("away")), "{clients}");
    let groups = lab.ask_gcks(&["groups", "--json"]).json();
    assert_eq!(
        (&groups[0]["name"], groups[0]["present"].as_array().map(Vec::len)),
        (&"one".into(), Some(2)),
        "{groups}"
    );
    assert!(told(lab.ask_gcks(&["groups"])).contains("239.10.0.1"));
    assert!(told(lab.ask_gcks(&["vpns"])).contains(&two));
    assert!(told(lab.ask_gcks(&["status"])).contains("3, 2 connected"));
    assert!(told(lab.ask_gcks(&["events"])).contains("connected"));
    for wrong in [&["push", "--group", "none"][..], &["exclude", "nobody"], &["admit", &one, "nobody"]] {
        let answer = lab.ask_gcks(wrong);
        assert!(answer.status == 1 && answer.stderr.contains("there is no"), "{answer:?}");
    }
    for command in ["status", "members", "neighbors", "routes", "sas", "events"] {
        let (text, json) = (told(lab.ask(0, &[command])), told(lab.ask(0, &[command, "--json"])));
        assert!(!text.is_empty() && !json.is_empty(), "{command}");
    }
    let status = lab.ask(0, &["status", "--json"]).json();
    assert_eq!((&status["state"], &status["group"]["mode"]), (&"connected".into(), &"centralised".into()), "{status}");
    // Two flows; two VPNs, both ways, whose keys are made anew as the second end comes.
    lab.wait(Duration::from_secs(10), "its SAs alone", || {
        let unicast = (lab.sends(0, "unicast").len(), lab.receives(0, "unicast").len());
        (lab.sends(0, "group").len(), unicast) == (2, (2, 2))
    });
    assert!(lab.ask(0, &["rekey"]).stderr.contains("muster gcks push"));
    for secret in [right.as_str(), "not the secret that they share"] {
        for log in ["gcks".to_owned(), lab.name(2)] {
            assert!(!lab.log(&log).contains(secret.trim()), "{log}");
        }
    }
    let answer = lab.ask(0, &["leave"]);
    assert_eq!(answer.status, 0, "{answer:?}");
    lab.assert_black_is_sound();
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
        let plan = &lab.coalition.routers()[HUB].plan;
        let address: ipnet::IpNet = match family {
            Family::V4 => plan.black_v4().into(),
            Family::V6 => plan.black_v6().into(),
        };
        let router = &lab.coalition.routers()[HUB].namespace;
        router.remove_address(muster_netlab::BLACK_DEVICE, address).expect("it goes");
        // What goes and comes back between two looks has not gone.
        lab.wait(Duration::from_secs(5), "no client, or one with another address", || {
            let status = lab.call(HUB, "status").unwrap_or_default();
            status["black_address"] != address.addr().to_string().as_str()
        });
        router.add_address(muster_netlab::BLACK_DEVICE, address).expect("it comes back");
        lab.wait(Duration::from_secs(20), "other SAs", || {
            let now = lab.sends(HUB, "group");
            now.len() == before.len() && now.iter().all(|spi| !before.contains(spi))
        });
        lab.carry(HUB, &[1], &[], red_group(1, false), 20);
        lab.assert_black_is_sound();
    }
}

/// A socket of a host that waits a little for what comes.
fn socket(at: &Namespace, address: SocketAddr) -> UdpSocket {
    let socket = at.run(|| UdpSocket::bind(address)).expect("a namespace").expect("a socket");
    socket.set_read_timeout(Some(Lab::patience(Duration::from_millis(300)))).expect("it can wait");
    socket
}

/// Whether what one sends to the other comes, and the answer to it. A foul sky loses some of it.
fn answers(from: &UdpSocket, to: &UdpSocket) -> bool {
    (0..if Lab::is_foul() { 5 } else { 1 }).any(|_| answers_once(from, to))
}

fn answers_once(from: &UdpSocket, to: &UdpSocket) -> bool {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Relaxed).to_be_bytes();
    // What came late of one before is not it.
    let receive = |at: &UdpSocket| {
        let mut buffer = [0; 8];
        std::iter::from_fn(|| at.recv_from(&mut buffer).ok().map(|(_, sender)| (buffer, sender)))
            .find_map(|(got, sender)| (got == number).then_some(sender))
    };
    // Errors that were answered show at the next call.
    let _ = from.send_to(&number, to.local_addr().expect("it has one"));
    receive(to).is_some_and(|sender| to.send_to(&number, sender).is_ok() && receive(from).is_some())
}

/// Source and destination, the protocol, and what it carries.
fn dissect(frame: &Frame) -> Option<([IpAddr; 2], u8, &[u8])> {
    let bytes = &frame.bytes;
    match bytes.get(12..14)? {
        [0x08, 0x00] => {
            let address = |at: usize| Some(IpAddr::from(*bytes.get(at..)?.first_chunk::<4>()?));
            Some(([address(26)?, address(30)?], bytes[23], bytes.get(34..)?))
        }
        [0x86, 0xdd] => {
            let address = |at: usize| Some(IpAddr::from(*bytes.get(at..)?.first_chunk::<16>()?));
            Some(([address(22)?, address(38)?], bytes[20], bytes.get(54..)?))
        }
        _ => None,
    }
}

/// Whether a frame is by UDP from the red host to that place on black or back; or to there an error about what came from there,
/// which quotes it.
fn is_of_bypass(frame: &Frame, red: IpAddr, plain: SocketAddr) -> bool {
    let Some((ends, protocol, payload)) = dissect(frame) else { return false };
    let Some([a, b, c, d]) = payload.first_chunk() else { return false };
    let [source, destination] = [[*a, *b], [*c, *d]].map(u16::from_be_bytes);
    match protocol {
        17 if ends == [red, plain.ip()] => destination == plain.port(),
        17 => ends == [plain.ip(), red] && source == plain.port(),
        1 | 58 => ends[1] == plain.ip() && [1, 3].contains(a),
        _ => false,
    }
}

/// Part of the traffic goes unprotected: what the key server says and the router's operator allows, and nothing else; until one
/// of the two takes it back, though not because the key server is away.
#[test]
fn what_the_policy_leaves_unprotected_crosses_and_nothing_else() {
    if skip("what_the_policy_leaves_unprotected_crosses_and_nothing_else") {
        return;
    }
    const LIMIT: Duration = Duration::from_secs(10);
    for family in Family::BOTH {
        let mut lab = Central::new(family, 2);
        let ipv4 = family == Family::V4;
        // The key server's machine is a plain host on black, too.
        let plain = SocketAddr::new(lab.black_address(2), 7000);
        let elsewhere: IpNet = if ipv4 { "203.0.113.0/24" } else { "2001:db8:fffe::/48" }.parse().expect("a network");
        let (zero, one) = (lab.name(0), lab.name(1));
        let to_plain = IpNet::from(plain.ip());
        let section = |name: &str, more: &str| format!("[[clients.{name}.bypass]]\n{more}\n");
        let policy = |lab: &Central, bypass: bool| {
            let port = format!("destination = \"{to_plain}\"\nprotocol = \"udp\"\nport = 7000\n");
            // The second client's operator allows nothing.
            let bypass = match bypass {
                true => [
                    section(&zero, &port),
                    section(&zero, &format!("destination = \"{elsewhere}\"\n")),
                    section(&one, &port),
                ]
                .concat(),
                false => String::new(),
            };
            lab.configure_gcks(&(group(lab, "one", 1, &[0, 1]) + &vpn(lab, 1, [0, 1]) + &bypass));
        };
        policy(&lab, true);
        lab.allow_bypass(0, &[to_plain]);
        lab.start_gcks();
        let routers = lab.coalition.routers();
        // It answers the same way.
        let own: IpNet = if ipv4 { routers[0].plan.red_v4().into() } else { routers[0].plan.red_v6().into() };
        routers[2].namespace.add_route(own, lab.black_address(0)).expect("a route");
        let red = |n: usize| socket(&routers[n].host, SocketAddr::new(lab.host(n, ipv4).ip(), 6000));
        let on_black = |port: u16| socket(&routers[2].namespace, SocketAddr::new(plain.ip(), port));
        let ([red_0, red_1], [at_7000, at_7001]) = ([red(0), red(1)], [on_black(7000), on_black(7001)]);
        assert!(!answers(&red_0, &at_7000), "before there is a data plane");
        (0..2).for_each(|client| lab.start(client));
        lab.wait_for_connected(&[0, 1]);
        let waits_for = |lab: &Central, crosses: bool, what: &str| {
            lab.wait(LIMIT, what, || answers(&red_0, &at_7000) == crosses);
            // Below a foul sky each is several.
            let times = if Lab::is_foul() { 1 } else { 3 };
            assert!((0..times).all(|_| answers(&red_0, &at_7000) == crosses), "{what}");
        };
        waits_for(&lab, true, "what both allow");
        assert!(!answers(&red_0, &at_7001), "another port");
        assert!(!answers(&red_1, &at_7000), "by the key server's word alone");
        for ipv4 in [false, true] {
            lab.carry(0, &[1], &[], red_group(1, ipv4), 20);
            lab.carry(0, &[1], &[], lab.host(1, ipv4), 20);
        }
        let bypass = |lab: &Central, client: usize| lab.call(client, "status").expect("it answers")["bypass"].clone();
        let count = |bypass: &serde_json::Value, what: &str| bypass[what].as_array().map(Vec::len);
        let [of_0, of_1] = [0, 1].map(|client| bypass(&lab, client));
        assert_eq!((count(&of_0, "granted"), count(&of_0, "refused")), (Some(1), Some(1)), "{of_0}");
        assert_eq!((count(&of_1, "granted"), count(&of_1, "refused")), (Some(0), Some(1)), "{of_1}");
        let shown = lab.ask(1, &["status"]).stdout;
        assert!(shown.contains("gcks.allow_bypass does not have it"), "{shown}");
        assert!(lab.log(&one).contains("allow_bypass") && lab.ask(1, &["events"]).stdout.contains("allow_bypass"));
        assert!(lab.ask_gcks(&["clients"]).stdout.contains("destination port 7000"));

        // The key server takes it back, and says it again.
        policy(&lab, false);
        lab.hang_up_gcks();
        waits_for(&lab, false, "no word of the key server");
        policy(&lab, true);
        lab.hang_up_gcks();
        waits_for(&lab, true, "its word again");
        // The operator does.
        lab.allow_bypass(0, &[elsewhere]);
        lab.hang_up(0);
        waits_for(&lab, false, "no leave of the operator");
        lab.allow_bypass(0, &[to_plain]);
        lab.hang_up(0);
        waits_for(&lab, true, "leave again");
        lab.kill_gcks();
        waits_for(&lab, true, "without a key server");
        // It ends with the daemon, and what a killed one has left ends with the next one, which nobody tells anything.
        lab.terminate(0);
        waits_for(&lab, false, "without the daemon");
        lab.start_gcks();
        lab.start(0);
        waits_for(&lab, true, "with both");
        lab.kill(0);
        lab.kill_gcks();
        lab.start(0);
        lab.wait(LIMIT, "the next daemon", || {
            lab.call(0, "status").is_some_and(|status| status["state"] == "connecting")
        });
        waits_for(&lab, false, "by the next daemon");
        let red_host = lab.host(0, ipv4).ip();
        lab.assert_black_is_sound_but(|frame| is_of_bypass(frame, red_host, plain));
    }
}

/// One VPN is for a part of what another one is for. When an end of the narrow one is excluded, what was for it does not go to
/// the end of the wide one.
#[test]
fn what_was_for_somebody_who_is_excluded_goes_to_nobody_else() {
    if skip("what_was_for_somebody_who_is_excluded_goes_to_nobody_else") {
        return;
    }
    for family in Family::BOTH {
        let mut lab = Central::new(family, 3);
        let plan = |client: usize| &lab.coalition.routers()[client].plan;
        // Of what lies behind the second and the third.
        let wide: [IpNet; 2] = [
            ipnet::Ipv6Net::new(plan(2).red_v6().addr(), 47).expect("a length").trunc().into(),
            ipnet::Ipv4Net::new(plan(2).red_v4().addr(), 23).expect("a length").trunc().into(),
        ];
        let own: [IpNet; 2] = [plan(0).red_v6().into(), plan(0).red_v4().into()];
        let (zero, two) = (lab.name(0), lab.name(2));
        let mut profiles = vpn(&lab, 1, [0, 1]);
        for (number, (own, wide)) in own.iter().zip(wide).enumerate() {
            assert!([1, 2].iter().all(|client| wide.contains(&lab.host(*client, number == 1).ip())), "{wide}");
            profiles += &format!(
                "[vpns.wide-{number}]\nends = [{{ client = \"{zero}\", net = \"{own}\" }}, {{ client = \"{two}\", net = \"{wide}\" }}]\n{}\n",
                Central::delays()
            );
        }
        lab.configure_gcks(&profiles);
        lab.start_gcks();
        (0..3).for_each(|client| lab.start(client));
        lab.wait_for_connected(&[0, 1, 2]);
        for ipv4 in [false, true] {
            lab.carry(0, &[1], &[], lab.host(1, ipv4), 20);
            lab.carry(0, &[2], &[], lab.host(2, ipv4), 20);
        }
        lab.order(&["exclude", &lab.name(1)]);
        let status = |lab: &Central| lab.call(0, "status").expect("it answers");
        lab.wait(Duration::from_secs(10), "two flows without SAs", || {
            status(&lab)["group"]["stopped"].as_array().is_some_and(|stopped| stopped.len() == 2)
        });
        let to_two = lab.black_address(2).to_string();
        let carried = |lab: &Central| -> u64 {
            let sas = lab.call(0, "sas").expect("it answers");
            let to_two = sas
                .as_array()
                .into_iter()
                .flatten()
                .filter(|sa| sa["direction"] == "out" && sa["destination"] == to_two.as_str());
            to_two.filter_map(|sa| sa["packets"].as_u64()).sum()
        };
        let dropped = |lab: &Central| status(lab)["dataplane"]["dropped"]["no_sa"].as_u64().expect("a count");
        let (before, dropped_before) = (carried(&lab), dropped(&lab));
        for ipv4 in [false, true] {
            let (sender, _) = lab.flow(0, &[], lab.host(1, ipv4), 20);
            sender.finish();
        }
        lab.wait(Duration::from_secs(5), "all of it dropped", || dropped(&lab) >= dropped_before + 40);
        assert_eq!(carried(&lab), before);
        for ipv4 in [false, true] {
            lab.carry(0, &[2], &[], lab.host(2, ipv4), 20);
        }
        lab.order(&["admit", &lab.name(1)]);
        lab.carry(0, &[1], &[], lab.host(1, false), 20);
        lab.assert_black_is_sound();
    }
}

/// A certificate and its key, as files of this name.
fn issue(lab: &Central, authority: &Authority, file: &str, name: &str, kind: KeyKind, serial: u64) {
    let (certificate, key) = authority.issue(name, kind, serial);
    lab.write_private(&format!("{file}.pem"), &certificate);
    lab.write_private(&format!("{file}.key"), &key);
}

/// Has a client of this identity show the certificate of a file.
fn certify(lab: &mut Central, client: usize, identity: &str, shown: (&str, &str)) {
    let (file, as_whom) = shown;
    lab.certify(
        client,
        identity,
        &format!(
            "certificate = \"{file}.pem\"\nprivate_key = \"{file}.key\"\ntrust_anchors = [\"ca.pem\"]\n\
             local_identity = \"{as_whom}\""
        ),
    );
}

/// ECDSA, RSA and a secret, side by side. Another's certificate, or one of an unknown authority, does not do; one that is taken
/// back takes its client out, and a new one lets it in.
#[test]
fn certificates_show_who_is_who_beside_secrets() {
    if skip("certificates_show_who_is_who_beside_secrets") {
        return;
    }
    const ECDSA: usize = 1;
    const RSA: usize = 2;
    const THIEF: usize = 3;
    const STRANGER: usize = 4;
    let mut lab = Central::new(Family::V6, 5);
    let (ours, theirs) = (Authority::new(), Authority::new());
    lab.write_private("ca.pem", &ours.pem);
    lab.write_private("crl.pem", &ours.revoke(&[]));
    let gcks = lab.black_address(5).to_string();
    issue(&lab, &ours, "gcks-ecdsa", &gcks, KeyKind::Ecdsa, 1);
    issue(&lab, &ours, "gcks-rsa", &gcks, KeyKind::Rsa, 2);
    issue(&lab, &ours, "ecdsa", "ecdsa.example", KeyKind::Ecdsa, 3);
    issue(&lab, &ours, "rsa", "rsa.example", KeyKind::Rsa, 4);
    issue(&lab, &theirs, "stranger", "stranger.example", KeyKind::Ecdsa, 5);
    certify(&mut lab, ECDSA, "ecdsa.example", ("ecdsa", "ecdsa.example"));
    certify(&mut lab, RSA, "rsa.example", ("rsa", "rsa.example"));
    certify(&mut lab, THIEF, "thief.example", ("ecdsa", "ecdsa.example"));
    certify(&mut lab, STRANGER, "stranger.example", ("stranger", "stranger.example"));
    lab.extend_gcks(
        "certificate = [\"gcks-ecdsa.pem\", \"gcks-rsa.pem\"]\n\
         private_key = [\"gcks-ecdsa.key\", \"gcks-rsa.key\"]\ntrust_anchors = [\"ca.pem\"]\ncrls = [\"crl.pem\"]\n",
    );
    lab.configure_gcks(&(group(&lab, "one", 1, &[HUB, ECDSA, RSA, THIEF, STRANGER]) + &vpn(&lab, 1, [ECDSA, RSA])));
    lab.start_gcks();
    (0..5).for_each(|client| lab.start(client));
    lab.wait_for_connected(&[HUB, ECDSA, RSA]);
    lab.wait(Duration::from_secs(20), "refusals", || {
        let log = lab.log("gcks");
        log.contains("another identity than expected") && log.contains("certificate: unknown issuer")
    });
    let outside = [THIEF, STRANGER];
    for ipv4 in [false, true] {
        lab.carry(HUB, &[ECDSA, RSA], &outside, red_group(1, ipv4), 50);
        lab.carry(ECDSA, &[RSA], &[], lab.host(RSA, ipv4), 20);
    }
    for client in outside {
        let status = lab.call(client, "status").expect("it answers");
        assert_eq!((&status["state"], &status["dataplane"]["sas"]), (&"connecting".into(), &0.into()), "{status}");
    }

    let before = lab.sends(HUB, "group");
    lab.write_private("crl.pem", &ours.revoke(&[3]));
    lab.hang_up_gcks();
    lab.wait(Duration::from_secs(10), "keys that it does not have", || {
        let now = lab.sends(HUB, "group");
        now.len() == before.len() && now.iter().all(|spi| !before.contains(spi))
    });
    lab.carry(HUB, &[RSA], &[ECDSA, THIEF, STRANGER], red_group(1, false), 50);
    let events = lab.ask_gcks(&["events"]).stdout;
    let gone = format!("{} has lost access: its certificate: revoked", lab.name(ECDSA));
    assert!(events.contains(&gone) && events.contains("gcks.crls"), "{events}");

    issue(&lab, &ours, "ecdsa", "ecdsa.example", KeyKind::Ecdsa, 6);
    let reloaded = lab.ask(ECDSA, &["reload"]);
    assert!(reloaded.status == 0 && reloaded.stdout.contains("gcks.certificate"), "{reloaded:?}");
    lab.wait_for_connected(&[ECDSA]);
    lab.carry(HUB, &[ECDSA, RSA], &outside, red_group(1, false), 50);
    lab.carry(RSA, &[ECDSA], &[], lab.host(ECDSA, false), 20);
    lab.assert_black_is_sound();
}

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
        assert_eq!(lab.call(TERMINAL, "status").expect("it answers")["state"], "receiving");

        let before = lab.receives(TERMINAL, "group");
        lab.order(&["push"]);
        lab.wait(Duration::from_secs(10), "new keys alone", || {
            let now = lab.receives(TERMINAL, "group");
            now.len() == 2 && now.iter().all(|spi| !before.contains(spi))
        });
        carry_all(&lab);

        lab.kill(TERMINAL);
        lab.start(TERMINAL);
        lab.wait(Duration::from_secs(20), "all again", || told(&lab) == 2 + 2);
        carry_all(&lab);
        lab.kill_gcks();
        lab.start_gcks();
        let one = || {
            let clients = lab.call_gcks("clients")?;
            clients.as_array()?.iter().find(|one| one["name"] == lab.name(TERMINAL)).cloned()
        };
        lab.wait(Duration::from_secs(10), "its first words", || one().is_some_and(|one| one["told"].is_object()));
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
        lab.wait(Duration::from_secs(10), "keys that it does not have", || {
            let now = lab.sends(HUB, "group");
            now.len() == 2 && now.iter().all(|spi| !before.contains(spi))
        });
        lab.carry(HUB, &[1], &[TERMINAL], red_group(1, false), 50);
        lab.order(&["admit", &lab.name(TERMINAL)]);
        carry_all(&lab);

        // What a host behind it sends goes nowhere.
        for destination in [red_group(1, false), lab.host(HUB, false), lab.host(HUB, true)] {
            let (sender, _) = lab.flow(TERMINAL, &[], destination, 20);
            sender.finish();
        }
        assert!(lab.udp_from(1) > 0 && lab.udp_from(TERMINAL) == 0, "it sends nothing");
        lab.assert_black_is_sound();
    }
}
