//! A black network of long ways and bad weather by the kernel's own means (netem), where it has them.

use std::process::Command;
use std::str::FromStr;
use std::time::Duration;

use crate::{BLACK_DEVICE, Error, Namespace, Result};

/// What lies between the routers. Each router's own frames go through it, so two of them are twice as far apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sky {
    /// A geostationary satellite: 600 ms there and back.
    Satellite,
    /// 20 to 40 ms there and back, so that frames overtake each other; 5 of a hundred come twice, and of what is not ESP
    /// 10 are lost (of ESP none, for nobody sends it again).
    Foul,
}

impl FromStr for Sky {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "satellite" => Ok(Sky::Satellite),
            "foul" => Ok(Sky::Foul),
            _ => Err(Error::Invalid(format!("no sky {name}: satellite or foul"))),
        }
    }
}

impl Sky {
    /// Puts a router below it, which the black network has on `port`.
    pub(crate) fn cover(self, router: &Namespace, black: &Namespace, port: &str) -> Result<()> {
        match self {
            Sky::Satellite => tc(router, BLACK_DEVICE, "qdisc add dev DEV root netem delay 300ms limit 100000"),
            Sky::Foul => {
                // What repeats must be alone on its device.
                tc(black, port, "qdisc add dev DEV root netem delay 15ms 5ms duplicate 5% limit 100000")?;
                let all_to_the_first = " 0".repeat(16);
                [
                    format!("qdisc add dev DEV root handle 1: prio bands 2 priomap{all_to_the_first}").as_str(),
                    "qdisc add dev DEV parent 1:1 netem loss 10% limit 100000",
                    "filter add dev DEV parent 1: protocol ip prio 1 u32 match ip protocol 50 0xff flowid 1:2",
                    "filter add dev DEV parent 1: protocol ipv6 prio 2 u32 match ip6 protocol 50 0xff flowid 1:2",
                ]
                .iter()
                .try_for_each(|line| tc(router, BLACK_DEVICE, line))
            }
        }
    }
}

/// One command; DEV stands for the device.
fn tc(namespace: &Namespace, device: &str, line: &str) -> Result<()> {
    let mut command = Command::new("tc");
    command.args(line.split(' ').map(|word| if word == "DEV" { device } else { word }));
    match namespace.spawn(command)?.wait(LIMIT)? {
        Some(status) if status.success() => Ok(()),
        _ => Err(Error::Invalid(format!("tc {line} failed; does this kernel have netem?"))),
    }
}

const LIMIT: Duration = Duration::from_secs(30);
