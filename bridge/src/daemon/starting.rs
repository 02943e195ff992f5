//! From a configuration to a member: what it needs is opened and started, in the order that keeps red from black.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::SystemTime;

use ipnet::IpNet;
use muster_certs::{Author, TrustStore};
use muster_dataplane::{Backend, EspConfig, KeyLedger, Running, enable_forwarding};
use tracing::{info, warn};

use super::outside::Outside;
use super::{Daemon, RunError, io_error};
use crate::addresses::{addresses, black_address, duplicates, interface_index, networks, red_prefixes};
use crate::check::warn_of;
use crate::clock::{now, unix_millis, unix_seconds};
use crate::engine::{Engine, Start};
use crate::event::{EventKind, Record};
use crate::expiry::Expiry;
use crate::lists;
use crate::pace::Pace;
use crate::plane::Plane;
use crate::settings::{File, Settings};
use crate::signals::Signals;
use crate::sockets::{Sockets, Where};
use crate::startup::next_stamp;
use crate::trust::Bounds;
use crate::watch::Watch;
use crate::worn::Worn;

impl Daemon {
    pub(super) fn start(settings: Settings, address: IpAddr, outside: Outside) -> Result<Daemon, RunError> {
        let file = &settings.file;
        let own = own_prefixes(file)?;
        let state_dir = settings.resolve(&file.device.state_dir);
        let stamp = next_stamp(&state_dir, SystemTime::now())
            .map_err(io_error(&format!("device.state_dir {}", state_dir.display())))?;
        let sockets =
            Sockets::open(&place_of(file, address)).map_err(io_error("cannot open the protocols' sockets"))?;
        let group_address = Some(file.group_address());
        let dataplane = start_dataplane(file, address, group_address, &own, &outside.ledger)?;
        let mut trust = settings.trust()?;
        lists::restore(&state_dir, &mut trust);
        let engine = Engine::new(start_of(&settings, trust, stamp, own.clone())?, now(), unix_seconds())?;
        warn_of(&settings);
        info!(device = %settings.device.name, member = %settings.device.member, %address, "started");
        let home = engine.discovery().own_identity().organisation.clone();
        let black = networks(&settings.file.black.interface);
        let bounds = Bounds::new(home, &settings.file.trust, own.clone(), black);
        let plane = Plane::new(dataplane, settings.file.group_address(), own.clone());
        let mut daemon = Daemon {
            outside,
            engine,
            plane,
            bounds,
            sockets,
            address,
            adrift: false,
            own_prefixes: own,
            expiry: Expiry::default(),
            member_since: BTreeMap::new(),
            epoch_since: unix_millis(),
            left: false,
            leaving: false,
            revoked: false,
            successor: None,
            unsent: 0,
            pace: Pace::default(),
            worn: Worn::default(),
            settings,
        };
        daemon.report(&Record { kind: EventKind::Blocked, member: None, epoch: 0, detail: String::new() });
        Ok(daemon)
    }
}

/// Starts the data plane of a router at this black address, and makes it a router, in the order that keeps red from black.
pub(crate) fn start_dataplane(
    file: &File,
    address: IpAddr,
    group_address: Option<IpAddr>,
    own: &[IpNet],
    ledger: &KeyLedger,
) -> Result<Running, RunError> {
    let config = EspConfig {
        device: file.dataplane.device.clone(),
        black_interface: file.black.interface.clone(),
        black_address: address,
        group_address,
        hop_limit: file.dataplane.hop_limit,
        copy_dscp: file.dataplane.copy_dscp,
        clear_df: file.red.clear_df,
        reds: file.red.interfaces.clone(),
        red_multicast: file.red.multicast.clone(),
        dynamic_membership: file.red.membership == "dynamic",
        own_prefixes: own.to_vec(),
        instance: file.dataplane.instance,
        workers: file.dataplane.workers,
        ledger: ledger.clone(),
    };
    // It was checked to be one.
    let backend = file.dataplane.backend.parse().unwrap_or(Backend::Auto);
    let running = muster_dataplane::start(backend, config)?;
    info!(backend = running.dataplane.backend(), reason = running.reason, "the data plane is chosen");
    // The tunnel's device is there now, and the red interfaces may have come up meanwhile.
    let wanted = file.block_config(own.to_vec());
    muster_dataplane::block(&wanted)?;
    muster_dataplane::unblock_others(&wanted)?;
    // Not before the block stands, on interfaces that are there: a slip of the pen makes no router of a machine.
    enable_forwarding(&file.black.interface)?;
    Ok(running)
}

pub(super) fn start_of(
    settings: &Settings,
    trust: TrustStore,
    stamp: u64,
    prefixes: Vec<IpNet>,
) -> Result<Start, RunError> {
    let file = &settings.file;
    let author = Author::new(
        settings.device.key.clone(),
        muster_keyagree::group_tag(&file.group.name),
        settings.device.member,
        stamp,
    );
    let mut seeds = [[0; 32]; 2];
    for seed in &mut seeds {
        // The system's own: the library's generator takes 70 ms of a core to begin with.
        getrandom::fill(seed).map_err(|error| io_error("random numbers")(error.into()))?;
    }
    let (discovery, keyagree) = times_of(file);
    Ok(Start { discovery, keyagree, author, chain: settings.device.chain.clone(), trust, seeds, prefixes })
}

pub(super) fn place_of(file: &File, address: IpAddr) -> Where<'_> {
    Where {
        interface: &file.black.interface,
        address,
        group: file.discovery.group,
        port: file.discovery.port,
        hop_limit: file.dataplane.hop_limit,
    }
}

/// What the two protocols are told of the configuration.
pub(super) fn times_of(file: &File) -> (muster_discovery::Config, muster_keyagree::Config) {
    let discovery =
        muster_discovery::Config { hello_interval: file.discovery.hello_interval, key_life: file.group.leaf_refresh };
    let keyagree = muster_keyagree::Config {
        name: file.group.name.clone(),
        hello_interval: file.discovery.hello_interval,
        batch_window: file.group.batch_window,
        activation_delay: file.group.activation_delay,
        deactivation_delay: file.group.deactivation_delay,
        lifetime: file.group.lifetime,
        leaf_refresh: file.group.leaf_refresh,
    };
    (discovery, keyagree)
}

/// The own red prefixes: as configured, or those of the red interfaces.
pub(crate) fn own_prefixes(file: &File) -> Result<Vec<IpNet>, RunError> {
    let red = &file.red;
    if !red.prefixes.is_empty() {
        return Ok(red.prefixes.iter().map(IpNet::trunc).collect());
    }
    red_prefixes(&red.interfaces).map_err(io_error("red.interfaces"))
}

/// Waits for an address on black that duplicate address detection has let through; `None`: told to end before.
pub(super) async fn first_address(
    file: &File,
    watch: &Watch,
    signals: &mut Signals,
) -> Result<Option<IpAddr>, RunError> {
    let (black, ipv4) = (&file.black, file.is_black_ipv4());
    let what = || io_error(&format!("black.interface {}", black.interface));
    let mut told = None;
    loop {
        interface_index(&black.interface).map_err(what())?;
        let all = addresses(&black.interface).map_err(what())?;
        if let Some(address) = black_address(&all, black.address, ipv4, None) {
            return Ok(Some(address));
        }
        let why = duplicates(&all);
        if told.as_ref() != Some(&why) {
            let why = why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
            warn!(interface = %black.interface, "waiting for a usable address{why}");
        }
        told = Some(why);
        tokio::select! {
            changed = watch.changed() => changed.map_err(io_error("watching the interfaces"))?,
            () = signals.end() => return Ok(None),
        }
    }
}
