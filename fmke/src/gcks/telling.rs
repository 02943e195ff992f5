//! What is said to clients, and what of it is under way: by multicast of a group, by phase 2 all else.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use muster_wire::Time;
use rand_core::Rng;

use super::event::Event;
use super::group::Outcome;
use super::machine::Gcks;
use super::profile::{Group, Profiles};
use super::session::{Session, Subject};
use super::store::Write;
use super::tek::delete_teks;
use crate::isakmp::exchange;
use crate::phase1::Datagram;
use crate::push::{Push, UnicastDue};

impl Gcks {
    /// Those who are connected hear what has changed in what they are to protect.
    pub(super) fn tell_spds(&mut self, now: Time, before: &Profiles) {
        let profiles = self.profiles.clone();
        let connected: Vec<String> = self.sessions.keys().cloned().collect();
        let were = before.spds(connected.iter().map(String::as_str));
        for (client, spd) in profiles.spds(connected.iter().map(String::as_str)) {
            if were.get(client) != Some(&spd) {
                self.push(now, client, &spd.pushes());
            }
        }
    }

    /// What was taken away and it may still hold.
    pub(super) fn tell_gone(&mut self, now: Time, client: &str) {
        self.gone.retain(|spi, until| {
            let may_be_held = *until > now;
            if !may_be_held {
                self.writes.push(Write::not_gone(*spi));
            }
            may_be_held
        });
        if self.gone.is_empty() {
            return;
        }
        if self.one_way.contains_key(client) {
            let gone: Vec<u32> = self.gone.keys().copied().collect();
            let push = |delete| Push { deletes: vec![delete], ..Push::default() };
            let pushes: Vec<Push> = delete_teks(self.doi, &gone).into_iter().map(push).collect();
            return self.push(now, client, &pushes);
        }
        if let Some(session) = self.sessions.get_mut(client) {
            session.tell_gone();
            self.attend_unsaid(now, client);
        }
    }

    /// All of a group, to one of its members.
    pub(super) fn tell_group(&mut self, now: Time, client: &str, name: &str, profile: &Group) {
        let pushes = self.context(|gcks, ctx| gcks.groups.get(name).map(|state| state.push_for(client, profile, ctx)));
        self.push_all(now, client, Some(&Subject::Group(name.to_owned())), &pushes.unwrap_or_default());
    }

    pub(super) fn tell(&mut self, now: Time, name: &str, profile: &Group, outcome: Outcome) {
        let Outcome { multicast, told, gone, rekeyed, has_deleted } = outcome;
        let to = SocketAddr::from(profile.rekey);
        self.out.extend(multicast.into_iter().map(|bytes| Datagram { to, bytes }));
        // What is on its way to these is of the keys before.
        let one_way = self.one_way.iter().filter(|(_, terminal)| terminal.is_behind(now)).map(|(client, _)| client);
        let told_now: BTreeSet<&String> = told.iter().collect();
        let behind = self.behind.iter().chain(one_way).filter(|client| rekeyed && !told_now.contains(client));
        let is_member =
            |client: &&String| self.groups.get(name).is_some_and(|state| state.places.contains_key(*client));
        let behind: Vec<String> = behind.filter(is_member).cloned().collect();
        let told = told.into_iter().map(|client| (client, has_deleted)).collect::<Vec<_>>();
        for (client, is_told_of_gone) in told.into_iter().chain(behind.into_iter().map(|client| (client, true))) {
            // Who is told of the group as it is now takes no multicast of before, such as one that said what goes.
            if is_told_of_gone {
                self.tell_gone(now, &client);
            }
            self.tell_group(now, &client, name, profile);
        }
        if rekeyed {
            let members = self.groups.get(name).map_or(0, |state| state.places.len());
            self.events.push_back(Event::Rekeyed { group: name.to_owned(), members, gone });
        }
    }

    /// Phase 2, if the client is connected: else it gets all when it connects.
    pub(super) fn push(&mut self, now: Time, client: &str, pushes: &[Push]) {
        self.push_all(now, client, None, pushes);
    }

    /// The same; it may be all there is of a subject.
    pub(super) fn push_all(&mut self, now: Time, client: &str, subject: Option<&Subject>, pushes: &[Push]) {
        if let Some(terminal) = self.one_way.get_mut(client) {
            for push in pushes.iter().filter(|push| !push.is_empty()) {
                self.out.extend(terminal.push(now, push, &mut self.numbers, &mut self.writes));
            }
            self.set_timer(client);
            return;
        }
        let Some(session) = self.sessions.get_mut(client) else { return };
        session.tell(subject, pushes);
        self.attend_unsaid(now, client);
    }

    /// What a client has not been told yet is under way as far as may be.
    fn attend_unsaid(&mut self, now: Time, client: &str) {
        if self.sessions.get(client).is_none_or(Session::is_done) {
            return;
        }
        self.behind.insert(client.to_owned());
        if self.to_tell.back().is_none_or(|(_, last)| last != client) {
            self.to_tell.push_back((now, client.to_owned()));
        }
        self.seal_due(now, client);
    }

    /// Makes messages of what may be under way now.
    fn seal_due(&mut self, now: Time, client: &str) {
        let Some(session) = self.sessions.get_mut(client) else { return };
        let Some(sa) = self.responder.sa(session.sa) else { return };
        while let Some(push) = session.next(&self.gone, self.doi) {
            let mut chain = push.chain(session.sender.next_number(), self.doi);
            // "HASH(1) = prf(SKEYID_a, SEQ | SA |KD )" (draft 3.1)
            sa.add_hash(&[], &mut chain);
            let message_id = self.rng.next_u32().max(1);
            session.sender.push(now, sa.seal(exchange::UNICAST_PUSH, message_id, &chain));
        }
    }

    pub(super) fn send_due(&mut self, now: Time, client: &str) {
        self.seal_due(now, client);
        let Some(session) = self.sessions.get_mut(client) else { return };
        let sa = session.sa;
        match session.sender.due(now) {
            UnicastDue::Send(datagrams) => {
                let timeout = session.sender.timeout();
                // A later one stands in the list already, or an earlier one, which finds nothing due.
                if let Some(at) = timeout.filter(|at| session.timer.is_none_or(|timer| *at < timer)) {
                    session.timer = Some(at);
                    self.timers.insert((at, client.to_owned()));
                }
                datagrams.into_iter().for_each(|datagram| self.responder.send(sa, datagram));
            }
            // "If the member cannot acknowledge the GCKS messages, the connection is closed." (draft 3.1)
            UnicastDue::GiveUp => {
                self.disconnect(client);
                let why = "it does not acknowledge".to_owned();
                self.events.push_back(Event::Closed { client: client.to_owned(), why });
            }
        }
    }
}
