//! Who is refused, or gets no answer, and why: both ends say so.

use std::time::Duration;

use muster_netns_tests::{Central, Family, Lab, skip};
use serde_json::Value;

use crate::scenes::{HUB, group};

/// Another secret than the key server's, and a DOI that it does not speak.
const LIAR: usize = 1;
const FOREIGNER: usize = 2;

/// Details of events of this kind.
fn details(answer: Option<Value>, kind: &str) -> Vec<String> {
    let events = answer.unwrap_or_default();
    let of_kind = events.as_array().into_iter().flatten().filter(|event| event["event"] == kind);
    of_kind.map(|event| event["detail"].as_str().expect("a detail").to_owned()).collect()
}

#[test]
fn both_ends_say_why_a_client_is_not_in() {
    if skip("both_ends_say_why_a_client_is_not_in") {
        return;
    }
    let mut lab = Central::new(Family::V4, 3);
    lab.configure_gcks(&group(&lab, "one", 1, &[HUB, LIAR, FOREIGNER]));
    lab.configure(FOREIGNER, "doi = 9");
    lab.start_gcks();
    lab.wait(Duration::from_secs(5), "the key server", || lab.call_gcks("status").is_some());
    let file = format!("{}.psk", lab.name(LIAR));
    let right = std::fs::read_to_string(lab.path(&file)).expect("it is there");
    lab.write_private(&file, "not the secret that they share\n");
    (0..3).for_each(|client| lab.start(client));
    lab.wait_for_connected(&[HUB]);

    let refused_here = [(LIAR, "not authentic"), (FOREIGNER, "no acceptable proposal")];
    lab.wait(Duration::from_secs(20), "refusals at the key server", || {
        let events = details(lab.call_gcks("events"), "refused");
        refused_here.iter().all(|(client, why)| {
            let start = format!("{}: what came from its address {}:", lab.name(*client), lab.black_address(*client));
            events.iter().any(|event| event.starts_with(&start) && event.ends_with(why))
        })
    });
    for (client, why) in refused_here {
        let state = lab.state_of(client).expect("it is a client");
        assert_eq!((&state["state"], &state["reason"]), (&"away".into(), &format!("refused: {why}").into()));
        let text = lab.ask_gcks(&["clients"]).stdout;
        assert!(text.lines().any(|line| line.contains(&lab.name(client)) && line.ends_with(why)), "{text}");
    }
    let warned = |why: &str| lab.log("gcks").lines().filter(|line| line.contains("WARN") && line.contains(why)).count();

    // The clients have to wait until nothing of what they say again is answered.
    let refused_there = [(LIAR, "not_taken", "another secret"), (FOREIGNER, "silent", "no answer")];
    lab.wait(Duration::from_secs(100), "failures at the clients", || {
        refused_there.iter().all(|(client, reason, _)| {
            lab.call(*client, "status").is_some_and(|status| status["last_failure"]["reason"] == *reason)
        })
    });
    for (client, _, why) in refused_there {
        let events = details(lab.call(client, "events"), "refused");
        assert!(events.len() == 1 && events[0].contains(why), "{events:?}");
        let text = lab.ask(client, &["status"]).stdout;
        let failure = text.lines().find(|line| line.starts_with("last failure")).expect("a line");
        assert!(failure.contains("ago: ") && failure.contains(why), "{text}");
        let neighbor = lab.call(client, "neighbors").expect("it answers")[0].clone();
        assert!(neighbor["reason"].as_str().is_some_and(|reason| reason.contains(why)), "{neighbor}");
    }
    // Five times each of them was refused, but for what was lost, and told of once.
    let refused = lab.call_gcks("status").expect("it answers")["refused"].as_u64();
    assert!(refused >= Some(if Lab::is_foul() { 5 } else { 10 }), "{refused:?}");
    assert_eq!(details(lab.call_gcks("events"), "refused").len(), 2);
    assert_eq!((warned("not authentic"), warned("no acceptable proposal")), (1, 1));

    lab.write_private(&file, &right);
    assert_eq!(lab.ask(LIAR, &["reload"]).status, 0);
    lab.wait_for_connected(&[LIAR]);
    let status = lab.call(LIAR, "status").expect("it answers");
    assert!(status["connected_since_ms"].is_u64() && status["last_failure"]["reason"] == "not_taken", "{status}");
    assert!(lab.state_of(LIAR).is_some_and(|state| state["reason"].is_null()));

    // Who is in and shows something else is still in, and the key server's operator sees that it would not be taken.
    lab.write_private(&file, "not the secret that they share\n");
    assert_eq!(lab.ask(LIAR, &["reload"]).status, 0);
    lab.wait(Duration::from_secs(20), "the reason beside the connection", || {
        let state = lab.state_of(LIAR).expect("it is a client");
        state["state"] == "connected" && state["reason"] == "refused: not authentic"
    });
    assert!(lab.call(LIAR, "status").expect("it answers")["connected_since_ms"].is_u64());
}
