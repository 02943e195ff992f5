//! The kernel's ESP with SAs made by hand, of the kind that Muster makes.

use muster_netlab::{BLACK_DEVICE, Router};

use crate::contestant::{forward, ip};

const DEVICE: &str = "xfrm0";
/// What a packet has room for in 1,500 octets, as Muster's tunnel has it.
const MTU: u32 = 1426;

/// Makes the tunnel's end at `near`, which is router `at` of two.
pub(crate) fn set_up(near: &Router, far: &Router, at: usize) -> Result<(), String> {
    forward(near);
    let (here, there) = (near.plan.black_v6().addr(), far.plan.black_v6().addr());
    let (red, beyond) = (near.plan.red_v6(), far.plan.red_v6());
    // One SA for each direction, which both ends know: SPI, and key and salt of AES-256-GCM.
    let sas = [("0x1001", "a1".repeat(36)), ("0x1002", "b2".repeat(36))];
    // The window is as large as Muster's (dataplane/src/esp/replay.rs).
    let ends = [(here, there, &sas[at], 0), (there, here, &sas[1 - at], 4096)];
    let ways = [("out", red, beyond, here, there), ("in", beyond, red, there, here), ("fwd", beyond, red, there, here)];
    let within = || {
        ip(&format!("link add {DEVICE} type xfrm dev {BLACK_DEVICE} if_id 1"))?;
        ip(&format!("link set {DEVICE} mtu {MTU} up"))?;
        for (source, destination, (spi, key), window) in ends {
            ip(&format!(
                "xfrm state add src {source} dst {destination} proto esp spi {spi} reqid 1 mode tunnel if_id 1 \
                 replay-window {window} flag af-unspec aead rfc4106(gcm(aes)) 0x{key} 128"
            ))?;
        }
        for (way, from, to, source, destination) in ways {
            ip(&format!(
                "xfrm policy add dir {way} src {from} dst {to} if_id 1 \
                 tmpl src {source} dst {destination} proto esp reqid 1 mode tunnel"
            ))?;
        }
        ip(&format!("-6 route replace {beyond} dev {DEVICE}"))
    };
    near.namespace.run(within).expect("it runs")
}
