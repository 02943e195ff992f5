//! The block: what makes a router with Muster fail closed, both ways.
//!
//! Nothing that comes in from red leaves but to the own red prefixes and through the tunnel; nothing that comes in
//! from black goes further than the router itself. It is kernel state alone (rules and routes) and outlives the
//! daemon, however that ends. For each family, in the order the kernel reads its rules:
//!
//! | priority | rule | |
//! |---|---|---|
//! | 0 | `lookup local` | the kernel's: what is for the router itself |
//! | 10 + i | `iif BLACK unreachable` | no clear text from black |
//! | 28 | marked `lookup main` | what the kernel has encrypted (`xfrm/way_out.rs`) |
//! | 30 + 2i | `iif RED lookup 0x4d00 + i` | own red prefixes, learned ones by the tunnel, `unreachable default` |
//! | 31 + 2i | `iif RED unreachable` | the same again, should the table be empty |
//! | 62 + i | `not oif BLACK lookup 0x4d10 + i` | the router's own packets: own prefixes by their interfaces, learned ones by the tunnel, or not at all; black's network in a wider own prefix is passed on (`throw`) |
//! | 78 + 3i | ICMP `from` an address of black `goto 80 + 3i` | while there is something in 0x4d20 + i |
//! | 79 + 3i | `not oif BLACK lookup 0x4d20 + i` | the same of learned prefixes that black's addresses lie in (`own.rs`) |
//! | 80 + 3i | `nop` | |
//!
//! i is the instance; the tunnel's device counts as red. For multicast routing, whose rules are others:
//! `iif BLACK` and `iif RED` both look into the table 0x4d00 + i, whose interfaces are the red ones and the tunnel,
//! never black, and which forwards nothing while no daemon runs. So a multicast router beside us (PIM) sees nothing
//! of red either.
//!
//! What red sends to the router itself with the source of somebody on black, and what black sends to its red addresses, no rule of
//! routing stops: `ingress.rs` does.
//!
//! The rules for the router's own packets pass over sockets that are bound to black, as the daemon's are: no prefix that another router
//! announces can take hold of them. Before all but the first come those of what may cross in clear (`bypass.rs`).

use std::collections::BTreeSet;

use ipnet::IpNet;
use rtnetlink::Handle;
use tracing::{debug, warn};

use crate::Error;
use crate::bypass;
use crate::config::{check_instance, check_interface_name};
use crate::ingress::{self, Esp, Ingress};
use crate::mroute::{self, Claim};
use crate::netlink::{self, Action, Owner, Packets, Route, Rule, RuleFamily, Way};
use crate::own::{self, LAST_TO_OWN};
use crate::xfrm::remove_left_over;

const TABLE: u32 = 0x4d00;
pub(crate) const BLACK_PRIORITY: u32 = 10;
pub(crate) const WAY_OUT_PRIORITY: u32 = 28;
const RED_PRIORITY: u32 = 30;
const MULTICAST_PRIORITY: u32 = 10;
const _: () = assert!(BLACK_PRIORITY + 15 < WAY_OUT_PRIORITY && WAY_OUT_PRIORITY < RED_PRIORITY);

/// What to block. The interfaces need not exist yet: rules hold by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockConfig {
    /// 0 to 15; routing table and priorities follow from it.
    pub instance: u8,
    /// Name of the black interface.
    pub black: String,
    /// Names of the red interfaces.
    pub reds: Vec<String>,
    /// Name of the tunnel's device.
    pub device: String,
    /// Prefixes on the red interfaces.
    pub own_prefixes: Vec<IpNet>,
}

/// What [`block`] could not do yet. Nothing passes that should not; something may not pass that could.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blocked {
    /// Own prefixes that no red interface that is up has an address in. A data plane that runs sets their routes when they
    /// are there; without one, call again.
    pub pending: Vec<IpNet>,
}

/// Sets the block, beside whatever an older configuration of this instance has blocked: with a slip of the pen in this one,
/// that is what keeps red from black. [`unblock_others`] takes that away. Both families.
///
/// # Errors
/// A configuration that cannot work, a rule set in which ours would cut off local delivery, or what the kernel
/// refuses (CAP_NET_ADMIN is needed).
pub fn block(config: &BlockConfig) -> Result<Blocked, Error> {
    check(config)?;
    // Also makes the kernel load IPv6, if that is a module: a family that appears later would not be blocked.
    mroute::create_tables(table(config.instance))?;
    let blocked = netlink::run(async |handle| {
        for family in RuleFamily::UNICAST {
            let local = netlink::rules(handle, family).await?.local_priority;
            if local >= BLACK_PRIORITY {
                return Err(Error::Config(format!(
                    "the {family:?} rule for table local has priority {local}; behind the block it would cut the \
                     router itself off: move it back to 0 (ip rule add pref 0 table local)"
                )));
            }
        }
        let wanted = wanted_rules(config);
        let (lookups, stops): (Vec<_>, Vec<_>) =
            wanted.iter().partition(|rule| RuleFamily::UNICAST.contains(&rule.family) && is_lookup(rule));
        add_rules(handle, &stops).await?;
        let pending = set_routes(handle, config, Follows::Nobody).await?;
        warn_of(&pending);
        add_rules(handle, &lookups).await?;
        Ok(Blocked { pending })
    })?;
    // Whom the others have expelled meanwhile would go on sending and receiving under what a dead daemon has left, in clear
    // what it was let.
    if let Ok(_alone) = Claim::take(config.instance) {
        netlink::run(async |handle| bypass::remove_left_over(handle, config.instance).await)?;
        remove_left_over(config.instance)?;
        // Where one runs it keeps it.
        let Older { reds, blacks } = netlink::run(async |handle| older(handle, config).await)?;
        let reds = [&config.reds[..], &reds].concat();
        Ingress::new(BlockConfig { reds, ..config.clone() }, blacks, Esp::Other).set_or_warn();
    }
    Ok(blocked)
}

/// Takes away what an older configuration of this instance has blocked and this one does not, once its interfaces have
/// proved to be there. At no moment is less blocked than after.
///
/// # Errors
/// What the kernel refuses.
pub fn unblock_others(config: &BlockConfig) -> Result<(), Error> {
    check(config)?;
    netlink::run(async |handle| {
        let wanted = wanted_rules(config);
        for rule in present_rules(handle, config.instance).await? {
            if !wanted.contains(&rule) {
                rule.remove(handle).await?;
            }
        }
        Ok(())
    })
}

/// Takes the block of this instance away, whatever interfaces it was set for, and what a killed daemon has left in the
/// kernel.
///
/// # Errors
/// A data plane of this instance runs; or what the kernel refuses.
pub fn unblock(instance: u8) -> Result<(), Error> {
    check_instance(instance)?;
    let _alone = Claim::take(instance)?;
    // With its keys.
    remove_left_over(instance)?;
    ingress::remove(instance);
    netlink::run(async |handle| {
        bypass::remove_left_over(handle, instance).await?;
        own::pass_over(handle, instance, &[]).await?;
        for table in own::tables(instance).into_iter().chain([table(instance)]) {
            for route in netlink::routes(handle, table).await? {
                route.remove(handle).await?;
            }
        }
        for rule in present_rules(handle, instance).await? {
            rule.remove(handle).await?;
        }
        Ok(())
    })
}

/// Whether all rules of routing of this configuration stand.
///
/// # Errors
/// What the kernel refuses.
pub fn is_blocked(config: &BlockConfig) -> Result<bool, Error> {
    check(config)?;
    netlink::run(async |handle| {
        let present = present_rules(handle, config.instance).await?;
        Ok(wanted_rules(config).iter().all(|rule| present.contains(rule)))
    })
}

/// Number of the routing tables, unicast and multicast, of an instance.
pub(crate) fn table(instance: u8) -> u32 {
    TABLE + u32::from(instance)
}

/// The rule that makes multicast from `interface` a matter of our table.
pub(crate) fn multicast_rule(family: RuleFamily, instance: u8, interface: &str) -> Rule {
    let priority = MULTICAST_PRIORITY + u32::from(instance);
    let packets = Packets::From(interface.to_owned());
    Rule { family, priority, packets, action: Action::Lookup(table(instance)) }
}

fn check(config: &BlockConfig) -> Result<(), Error> {
    check_instance(config.instance)?;
    for name in reds(config).chain([config.black.as_str()]) {
        check_interface_name(name)?;
    }
    if reds(config).any(|red| red == config.black) {
        return Err(Error::Config(format!("interface {} is both black and red", config.black)));
    }
    Ok(())
}

fn reds(config: &BlockConfig) -> impl Iterator<Item = &str> {
    config.reds.iter().chain([&config.device]).map(String::as_str)
}

/// What an older configuration has blocked, and this one does not.
struct Older {
    reds: Vec<String>,
    blacks: Vec<String>,
}

async fn older(handle: &Handle, config: &BlockConfig) -> Result<Older, Error> {
    let (mut reds, mut blacks) = (BTreeSet::new(), BTreeSet::new());
    for Rule { priority, packets, .. } in present_rules(handle, config.instance).await? {
        let i = u32::from(config.instance);
        match packets {
            Packets::From(name) if priority == RED_PRIORITY + 2 * i => reds.insert(name),
            Packets::From(name) if priority == BLACK_PRIORITY + i => blacks.insert(name),
            _ => false,
        };
    }
    reds.retain(|name| *name != config.device && !config.reds.contains(name));
    blacks.remove(&config.black);
    Ok(Older { reds: reds.into_iter().collect(), blacks: blacks.into_iter().collect() })
}

fn wanted_rules(config: &BlockConfig) -> Vec<Rule> {
    let i = u32::from(config.instance);
    let mut rules = Vec::new();
    for family in RuleFamily::UNICAST {
        let mut add = |priority, interface: &str, action| {
            rules.push(Rule { family, priority, packets: Packets::From(interface.to_owned()), action });
        };
        add(BLACK_PRIORITY + i, &config.black, Action::Unreachable);
        for red in reds(config) {
            add(RED_PRIORITY + 1 + 2 * i, red, Action::Unreachable);
            add(RED_PRIORITY + 2 * i, red, Action::Lookup(table(config.instance)));
        }
        rules.extend(own::rules(family, config.instance, &config.black));
    }
    for family in RuleFamily::MULTICAST {
        let interfaces = reds(config).chain([config.black.as_str()]);
        rules.extend(interfaces.map(|name| multicast_rule(family, config.instance, name)));
    }
    rules
}

fn is_lookup(rule: &Rule) -> bool {
    matches!(rule.action, Action::Lookup(_))
}

async fn add_rules(handle: &Handle, rules: &[&Rule]) -> Result<(), Error> {
    for rule in rules {
        if !rule.add(handle).await? {
            debug!(?rule, "the kernel does not have this family: nothing to block in it");
        }
    }
    Ok(())
}

/// The rules of an instance that stand, of this configuration or an older one. Lookups first: taken away in this
/// order, what remains blocks more, not less.
async fn present_rules(handle: &Handle, instance: u8) -> Result<Vec<Rule>, Error> {
    let i = u32::from(instance);
    let mut present = Vec::new();
    for family in RuleFamily::ALL {
        let multicast = RuleFamily::MULTICAST.contains(&family);
        let is_ours = |rule: &Rule| match rule.action {
            _ if !multicast && own::is_rule(rule, instance) => true,
            Action::Lookup(to) if multicast => to == table(instance) && rule.priority == MULTICAST_PRIORITY + i,
            Action::Lookup(to) => to == table(instance) && rule.priority == RED_PRIORITY + 2 * i,
            Action::Unreachable => [BLACK_PRIORITY + i, RED_PRIORITY + 1 + 2 * i].contains(&rule.priority),
            Action::Goto(_) | Action::Nothing => false,
        };
        present.extend(netlink::rules(handle, family).await?.ours.into_iter().filter(is_ours));
    }
    present.sort_by_key(|rule| !is_lookup(rule));
    Ok(present)
}

/// Who sets the routes when an interface comes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Follows {
    Nobody,
    DataPlane,
}

/// Brings the block's own routes to the configuration; the own prefixes that have no interface yet. The router's own packets
/// get to own prefixes as others do, though something wider is learned, and not by black when their interface goes, nor when
/// black gets addresses and routes there.
pub(crate) async fn set_routes(handle: &Handle, config: &BlockConfig, follows: Follows) -> Result<Vec<IpNet>, Error> {
    let (table, own_table) = (table(config.instance), own::table(config.instance));
    let route = |prefix, way| Route::new(table, prefix, way, Owner::Block);
    let own_route = |prefix, way| Route::new(own_table, prefix, way, Owner::Block);
    let everything = [IpNet::V4(Default::default()), IpNet::V6(Default::default())];
    let mut wanted: Vec<Route> = everything.into_iter().map(|prefix| route(prefix, Way::Unreachable)).collect();
    let mut pending = Vec::new();

    let links = red_links(handle, &config.reds).await?;
    for prefix in config.own_prefixes.iter().map(IpNet::trunc) {
        let has_address = |networks: &[IpNet]| networks.iter().any(|net| prefix.contains(&net.addr()));
        let mut candidates = links.iter().filter(|(_, networks)| has_address(networks));
        let only = if config.reds.len() == 1 { links.first() } else { None };
        match candidates.next().or(only) {
            Some((index, _)) => wanted.push(route(prefix, Way::By(*index))),
            None => pending.push(prefix),
        }
    }
    let by_interface = wanted.iter().filter(|route| route.is_by_interface());
    let of_router: Vec<Route> = by_interface.map(|route| Route { table: own_table, ..*route }).collect();
    let behind = |prefix| Route { metric: LAST_TO_OWN, ..own_route(prefix, Way::Unreachable) };
    let own: Vec<IpNet> = config.own_prefixes.iter().map(IpNet::trunc).collect();
    let is_closed = |prefix: &IpNet| follows == Follows::DataPlane || !pending.contains(prefix);
    let closed: Vec<Route> = own.iter().copied().filter(is_closed).map(behind).collect();
    // What is red's network is not known as long as one of the interfaces is down.
    let are_up = links.len() == config.reds.len();
    let reds: Vec<IpNet> = links.iter().flat_map(|(_, networks)| networks).map(IpNet::trunc).collect();
    let blacks: Vec<IpNet> = netlink::networks_of(handle, &config.black).await?.iter().map(IpNet::trunc).collect();
    let black_in_own = own::black_in_own(&own, &reds, &blacks).into_iter().filter(|_| are_up);
    let excepted: Vec<Route> = black_in_own.map(|black| own_route(black, Way::NextRule)).collect();

    for old in netlink::routes(handle, table).await? {
        if old.owner == Owner::Block && !wanted.contains(&old) {
            old.remove(handle).await?;
        }
    }
    for old in netlink::routes(handle, own_table).await? {
        let stays = match old.way {
            Way::By(_) => old.owner != Owner::Block || of_router.contains(&old),
            // As long as the prefix is own, though its interface is gone. What else is unreachable is what others lost
            // (`learned.rs`).
            Way::Unreachable => !is_behind_own(&old) || own.contains(&old.prefix),
            Way::NextRule => excepted.contains(&old),
        };
        if !stays {
            old.remove(handle).await?;
        }
    }
    for new in wanted {
        if !new.add(handle).await? && new.is_by_interface() {
            pending.push(new.prefix);
        }
    }
    for new in closed {
        new.add(handle).await?;
    }
    for new in of_router {
        // It may have been learned until now.
        new.set(handle).await?;
    }
    for new in excepted {
        new.add(handle).await?;
    }
    Ok(pending)
}

/// Whether a route is what is left of one to an own prefix when its interface goes.
pub(crate) fn is_behind_own(route: &Route) -> bool {
    route.way == Way::Unreachable && route.metric == LAST_TO_OWN
}

pub(crate) fn warn_of(pending: &[IpNet]) {
    if !pending.is_empty() {
        warn!(?pending, "own prefixes on no red interface that is up: red hosts there are not reached");
    }
}

/// Index and networks of the red interfaces that are there and up.
pub(crate) async fn red_links(handle: &Handle, reds: &[String]) -> Result<Vec<(u32, Vec<IpNet>)>, Error> {
    let mut links = Vec::new();
    for name in reds {
        if let Some(link) = netlink::link(handle, name).await?.filter(|link| link.up) {
            links.push((link.index, netlink::networks(handle, link.index).await?));
        }
    }
    Ok(links)
}
