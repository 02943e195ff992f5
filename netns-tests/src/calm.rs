//! What does not happen: epochs that nobody needs, exclusions among those that stay, keys that are used twice.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Lab;

/// Longer than any of these tests lets a group be.
const LIMIT: Duration = Duration::from_secs(60);

impl Lab {
    /// Watches a group for so many dead times: it keeps its key and its epoch all the while.
    ///
    /// # Panics
    /// When it does not, or a daemon does not answer.
    pub fn stays_one(&self, routers: &[usize], dead_times: u32) {
        let before = self.state(routers[0]).expect("it answers");
        let begun = Instant::now();
        self.wait(LIMIT, "nothing", || {
            // Looked at seldom, so that looking disturbs nothing.
            std::thread::sleep(Duration::from_millis(50));
            for router in routers {
                let now = self.state(*router);
                let events = || self.story(&["epoch", "leave", "join", "restore", "election", "excluded"]);
                assert_eq!(now.as_ref(), Some(&before), "at {}\n{}", self.name(*router), events());
            }
            begun.elapsed() >= Lab::dead_time() * dead_times
        });
    }

    /// Waits until these are one group that stays so for four dead times, if they say hello so often; gives how long that took,
    /// without those.
    ///
    /// For networks that let one hear another only after a while: Linux tells PIM of a new sender on a LAN only every three
    /// seconds, and until then the others know that one by what it sends them by unicast: for eight hellos, and a dead
    /// time after that.
    ///
    /// # Panics
    /// When it takes longer than `limit`.
    pub fn settles(&self, limit: Duration, routers: &[usize], hello_interval: Duration) -> Duration {
        let watch = hello_interval * 4 * 4;
        let (mut known, mut since) = (None, Instant::now());
        let took = self.wait(limit, &format!("routers {routers:?} to stay one group"), || {
            // Looked at seldom, so that looking disturbs nothing.
            std::thread::sleep(Duration::from_millis(50));
            let now = self.state(routers[0]).filter(|_| self.is_group(routers));
            if now != known {
                (known, since) = (now, Instant::now());
            }
            known.is_some() && since.elapsed() > watch
        });
        took - watch
    }

    /// A router's events, the oldest first.
    pub fn events(&self, router: usize) -> Vec<Value> {
        self.call(router, "events").and_then(|events| events.as_array().cloned()).unwrap_or_default()
    }

    /// A router's events of this kind.
    pub fn events_of(&self, router: usize, kind: &str) -> Vec<Value> {
        self.events(router).into_iter().filter(|event| event["event"] == kind).collect()
    }

    /// These kinds of events of all routers that answer, in order of time, for the message of a test that fails.
    pub fn story(&self, kinds: &[&str]) -> String {
        let mut all = Vec::new();
        for router in 0..self.coalition.routers().len() {
            for event in
                self.events(router).into_iter().filter(|event| kinds.iter().any(|kind| event["event"] == *kind))
            {
                let (at, detail) = (event["mono_us"].as_u64(), event["detail"].as_str().unwrap_or_default());
                let member = event["member"].as_str().map_or("", |id| &id[..id.len().min(8)]);
                let (kind, epoch) = (event["event"].as_str().unwrap_or_default(), &event["epoch"]);
                all.push((at, format!("{:?} {}: {kind} {member} {epoch} {detail}", at, self.name(router))));
            }
        }
        all.sort();
        all.into_iter().map(|(_, line)| line).collect::<Vec<_>>().join("\n")
    }

    /// No key was installed a second time, in no daemon that answers.
    ///
    /// # Panics
    /// When one was.
    pub fn assert_keys_used_once(&self, routers: &[usize]) {
        for router in routers {
            let refused = self.events_of(*router, "refused");
            let again =
                refused.iter().find(|event| event["detail"].as_str().is_some_and(|why| why.starts_with("data plane")));
            assert!(again.is_none(), "{again:?} at {}", self.name(*router));
        }
    }

    /// A counter of packets that a router dropped.
    pub fn dropped(&self, router: usize, reason: &str) -> u64 {
        self.get(router, "status")["dataplane"]["dropped"][reason].as_u64().expect("a counter")
    }
}

/// One laboratory that fills the machine at a time: two would measure each other.
pub fn alone() -> MutexGuard<'static, ()> {
    static MACHINE: Mutex<()> = Mutex::new(());
    // A test that failed has let its laboratory go.
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Past the test runner, which would keep it to itself when the test passes.
pub fn say(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{line}");
}
