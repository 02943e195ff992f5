//! What goes unprotected.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use ipnet::IpNet;
use muster_netlab::{Frame, Namespace};
use muster_netns_tests::{Central, Family, Lab, skip};

use crate::scenes::{group, red_group, vpn};

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
