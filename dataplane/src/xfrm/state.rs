//! What this instance has in the kernel, and how that changes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use ipnet::IpNet;
use muster_wire::MemberId;

use super::FIRST_REQID;
use super::device::Device;
use super::dump::each_sa;
use super::filter::Filter;
use super::memberships::Memberships;
use super::request::{PolicyAction, PolicyKey, Progress};
use super::spd::{Carries, Entry, Senders};
use super::statistics::Statistics;
use super::way_out::WayOut;
use crate::netlink::batch::{BatchSocket, Request};
use crate::sa::REKEY_AT;
use crate::{Direction, Error, FlowId, SaId, Selector};

/// What the kernel was told.
pub(super) struct State {
    /// The interface's number: what is ours in the kernel bears it.
    pub(super) if_id: u32,
    pub(super) socket: BatchSocket,
    pub(super) filter: Filter,
    pub(super) device: Device,
    pub(super) statistics: Statistics,
    /// Kept as well by whoever watches the interfaces.
    pub(super) way_out: Arc<Mutex<WayOut>>,
    pub(super) black: IpAddr,
    pub(super) memberships: Memberships,
    pub(super) sas: BTreeMap<SaId, Entry>,
    pub(super) senders: Senders,
    /// Flows that are to have SAs and have none.
    pub(super) stopped: BTreeMap<FlowId, Selector>,
    pub(super) routes: BTreeMap<MemberId, Vec<IpNet>>,
    pub(super) policies: BTreeMap<PolicyKey, PolicyAction>,
    pub(super) reqids: HashMap<Carries, u32>,
    pub(super) next_reqid: u32,
    /// Outbound SAs before the ones in use, which packets may still be on their way under; when they go.
    pub(super) retired: Vec<(Instant, SaId)>,
    /// Outbound SAs that have carried so many packets that another is due.
    pub(super) worn: HashSet<SaId>,
}

/// Where an SA is to be, and from which address it is to send.
pub(super) struct Move {
    pub(super) from: SaId,
    pub(super) to: SaId,
    pub(super) source: Option<IpAddr>,
}

impl State {
    /// Of the inbound SAs that may carry the same.
    pub(super) fn reqid_of(&mut self, carries: Carries) -> u32 {
        if let Some(reqid) = self.reqids.get(&carries) {
            return *reqid;
        }
        let reqid = self.fresh_reqid();
        self.reqids.insert(carries, reqid);
        reqid
    }

    pub(super) fn fresh_reqid(&mut self) -> u32 {
        let reqid = self.next_reqid;
        self.next_reqid = self.next_reqid.checked_add(1).unwrap_or(FIRST_REQID);
        reqid
    }

    pub(super) fn next_retirement(&self) -> Option<Instant> {
        self.retired.iter().map(|(at, _)| *at).min()
    }

    pub(super) fn remove_retired(&mut self, now: Instant) -> Result<(), Error> {
        let (due, later) = self.retired.iter().partition(|(at, _)| *at <= now);
        self.retired = later;
        let due: Vec<(Instant, SaId)> = due;
        self.remove(&due.into_iter().map(|(_, id)| id).collect::<Vec<_>>())
    }

    /// Gives SAs other addresses: their keys are the senders', not the addresses'. One that cannot be moved is gone.
    pub(super) fn move_sas(&mut self, moves: &[Move]) -> Result<(), Error> {
        let mut reached: HashMap<SaId, Progress> = HashMap::new();
        let State { socket, sas, if_id, .. } = self;
        each_sa(socket, *if_id, |found| {
            let direction = sas.get(&found.id).map(|entry| entry.place.direction);
            reached.extend(direction.map(|direction| (found.id, found.progress(direction))));
        })?;
        let mut added = Vec::new();
        for Move { from, to, source } in moves {
            let (Some(mut entry), Some(progress)) = (self.sas.remove(from), reached.remove(from)) else { continue };
            if let Some(source) = *source {
                (entry.place.source, entry.source) = (source, Some(source));
            }
            added.push(Request::add_sa(*to, &entry.key, entry.place, ahead(progress)));
            if self.worn.remove(from) {
                self.worn.insert(*to);
            }
            self.sas.insert(*to, entry);
        }
        // One that stays under its number goes before it can come again; the others stand until they have come.
        let (in_place, away): (Vec<&Move>, Vec<&Move>) = moves.iter().partition(|one| one.from == one.to);
        let gone = |moves: Vec<&Move>| moves.into_iter().map(|one| Request::delete_sa(one.from)).collect::<Vec<_>>();
        self.socket.demand(gone(in_place), &[libc::ESRCH])?;
        let added = self.socket.demand(added, &[]);
        self.socket.demand(gone(away), &[libc::ESRCH])?;
        added
    }

    /// Whether all that was installed is there.
    pub(super) fn check(&mut self) -> Result<(), Error> {
        let mut stand = HashSet::new();
        let State { socket, sas, if_id, worn, .. } = self;
        each_sa(socket, *if_id, |found| {
            stand.insert(found.id);
            // That may have been among what was missed.
            let is_worn = |entry: &&Entry| {
                entry.place.direction == Direction::Out && u64::from(found.sequence(Direction::Out)) >= REKEY_AT
            };
            worn.extend(sas.get(&found.id).filter(is_worn).map(|_| found.id));
        })?;
        match self.sas.keys().find(|id| !stand.contains(id)) {
            None => Ok(()),
            Some(SaId { destination, spi }) => Err(Error::Lost(format!(
                "somebody has removed the SA to {destination} with SPI {spi:#010x} from the kernel"
            ))),
        }
    }

    /// Removes SAs of ours; others and unknown ones are passed over.
    pub(super) fn remove(&mut self, ids: &[SaId]) -> Result<(), Error> {
        let known: Vec<SaId> = ids.iter().copied().filter(|id| self.sas.contains_key(id)).collect();
        if known.is_empty() {
            return Ok(());
        }
        self.socket.demand(known.iter().map(|id| Request::delete_sa(*id)), &[libc::ESRCH])?;
        for id in &known {
            self.sas.remove(id);
            self.worn.remove(id);
        }
        // Else one that comes under the same number soon would go in its place.
        self.retired.retain(|(_, id)| self.sas.contains_key(id));
        self.forget_numbers();
        Ok(())
    }

    /// Leaves nothing of an installation that was refused, or of which the kernel may have taken some. What it has under such a number
    /// and not under ours is another's, and stays.
    pub(super) fn take_back(&mut self, ids: &[SaId]) -> Result<(), Error> {
        ids.iter().for_each(|id| drop(self.sas.remove(id)));
        self.forget_numbers();
        let (mut taken, ids) = (Vec::new(), ids.iter().collect::<HashSet<_>>());
        let State { socket, if_id, .. } = self;
        each_sa(socket, *if_id, |found| taken.extend(ids.contains(&found.id).then_some(found.id)))?;
        socket.demand(taken.into_iter().map(Request::delete_sa), &[libc::ESRCH])
    }

    /// A number means the same as long as SAs bear it.
    fn forget_numbers(&mut self) {
        let carried: HashSet<_> = self.sas.values().map(Entry::carries).collect();
        self.reqids.retain(|carries, _| carried.contains(carries));
    }
}

/// Packets may have gone since the kernel was asked, and a number that comes twice is dropped as a replay.
fn ahead(progress: Progress) -> Progress {
    const SURELY_LESS: u32 = 1 << 16;
    match progress {
        Progress::Sent(sent) => Progress::Sent(sent.saturating_add(SURELY_LESS)),
        other => other,
    }
}
