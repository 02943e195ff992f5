//! Checks nothing, and prints what happens: for people who look for the cause of a failure.

use std::collections::BTreeMap;

use muster_wire::mike::{Ack, Chunk, Request};
use muster_wire::{Destination, Envelope, Kind, MemberId, Time, Transmit, Voucher};

use super::{Attack, Check, Reaction, Verdict};
use crate::{Fact, Node};

/// Prints every fact, and every datagram that is no hello or question of discovery.
#[derive(Default)]
pub struct Log {
    names: BTreeMap<MemberId, usize>,
}

impl Log {
    fn name(&self, member: &MemberId) -> String {
        self.names.get(member).map_or_else(|| format!("{member:?}"), |node| format!("#{node}"))
    }
}

impl Check for Log {
    fn name(&self) -> &'static str {
        "log"
    }

    fn fact(&mut self, at: Time, fact: &Fact) -> Verdict {
        let at = at.0 as f64 / 1e6;
        match fact {
            Fact::Started { node, startup } => println!("{at:10.6} #{node} STARTED {startup}"),
            Fact::Entered(entered) => {
                self.names.insert(entered.member, entered.node);
                let members: Vec<_> = entered.senders.iter().map(|sender| self.name(&sender.member)).collect();
                let (node, epoch, header) = (entered.node, entered.epoch, entered.header);
                let tm = self.name(&entered.instance.tm);
                println!("{at:10.6} #{node} ENTERED epoch {epoch} of {tm} {header:?} {}", members.join(" "));
            }
            Fact::Activated { node, header } => println!("{at:10.6} #{node} activated {header:?}"),
            Fact::Retired { node, header } => println!("{at:10.6} #{node} retired {header:?}"),
            Fact::Recorded { node, record } => {
                let member = record.member.map(|member| self.name(&member)).unwrap_or_default();
                println!("{at:10.6} #{node} {:?} {member} {}", record.kind, record.detail);
            }
            Fact::TakenOver { node, .. } => println!("{at:10.6} #{node} TAKEN OVER"),
            Fact::Stopped { node } => println!("{at:10.6} #{node} STOPPED"),
        }
        Ok(())
    }

    fn sent(&mut self, at: Time, from: usize, transmit: &Transmit) -> Verdict {
        let at = at.0 as f64 / 1e6;
        let Ok(envelope) = Envelope::parse(Voucher::split(&transmit.bytes).1) else { return Ok(()) };
        let kind = envelope.header().kind;
        if kind < Kind::Chunk {
            return Ok(());
        }
        let to = match transmit.to {
            Destination::Group => "all".into(),
            Destination::Unicast(address) => format!("#{:?}", Node::at(address).unwrap_or_default()),
        };
        let detail = match kind {
            Kind::Chunk => envelope.decode::<Chunk>().map(|c| format!("{:?} {} {:?}", c.kind, c.index, c.header)),
            Kind::Request => envelope.decode::<Request>().map(|r| format!("{:?} {:?}", r.message, &r.missing[..])),
            Kind::Ack => envelope.decode::<Ack>().map(|ack| format!("{:?}", ack.header)),
            _ => Ok(String::new()),
        };
        println!("{at:10.6} #{from} → {to} {kind:?} {}", detail.unwrap_or_default());
        Ok(())
    }

    fn attack(&mut self, attack: &Attack, reaction: &Reaction) -> Verdict {
        let (node, (kind, length)) = (reaction.before.node, reaction.datagram);
        if !reaction.sent.is_empty() {
            println!("           #{node} answers {attack:?} of {kind:?}, {length} bytes, with {:?}", reaction.sent);
        }
        Ok(())
    }
}
