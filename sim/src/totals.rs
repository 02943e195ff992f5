//! What runs contained, so that nobody takes calm for correctness.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::AddAssign;

use muster_keyagree::Counters;
use muster_wire::MemberId;

use crate::Entered;

macro_rules! totals {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What happened in one or many runs.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Totals { $($(#[$doc])* pub $name: u64,)* }

        impl AddAssign for Totals {
            fn add_assign(&mut self, other: Totals) {
                $(self.$name += other.$name;)*
            }
        }

        impl Totals {
            /// Names and numbers.
            pub fn list(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name)),*]
            }
        }
    };
}
totals! {
    /// Runs.
    runs,
    /// Seconds of virtual time.
    seconds,
    /// Nodes.
    nodes,
    /// Faults.
    faults,
    /// Processes started anew.
    restarts,
    /// Epochs entered, counted at each node.
    epochs,
    /// Commits.
    commits,
    /// Devices that commits took in.
    joins,
    /// Devices of groups of two or more that entered the group of another transaction manager by a hand-over.
    merges,
    /// Claims to the place of a transaction manager that was gone.
    successions,
    /// Members that a commit shut out.
    exclusions,
    /// Snapshots that brought a member back.
    recoveries,
    /// Parts of messages asked for again.
    repairs,
    /// Blank parents keyed between commits.
    fills,
    /// Fresh leaves of members that commits took in.
    refreshes,
    /// Transaction managers caught with two headers for one epoch, counted at each node.
    exposures,
    /// Devices whose certificates were revoked.
    revocations,
    /// Datagrams sent.
    sent,
    /// Forged, mutilated and repeated datagrams.
    attacks,
    /// Datagrams that somebody else signed with a member's key.
    forgeries,
    /// Second headers for an epoch.
    equivocations,
    /// Many hand-overs of one member at once, and snapshots once more.
    floods,
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list: Vec<String> = self.list().iter().map(|(name, number)| format!("{name} {number}")).collect();
        f.write_str(&list.join(", "))
    }
}

/// Totals of a run as it runs.
pub(crate) struct Tally {
    pub(crate) totals: Totals,
    /// Where each node is.
    groups: Vec<Option<(MemberId, BTreeSet<MemberId>)>>,
    started: Vec<bool>,
}

impl Tally {
    pub(crate) fn new(nodes: usize) -> Self {
        Self { totals: Totals::default(), groups: vec![None; nodes], started: vec![false; nodes] }
    }

    pub(crate) fn started(&mut self, node: usize) {
        self.totals.restarts += u64::from(self.started[node]);
        self.started[node] = true;
    }

    pub(crate) fn stopped(&mut self, node: usize) {
        self.groups[node] = None;
    }

    pub(crate) fn entered(&mut self, entered: &Entered) {
        let tm = entered.instance.tm;
        let members: BTreeSet<MemberId> = entered.senders.iter().map(|sender| sender.member).collect();
        if let Some((old_tm, old)) = &self.groups[entered.node] {
            if entered.member == tm && members.len() > 1 {
                self.totals.exclusions += old.difference(&members).count() as u64;
            }
            self.totals.merges += u64::from(old.len() > 1 && !old.contains(&tm) && members.contains(old_tm));
        }
        self.groups[entered.node] = Some((tm, members));
    }

    /// Adds what a process had counted.
    pub(crate) fn process_ended(&mut self, counters: Counters) {
        let totals = &mut self.totals;
        totals.epochs += counters.epochs;
        totals.commits += counters.commits;
        totals.joins += counters.joins;
        totals.successions += counters.claims;
        totals.recoveries += counters.recoveries;
        totals.repairs += counters.repairs;
        totals.fills += counters.fills;
        totals.refreshes += counters.refreshes;
        totals.exposures += counters.exposures;
    }
}
