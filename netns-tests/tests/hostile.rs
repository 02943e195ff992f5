//! Junk at both ports, and configurations that cannot work.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use muster_netns_tests::{Lab, carry, muster, skip};
use serde_json::Value;

/// All counters of dropped datagrams and packets, added up.
fn dropped(status: &Value) -> u64 {
    let sum = |map: &Value| map.as_object().unwrap().values().filter_map(Value::as_u64).sum::<u64>();
    sum(&status["datagrams"]) + sum(&status["dataplane"]["dropped"])
}

/// The payloads of UDP datagrams to these ports that the capture holds.
fn recorded(lab: &Lab, ports: [u16; 2]) -> Vec<(u16, Vec<u8>)> {
    let mut found = Vec::new();
    for frame in lab.capture.frames() {
        // Ethernet, IPv6 without extension headers, UDP.
        let bytes = &frame.bytes;
        if bytes.len() > 62 && bytes[12..14] == [0x86, 0xdd] && bytes[20] == 17 {
            let port = u16::from_be_bytes([bytes[56], bytes[57]]);
            if ports.contains(&port) {
                found.push((port, bytes[62..].to_vec()));
            }
        }
    }
    found
}

#[test]
fn junk_changes_nothing_and_is_counted() {
    if skip("junk_changes_nothing_and_is_counted") {
        return;
    }
    let mut lab = Lab::group(3);
    let before = lab.state(0).unwrap();
    let counted = dropped(&lab.get(0, "status"));
    assert!(lab.capture.settle(Duration::from_secs(5)));
    let genuine = recorded(&lab, [4860, 4861]);
    assert!(genuine.len() > 10, "{}", genuine.len());

    let black = lab.coalition.black();
    let target = lab.coalition.routers()[0].plan.black_v6().addr();
    let mut sent = 0;
    let mut send = |port: u16, payload: &[u8]| {
        for to in [target, "ff05::6d75".parse().unwrap()] {
            black.send_udp("br0", SocketAddr::new(to.into(), port), payload).unwrap();
            sent += 1;
        }
    };
    for (n, (port, payload)) in genuine.iter().enumerate().take(60) {
        send(*port, payload); // replayed, reflected to its sender
        send(*port, &payload[..payload.len() / 2]); // truncated
        let mut flipped = payload.clone();
        let at = (n * 37) % flipped.len();
        flipped[at] ^= 1 << (n % 8);
        send(*port, &flipped);
        let mut version = payload.clone();
        version[4] ^= 0xff;
        send(*port, &version);
        let mut group = payload.clone();
        group[6] ^= 0xff;
        send(*port, &group);
        let mut sequence = payload.clone();
        sequence[62] = 0x7f; // a sequence number not seen yet, wrongly signed
        send(*port, &sequence);
        send(if *port == 4860 { 4861 } else { 4860 }, payload); // at the other port
        let mut long = payload.clone();
        long.resize(9000, 0x55);
        send(*port, &long); // larger than any of ours
    }
    send(4860, &[]);
    send(4861, &[0xff; 1400]);

    lab.wait(Duration::from_secs(5), "the junk to be counted", || dropped(&lab.get(0, "status")) >= counted + sent / 4);
    assert_eq!(lab.state(0).unwrap(), before);
    assert!((0..3).all(|router| lab.runs(router)));
    assert!(lab.is_group(&[0, 1, 2]));
    carry(&lab, 0, &[1, 2], 50);
}

#[test]
fn random_esp_is_dropped_and_counted() {
    if skip("random_esp_is_dropped_and_counted") {
        return;
    }
    let lab = Lab::group(2);
    carry(&lab, 0, &[1], 20);
    assert!(lab.capture.settle(Duration::from_secs(5)));
    let frames = lab.capture.frames();
    let esp: Vec<&Vec<u8>> =
        frames.iter().map(|f| &f.bytes).filter(|b| b.len() > 70 && b[12..14] == [0x86, 0xdd] && b[20] == 50).collect();
    assert!(esp.len() >= 20);
    let of = |name: &str| lab.get(1, "status")["dataplane"]["dropped"][name].as_u64().unwrap();
    let (replay, auth, unknown) = (of("replay"), of("auth"), of("unknown_spi"));
    let black = lab.coalition.black();
    for frame in &esp {
        black.inject("br0", frame).unwrap(); // replayed
        let mut forged = (*frame).clone();
        forged[58] = 0x7f; // a sequence number to come
        let last = forged.len() - 1;
        forged[last] ^= 1;
        black.inject("br0", &forged).unwrap();
        let mut unknown = (*frame).clone();
        unknown[54..58].copy_from_slice(&[0xde, 0xad, 0xbe, 0xef]);
        black.inject("br0", &unknown).unwrap();
    }
    lab.wait(Duration::from_secs(5), "them to be counted", || {
        of("replay") >= replay + 20 && of("auth") >= auth + 20 && of("unknown_spi") >= unknown + 20
    });
    carry(&lab, 0, &[1], 20);
}

#[test]
fn what_cannot_work_ends_with_one_clear_line() {
    if skip("what_cannot_work_ends_with_one_clear_line") {
        return;
    }
    let lab = Lab::new(2);
    let config = lab.path(&format!("{}.toml", lab.name(0)));
    let good = fs::read_to_string(&config).unwrap();
    let under = |wrapper: &[&str], text: &str, expect: &str| {
        fs::write(&config, text).unwrap();
        let program = lab.program().to_str().unwrap();
        let words: Vec<&str> = wrapper.iter().copied().chain([program]).collect();
        let mut command = std::process::Command::new(words[0]);
        let log = lab.path("wrong.log");
        command.args(&words[1..]).args(["run", "--config"]).arg(&config).stdout(std::process::Stdio::null());
        command.stderr(fs::File::create(&log).unwrap());
        let mut process = lab.coalition.routers()[0].namespace.spawn(command).unwrap();
        let status = process.wait(Duration::from_secs(5)).unwrap();
        let said = fs::read_to_string(&log).unwrap();
        let lines: Vec<&str> = said.lines().filter(|line| line.starts_with("muster: ")).collect();
        let code = status.and_then(|status| status.code());
        assert!(matches!(code, Some(1 | 2)), "{expect}: {code:?} {said}");
        assert_eq!(lines.len(), 1, "{expect}: {said}");
        assert!(lines[0].contains(expect), "{expect}: {said}");
    };
    let run = |text: &str, expect: &str| under(&[], text, expect);
    run("[device", "alpha-1.toml");
    run(&good.replace("[black]", "[black]\ncolour = 1"), "colour");
    run(&good.replace("interface = \"black0\"", "interface = \"nosuch0\""), "nosuch0");
    let mut too_often = good.clone();
    Lab::set_hello_interval(&mut too_often, Duration::from_millis(1));
    run(&too_often, "hello_interval");
    run(&good.replace("Alpha/alpha-1.key", "Alpha/none.key"), "none.key");
    run(&good.replace("Alpha/alpha-1.key", "Bravo/bravo-1.key"), "match");
    run(&good.replace("name = \"alpha-1\"", "name = \"alpha-2\""), "device.name");
    run(&good.replace("\"Alpha/ca.pem\", ", ""), "trust anchor");
    run(&good.replace("state_dir = \"alpha-1.state\"", "state_dir = \"/proc/none\""), "state_dir");
    run(&good.replace("[dataplane]", "[dataplane]\nbackend = \"kernel\""), "backend");
    run(&good.replace("ff05::6d75", "192.0.2.3"), "discovery.group");
    run(&good.replace("[group]", "[group]\naddress = \"239.1.2.3\""), "group.address");
    run(&good.replace("[dataplane]", "[dataplane]\ninstance = 16"), "instance");
    run(&good.replace("[dataplane]", "[dataplane]\ndevice = \"a-name-too-long0\""), "dataplane.device");
    run(&good.replace("prefixes = [", "prefixes = [\"fe80::/64\", "), "red.prefixes");
    under(&["setpriv", "--bounding-set=-net_raw"], &good, "CAP_NET_RAW");
    under(&["setpriv", "--bounding-set=-net_admin"], &good, "CAP_NET_ADMIN");
    let without_tun = ["unshare", "--mount", "sh", "-c", "mount -t tmpfs none /dev/net && exec \"$0\" \"$@\""];
    // The kernel's own ESP needs none.
    if !lab.is_kernel() {
        under(&without_tun, &good, "/dev/net/tun");
    }
    fs::write(&config, &good).unwrap();
    let answer = muster(&["check", "--config", lab.path("absent.toml").to_str().unwrap()]);
    assert_eq!(answer.status, 1, "{answer:?}");
    let answer = muster(&["status", "--control", lab.path("absent.sock").to_str().unwrap()]);
    assert_eq!(answer.status, 1, "{answer:?}");
    assert_eq!(answer.stderr.lines().count(), 1, "{answer:?}");
    assert_eq!(muster(&["no-such-command"]).status, 2);
}

#[test]
fn a_port_in_use_and_a_second_daemon_are_named() {
    if skip("a_port_in_use_and_a_second_daemon_are_named") {
        return;
    }
    let mut lab = Lab::new(1);
    let address = lab.coalition.routers()[0].plan.black_v6().addr();
    let taken =
        lab.coalition.routers()[0].namespace.run(|| std::net::UdpSocket::bind((address, 4861)).unwrap()).unwrap();
    lab.start(0);
    lab.wait_for_end(0);
    assert!(lab.log(0).contains("4861"), "{}", lab.log(0));
    drop(taken);
    lab.start(0);
    lab.wait_for_group(&[0]);
}

#[test]
fn the_daemon_keeps_two_capabilities() {
    if skip("the_daemon_keeps_two_capabilities") {
        return;
    }
    let lab = Lab::group(2);
    let status = fs::read_to_string(format!("/proc/{}/status", lab.process(0))).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    };
    // CAP_NET_ADMIN is 12, CAP_NET_RAW 13 (linux/capability.h).
    for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
        assert_eq!(field(set), 0x3000, "{set}");
    }
    assert_eq!(field("CapInh:") | field("CapAmb:"), 0);
}
