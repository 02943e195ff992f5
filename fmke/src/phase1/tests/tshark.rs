//! An independent reader: Wireshark's dissector of ISAKMP finds nothing malformed, and decrypts with our keys.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::Command;
use std::time::Duration;

use muster_wire::Time;

use super::network::*;
use crate::crypto::{Cipher, HashAlgorithm};
use crate::isakmp::{Chain, Notify, exchange, kind};
use crate::phase1::{Initiator, Limits, Liveness, Proposals, Responder, Server};

/// `IPSEC_DOI` (RFC 2407).
const IPSEC: u32 = 1;

fn no_tshark(test: &str) -> bool {
    let missing = Command::new("tshark").arg("-v").output().is_err();
    if missing {
        let _ = writeln!(std::io::stderr(), "SKIP {test}: tshark is not installed (apt-get install tshark)");
    }
    missing
}

/// A file of packets (pcap, raw IPv4), on port 500, where the dissector looks.
fn pcap(datagrams: &[(std::net::SocketAddr, Vec<u8>)]) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0002_0004, 0, 0, 65_535, 101] {
        file.extend(word.to_be_bytes());
    }
    for (number, (from, datagram)) in (0_u32..).zip(datagrams) {
        let (source, destination) = match *from == server_address() {
            true => ([198, 51, 100, 1], [192, 0, 2, 1]),
            false => ([192, 0, 2, 1], [198, 51, 100, 1]),
        };
        let len = (28 + datagram.len()) as u32;
        for word in [number, 0, len, len] {
            file.extend(word.to_be_bytes());
        }
        file.extend([0x45, 0]);
        file.extend((len as u16).to_be_bytes());
        file.extend([0, 0, 0, 0, 64, 17, 0, 0]);
        file.extend(source);
        file.extend(destination);
        for port in [500, 500, len as u16 - 20, 0] {
            file.extend(port.to_be_bytes());
        }
        file.extend(datagram);
    }
    file
}

#[test]
fn wireshark_reads_and_decrypts_a_phase_1() {
    if no_tshark("wireshark_reads_and_decrypts_a_phase_1") {
        return;
    }
    let hash = HashAlgorithm::Sha256;
    let proposals = Proposals { hashes: vec![hash], ciphers: vec![Cipher::Aes256], ..Proposals::default() };
    let mut network = Network::new(1, proposals.clone(), proposals.clone());
    // The dissector looks into proposals of no other DOI, and learns the cipher there.
    let server = Server { address: server_address(), secret: Some(secret(1)), identity: None };
    let liveness = Liveness::default();
    let (of_member, of_server) = (own(member_address(1)), own(server_address()));
    network.member = Initiator::new(IPSEC, proposals.clone(), of_member, server, liveness, Time(0));
    let limits = Limits::default();
    network.server = Responder::new(IPSEC, proposals, of_server, liveness, limits, Time(0), &mut network.rng);
    network.run(Duration::from_secs(25));
    let id = network.common_sa().unwrap();
    let sa = network.server.sa(id).unwrap();
    let mut chain = Chain::new();
    let notify = Notify { doi: IPSEC, protocol: 1, spi: &id.octets(), kind: 40_000, data: b"large" }.to_body();
    (0..40).for_each(|_| {
        chain.add(kind::NOTIFY, &notify);
    });
    sa.add_hash(&9_u32.to_be_bytes(), &mut chain);
    let large = sa.seal(exchange::INFORMATIONAL, 9, &chain);
    network.server.send(id, large);
    network.run(Duration::from_secs(26));

    let folder = tempfile::tempdir().unwrap();
    let (file, home) = (folder.path().join("phase1.pcap"), folder.path().join("home"));
    std::fs::write(&file, pcap(&network.log)).unwrap();
    std::fs::create_dir_all(home.join("wireshark")).unwrap();
    let hex = |octets: &[u8]| {
        octets.iter().fold(String::new(), |mut text, octet| {
            let _ = write!(text, "{octet:02x}");
            text
        })
    };
    let key = network.server.sa(id).unwrap().keys.encryption_key();
    let table = format!("{},{}\n", hex(&id.initiator.0), hex(key.as_bytes()));
    std::fs::write(home.join("wireshark/ikev1_decryption_table"), table).unwrap();
    let output = Command::new("tshark")
        .env("XDG_CONFIG_HOME", &home)
        .env("HOME", &home)
        .args(["-V", "-r"])
        .arg(&file)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!text.contains("Malformed"), "{text}");
    for wanted in [
        "Exchange type: Identity Protection (Main Mode) (2)",
        "Vendor ID: RFC 3706 DPD (Dead Peer Detection)",
        "Key Exchange Data",
        // In messages 5 and 6, which are encrypted.
        "Identification Data:192.0.2.1\n",
        "Identification Data:198.51.100.1\n",
        "INITIAL-CONTACT (24578)",
        // After them.
        "R-U-THERE (36136)",
        "R-U-THERE-ACK (36137)",
        "[2 Message fragments",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    assert_eq!(text.matches("Private Use (40000)").count(), 40, "the pieces are put together and decrypted");
}
