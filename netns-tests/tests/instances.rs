//! A router in two groups: two daemons that know nothing of each other.

use std::fs;
use std::time::Duration;

use muster_netlab::{HOST_DEVICE, Namespace, Process};
use muster_netns_tests::{Lab, Lan, carry_between, red_group, red_group_v4, skip};
use serde_json::Value;

/// A second LAN behind a router, of another group: `red1`, with a host.
struct Green {
    router: usize,
    host: Namespace,
    daemon: Option<Process>,
}

impl Green {
    /// Builds the LAN and writes the second daemon's configuration: what must differ, and nothing else.
    fn new(lab: &Lab, router: usize) -> Green {
        let namespace = &lab.coalition.routers()[router].namespace;
        let host = Namespace::new(format!("green host {router}")).unwrap();
        namespace.add_veth(&"red1".into(), &host, &HOST_DEVICE.into()).unwrap();
        for (at, device, last) in [(namespace, "red1", 1), (&host, HOST_DEVICE, 2)] {
            for address in [format!("2001:db8:9{router}::{last}/64"), format!("10.99.{router}.{last}/24")] {
                at.add_address(device, address.parse().unwrap()).unwrap();
            }
            at.wait_for_link(device).unwrap();
        }
        host.add_route("::/0".parse().unwrap(), format!("2001:db8:9{router}::1").parse().unwrap()).unwrap();
        let (name, plan) = (lab.name(router), &lab.coalition.routers()[router].plan);
        let text = fs::read_to_string(lab.path(&format!("{name}.toml"))).unwrap();
        // The kernel has one table of SAs for all instances.
        let address = if lab.is_kernel() { "\naddress = \"ff05::6d77\"" } else { "" };
        let text = text
            .replace("\"red0\"", "\"red1\"")
            .replace(&plan.red_v6().to_string(), &format!("2001:db8:9{router}::/64"))
            .replace(&plan.red_v4().to_string(), &format!("10.99.{router}.0/24"))
            .replace("name = \"coalition\"", &format!("name = \"green\"{address}"))
            .replace("[discovery]", "[discovery]\nport = 4870")
            .replace("[dataplane]", "[dataplane]\ninstance = 1\ndevice = \"muster1\"")
            .replace(&format!("{name}.sock"), &format!("green-{name}.sock"))
            .replace(&format!("{name}.state"), &format!("green-{name}.state"));
        fs::write(lab.path(&format!("green-{name}.toml")), text).unwrap();
        Green { router, host, daemon: None }
    }

    fn start(&mut self, lab: &Lab) {
        self.daemon = Some(lab.start_beside(self.router, &format!("green-{}", lab.name(self.router))));
    }

    fn kill(&mut self) {
        self.daemon.take().unwrap().kill().unwrap();
    }

    fn lan(&self) -> Lan<'_> {
        Lan { namespace: &self.host, device: HOST_DEVICE, router: None }
    }

    fn status(&self, lab: &Lab) -> Value {
        let answer = lab.ask_at(&format!("green-{}.sock", lab.name(self.router)), &["status", "--json"]);
        serde_json::from_str(&answer.stdout).unwrap_or_default()
    }
}

fn wait_for_green(lab: &Lab, members: &[&Green]) {
    lab.wait(Duration::from_secs(10), "the second group", || {
        let groups: Vec<Value> = members.iter().map(|green| green.status(lab)["group"].clone()).collect();
        groups.iter().all(|group| {
            let complete = group["members"] == members.len() as u64 && group["active"] == true;
            complete && group["key_fingerprint"] == groups[0]["key_fingerprint"]
        })
    });
}

#[test]
fn a_router_is_in_two_groups_by_two_daemons() {
    if skip("a_router_is_in_two_groups_by_two_daemons") {
        return;
    }
    let mut lab = Lab::new(3);
    let (mut near, mut far) = (Green::new(&lab, 0), Green::new(&lab, 1));
    (0..3).for_each(|router| lab.start(router));
    near.start(&lab);
    far.start(&lab);
    lab.wait_for_group(&[0, 1, 2]);
    wait_for_green(&lab, &[&near, &far]);
    assert_ne!(near.status(&lab)["group"]["key_fingerprint"], lab.get(0, "status")["group"]["key_fingerprint"]);

    let both_work = |lab: &Lab, near: &Green, far: &Green| {
        let red = |router: usize| Lan::of(lab, router);
        for group in [red_group(), red_group_v4()] {
            carry_between(lab, red(0), &[red(1), red(2)], &[near.lan(), far.lan()], group, 50);
            carry_between(lab, near.lan(), &[far.lan()], &[red(0), red(1), red(2)], group, 50);
            carry_between(lab, far.lan(), &[near.lan()], &[red(0), red(1), red(2)], group, 50);
        }
        assert!(lab.capture.settle(Duration::from_secs(5)));
        assert_eq!(lab.capture.stats().cleartext, 0, "{:?}", lab.capture.examples());
    };
    both_work(&lab, &near, &far);

    // The end of one is nothing to the other.
    near.kill();
    wait_for_green(&lab, &[&far]);
    let red = |router: usize| Lan::of(&lab, router);
    carry_between(&lab, red(0), &[red(1), red(2)], &[near.lan(), far.lan()], red_group(), 50);
    near.start(&lab);
    wait_for_green(&lab, &[&near, &far]);
    lab.terminate(0);
    lab.wait_for_group(&[1, 2]);
    let red = |router: usize| Lan::of(&lab, router);
    carry_between(&lab, near.lan(), &[far.lan()], &[red(0), red(1), red(2)], red_group(), 50);
    lab.start(0);
    lab.wait_for_group(&[0, 1, 2]);
    both_work(&lab, &near, &far);
}
