//! The kernel's ESP with SAs made by hand, of the kind that Muster makes.

use muster_netlab::{BLACK_DEVICE, Router};

use crate::contestant::{forward, ip};

const DEVICE: &str = "xfrm0";
/// Of the interface, and of the SAs that belong to it.
const NUMBER: &str = "1";
/// What a packet has room for in 1,500 octets, as Muster's tunnel has it.
const MTU: &str = "1426";

/// Makes the tunnel's end at `near`, which is router `at` of two.
pub(crate) fn set_up(near: &Router, far: &Router, at: usize) {
    forward(near);
    let (here, there) = (near.plan.black_v6().addr().to_string(), far.plan.black_v6().addr().to_string());
    let (red, beyond) = (near.plan.red_v6().to_string(), far.plan.red_v6().to_string());
    // One SA for each direction, which both know: of AES-256-GCM, key and salt.
    let names = [("0x1001", "0x".to_owned() + &"a1".repeat(36)), ("0x1002", "0x".to_owned() + &"b2".repeat(36))];
    let ends = [(&here, &there, &names[at], "0"), (&there, &here, &names[1 - at], "2048")];
    let ways = [
        ("out", &red, &beyond, &here, &there),
        ("in", &beyond, &red, &there, &here),
        ("fwd", &beyond, &red, &there, &here),
    ];
    let within = || {
        ip(&["link", "add", DEVICE, "type", "xfrm", "dev", BLACK_DEVICE, "if_id", NUMBER]);
        ip(&["link", "set", DEVICE, "mtu", MTU, "up"]);
        for (source, destination, (spi, key), window) in ends {
            let tunnel =
                ["src", source, "dst", destination, "proto", "esp", "spi", spi, "reqid", NUMBER, "mode", "tunnel"];
            let cipher = [
                "if_id",
                NUMBER,
                "replay-window",
                window,
                "flag",
                "af-unspec",
                "aead",
                "rfc4106(gcm(aes))",
                key,
                "128",
            ];
            ip(&[&["xfrm", "state", "add"], &tunnel[..], &cipher].concat());
        }
        for (way, from, to, source, destination) in ways {
            let selector = ["dir", way, "src", from, "dst", to, "if_id", NUMBER];
            let template =
                ["tmpl", "src", source, "dst", destination, "proto", "esp", "reqid", NUMBER, "mode", "tunnel"];
            ip(&[&["xfrm", "policy", "add"], &selector[..], &template].concat());
        }
        ip(&["-6", "route", "replace", &beyond, "dev", DEVICE]);
    };
    near.namespace.run(within).expect("it runs");
}
