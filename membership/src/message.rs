//! What the messages of all versions say.

use std::net::IpAddr;
use std::time::Duration;

/// One message of IGMP or MLD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A router asks.
    Query(Query),
    /// A host says what it listens to.
    Report(Version, Vec<Record>),
}

/// Of the host that reports. MLD's two are the second and the third.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// IGMPv1 (RFC 1112): no leaving.
    First,
    /// IGMPv2 (RFC 2236), MLDv1 (RFC 2710): no sources.
    Second,
    /// IGMPv3 (RFC 3376), MLDv2 (RFC 3810).
    Third,
}

/// RFC 3376 4.1, RFC 3810 5.1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// Which group it asks for; `None`: for all.
    pub group: Option<IpAddr>,
    /// Which sources of the group; none: for the group as a whole.
    pub sources: Vec<IpAddr>,
    /// Hosts answer within this.
    pub max_response: Duration,
    /// Other routers are not to lower their timers (the S flag).
    pub suppress: bool,
    /// Messages that may be lost less one; 0: not said, or above 7.
    pub robustness: u8,
    /// Between general queries; zero: not said.
    pub interval: Duration,
}

/// What a host says of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The group.
    pub group: IpAddr,
    /// What of its sources.
    pub change: Change,
    /// The sources.
    pub sources: Vec<IpAddr>,
}

/// RFC 3376 4.2.12, RFC 3810 5.2.12.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Listens to these sources alone.
    IsInclude,
    /// Listens to all but these.
    IsExclude,
    /// As `IsInclude`, and did not before.
    ToInclude,
    /// As `IsExclude`, and did not before.
    ToExclude,
    /// These sources, too.
    Allow,
    /// These no longer.
    Block,
}

impl Change {
    pub(crate) fn from_code(code: u8) -> Option<Change> {
        Some(match code {
            1 => Change::IsInclude,
            2 => Change::IsExclude,
            3 => Change::ToInclude,
            4 => Change::ToExclude,
            5 => Change::Allow,
            6 => Change::Block,
            // "Unrecognized Record Type values MUST be silently ignored" (RFC 3376 4.2.12)
            _ => return None,
        })
    }
}
