//! What red sends with a source that is not red's (RFC 2827): the router itself would answer it, an echo request say, or what it
//! cannot forward, and what answers somebody on black leaves by black, in clear and with red's octets in it.
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
//! }
//! ```
//!
//! The first `drop` asks before it looks for an own prefix: one may be so wide that black lies in it. It names what is red, not
//! black: there may be several instances, each with its own, and other interfaces. The last one is for what looks as if it came
//! from where a wide flow goes, and is for an address of black: its answer would pass over that (`own.rs`). To its red addresses the router is spoken to from there by another router of its LAN.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use tracing::warn;

use crate::Error;
use crate::block::BlockConfig;
use crate::netlink::batch::{BatchSocket, Request};
use crate::nft::{
    Attributes, Compare, FROM_DEVICE, NEW_CHAIN, NEW_RULE, NEW_TABLE, Watched, compare, destination_in, family,
    has_rules_of, message, meta, padded, removal, source_in, transaction, verdict, way_back,
};

/// NF_INET_PRE_ROUTING, NF_IP_PRI_RAW
const PRE_ROUTING: u32 = 0;
const RAW: i32 = -300;
const CHAIN: &str = "red";

/// The table of one instance, which stays when this is dropped, as the block does.
pub(crate) struct Ingress(Arc<Mutex<State>>);

struct State {
    /// Of the network namespace that it was made in. A kernel may have no nf_tables.
    socket: Result<BatchSocket, Error>,
    config: BlockConfig,
}

impl Ingress {
    /// There is none by this yet.
    pub(crate) fn new(config: BlockConfig) -> Self {
        Ingress(Arc::new(Mutex::new(State { socket: open(), config })))
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
                    "somebody has removed the packet filter for what red sends with foreign sources; it is set again"
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
        let set = match &mut self.socket {
            Ok(socket) => socket.transact(&transaction(whole(&self.config))).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = set {
            warn!(
                error,
                "the router answers who on red pretends to be on black, in clear (modprobe nf_tables nft_fib_inet)"
            );
        }
    }

    fn stands(&mut self) -> bool {
        let Ok(socket) = &mut self.socket else { return true };
        has_rules_of(socket, &name_of(self.config.instance), &whole(&self.config))
    }
}

/// Takes the table of an instance away, or finds none.
pub(crate) fn remove(instance: u8) {
    if let Ok(mut socket) = open() {
        let _ = socket.transact(&transaction(removal(&name_of(instance))));
    }
}

fn open() -> Result<BatchSocket, Error> {
    BatchSocket::open(netlink_sys::protocols::NETLINK_NETFILTER, "opening a netlink socket to nf_tables")
}

fn name_of(instance: u8) -> String {
    format!("muster-ingress{instance}")
}

fn whole(config: &BlockConfig) -> Vec<Request> {
    let table = name_of(config.instance);
    let named = || Attributes::new().text(1, &table);
    let hook = Attributes::new().number(1, PRE_ROUTING).number(2, RAW as u32);
    let chain = named().text(3, CHAIN).nest(4, hook).number(5, 1).text(7, "filter");
    let rule = |(expressions, accept): (Attributes, bool)| {
        let attributes = named().text(2, CHAIN).nest(4, expressions.and(verdict(accept)));
        Request { what: format!("the packet filter {table}").into(), ..message(NEW_RULE, attributes) }
    };
    let nets = |nets: [&str; 2]| nets.map(|net| net.parse::<IpNet>().expect("a prefix"));
    // Who asks for an address (RFC 2131 4.1, RFC 4862 5.4.2).
    let (unspecified, multicast) = (nets(["::/128", "0.0.0.0/32"]), nets(["ff00::/8", "224.0.0.0/4"]));
    let own: Vec<IpNet> = config.own_prefixes.iter().map(IpNet::trunc).collect();
    let no_red = |name: Attributes| {
        let names = config.reds.iter().map(|red| compare(Compare::Unequal, &padded(red)));
        names.fold(name, Attributes::and)
    };
    let nowhere_red = [&config.device, ""]
        .into_iter()
        .fold(no_red(way_back()), |rule, name| rule.and(compare(Compare::Unequal, &padded(name))));
    let from = |net: &IpNet| (family(net).and(source_in(net)), true);
    let destinations = own.iter().chain(&multicast).map(|net| (family(net).and(destination_in(net)), true));
    let rules = [(no_red(meta(FROM_DEVICE)), true)]
        .into_iter()
        .chain(unspecified.iter().map(from))
        .chain([(nowhere_red, false)])
        .chain(own.iter().map(from))
        .chain(destinations)
        .chain([(no_red(way_back()), false)])
        .map(rule);
    let head = [message(NEW_TABLE, named()), message(NEW_CHAIN, chain)];
    removal(&table).into_iter().chain(head).chain(rules).collect()
}
