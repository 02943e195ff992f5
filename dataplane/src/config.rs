//! What a data plane is started with.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::{BlockConfig, Error, KeyLedger};

/// Threads of ESP in user space, each way, at most.
pub const MOST_WORKERS: u8 = 16;

/// For [`start`](crate::start).
#[derive(Clone)]
pub struct EspConfig {
    /// Name of the tunnel's device, at most 15 octets.
    pub device: String,
    /// Name of the black interface.
    pub black_interface: String,
    /// Outer source: usable (no longer tentative) on the black interface.
    pub black_address: IpAddr,
    /// Outer destination of the mesh's multicast: multicast, of the family of `black_address`. `None`: there is no mesh, and
    /// each flow has its own.
    pub group_address: Option<IpAddr>,
    /// Outer TTL or hop limit; the kernel's ESP has 64 only.
    pub hop_limit: u8,
    /// The outer header shows the inner DSCP (RFC 4301 5.1.2); ECN it always does.
    pub copy_dscp: bool,
    /// IPv4 multicast above the tunnel's MTU is fragmented though its sender forbids it; else it is dropped, for
    /// nobody may tell the sender.
    pub clear_df: bool,
    /// Names of the red interfaces.
    pub reds: Vec<String>,
    /// Red groups carried. Nothing of link-local scope or below is, whatever stands here.
    pub red_multicast: Vec<IpNet>,
    /// Of what is carried only what a host listens to enters its LAN (IGMP, MLD); else all does.
    pub dynamic_membership: bool,
    /// Own red prefixes, until `set_own_prefixes`.
    pub own_prefixes: Vec<IpNet>,
    /// 0 to 15: keeps several groups on one router apart.
    pub instance: u8,
    /// Threads of ESP in user space, each way: 1 to [`MOST_WORKERS`]. The kernel's ESP has its own.
    pub workers: u8,
    /// Keys that this process has installed; the same for every start.
    pub ledger: KeyLedger,
}

impl EspConfig {
    /// The block that stands around this data plane.
    pub(crate) fn block(&self) -> BlockConfig {
        BlockConfig {
            instance: self.instance,
            black: self.black_interface.clone(),
            reds: self.reds.clone(),
            device: self.device.clone(),
            own_prefixes: self.own_prefixes.clone(),
        }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        for name in [&self.device, &self.black_interface].into_iter().chain(&self.reds) {
            check_interface_name(name)?;
        }
        if self.reds.contains(&self.black_interface) {
            return Err(Error::Config(format!("interface {} is both black and red", self.black_interface)));
        }
        if let Some(group) = self.group_address {
            if self.black_address.is_ipv4() != group.is_ipv4() {
                return Err(Error::FamilyMismatch { destination: group, black: self.black_address });
            }
            if !group.is_multicast() {
                return Err(Error::Config(format!("group.address {group} is not multicast")));
            }
        }
        if self.hop_limit == 0 {
            return Err(Error::Config("dataplane.hop_limit is 0: no packet would leave; use 64".into()));
        }
        if !(1..=MOST_WORKERS).contains(&self.workers) {
            return Err(Error::Config(format!("dataplane.workers must be 1 to {MOST_WORKERS}")));
        }
        check_instance(self.instance)
    }
}

/// Whether this can be an interface's name, as the kernel checks it (`dev_valid_name`); it becomes a path below /proc/sys
/// too.
pub fn check_interface_name(name: &str) -> Result<(), Error> {
    let bad = |c: char| c == '/' || c == ':' || c == '%' || c.is_whitespace() || c.is_control();
    if name.is_empty() || name.len() > 15 || name == "." || name == ".." || name.contains(bad) {
        return Err(Error::Config(format!("{name:?} is no interface name: 1 to 15 octets, none of / : % or space")));
    }
    Ok(())
}

pub(crate) fn check_instance(instance: u8) -> Result<(), Error> {
    match instance {
        0..=15 => Ok(()),
        _ => Err(Error::Config(format!("dataplane.instance {instance} is out of range: 0 to 15"))),
    }
}
