//! Of what may cross in clear (`bypass.rs`), TCP is begun from red alone: what would begin a connection from black is dropped.
//!
//! A table of nf_tables, for rules of routing see no flags. No connection is tracked for it: the kernel would track all of the
//! router's traffic then, and who floods that fills its table. So what does not show who begins, UDP say, is open both ways.

use crate::Error;
use crate::netlink::batch::{BatchSocket, Request};
use crate::nft::{
    Attributes, Compare, FIRST, FROM_DEVICE, NEW_CHAIN, NEW_RULE, NEW_TABLE, Watched, compare, fragment_of,
    has_rules_of, interface, is_family, is_protocol, masked, message, open_socket, payload, removal, transaction,
    transport, verdict,
};

/// NF_INET_FORWARD, NF_IP_PRI_FILTER
const FORWARD: u32 = 2;
const FILTER: u32 = 0;
const CHAIN: &str = "answers";
/// SYN, ACK, of the octet of flags (RFC 9293 3.1).
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
/// What fragments of IPv6 may begin with that has the flags in a later one: TCP, and the extension headers that TCP may stand
/// behind (RFC 7045 4, without ESP).
const BEFORE_FLAGS: [i32; 9] = [
    libc::IPPROTO_TCP,
    libc::IPPROTO_HOPOPTS,
    libc::IPPROTO_ROUTING,
    libc::IPPROTO_FRAGMENT,
    libc::IPPROTO_AH,
    libc::IPPROTO_DSTOPTS,
    libc::IPPROTO_MH,
    // HIP, Shim6.
    139,
    140,
];

/// The table of one instance.
pub(crate) struct Answers {
    /// Of the network namespace that it was made in. A kernel may have no nf_tables.
    socket: Result<BatchSocket, Error>,
    instance: u8,
    /// The black interface that it was set for.
    standing: Option<String>,
}

impl Answers {
    /// There is no table yet.
    pub(crate) fn new(instance: u8) -> Self {
        Answers { socket: open_socket(), instance, standing: None }
    }

    /// Sets it, in place of one that is there.
    pub(crate) fn set(&mut self, black: &str) -> Result<(), Error> {
        let table = name_of(self.instance);
        match &mut self.socket {
            Ok(socket) => socket.transact(&transaction(whole(&table, black)))?,
            Err(why) => {
                let what = "TCP cannot cross in clear without nf_tables (modprobe nf_tables)";
                return Err(Error::Config(format!("{what}: {why}")));
            }
        }
        self.standing = Some(black.to_owned());
        Ok(())
    }

    /// Whether it is there, if it is to be.
    pub(crate) fn stands(&mut self) -> bool {
        let (Ok(socket), Some(black)) = (&mut self.socket, &self.standing) else { return true };
        let table = name_of(self.instance);
        has_rules_of(socket, &table, &whole(&table, black))
    }

    /// It is restored when somebody has changed it. `None`: a kernel without nf_tables, where it is never set.
    pub(crate) fn watched(&self, restore: impl FnMut() -> Result<(), Error> + Send + 'static) -> Option<Watched> {
        let socket = self.socket.as_ref().ok()?;
        Some(Watched::new(name_of(self.instance), socket, restore))
    }

    /// Takes it away, or finds none. One that stays stops only what should not begin.
    pub(crate) fn remove(&mut self) {
        self.standing = None;
        if let Ok(socket) = &mut self.socket {
            let _ = socket.transact(&transaction(removal(&name_of(self.instance))));
        }
    }
}

fn name_of(instance: u8) -> String {
    format!("muster-answers{instance}")
}

fn whole(table: &str, black: &str) -> Vec<Request> {
    let named = || Attributes::new().text(1, table);
    let hook = Attributes::new().number(1, FORWARD).number(2, FILTER);
    let chain = named().text(3, CHAIN).nest(4, hook).number(5, 1).text(7, "filter");
    let rule = |expressions: Attributes| {
        let attributes =
            named().text(2, CHAIN).nest(4, interface(FROM_DEVICE, black).and(expressions).and(verdict(false)));
        Request { what: format!("the packet filter {table}").into(), ..message(NEW_RULE, attributes) }
    };
    let begins = is_protocol(libc::IPPROTO_TCP)
        .and(transport(13, 1))
        .and(masked(&[SYN | ACK]))
        .and(compare(Compare::Equal, &[SYN]));
    // A fragment may hold back the flags for the next one (RFC 1858 3.2); TCP is not sent in fragments.
    let is_fragment_v4 = is_family(libc::AF_INET)
        .and(is_protocol(libc::IPPROTO_TCP))
        .and(payload(FIRST, 6, 2))
        .and(masked(&[0x3f, 0xff]))
        .and(compare(Compare::Unequal, &[0, 0]));
    // All of a packet's fragments say what its first one begins with (RFC 8200 4.5), and none is let in.
    let are_fragments_v6 = BEFORE_FLAGS
        .map(|header| is_family(libc::AF_INET6).and(fragment_of()).and(compare(Compare::Equal, &[header as u8])));
    let rules = [begins, is_fragment_v4].into_iter().chain(are_fragments_v6).map(rule);
    let head = [message(NEW_TABLE, named()), message(NEW_CHAIN, chain)];
    removal(table).into_iter().chain(head).chain(rules).collect()
}

/// Removes what a data plane of this instance that is no more has left.
pub(crate) fn remove_left_over(instance: u8) {
    Answers::new(instance).remove();
}
