//! One group, one joiner, many joins.

use std::thread::sleep;
use std::time::Duration;

use muster_netns_tests::Lab;
use serde_json::Value;

/// What happened when, in microseconds since the joiner's first hello had left.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Join {
    /// The joiner and the transaction manager have checked each other's certificates.
    pub(crate) discovered: u64,
    /// The last router has the new key.
    pub(crate) keyed: u64,
    /// The last router has installed its inbound SAs.
    pub(crate) installed: u64,
    /// The last router sends under it.
    pub(crate) activated: u64,
    /// Processor time of all routers until the bench saw that, with what its looking cost them. On a machine with other
    /// work this says more than the times above.
    pub(crate) work: u64,
}

/// Long enough for fifty routers that start at the same time on two cores.
const LIMIT: Duration = Duration::from_secs(60);
/// Looked at seldom, and one daemon only, so that looking costs nothing.
const POLL: Duration = Duration::from_millis(20);

/// Lets the last of `routers` routers join and leave `joins` times.
pub(crate) fn measure(routers: usize, joins: usize) -> Vec<Join> {
    let joiner = routers - 1;
    let rest: Vec<usize> = (0..joiner).collect();
    let mut lab = Lab::new(routers);
    lab.capture.stop();
    for router in 0..routers {
        // As it comes: an interval of one second.
        lab.configure(router, |text| *text = text.replace("hello_interval = \"250ms\"\n", ""));
    }
    rest.iter().for_each(|router| lab.start(*router));
    lab.wait_for_group_within(LIMIT, &rest);
    let mut measured = Vec::new();
    for number in 1..=joins {
        lab.reissue(joiner);
        lab.wait_until_quiet(LIMIT, &rest);
        let work = |lab: &Lab, routers: &[usize]| routers.iter().map(|r| lab.processor(*r)).sum::<Duration>();
        let before = work(&lab, &rest);
        lab.start(joiner);
        let all = || lab.call(joiner, "status").is_some_and(|status| is_active(&status, routers));
        lab.wait(LIMIT, "the joiner to be in", || {
            sleep(POLL);
            all()
        });
        lab.wait_for_group_within(LIMIT, &(0..routers).collect::<Vec<_>>());
        let spent = work(&lab, &(0..routers).collect::<Vec<_>>()) - before;
        let join = Join { work: spent.as_micros() as u64, ..read(&lab, routers, joiner) };
        eprintln!("{routers} routers, join {number}: {join:?}");
        measured.push(join);
        lab.terminate(joiner);
        lab.wait_for_group_within(LIMIT, &rest);
    }
    measured
}

fn is_active(status: &Value, members: usize) -> bool {
    status["group"]["active"] == true && status["group"]["members"] == members
}

/// Reads a join out of all routers' events.
fn read(lab: &Lab, routers: usize, joiner: usize) -> Join {
    let events: Vec<Vec<Value>> = (0..routers)
        .map(|router| match lab.call(router, "events") {
            Some(Value::Array(events)) => events,
            other => panic!("events of {}: {other:?}", lab.name(router)),
        })
        .collect();
    let at = |event: &Value| event["mono_us"].as_u64().expect("mono_us is a number");
    let begun = events[joiner].iter().find(|event| event["event"] == "hello_sent").map(at).expect("it said hello");
    let since = |router: usize, kind: &str, right: &dyn Fn(&Value) -> bool| {
        let found = events[router].iter().find(|event| event["event"] == kind && at(event) >= begun && right(event));
        let found = found.unwrap_or_else(|| panic!("no event {kind} at {}: {:#?}", lab.name(router), events[router]));
        at(found) - begun
    };
    let last = events[joiner].iter().rfind(|event| event["event"] == "epoch").expect("it is in an epoch");
    let (epoch, manager) = (&last["epoch"], &last["member"]);
    let id = |router: usize| lab.call(router, "status").expect("it answers")["member_id"].clone();
    let own = id(joiner);
    // Of two that are alone, either may have become the manager.
    let other = if *manager == own { 0 } else { (0..joiner).find(|r| id(*r) == *manager).expect("it is one of ours") };
    let other_id = id(other);
    let met = since(joiner, "join", &|event| event["member"] == other_id);
    let discovered = met.max(since(other, "join", &|event| event["member"] == own));
    let latest = |kind| (0..routers).map(|r| since(r, kind, &|event| event["epoch"] == *epoch)).max().expect("routers");
    let (keyed, installed, activated) = (latest("epoch"), latest("installed"), latest("activated"));
    Join { discovered, keyed, installed, activated, work: 0 }
}
