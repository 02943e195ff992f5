//! A router as a client of the key server: one task that owns the machine, its sockets and the data plane.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use caps::Capability;
use ipnet::IpNet;
use muster_dataplane::SaId;
use muster_fmke::member::{Event, Member};
use muster_fmke::phase1::Failed;
use tokio::net::UdpSocket;
use tracing::{debug, info, warn};

use super::flows::{Flows, NotCarried};
use super::refusals::Refusals;
use super::socket;
use crate::addresses::interface_index;
use crate::alarm::Alarm;
use crate::check::remarks;
use crate::clock::{now, unix_millis, unix_seconds};
use crate::control;
use crate::daemon::{
    HOUSEKEEPING, LAST_WORDS, Outside, RunError, SetLevel, WATCHING_GENERATIONS, block_on, every, io_error, tick,
};
use crate::event::{EventKind, Record};
use crate::expiry::Expiry;
use crate::notifier::alive_interval;
use crate::settings::File;
use crate::signals::Told;
use crate::worn::Worn;

mod answering;
mod connection;
mod following;
mod held_back;
mod listening;
mod numbers;
mod scraping;
mod shown;
mod starting;

use connection::Connection;
use held_back::HeldBack;
use listening::{Listening, readable};
use numbers::Numbers;
use shown::Shown;

/// So many datagrams are taken from each socket before the loop turns to something else.
const BURST: usize = 64;

/// Runs the client in the foreground until it is told to end. The block, which is to stand before, stays.
///
/// # Errors
/// What the configuration names cannot be used; the data plane has ended.
pub fn run_client(config: &Path, file: File, set_level: SetLevel) -> Result<(), RunError> {
    remarks(&file).iter().for_each(|remark| warn!("{remark}"));
    block_on(async {
        let control = file.control(config);
        // Re-key messages may come to ports below 1024, and the address may change.
        let mut outside = Outside::open(&control, &file, &[Capability::CAP_NET_BIND_SERVICE], set_level).await?;
        let mut file = file;
        // Another address is another tunnel, and after a rollback nothing is used that was: it starts anew each time.
        while let Some(address) = outside.next_address(&file).await? {
            match Client::start(config, file, address, outside)?.run().await? {
                Some(again) => (file, outside) = again,
                None => return Ok(()),
            }
        }
        Ok(())
    })
}

struct Client {
    config: PathBuf,
    outside: Outside,
    file: File,
    member: Member,
    flows: Flows,
    address: IpAddr,
    /// Of black's interface: one that was made anew has another.
    index: u32,
    own_prefixes: Vec<IpNet>,
    server: SocketAddr,
    connection: Connection,
    shown: Shown,
    expiry: Expiry,
    socket: UdpSocket,
    /// For re-key messages.
    listening: Listening<UdpSocket>,
    /// Without a return channel: what was taken before a restart.
    numbers: Option<Numbers>,
    /// That could not be kept, which is told once.
    forgetful: bool,
    /// What is not done until it is.
    held_back: HeldBack,
    buffer: Vec<u8>,
    refused: Refusals,
    unsent: u64,
    worn: Worn,
}

/// Why the loop ends.
enum End {
    /// Told to.
    Leave,
    /// Another address, or a snapshot: what goes on is another client.
    Anew,
}

impl Client {
    async fn run(mut self) -> Result<Option<(File, Outside)>, RunError> {
        let mut alarm = Alarm::new().map_err(io_error("timerfd"))?;
        let mut housekeeping = every(HOUSEKEEPING);
        let mut alive = alive_interval().map(every);
        let mut more = false;
        self.outside.notifier.ready();
        let end = loop {
            // A process goes on where its snapshot stopped it, which may be anywhere here.
            if self.outside.rollback.has_happened().map_err(io_error(WATCHING_GENERATIONS))? {
                return Ok(Some(self.start_anew()));
            }
            self.act();
            let deadline = self.member.poll_timeout();
            if more {
                tokio::task::yield_now().await;
            }
            tokio::select! {
                // Datagrams are taken after whatever it was: who sends without end keeps nothing else from being seen.
                biased;
                noticed = self.outside.rollback.noticed() => {
                    noticed.map_err(io_error(WATCHING_GENERATIONS))?;
                    return Ok(Some(self.start_anew()));
                }
                told = self.outside.signals.next() => match told {
                    Told::Reload => drop(self.reload().await),
                    Told::End => break End::Leave,
                },
                rung = alarm.ring(now(), deadline) => rung.map_err(io_error("timerfd"))?,
                _ = housekeeping.tick() => self.keep_house()?,
                () = tick(&mut alive) => self.outside.notifier.alive(),
                changed = self.outside.watch.changed() => {
                    changed.map_err(io_error("watching the interfaces"))?;
                    if self.follow_addresses() {
                        break End::Anew;
                    }
                }
                Some((request, answer)) = self.outside.asked.recv() => {
                    let response = self.answer(&request).await;
                    let leaves = response.is_ok() && request == control::Request::Leave;
                    // Whoever asked may be gone.
                    let _ = answer.send(response);
                    if leaves {
                        break End::Leave;
                    }
                }
                answer = self.outside.metrics.asked() => {
                    let _ = answer.send(self.metrics());
                }
                () = readable(&self.socket, &self.listening) => {}
                () = std::future::ready(()), if more => {}
            }
            more = self.take_datagrams();
            if self.member.poll_timeout().is_some_and(|due| due <= now()) {
                self.member.handle_timeout(now());
            }
        };
        Ok(self.finish(end).await)
    }

    fn take_datagrams(&mut self) -> bool {
        let Client { member, refused, buffer, shown, .. } = self;
        let (at, mut misfits) = (now(), Vec::new());
        let mut take = |from: SocketAddr, bytes: &[u8]| {
            if let Err(why) = member.handle_datagram(at, from, bytes, &shown.certificates) {
                refused.add(from, &why);
                misfits.extend(why.of_peer());
            }
        };
        let sockets = std::iter::once(&self.socket).chain(self.listening.sockets());
        // Of each: it is no question of whether any has more.
        let more: Vec<bool> = sockets.map(|socket| socket::receive(socket, buffer, BURST, &mut take)).collect();
        misfits.into_iter().for_each(|why| self.happened(&Event::Refused(Failed::Refused(why))));
        more.contains(&true)
    }

    /// Does all that the machine wants done: first what is received and sent under, then what tells the key server so.
    fn act(&mut self) {
        let is_kept = self.keep_number();
        while let Some(change) = self.member.poll_change() {
            self.held_back.add(change);
        }
        for change in self.held_back.take(is_kept) {
            self.change_flows(|flows| flows.apply(change));
        }
        if !is_kept {
            return;
        }
        self.listen(false);
        while let Some(datagram) = self.member.poll_transmit() {
            if let Err(why) = socket::send(&self.socket, datagram.to, &datagram.bytes) {
                self.unsent += 1;
                debug!(to = %datagram.to, "not sent: {why}");
            }
        }
        while let Some(event) = self.member.poll_event() {
            self.happened(&event);
        }
        self.tell_status();
    }

    fn happened(&mut self, event: &Event) {
        if self.connection.note(now(), unix_millis(), event) {
            self.tell(kind_of(event), event.to_string());
        }
    }

    /// Changes what is carried, and tells what is refused and what goes unprotected now.
    fn change_flows(&mut self, change: impl FnOnce(&mut Flows) -> Result<(), NotCarried>) {
        let of = |flows: &Flows| (flows.bypass.granted().to_vec(), flows.bypass.refused().to_vec());
        let (granted, refused) = of(&self.flows);
        if let Err(why) = change(&mut self.flows) {
            self.tell(EventKind::Refused, why.to_string());
        }
        let (granted_now, refused_now) = of(&self.flows);
        for (selector, why) in refused_now.iter().filter(|one| !refused.contains(one)) {
            self.tell(EventKind::Refused, format!("{selector} unprotected: {why}"));
        }
        if granted_now != granted {
            let list: Vec<String> = granted_now.iter().map(ToString::to_string).collect();
            let told = if list.is_empty() { "nothing".to_owned() } else { list.join(", ") };
            self.tell(EventKind::Bypass, told);
        }
    }

    /// Keeps the number of what came last, without a return channel: before that nothing new is done that it says, or a replay of it
    /// would be done after a restart. Tried again each time.
    fn keep_number(&mut self) -> bool {
        let (Some(numbers), Some(next)) = (&mut self.numbers, self.member.next_number()) else { return true };
        let kept = numbers.keep(next);
        let was_forgetful = std::mem::replace(&mut self.forgetful, kept.is_err());
        match kept {
            Err(why) if !was_forgetful => {
                self.tell(EventKind::Failed, format!("nothing new is taken: device.state_dir: {why}"));
                false
            }
            kept => kept.is_ok(),
        }
    }

    fn keep_house(&mut self) -> Result<(), RunError> {
        if let Some(why) = self.flows.dataplane().failure() {
            return Err(RunError::Ended(why));
        }
        self.listen(true);
        for (_, SaId { destination, spi }) in self.worn.news(self.flows.dataplane().worn()) {
            warn!(
                %destination, spi = format!("{spi:#010x}"),
                "a quarter of the sequence numbers of an SA are used up: have the key server renew it sooner"
            );
        }
        if let Some(warning) = self.shown.certificates.end().and_then(|end| self.expiry.look(end, unix_seconds())) {
            warn!("{warning}; replace it and reload (muster reload)");
            self.tell(EventKind::Expiring, warning);
        }
        Ok(())
    }

    /// The machine was rolled back: nothing more goes out under what this client holds, not even a farewell.
    fn start_anew(mut self) -> (File, Outside) {
        warn!("this machine was rolled back to a snapshot, or copied: starting anew");
        self.tell(EventKind::RolledBack, String::new());
        (self.file, self.outside)
    }

    /// Takes leave of the key server. The SAs go with the data plane.
    async fn finish(mut self, end: End) -> Option<(File, Outside)> {
        if let End::Anew = end {
            return Some((self.file, self.outside));
        }
        self.outside.notifier.stopping();
        self.member.close();
        self.act();
        self.tell(EventKind::Stopped, String::new());
        info!("left the key server; the block stays");
        tokio::time::sleep(LAST_WORDS).await;
        None
    }

    fn tell_status(&mut self) {
        let (sas, groups) = (self.member.sas(), self.listening.sockets().count());
        let state = match &self.numbers {
            Some(_) => "listening to",
            None if self.member.is_connected() => "connected with",
            None => "connecting with",
        };
        let status = format!("{state} the key server {}: {groups} groups, {sas} SAs", self.server);
        self.outside.notifier.status(status);
    }

    fn tell(&mut self, kind: EventKind, detail: String) {
        self.outside.report.add(&Record { kind, member: None, epoch: 0, detail });
    }
}

fn kind_of(event: &Event) -> EventKind {
    match event {
        Event::Connected => EventKind::Connected,
        Event::Disconnected { .. } => EventKind::Disconnected,
        Event::Refused(_) => EventKind::Refused,
        Event::Joined { .. } => EventKind::Join,
        Event::Rekeyed { .. } => EventKind::Rekeyed,
        Event::Left { .. } => EventKind::Leave,
        Event::Lost { .. } => EventKind::Lost,
    }
}
