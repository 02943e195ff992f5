//! What may cross in clear though the block stands: unicast that the policy leaves unprotected (RFC 4301 4.4.1, BYPASS).
//!
//! Rules before those of the block (`block.rs`), of both families; i is the instance:
//!
//! | priority | rule | |
//! |---|---|---|
//! | 7 | `iif BLACK from OWN goto 10 + i` | nobody on black has an own address |
//! | 8 | `iif BLACK` and what answers a selector: `lookup 0x4d00 + i` | to red, by the table that leads there alone |
//! | 10 + i | `iif RED` and a selector: `lookup main` | |
//!
//! What answers is the selector turned around: nobody keeps in mind who began, but TCP shows it (`answers.rs`). A selector is
//! cut down to the own prefixes: nothing else leaves. They are kernel state, as the block is, but end with the data plane: what
//! a killed one has left, the next start and `muster block` take away.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::Handle;
use tracing::warn;

use crate::answers::{self, Answers};
use crate::block::{BLACK_PRIORITY, BlockConfig, table};
use crate::netlink::batch::{BatchSocket, Request};
use crate::netlink::{self, Action, Packets, Rule, RuleFamily};
use crate::nft::Watched;
use crate::{Error, Selector};

const GUARD_PRIORITY: u32 = 7;
const ANSWERS_PRIORITY: u32 = 8;
const _: () = assert!(GUARD_PRIORITY < ANSWERS_PRIORITY && ANSWERS_PRIORITY < BLACK_PRIORITY);
const MAIN: u32 = libc::RT_TABLE_MAIN as u32;

/// The rules of one instance; removed when this is dropped.
pub(crate) struct Bypass(Arc<Mutex<State>>);

struct State {
    /// Of the network namespace that it was made in, whoever asks later.
    socket: BatchSocket,
    answers: Answers,
    config: BlockConfig,
    selectors: Vec<Selector>,
    /// What the kernel was told.
    standing: Vec<Rule>,
}

impl Bypass {
    /// Nothing crosses at first; what a killed predecessor has left goes.
    pub(crate) fn start(config: BlockConfig) -> Result<Self, Error> {
        netlink::run(async |handle| remove_left_over(handle, config.instance).await)?;
        let socket = BatchSocket::open(netlink_sys::protocols::NETLINK_ROUTE, "opening a netlink socket")?;
        let answers = Answers::new(config.instance);
        let state = State { socket, answers, config, selectors: Vec::new(), standing: Vec::new() };
        Ok(Bypass(Arc::new(Mutex::new(state))))
    }

    /// The table that keeps TCP from being begun from black. `None`: a kernel without nf_tables.
    pub(crate) fn watched(&self) -> Option<Watched> {
        let state = self.0.clone();
        let restore = move || state.lock().unwrap_or_else(PoisonError::into_inner).guard_again();
        self.state().answers.watched(restore)
    }

    /// See [`Dataplane::set_bypass`](crate::Dataplane::set_bypass).
    pub(crate) fn set(&self, selectors: Vec<Selector>) -> Result<(), Error> {
        check(&selectors)?;
        let state = &mut *self.state();
        state.selectors = selectors;
        state.follow()
    }

    /// Other own prefixes: what crosses is cut down to them.
    pub(crate) fn set_own_prefixes(&self, own: Vec<IpNet>) -> Result<(), Error> {
        let state = &mut *self.state();
        state.config.own_prefixes = own;
        state.follow()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What stands is said before it is asked for.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Brings the kernel to what is wanted; when it refuses a rule none stays.
    fn follow(&mut self) -> Result<(), Error> {
        let wanted = wanted_rules(&self.config, &self.selectors);
        // To remove some would take others along: what a request does not say the kernel does not compare.
        if !self.standing.iter().all(|rule| wanted.contains(rule)) {
            self.remove()?;
        }
        let is_of_tcp =
            |selector: &Selector| selector.protocol.is_none_or(|protocol| i32::from(protocol) == libc::IPPROTO_TCP);
        if !wanted.is_empty() && self.selectors.iter().any(is_of_tcp) {
            // Before anything crosses.
            self.answers.set(&self.config.black).or_else(|error| self.remove().and(Err(error)))?;
        }
        let missing: Vec<Request> = wanted.iter().filter(|rule| !self.standing.contains(rule)).map(addition).collect();
        self.standing = wanted;
        let added = self.socket.demand(missing, &[libc::EEXIST, libc::EAFNOSUPPORT]);
        added.or_else(|error| self.remove().and(Err(error)))
    }

    /// Sets the packet filter where it is to stand and does not; nothing crosses without it.
    fn guard_again(&mut self) -> Result<(), Error> {
        if self.answers.stands() {
            return Ok(());
        }
        warn!("somebody has removed the packet filter that keeps TCP from being begun from black; it is set again");
        self.answers.set(&self.config.black).or_else(|error| self.remove().and(Err(error)))
    }

    fn remove(&mut self) -> Result<(), Error> {
        let mut standing = self.standing.clone();
        standing.sort_by_key(order_of_removal);
        self.socket.demand(standing.iter().map(removal), &[libc::ENOENT, libc::EAFNOSUPPORT])?;
        self.standing.clear();
        self.answers.remove();
        Ok(())
    }
}

impl Drop for Bypass {
    fn drop(&mut self) {
        if let Err(error) = self.state().remove() {
            warn!(%error, "what was to cross in clear still does, until muster block");
        }
    }
}

/// Whether a list can be set: for a data plane without rules, too.
pub(crate) fn check(selectors: &[Selector]) -> Result<(), Error> {
    for selector in selectors {
        selector.check()?;
        if selector.is_multicast() {
            return Err(Error::Config(format!("selector {selector}: only unicast may cross in clear")));
        }
    }
    Ok(())
}

/// `selector` for each own prefix that it has a part of.
pub(crate) fn from_own(selector: &Selector, own: &[IpNet]) -> impl Iterator<Item = Selector> {
    own.iter().map(IpNet::trunc).filter_map(|own| {
        let source = selector.source.trunc();
        let common = if own.contains(&source) { source } else { own };
        source.contains(&common).then_some(Selector { source: common, ..*selector })
    })
}

fn wanted_rules(config: &BlockConfig, selectors: &[Selector]) -> Vec<Rule> {
    let BlockConfig { instance, black, reds, own_prefixes: own, .. } = config;
    let (block, table) = (BLACK_PRIORITY + u32::from(*instance), table(*instance));
    let mut rules: Vec<Rule> = Vec::new();
    let mut add = |priority, interface: &str, selector: Selector, action| {
        let family = if selector.source.addr().is_ipv4() { RuleFamily::Ipv4 } else { RuleFamily::Ipv6 };
        let rule = Rule { family, priority, packets: Packets::selected(interface, selector), action };
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    };
    let everywhere = |ipv4| if ipv4 { IpNet::V4(Default::default()) } else { IpNet::V6(Default::default()) };
    let own_from_black = own.iter().map(|own| Selector::new(own.trunc(), everywhere(own.addr().is_ipv4())));
    // Nothing to guard where nothing crosses.
    for guarded in own_from_black.filter(|_| !selectors.is_empty()) {
        add(GUARD_PRIORITY, black, guarded, Action::Goto(block));
    }
    for selector in selectors.iter().flat_map(|selector| from_own(selector, own)) {
        let selector = Selector { destination: selector.destination.trunc(), ..selector };
        add(ANSWERS_PRIORITY, black, selector.reversed(), Action::Lookup(table));
        reds.iter().for_each(|red| add(block, red, selector, Action::Lookup(MAIN)));
    }
    rules
}

/// Takes away what a data plane of this instance that is no more has let cross.
pub(crate) async fn remove_left_over(handle: &Handle, instance: u8) -> Result<(), Error> {
    let block = BLACK_PRIORITY + u32::from(instance);
    let is_ours = |rule: &Rule| match rule.action {
        Action::Goto(to) => rule.priority == GUARD_PRIORITY && to == block,
        Action::Lookup(to) => [(ANSWERS_PRIORITY, table(instance)), (block, MAIN)].contains(&(rule.priority, to)),
        Action::Unreachable | Action::Nothing => false,
    };
    for family in RuleFamily::UNICAST {
        let mut left: Vec<Rule> =
            netlink::rules(handle, family).await?.ours.into_iter().filter(|rule| is_ours(rule)).collect();
        left.sort_by_key(order_of_removal);
        for rule in left {
            rule.remove(handle).await?;
        }
    }
    // Last: it guards what the rules let in.
    answers::remove_left_over(instance);
    Ok(())
}

/// What answers goes before what guards against it; and what says more before what says less, for a request to remove that
/// would be good for both.
fn order_of_removal(rule: &Rule) -> (bool, std::cmp::Reverse<usize>) {
    (rule.priority == GUARD_PRIORITY, std::cmp::Reverse(rule.message().attributes.len()))
}

fn addition(rule: &Rule) -> Request {
    request(libc::RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, rule, "letting cross in clear")
}

fn removal(rule: &Rule) -> Request {
    request(libc::RTM_DELRULE, 0, rule, "no longer letting cross in clear")
}

fn request(kind: u16, flags: u16, rule: &Rule, what: &str) -> Request {
    Request::of(kind, flags, &rule.message(), format!("{what}: {:?}", rule.packets))
}

/// Whether a packet from red may cross in clear, as the rules have it.
pub(crate) fn admits(selectors: &[Selector], own: &[IpNet], matches: impl Fn(&Selector) -> bool, to: IpAddr) -> bool {
    !to.is_multicast() && selectors.iter().flat_map(|selector| from_own(selector, own)).any(|one| matches(&one))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selector::tests::selector;

    fn config() -> BlockConfig {
        BlockConfig {
            instance: 3,
            black: "black".into(),
            reds: vec!["red0".into(), "red1".into()],
            device: "muster0".into(),
            own_prefixes: ["10.1.0.0/16", "10.7.0.0/16", "2001:db8:a::/64"].map(|net| net.parse().unwrap()).to_vec(),
        }
    }

    #[test]
    fn selectors_are_cut_down_to_the_own_prefixes() {
        let of = |source: &str, destination: &str| -> Vec<String> {
            from_own(&selector(source, destination), &config().own_prefixes).map(|one| one.source.to_string()).collect()
        };
        assert_eq!(of("10.1.2.0/24", "0.0.0.0/0"), ["10.1.2.0/24"]);
        assert_eq!(of("10.0.0.0/8", "0.0.0.0/0"), ["10.1.0.0/16", "10.7.0.0/16"]);
        assert_eq!(of("::/0", "::/0"), ["2001:db8:a::/64"]);
        assert!(of("10.2.0.0/16", "0.0.0.0/0").is_empty());
    }

    #[test]
    fn rules_are_read_as_they_were_written() {
        let selectors = [
            Selector { protocol: Some(17), source_port: Some(7), ..selector("10.0.0.0/8", "0.0.0.0/0") },
            Selector { protocol: Some(6), destination_port: Some(80), ..selector("2001:db8:a::/64", "2001:db8::/32") },
            selector("10.1.2.0/24", "198.51.100.0/24"),
        ];
        let rules = wanted_rules(&config(), &selectors);
        // Three guards; two parts, one and one, each with its answers and by two interfaces.
        assert_eq!(rules.len(), 3 + 4 * 3);
        for rule in &rules {
            assert_eq!(Rule::of(rule.family, &rule.message()).as_ref(), Some(rule));
        }
        assert_eq!(wanted_rules(&config(), &[]), []);
    }
}
