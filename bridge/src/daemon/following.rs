//! The machine's addresses change, and the daemon follows without a rekey: the keys are the members', not the
//! addresses'.

use std::net::IpAddr;

use ipnet::IpNet;
use tracing::{info, warn};

use super::{Daemon, RunError, own_prefixes, place_of};
use crate::addresses::{addresses, black_address, duplicates, interface_index, is_up};
use crate::clock::now;
use crate::event::EventKind;

impl Daemon {
    /// Something about interfaces or addresses has changed: looks at those that matter here.
    pub(super) fn follow_addresses(&mut self) {
        self.follow_black();
        self.follow_red();
    }

    /// Also called while there is none: what cannot be used now may be in a moment.
    pub(super) fn follow_black(&mut self) {
        let black = &self.settings.file.black;
        // An interface that is not there has no address.
        let all = addresses(&black.interface).unwrap_or_default();
        let index = interface_index(&black.interface).ok();
        let ipv4 = self.address.is_ipv4();
        let address = index.and_then(|_| black_address(&all, black.address, ipv4, Some(self.address)));
        match (address, index) {
            (Some(address), Some(index)) => {
                let same = address == self.address && index == self.sockets.index();
                if same && !self.adrift {
                    return;
                }
                match self.move_to(address) {
                    Ok(()) => {
                        self.adrift = false;
                        info!(%address, "the address on black");
                        self.engine.record(EventKind::Address, None, address.to_string());
                        self.engine.announce(now());
                        self.review_bounds(&self.settings.file.clone());
                    }
                    // It may be gone again already. Housekeeping tries again.
                    Err(error) => self.set_adrift(format!("{address} cannot be used: {error}")),
                }
            }
            (_, None) => self.set_adrift("it is not there".to_owned()),
            _ => self.set_adrift(duplicates(&all).unwrap_or_else(|| {
                let why = if is_up(&black.interface) { "it has none that can be used" } else { "it is down" };
                why.to_owned()
            })),
        }
    }

    /// There is no address on black to send from; told once, however it came to that.
    fn set_adrift(&mut self, why: String) {
        self.sockets.close();
        if std::mem::replace(&mut self.adrift, true) {
            return;
        }
        let told = format!("none on {}: {why}", self.settings.file.black.interface);
        warn!("no address on black any more; waiting for one: {told}");
        self.engine.record(EventKind::Address, None, told);
    }

    /// Sockets and data plane send from another address, or by an interface made anew.
    fn move_to(&mut self, address: IpAddr) -> Result<(), RunError> {
        let opening = super::io_error("cannot open the protocols' sockets");
        self.sockets.rebind(&place_of(&self.settings.file, address)).map_err(opening)?;
        self.plane.dataplane().set_black_address(address)?;
        self.address = address;
        Ok(())
    }

    /// The own prefixes follow the red interfaces' addresses, unless they are configured.
    fn follow_red(&mut self) {
        let file = &self.settings.file;
        let own = match own_prefixes(file) {
            Ok(own) if own != self.own_prefixes => own,
            _ => return,
        };
        let list = own.iter().map(IpNet::to_string).collect::<Vec<_>>().join(" ");
        match self.set_own_prefixes(&file.clone(), own) {
            Ok(()) => {
                info!(prefixes = list, "own red prefixes");
                let me = self.engine.discovery().own_identity().member;
                self.engine.record(EventKind::Prefixes, Some(me), list);
                self.review_bounds(&self.settings.file.clone());
            }
            Err(error) => warn!(prefixes = list, "the red interfaces' prefixes are not taken: {error}"),
        }
    }
}
