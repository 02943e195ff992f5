//! Who takes part in a run, and what goes wrong when.

use std::collections::BTreeSet;
use std::time::Duration;

use muster_wire::Time;

use crate::{Conditions, DEVICES, Dice, Fault, Kind};

/// What is fixed whatever the seed.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// How many nodes; `None`: 2 to 16.
    pub nodes: Option<usize>,
    /// How long a run is at least, from the start to the end of the quiet time.
    pub seconds: u64,
}

impl Default for Scope {
    fn default() -> Self {
        Self { nodes: None, seconds: 60 }
    }
}

impl Scope {
    /// The command that replays a seed.
    pub fn replay(&self, seed: u64) -> String {
        let nodes = self.nodes.map(|nodes| format!(" --nodes {nodes}")).unwrap_or_default();
        let seconds = self.seconds;
        format!("cargo run --release -p muster-sim -- --replay --seeds {seed}..{} --seconds {seconds}{nodes}", seed + 1)
    }
}

/// A fault and when it happens.
#[derive(Clone, Debug)]
pub struct Scheduled {
    /// When it begins.
    pub at: Time,
    /// How long it lasts; `None`: to the end.
    pub lasts: Option<Duration>,
    /// What.
    pub fault: Fault,
}

/// A run before it runs.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Everything random in the run comes from here.
    pub seed: u64,
    /// The devices, by number.
    pub devices: Vec<usize>,
    /// When each starts first.
    pub starts: Vec<Time>,
    /// The network at the best of times.
    pub conditions: Conditions,
    /// How old a leaf gets.
    pub leaf_refresh: Duration,
    /// What goes wrong.
    pub faults: Vec<Scheduled>,
    /// When the last fault is over.
    pub over: Time,
    /// When the run ends at the earliest.
    pub end: Time,
}

impl Plan {
    /// Leaves that are replaced after the end of any run.
    pub const SELDOM: Duration = Duration::from_secs(3600);
    /// The last fault is over so long before the end.
    const CALM: Duration = Duration::from_secs(20);
    /// A run begins when the clock of virtual time shows this.
    const BEGIN: Time = Time(1_000_000);
    /// Faults come this often on average, and in every run at least so many of so many sorts.
    const EVERY: Duration = Duration::from_secs(6);
    const LEAST: (usize, usize) = (5, 2);

    /// The plan of a seed.
    pub fn new(seed: u64, scope: Scope) -> Plan {
        let mut dice = Dice::new(seed, "plan");
        let nodes = scope.nodes.unwrap_or_else(|| 2 + dice.below(15)).clamp(1, DEVICES);
        let end = Self::BEGIN + Duration::from_secs(scope.seconds.max(40));
        let last = end - Self::CALM;
        let mut plan = Plan {
            seed,
            devices: dice.choose(nodes, DEVICES),
            starts: starts(nodes, &mut dice),
            conditions: conditions(&mut dice),
            leaf_refresh: if dice.chance(30) { dice.ms(16_000, 40_000) } else { Self::SELDOM },
            faults: Vec::new(),
            over: Self::BEGIN,
            end,
        };
        let wanted = (last.since(Self::BEGIN).as_micros() / Self::EVERY.as_micros()) as usize;
        let wanted = wanted.max(Self::LEAST.0) + dice.below(4);
        while plan.faults.len() < wanted || plan.kinds().len() < Self::LEAST.1 {
            let kind = Kind::ALL[dice.below(Kind::ALL.len())];
            let (fault, lasts) = kind.draw(nodes, &mut dice);
            let first = Self::BEGIN + Duration::from_secs(2);
            let at = first + dice.duration(Duration::ZERO, last.since(first).saturating_sub(lasts));
            // Some never come back.
            let stays_away = matches!(fault, Fault::Crash(_) | Fault::Leave(_)) && dice.chance(10);
            plan.faults.push(Scheduled { at, lasts: if stays_away { None } else { Some(lasts) }, fault });
        }
        plan.over = plan.faults.iter().map(|f| f.at + f.lasts.unwrap_or_default()).max().unwrap_or(Self::BEGIN);
        plan.over = plan.over.max(plan.starts.iter().copied().max().unwrap_or_default());
        plan
    }

    /// The sorts of faults in it.
    pub fn kinds(&self) -> BTreeSet<Kind> {
        self.faults.iter().map(|scheduled| scheduled.fault.kind()).collect()
    }
}

/// All at once, or within some seconds, or one much later.
fn starts(nodes: usize, dice: &mut Dice) -> Vec<Time> {
    let spread = [Duration::from_millis(1), Duration::from_secs(1), Duration::from_secs(10)][dice.below(3)];
    (0..nodes).map(|_| Plan::BEGIN + dice.duration(Duration::ZERO, spread)).collect()
}

/// A local network, or a wide one, or a bad one.
fn conditions(dice: &mut Dice) -> Conditions {
    let ms = Duration::from_millis;
    match dice.below(4) {
        0 => Conditions { delay: (ms(0), ms(0)), jitter: Duration::from_micros(100), loss: 0 },
        1 => Conditions { delay: (ms(1), ms(3)), jitter: ms(1), loss: 0 },
        2 => Conditions { delay: (ms(5), ms(40)), jitter: ms(5), loss: 1 },
        _ => Conditions { delay: (ms(1), ms(10)), jitter: ms(10), loss: 5 + dice.below(16) as u32 },
    }
}
