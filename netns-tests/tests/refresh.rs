//! Fresh leaves while traffic flows.

use std::time::Duration;

use muster_netns_tests::{Lab, carry, skip};

/// Every router replaces its key in the tree within eight hello intervals, over and over; nobody leaves, nothing is lost.
#[test]
fn leaves_are_replaced_and_no_packet_is_lost() {
    if skip("leaves_are_replaced_and_no_packet_is_lost") {
        return;
    }
    let mut lab = Lab::new(5);
    for router in 0..5 {
        lab.configure(router, |text| Lab::set_leaf_refresh(text, Lab::hello_interval() * 8));
        lab.start(router);
    }
    let all = [0, 1, 2, 3, 4];
    lab.wait_for_group(&all);
    let epoch = lab.state(0).expect("it answers").1;
    lab.wait(Duration::from_secs(60), "twenty epochs", || {
        carry(&lab, 1, &[0, 2, 3, 4], 500);
        lab.state(0).expect("it answers").1 >= epoch + 20
    });
    lab.wait(Duration::from_secs(10), "one group", || lab.is_group(&all));
    for router in all {
        let events = lab.ask(router, &["events", "--json"]).stdout;
        assert!(events.contains("\"event\":\"activated\"") && !events.contains("\"event\":\"excluded\""), "{events}");
    }
}
