//! What the router itself would answer by black, in clear, though it is red's (RFC 2827): what red sends with a source that is not
//! red's (an echo request say, or what cannot be forwarded), with red's octets in the answer; and what somebody on black
//! sends to the router's red addresses.
//!
//! Part of the block, but a table of nf_tables: to what is for the router itself local delivery comes before all rules of routing.
//! In nft's words:
//!
//! ```text
//! table inet muster-ingress0 {
//!   chain red {
//!     type filter hook prerouting priority raw; policy accept;
//!     iifname != { RED, … } accept
//!     ip saddr 0.0.0.0 accept                      # who has no address yet
//!     fib saddr oifname != { RED, …, "muster0", none } drop
//!     ip saddr OWN accept                          # for each own prefix
//!     ip daddr OWN accept                          # for each own prefix, and for multicast
//!     fib saddr oifname != { RED, … } drop
//!   }
//!   chain black {
//!     type filter hook input priority raw; policy accept;
//!     meta l4proto esp accept                      # where the kernel takes it
//!     iifname != { BLACK, … } accept
//!     ip daddr OWN fib daddr . iif type != local drop        # for each own prefix
//!   }
//! }
//! ```
//!
//! The first `drop` asks before it looks for an own prefix: one may be so wide that black lies in it. It names what is red, not
//! black: there may be several instances, each with its own, and other interfaces. The last one of `red` is for what looks as if
//! it came from where a wide flow goes, and is for an address of black: its answer would pass over that (`own.rs`). To its red
//! addresses the router is spoken to from there by another router of its LAN. Nothing that would be answered is let through by
//! `black`, not even ESP where the kernel has no use for it; what comes out of the tunnel does not come from black, and what
//! crosses in clear by policy (`bypass.rs`) is not for the router.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use tracing::warn;

use crate::Error;
use crate::block::BlockConfig;
use crate::netlink::batch::{BatchSocket, Request};
use crate::nft::{
    Attributes, Compare, FROM_DEVICE, NEW_CHAIN, NEW_RULE, NEW_TABLE, Watched, compare, destination_in, family,
    has_rules_of, is_elsewhere, is_protocol, message, meta, open_socket, padded, removal, source_in, transaction,
    verdict, way_back,
};

/// NF_INET_PRE_ROUTING, NF_INET_LOCAL_IN, NF_IP_PRI_RAW
const PRE_ROUTING: u32 = 0;
const LOCAL_IN: u32 = 1;
const RAW: i32 = -300;

/// The table of one instance, which stays when this is dropped, as the block does.
pub(crate) struct Ingress(Arc<Mutex<State>>);

struct State {
    /// Of the network namespace that it was made in. A kernel may have no nf_tables.
    socket: Result<BatchSocket, Error>,
    config: BlockConfig,
    /// Black interfaces that an older configuration has blocked.
    older: Vec<String>,
    esp: Esp,
}

/// Who takes ESP. The kernel answers none that it takes, whomever that is for; what has no SA it drops.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Esp {
    Kernel,
    /// User space, of black's family, or nobody.
    Other,
}

impl Ingress {
    /// There is none by this yet.
    pub(crate) fn new(config: BlockConfig, older_blacks: Vec<String>, esp: Esp) -> Self {
        Ingress(Arc::new(Mutex::new(State { socket: open_socket(), config, older: older_blacks, esp })))
    }

    /// Sets it, in the place of one that is there. Without it less is kept from black.
    pub(crate) fn set_or_warn(&self) {
        self.state().set_or_warn();
    }

    /// Other own prefixes.
    pub(crate) fn set_own_prefixes(&self, own: Vec<IpNet>) {
        let state = &mut *self.state();
        if state.config.own_prefixes != own {
            state.config.own_prefixes = own;
            state.set_or_warn();
        }
    }

    /// It is restored when somebody has changed it. `None`: a kernel without nf_tables.
    pub(crate) fn watched(&self) -> Option<Watched> {
        let state = self.0.clone();
        let restore = move || {
            let state = &mut *lock(&state);
            if !state.stands() {
                warn!(
                    "somebody has removed the packet filter for what the router would answer in clear; it is set again"
                );
                state.set_or_warn();
            }
            Ok(())
        };
        let state = self.state();
        let socket = state.socket.as_ref().ok()?;
        Some(Watched::new(name_of(state.config.instance), socket, restore))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // The kernel replaces a table whole.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn set_or_warn(&mut self) {
        let whole = self.whole();
        let set = match &mut self.socket {
            Ok(socket) => socket.transact(&transaction(whole)).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = set {
            warn!(
                error,
                "the router answers in clear who on red pretends to be on black, and who on black asks for its red addresses (modprobe nf_tables nft_fib_inet)"
            );
        }
    }

    fn stands(&mut self) -> bool {
        let whole = self.whole();
        let Ok(socket) = &mut self.socket else { return true };
        has_rules_of(socket, &name_of(self.config.instance), &whole)
    }

    fn whole(&self) -> Vec<Request> {
        let table = name_of(self.config.instance);
        let named = || Attributes::new().text(1, &table);
        let chain = |(name, hook, rules): (&str, u32, Vec<(Attributes, bool)>)| {
            let hook = Attributes::new().number(1, hook).number(2, RAW as u32);
            let chain = named().text(3, name).nest(4, hook).number(5, 1).text(7, "filter");
            let rule = |(expressions, accept): (Attributes, bool)| {
                let attributes = named().text(2, name).nest(4, expressions.and(verdict(accept)));
                Request { what: format!("the packet filter {table}").into(), ..message(NEW_RULE, attributes) }
            };
            [message(NEW_CHAIN, chain)].into_iter().chain(rules.into_iter().map(rule)).collect::<Vec<_>>()
        };
        let black = rules_of_black(&self.config, &self.older, self.esp);
        let chains = [("red", PRE_ROUTING, rules_of_red(&self.config)), ("black", LOCAL_IN, black)];
        let head = [message(NEW_TABLE, named())];
        removal(&table).into_iter().chain(head).chain(chains.into_iter().flat_map(chain)).collect()
    }
}

/// Takes the table of an instance away, or finds none.
pub(crate) fn remove(instance: u8) {
    if let Ok(mut socket) = open_socket() {
        let _ = socket.transact(&transaction(removal(&name_of(instance))));
    }
}

fn name_of(instance: u8) -> String {
    format!("muster-ingress{instance}")
}

/// And whether it is accepted.
fn rules_of_red(config: &BlockConfig) -> Vec<(Attributes, bool)> {
    // The texts are constants.
    let nets = |nets: [&str; 2]| nets.map(|net| net.parse::<IpNet>().expect("a prefix"));
    // Who asks for an address (RFC 2131 4.1, RFC 4862 5.4.2).
    let (unspecified, multicast) = (nets(["::/128", "0.0.0.0/32"]), nets(["ff00::/8", "224.0.0.0/4"]));
    let own: Vec<IpNet> = own(config).collect();
    let no_red = |name: Attributes| none_of(name, &config.reds);
    let nowhere_red = [&config.device, ""]
        .into_iter()
        .fold(no_red(way_back()), |rule, name| rule.and(compare(Compare::Unequal, &padded(name))));
    let from = |net: &IpNet| (family(net).and(source_in(net)), true);
    [(no_red(meta(FROM_DEVICE)), true)]
        .into_iter()
        .chain(unspecified.iter().map(from))
        .chain([(nowhere_red, false)])
        .chain(own.iter().map(from))
        .chain(own.iter().chain(&multicast).map(|net| (to(net), true)))
        .chain([(no_red(way_back()), false)])
        .collect()
}

fn rules_of_black(config: &BlockConfig, older: &[String], esp: Esp) -> Vec<(Attributes, bool)> {
    // Each packet of the tunnel comes by here.
    let encrypted = (esp == Esp::Kernel).then(|| (is_protocol(libc::IPPROTO_ESP), true));
    let blacks = none_of(meta(FROM_DEVICE), [&config.black].into_iter().chain(older));
    let refused = own(config).map(|net| (to(&net).and(is_elsewhere()), false));
    encrypted.into_iter().chain([(blacks, true)]).chain(refused).collect()
}

/// The name of an interface that was read is none of these.
fn none_of<'a>(name: Attributes, interfaces: impl IntoIterator<Item = &'a String>) -> Attributes {
    let names = interfaces.into_iter().map(|other| compare(Compare::Unequal, &padded(other)));
    names.fold(name, Attributes::and)
}

fn own(config: &BlockConfig) -> impl Iterator<Item = IpNet> {
    config.own_prefixes.iter().map(IpNet::trunc)
}

fn to(net: &IpNet) -> Attributes {
    family(net).and(destination_in(net))
}
