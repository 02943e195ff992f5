//! A transaction manager that signs two headers for one epoch divides its members. Whoever sees both shows them to all.

use std::collections::VecDeque;

use muster_wire::mike::{EpochHeader, Exposure};
use muster_wire::{Destination, Instance, MemberId, Signed, Time};

use crate::epoch::header_hash;
use crate::{Event, KeyAgreement, Refusal};

/// Headers that are remembered for comparison.
const MAX_SEEN: usize = 16;

/// The headers of the last epochs.
#[derive(Default)]
pub(crate) struct SeenHeaders(VecDeque<Signed<EpochHeader>>);

impl SeenHeaders {
    pub(crate) fn remember(&mut self, signed: Signed<EpochHeader>) {
        if self.0.len() >= MAX_SEEN {
            self.0.pop_front();
        }
        self.0.push_back(signed);
    }

    /// Another header for the same epoch of the same reign.
    fn rival(&self, signed: &Signed<EpochHeader>, header: &EpochHeader) -> Option<&Signed<EpochHeader>> {
        self.0.iter().find(|seen| {
            seen.signed_bytes() != signed.signed_bytes() && seen.decode().is_ok_and(|seen| is_same_epoch(&seen, header))
        })
    }
}

fn is_same_epoch(a: &EpochHeader, b: &EpochHeader) -> bool {
    a.group == b.group && a.instance == b.instance && a.epoch == b.epoch
}

impl KeyAgreement {
    /// A member names another header for the epoch that we are in: it lies, or the transaction manager has divided its
    /// members. Only the member itself is asked, and not often: a liar costs nobody else anything.
    pub(crate) fn ask_for_other_header(&mut self, now: Time, member: &MemberId) {
        let every = self.config.hello_interval;
        let Some(peer) = self.roster.get_mut(member) else { return };
        if peer.compared.is_none_or(|at| now.since(at) >= every) {
            peer.compared = Some(now);
            self.request_snapshot(member);
        }
    }

    /// A header whose signature is right: is it the second one of an epoch that we have been in?
    pub(crate) fn compare(&mut self, now: Time, signed: &Signed<EpochHeader>, header: &EpochHeader) {
        if let Some(rival) = self.seen.rival(signed, header).cloned() {
            self.expose(now, header.instance, rival, signed.clone());
        }
    }

    pub(crate) fn handle_exposure(&mut self, now: Time, named: &Exposure) -> Result<(), Refusal> {
        let (first, second) = (named.first.decode()?, named.second.decode()?);
        if first.group != self.author.group()
            || !is_same_epoch(&first, &second)
            || header_hash(&named.first) == header_hash(&named.second)
        {
            return Err(Refusal::Rule("an exposure shows two headers of one epoch"));
        }
        let Some(peer) = self.roster.get(&first.instance.tm).filter(|peer| peer.is_to_expose(&first.instance)) else {
            return Ok(());
        };
        let key = peer.key;
        key.verify(&named.first)?;
        key.verify(&named.second)?;
        self.expose(now, first.instance, named.first.clone(), named.second.clone());
        Ok(())
    }

    /// Nothing that it signs counts any more while its process lives. Told once, so that all know.
    fn expose(&mut self, now: Time, reign: Instance, first: Signed<EpochHeader>, second: Signed<EpochHeader>) {
        let tm = reign.tm;
        let Some(peer) = self.roster.get_mut(&tm).filter(|peer| peer.is_to_expose(&reign)) else { return };
        peer.exposed = true;
        self.counters.exposures += 1;
        self.events.push_back(Event::Exposed { tm });
        self.send(Destination::Group, &Exposure { first, second });
        if self.join.as_ref().is_some_and(|join| join.target.tm == tm) {
            self.give_up_join(now);
        }
        self.check_manager(now);
    }
}
