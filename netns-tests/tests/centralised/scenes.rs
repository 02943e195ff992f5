//! What runs in the tests: groups and VPNs as the key server's configuration has them, and a figure of both.

use std::net::SocketAddr;
use std::time::Duration;

use muster_netns_tests::{Central, Family};

/// A red group of either family.
pub(crate) fn red_group(number: u8, ipv4: bool) -> SocketAddr {
    let text = if ipv4 { format!("239.10.0.{number}:5000") } else { format!("[ff1e::{number:x}]:5000") };
    text.parse().expect("an address")
}

/// Where a group's re-key messages go on black.
pub(crate) fn rekey(family: Family, number: u8) -> SocketAddr {
    let text = match family {
        Family::V4 => format!("239.255.1.{number}:848"),
        Family::V6 => format!("[ff05::1:{number:x}]:848"),
    };
    text.parse().expect("an address")
}

/// A group of these clients, of which the first sends one flow of each family of red.
pub(crate) fn group(lab: &Central, name: &str, number: u8, members: &[usize]) -> String {
    let names: Vec<String> = members.iter().map(|member| format!("\"{}\"", lab.name(*member))).collect();
    let (sender, members) = (&names[0], names.join(", "));
    let at = rekey(lab.family, number);
    let mut text = format!("[groups.{name}]\nmembers = [{members}]\nrekey = \"{at}\"\n{}\n", Central::delays());
    for ipv4 in [false, true] {
        let red = red_group(number, ipv4).ip();
        // Black is of one family: what is of the other has a group of its own there.
        let outer = if ipv4 == (lab.family == Family::V4) { red } else { rekey(lab.family, number + 100).ip() };
        text += &format!(
            "[[groups.{name}.flows]]\nsenders = [{sender}]\ngroup = \"{red}\"\nprotocol = \"udp\"\nouter = \"{outer}\"\n\n"
        );
    }
    text
}

/// Unicast between what lies behind two clients, of either family.
pub(crate) fn vpn(lab: &Central, number: usize, ends: [usize; 2]) -> String {
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

/// Waits until the SAs of which `spis` tells are as many as `before`, and all others: who is out does not have their keys.
pub(crate) fn wait_for_other_keys(lab: &Central, before: &[u64], spis: impl Fn() -> Vec<u64>) {
    assert!(!before.is_empty(), "there are none to be replaced");
    lab.wait(Duration::from_secs(20), "other keys, and no others", || {
        let now = spis();
        now.len() == before.len() && now.iter().all(|spi| !before.contains(spi))
    });
}

/// Who sends to groups.
pub(crate) const HUB: usize = 0;

/// Figure 7 of the paper that the centralised mode comes from: a hub and two sites of clients; three groups that the hub sends
/// to, one for each site and one for both; three VPNs, from the hub to each site and between the sites.
pub(crate) struct Figure {
    /// The network.
    pub(crate) lab: Central,
    /// The clients of each site.
    sites: [Vec<usize>; 2],
}

impl Figure {
    /// All of it runs, and all are connected.
    pub(crate) fn new(family: Family, each: usize) -> Figure {
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

    /// All clients.
    pub(crate) fn all(&self) -> Vec<usize> {
        [vec![HUB], self.sites.concat()].concat()
    }

    /// The hub, and who receives a group.
    fn members(&self, group: usize) -> Vec<usize> {
        [vec![HUB], self.receivers(group)].concat()
    }

    /// Who is to receive it.
    pub(crate) fn receivers(&self, group: usize) -> Vec<usize> {
        match group {
            1 | 2 => self.sites[group - 1].clone(),
            _ => self.sites.concat(),
        }
    }

    /// Each group reaches its members, and nobody else.
    pub(crate) fn carry_all(&self, without: &[usize]) {
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
